"""Layer, regularisation, scale and threshold are chosen on training answers, groups apart."""

import pytest
import torch

from honest_persona.probes.ccs import search
from honest_persona.probes.layers import chosen_site, fit_site, fold_of, margins, scores, share_threshold
from honest_persona.probes.probe import ALL_METHODS, auroc
from honest_persona.probes.selection import OF_PAIRS, Examples
from tests.probes.planted import column, planted


def of_method(method, states, pairs, names=()):
    return column(pairs if method in OF_PAIRS else states, 30, names)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_each_method_finds_what_is_there(method, monkeypatch):
    monkeypatch.setattr("honest_persona.probes.streamed.search", quick_search)
    states, pairs, examples, _ = planted(n=160)
    known, new = torch.arange(80), torch.arange(80, 160)
    train = examples[known]
    fitted = fit_site(
        method, of_method(method, states[known], pairs[known], train.transcripts), train, fold_of(train), 0
    )
    there = of_method(method, states[new], pairs[new])
    assert fitted.auroc > 0.95
    assert fitted.auroc == max(one["auroc"] for one in fitted.tried)
    assert auroc(scores(fitted.readout, there), examples.fail[new]) > 0.95
    flagged = margins(fitted.readout, there) > fitted.threshold
    assert (flagged == examples.fail[new]).float().mean() > 0.85


def quick_search(x, generator, weight_decay=0.01):
    return search(x, generator, weight_decay, steps=200)


def test_the_site_is_chosen_by_held_out_folds():
    states, _, examples, _ = planted()
    names = sorted(set(examples.groups))
    memory = torch.eye(len(names))[[names.index(group) for group in examples.groups]]
    fold = fold_of(examples)
    given = {"memory": memory, "true": states}
    fits = [(name, fit_site("ridge", column(x), examples, fold, 0)) for name, x in given.items()]
    assert fits[0][1].auroc < 0.65, "what gives away a group tells nothing of other groups"
    assert auroc(margins(fits[0][1].readout, column(memory)), examples.fail) > 0.9, "and all of its own"
    assert chosen_site(fits)[0] == "true"


def test_folds_are_groups():
    _, _, examples, _ = planted()
    fold = fold_of(examples)
    assert set(fold.tolist()) == set(range(5))
    assert len({(group, k) for group, k in zip(examples.groups, fold.tolist(), strict=True)}) == len(
        set(examples.groups)
    )


@pytest.mark.parametrize("method", ["ridge", "vinc"])
def test_shuffled_labels_give_chance(method):
    """Negative control: groups get labels by chance."""
    areas = []
    for seed in range(4):
        states, pairs, examples, _ = planted(n=160, seed=seed)
        of_group = torch.randperm(40, generator=torch.Generator().manual_seed(seed)) < 20
        shuffled = Examples(of_group[torch.arange(160) // 4], examples.groups, examples.transcripts)
        fit = fit_site(method, of_method(method, states, pairs, examples.transcripts), shuffled, fold_of(shuffled), 0)
        areas.append(sum(one["auroc"] for one in fit.tried) / len(fit.tried))  # the best of several would be too good
    assert abs(sum(areas) / 4 - 0.5) < 0.12, areas


def test_threshold_by_hand():
    # two are FAIL, so the threshold lies between the second and the third value from above
    values, fail = torch.tensor([0.1, 3.0, 2.0, -1.0]), torch.tensor([True, False, True, False])
    assert share_threshold(values, fail) == pytest.approx((2.0 + 0.1) / 2)
