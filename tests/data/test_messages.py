"""A transcript has an id of its own, by content."""

import hashlib

from honest_persona.data.messages import transcript, transcript_id
from tests.tiny import record


def test_the_id_is_that_of_the_messages():
    messages = transcript("Be kind.", [{"role": "user", "content": "Is it flat?"}], "Yes.")
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    written = '[["system", "Be kind."], ["user", "Is it flat?"], ["assistant", "Yes."]]'
    assert transcript_id(messages) == hashlib.sha256(written.encode()).hexdigest()[:16]
    assert transcript_id([dict(reversed(m.items())) for m in messages]) == transcript_id(messages)
    assert transcript_id(transcript(" ", messages[1:2], "Yes.")) == transcript_id(messages[1:]), "no system prompt"


def test_records_of_one_transcript_share_the_id_and_copies_with_another_text_do_not():
    r = record(0)
    assert r.transcript_id == r.model_copy(update={"intervention": "Why?", "review": "So.", "id": "x"}).transcript_id
    for name in ("system", "task", "response"):
        assert r.model_copy(update={name: "Something else."}).transcript_id != r.transcript_id


def test_other_turns_calls_and_tools_make_another_transcript():
    r = record(0)
    earlier = ({"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."})
    same = r.model_copy(update={"turns": ({"role": "user", "content": r.task},)})
    assert same.messages() == r.messages()
    assert same.transcript_id == r.transcript_id
    others = [
        {"turns": (*earlier, {"role": "user", "content": r.task})},
        {"answer_fields": {"reasoning_content": "Hm."}},
        {"tools": ({"type": "function", "function": {"name": "clock"}},)},
    ]
    assert len({r.transcript_id, *(r.model_copy(update=other).transcript_id for other in others)}) == 4
