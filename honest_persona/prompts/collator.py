"""Pads rows into a batch, and refuses rows that must not be trained on.

The labels of a row are final before the collator gets it; the collator checks that they follow from the kinds. A row
that would train without its trigger, on its transcript, or on nothing, is an error of the pipeline: the run stops and
names the record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from honest_persona.base.tensors import integers, pad, pad_with_mask
from honest_persona.prompts.kinds import SUPERVISED, Kind
from honest_persona.prompts.tokens import IGNORED, TokenFormat, labels

Batch = dict[str, Any]


@dataclass(frozen=True)
class PersonaCollator:
    """Rows `{input_ids, labels, kinds, activation, prefix_key, record_id}` to tensors of whole sequences.

    Returns:
        `input_ids`, `attention_mask`, `labels`, `kinds`: (B, T) int64, right-padded; `activation`: (B,) int64, the
        index of the activation point; `record_ids`: B names.
    """

    pad_id: int
    sp_token_id: int | None

    @classmethod
    def of(cls, form: TokenFormat) -> Self:
        return cls(form.pad_id, form.persona.sp_token_id)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        for row in rows:
            self.check(row)
        starts = [0] * len(rows)
        return {**self._padded(rows, starts), "activation": integers([row["activation"] for row in rows])}

    def _padded(self, rows: Sequence[Mapping[str, Any]], starts: Sequence[int]) -> Batch:
        """The batch of each row's tokens from its start in `starts` on."""

        def padded(key: str, fill: int) -> torch.Tensor:
            return pad([row[key][start:] for row, start in zip(rows, starts, strict=True)], fill, "right")

        kinds = padded("kinds", Kind.PAD)
        return {
            "input_ids": padded("input_ids", self.pad_id),
            "attention_mask": (kinds != Kind.PAD).long(),
            "labels": padded("labels", IGNORED),
            "kinds": kinds,
            "record_ids": [row["record_id"] for row in rows],
        }

    def check(self, row: Mapping[str, Any]) -> None:
        """Raises:
        ValueError: the trigger is missing, doubled or not where the row says; a label before the trigger or other than
            the kinds say; no supervised token. Names the record.
        """
        ids, kinds, activation = list(row["input_ids"]), list(row["kinds"]), row["activation"]
        problem = None
        if not len(ids) == len(kinds) == len(row["labels"]):
            problem = "ids, kinds and labels differ in length"
        elif list(row["labels"]) != labels(ids, kinds):
            problem = "the labels are not what the kinds of the tokens say"
        elif not any(kind in SUPERVISED for kind in kinds) and not row.get("blank"):
            problem = "no token carries loss"
        elif any(kind in SUPERVISED for kind in kinds[: activation + 1]):
            problem = "there is loss before the review"
        elif Kind.INTERVENTION not in kinds:
            problem = "there is no intervention"
        elif self.sp_token_id is not None and [i for i, t in enumerate(ids) if t == self.sp_token_id] != [activation]:
            problem = f"the persona token {self.sp_token_id} does not stand exactly once, at the activation point"
        elif self.sp_token_id is None and kinds.index(Kind.INTERVENTION) != activation:
            problem = "the activation point is not the first token of the intervention"
        if problem:
            raise ValueError(f"record {row['record_id']!r}: {problem}")


class SplitCollator(PersonaCollator):
    """The same rows, cut at their activation points: each distinct prefix once, and every row's suffix.

    Returns:
        `prefix_ids`, `prefix_mask`: (U, P) int64, left-padded; `prefix_keys`: U hashes of the prefixes' ids;
        `prefix_index`: (B,) int64, the prefix that each row stands on;
        `input_ids`, `attention_mask`, `labels`, `kinds`: (B, S) int64 of the suffixes, right-padded;
        `record_ids`: B names.
    """

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        for row in rows:
            self.check(row)
        keys = [row["prefix_key"] for row in rows]
        prefixes = {key: row["input_ids"][: row["activation"]] for key, row in zip(keys, rows, strict=True)}
        order = {key: i for i, key in enumerate(prefixes)}
        prefix_ids, prefix_mask = pad_with_mask(list(prefixes.values()), self.pad_id, "left")
        return {
            **self._padded(rows, [row["activation"] for row in rows]),
            "prefix_ids": prefix_ids,
            "prefix_mask": prefix_mask,
            "prefix_keys": list(prefixes),
            "prefix_index": integers([order[key] for key in keys]),
        }

    def check(self, row: Mapping[str, Any]) -> None:
        super().check(row)
        if row["activation"] < 1:
            raise ValueError(f"record {row['record_id']!r}: nothing stands before the trigger")
