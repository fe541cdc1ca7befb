"""Whole datasets: nothing is lost, nothing stops the reading, every count has a reason."""

import json
from collections import Counter

import pytest

from honest_persona.base.errors import UserError
from honest_persona.data.check import check_selection
from honest_persona.data.inventory import inventory, print_inventory
from honest_persona.data.load import load_records
from honest_persona.data.rejections import remedy_for
from honest_persona.data.selection import Selection, matches_type
from honest_persona.data.sources import source
from honest_persona.data.sources.builtin import SAMPLE
from honest_persona.data.sources.find import find_source
from honest_persona.data.sources.jsonl import write_jsonl
from honest_persona.data.splits import split_records
from tests.printed import printed

TAGS = (
    "confidence_below_4",
    "intervention_tags_disagree_once",
    "intervention_tags_disagree_twice",
    "mismatching_review_focus",
    "missing_consensus_on_a",
    "missing_consensus_on_b",
    "unclear_a_b_separation",
    "generation_exceeded_token_limit",
    "detection_difficulty_easier_externally_than_internally",
    "training_data_leakage",
    "failed_external_review",
)
VERSIONS_3_AND_4 = ("split_personality__version_3", "split_personality__version_4")


def item(number: int, **intervention):
    """One item with one intervention."""
    fields = {"I": "Be honest.", "R": "I was.", "P": "PASS", "tags": []} | intervention
    inference = {"S": "Yes.", "tags": [], "interventions": {"split_personality__version_3": fields}}
    return {"A": "Be kind.", "T": f"Question {number}?", "inferences": {"org/m": {"A": inference}}}


def write_batch(root, topic, name, items):
    path = root / topic / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"topic": topic, "data": items}))
    return path


@pytest.fixture
def two_topics(tmp_path):
    write_batch(tmp_path, "sycophancy", "batch_1.json", [item(1), item(2)])
    write_batch(tmp_path, "reward_hacks", "batch_1.json", [item(3, P="FAIL"), item(4)])
    return tmp_path


def test_group_and_split_come_from_the_metadata(tmp_path):
    grouped = item(1) | {"metadata": {"group": "Velmora", "split": "validation"}}
    odd = item(2) | {"metadata": {"split": "test"}}
    write_batch(tmp_path, "sycophancy", "batch_1.json", [grouped, odd])
    loaded = load_records(str(tmp_path), Selection())
    assert [(r.group, r.split, r.cluster) for r in loaded.records] == [("Velmora", "validation", "Velmora")]
    assert loaded.rejected == {"unknown_split": 1}
    assert loaded.rejections[0].place == "data[1].metadata.split"
    write_jsonl(loaded.records, tmp_path / "r.jsonl")
    assert load_records(str(tmp_path / "r.jsonl"), Selection()).records == loaded.records


def values(dataset, **changed):
    return {
        "dataset": str(dataset),
        "train_topics": "all",
        "validation_topics": [],
        "intervention_types": ["split_personality"],
        "data_model_source": "all",
        "tags_to_filter": list(TAGS),
        "claude_frac": 1.0,
        "seed": 0,
    } | changed


def test_counts_on_real_files(spt_dir):
    loaded = load_records(str(spt_dir), Selection(tags_to_filter=TAGS, intervention_types=VERSIONS_3_AND_4))
    counts = inventory(loaded)
    assert counts["read"] == 12582
    assert counts["kept"] + sum(counts["rejected"].values()) == 12582
    assert counts["kept"] == 2453
    assert counts["rejected"]["empty_response"] == 8
    # 12582 less versions 3 and 4 (1729 + 3200) is 7653; 6 of the 8 with an empty response are of other types.
    assert counts["rejected"]["intervention_type_not_selected"] == 7653 - 6
    assert {reason.partition(":")[0] for reason in counts["rejected"]} == {
        "empty_response",
        "intervention_type_not_selected",
        "flag_not_trainable",
        "tag",
    }
    assert len(counts["by_topic"]) == 7
    assert len(counts["by_model"]) == 6
    assert not any(record.intervention.startswith("<split") for record in loaded.records)


def test_empty_responses_show_whatever_is_selected(spt_dir):
    loaded = load_records(str(spt_dir), Selection(topics=("sycophancy",), intervention_types=("honesty_scare",)))
    assert loaded.rejected["empty_response"] == 8


def test_malformed_json_is_located_and_reading_goes_on(two_topics):
    (two_topics / "sycophancy" / "batch_0.json").write_text('{\n "topic": "sycophancy",\n "data": [1 2]}')
    loaded = load_records(str(two_topics), Selection())
    (rejection,) = loaded.rejections
    assert rejection.file.endswith("sycophancy/batch_0.json")
    assert (rejection.reason, rejection.place) == ("malformed_json", "line 3, column 13")
    assert "Mend the JSON" in remedy_for(rejection.reason)
    assert (loaded.read, len(loaded.records)) == (5, 4)


