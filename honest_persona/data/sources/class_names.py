"""The names of labels that datasets keeps as numbers (ClassLabel): which number is which stands beside the rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from honest_persona.base import json_text
from honest_persona.data.rejections import Outcome
from honest_persona.data.sources.source import RowForm

if TYPE_CHECKING:
    import pyarrow as pa

Names = Mapping[str, tuple[str, ...]]
"""column -> the name of each number, from 0 on"""
_METADATA = b"huggingface"


class ClassName(str):
    """A class label by its name, which still knows its number."""

    number: int

    def __new__(cls, name: str, number: int) -> "ClassName":
        made = super().__new__(cls, name)
        made.number = number
        return made


def names_of(features: Any) -> dict[str, tuple[str, ...]]:
    """By the features of a dataset, as datasets writes them as JSON; what is no class label is left out."""
    found = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            found[column] = tuple(names)
    return found


def names_in(schema: "pa.Schema") -> dict[str, tuple[str, ...]]:
    """By what datasets writes into the schema of a Parquet or Arrow file."""
    try:
        return names_of(json_text.loads((schema.metadata or {})[_METADATA])["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}  # not written by datasets


def names_in_card(card: Mapping[str, Any], config: str | None) -> dict[str, tuple[str, ...]]:
    """By `dataset_info` in the YAML head of a dataset card."""
    given = card.get("dataset_info")
    infos = [info for info in (given if isinstance(given, list) else [given]) if isinstance(info, Mapping)]
    of_config = [info for info in infos if config is None or info.get("config_name", config) == config]
    features = of_config[0].get("features") if of_config else None
    found = {}
    for feature in features if isinstance(features, list) else ():
        try:
            names = feature["dtype"]["class_label"]["names"]
            by_number = {int(number): name for number, name in (names if names else {}).items()}
            found[str(feature["name"])] = tuple(str(by_number[number]) for number in range(len(by_number)))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # no class label
    return found


def named(row: dict[str, Any], names: Names) -> dict[str, Any]:
    """The row with names in place of its numbers; -1 is a label that is missing."""
    return {**row, **{column: _name(row[column], names[column]) for column in names if column in row}}


@dataclass(frozen=True)
class WithNames:
    """A row form for rows whose class labels are numbers."""

    form: RowForm
    names: tuple[tuple[str, tuple[str, ...]], ...]

    def __call__(self, row: Any, file: str, place: str) -> Outcome:
        return self.form(named(row, dict(self.names)) if isinstance(row, dict) else row, file, place)


def _name(value: Any, names: tuple[str, ...]) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value == -1:
        return None
    return ClassName(names[value], value) if 0 <= value < len(names) else value
