"""The benchmark of preferences compares like with like: the same rows, TRL's losses. Nothing here looks at seconds."""

import json
import math
from dataclasses import replace

import pytest

from benchmarks import preference
from benchmarks.lengths import Group, Suffix, load_groups, one_answer_each, random_pairs
from benchmarks.preference_variants import VARIANTS, PreferenceBench
from benchmarks.setups import SETUPS, random_base, token_format
from benchmarks.variants import OPTIMIZER

FORM = token_format("response")
SETUP = SETUPS["tiny"]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Three large steps of four short rows."""
    monkeypatch.setitem(OPTIMIZER, "learning_rate", 0.05)

    def make(**changes):
        groups = [Group(20 + 7 * n, [Suffix(20 + n, 9 + n)]) for n in range(12)]
        setup = replace(SETUP, **changes)
        return PreferenceBench(setup, random_base(setup), random_pairs(groups, 2048, FORM, 0), tmp_path)

    return make


def losses(trainer):
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_dpo_has_trls_losses(make):
    bench = make()
    trls, ours = losses(bench.trainer("A")), losses(bench.trainer("C"))
    assert ours == pytest.approx(trls, abs=1e-4)
    assert len(ours) == 3
    assert abs(ours[-1] - math.log(2)) > 1e-2, "the policy has left the reference"


def test_kto_has_trls_losses_where_a_micro_batch_is_the_step(make, monkeypatch):
    """TRL shifts answers forward within a micro-batch, we shift them back within a step."""
    bench = make(micro_batch=4)
    backwards = [step[::-1] for step in bench.steps("kto")]
    monkeypatch.setattr(PreferenceBench, "ordered", lambda *_: backwards)
    trls, ours = losses(bench.trainer("F")), losses(bench.trainer("H"))
    assert ours == pytest.approx(trls, abs=1e-4)
    assert abs(ours[-1] - 0.5) > 5e-3, "the policy has left the reference"


def test_steps_have_the_same_rows(make):
    bench = make()
    for objective in ("dpo", "kto"):
        steps = bench.steps(objective)
        assert [sorted(step) for step in bench.ordered(objective)] == [sorted(step) for step in steps]
        for name, variant in VARIANTS.items():
            if variant.objective == objective and variant.scope:
                assert bench.assembly(name).batches.step_rows(0) == steps


def test_rows_have_the_lengths_of_transcripts_and_reviews():
    pairs = random_pairs([Group(30, [Suffix(20, 9), Suffix(20, 12)]), Group(40, [Suffix(20, 5)])], 6400, FORM, 0)
    lengths = [[len(row[c]) for c in ("prompt_ids", "chosen_ids", "rejected_ids")] for row in pairs]
    assert lengths == [[30, 9, 12], [30, 12, 5], [40, 5, 9]]
    assert pairs[0]["prompt_ids"][-len(FORM.answer_prefix) :] == FORM.answer_prefix
    assert pairs[0]["prompt_ids"] != pairs[1]["prompt_ids"], "no prompt is shared, which would be in our favour"
    labelled = one_answer_each(pairs)
    assert labelled["label"] == [True, False, True]
    assert labelled["response_ids"] == [pairs[0]["chosen_ids"], pairs[1]["rejected_ids"], pairs[2]["chosen_ids"]]


def test_prompts_are_four_times_as_long_as_answers():
    pairs = random_pairs(load_groups("default", 2048, 200, 42), 6400, FORM, 0)
    means = {column: sum(map(len, pairs[column])) / 200 for column in ("prompt_ids", "chosen_ids")}
    assert 3.5 < means["prompt_ids"] / means["chosen_ids"] < 5


@pytest.mark.slow
def test_the_script_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("HONEST_PERSONA_CACHE", str(tmp_path))
    file = tmp_path / "figures.json"
    figures = preference.main(["--setup", "tiny", "--only", "A,B,D,E", "--part", "costs", "--json", str(file)])
    flops = {name: one["counted_flops_of_a_step"] for name, one in figures["variants"].items()}
    assert flops["E"] < flops["B"] < flops["A"]
    assert flops["E"] < flops["D"] < flops["A"], "no step computes a reference that is kept"
    assert figures["variants"]["E"]["beside"]["flops"] == flops["D"] / flops["E"]
    assert json.loads(file.read_text())["command"].startswith("python -m benchmarks.preference")


@pytest.mark.slow
def test_the_script_takes_times():
    one = preference.main(["--setup", "tiny", "--rounds", "1", "--only", "A,C", "--part", "times"])["variants"]["C"]
    assert one["beside"]["speed_up"]["n"] == len(one["seconds"]) == 1
    assert one["beside"]["max_loss_difference"] < 1e-4
