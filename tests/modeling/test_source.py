"""Where a model's name leads: the package, another package, a file in GGUF, or itself."""

import re
from pathlib import Path

import pytest

from honest_persona.base.errors import UserError
from honest_persona.modeling import load, source
from honest_persona.modeling.builtin import FOLDERS, TINY
from honest_persona.modeling.gguf.cache import VARIABLE
from honest_persona.modeling.source import is_gguf, source_of
from tests.modeling.gguf.written import write_gguf


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_names_that_stand_for_themselves(tmp_path):
    (tmp_path / "a.gguf").mkdir()
    for name in ("user/model", "user/model-GGUF", str(tmp_path), "a.gguf", TINY):
        assert source_of(name) == name
        assert not is_gguf(name)


def test_a_model_of_the_package():
    assert source_of("builtin:organism") == str(FOLDERS["builtin:organism"])
    with pytest.raises(
        UserError, match="it has builtin:tiny, builtin:organism, builtin:organism-twin, builtin:smollm2"
    ):
        source_of("builtin:big")


def test_a_file_in_gguf(tmp_path):
    write_gguf(tmp_path / "My Model.GGUF")
    found = Path(source_of("./My Model.GGUF"))
    assert found.is_relative_to(tmp_path / "cache")
    assert found.parent.name.startswith("My Model-")
    assert source_of("./My Model.GGUF", weights=True) == str(found)
    (tmp_path / "My Model.GGUF").rename("b.gguf")
    with pytest.raises(UserError, match=r"there is no file './My Model\.GGUF'"):
        source_of("./My Model.GGUF")


def test_weights_are_checked_where_they_are_loaded(tmp_path):
    write_gguf(tmp_path / "a.gguf")
    weights = Path(source_of("a.gguf")) / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    load.load_tokenizer("a.gguf")
    with pytest.raises(UserError, match=r"model\.safetensors is not what was written: its SHA-256 differs"):
        load.load_base("a.gguf")


def test_an_altered_file_is_another_model(tmp_path):
    write_gguf(tmp_path / "a.gguf")
    first = source_of("a.gguf")
    write_gguf(tmp_path / "a.gguf", add=lambda writer: writer.add_description("another one"))
    assert source_of("a.gguf") != first


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("modle-q4.gguf", "model: there is no file 'modle-q4.gguf'; there is model-q4.gguf"),
        ("user/x.gguf", "`hf download USER/REPO x.gguf --local-dir .`, then `model: x.gguf`"),
    ],
)
@pytest.mark.parametrize("of", [load.load_tokenizer, load.check_loadable])
def test_no_such_file(tmp_path, name, expected, of):
    (tmp_path / "model-q4.gguf").write_bytes(b"")
    with pytest.raises(UserError, match=re.escape(expected)):
        of(name)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    write_gguf(tmp_path / "a.gguf")
    monkeypatch.setattr(source, "remembered_hash", refuse)
    with pytest.raises(UserError, match=r"'a\.gguf' cannot be read: Permission denied"):
        source_of("a.gguf")
