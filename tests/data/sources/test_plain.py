"""Rows with whatever columns they have, from every reader: the same values, nothing added."""

import json

import datasets
import pytest

from honest_persona.base.errors import UserError
from honest_persona.data.sources.plain import PlainTable

FEATURES = datasets.Features(
    {
        "question": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["entailment", "not_entailment"]),
        "idx": datasets.Value("int32"),
        "score": datasets.Value("float64"),
    }
)
ROWS = [
    {"question": f"q{i}", "label": (0, 1, -1)[i % 3], "idx": i, "score": None if i == 2 else i / 4} for i in range(6)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    made = datasets.Dataset.from_list(ROWS, features=FEATURES)
    made.save_to_disk(folder / "disk")
    made.to_parquet(folder / "rows.parquet")
    datasets.DatasetDict({"train": made, "validation": made}).save_to_disk(folder / "splits")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "rows.csv").write_text("question,label\n" + "".join(f"{r['question']},{r['label']}\n" for r in ROWS))
    return folder


def rows_of(dataset):
    table = PlainTable.of(str(dataset))
    return [table.row(i) for i in range(len(table))]


@pytest.mark.parametrize("name", ["disk", "rows.parquet"])
def test_class_labels_are_numbers_whose_names_are_known(folder, name):
    table = PlainTable.of(str(folder / name))
    assert [table.row(i) for i in range(6)] == [{**row, "label": (0, 1, None)[row["idx"] % 3]} for row in ROWS]
    assert table.class_names == {"label": {0: "entailment", 1: "not_entailment"}}
    assert table.columns["question"] == 6


def test_lines_and_cells(folder):
    assert rows_of(folder / "rows.jsonl") == ROWS
    assert rows_of(folder / "rows.csv")[1] == {"question": "q1", "label": "1"}
    assert PlainTable.of(str(folder / "rows.csv")).place(1).endswith("rows.csv, line 3")


def test_splits_add_no_column_and_can_be_chosen(folder):
    both, one = rows_of(folder / "splits"), rows_of(f"{folder / 'splits'}:train")
    assert both == one + one
    assert set(one[0]) == set(FEATURES)


def test_what_cannot_be_read_is_told_and_nan_is_null(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": NaN}\n{"a": Infinity}\n{"a": 1, "a": 2}\n[1]\n{"a": \n{"a": "\\ud800"}\n')
    table = PlainTable.of(str(path))
    assert [table.row(i) for i in range(len(table))] == [{"a": 1}, {"a": None}]
    reasons = [rejection.reason for rejection in table.rejections]
    assert reasons == ["not_finite:a", "repeated_key:a", "wrong_type:row", "malformed_json", "not_unicode:a"]
    path.write_text("[1]\n")
    with pytest.raises(UserError, match=r"no row that can be read \(the first: .*wrong_type:row\)"):
        PlainTable.of(str(path))


def test_stage_3_files_have_no_columns():
    with pytest.raises(UserError, match="stage-3 files"):
        PlainTable.of("builtin:sample")
