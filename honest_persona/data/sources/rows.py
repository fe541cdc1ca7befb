"""The row form of this package's own files: a record's own columns.

A row form gets (row, file, place) from any reader and gives a `Candidate` or a `Rejection`. Columns that it does not
use stand in the `ignored` of both.
"""

from collections.abc import Mapping
from typing import Any

from honest_persona.base.words import VARIANTS
from honest_persona.data.conversation import Conversation, conversation
from honest_persona.data.fields import (
    SPLITS,
    Refused,
    checked,
    checked_throughout,
    flag_of,
    get,
    name_of,
    one_of,
    optional_text,
    tags_of,
    unpacked,
)
from honest_persona.data.messages import ANSWER_FIELDS
from honest_persona.data.records import Record, item_hash, strip_marker
from honest_persona.data.rejections import Candidate, Outcome, without_defect

_OPTIONAL_COLUMNS = ("item_id", "variant", "other_system", "difficulty", "group", "split")
_CONVERSATION_COLUMNS = {"turns": list, "answer_fields": dict, "tools": list}
"""Optional columns that are no texts: what a conversation holds beside system prompt, task and response."""
_NAMES = ("id", "item_id", "group")
"""Columns that may hold whole numbers."""
COLUMNS = frozenset(Record.model_fields)
"""What the row forms read."""


def nested(owner: Mapping[str, Any], column: str, kind: type, place: str) -> Any:
    """A list of objects, or an object, checked throughout; None where the row has none."""
    if owner.get(column) is None:
        return None
    here = f"{place}, {column}"
    value = checked_throughout(checked(unpacked(owner[column]), kind, here, column), here, column)
    for index, element in enumerate(value if kind is list else ()):
        checked(element, dict, f"{here}[{index}]", column)
    return value


def parse_record_row(row: Any, file: str, place: str) -> Outcome:
    """One row with a Record's columns; the columns of `_OPTIONAL_COLUMNS` may be absent."""
    record_id, ignored = None, ()
    try:
        given = checked(row, dict, place, "row")
        ignored = tuple(column for column in given if column not in Record.model_fields)
        values = {column: given[column] for column in Record.model_fields if column in given}
        for column in (*_OPTIONAL_COLUMNS, *_CONVERSATION_COLUMNS):
            if values.get(column) == "" and (column, given.get("variant")) != ("other_system", "B"):
                values[column] = None  # an empty cell of a table
        record_id = values["id"] = name_of(values, "id", place, sep=", ")
        for column in Record.model_fields:
            if column in _OPTIONAL_COLUMNS:
                if values.get(column) is not None and column in _NAMES:
                    values[column] = name_of(values, column, place, sep=", ")
                values[column] = optional_text(values, column, place, sep=", ")
            elif column in _CONVERSATION_COLUMNS:
                values[column] = nested(values, column, _CONVERSATION_COLUMNS[column], place)
            elif column != "tags":
                get(values, column, str, place, sep=", ")
        values["tags"] = tags_of(values, place, sep=", ")
        values["flag"] = flag_of(values["flag"])
        one_of((*VARIANTS, None), values["variant"], f"{place}, variant", "variant")
        one_of(SPLITS, values["split"], f"{place}, split", "split")
        system, other = values["system"], values["other_system"]
        if values["variant"] == "B":
            system, other = checked(other, str, f"{place}, other_system", "other_system"), system
        item_id = item_hash(system, other, values["task"])
        if any(values[column] is not None for column in _CONVERSATION_COLUMNS):
            values |= _sound_conversation(values, place)
    except Refused as refused:
        return refused.rejection(file, record_id)._replace(ignored=ignored)
    values |= {"item_id": values["item_id"] or item_id, "intervention": strip_marker(values["intervention"])}
    return without_defect(Candidate(file, place, values, ignored=ignored))


def _sound_conversation(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The columns of a conversation that is more than a question and its answer, of the form that templates take."""
    asked = values["turns"] if values["turns"] is not None else [{"role": "user", "content": values["task"]}]
    answer = {**(values["answer_fields"] or {}), "role": "assistant", "content": values["response"]}
    found = conversation({"messages": [*asked, answer], "tools": values["tools"]})
    if not isinstance(found, Conversation):
        raise Refused(f"{place}, turns", "turns", f"bad_conversation:{found[0].kind}", str(found[0]))
    *turns, last = found.messages
    fields = {name: value for name, value in last.items() if name in ANSWER_FIELDS}
    return {
        "turns": None if values["turns"] is None else tuple(turns),
        "answer_fields": fields or None,
        "tools": None if found.tools is None else tuple(found.tools),
    }
