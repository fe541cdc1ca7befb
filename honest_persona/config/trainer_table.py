"""The fields of TRL's config classes, their types and their choices, as a table: importing TRL takes seconds.

`trainer_fields.json` was made from the versions of TRL and transformers that it names. Where others are installed, the
class itself is asked. `python -m honest_persona.config.trainer_table` makes the table again.
"""

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from functools import cache, reduce
from importlib.metadata import version
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple

from honest_persona.base import json_text
from honest_persona.base.files import write_text
from honest_persona.config.trainer_options import TrainerOptions, objectives, options_of

PATH = Path(__file__).with_name("trainer_fields.json")
_LIBRARIES = ("transformers", "trl")


class FieldType(NamedTuple):
    hint: Any
    choices: tuple[str, ...]
    """of a field of type text; empty where every text will do"""


@dataclasses.dataclass
class _Foreign:
    """A type of a library, which no value of a config file has."""


_NAMES: Mapping[str, Any] = {
    "None": type(None),
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "dict": dict,
    "dict[str, Any]": dict[str, Any],
    "dict[str, bool]": dict[str, bool],
    "list[str]": list[str],
    "False": typing.Literal[False],
    "list[foreign]": list[_Foreign],
    "foreign": _Foreign,
}
"""Parts of a type, as the table names them."""


@cache
def fields_of(options: TrainerOptions) -> dict[str, FieldType]:
    """The fields of the config class by name, from a whole table of the installed libraries."""
    try:
        table = json_text.loads(PATH.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # without the table a check is slower, and no less right
        table = {}
    if options.config_class not in table or table.get("made from") != _installed():
        return live_fields(options)
    return {
        name: FieldType(reduce(or_, [_NAMES[part] for part in hint.split(" | ")]), tuple(choices))
        for name, (hint, *choices) in table[options.config_class].items()
    }


def live_fields(options: TrainerOptions) -> dict[str, FieldType]:
    """The fields of the config class by name, from the class itself. Imports TRL."""
    found = options.load_class()
    hints = typing.get_type_hints(found)
    return {
        field.name: FieldType(hint, tuple(field.metadata.get("choices", ())) or _enum_values(hint))
        for field in dataclasses.fields(found)
        if field.init
        for hint in [hints[field.name]]
    }


def made_table() -> str:
    """The text of the table, from the installed libraries. Imports TRL."""
    parts = [f'"made from": {json_text.dumps(_installed())}']
    for options in {options_of(name).config_class: options_of(name) for name in objectives()}.values():
        lines = [
            f"    {json_text.dumps(name)}: {json_text.dumps([_name(field.hint), *field.choices])}"
            for name, field in live_fields(options).items()
        ]
        parts.append(f"{json_text.dumps(options.config_class)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n  " + ",\n  ".join(parts) + "\n}\n"


def _installed() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


def _name(hint: Any) -> str:
    """Enums are left out of a union: their values come as text, and stand among the choices."""
    names = {kind: name for name, kind in _NAMES.items()}
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    foreign = ["list[foreign]" if typing.get_origin(part) is list else "foreign" for part in parts]
    return " | ".join(names.get(part, other) for part, other in zip(parts, foreign, strict=True) if not is_enum(part))


def is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _enum_values(hint: Any) -> tuple[str, ...]:
    return tuple(member.value for part in typing.get_args(hint) if is_enum(part) for member in part)


if __name__ == "__main__":
    write_text(PATH, made_table())
