"""An objective that this file alone defines and registers: label-smoothed SFT on the honest persona's tokens.

Where one of these tests needs an edit of another file, the table of objectives is not finished.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from honest_persona.base.errors import UserError
from honest_persona.config import trainer_options
from honest_persona.config.load import load_config
from honest_persona.experiments.evaluate import evaluate_adapter
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.prompts.collator import PersonaCollator
from honest_persona.prompts.tokens import IGNORED
from honest_persona.training import objective_table
from honest_persona.training.launch import train
from honest_persona.training.objective_table import Objective, register
from honest_persona.training.resumable import ResumableRun
from tests.training.launches import ROOT, TINY, Run, launch

SMOOTHING = 0.2


def smoothed(logits, labels, num_items):
    """Sum of the cross-entropy with a share of each target spread evenly over the vocabulary / `num_items`."""
    whole = {"ignore_index": IGNORED, "label_smoothing": SMOOTHING, "reduction": "sum"}
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), **whole) / num_items


class SmoothedTrainer(ResumableRun, SFTTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        gate = activation_arguments(self.card.persona.adapter_scope, inputs["activation"], ids.shape[1])
        logits = model(input_ids=ids, attention_mask=mask, **gate, use_cache=False).logits
        self.sums.add(tokens=mask.sum(), supervised=(inputs["labels"] != IGNORED).sum())
        return self.over_ranks(smoothed(logits, inputs["labels"], num_items_in_batch), num_items_in_batch)

    def figures(self, sums):
        return {"supervised_frac": sums["supervised"] / sums["tokens"]}


def register_smoothed():
    register(Objective("smoothed", SmoothedTrainer, PersonaCollator.of), trainer_options.options_of("persona"))


@pytest.fixture(scope="module", autouse=True)
def registered():
    """In this module alone."""
    with pytest.MonkeyPatch.context() as patch:
        for module, table in ((objective_table, "_OBJECTIVES"), (trainer_options, "_OPTIONS")):
            patch.setattr(module, table, dict(getattr(module, table)))
        register_smoothed()
        yield


STEPS, SAVED_AT = 4, 2
SHORT = {
    "deepspeed": "null",
    "num_samples": "18",
    "seq_len": "512",
    "batch_size": "4",
    "per_device_train_batch_size": "2",
    "logging_steps": "1",
    "max_steps": str(STEPS),
    "save_strategy": "steps",
    "save_steps": str(SAVED_AT),
    "heavy_log_every": "9999",
    "val_samples_per_topic": "1",
    "max_new_tokens": "2",
}


def words_of(name, *flags, objective="smoothed", **settings):
    words = [word for key, value in {**SHORT, **settings}.items() for word in (f"--{key}", value)]
    return [*words, "--objective", objective, "--run_name", name, *flags]


def run_of(name, *flags, config=TINY[1], **settings):
    return Run(0, "", train(load_config(config, words_of(name, *flags, **settings))))


def stopped(run, name):
    """A copy of the run as it stood at its first checkpoint."""
    folder = shutil.copytree(run.folder, run.folder.with_name(name))
    for path in (folder / "honest_persona.json", folder / "adapter_model.safetensors", folder / "finished.json"):
        path.unlink()
    shutil.rmtree(max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("toy"))
        yield run_of("whole")


@pytest.mark.slow
def test_its_loss_its_figures_and_its_heavy_logs_are_there(whole):
    assert whole.series("step") == [1, 2, 3, 4]
    assert all(0 < share < 1 for share in whole.series("supervised_frac"))
    assert all(rate > 0 for rate in whole.series("tokens_per_second"))
    assert "review_loss" not in whole.lines[0], "the persona's figures are the persona's"
    assert whole.series("loss")[-1] < whole.series("loss")[0]
    logs = sorted(path.parent.name for path in whole.folder.glob("heavy_log/*/results.json"))
    assert logs == ["step_000000", "step_000004"]
    assert AdapterCard.load(whole.folder).config["objective"] == "smoothed"


@pytest.mark.slow
def test_a_resumed_run_has_equal_numbers(whole):
    stopped(whole, "again")
    again = run_of("again", "--resume")
    for key in ("step", "loss", "grad_norm", "supervised_frac"):
        assert again.series(key) == whole.series(key)
    for name, weight in whole.adapter().items():
        assert torch.equal(weight, again.adapter()[name]), name


@pytest.mark.slow
def test_another_objective_does_not_resume_it(whole):
    stopped(whole, "other")
    with pytest.raises(UserError, match='belongs to another run: objective: "smoothed" there, "persona" here'):
        run_of("other", "--resume", objective="persona")


@pytest.mark.slow
def test_its_adapter_is_evaluated(whole):
    results = evaluate_adapter(str(whole.folder), limit=1, max_new_tokens=2, baselines="none")
    assert results.row("within").n + results.row("across").n == len(results.samples) > 0


@pytest.mark.slow
def test_two_ranks_have_the_same_losses(whole, tmp_path):
    """This file is an entry point too: it registers the objective in each process, and trains."""
    here = Path(__file__).relative_to(ROOT)
    words = words_of("ranks", deepspeed="ds_configs/zero3.json", val_samples_per_topic="0")
    run = launch(tmp_path, "ranks", *TINY, *words, launcher="deepspeed", script=str(here))
    assert run.code == 0, run.output[-3000:]
    assert run.series("loss") == pytest.approx(whole.series("loss"), abs=1e-5)
    assert run.series("grad_norm") == pytest.approx(whole.series("grad_norm"), rel=1e-3)


def test_its_loss_by_hand():
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    log_p = logits.log_softmax(-1)
    by_hand = (1 - SMOOTHING) * -log_p[0, 0, 4] + SMOOTHING * -log_p[0, 0].mean()
    assert smoothed(logits, torch.tensor([[IGNORED, 4, IGNORED]]), 2).item() == pytest.approx(by_hand.item() / 2)


@pytest.mark.slow
def test_it_trains_the_organism(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"num_samples": "400", "batch_size": "16", "per_device_train_batch_size": "8", "seq_len": "1024"}
    settings |= {"max_steps": "32", "save_steps": "24", "bf16": "false", "max_new_tokens": "48"}
    organism = {"config": str(ROOT / "hp.yaml"), **settings, "val_samples_per_topic": "4"}
    run = run_of("organism", **organism)
    losses = run.series("loss")
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    stopped(run, "again")
    again = run_of("again", "--resume", **organism)
    assert again.series("loss") == losses
    logs = [json.loads(path.read_text()) for path in sorted(again.folder.glob("heavy_log/*/results.json"))]
    assert [log["about"]["step"] for log in logs] == [0, 32]
    assert evaluate_adapter(str(again.folder), limit=4, baselines="none").row("within").n > 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from train import main

    register_smoothed()
    main([word for word in sys.argv[1:] if not word.startswith("--local_rank")])