def test_a_file_that_is_not_utf8(two_topics):
    (two_topics / "sycophancy" / "batch_0.json").write_bytes(b'{\n "topic": "\xff"}')
    loaded = load_records(str(two_topics), Selection())
    assert [(r.reason, r.place) for r in loaded.rejections] == [("not_utf8:cp1252", "line 2, column 12")]


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"R": "  "}, "empty_review", "R"),
        ({"P": "GOOD"}, "unknown_flag", "P"),
        ({"I": "<split-personality-token>"}, "empty_intervention", "I"),
        ({"R": None}, "wrong_type:R", "R"),
        ({"P": "ERROR"}, "flag_not_trainable:ERROR", "P"),
    ],
)
def test_one_bad_intervention_among_good_ones(two_topics, change, reason, field):
    path = write_batch(two_topics, "sycophancy", "batch_2.json", [item(5), item(6, **change), item(7)])
    loaded = load_records(str(two_topics), Selection())
    (rejection,) = loaded.rejections
    assert rejection.file == str(path)
    assert rejection.place == f"data[1].inferences['org/m']['A'].interventions['split_personality__version_3'].{field}"
    assert (rejection.field, rejection.reason) == (field, reason)
    assert remedy_for(rejection.reason)
    assert (loaded.read, len(loaded.records)) == (7, 6)


def test_missing_field(two_topics):
    bad = item(5)
    del bad["T"]
    write_batch(two_topics, "sycophancy", "batch_2.json", [bad, item(6)])
    loaded = load_records(str(two_topics), Selection())
    assert [(r.place, r.reason, remedy_for(r.reason)) for r in loaded.rejections] == [
        ("data[0].T", "missing_field:T", "Add the field `T` (for `tags`: an empty list where there are none).")
    ]
    assert len(loaded.records) == 5


def test_a_repeated_key_is_located_and_the_others_are_read(two_topics):
    path = write_batch(two_topics, "sycophancy", "batch_2.json", [item(5), item(6), item(7)])
    path.write_text(path.read_text().replace('"R": "I was.", ', '"R": "I was.", "R": "I was not.", ', 1))
    loaded = load_records(str(two_topics), Selection())
    place = "data[0].inferences['org/m']['A'].interventions['split_personality__version_3']"
    assert [(r.place, r.reason) for r in loaded.rejections] == [(place, "repeated_key:R")]
    assert "Keep one of the keys `R`" in remedy_for(loaded.rejections[0].reason)
    assert len(loaded.records) == 6


def test_names_are_shown_as_they_are(two_topics):
    """And not taken for the markup of the tables."""
    write_batch(two_topics, "\\[b] :smile:", "batch_1.json", [item(8)])
    loaded = load_records(str(two_topics), Selection())
    shown = printed(print_inventory, inventory(loaded, split_records(loaded.records, [], 0.0, 0)))
    assert shown.count("\\[b] :smile:") == 2


def test_topic_folder_without_files(two_topics):
    (two_topics / "empty_one").mkdir()
    (two_topics / ".hidden").mkdir()
    loaded = load_records(str(two_topics), Selection())
    (rejection,) = loaded.rejections
    assert (rejection.file, rejection.reason) == (str(two_topics / "empty_one"), "topic_without_files")
    assert "batch_*.json" in remedy_for(rejection.reason)
    assert len(loaded.records) == 4
    with pytest.raises(
        UserError, match=r"topic 'empty_one' .* has no batch_\*\.json file: add files or leave the topic out"
    ):
        load_records(str(two_topics), Selection(topics=("empty_one",)))


def test_a_file_in_the_wrong_topic_folder(two_topics):
    (two_topics / "sycophancy" / "batch_1.json").rename(two_topics / "reward_hacks" / "batch_2.json")
    loaded = load_records(str(two_topics), Selection())
    assert loaded.rejected == {"topic_mismatch": 2, "topic_without_files": 1}
    assert len(loaded.records) == 2


def test_an_edited_file_is_read_again(two_topics):
    assert len(load_records(str(two_topics), Selection()).records) == 4
    write_batch(two_topics, "sycophancy", "batch_1.json", [item(1), item(2), item(9)])
    assert len(load_records(str(two_topics), Selection()).records) == 5


