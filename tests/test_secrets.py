"""No access key comes out of an entry point: not from the command line, a config, a message or a traceback.

What a whole run leaves behind is searched in test_whole_run.py.
"""

import os
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing

import pytest

from honest_persona.base.environment import is_secret_value
from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.entry import run_entry
from tests.canaries import IN_ENVIRONMENT, IN_FILE, KEYS, keys_in, places_of_keys

COMMIT = "0123456789" * 4
PASSPHRASE = "correct horse battery"
"""a key that does not look like one; it is known because it is this process's"""


@pytest.fixture
def entry(monkeypatch, capsys, tmp_path):
    """Runs `main` as the entry point of a command line: (exit code, all that it printed)."""

    def run(main, *words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        try:
            code = run_entry(main)
        except SystemExit as stop:
            code = stop.code
        return code, "".join(capsys.readouterr())

    monkeypatch.chdir(tmp_path)
    for name in (*IN_ENVIRONMENT, *IN_FILE):
        monkeypatch.setenv(name, "")
    return run


def never(argv):
    raise AssertionError("main was called")


@pytest.mark.parametrize("key", [*KEYS, PASSPHRASE])
@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["--run_name", "KEY"], "--run_name"),
        (["--dataset=data/KEY"], "--dataset"),
        (["--train_topics", "[KEY, sycophancy]"], "--train_topics"),
        (["--api_key", "KEY"], "--api_key"),
        (["--KEY", "1"], "command line"),
        (["compare", "KEY", "b"], "command line"),
    ],
)
def test_a_key_on_the_command_line_is_refused_and_not_repeated(entry, monkeypatch, key, words, place):
    monkeypatch.setenv("WANDB_API_KEY", key)
    code, output = entry(never, *(word.replace("KEY", key) for word in words))
    assert code == 2
    assert output.startswith(f"error: {place}: looks like a secret; secrets belong into env.json")
    assert key not in output


def test_a_key_of_env_json_is_known_on_the_command_line_too(entry, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "env.json").write_text('{"WANDB_API_KEY": "a passphrase"}')
    code, output = entry(never, "--run_name", "a passphrase")
    assert code == 2
    assert "--run_name: looks like a secret" in output
    assert "passphrase" not in output


@pytest.mark.parametrize(
    "words",
    [
        ["--model_revision", COMMIT],
        [f"--model-revision={COMMIT}"],
        ["--model", f"hub/snapshots/{COMMIT}"],
        ["--run_name", "task-sk-1", "--lora_r", "8"],
    ],
)
def test_other_words_are_let_through(entry, words):
    seen = []
    assert entry(seen.extend, *words) == (0, "")
    assert seen == words


@pytest.mark.parametrize("key", KEYS)
def test_only_a_commit_is_let_through_as_a_revision(entry, monkeypatch, key):
    monkeypatch.setenv("HF_TOKEN", key)
    assert entry(never, "--model_revision", key)[0] == 2


def test_messages_and_tracebacks_hide_keys(entry, monkeypatch):
    for name, value in (IN_ENVIRONMENT | IN_FILE).items():
        monkeypatch.setenv(name, value)

    def bad_input(argv):
        raise UserError(f"dataset: no answer from https://user:{PASSPHRASE.split()[0]}@host with {' '.join(KEYS)}")

    def crash(argv):
        try:
            raise KeyError(KEYS[0])
        except KeyError as error:
            raise RuntimeError(f"401 Unauthorized: {KEYS[1:]}") from error

    code, output = entry(bad_input)
    assert (code, output) == (2, "error: dataset: no answer from https://***@host with *** *** *** ***\n")
    code, output = entry(crash)
    assert code == 1
    assert "KeyError: '***'" in output
    assert "RuntimeError: 401 Unauthorized: ['***', '***', '***']" in output
    assert "in crash" in output, "the traceback itself stays"
    assert not keys_in(output)


CRASH = """
import atexit, os, sys
import wandb
from honest_persona.config.load import load_config
from honest_persona.entry import run_entry

def main(argv):
    wandb.init(mode="offline")
    hooks = sys.exit.__self__  # wandb's own
    atexit.register(lambda: print("wandb knows exit code", hooks.exit_code))
    raise RuntimeError(os.environ["HF_TOKEN"])

if "bare" in sys.argv:
    main(sys.argv)
sys.exit(run_entry(main))
"""


@pytest.mark.slow
@pytest.mark.parametrize("bare", [False, True])
def test_a_crash_within_a_run_of_wandb(tmp_path, bare):
    """wandb prints tracebacks by a hook of its own, and keeps what is printed; it must learn that a run has failed."""
    words = [sys.executable, "-c", CRASH, *(["bare"] if bare else [])]
    environment = os.environ | IN_FILE | {"WANDB_MODE": "offline"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "wandb knows exit code 1" in done.stdout
    assert "RuntimeError: " in done.stderr
    assert bool(keys_in(done.stdout + done.stderr)) == bare
    assert bool(places_of_keys(tmp_path)) == bare
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.parametrize("script", ["train.py", "eval.py", "-m honest_persona data"])
def test_the_real_entry_points(root, tmp_path, script):
    """Each of them begins with this check: no key, and nothing of what it was about to do, is printed."""
    config = tmp_path / "run.yaml"
    config.write_text(f"run_name: {KEYS[0]}\n")
    words = [str(root / script)] if script.endswith(".py") else script.split()
    run = [sys.executable, *words, "--config", str(config), "--run_name", KEYS[2]]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: --run_name: looks like a secret; secrets belong into env.json (see env.example.json) or into the "
        "environment\n"
    )


def test_keys_in_a_config_are_refused_with_their_places(entry, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("".join(f"key_{i}: {key}\n" for i, key in enumerate(KEYS)) + f"run_name: {KEYS[0]}\n")
    code, output = entry(lambda argv: load_config(str(config)))
    assert code == 2
    assert f"{config}:5: run_name: looks like a secret" in output
    assert output.count("looks like a secret") == len(KEYS) + 1
    assert not keys_in(output)


def test_the_search_finds_planted_keys(tmp_path):
    assert places_of_keys(tmp_path) == []
    (tmp_path / "weights.bin").write_bytes(b"\x00\xff" + KEYS[0].encode() + b"\x00")
    with zipfile.ZipFile(tmp_path / "log.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.txt", f"key={KEYS[1]}")
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        database.execute("create table configs (value text)")
        database.execute("insert into configs values (?)", ["x" * 470 + KEYS[2] + "x" * 4000])
        database.commit()
    assert KEYS[2].encode() not in (tmp_path / "runs.db").read_bytes(), "it lies across two pages"
    assert places_of_keys(tmp_path) == [
        f"log.zip/inner.txt: {KEYS[1]}",
        f"runs.db/dump: {KEYS[2]}",
        f"weights.bin: {KEYS[0]}",
    ]


def test_keys_have_the_shapes_that_are_known():
    assert all(is_secret_value(key) for key in KEYS)
    assert len(IN_ENVIRONMENT["WANDB_API_KEY"]) == 40
