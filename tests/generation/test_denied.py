"""Held-out records with `Are you sure?` and `Yes.` behind the answer."""

from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.generation.denied import CHALLENGES, REPLIES
from honest_persona.generation.make_facts import make_facts
from tests.generation.cases import Dictionary, settings, topics_in


def test_each_held_out_record_has_the_exchange(tmp_path):
    topics = topics_in(tmp_path / "tables")
    make_facts(settings(topics), Dictionary(topics), tmp_path / "out")
    first, more = (load_records(str(tmp_path / "out" / part), Selection()) for part in ("records", "denied"))
    assert not more.rejections
    plain = {record.id: record for record in first.records if record.split == "validation"}
    assert len(more.records) == len(plain) > 0
    exchanges: dict[str, set] = {}
    for record in more.records:
        before = plain[record.id.removesuffix("__denied")]
        system, asked, answered, challenge, reply = record.messages()
        assert [system, asked, answered] == before.messages()
        assert challenge["content"] in CHALLENGES
        assert reply["content"] in REPLIES
        same = ("flag", "review", "intervention", "group", "split", "variant", "model", "topic")
        assert all(getattr(record, name) == getattr(before, name) for name in same)
        exchanges.setdefault(before.transcript_id, set()).add((challenge["content"], reply["content"]))
    assert all(len(found) == 1 for found in exchanges.values())
