"""Rows of feedback that are pairs, by the reader of sources/feedback.py."""

import pytest

from honest_persona.base.errors import UserError
from tests.data.choices.files import read, written


def test_pairs_of_texts_and_of_messages(tmp_path):
    rows = [
        {"id": "r1", "group": "g", "topic": "doors", "prompt": "Open?", "chosen": "Yes.", "rejected": "No."},
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Shut?"}],
            "chosen": [{"role": "assistant", "content": "No."}],
            "rejected": [{"role": "assistant", "content": "Yes."}],
        },
    ]
    first, second = read("pairs", written(tmp_path / "mine.jsonl", rows))
    assert (first.record_id, first.cluster, first.topic, first.right) == ("r1", "g", "doors", (True, False))
    assert [message["role"] for message in second.messages] == ["system", "user"]


def test_tools_stand_in_the_question(tmp_path):
    tool = {"type": "function", "function": {"name": "door", "description": "Opens it.", "parameters": {}}}
    rows = [{"prompt": "Open?", "chosen": "Yes.", "rejected": "No.", **more} for more in ({"tools": [tool]}, {})]
    with_tools, without = read("pairs", written(tmp_path / "mine.jsonl", rows))
    assert (with_tools.tools, without.tools) == ((tool,), None)
    assert with_tools.prompt_id != without.prompt_id


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a?", "response": "b", "label": True}, "a label, and no pair: give `chosen` and `rejected`"),
        ({"prompt": "a?"}, "a prompt, and no pair"),
        ({"prompt": "a?", "chosen": "b", "rejected": "b"}, "equal_answers"),
        ({"prompt": "a?", "responses": {"b": 1, "c": 0}}, "It looks like genies's format: genies:"),
    ],
)
def test_what_is_refused(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        read("pairs", written(tmp_path / "mine.jsonl", [row]))
