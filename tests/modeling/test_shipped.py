"""Models of the package: whole and unaltered, or an error that names the file and the hash."""

import json
import shutil

import pytest

from honest_persona.base.errors import UserError
from honest_persona.modeling import builtin
from honest_persona.modeling.load import get_model
from honest_persona.modeling.shipped import FACTS_FILE, verify_files


@pytest.fixture
def organism(tmp_path, monkeypatch):
    """A copy of the shipped organism that may be damaged."""
    folder = tmp_path / "weights"
    shutil.copytree(builtin.FOLDERS["builtin:organism"], folder)
    monkeypatch.setitem(builtin.FOLDERS, "builtin:organism", folder)
    return folder


def test_the_organism_loads_under_its_name():
    model, tokenizer = get_model("builtin:organism")
    assert model.config.name_or_path == tokenizer.name_or_path == "builtin:organism"
    sizes = [p.stat().st_size for p in builtin.FOLDERS["builtin:organism"].parent.rglob("*") if p.is_file()]
    assert sum(sizes) < 25_000_000


def test_every_shipped_file_is_listed():
    for folder in builtin.FOLDERS.values():
        listed = json.loads((folder / FACTS_FILE).read_text())["sha256"]
        assert set(listed) == {path.name for path in folder.iterdir()} - {FACTS_FILE}
        verify_files(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_an_altered_file_is_named_with_its_hash(organism, name):
    expected = json.loads((organism / FACTS_FILE).read_text())["sha256"][name]
    content = bytearray((organism / name).read_bytes())
    content[len(content) // 2] ^= 1
    (organism / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is altered: .*expected {expected}"):
        get_model("builtin:organism")


def test_a_missing_file_is_named_with_its_hash(organism):
    (organism / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing \(expected SHA-256 [0-9a-f]{64}\)"):
        get_model("builtin:organism")
    (organism / FACTS_FILE).unlink()
    with pytest.raises(UserError, match=r"card\.json is missing"):
        get_model("builtin:organism")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UserError, match=r"'builtin:huge' is not in the package; it has builtin:tiny, builtin:organism"):
        get_model("builtin:huge")
