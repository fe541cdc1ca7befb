"""Files that the package wrote at commit 1b57fb1 resume, load and are read with equal numbers (tests/old_format)."""

import json
import shutil

import pytest

from honest_persona.config.load import load_config
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.evaluation.compare import compare
from honest_persona.evaluation.report.page import write_report
from honest_persona.evaluation.sets import RESULTS_FILE
from honest_persona.experiments.evaluate import evaluate_adapter
from honest_persona.modeling.builtin import tiny_model
from honest_persona.probes.probe import METHODS, Probe
from honest_persona.probes.selection import probe_scores, prompts_of
from honest_persona.training.launch import train
from tests.tiny import form_of
from tests.training.launches import ROOT, TINY

OLD = ROOT / "tests" / "old_format"
NUMBERS = json.loads((OLD / "numbers.json").read_text())
CLOSE = 1e-6
"""Absolute. The numbers are equal to the bit on the machine that wrote them; other CPUs add in another order."""
SETTINGS = {
    "run_name": "run",
    "deepspeed": "null",
    "lora_r": "2",
    "target_modules": "[q_proj, down_proj]",
    "lora_dropout": "0.1",
    "batch_size": "4",
    "per_device_train_batch_size": "2",
    "num_samples": "21",
    "seq_len": "512",
    "max_steps": "5",
    "learning_rate": "0.05",
    "save_strategy": "steps",
    "save_steps": "2",
    "logging_steps": "1",
    "heavy_log_every": "9999",
    "val_samples_per_topic": "1",
    "max_new_tokens": "4",
}


@pytest.fixture
def run(tmp_path):
    """A copy of the old run's folder, to write into."""
    return shutil.copytree(OLD / "run", tmp_path / "checkpoints" / "run")


@pytest.mark.slow
def test_a_checkpoint_resumes_with_equal_losses(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    for file in ("honest_persona.json", "adapter_model.safetensors", "finished.json"):  # as if killed after step 2
        (run / file).unlink()
    words = [word for key, value in SETTINGS.items() for word in (f"--{key}", value)]
    # padded as then: dropout draws for the places of a batch, and rows without padding have others
    train(load_config(TINY[1], [*words, "--resume", "--padding_free", "false"]))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {str(line["step"]): line["loss"] for line in lines if "loss" in line}
    assert list(losses) == list(NUMBERS["losses"]) == ["1", "2", "3", "4", "5"]
    assert losses == pytest.approx(NUMBERS["losses"], abs=10 * CLOSE)
    assert losses["2"] - losses["5"] > 0.1, "the optimizer's state matters meanwhile"


@pytest.mark.slow
def test_an_adapter_is_evaluated_with_equal_figures(run, tmp_path):
    again = tmp_path / "again"
    evaluate_adapter(str(run), topics="[sycophancy, confidence_assessment]", limit=4, output=str(again))
    old, new = ([json.loads(x) for x in (f / "samples.jsonl").read_text().splitlines()] for f in (run / "eval", again))
    p_fail = {line["record_id"]: line["p_fail"] for line in new}
    assert p_fail == pytest.approx(NUMBERS["p_fail"], abs=CLOSE)
    for before, now in zip(old, new, strict=True):
        assert {key: now[key] for key in before if key not in ("evaluation", "p_fail")} == {
            key: before[key] for key in before if key not in ("evaluation", "p_fail")
        }
    rows = [json.loads((folder / RESULTS_FILE).read_text())["rows"] for folder in (run / "eval", again)]
    assert len(rows[0]) == len(rows[1])
    for before, now in zip(*rows, strict=True):
        assert now["rates"] == pytest.approx(before["rates"], abs=CLOSE, nan_ok=True)
        assert (now["ns"], now["counts"]) == (before["ns"], before["counts"])
    row = compare(run / "eval", again).row("within")
    differences = [d.difference for d in row.differences.values() if d.difference is not None]
    assert differences
    assert differences == pytest.approx([0] * len(differences), abs=CLOSE)


@pytest.mark.parametrize("method", METHODS)
def test_a_probe_gives_equal_scores(method):
    probe, model, form = Probe.load(OLD / "probes" / method), tiny_model(), form_of()
    probe.check_model(model)
    records = load_records("builtin:sample", Selection(("sycophancy", "reward_hacks"))).records[:6]
    scores = probe_scores(probe, model, prompts_of(records, form), form).tolist()
    before = NUMBERS["probe_scores"][method]
    assert dict(zip([r.id for r in records], scores, strict=True)) == pytest.approx(before, abs=10 * CLOSE)


def test_an_evaluation_is_drawn_again(run):
    page = write_report(run / "eval").read_text()
    assert "sycophancy" in page
    assert "P(FAIL)" in page
