"""Packed records are read as the plain ones are, and an altered or damaged file is told."""

import gzip
import shutil

import pytest

from honest_persona.base.errors import UserError
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.data.sources import builtin, stage3
from honest_persona.data.sources.builtin import FACTS
from honest_persona.generation import ship as module
from honest_persona.generation.ship import main, ship
from tests.data.test_load import item, write_batch


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "facts"
    for number, part in enumerate(FACTS):
        write_batch(made / part, "capitals", "batch_0.json", [item(10 * number + i, id_string=None) for i in range(3)])
    return made


@pytest.fixture
def shipped(tmp_path, folder, monkeypatch):
    """A package whose records are a folder of the test."""
    target = tmp_path / "data"
    ship(folder, target)
    monkeypatch.setattr(builtin, "SHIPPED", target)
    names = dict(zip(("builtin:smollm2", "builtin:smollm2-unknown", "builtin:smollm2-wordings"), FACTS, strict=True))
    assert names.keys() <= builtin.BUILTIN.keys()
    for name, part in names.items():
        monkeypatch.setitem(builtin.BUILTIN, name, target / part)
    return target


def read(dataset):
    return load_records(str(dataset), Selection())


def test_what_is_packed_is_read_as_before(folder, shipped):
    for name, part in (("builtin:smollm2", "records"), ("builtin:smollm2-wordings", "wordings")):
        assert read(name).records == read(folder / part).records
        assert len(read(name).records) == 3
    assert [path.suffix for path in (shipped / "records" / "capitals").iterdir()] == [".gz"]
    before = {path: path.read_bytes() for path in shipped.rglob("*") if path.is_file()}
    ship(shipped, folder.parent / "again")
    again = {path: (folder.parent / "again" / path.relative_to(shipped)).read_bytes() for path in before}
    assert again == before, "the same bytes, from packed files too"


def test_an_altered_file_is_refused(shipped):
    path = shipped / "unknown" / "capitals" / "batch_0.json.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"smollm2-unknown.*SHA-256 differs; install the package again"):
        read("builtin:smollm2-unknown")
    assert len(read("builtin:smollm2").records) == 3, "another dataset's files are not hashed"
    shutil.rmtree(shipped)
    with pytest.raises(UserError, match=r"'builtin:smollm2': .* has no manifest.json"):
        read("builtin:smollm2")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda packed: packed[:-9], "damaged_file:gzip file"),
        (lambda packed: packed[:20] + b"\xff" * 20 + packed[40:], "damaged_file:gzip file"),
        (lambda packed: gzip.decompress(packed), "damaged_file:gzip file"),
        (lambda packed: b"", "empty_file"),
        (lambda packed: gzip.compress(b"{"), "malformed_json"),
        (lambda packed: gzip.compress(b" " * 2000 + gzip.decompress(packed)), "unpacks_too_large:0 MB"),
    ],
)
def test_a_damaged_packed_file_is_told(folder, monkeypatch, change, reason):
    monkeypatch.setattr(stage3, "MOST_CHARS", 1500)
    path = folder / "records" / "capitals" / "batch_0.json"
    packed = path.with_name("batch_1.json.gz")
    packed.write_bytes(change(gzip.compress(path.read_bytes().replace(b"Question", b"Another question"))))
    loaded = read(folder / "records")
    assert loaded.rejected == {reason: 1}
    assert len(loaded.records) == 3


def test_what_cannot_be_shipped_leaves_the_old_records(folder, shipped, monkeypatch, capsys):
    before = sorted(path.read_bytes() for path in shipped.rglob("*.gz"))
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="more than 10; generate with a --limit"):
        ship(folder, shipped)
    shutil.rmtree(folder / "unknown")
    monkeypatch.setattr("sys.argv", ["ship", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "unknown holds no <topic>/batch_*.json" in capsys.readouterr().err
    assert sorted(path.read_bytes() for path in shipped.rglob("*.gz")) == before
