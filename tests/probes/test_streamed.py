"""Fits from states on the disk equal those from states in memory, whatever the blocks; memory holds one block."""

import mmap
import weakref

import pytest
import torch

from honest_persona.probes import store, streamed
from honest_persona.probes.answers import WINDOW, _windows
from honest_persona.probes.ccs import fit_ccs, search
from honest_persona.probes.features import Position, Site
from honest_persona.probes.layers import fit_site, fold_of, scores
from honest_persona.probes.linear import fit_logistic, fit_ridge, standardised
from honest_persona.probes.moments import Moments, PairMoments, Spread
from honest_persona.probes.streamed import STREAMED
from honest_persona.probes.vinc import fit_vinc, vinc_matrix
from tests.probes.planted import column, planted


def large_means(states):
    """As real states have them: coordinates whose mean is far above their deviation, and one that does not vary."""
    states = states.clone()
    states[..., 2] += 1000
    states[..., 5] = 7.1
    return states


def test_moments_of_batches_are_those_of_all():
    states, pairs, examples, _ = planted(n=90)
    states, pairs = large_means(states), large_means(pairs)
    whole = Moments.of(states, examples.fail)
    parts = Moments.zero(12)
    for at in range(0, 90, 7):
        parts = parts + Moments.of(states[at : at + 7], examples.fail[at : at + 7])
    for name in ("n", "mean", "scatter", "label_mean", "product"):
        assert torch.allclose(torch.as_tensor(getattr(parts, name)), torch.as_tensor(getattr(whole, name)), atol=1e-8)
    x, mean, scale = standardised(states.double())
    gram, product = parts.standardised()
    varies = torch.arange(12) != 5
    assert torch.allclose(gram[varies][:, varies], (x.T @ x)[varies][:, varies], atol=1e-6)
    assert not gram[5].any(), "a coordinate that does not vary becomes 0, not noise"
    assert torch.allclose(product[varies], (x.T @ (examples.fail.double() * 2 - 1))[varies], atol=1e-6)
    spread = Spread.of(states[:40]) + Spread.of(states[40:])
    assert torch.allclose(spread.mean, mean)
    assert torch.allclose(spread.scale[varies], scale[varies])
    names = examples.transcripts
    several = PairMoments.of(pairs[:30], names[:30]) + PairMoments.of(pairs[30:], names[30:])
    x, neg = pairs.double(), 0.3
    cross = (several.cross + several.cross.T) / (2 * several.m)
    matrix = -(1 - neg) * several.around / (2 * several.m) - neg * cross
    assert torch.allclose(matrix, vinc_matrix(x, names, neg), atol=1e-8)


@pytest.mark.parametrize("block", [11, 64, 500])
def test_closed_forms_equal_those_in_memory(block):
    states, pairs, examples, _ = planted(n=100)
    states, pairs = large_means(states), large_means(pairs)
    fold = torch.arange(100) // 2 % 5
    for method, x in (("ridge", states), ("vinc", pairs)):
        fit, values = STREAMED[method]
        found = fit(column(x, block, examples.transcripts), examples, fold, values, 0)
        assert [len(of) for of in found] == [len(values)] * 6
        for k, of_set in enumerate(found):
            inside = fold != k
            for value, readout in zip(values, of_set, strict=True):
                known = examples[inside.nonzero()[:, 0]]
                if method == "ridge":
                    wanted = fit_ridge(x[inside], known.fail, value)
                    keep = torch.arange(12) != 5  # in memory its mean has a rounding error, which is scaled to 1
                    assert torch.allclose(readout.weight[keep], wanted.weight[keep], atol=1e-4)
                    assert torch.allclose(readout.margin(x), wanted.margin(x), atol=2e-3)
                else:
                    wanted = fit_vinc(x[inside], known.fail, known.transcripts, value)
                    cosine = torch.nn.functional.cosine_similarity(readout.weight, wanted.weight, dim=0)
                    assert abs(float(cosine)) == pytest.approx(1, abs=1e-6)


