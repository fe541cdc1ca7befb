"""One loopback Hub, and one tiny adapter in a folder that holds what a run's folder holds."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from honest_persona.base.manifest import change
from honest_persona.config.load import load_config
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import seal_folder
from honest_persona.modeling.fingerprint import base_fingerprint
from tests.evaluation.report.report_folder import baselines, samples, write_evaluation
from tests.hub.loopback import LoopbackHub
from tests.tiny import base_model, form_of, random_adapter

TOKEN = "hf_" + "LoopbackHubToken"
"""What is not to be found anywhere."""


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    """huggingface_hub talks to it; waits between tries are noted in `hub.waits_s` and not waited for."""
    with LoopbackHub(TOKEN) as loopback:
        for name, value in {
            "ENDPOINT": loopback.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{loopback.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path_factory.mktemp("cache")),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        loopback.waits_s = []
        monkeypatch.setattr(time, "sleep", loopback.waits_s.append)
        huggingface_hub.close_session()
        yield loopback
        huggingface_hub.close_session()


def make_adapter(folder: Path, scope: str = "persona", objective: str = "persona") -> AdapterCard:
    """An adapter of the tiny model, saved as training saves it."""
    form = form_of(adapter_scope=scope)
    base = base_model()
    fingerprint = base_fingerprint(base)
    model = random_adapter(base, form, std=0.5)
    model.save_pretrained(folder)
    form.tokenizer.save_pretrained(folder)
    keys = {"model": "builtin:tiny", "dataset": "builtin:sample", "bf16": "false", "objective": objective}
    config = load_config(None, [part for key, value in keys.items() for part in (f"--{key}", value)]).as_dict()
    card = AdapterCard(
        form.persona, "builtin:tiny", None, fingerprint, "What did you do?", ["sycophancy"], config=config
    )
    card = replace(card, sealed=True)
    card.save(folder)
    seal_folder(folder)
    return card


@pytest.fixture(scope="session")
def _run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "my-run"
    make_adapter(folder)
    plain = samples()
    write_evaluation(folder / "eval", plain, baselines(plain), dataset="builtin:sample", left_out=[])
    (folder / "eval" / "report.html").write_text("<p>transcripts of the data</p>")
    torch.save({"lr": 1.0}, folder / "training_args.bin")
    (folder / "checkpoint-8").mkdir()
    shutil.copy(folder / "adapter_model.safetensors", folder / "checkpoint-8")
    (folder / "checkpoint-8" / "optimizer.pt").write_bytes(b"pickle")
    (folder / "heavy_log").mkdir()
    (folder / "heavy_log" / "samples.jsonl").write_text("{}\n")
    for name in ("train.log", "data.jsonl", "merges.pkl", "trainer_state.json", ".env"):
        (folder / name).write_text("not for others\n")
    (folder / "env.json").write_text(json.dumps({"WANDB_API_KEY": "canary-of-env-json"}))
    return folder


@pytest.fixture
def run_folder(_run, tmp_path) -> Path:
    """A run's folder, to be changed at will."""
    return Path(shutil.copytree(_run, tmp_path / "my-run"))


@pytest.fixture
def edit_card():
    """Rewrites a folder's honest_persona.json."""

    def edit(folder: Path, **changes) -> None:
        change(folder, "honest_persona.json", replace(AdapterCard.load(folder), **changes).as_text().encode())

    return edit
