"""What `data` says of a dataset, beside the counts that the tests of load.py look at."""

import json

import pytest

from honest_persona.data.inventory import inventory, one_flag, print_inventory
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.data.splits import split_records
from tests.printed import printed


@pytest.mark.parametrize(("labels", "told"), [("11", "FAIL"), ("00", "PASS"), ("01", None)])
def test_records_of_one_flag_are_told(labels, told, tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"task": f"Is it {n}?", "response": "Yes.", "label": int(label)} for n, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_records(str(path), Selection())
    splits = split_records(loaded.records, [], 0.0, 0)
    counts = inventory(loaded, splits)
    shown = printed(print_inventory, counts)
    assert counts.get("one_flag") == one_flag(splits)
    assert (told is not None) == ("no flag can be learnt" in shown)
    assert "unused" not in shown, "no record has a split of its own"
    if told:
        assert f"all training records are {told}: from them" in shown
    assert one_flag(split_records(loaded.records, ["own"], 0.0, 0)) is None, "nothing to learn from"


def test_records_that_are_in_no_part_are_told(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"task": "Is it?", "response": "Yes.", "label": 1, "split": "train"}))
    loaded = load_records(str(path), Selection())
    assert "unused" in printed(print_inventory, inventory(loaded, split_records(loaded.records, ["own"], 0.0, 0)))
