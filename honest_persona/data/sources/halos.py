"""The feedback files of HALOs (github.com/ContextualAI/HALOs, train/label.py), as rows of feedback.

| `type` | columns |
| --- | --- |
| `binary_feedback` | `prompt`, `output`, `label` (1 desirable, 0 not) |
| `pairwise_feedback` | `prompt`, `output_A`, `output_B`, `label` (1: A is better), `reward_difference` |
| `scalar_feedback` | `prompt`, `output`, `reward` |

All have a `prompt_id`, and may have a `split`. A file is one JSON array.
"""

from collections.abc import Mapping
from typing import Any

from honest_persona.data.fields import Refused

_ENDING = "_feedback"
_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "binary_feedback": {"task": "prompt", "response": "output", "label": "label"},
    "pairwise_feedback": {"task": "prompt", "chosen": "output_A", "rejected": "output_B", "label": "label"},
    "scalar_feedback": {"task": "prompt", "response": "output", "score": "reward"},
}
_OPTIONAL = {"prompt_id": "prompt_id", "split": "split", "margin": "reward_difference"}


def halos_row(row: dict[str, Any], place: str) -> tuple[dict[str, Any], dict[str, str]] | None:
    """The row, its label as true or false, and our names of its columns; None for a row of another form.

    Raises:
        Refused: a feedback type that HALOs does not write, a column that is missing, or a label other than 1 and 0.
    """
    kind = row.get("type")
    if not isinstance(kind, str) or not kind.endswith(_ENDING):
        return None
    if kind not in _COLUMNS:
        raise Refused(f"{place}, type", "type", "unknown_feedback", f"the type {kind[:40]!r} is none of HALOs' own")
    names = dict(_COLUMNS[kind])
    for theirs in names.values():
        if row.get(theirs) is None:
            raise Refused(place, theirs, f"missing_field:{theirs}")
    names |= {ours: theirs for ours, theirs in _OPTIONAL.items() if row.get(theirs) is not None}
    if "label" in names:
        if row["label"] not in (0, 1):
            raise Refused(f"{place}, label", "label", "label_not_bool", "HALOs writes 1 or 0")
        row = {**row, "label": bool(row["label"])}
    if kind == "pairwise_feedback":
        if not row["label"]:
            names |= {"chosen": names["rejected"], "rejected": names["chosen"]}
        del names["label"]
    else:
        names.pop("margin", None)
    return row, names
