"""Files of questions whatever their format: what is refused before a model is loaded, names, a seeded choice."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config import ood
from honest_persona.config.ood import checked_entries, ood_entries
from honest_persona.data.choices.read import FORMS, read_ood
from tests.data.choices.files import read, written
from tests.data.choices.test_caa import ROW as CAA
from tests.data.choices.test_genies import ROW as GENIES
from tests.data.choices.test_model_written import WORDS
from tests.data.choices.test_truthful_qa import ROW as TRUTHFUL_QA

PAIR = {"prompt": "Open?", "chosen": "Yes.", "rejected": "No."}
ROWS = {"genies": GENIES, "truthful_qa": TRUTHFUL_QA, "model_written": WORDS, "caa": CAA, "pairs": PAIR}


def test_every_format_has_a_reader():
    assert set(FORMS) == set(ood.FORMATS) == set(ROWS)


@pytest.mark.parametrize("named", ROWS)
@pytest.mark.parametrize("true", ROWS)
def test_a_file_of_another_format_is_told(tmp_path, named, true):
    path = written(tmp_path / "a.json", [ROWS[true]])
    if named == true or (named, true) == ("model_written", "caa"):
        assert len(read(named, path)) == 1
        return
    with pytest.raises(UserError, match=rf"It looks like {true}'s format: {true}:.*a\.json"):
        read(named, path)


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty_file"),
        (b"[]", "there is no question in it"),
        ("[{'a': 1}]".encode("utf-16"), "malformed_json"),
        (b'[{"question": "Stra\xdfe"}]', "not_utf8.*Save the file as UTF-8"),
        (b"PK\x03\x04 and more", "zip archive"),
        (b'[{"question": ', "malformed_json"),
        (b'["text"]', "wrong_type"),
        (b'[{"colour": "red"}]', None),
    ],
)
def test_files_that_cannot_be_read(tmp_path, form, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"(?s)a\.json.*{message or ''}"):
        read(form, path)


def test_a_path_that_is_not_there():
    with pytest.raises(UserError, match=r"ood: dataset .nowhere\.json. does not exist"):
        read("genies", "nowhere.json")
    with pytest.raises(UserError, match="stage-3 files, which hold no questions"):
        read("caa", "builtin:sample")


def test_names():
    (entry,) = ood_entries(["mine=genies:a/b.json"])
    assert (entry.name, entry.part, entry.format, entry.dataset) == ("mine", "ood/mine", "genies", "a/b.json")
    (hub,) = ood_entries(["truthful_qa:truthfulqa/truthful_qa:multiple_choice"])
    assert hub.dataset == "truthfulqa/truthful_qa:multiple_choice"
    for texts, message in [
        (["genies:a/x.json", "caa:b/x.json"], "genies:a/x.json and caa:b/x.json have one name, x; name one"),
        (["genies:a/x.json", "genies:a/x.json"], "genies:a/x.json is there twice; remove one"),
        (["x=genies:a.json", "x=caa:b.json"], "have one name, x; name one, as other=caa:b.json$"),
        (["a.json"], "'a.json' is not FORMAT:PATH, with a FORMAT of genies, truthful_qa"),
        (["spam:a.json"], "is not FORMAT:PATH"),
        (["genies:"], "is not FORMAT:PATH"),
        (["within=genies:a.json"], "has the name within, which is taken"),
        ([3], "must be a list of FORMAT:PATH"),
        ([""], "must be a list of FORMAT:PATH"),
    ]:
        with pytest.raises(ValueError, match=message):
            checked_entries(texts)
    assert checked_entries("genies:a.json") == ("genies:a.json",)


def test_a_name_that_is_a_topic(tmp_path):
    path = written(tmp_path / "doors.json", [GENIES])
    with pytest.raises(UserError, match=r"ood: doors is a topic of the data too.*other=genies:"):
        read_ood(ood_entries([f"genies:{path}"]), topics=["doors"])
    assert read_ood(ood_entries([f"x=genies:{path}"]), topics=["doors"])[0].part == "ood/x"


def test_a_seeded_choice_and_a_question_that_is_there_twice(tmp_path):
    rows = [{**GENIES, "prompt": f"{n}?"} for n in range(9)]
    path = written(tmp_path / "a.json", [*rows, rows[0]])
    everything = read("genies", path)
    assert len({question.record_id for question in everything}) == 10
    assert everything[0].cluster == everything[9].cluster, "intervals draw the two together"
    some = read_ood(ood_entries([f"genies:{path}"]), limit=4, seed=1)[0].questions
    more = read_ood(ood_entries([f"genies:{path}"]), limit=6, seed=1)[0].questions
    assert len(some) == 4
    assert {q.record_id for q in some} < {q.record_id for q in more}
    other = read_ood(ood_entries([f"genies:{path}"]), limit=4, seed=2)[0].questions
    assert {q.record_id for q in other} != {q.record_id for q in some}
    turned = written(tmp_path / "b.json", [*rows[::-1]])
    assert {q.record_id for q in read("genies", turned)} == {q.record_id for q in everything[:9]}, "by content"
    mirrored = [{**row, "responses": dict(reversed(row["responses"].items()))} for row in rows]
    turned = read("genies", written(tmp_path / "c.json", mirrored))
    assert [q.record_id for q in turned] == [q.record_id for q in everything[:9]], "whatever the order of its choices"
    assert turned[0].choices[::-1] == everything[0].choices
