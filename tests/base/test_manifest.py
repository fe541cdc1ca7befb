"""A folder is trusted only if it is, byte for byte, what its manifest says."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from honest_persona.base import manifest
from honest_persona.base.manifest import MANIFEST, Damaged, change, check, listed, seal


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "weights.safetensors").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "sub" / "state.json").write_text('{"step": 3}')
    (tmp_path / "empty.txt").touch()
    seal(tmp_path, {"step": 3, "run": {"topic": "été"}})
    return tmp_path


FILES = ("weights.safetensors", "sub/state.json", "empty.txt", MANIFEST)


def test_a_whole_folder_gives_back_what_it_was_told(folder):
    assert check(folder) == {"step": 3, "run": {"topic": "été"}}
    (folder / "eval.json").write_text("of somebody else")
    assert check(folder)["step"] == 3
    assert not list(folder.glob("*.partial"))


def damages(content: bytes):
    yield "deleted", None
    if content:
        yield "emptied", b""
        yield "truncated", content[: len(content) // 2]
        yield "cut by a byte", content[:-1]
        for place in range(0, len(content), max(1, len(content) // 60)):
            for bit in (0, 5):
                flipped = bytes([content[place] ^ (1 << bit)])
                yield f"bit {bit} of byte {place} flipped", content[:place] + flipped + content[place + 1 :]
    yield "longer", content + b"\n"


def damage(folder) -> str:
    try:
        check(folder)
    except Damaged as damaged:
        return str(damaged)
    return "none"


@pytest.mark.parametrize("name", FILES)
def test_every_damage_is_named(folder, name):
    path = folder / name
    whole = path.read_bytes()
    for what, content in damages(whole):
        path.unlink() if content is None else path.write_bytes(content)
        assert name in damage(folder), what
        path.write_bytes(whole)
    assert check(folder)["step"] == 3, "negative control: put back, it is whole again"


def test_a_manifest_that_somebody_edited_is_none(folder):
    content = json.loads((folder / MANIFEST).read_text())
    content["about"]["step"] = 4
    (folder / MANIFEST).write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")
    with pytest.raises(Damaged, match="not what was written"):
        check(folder)


def test_a_file_changed_on_purpose(folder):
    change(folder, "sub/state.json", b'{"step": 4}')
    assert check(folder)["step"] == 3
    assert (folder / "sub" / "state.json").read_text() == '{"step": 4}'
    (folder / "sub" / "state.json").write_text('{"step": 3}')
    assert "sub/state.json" in damage(folder), "the old one is none any more"
    change(folder, "unknown.json", b"x")
    assert listed(folder) == {"weights.safetensors", "sub/state.json", "empty.txt"}
    (folder / MANIFEST).unlink()
    change(folder, "sub/state.json", b"{}")
    assert not (folder / MANIFEST).exists()


@pytest.mark.parametrize("kept", range(4))
def test_a_change_that_is_broken_off_leaves_the_folder_whole(folder, kept, monkeypatch):
    """With the old file or the new one, whichever step was the last."""
    moved = []

    def replace(source, target):
        if len(moved) == kept:
            raise KeyboardInterrupt
        moved.append(target)
        os.replace(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    with suppress(KeyboardInterrupt):
        change(folder, "sub/state.json", b'{"step": 4}')
    assert check(folder)["step"] == 3
    assert (folder / "sub" / "state.json").read_text() == ('{"step": 3}' if kept < 2 else '{"step": 4}')


def test_only_some_files(folder):
    (folder / "empty.txt").write_text("x")
    assert check(folder, lambda name: name != "empty.txt")["step"] == 3
    with pytest.raises(Damaged, match=r"empty\.txt has 1 bytes"):
        check(folder, lambda name: name == "empty.txt")
    assert check(folder, lambda _: False)["step"] == 3


@pytest.mark.parametrize(
    "files", [[], {"a": 1}, {"a": {"bytes": "1", "sha256": "x"}}, {"a": {"sha256": "x"}}, {"a": {"or": []}}, None]
)
def test_a_whole_manifest_of_somebody_else(folder, files):
    manifest._write(folder, {"format": 1, "files": files, "about": {}})
    with pytest.raises(Damaged, match=r"manifest\.json is not what was written"):
        check(folder)


def test_a_giant_is_not_read(folder):
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(Damaged, match="10737418240 bytes"):
        check(folder)
