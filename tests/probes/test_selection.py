"""Everything about a probe is chosen on training data, groups apart; without a signal nothing is found."""

import pytest
import torch

from honest_persona.base.errors import UserError
from honest_persona.config.keys import RunConfig
from honest_persona.config.persona import Persona
from honest_persona.data.load import load_splits
from honest_persona.data.splits import sample_per_topic
from honest_persona.modeling.load import get_model
from honest_persona.probes.features import Position, Site, read_states
from honest_persona.probes.probe import METHODS, auroc
from honest_persona.probes.selection import Examples, Origin, fit_probe, grouped_folds, prompts_of
from honest_persona.prompts.tokens import TokenFormat
from tests.probes.planted import ORIGIN, planted
from tests.tiny import record

SITES = {"states": Site(2, Position.RESPONSE_END), "pairs": Site(2, Position.FLAG)}


def sites_of(states, pairs):
    return {SITES["states"]: states, SITES["pairs"]: pairs}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_finds_what_is_there(method):
    states, pairs, examples, _ = planted(n=160)
    known, new = torch.arange(80), torch.arange(80, 160)  # of one world: the words and the direction are the same
    given = {site: x[known] for site, x in sites_of(states, pairs).items()}
    probe = fit_probe(method, given, examples[known], ORIGIN)
    scores = probe.score(sites_of(states, pairs)[probe.site][new])
    assert auroc(scores, examples.fail[new]) > 0.98
    assert ((scores > 0.5) == examples.fail[new]).float().mean() > 0.9
    assert probe.about["auroc"] > 0.95
    assert probe.about["n"] == 80


@pytest.mark.parametrize("method", METHODS)
def test_shuffled_labels_give_chance(method):
    """Negative control: whole groups get other labels, so that what they share is no help."""
    areas = []
    runs = 3 if method == "ccs" else 8
    for seed in range(runs):
        states, pairs, examples, _ = planted(n=160, seed=seed)
        g = torch.Generator().manual_seed(seed)
        of_group = torch.randperm(40, generator=g) < 20
        fail = of_group[torch.arange(160) // 4]
        shuffled = Examples(fail, examples.groups, examples.transcripts)
        strength = {"ridge": [10.0], "logistic": [0.1], "ccs": [0.01], "vinc": [0.5]}[
            method
        ]  # one: no choice to profit
        probe = fit_probe(method, sites_of(states, pairs), shuffled, ORIGIN, strength, seed=seed)
        areas.append(probe.about["auroc"])
    # 20 groups of each flag: a standard error of 0.09 per run, of 0.05 over 3
    assert abs(sum(areas) / runs - 0.5) < 0.15, areas


def test_site_and_strength_are_chosen_by_what_is_held_out():
    states, _, examples, _ = planted()
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(states.shape, generator=g)
    # a site that gives away each group, and so the label of every group it was fitted on, but of no other
    names = sorted(set(examples.groups))
    memory = torch.eye(len(names))[[names.index(group) for group in examples.groups]]
    memory = torch.nn.functional.pad(memory, (0, 12))
    given = {
        Site(1, Position.RESPONSE_END): noise,
        Site(2, Position.RESPONSE_MEAN): states,
        Site(3, Position.BEFORE_TRIGGER): memory,
    }
    probe = fit_probe("ridge", given, examples, ORIGIN)
    assert probe.site == Site(2, Position.RESPONSE_MEAN)
    table = {(c["layer"], c["regularisation"]): c["auroc"] for c in probe.about["cross_validation"]}
    assert len(table) == 15
    assert probe.about["auroc"] == max(table.values()) == table[2, probe.about["regularisation"]]
    assert table[3, 1.0] < 0.65


def test_groups_stay_together():
    _, _, examples, _ = planted()
    held = []
    for train, held_out in grouped_folds(examples, 5, seed=0):
        in_train = {examples.groups[i] for i in train.tolist()}
        assert not in_train & {examples.groups[i] for i in held_out.tolist()}
        held += held_out.tolist()
    assert sorted(held) == list(range(len(examples.fail)))


def test_examples_of_records():
    records = [record(0), record(0, id="again", intervention="Other."), record(1, group="town", flag="PASS")]
    examples = Examples.of(records)
    assert examples.fail.tolist() == [True, True, False]
    assert examples.groups == ["i0", "i0", "town"]
    assert examples.transcripts[0] == examples.transcripts[1] != examples.transcripts[2]
    assert examples[torch.tensor([2])].groups == ["town"]


def test_what_cannot_be_fitted_is_refused():
    states, pairs, examples, _ = planted()
    few = torch.arange(12)
    with pytest.raises(UserError, match=r"from at least 5 items .* each .*; there are [0-4] with (FAIL|PASS)"):
        fit_probe("ridge", {SITES["states"]: states[few]}, examples[few], ORIGIN)
    with pytest.raises(UserError, match="ccs reads contrast pairs"):
        fit_probe("ccs", {SITES["states"]: states}, examples, ORIGIN)
    with pytest.raises(UserError, match="ridge reads transcripts"):
        fit_probe("ridge", {SITES["pairs"]: pairs}, examples, ORIGIN)


@pytest.mark.slow
def test_a_probe_reads_what_the_organisms_states_hold():
    """Positive control on a trained model: which hidden prompt it saw. Whether it misled is asserted nowhere: the
    organism's states do not show that to a linear reader."""
    _, splits = load_splits(RunConfig(dataset="builtin:organism", model="builtin:organism"))
    base, tokenizer = get_model("builtin:organism", dtype=torch.float32)
    form = TokenFormat.of(tokenizer, Persona())
    known, new = sample_per_topic(splits.train, 48, 0), sample_per_topic(splits.within, 16, 0)
    at = {"layers": [4], "at": [Position.RESPONSE_END]}
    states, new_states = (read_states(base, prompts_of(records, form), form, **at) for records in (known, new))
    examples = Examples.of(known)
    variant = Examples(torch.tensor([r.variant == "B" for r in known]), examples.groups, examples.transcripts)
    probe = fit_probe("logistic", states, variant, Origin.of(base, form), [0.01])
    truth = torch.tensor([r.variant == "B" for r in new])
    assert auroc(probe.score(new_states[probe.site]), truth) > 0.9
