"""The splits of a dataset, by the names of its files or as the dataset names them, and what they mean for training."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from honest_persona.base.errors import UserError
from honest_persona.data.rejections import Outcome
from honest_persona.data.sources.source import AsItIs, RowForm

T = TypeVar("T")

_TRAIN, _HELD_OUT = r"train(?:ing)?", r"validation|valid|val|dev|test(?:ing)?|eval(?:uation)?"
_SHARD = re.compile(r"[-._]\d+[-._]of[-._]\d+$")
_AT_END = re.compile(rf"(?:.*[-._])?({_TRAIN}|{_HELD_OUT})(?:[-._]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class InSplit:
    """A row form for rows of a split: what the split means is a row's `split`, where the row does not name its own.

    Ids that are numbers begin anew in each split, so the split's name is put before them.
    """

    form: RowForm
    part: str
    split: str

    def __call__(self, row: Any, file: str, place: str) -> Outcome:
        if isinstance(row, dict) and not row.get("split"):
            row = {**row, "split": self.part}
        if isinstance(row, dict) and type(row.get("id")) is int:
            row = {**row, "id": f"{self.split}:{row['id']}"}
        return self.form(row, file, place)


def split_of(path: Path, root: Path) -> str:
    """The split that a file's name says (as train-00000-of-00002), or else a folder's; "" where none does."""
    stem = path.name.split(".")[0] if not path.name.startswith(".") else path.name
    if _SHARD.search(stem):
        return _SHARD.sub("", stem)
    for name in (stem, *(folder.name for folder in path.relative_to(root).parents)):
        if found := _AT_END.fullmatch(name):
            return found[1].lower()
    return ""


def parts_of(splits: Mapping[str, Any]) -> dict[str, str | None]:
    """What each split is for: train or validation; None, the seeded split, unless there are splits of both kinds."""
    parts = {split: _part(split) for split in splits}
    if not {"train", "validation"} <= set(parts.values()):
        return dict.fromkeys(splits)
    return parts


def form_of(form: RowForm, part: str | None, split: str) -> RowForm:
    return form if part is None or isinstance(form, AsItIs) else InSplit(form, part, split)


def _part(split: str) -> str | None:
    for part, words in (("train", _TRAIN), ("validation", _HELD_OUT)):
        if re.match(rf"(?:{words})(?:[-._\d]|$)", split, re.IGNORECASE):
            return part
    return None


def chosen_split(dataset: str, splits: Mapping[str, T], chosen: Sequence[str]) -> Mapping[str, T]:
    """All splits, or the one that is asked for. Raises UserError: there is no such split."""
    if not chosen:
        return splits
    if len(chosen) > 1 or chosen[0] not in splits:
        named = [split for split in splits if split]
        there = f"its splits are {', '.join(named)}" if named else "it has no splits or configs: leave the name out"
        raise UserError(f"dataset {dataset!r}: there is no {':'.join(chosen)!r}; {there}")
    return {chosen[0]: splits[chosen[0]]}
