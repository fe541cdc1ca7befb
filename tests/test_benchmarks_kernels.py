"""Kernel calls: what is counted, and that a step of ours takes at most half of those that it would take PEFT's way."""

import pytest
import torch

from benchmarks.kernels import Kernels
from benchmarks.setups import SETUPS
from benchmarks.training import make_bench
from benchmarks.turns import StepwiseTraining
from honest_persona.modeling.adapters.folded import FoldedLinear, Linear


def test_products_and_operators_that_call_no_other_are_counted():
    x = torch.ones(4, 4)
    with Kernels() as kernels:
        ((x @ x.t() + x) * 2).view(16)[None].sum()
    assert kernels.counts == {"mm": 1, "add": 1, "mul": 1, "sum": 1}
    assert kernels.by_kind() == {"products": 1, "copies": 0, "attention": 0, "elementwise": 3}
    with Kernels() as kernels:
        torch.addmm(x, x, x, alpha=2)
        torch.zeros(3)
        torch.empty(3)
        x.clone()
    assert (kernels.counts["addmm"], kernels.counts["zero_"], kernels.by_kind()["copies"]) == (1, 1, kernels.total - 2)


def calls(bench, name, as_pefts=False):
    trainer = bench.trainer(name)
    for layer in trainer.model.modules() if as_pefts else ():
        if isinstance(layer, FoldedLinear):
            layer.__class__ = Linear
    training, kernels = StepwiseTraining(trainer), Kernels()
    training.turn(kernels)
    training.finish()
    return kernels


@pytest.mark.slow
def test_a_step_takes_half_of_the_calls(tmp_path):
    setup = SETUPS["tiny"]
    Kernels().__enter__().__exit__(None, None, None)
    cut, whole = (make_bench(setup, False, 1, tokens, tmp_path) for tokens in (None, 16384))
    before = calls(cut, "H", as_pefts=True)  # padded rows, small micro-batches, PEFT's products
    same_batches, now = calls(cut, "H"), calls(whole, "E")
    assert same_batches.total < 0.93 * before.total
    assert same_batches.by_kind()["products"] < 0.9 * before.by_kind()["products"]
    assert now.total < 0.5 * before.total
