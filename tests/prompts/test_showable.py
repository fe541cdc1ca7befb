"""Conversations that a chat template cannot show are left out with the first reason; the others stay."""

import pytest

from honest_persona.data.kept import Records
from honest_persona.data.records import Record
from honest_persona.prompts.showable import showable
from tests.tiny import form_of, record

USER, ANSWER = {"role": "user", "content": "Is it locked?"}, {"role": "assistant", "content": "It is."}
CALL = {"type": "function", "function": {"name": "look", "arguments": {}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def records():
    calls = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    agent = record(1, turns=(USER, calls, {"role": "tool", "content": "open"}), tools=(TOOL,))
    return Records.of([record(0), agent, record(2, turns=(USER, ANSWER, USER))])


def test_what_the_template_cannot_show_is_left_out(records):
    found = showable(records, form_of())
    assert ([r.id for r in found.records], found.refused) == (["r0", "r2"], 1)
    assert found.why.startswith("r1: ")
    assert "tools_as_text: true" in found.why


def test_as_text_every_template_shows_it(records):
    found = showable(records, form_of(tools_as_text=True))
    assert (found.records, found.refused, found.why) == (records, 0, "")
    assert found.records is records


def test_plain_records_are_not_even_read(monkeypatch):
    plain = Records.of([record(0), record(1)])
    monkeypatch.setattr(Record, "model_validate_json", None)
    assert showable(plain, form_of()).records is plain
