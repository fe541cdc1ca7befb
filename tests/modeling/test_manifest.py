"""A folder is trusted only if it is, byte for byte, what its manifest says."""

import json

import pytest

from honest_persona.modeling.manifest import MANIFEST, Damaged, check, reseal, seal


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
    (folder / "sub" / "state.json").write_text('{"step": 4}')
    reseal(folder, "sub/state.json")
    assert check(folder)["step"] == 3
    reseal(folder, "unknown.json")
    (folder / MANIFEST).unlink()
    reseal(folder, "sub/state.json")
    assert not (folder / MANIFEST).exists()
