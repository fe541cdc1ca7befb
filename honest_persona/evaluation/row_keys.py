"""The flags `--columns` and `--flag_values`, with the meaning of the config's keys: how rows of other data are read."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from honest_persona.base.console import one_line, tell
from honest_persona.base.errors import UserError
from honest_persona.config.own_rows import ROW_KEYS
from honest_persona.config.parsing import read_arguments
from honest_persona.modeling.adapters.card import AdapterCard

FLAGS = ("columns", "flag_values")


def row_keys(columns: str | None, flag_values: str | None) -> dict[str, Any]:
    """The values of the flags that are given, as YAML. Raises UserError: wrong ones."""
    given = {name: text for name, text in zip(FLAGS, (columns, flag_values), strict=True) if text is not None}
    entries, problems = read_arguments([f"--{name}={text}" for name, text in given.items()])
    errors = list(map(str, problems))
    values: dict[str, Any] = {}
    for entry in entries:
        try:
            kind: Any = ROW_KEYS[entry.key]
            values[entry.key] = TypeAdapter(kind).validate_python(entry.value)
        except ValidationError as error:
            errors.append(f"--{entry.key}: {error.errors()[0]['msg'].removeprefix('Value error, ')}")
    if errors:
        raise UserError("\n".join(errors))
    return values


def keys_for(card: AdapterCard, dataset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """How the rows of `dataset` are read: the adapter's own data as in its training, other data as is given.

    Raises UserError: another reading of the adapter's own data, whose split by item would then be another one too.
    """
    trained = {name: card.config.get(name) or {} for name in FLAGS}
    if dataset == card.config["dataset"]:
        for name, value in given.items():
            if value != trained[name]:
                raise UserError(
                    f"--{name}: {dataset} is the adapter's own data, and read otherwise its held-out items would be "
                    f"others than in the training; leave --{name} out"
                )
        return trained
    if left := [name for name in FLAGS if trained[name] and name not in given]:
        flags = " and ".join(f"--{name}" for name in left)
        tell(f"note: {' and '.join(left)} of the training are for its own data; for {one_line(dataset)} give {flags}")
    return {name: given.get(name, {}) for name in FLAGS}
