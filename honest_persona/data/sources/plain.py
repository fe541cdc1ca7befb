"""Rows as they are, with whatever columns they have: the form of `prepare`, which makes texts of them.

table = PlainTable.of("user/qnli:train")        # JSONL, CSV, Parquet, what save_to_disk wrote, the Hub
table.columns                                   # {"question": 100, "label": 100}
table.row(3), table.place(3)                    # {"question": "...", "label": 0}, "data.jsonl, line 4"
"""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.spool import Spool
from honest_persona.data.fields import Refused, checked, checked_throughout
from honest_persona.data.rejections import Candidate, Outcome, Rejection
from honest_persona.data.sources.class_names import ClassName
from honest_persona.data.sources.find import find_source
from honest_persona.data.sources.source import AsItIs


@dataclass(frozen=True)
class PlainRows(AsItIs):
    """A row form that keeps all columns. A column's NaN, which stands for an absent number in many files, is null."""

    def __call__(self, row: Any, file: str, place: str) -> Outcome:
        try:
            given = {
                checked(name, str, place, "key"): None if isinstance(value, float) and math.isnan(value) else value
                for name, value in checked(row, dict, place, "row").items()
            }
            for name, value in given.items():
                checked_throughout(value, f"{place}, {name}", name)
        except Refused as refused:
            return refused.rejection(file)
        return Candidate(file, place, {"topic": "", "model": "", "row": given})


class PlainTable:
    """The rows of a dataset, as JSON in memory or in a mapped file. Class labels are numbers, as in datasets."""

    def __init__(
        self,
        rows: Sequence[bytes],
        places: Sequence[str],
        columns: Mapping[str, int],
        class_names: Mapping[str, Mapping[int, str]],
        rejections: Sequence[Rejection],
    ) -> None:
        self._rows, self._places = rows, places
        self.columns = columns
        """The number of rows that have the column."""
        self.class_names = class_names
        """column -> number -> name, of columns whose numbers have names"""
        self.rejections = rejections

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> dict[str, Any]:
        return json_text.loads(self._rows[index])

    def place(self, index: int) -> str:
        """File and line or row, for messages."""
        return self._places[index]

    @classmethod
    def of(cls, dataset: str) -> "PlainTable":
        """Raises UserError: there is no such dataset, it has no rows, or it consists of stage-3 files."""
        source = find_source(dataset, PlainRows())
        if source.batch_files is not None:
            raise UserError(f"dataset {dataset!r} consists of stage-3 files, which have no columns; give rows")
        ends, places = array("q", [0]), []
        columns: Counter[str] = Counter()
        names: defaultdict[str, dict[int, str]] = defaultdict(dict)
        rejections: list[Rejection] = []
        with Spool() as spool:
            for outcome in source.outcomes():
                if isinstance(outcome, Rejection):
                    rejections.append(outcome)
                    continue
                row = outcome.values["row"]
                for name, value in row.items():
                    if isinstance(value, ClassName):
                        names[name][value.number] = str(value)
                        row = {**row, name: value.number}
                columns.update(row.keys())
                spool.write(json_text.dumps(row, default=str).encode())
                ends.append(spool.size_bytes)
                places.append(f"{outcome.file}, {outcome.place}")
        if not places:
            first = f" (the first: {rejections[0].place}, {rejections[0].reason})" if rejections else ""
            raise UserError(f"dataset {dataset!r} has no row that can be read{first}")
        return cls(_Slices(spool.view(), ends), places, columns, dict(names), rejections)


class _Slices(Sequence[bytes]):
    """Pieces of one block of bytes."""

    def __init__(self, block: Any, ends: Sequence[int]) -> None:
        self._block, self._ends = block, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        return bytes(self._block[self._ends[index] : self._ends[index + 1]])
