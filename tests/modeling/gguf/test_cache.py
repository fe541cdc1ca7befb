"""Conversions in the user's cache: made once, by one process, whole or not at all, and checked at each load."""

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from honest_persona.base.errors import UserError
from honest_persona.modeling.gguf import cache
from honest_persona.modeling.gguf.cache import VARIABLE, cache_folder, check_conversion, conversion, remembered_hash
from tests.modeling.gguf.written import write_gguf

SHA256 = "ab" * 32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("made") / "tiny.gguf")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The cache, and a conversion that takes no time."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    convert_to(monkeypatch, lambda folder: None)
    return tmp_path / "cache"


def convert_to(monkeypatch, also):
    def convert(header, model, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "config.json").write_text("{}")
        also(folder)

    monkeypatch.setattr("honest_persona.modeling.gguf.convert.convert", convert)


def convert(made, sha256=SHA256):
    return conversion("my/tiny.gguf", "tiny", sha256, lambda: made, {"licence": "Apache-2.0"})


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_where_it_is(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(cache.constants, "HF_HOME", "/home/me/hf")
    assert cache_folder() == Path("/home/me/hf/honest_persona")
    monkeypatch.setenv(VARIABLE, "~/cache")
    assert cache_folder() == Path.home() / "cache"


def test_it_is_made_once(made, folder, monkeypatch, capsys):
    found = convert(made)
    assert found == folder / "models" / f"tiny-{SHA256[:16]}" / "format-1"
    card = json.loads((found / "card.json").read_text())
    assert card == {"model": "Tiny", "licence": "Apache-2.0", "file": str(made), "sha256": SHA256}
    assert "my/tiny.gguf: converted to safetensors once, 0.07 GB in" in capsys.readouterr().err
    monkeypatch.setattr(cache, "_make", lambda *_: pytest.fail("made again"))
    assert conversion("my/tiny.gguf", "tiny", SHA256, lambda: pytest.fail("not needed")) == found
    check_conversion("my/tiny.gguf", found, weights=True)
    assert capsys.readouterr().err == ""
    assert not list((folder / "models").rglob(".*")), "neither a lock nor parts are left"


def test_whoever_may_read_the_folder_may_read_the_weights(made, monkeypatch):
    convert_to(monkeypatch, lambda folder: (folder / "model.safetensors").chmod(0o600))
    found = convert(made)
    assert len({path.stat().st_mode for path in found.iterdir()}) == 1


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("config.json", False, "config.json has 3 bytes in place of 2"),
        ("model.safetensors", True, "model.safetensors has 3 bytes in place of 7"),
        ("card.json", False, "card.json has"),
        ("manifest.json", False, "manifest.json is not what was written"),
    ],
)
def test_altered_files(made, name, weights, expected):
    found = convert(made)
    (found / name).write_text("{ }")
    with pytest.raises(UserError, match=f"is not what was written: {expected}.* Remove that folder") as caught:
        check_conversion("my/tiny.gguf", convert(made) if weights else found, weights=weights)
    assert str(found) in str(caught.value)
    shutil.rmtree(found)
    convert(made)


def test_a_conversion_of_another_file(made, folder):
    other = SHA256[:16] + "00" * 24
    found = convert(made, other)
    with pytest.raises(UserError, match=f"made from a file with SHA-256 {other}, not {SHA256}. Remove that folder"):
        convert(made)
    assert found.is_dir()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError(errno.EIO, "Input")])
def test_a_disk_that_fails(made, folder, monkeypatch, error):
    def fail(_):
        raise error

    convert_to(monkeypatch, fail)
    with pytest.raises(UserError, match=rf"cannot be written to .*{error.strerror}.* set {VARIABLE}"):
        convert(made)
    assert not folder.exists() or files(folder) == [], "nothing half-written"


def test_a_disk_that_is_too_small(made, folder, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=60 * 2**20))
    convert_to(monkeypatch, lambda _: pytest.fail("begun"))
    with pytest.raises(
        UserError, match=rf"needs 0\.07 GB in .*, and 0\.06 GB are free there; make room, or set {VARIABLE}"
    ):
        convert(made)
    assert not folder.exists() or files(folder) == []


def test_a_folder_that_cannot_be_written_to(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(
        UserError, match=rf"'my/tiny.gguf' cannot be converted: .*cache.* cannot be made: .*set {VARIABLE}"
    ):
        convert(made)


def test_an_error_leaves_nothing(made, folder, monkeypatch):
    def fail(_):
        raise KeyboardInterrupt

    convert_to(monkeypatch, fail)
    with pytest.raises(KeyboardInterrupt):
        convert(made)
    assert not folder.exists() or files(folder) == []


def in_child(work):
    """The process id of a fork that does the work: torch is not called there."""
    if pid := os.fork():
        return pid
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_two_processes_at_once(made, folder, monkeypatch, tmp_path):
    def slow(part):
        with (tmp_path / "made").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.4)

    convert_to(monkeypatch, slow)
    children = [in_child(lambda: convert(made)) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len((tmp_path / "made").read_text().splitlines()) == 1
    convert_to(monkeypatch, lambda _: pytest.fail("made again"))
    check_conversion("m", convert(made), weights=True)


def test_a_process_that_was_killed_half_way(made, folder, monkeypatch):
    convert_to(monkeypatch, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    assert os.waitstatus_to_exitcode(os.waitpid(in_child(lambda: convert(made)), 0)[1]) == -signal.SIGKILL
    left = [path for path in folder.rglob("*.part") if path.is_dir()]
    assert len(left) == 1
    convert_to(monkeypatch, lambda _: None)
    convert(made)
    assert not left[0].exists()


def test_a_file_that_took_the_place_and_the_time_of_another_is_hashed_anew(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"one")
    remembered_hash(path)
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp, stamp))  # as `cp -p` and `rsync -t` do
    assert remembered_hash(path) == cache.file_hash(path)


def test_a_hash_is_remembered_while_the_file_stays_as_it_is(tmp_path, folder, monkeypatch):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"one")
    first = remembered_hash(path)
    assert first == cache.file_hash(path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    path.write_bytes(b"two")
    assert remembered_hash(path) == cache.file_hash(path) != first
    (memory,) = (folder / "hashes").iterdir()
    monkeypatch.setattr(cache, "file_hash", lambda _: "hashed")
    assert remembered_hash(path) != "hashed"
    for damage in ("", "[]", "{}", '{"sha256": 3}'):
        memory.write_text(damage)
        assert remembered_hash(path) == "hashed"
    (folder / "hashes").rename(folder / "elsewhere")
    (folder / "hashes").write_text("")  # as in a folder that cannot be written to
    assert remembered_hash(path) == "hashed"