def test_searches_find_what_those_in_memory_find(monkeypatch):
    monkeypatch.setattr(streamed, "search", lambda x, generator, decay: search(x, generator, decay, steps=60))
    states, pairs, examples, _ = planted(n=100)
    everything = torch.zeros(100, dtype=torch.long)
    everything[50:] = 1
    fit, values = STREAMED["logistic"]
    of_all = fit(column(states, 30), examples, everything, values, 0)[-1]
    for c, readout in zip(values, of_all, strict=True):
        wanted = fit_logistic(states, examples.fail, c)
        z = wanted.margin(states)
        assert torch.allclose(readout.margin(states), z, atol=2e-2 * float(z.std()))
    [of_all] = STREAMED["ccs"][0](column(pairs, 30), examples, everything, (0.01,), 3)[-1]
    wanted = fit_ccs(pairs, examples.fail, seed=3, steps=60)
    cosine = torch.nn.functional.cosine_similarity(of_all.weight, wanted.weight, dim=0)
    assert abs(float(cosine)) == pytest.approx(1, abs=1e-3)


class TestStore:
    sites = (Site(1, Position.RESPONSE_END), Site(2, Position.RESPONSE_END))

    @pytest.mark.parametrize("limit", [2**23, 100], ids=["in memory", "in a file"])
    def test_each_site_is_what_was_written(self, monkeypatch, limit):
        monkeypatch.setattr(store, "IN_MEMORY_BYTES", limit)
        states = torch.randn(23, 2, 2, 5)
        kept = store.StateStore.of((states[a : a + 7] for a in range(0, 23, 7)), self.sites, (2, 5))
        assert isinstance(kept.spool.view(), mmap.mmap) == (limit == 100)
        for k, site in enumerate(self.sites):
            of_site = kept.column(site)
            assert of_site.n == 23
            for _ in range(2):
                assert torch.equal(torch.cat([x for _, x in of_site.chunks()]), states[:, k])
            chosen = torch.tensor([22, 3, 9, 3])
            assert torch.equal(of_site.rows(chosen), states[chosen, k])
            assert (of_site._kept is None) == (limit == 100), "a large column is not kept in memory"

    def test_an_items_rows_are_in_one_block(self):
        names = [f"i{n // 4}" for n in range(30)]
        rows = [rows for rows, _ in column(torch.zeros(30, 3), 6, names).chunks()]
        assert [(of.start, of.stop) for of in rows] == [(0, 8), (8, 16), (16, 24), (24, 30)]

    @pytest.mark.parametrize("method", ["ridge", "inlp", "logistic"])
    def test_states_in_memory_do_not_grow_with_the_answers(self, monkeypatch, method):
        """Counted: states of the blocks that are alive when one more is made, while they are written and read."""
        monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(streamed, "_STEPS", 2)
        read, found = store.Column._read, []

        def gone(alive, size):
            alive[0] -= size

        for n in (60, 240):
            alive, most = [0], [0]

            def counted(states, alive=alive, most=most):
                alive[0] += len(states)
                most[0] = max(most[0], alive[0])
                weakref.finalize(states, gone, alive, len(states))
                return states

            states, _, examples, _ = planted(n=n)
            blocks = (counted(states[a : a + 20, None].clone()) for a in range(0, n, 20))
            monkeypatch.setattr(store.Column, "_read", lambda self, c=counted: ((r, c(x)) for r, x in read(self)))
            kept = store.StateStore.of(blocks, self.sites[:1], states.shape[1:]).column(self.sites[0])
            fitted = fit_site(method, kept, examples, fold_of(examples), seed=0)
            assert len(scores(fitted.readout, kept)) == n
            found.append(most[0])
        assert found[0] == found[1] <= 3 * 20, found
        assert max(stop - start for start, stop in _windows(20_000, ())) == WINDOW, "such a block is what a model reads"
