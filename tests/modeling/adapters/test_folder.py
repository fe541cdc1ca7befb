"""Whoever uses an adapter's folder is told what is wrong with it, by the file's name, before anything is loaded."""

import json
import shutil
from dataclasses import replace

import pytest

from honest_persona import cli
from honest_persona.base.errors import UserError
from honest_persona.base.manifest import MANIFEST, listed, seal
from honest_persona.experiments.calibrate import calibrate_adapter
from honest_persona.experiments.evaluate import evaluate_adapter
from honest_persona.hub.export import export
from honest_persona.hub.push import push
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import check_folder, check_lora_config, seal_folder
from honest_persona.persona.product import PersonaFolder, load_honest_persona
from honest_persona.prompts.tokens import apply_intervention
from honest_persona.training.continued import check_same_persona
from tests.hub.conftest import make_adapter
from tests.tiny import conversation

FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "honest_persona.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    make_adapter(folder)
    return folder


@pytest.fixture
def folder(_made, tmp_path):
    return shutil.copytree(_made, tmp_path / "run")


def flip(path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def test_the_manifest_is_of_all_that_is_loaded(folder):
    assert listed(folder) == set(FILES)
    assert check_folder(folder)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_flipped_bit_or_a_missing_file_is_named(folder, name):
    flip(folder / name)
    with pytest.raises(UserError, match=rf"run: {name} is not what was written"):
        AdapterCard.load(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing|no {name}|manifest .* is missing"):
        AdapterCard.load(folder)


USERS = {
    "load_honest_persona": load_honest_persona,
    "evaluate_adapter": lambda folder: evaluate_adapter(str(folder)),
    "calibrate_adapter": lambda folder: calibrate_adapter(PersonaFolder.read(folder), 0.1),
    "review": lambda folder: cli.main(["review", "--adapter", str(folder), "--input", "nowhere.jsonl"]),
    "push": lambda folder: push(folder, "user/name", dry_run=True),
    "export": lambda folder: export(folder, folder.parent / "out", "alora"),
    "export lora": lambda folder: export(folder, folder.parent / "out", "lora"),
    "adapter: of a run": lambda folder: check_same_persona(str(folder), AdapterCard.load(folder).persona),
}


@pytest.mark.parametrize("user", USERS)
def test_every_user_of_the_folder_asks(folder, user):
    flip(folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is not what was written"):
        USERS[user](folder)


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.bin",
        "tokenizer.model",
        "added_tokens.json",
        "special_tokens_map.json",
        "vocab.txt",
        "chat_template.json",
        "additional_chat_templates/default.jinja",
        "config.json",
    ],
)
def test_a_file_that_would_be_loaded_and_was_not_saved(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(UserError, match=rf"{name} was not saved with the adapter"):
        AdapterCard.load(folder)


def test_other_files_are_nobodys_business(folder):
    for name in (
        "metrics.jsonl",
        "eval/results.json",
        "README.md",
        "env.json",
        "checkpoint-3/config.json",
        "notes.bin",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert check_folder(folder)


def test_an_adapter_of_an_older_version_loads_with_a_warning(folder, caplog):
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="manifest that was saved with this adapter is missing"):
        AdapterCard.load(folder)
    content = json.loads((folder / "honest_persona.json").read_text())
    del content["sealed"]
    (folder / "honest_persona.json").write_text(json.dumps(content))
    for _ in range(2):
        assert 0 <= load_honest_persona(folder, device="cpu").review(conversation(), max_new_tokens=2).p_fail <= 1
    assert caplog.text.count("an adapter of an older version, without manifest.json") == 1


def test_a_checkpoint_is_checked_by_its_own_manifest_and_only_what_is_loaded(folder):
    (folder / "run_state.safetensors").write_bytes(b"gigabytes")
    seal(folder, {"step": 3, "run": {}})
    (folder / "run_state.safetensors").write_bytes(b"damaged")
    assert check_folder(folder), "the state to resume from is not read for a review"
    flip(folder / "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json is not what was written"):
        check_folder(folder)


def test_calibrate_keeps_the_manifest_true(folder):
    adapter = PersonaFolder.read(folder)
    wording = adapter.card.default_intervention
    benign = [(str(i), apply_intervention(conversation(i), wording, adapter.form)) for i in range(4)]
    stored = calibrate_adapter(adapter, 0.5, benign, "own.jsonl", max_new_tokens=2)
    card = AdapterCard.load(folder)
    assert card.threshold["value"] == stored.value
    assert card == replace(card, sealed=True)


@pytest.mark.parametrize("form", ["alora", "lora"])
def test_an_export_has_a_true_manifest(folder, tmp_path, form):
    assert check_folder(export(folder, tmp_path / "out", form))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_alpha", 0),
        ("lora_alpha", float("nan")),
        ("r", True),
        ("target_modules", "(a+)+$"),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 2]]),
        ("init_lora_weights", "corda"),
        ("corda_config", {"cache_file": "x.pt"}),
        ("megatron_core", "os"),
        ("megatron_config", {"a": 1}),
        ("rank_pattern", {"q_proj": 1}),
        ("alpha_pattern", {"q_proj": 1000}),
        ("use_dora", True),
        ("trainable_token_indices", [1]),
        ("bias", "all"),
        ("peft_type", "IA3"),
        ("task_type", "SEQ_CLS"),
        ("alora_invocation_tokens", "abc"),
        ("base_model_name_or_path", 3),
    ],
)
def test_what_no_adapter_of_this_package_has(folder, key, value):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    seal_folder(folder)  # a manifest tells damage, not malice
    with pytest.raises(UserError, match=rf"adapter_config\.json: ({key} is |not PEFT's config .*NaN)"):
        AdapterCard.load(folder)


def test_what_is_of_no_account_in_it(folder):
    path = folder / "adapter_config.json"
    odd = {"base_model_name_or_path": "someone/else", "auto_mapping": {"parent_library": "os"}, "of_tomorrow": None}
    path.write_text(json.dumps({**json.loads(path.read_text()), **odd}))
    seal_folder(folder)
    check_lora_config(folder)
    persona = load_honest_persona(folder, device="cpu")
    assert persona.card.base_model == "builtin:tiny", "the base model is the card's"


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 10**5, b" " * (5 * 2**20)])
def test_a_config_that_is_none(folder, content):
    (folder / "adapter_config.json").write_bytes(content)
    seal_folder(folder)
    with pytest.raises(UserError, match=r"adapter_config\.json: not PEFT's config"):
        AdapterCard.load(folder)
