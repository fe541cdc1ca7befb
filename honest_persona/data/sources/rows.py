"""Rows with a Record's own columns, from JSON Lines or the Hub."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from honest_persona.base.words import VARIANTS
from honest_persona.data.fields import SPLITS, Refused, checked, get, one_of, optional_text, tags_of
from honest_persona.data.records import Record, item_hash, strip_marker
from honest_persona.data.rejections import Candidate, Outcome, without_defect
from honest_persona.data.sources.source import Source

_OPTIONAL_COLUMNS = ("item_id", "other_system", "difficulty", "group", "split")
_CONVERSATION_COLUMNS = {"turns": list, "answer_fields": dict, "tools": list}
"""Optional columns that are no texts: what a conversation holds beside system prompt, task and response."""


def rows_source(dataset: str, outcomes: Sequence[Outcome]) -> Source:
    topics = Counter(outcome.values["topic"] for outcome in outcomes if isinstance(outcome, Candidate))
    return Source(outcomes, topics, dataset)


def parse_row(row: Any, file: str, place: str) -> Outcome:
    """One row with a Record's columns; the columns of `_OPTIONAL_COLUMNS` may be absent."""
    record_id = None
    try:
        values = dict(checked(row, dict, place, "row"))
        record_id = get(values, "id", str, place, sep=", ")
        for column in Record.model_fields:
            if column in _OPTIONAL_COLUMNS:
                values[column] = optional_text(values, column, place, sep=", ")
            elif column in _CONVERSATION_COLUMNS:
                if values.setdefault(column, None) is not None:
                    get(values, column, _CONVERSATION_COLUMNS[column], place, sep=", ")
            else:
                get(values, column, list if column == "tags" else str, place, sep=", ")
        for column in values:
            if column not in Record.model_fields:
                checked(column, str, f"{place}, {column!r}", "key")
                raise Refused(f"{place}, {column}", column, f"unknown_field:{column}")
        values["tags"] = tags_of(values, place, sep=", ")
        one_of(VARIANTS, values["variant"], f"{place}, variant", "variant")
        one_of(SPLITS, values["split"], f"{place}, split", "split")
        system, other = values["system"], values["other_system"]
        if values["variant"] == "B":
            system, other = checked(other, str, f"{place}, other_system", "other_system"), system
        item_id = item_hash(system, other, values["task"])
        if values["item_id"] not in (None, item_id):
            raise Refused(f"{place}, item_id", "item_id", "item_id_mismatch")
    except Refused as refused:
        return refused.rejection(file, record_id)
    values |= {"item_id": item_id, "intervention": strip_marker(values["intervention"])}
    return without_defect(Candidate(file, place, values))
