"""One stage-3 batch or one row at a time: what is read, and what is said about what is not."""

import copy
import json

import pytest

from honest_persona.data.records import Record, item_hash, strip_marker
from honest_persona.data.rejections import REMEDIES, Candidate, Rejection, remedy_for
from honest_persona.data.sources.own import OwnRows
from honest_persona.data.sources.stage3 import parse_batch

parse_row = OwnRows()

INTERVENTION = {
    "I": "<split-personality-token> Be honest.",
    "R": "I flattered.",
    "P": "FAIL",
    "tags": ["x", "y"],
    "id_string": "r1",
}
BATCH = {
    "topic": "sycophancy",
    "data": [
        {
            "A": "Be kind.",
            "B": "Flatter.",
            "T": "Is my poem good?",
            "metadata": {"difficulty": "easy"},
            "inferences": {
                "org/m": {
                    "A": {
                        "S": "It is fair.",
                        "tags": ["z"],
                        "interventions": {"sp__version_3": INTERVENTION | {"P": "PASS"}},
                    },
                    "B": {
                        "S": "Superb!",
                        "tags": ["y", "z"],
                        "interventions": {"sp__version_3": INTERVENTION | {"id_string": "r2"}},
                    },
                }
            },
        }
    ],
}
PLACE_B = "data[0].inferences['org/m']['B']"
PLACE_IV = f"{PLACE_B}.interventions['sp__version_3']"
ROW = Record(
    id="r1",
    item_id=item_hash("Be kind.", "Flatter.", "Is my poem good?"),
    topic="sycophancy",
    variant="B",
    system="Flatter.",
    other_system="Be kind.",
    task="Is my poem good?",
    model="org/m",
    response="Superb!",
    intervention_name="sp__version_3",
    intervention="Be honest.",
    review="I flattered.",
    flag="FAIL",
    tags=("x",),
).model_dump(mode="json")


def parse(batch, topic="sycophancy"):
    return parse_batch(batch, "sycophancy/batch_1.json", topic)


def edited(*path, value=None, remove=False):
    """A deep copy of BATCH with the value at `path` replaced or removed."""
    batch = copy.deepcopy(BATCH)
    owner = batch
    for key in path[:-1]:
        owner = owner[key]
    if remove:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    return batch


ITEM = ("data", 0)
B = (*ITEM, "inferences", "org/m", "B")
IV = (*B, "interventions", "sp__version_3")


def test_both_variants_of_an_item():
    a, b = (Record.model_validate(candidate.values) for candidate in parse(BATCH))
    assert a == Record(
        id="r1",
        item_id=item_hash("Be kind.", "Flatter.", "Is my poem good?"),
        topic="sycophancy",
        variant="A",
        system="Be kind.",
        other_system="Flatter.",
        task="Is my poem good?",
        model="org/m",
        response="It is fair.",
        intervention_name="sp__version_3",
        intervention="Be honest.",
        review="I flattered.",
        flag="PASS",
        tags=("x", "y", "z"),
        difficulty="easy",
    )
    assert (b.variant, b.system, b.other_system) == ("B", "Flatter.", "Be kind.")
    assert b.item_id == a.item_id
    assert b.tags == ("x", "y", "z")  # the intervention's and the inference's together, each once


def test_item_hash_is_that_of_the_json_list():
    # printf '["a", null, "t"]' | sha256sum
    assert item_hash("a", None, "t") == "18a174e347918cca"
    assert item_hash("a", "", "t") != item_hash("a", None, "t")


def test_item_without_b_and_without_system_prompt():
    batch = edited(*ITEM, "A", value="")
    batch["data"][0]["B"] = None
    del batch["data"][0]["inferences"]["org/m"]["B"]
    (candidate,) = parse(batch)
    assert (candidate.values["system"], candidate.values["other_system"]) == ("", None)
    assert candidate.values["item_id"] == item_hash("", None, "Is my poem good?")