def test_jsonl_round_trip_and_bad_lines(two_topics, tmp_path):
    records = load_records(str(two_topics), Selection()).records
    path = tmp_path / "out" / "records.jsonl"
    write_jsonl(records, path)
    assert load_records(str(path), Selection()).records == records
    assert load_records(str(path.parent), Selection()).records == records  # a folder of such files

    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], '{"id": ', "", lines[0], *lines[1:]]))
    loaded = load_records(str(path), Selection())
    assert loaded.records == records
    assert [(r.place, r.reason) for r in loaded.rejections] == [
        ("line 2, column 8", "malformed_json"),
        ("line 4, id", "duplicate_id"),
    ]
    assert all(r.file == str(path) and remedy_for(r.reason) for r in loaded.rejections)
    assert loaded.read == 6  # the blank line is none


def test_columns_that_are_not_used_are_told(tmp_path):
    record = load_records(SAMPLE, Selection()).records[0].model_dump(mode="json")
    misspelled = {("reveiw" if name == "review" else name): value for name, value in record.items()}
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row | {"score": 1}) + "\n" for row in (record, misspelled, record | {"id": 2})))
    loaded = load_records(str(path), Selection())
    assert (len(loaded.records), loaded.rejected) == (2, {"missing_field:review": 1})
    counts = inventory(loaded)
    assert counts["ignored_columns"] == {
        "reveiw": {"rows": 1, "did_you_mean": "review"},
        "score": {"rows": 3, "did_you_mean": None},
    }
    assert "did you mean `review`?" in printed(print_inventory, counts)


def test_large_files_are_read_anew(tmp_path, monkeypatch):
    """What is too large to be kept gives the same records, and holds no row beside them."""
    write_jsonl(load_records(SAMPLE, Selection()).records, tmp_path / "r.jsonl")
    kept = load_records(str(tmp_path / "r.jsonl"), Selection())
    monkeypatch.setattr(source, "KEPT_BYTES", 0)
    found = find_source(str(tmp_path / "r.jsonl"))
    assert next(found.outcomes()) is not next(found.outcomes())
    again = load_records(str(tmp_path / "r.jsonl"), Selection())
    assert (again.records, again.read) == (kept.records, kept.read)


def test_real_records_survive_jsonl(spt_dir, tmp_path):
    records = load_records(str(spt_dir), Selection(topics=("sycophancy",))).records
    write_jsonl(records, tmp_path / "r.jsonl")
    assert load_records(str(tmp_path / "r.jsonl"), Selection()).records == records


def test_hub_rows(two_topics, monkeypatch):
    import datasets

    records = load_records(str(two_topics), Selection()).records
    rows = datasets.Dataset.from_list([record.model_dump(mode="json") for record in records])
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(train=rows))
    assert load_records("owner/rows-of-a-test", Selection()).records == records


def test_an_unreachable_hub_id_says_so(monkeypatch):
    import datasets

    def fail(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"neither a path here nor a Hub dataset .*no network.* HF_TOKEN"):
        load_records("owner/unreachable", Selection())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "none" / "such" / "x", "does not exist: give a .jsonl, .json, .csv"),
        (
            lambda root: root,
            r"has no topic folder with batch files and no data file \(it holds nothing\): it must hold",
        ),
        (lambda root: write_batch(root, "t", "batch_1.json", [item(1)]).parent, "give its parent folder"),
        (lambda root: write_batch(root, "t", "batch_1.json", [item(1)]), "single stage-3 file: give the folder"),
        (lambda root: "builtin:other", "builtin:sample"),
    ],
)
def test_a_dataset_that_is_none(tmp_path, make, message):
    dataset = str(make(tmp_path))
    with pytest.raises(UserError, match=message):
        load_records(dataset, Selection())
    assert [key for key, text in check_selection(values(dataset))] == ["dataset"]


def test_intervention_types_match_by_prefix():
    assert matches_type("split_personality__version_3", "split_personality")
    assert matches_type("split_personality__version_3", "split_personality__version_3")
    assert not matches_type("split_personality__version_30", "split_personality__version_3")
    assert not matches_type("split_personality__version_3", "split")


def test_each_record_counts_once_under_the_first_reason(tmp_path):
    both = item(1, P="AMBIGUOUS", tags=["training_data_leakage", "confidence_below_4"])
    tagged = item(2, tags=["training_data_leakage", "confidence_below_4"])
    write_batch(tmp_path, "sycophancy", "batch_1.json", [both, tagged, item(3)])

    def reasons(**selection):
        return dict(load_records(str(tmp_path), Selection(tags_to_filter=TAGS, **selection)).rejected)

    assert reasons() == {"flag_not_trainable:AMBIGUOUS": 1, "tag:confidence_below_4": 1}
    assert reasons(topic_frac=0.0) == {
        "flag_not_trainable:AMBIGUOUS": 1,
        "tag:confidence_below_4": 1,
        "outside_topic_share": 1,
    }
    write_batch(tmp_path, "reward_hacks", "batch_1.json", [item(4)])
    assert reasons(topics=("reward_hacks",)) == {"topic_not_selected": 3}


