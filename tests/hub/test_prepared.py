"""A prepared folder goes up as a dataset, by its allow-list and after the search for secrets, and is read back."""

import json

import pytest

from honest_persona.base.errors import UserError
from honest_persona.base.manifest import seal
from honest_persona.cli import main
from honest_persona.data.parts import Parts
from honest_persona.generation.prepare.folder import prepare
from honest_persona.generation.prepare.items import Choice
from honest_persona.hub import upload
from honest_persona.hub.prepared import push_prepared
from tests.generation.prepare.rows import TEMPLATES, write_qnli
from tests.hub.conftest import TOKEN

FILES = {f"{part}/{use}.jsonl" for part in ("train", "val") for use in ("contrast", "prompts", "pairs")}
WHOLE = FILES | {"README.md", "manifest.json", "templates.yaml"}


@pytest.fixture
def prepared(tmp_path):
    rows = write_qnli(tmp_path / "qnli.jsonl", 80)
    prepare(str(rows), TEMPLATES, Choice(Parts.of("train:.6,val:.4")), tmp_path / "out")
    return tmp_path / "out"


def files(hub):
    return hub.files("datasets/user/qnli")


def test_what_goes_up_is_the_folder_and_nothing_beside_it(hub, prepared):
    (prepared / "notes.txt").write_text("mine")
    (prepared / "env.json").write_text("{}")
    commit = push_prepared(prepared, "user/qnli")
    assert set(files(hub)) == WHOLE
    for name in WHOLE:
        assert files(hub)[name] == (prepared / name).read_bytes(), name
    assert commit.url.startswith(hub.url)
    assert push_prepared(prepared, "user/qnli").url == commit.url, "nothing new, no second commit"


def test_older_parts_go_and_other_files_stay(hub, prepared):
    hub.create("datasets/user/qnli", **{"old/pairs.jsonl": b"{}", "notes.txt": b"mine"})
    assert push_prepared(prepared, "user/qnli").others == ("notes.txt",)
    assert set(files(hub)) == WHOLE | {"notes.txt"}


def test_private(hub, prepared):
    push_prepared(prepared, "user/qnli", private=True)
    assert hub.private["datasets/user/qnli"]


def test_a_fault_leaves_the_folder_and_says_how_to_go_on(hub, prepared):
    hub.fail("POST .*/commit/", 403)
    with pytest.raises(UserError, match=f"prepare --output {prepared} --push user/qnli"):
        push_prepared(prepared, "user/qnli")
    hub.mend()
    push_prepared(prepared, "user/qnli")
    assert set(files(hub)) == WHOLE


class TestCommand:
    """`python -m honest_persona prepare`, within this process."""

    @pytest.fixture
    def command(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "80")
        write_qnli(tmp_path / "qnli.jsonl", 80)

        def run(*more: str, data: bool = True) -> str:
            given = ("--dataset", "qnli.jsonl", "--templates", TEMPLATES, "--parts", "train:.6,val:.4") if data else ()
            main(["prepare", *given, "--output", "out", *more])
            return capsys.readouterr().out

        return run

    def test_prepared_and_pushed_and_pushed_later(self, hub, command):
        said = command("--push", "user/qnli", "--license", "cc-by-4.0")
        assert set(files(hub)) == WHOLE
        assert b"license: cc-by-4.0" in files(hub)["README.md"]
        assert "read 80 rows; groups by content (question, sentence)" in said
        assert "pushed and read back" in said
        table = [line for line in said.splitlines() if line.startswith(("part ", "train ", "val "))]
        assert len(table) == 3
        assert max(map(len, table)) <= 80
        assert "pushed and read back" in command("--push", "user/again", data=False)
        assert hub.files("datasets/user/again") == files(hub)

    @pytest.mark.parametrize(
        ("words", "data", "match"),
        [
            ((), False, "--dataset, --templates, --parts is missing"),
            (("--push", "name"), True, "--push: 'name' is no name of a repo"),
            (("--private",), True, "--private: is for an upload"),
            (("--license", "a b"), True, "--license: 'a b' is no licence"),
            (("--dataset", "qnli.jsonl", "--push", "user/name"), False, "--templates, --parts is missing"),
            (("--push", "user/name"), False, "out: it has no manifest.json"),
        ],
    )
    def test_arguments_that_will_not_do(self, hub, command, tmp_path, words, data, match):
        with pytest.raises(UserError, match=match):
            command(*words, data=data)
        assert {path.name for path in tmp_path.iterdir()} == {"qnli.jsonl"}
        assert hub.requests == []

    def test_no_token(self, command, monkeypatch, tmp_path):
        monkeypatch.setattr(upload, "get_token", lambda: None)
        with pytest.raises(UserError, match="no token for the Hub"):
            command("--push", "user/name")
        assert not (tmp_path / "out").exists(), "told before any work is done"


class TestRefused:
    def refused(self, hub, folder, match):
        with pytest.raises(UserError, match=match) as caught:
            push_prepared(folder, "user/qnli")
        assert hub.requests == [], "before anything is sent"
        return str(caught.value)

    def test_a_secret_in_a_row(self, hub, tmp_path):
        rows = write_qnli(tmp_path / "qnli.jsonl", 80, question=f"Is it {TOKEN}?")
        prepare(str(rows), TEMPLATES, Choice(Parts.of("train:1")), tmp_path / "out")
        message = self.refused(hub, tmp_path / "out", "(?s)train/contrast.jsonl: .*Remove it from the dataset")
        assert TOKEN not in message

    def test_a_file_that_was_changed(self, hub, prepared):
        (prepared / "train/pairs.jsonl").write_text("{}\n")
        self.refused(hub, prepared, r"train/pairs.jsonl has 3 bytes in place of")

    def test_a_manifest_with_more_in_it(self, hub, prepared):
        about = json.loads((prepared / "manifest.json").read_text())["about"]
        (prepared / "env.json").write_text("{}")
        seal(prepared, about)
        self.refused(hub, prepared, "env.json is no file of prepare")

    def test_a_link(self, hub, prepared):
        file = prepared / "train/pairs.jsonl"
        file.rename(prepared / "elsewhere")
        file.symlink_to(prepared / "elsewhere")
        self.refused(hub, prepared, "is a link")

    def test_another_folder(self, hub, tmp_path):
        self.refused(hub, tmp_path, "it has no manifest.json")
        (tmp_path / "README.md").write_text("")
        seal(tmp_path, {})
        self.refused(hub, tmp_path, "prepare wrote it not")
