"""A probe that works, from the labelled answers to a model that says what it knows; and the same with nothing to read.

The model (knowing.py) holds whether its answer was true, and answers by chance. A probe of that passes the gate, and a
training on its labels makes the answers about words true that no training saw.
"""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from honest_persona.cli import main
from honest_persona.config.load import load_config
from honest_persona.entry import run_entry
from honest_persona.evaluation.answers.samples import BASE, TRAINED
from honest_persona.experiments.evaluate_answers import evaluate_trained_answers
from honest_persona.experiments.probe import Options, probe
from honest_persona.labelling.gate import GATE_SUFFIX
from honest_persona.labelling.sample import Sampling, sample_answers
from honest_persona.modeling.builtin import tiny_tokenizer
from honest_persona.probes.features import Position
from honest_persona.training.launch import train
from tests.labelling.knowing import facts, knowing_model, words
from tests.labelling.test_sample import lines_of

pytestmark = pytest.mark.slow
N_TRAIN, N_HELD_OUT, N_ANSWERS = 120, 80, 4
JUDGE = """
def is_true(row, answer):
    said = {"Yes.": True, "No.": False}.get(answer)
    return None if said is None else said == row["about"]["good"]
"""


@dataclass
class Made:
    folder: Path
    judge: str

    def config(self, dataset, *flags):
        fixed = ["--model", str(self.folder / "model"), "--bf16", "false", "--objective", "dpo", "--judge", self.judge]
        return load_config(None, [*fixed, "--dataset", str(self.folder / dataset), *flags])

    def write(self, name, lines):
        (self.folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return self.folder / name

    def lines(self, name):
        return lines_of(self.folder / name)

    def label(self, monkeypatch, reward, output):
        """The exit code of the command."""
        said = ["label", "--input", self.folder / "samples.jsonl", "--reward", f"[{reward}]"]
        said += ["--output", self.folder / output, "--reward_invalid", "0", "--model", self.folder / "model"]
        said += ["--judge", self.judge, "--objective", "dpo"]
        monkeypatch.setattr(sys, "argv", ["honest_persona", *map(str, said)])
        return run_entry(main)

    def truth_after(self, name):
        """Shares of true answers about held-out words, with interval: of the start, and after a training on `name`."""
        flags = ["--lora_r", "8", "--learning_rate", "3e-3", "--max_steps", "30", "--also", "{sft: 0.3}"]
        flags += ["--batch_size", "16", "--per_device_train_batch_size", "16", "--val_samples_per_topic", "0"]
        run = train(self.config(name, *flags, "--run_name", name), self.folder / "runs")
        output = self.folder / f"{name}.eval"
        prompts = str(self.folder / "prompts.jsonl")
        found = evaluate_trained_answers(str(run), prompts, judge=self.judge, output=str(output), prints=False)
        rows = [found.row("within", policy=policy) for policy in (BASE, TRAINED)]
        assert {row.n for row in rows} == {N_HELD_OUT}
        return [(row.rates["truthful"], row.intervals["truthful"]) for row in rows]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model, its sampled answers, and a probe for each of two kinds of labels: true ones, and chance."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "judge.py").write_text(JUDGE)
    of = Made(folder, f"python:{folder / 'judge.py'}:is_true")
    torch.set_num_threads(1)
    good = facts(words(N_TRAIN + N_HELD_OUT))
    knowing_model(good).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    rows = [
        {
            "messages": [{"role": "user", "content": f"Is {word} good?"}],
            "group": word,
            "about": {"good": is_good},
            "split": "train" if place < N_TRAIN else "validation",
        }
        for place, (word, is_good) in enumerate(good.items())
    ]
    of.write("prompts.jsonl", rows)
    answered = [(row, said) for row in rows for said in ("Yes.", "No.")]
    chance = random.Random(0)
    by_chance = {row["group"]: chance.random() < 0.5 for row in rows}  # of a word, whatever is said of it
    labels = {
        "true": lambda row, said: row["about"]["good"] == (said == "Yes."),
        "chance": lambda row, said: by_chance[row["group"]],
    }
    for name, label in labels.items():
        of.write(f"{name}.jsonl", [{**row, "response": said, "label": label(row, said)} for row, said in answered])
        options = Options(methods=("ridge",), places=(Position.TURN_END,))
        probe(of.config(f"{name}.jsonl"), options, folder / f"probe-{name}")
    how = Sampling(n=N_ANSWERS, max_new_tokens=6)
    sample_answers(of.config("prompts.jsonl"), folder / "samples.jsonl", how, dtype="float32")
    return of


def test_a_probe_that_works_passes_the_gate_and_makes_answers_true(made, monkeypatch):
    lines = made.lines("samples.jsonl")
    true = [line["about"]["good"] == (line["response"] == "Yes.") for line in lines]
    assert 0.4 < sum(true) / len(lines) < 0.6, "the model answers by chance"
    assert made.label(monkeypatch, f"probe:{made.folder / 'probe-true'}", "scored.jsonl") == 0
    assert len(made.lines("scored.jsonl")) == len(lines)
    gate = json.loads((made.folder / f"scored.jsonl{GATE_SUFFIX}").read_text())
    assert gate["verdict"] == "passed"
    assert gate["n"] == N_HELD_OUT * N_ANSWERS
    (_, of_start), (truth, interval) = made.truth_after("scored.jsonl")
    assert truth >= 0.9
    assert of_start[0] < 0.5 < of_start[1] < interval[0]


def test_a_blind_probe_is_refused_before_the_training_answers_are_scored(made, monkeypatch, capsys):
    assert made.label(monkeypatch, f"probe:{made.folder / 'probe-chance'}", "blind.jsonl") == 2
    assert "its interval holds 0.5" in capsys.readouterr().err
    scored = made.lines("blind.jsonl")
    assert (len(scored), {line["split"] for line in scored}) == (N_HELD_OUT * N_ANSWERS, {"validation"})
    gate = json.loads((made.folder / f"blind.jsonl{GATE_SUFFIX}").read_text())
    low, high = gate["auroc"][1]
    assert low <= 0.5 <= high
    assert gate["verdict"] == "blind"


def test_a_training_on_random_labels_makes_no_answer_truer(made):
    chance = random.Random(0)
    made.write("random.jsonl", [{**line, "score": chance.random()} for line in made.lines("samples.jsonl")])
    (_, of_start), (truth, interval) = made.truth_after("random.jsonl")
    assert truth < of_start[1]
    assert interval[0] < 0.5 < interval[1]
