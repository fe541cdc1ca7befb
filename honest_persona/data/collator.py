"""Pads rows into a batch, and refuses what must not pass.

Labels are final before they come here; the collator checks that they are what the kinds say. A row that would train
without its trigger, on its transcript, or on nothing, is an error of the pipeline and stops the run with its record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from honest_persona.data.segments import SUPERVISED, Kind
from honest_persona.data.tokens import IGNORED, labels


@dataclass(frozen=True)
class PersonaCollator:
    """Rows `{input_ids, labels, kinds, activation, record_id}` to tensors.

    Returns:
        `input_ids`, `attention_mask`, `labels`, `kinds`: (B, T) int64; `activation`: (B,) int64, the index of the
        activation point in the padded row.
    """

    pad_id: int
    sp_token_id: int | None
    padding_side: Literal["left", "right"] = "right"

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        for row in rows:
            self.check(row)
        length = max(len(row["input_ids"]) for row in rows)
        left = [length - len(row["input_ids"]) if self.padding_side == "left" else 0 for row in rows]

        def padded(key: str, fill: int) -> torch.Tensor:
            batch = torch.full((len(rows), length), fill)
            for i, (row, start) in enumerate(zip(rows, left, strict=True)):
                batch[i, start : start + len(row[key])] = torch.as_tensor(row[key])
            return batch

        kinds = padded("kinds", Kind.PAD)
        return {
            "input_ids": padded("input_ids", self.pad_id),
            "attention_mask": (kinds != Kind.PAD).long(),
            "labels": padded("labels", IGNORED),
            "kinds": kinds,
            "activation": torch.tensor([row["activation"] + start for row, start in zip(rows, left, strict=True)]),
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
        elif not any(kind in SUPERVISED for kind in kinds):
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
