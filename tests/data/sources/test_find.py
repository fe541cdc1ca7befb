"""Which files of a dataset are read: splits, configs, folders, and what is said where there is nothing to read."""

import json

import datasets
import pytest

from honest_persona.base.errors import UserError
from honest_persona.data.inventory import inventory, print_inventory
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.data.sources import folder
from honest_persona.data.sources.naming import dataset_name
from tests.data.sources.made import FORMS
from tests.data.sources.test_readers import ROWS
from tests.printed import printed

TRAIN, TEST = ROWS[:3], ROWS[3:]


def load(dataset):
    return load_records(str(dataset), Selection())


def parts(dataset):
    return {record.id: record.split for record in load(dataset).records}


BOTH = {"r0": "train", "r1": "train", "r2": "train", "r3": "validation", "r4": "validation"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(TRAIN), test=datasets.Dataset.from_list(TEST))
    both.save_to_disk(folder / "dict")
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "one", num_shards=2)
    return folder


def clone(root, head=""):
    (root / "data").mkdir(parents=True)
    FORMS["rows.parquet"](root / "data" / "train-00000-of-00001.parquet", TRAIN)
    FORMS["rows.parquet"](root / "data" / "test-00000-of-00001.parquet", TEST)
    (root / ".git").mkdir()
    (root / ".git" / "x.json").write_text("{}")
    (root / "dataset_infos.json").write_text("{}")
    (root / "README.md").write_text(f"{head}# A dataset\n")
    return root


def test_what_save_to_disk_wrote(saved):
    assert parts(saved / "one") == dict.fromkeys(BOTH)
    assert parts(saved / "dict") == BOTH
    assert parts(f"{saved / 'dict'}:test") == {"r3": None, "r4": None}
    with pytest.raises(UserError, match="there is no 'dev'; its splits are train, test"):
        load(f"{saved / 'dict'}:dev")
    with pytest.raises(UserError, match="it has no splits or configs"):
        load(f"{saved / 'one'}:train")


def test_numbers_as_ids_begin_anew_in_each_split(tmp_path):
    for split, rows in (("train", TRAIN), ("validation", TEST), ("test", TEST)):
        numbered = [row | {"id": n, "task": f"{split} {n}"} for n, row in enumerate(rows)]
        FORMS["rows.jsonl"](tmp_path / f"{split}.jsonl", numbered)
    loaded = load(tmp_path)
    assert (len(loaded.records), loaded.rejected) == (7, {})
    assert [record.id for record in loaded.records if record.task == "test 1"] == ["test:1"]


def test_a_row_names_its_own_split_first(tmp_path):
    FORMS["rows.jsonl"](tmp_path / "train.jsonl", [ROWS[0], ROWS[1] | {"split": "validation"}])
    FORMS["rows.jsonl"](tmp_path / "test.jsonl", TEST)
    assert parts(tmp_path) == {"r0": "train", "r1": "validation", "r3": "validation", "r4": "validation"}