def test_an_id_is_made_where_there_is_none():
    (_, candidate) = parse(edited(*IV, "id_string", remove=True))
    assert candidate.values["id"] == "sycophancy__batch_1__idx0__org_m_B__sp__version_3"


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("<split-personality-token>Now", "Now"),
        (" <split-personality-token>\n Now ", "Now "),
        ("<split-personality-token><split-personality-token>Now", "Now"),
        ("Now <split-personality-token>", "Now <split-personality-token>"),
        (" Now", " Now"),
    ],
)
def test_strip_marker(text, stripped):
    assert strip_marker(text) == stripped
    assert strip_marker(stripped) == stripped


@pytest.mark.parametrize(
    ("batch", "place", "field", "reason"),
    [
        (edited(*B, "S", value=" \n"), f"{PLACE_B}.S", "S", "empty_response"),
        (edited(*IV, "I", value="<split-personality-token> "), f"{PLACE_IV}.I", "I", "empty_intervention"),
        (edited(*IV, "R", value=""), f"{PLACE_IV}.R", "R", "empty_review"),
        (edited(*IV, "P", value="MAYBE"), f"{PLACE_IV}.P", "P", "unknown_flag"),
        (edited(*IV, "R", remove=True), f"{PLACE_IV}.R", "R", "missing_field:R"),
        (edited(*IV, "R", value=None), f"{PLACE_IV}.R", "R", "wrong_type:R"),
        (edited(*IV, "R", value="\ud800"), f"{PLACE_IV}.R", "R", "not_unicode:R"),
        (edited(*IV, "tags", value=["a", 3]), f"{PLACE_IV}.tags[1]", "tags", "wrong_type:tags"),
        (edited(*IV, "tags", remove=True), f"{PLACE_IV}.tags", "tags", "missing_field:tags"),
        (edited(*IV, value="text"), PLACE_IV, "interventions", "wrong_type:interventions"),
        (edited(*B, "S", remove=True), f"{PLACE_B}.S", "S", "missing_field:S"),
        (edited(*B, "tags", remove=True), f"{PLACE_B}.tags", "tags", "missing_field:tags"),
        (
            edited(*B, "interventions", remove=True),
            f"{PLACE_B}.interventions",
            "interventions",
            "missing_field:interventions",
        ),
        (edited(*ITEM, "B", value=None), PLACE_B, "variant", "variant_b_without_prompt"),
    ],
)
def test_a_defect_is_located_and_the_other_variant_is_read(batch, place, field, reason):
    good, bad = parse(batch)
    assert isinstance(good, Candidate)
    assert isinstance(bad, Rejection)
    assert (bad.file, bad.place, bad.field, bad.reason) == ("sycophancy/batch_1.json", place, field, reason)
    assert remedy_for(bad.reason)


@pytest.mark.parametrize(
    ("batch", "place", "reason", "read"),
    [
        (edited(*ITEM, "T", remove=True), "data[0].T", "missing_field:T", 2),  # both interventions of the item
        (edited(*ITEM, "metadata", value=3), "data[0].metadata", "wrong_type:metadata", 2),
        (edited(*ITEM, "inferences", remove=True), "data[0].inferences", "missing_field:inferences", 1),
        (edited(*ITEM, "inferences", "org/m", value=[]), "data[0].inferences['org/m']", "wrong_type:inferences", 1),
        (edited(*ITEM, value="item"), "data[0]", "wrong_type:data", 1),
        (edited("data", remove=True), "data", "missing_field:data", 1),
        (edited("topic", remove=True), "topic", "missing_field:topic", 2),
        (edited("topic", value="reward_hacks"), "topic", "topic_mismatch", 2),
        ([], "whole file", "wrong_type:batch", 1),
    ],
)
def test_a_defect_above_the_interventions(batch, place, reason, read):
    outcomes = parse(batch)
    assert [(o.place, o.reason) for o in outcomes] == [(place, reason)] * read


