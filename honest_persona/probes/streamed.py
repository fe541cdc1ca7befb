"""Fits of all methods on states that lie on the disk, several training sets in one pass.

A training set is a mask (n,) bool of examples: those outside of a fold, or all. For each set and each regularisation
there is one readout. Ridge, INLP and VINC need means and covariances alone, which are summed up fold by fold
(moments.py); logistic regression reads the states once per step of its search; CCS takes at most `ccs.MOST_PAIRS`
pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import TypeVar

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from honest_persona.probes.ccs import MOST_PAIRS, chosen, search
from honest_persona.probes.inlp import fit_inlp
from honest_persona.probes.linear import fit_ridge_moments
from honest_persona.probes.moments import Moments, PairMoments, Spread
from honest_persona.probes.probe import Method, Readout
from honest_persona.probes.selection import FITS, Examples
from honest_persona.probes.store import Column
from honest_persona.probes.vinc import fit_vinc_moments

ROUNDS = 8
"""Most rounds of INLP."""
_STEPS = 300
"""Most steps of the search for a logistic regression; it takes tens."""
_ENOUGH = 1e-6
"""Of the gradient of the mean loss, in nats."""

M = TypeVar("M", Moments, PairMoments, Spread)
Streamed = Callable[[Column, Examples, Tensor, Sequence[float], int], list[list[Readout]]]
"""(states, examples, fold of each example (n,), regularisations, seed) -> per training set, per regularisation.

The training sets are: all but fold 0, all but fold 1, ..., all."""


def by_fold(states: Column, fold: Tensor, zero: M, of: Callable[[Tensor, Tensor], M]) -> list[M]:
    """Statistics of each training set, in one pass.

    Args:
        of: (states of some examples of one fold, their places) -> their statistics.
    """
    n_folds = int(fold.max()) + 1
    found = [zero] * n_folds
    for rows, x in states.chunks():
        of_rows = fold[rows]
        for k in of_rows.unique().tolist():
            inside = (of_rows == k).nonzero()[:, 0]
            found[k] = found[k] + of(x[inside], inside + rows.start)
    return [reduce(add, (its for j, its in enumerate(found) if j != k), zero) for k in range(n_folds + 1)]


def label_moments(states: Column, examples: Examples, fold: Tensor) -> list[Moments]:
    """Of states (d,) and their labels, for each training set."""
    zero = Moments.zero(states.shape[0])
    return by_fold(states, fold, zero, lambda x, places: Moments.of(x, examples.fail[places]))


def _ridge(states: Column, examples: Examples, fold: Tensor, strengths: Sequence[float], _: int) -> list[list[Readout]]:
    return [fit_ridge_moments(moments, strengths) for moments in label_moments(states, examples, fold)]


def _inlp(states: Column, examples: Examples, fold: Tensor, rounds: Sequence[float], _: int) -> list[list[Readout]]:
    fits = [fit_inlp(moments, int(max(rounds)))[0] for moments in label_moments(states, examples, fold)]
    return [[readouts[int(k) - 1] for k in rounds] for readouts in fits]


def _vinc(states: Column, examples: Examples, fold: Tensor, weights: Sequence[float], _: int) -> list[list[Readout]]:
    zero = PairMoments.zero(states.shape[-1])

    def of(x: Tensor, places: Tensor) -> PairMoments:
        return PairMoments.of(x, [examples.transcripts[i] for i in places.tolist()])

    return [fit_vinc_moments(moments, weights) for moments in by_fold(states, fold, zero, of)]


def _logistic(states: Column, examples: Examples, fold: Tensor, cs: Sequence[float], _: int) -> list[list[Readout]]:
    spreads = by_fold(states, fold, Spread.zero(states.shape), lambda x, _: Spread.of(x))
    n_folds = len(spreads) - 1
    fits = []
    for k, spread in enumerate(spreads):
        mask = fold != k if k < n_folds else torch.ones_like(fold, dtype=torch.bool)
        start = np.zeros(states.shape[0] + 1)
        of_set = {}
        for c in sorted(cs):  # each begins where the one with the next stronger penalty ended
            start = _minimise(states, examples.fail, mask, spread, c, start)
            w, b = torch.from_numpy(start[:-1]).float(), torch.tensor(start[-1]).float()
            of_set[c] = Readout("logistic", w, b, spread.mean.float(), spread.scale.float())
        fits.append([of_set[c] for c in cs])
    return fits


def _minimise(states: Column, fail: Tensor, mask: Tensor, spread: Spread, c: float, start: np.ndarray) -> np.ndarray:
    """(d + 1,) weight and bias on standardised states: the minimum of C * sum of log losses + |w|^2 / 2."""
    mean, scale = spread.mean.float(), spread.scale.float()
    y = fail.float()

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = torch.from_numpy(parameters[:-1]).float(), float(parameters[-1])
        total, gradient = 0.0, torch.zeros(len(parameters), dtype=torch.float64, device="cpu")
        for rows, x in states.chunks():
            inside = mask[rows]
            x = (x[inside] - mean) / scale
            z, its = x @ w + b, y[rows][inside]
            total += float((torch.nn.functional.softplus(z) - its * z).double().sum())
            residual = torch.sigmoid(z) - its
            gradient[:-1] += (x.T @ residual).double()
            gradient[-1] += residual.double().sum()
        weight = torch.from_numpy(parameters[:-1])
        penalty = 1 / (c * spread.n)
        gradient /= spread.n
        gradient[:-1] += penalty * weight
        return total / spread.n + penalty / 2 * float(weight @ weight), gradient.numpy()

    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS, "gtol": _ENOUGH}).x


def _ccs(states: Column, examples: Examples, fold: Tensor, decays: Sequence[float], seed: int) -> list[list[Readout]]:
    spreads = by_fold(states, fold, Spread.zero(states.shape), lambda x, _: Spread.of(x))
    fits = []
    for k, spread in enumerate(spreads):
        places = (fold != k if k < len(spreads) - 1 else torch.ones_like(fold, dtype=torch.bool)).nonzero()[:, 0]
        mean, scale = spread.mean.float(), spread.scale.float()
        of_set = []
        for decay in decays:
            generator = torch.Generator("cpu").manual_seed(seed)
            x = states.rows(places[chosen(len(places), MOST_PAIRS, generator)])
            of_set.append(Readout("ccs", *search((x - mean) / scale, generator, decay), mean, scale))
        fits.append(of_set)
    return fits


STREAMED: Mapping[Method, tuple[Streamed, tuple[float, ...]]] = {
    "ridge": (_ridge, FITS["ridge"][1]),
    "logistic": (_logistic, FITS["logistic"][1]),
    "ccs": (_ccs, FITS["ccs"][1]),
    "vinc": (_vinc, FITS["vinc"][1]),
    "inlp": (_inlp, (1, 2, 4, ROUNDS)),
}
"""The fit of each method, and the regularisations to try, as in `selection.FITS`; of INLP the number of rounds."""