def test_a_saved_folder_with_parts_missing(saved, tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(UserError, match=r"state\.json cannot be read \(FileNotFoundError\): save the dataset again"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    state = json.loads((saved / "one" / "state.json").read_text())
    (tmp_path / "train" / "state.json").write_text(json.dumps(state))
    assert load(tmp_path).rejected == {"unreadable_file": 2}
    for content in ("[]", "{", '{"_data_files": [1]}'):
        (tmp_path / "train" / "state.json").write_text(content)
        with pytest.raises(UserError, match="save the dataset again"):
            load(tmp_path)


def test_a_clone_without_configs(tmp_path):
    root = clone(tmp_path / "clone")
    assert parts(root) == BOTH
    assert parts(f"{root}:train") == {"r0": None, "r1": None, "r2": None}
    text = printed(print_inventory, inventory(load(root)))
    assert "splits of the dataset: test (validation), train (train)" in text


CARD = """---
license: mit
configs:
- config_name: one
  data_files:
  - {split: train, path: data/train-*}
  - {split: dev, path: data/test-*}
- config_name: two
  data_files: data/test-*
---
"""


def test_a_clone_with_configs(tmp_path):
    root = clone(tmp_path / "clone", CARD)
    with pytest.raises(UserError, match=r"has several configs: choose one of one, two, as .*clone:one"):
        load(root)
    assert parts(f"{root}:one") == BOTH
    assert parts(f"{root}:one:dev") == {"r3": None, "r4": None}
    assert parts(f"{root}:two") == {"r3": None, "r4": None}
    with pytest.raises(UserError, match="several configs"):
        load(f"{root}:three")
    assert "config of the dataset: two" in printed(print_inventory, inventory(load(f"{root}:two")))
    root = clone(tmp_path / "default", CARD.replace("config_name: two", "config_name: two\n  default: true"))
    assert parts(root) == {"r3": None, "r4": None}
    root = clone(tmp_path / "nothing", CARD.replace("data/test-*", "data/none-*"))
    with pytest.raises(UserError, match=r"datasets cannot find config 'two'.*Correct `configs`"):
        load(f"{root}:two")


def test_a_hub_dataset_with_splits_and_configs(monkeypatch):
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(TRAIN), validation=datasets.Dataset.from_list(TEST))

    def load_dataset(name, config=None):
        if config != "one" and (config is not None or name != "owner/plain"):
            raise ValueError("Config name is missing. Please pick one among the available configs: ['one', 'two']")
        return both

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert parts("owner/plain") == BOTH
    assert parts("owner/plain:train") == {"r0": None, "r1": None, "r2": None}
    assert parts("owner/several:one") == BOTH
    assert parts("owner/plain:one") == BOTH, "no split of this name"
    assert parts("owner/several:one:validation") == {"r3": None, "r4": None}
    with pytest.raises(UserError, match=r"Please pick one among.*name one, as owner/several:CONFIG"):
        load("owner/several")
    with pytest.raises(UserError, match="'owner/several:three' is neither a path here nor a Hub dataset"):
        load("owner/several:three")
    with pytest.raises(UserError, match="there is no 'dev'; its splits are train, validation"):
        load("owner/several:one:dev")


def test_a_folder_of_files(tmp_path, monkeypatch):
    for number, row in enumerate(ROWS):
        FORMS["rows.csv"](tmp_path / f"part_{number}.csv", [row])
    assert parts(tmp_path) == dict.fromkeys(BOTH)
    (tmp_path / "train.csv").write_bytes((tmp_path / "part_0.csv").read_bytes())
    (tmp_path / "notes.txt").write_text("not data")
    deep = tmp_path / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    FORMS["rows.csv"](deep / "part.csv", [ROWS[0] | {"id": "deep"}])
    loaded = load(tmp_path)
    assert (len(loaded.records), loaded.rejected) == (6, {"duplicate_id": 1})
    monkeypatch.setattr(folder, "_MOST_FILES", 7)
    with pytest.raises(UserError, match="holds more than 7 files: give the folder of the data"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": "x", "b.jsonl": "x"}, r"data files of several kinds .1 \.csv, 1 \.jsonl.: give one file, such as"),
        (
            {"a.zip": "x", "b.xlsx": "x"},
            r"no data file .it holds 1 \.zip, 1 \.xlsx.: .*; \.zip: unpack it.*; \.xlsx: save the sheet",
        ),
        ({}, "it holds nothing"),
    ],
)
def test_folders_with_nothing_to_read(files, message, tmp_path, monkeypatch):
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        load(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as as_hub:
        load("owner/name")
    assert ("rename the folder to read from the Hub" in str(as_hub.value)) == (len(files) == 0 or "a.zip" in files)
    assert "\n" not in str(refused.value)


def test_a_file_without_permission(tmp_path, monkeypatch):
    from pathlib import Path

    FORMS["rows.csv"](tmp_path / "a.csv", ROWS)

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom no permission stops
    with pytest.raises(UserError, match="cannot be read: Permission denied; check its permissions"):
        load(tmp_path / "a.csv")


def test_colons_in_a_path(tmp_path):
    FORMS["rows.csv"](tmp_path / "a:train.csv", ROWS)
    assert len(load(tmp_path / "a:train.csv").records) == 5
    assert dataset_name("owner/name:a:b") == ("owner/name", ("a", "b"))
    assert dataset_name("none/such/path:a").chosen == ()
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none:a")