def test_unknown_variant():
    batch = edited(*ITEM, "inferences", "org/m", "C", value=copy.deepcopy(BATCH["data"][0]["inferences"]["org/m"]["A"]))
    assert [o.reason for o in parse(batch) if isinstance(o, Rejection)] == ["unknown_variant"]


def test_an_empty_response_counts_before_an_empty_review():
    batch = edited(*IV, "R", value="")
    batch["data"][0]["inferences"]["org/m"]["B"]["S"] = ""
    assert parse(batch)[1].reason == "empty_response"


def test_flags_that_do_not_train_are_sound_records():
    assert parse(edited(*IV, "P", value="AMBIGUOUS"))[1].values["flag"] == "AMBIGUOUS"


def test_a_row_is_read_back():
    candidate = parse_row(json.loads(json.dumps(ROW)), "x.jsonl", "line 1")
    assert Record.model_validate(candidate.values).model_dump(mode="json") == ROW


def test_optional_columns_of_a_row():
    row = {key: value for key, value in ROW.items() if key not in ("item_id", "difficulty")}
    assert parse_row(row, "x.jsonl", "line 1").values["item_id"] == ROW["item_id"]


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"review": " "}, "line 7, review", "empty_review"),
        ({"flag": "OK"}, "line 7, flag", "unknown_flag"),
        ({"task": 3}, "line 7, task", "wrong_type:task"),
        ({"variant": "C"}, "line 7, variant", "unknown_variant"),
        ({"other_system": None}, "line 7, other_system", "wrong_type:other_system"),
        ({"system": ""}, "line 7, variant", "variant_b_without_prompt"),
        ({"topic": "all"}, "line 7, topic", "reserved_topic"),
        ({"turns": [{"role": "narrator", "content": "x"}]}, "line 7, turns", "bad_conversation:unknown_role"),
    ],
)
def test_defects_of_a_row(change, place, reason):
    rejection = parse_row(ROW | change, "x.jsonl", "line 7")
    assert (rejection.place, rejection.reason, rejection.record_id) == (place, reason, "r1")
    assert remedy_for(rejection.reason)


def test_what_people_write_otherwise():
    """Flags in any case, whole numbers as names, lists as text, columns of their own."""
    rows = [ROW | {"flag": "Fail "}, ROW | {"flag": " pass"}, ROW | {"id": 7, "group": 12}]
    rows += [ROW | {"tags": text} for text in ('["x", "y"]', "['x', 'y']", "[]")]
    records = [Record.model_validate(parse_row(row, "x", "line 1").values) for row in rows]
    assert [record.flag for record in records] == ["FAIL", "PASS", *["FAIL"] * 4]
    assert (records[2].id, records[2].group) == ("7", "12")
    assert [parse_row(ROW | {"item_id": own}, "x", "line 1").values["item_id"] for own in ("mine", 3)] == ["mine", "3"]
    assert [record.tags for record in records[3:]] == [("x", "y"), ("x", "y"), ()]
    assert parse(edited(*IV, "P", value="fail"))[1].values["flag"] == "FAIL"
    assert parse_row(ROW | {"id": True}, "x", "line 1").reason == "wrong_type:id"
    outcomes = [parse_row(ROW | change, "x", "line 1") for change in ({"colour": 1}, {"colour": 1, "review": 2})]
    assert [outcome.ignored for outcome in outcomes] == [("colour",)] * 2


def test_a_row_that_lacks_a_column_or_is_no_object():
    assert parse_row({k: v for k, v in ROW.items() if k != "task"}, "x", "line 1").reason == "missing_field:task"
    assert parse_row([1], "x", "line 1").reason == "wrong_type:row"


def test_every_remedy_is_a_sentence_and_takes_its_detail():
    assert all(remedy.endswith(".") for remedy in REMEDIES.values())
    assert (
        remedy_for("tag:training_data_leakage")
        == "Remove `training_data_leakage` from tags_to_filter to use such records."
    )