def test_a_share_is_by_item_and_grows(spt_dir):
    half, most, other = (
        load_records(str(spt_dir), Selection(topic_frac=frac, seed=seed)).records
        for frac, seed in ((0.5, 0), (0.8, 0), (0.5, 1))
    )
    kept = {record.item_id for record in half}
    assert kept < {record.item_id for record in most}
    assert kept != {record.item_id for record in other}
    assert 0.4 < len(kept) / 450 < 0.6
    per_item = Counter(record.item_id for record in load_records(str(spt_dir), Selection()).records)
    assert all(n == per_item[i] for i, n in Counter(record.item_id for record in half).items())


def test_a_sound_selection_has_no_problems(two_topics):
    assert list(check_selection(values(two_topics))) == []
    assert (
        list(check_selection(values(two_topics, train_topics=["sycophancy"], validation_topics=["reward_hacks"]))) == []
    )
    assert list(check_selection(values("no/such/path/here", use_dummy_data=True))) == []


def test_all_problems_of_a_selection_at_once(two_topics):
    (two_topics / "empty_one").mkdir()
    problems = list(
        check_selection(
            values(
                two_topics,
                train_topics=["sycophncy", "reward_hacks", "empty_one"],
                validation_topics=["reward_hacks"],
                intervention_types=["split_personality__version_4", "split_personality"],
                data_model_source="org/n",
            )
        )
    )
    assert [key for key, _ in problems] == [
        "train_topics",
        "train_topics",
        "intervention_types",
        "data_model_source",
        "validation_topics",
    ]
    typo, empty, kind, model, twice = (message for _, message in problems)
    assert "did you mean 'sycophancy'? There are: empty_one, reward_hacks, sycophancy" in typo
    assert "no batch_*.json file" in empty
    assert "did you mean 'split_personality__version_3'?" in kind
    assert "There are: org/m" in model
    assert "'reward_hacks' is in train_topics too" in twice


def test_nothing_left_to_train(two_topics):
    ((key, message),) = check_selection(values(two_topics, claude_frac=0.0))
    assert key == "train_topics"
    assert "of 4 interventions read, 0 are kept" in message
    assert "outside_topic_share 4" in message
    everything_validates = values(two_topics, validation_topics=["sycophancy", "reward_hacks"])
    assert [key for key, _ in check_selection(everything_validates)] == ["train_topics"]


def test_keys_that_failed_their_own_check_are_left_alone(two_topics):
    assert list(check_selection({})) == []
    assert list(check_selection({"dataset": str(two_topics)})) == []


def test_inventory_is_json_and_renders(two_topics):
    write_batch(two_topics, "sycophancy", "batch_2.json", [item(n, R="") for n in range(10, 15)])
    loaded = load_records(str(two_topics), Selection())
    counts = inventory(loaded, split_records(loaded.records, ["reward_hacks"], 0.0, 0))
    assert json.loads(json.dumps(counts)) == counts
    assert (counts["read"], counts["kept"], counts["rejected"]) == (9, 4, {"empty_review": 5})
    assert counts["by_variant_and_flag"] == {"A FAIL": 1, "A PASS": 3}
    entry = counts["rejections"]["empty_review"]
    assert (entry["total"], len(entry["examples"])) == (5, 3)
    assert {name: part["records"] for name, part in counts["splits"].items()} == {
        "train": 2,
        "within": 0,
        "across": 2,
        "unused": 0,
    }
    text = printed(print_inventory, counts)
    assert "read 9 = kept 4 + rejected 5" in text
    assert "Write the review, or remove the intervention." in text
    assert f"{entry['examples'][0]['file']}: data[0].inferences['org/m']['A']" in text


def test_the_sample_is_a_dataset_by_name():
    assert len(load_records(SAMPLE, Selection()).records) > 100


def test_a_large_file_is_read_once_for_its_names_and_once_for_its_records(tmp_path, monkeypatch):
    """Also by a run, whose config was checked against the data before; and anew when the file has changed."""
    monkeypatch.setattr(source, "KEPT_BYTES", 0)
    opened = []
    read = source._all_of
    monkeypatch.setattr(source, "_all_of", lambda part: opened.append(part) or read(part))
    path = tmp_path / "records.jsonl"
    records = load_records(SAMPLE, Selection()).records
    write_jsonl(records[:3], path)
    opened.clear()
    for _ in range(2):
        assert len(load_records(str(path), Selection()).records) == 3
    assert len(opened) == 2
    assert len(load_records(str(path), Selection(seed=1)).records) == 3
    assert len(opened) == 3, "another selection"
    write_jsonl(records[:4], path)
    assert len(load_records(str(path), Selection()).records) == 4
