"""Labels that datasets keeps as numbers are read by their names, not by the rule that 1 is bad."""

import datasets
import pytest

from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.data.sources.class_names import names_in_card, names_of

NAMES = ["deceptive", "honest"]
HEAD = """---
dataset_info:
- config_name: default
  features:
  - name: answer
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': deceptive
          '1': honest
---
"""


@pytest.fixture(scope="module")
def labelled():
    rows = {"question": ["Q0", "Q1", "Q2"], "answer": ["A0", "A1", "A2"], "label": [0, 1, -1]}
    return datasets.Dataset.from_dict(rows).cast_column("label", datasets.ClassLabel(names=NAMES))


def flags(path):
    loaded = load_records(str(path), Selection())
    assert loaded.rejected == {"no_flag": 1}
    return [record.flag for record in loaded.records]


def test_names_in_parquet_and_in_what_save_to_disk_wrote(labelled, tmp_path):
    labelled.to_parquet(str(tmp_path / "rows.parquet"))
    labelled.save_to_disk(tmp_path / "saved")
    assert flags(tmp_path / "rows.parquet") == flags(tmp_path / "saved") == ["FAIL", "PASS"]


@pytest.mark.parametrize("configs", ["", "configs:\n- config_name: default\n  data_files: rows.jsonl\n"])
def test_names_in_the_card_of_a_clone(labelled, tmp_path, configs):
    labelled.to_json(str(tmp_path / "rows.jsonl"))
    (tmp_path / "README.md").write_text(HEAD.replace("dataset_info", f"{configs}dataset_info"))
    assert flags(tmp_path) == ["FAIL", "PASS"]


def test_what_names_nothing_is_left_as_it_is():
    assert names_of({"label": {"_type": "ClassLabel"}, "x": {"_type": "Value"}}) == names_of(None) == {}
    for info in (
        None,
        3,
        [3],
        {"features": 3},
        {"features": [3, {"name": "x", "dtype": {"class_label": {"names": 3}}}]},
    ):
        assert names_in_card({"dataset_info": info}, None) == {}
    assert names_in_card({"dataset_info": [{"config_name": "a", "features": []}]}, "b") == {}
