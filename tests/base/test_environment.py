"""env.json: what it sets, what it leaves alone, and that no secret gets out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from honest_persona.base import environment
from honest_persona.base.environment import DEFAULTS, SECRETS, SETTINGS, load_environment, redact
from honest_persona.base.errors import UserError

ROOT = Path(__file__).parents[2]
KEY = "hf_" + "a1B2" * 8


@pytest.fixture
def env_json(tmp_path):
    def write(content: object) -> Path:
        path = tmp_path / "env.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def test_file_fills_what_is_not_set(env_json):
    environ = {"NCCL_DEBUG": "INFO"}
    load_environment(env_json({"NCCL_DEBUG": "WARN", "HF_TOKEN": KEY, "TORCHDYNAMO_DISABLE": 1}), environ)
    assert environ["NCCL_DEBUG"] == "INFO"
    assert environ["HF_TOKEN"] == KEY
    assert environ["TORCHDYNAMO_DISABLE"] == "1"


def test_without_a_file_only_the_defaults_are_set(tmp_path):
    environ: dict[str, str] = {}
    load_environment(tmp_path / "absent.json", environ)
    assert environ == DEFAULTS
    assert "CUDA_VISIBLE_DEVICES" not in environ


def test_file_wins_over_the_default_and_an_empty_value_unsets_nothing(env_json):
    environ: dict[str, str] = {}
    load_environment(env_json({"NCCL_DEBUG": "INFO", "WANDB_API_KEY": ""}), environ)
    assert environ == {**DEFAULTS, "NCCL_DEBUG": "INFO"}


def test_launcher_keeps_its_devices(env_json):
    environ = {"CUDA_VISIBLE_DEVICES": "3"}
    load_environment(env_json({"CUDA_VISIBLE_DEVICES": "0,1"}), environ)
    assert environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_real_environment_is_the_default_target(env_json, monkeypatch):
    for name in (*DEFAULTS, "OPENROUTER_KEY"):
        monkeypatch.setenv(name, "before")  # so that monkeypatch restores it
        monkeypatch.delenv(name)
    load_environment(env_json({"OPENROUTER_KEY": "from-file"}))
    assert environment.os.environ["OPENROUTER_KEY"] == "from-file"


def test_all_problems_come_at_once_with_lines_and_without_values(env_json):
    path = env_json('{\n"HF_TOKNE": "tops3cret",\n"NCCL_DEBUG": null,\n"HF_TOKEN": ["tops3cret"],\n"HF_TOKEN": true}')
    environ: dict[str, str] = {}
    with pytest.raises(UserError) as caught:
        load_environment(path, environ)
    message = str(caught.value)
    assert f"{path}:2: HF_TOKNE: unknown name" in message
    assert f"{path}:3: NCCL_DEBUG: the value must be text or a number" in message
    assert f"{path}:4: HF_TOKEN: the value must be text or a number" in message
    assert "HF_TOKEN: is given twice" in message
    assert "tops3cret" not in message
    assert environ == {}


@pytest.mark.parametrize(
    ("content", "place"), [('{\n"HF_TOKEN": "tops3cret"', ":2:"), ('["tops3cret"]', "JSON object")]
)
def test_malformed_file_names_the_place_and_hides_its_content(env_json, content, place):
    with pytest.raises(UserError, match=place) as caught:
        load_environment(env_json(content), {})
    # The decoder's own exception carries the file's text; it must not be shown by a traceback either.
    assert "tops3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_file_that_is_not_text(tmp_path):
    path = tmp_path / "env.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_environment(path, {})


def test_example_names_every_variable_and_loads():
    """All but TORCHDYNAMO_DISABLE, which would switch compiling off without a word; env.json may hold that too."""
    example = json.loads((ROOT / "env.example.json").read_text())
    shown = [name for name in SETTINGS if name != "TORCHDYNAMO_DISABLE"]
    assert list(example) == [*SECRETS, *shown]
    assert all(example[name] == "" for name in SECRETS)
    assert {name: example[name] for name in DEFAULTS} == DEFAULTS
    environ: dict[str, str] = {}
    load_environment(ROOT / "env.example.json", environ)
    assert set(environ) == set(shown)


def test_redact_hides_secrets_of_the_environment_and_what_looks_like_one(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "correct-horse-battery")
    monkeypatch.setenv("SOME_OTHER_API_KEY", "correct-horse")
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    text = redact(f"WARN key=correct-horse-battery; {KEY}; sk-{'x' * 20}; correct-horse")
    assert text == "WARN key=***; ***; ***; ***"


@pytest.mark.parametrize(
    "name", ["WANDB_API_KEY", "HF_TOKEN", "OPENROUTER_KEY", "hub_token", "openai_api_key", "token"]
)
def test_secret_names(name):
    assert environment.is_secret_name(name)


@pytest.mark.parametrize("name", ["sp_token_id", "max_new_tokens", "CUDA_VISIBLE_DEVICES", "keys"])
def test_other_names(name):
    assert not environment.is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [KEY, f"x={KEY}", "sk-or-v1-" + "0" * 20, "wandb_v1_" + "a" * 20, "0123456789" * 4, "https://user:pa55@host/x"],
)
def test_secret_values(text):
    assert environment.is_secret_value(text)


@pytest.mark.parametrize(
    "text",
    ["Qwen/Qwen3-8B", "data/hf_cache", "snapshots/" + "0123456789" * 4, "task-sk-1", "http://localhost:80/a@b", ""],
)
def test_other_values(text):
    assert not environment.is_secret_value(text)


def test_importing_it_does_not_import_torch():
    code = "import sys, honest_persona.base.environment as _; assert not {'torch', 'deepspeed'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
