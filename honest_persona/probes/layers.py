"""One probe per method and site, chosen and scaled on training data alone; and the site that training data choose.

    fitted = fit_site("ridge", store.column(site), examples, fold_of(examples), seed=0)
    best = chosen_site([fitted_at_one_site, fitted_at_another_one])     # by cross-validation
    z = margins(fitted.readout, held_out.column(site))                  # (n,), log odds of FAIL

Folds are groups: no margin that decides anything comes from a readout that saw the example's group.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from honest_persona.probes.features import Site
from honest_persona.probes.inlp import fit_inlp, round_readouts
from honest_persona.probes.probe import Method, Readout, auroc, platt
from honest_persona.probes.selection import Examples, grouped_folds
from honest_persona.probes.store import Column
from honest_persona.probes.streamed import ROUNDS, STREAMED, label_moments

FOLDS = 5
SCALED = frozenset({"ridge", "vinc", "inlp"})
"""Methods whose margins become log odds by Platt scaling, fitted on the held-out folds."""
SIGNED = frozenset({"ccs", "vinc"})
"""Methods that use labels for the sign alone."""


class Fitted(NamedTuple):
    """What training data say at one site."""

    readout: Readout
    """Fitted on all training examples."""
    regularisation: float
    auroc: float
    """Mean over the held-out folds, at this regularisation."""
    tried: list[dict[str, float]]
    """Every regularisation with its AUROC."""
    threshold: float
    """On the margin: as many training examples are above, when their fold is held out, as are FAIL."""
    left: list[float] | None = None
    """Of INLP: AUROC over the held-out folds of each round's classifier, which sees what earlier rounds left."""
    each_round: list[Readout] | None = None
    """Of INLP: these classifiers, fitted on all training examples."""


def fold_of(examples: Examples, folds: int = FOLDS, seed: int = 0) -> Tensor:
    """(n,) the fold in which each example is held out. Raises TooFewGroups."""
    out = torch.zeros(len(examples.fail), dtype=torch.long, device="cpu")
    for k, (_, held_out) in enumerate(grouped_folds(examples, folds, seed)):
        out[held_out] = k
    return out


def fit_site(method: Method, states: Column, examples: Examples, fold: Tensor, seed: int) -> Fitted:
    """The probe of one method at one site; its regularisation is chosen by cross-validation."""
    fit, usual = STREAMED[method]
    readouts = fit(states, examples, fold, usual, seed)
    if method in SIGNED:
        readouts = _signed(states, examples, fold, readouts)
    held_out = _held_out(states, fold, readouts[:-1])  # (n, regularisations)
    areas = [_area(held_out[:, i], examples.fail, fold) for i in range(len(usual))]
    best = max(range(len(usual)), key=areas.__getitem__)  # the first of equally good ones
    readout, z = readouts[-1][best], held_out[:, best]
    if method in SCALED:
        slope, intercept = platt(z, examples.fail)
        readout, z = readout.scaled(slope, intercept), slope * z + intercept
    tried = [{"regularisation": r, "auroc": area} for r, area in zip(usual, areas, strict=True)]
    left, last = _rounds(states, examples, fold) if method == "inlp" else (None, None)
    return Fitted(readout, usual[best], areas[best], tried, share_threshold(z, examples.fail), left, last)


F = TypeVar("F", bound=tuple[Any, ...])


def chosen_site(fits: Sequence[tuple[Site, Fitted]]) -> tuple[Site, Fitted]:
    """The one with the highest AUROC in the cross-validation of the training data; the first of equal ones."""
    return max(fits, key=lambda one: one[1].auroc)


def margins(readout: Readout, states: Column) -> Tensor:
    """(n,) float32."""
    return _all_margins(states, [readout])[:, 0]


def scores(readout: Readout, states: Column) -> Tensor:
    """P(FAIL), (n,) float32."""
    out = torch.zeros(states.n)
    for rows, x in states.chunks():
        out[rows] = readout.score(x)
    return out


def share_threshold(values: Tensor, fail: Tensor) -> float:
    """The value above which as many examples lie as are FAIL: half way between the two values at this place."""
    ordered = values.double().sort(descending=True).values
    n = int(fail.sum())
    assert 0 < n < len(ordered), "both labels occur"
    return float((ordered[n - 1] + ordered[n]) / 2)


def _all_margins(states: Column, readouts: Sequence[Readout]) -> Tensor:
    """(n, number of readouts), in one pass."""
    out = torch.zeros(states.n, len(readouts))
    for rows, x in states.chunks():
        for j, readout in enumerate(readouts):
            out[rows, j] = readout.margin(x)
    return out


def _held_out(states: Column, fold: Tensor, readouts: Sequence[Sequence[Readout]]) -> Tensor:
    """(n, regularisations): margins from the readouts that did not see the example's fold."""
    out = torch.zeros(states.n, len(readouts[0]))
    for rows, x in states.chunks():
        for k in fold[rows].unique().tolist():
            inside = (fold[rows] == k).nonzero()[:, 0]
            for j, readout in enumerate(readouts[k]):
                out[inside + rows.start, j] = readout.margin(x[inside])
    return out


def _area(values: Tensor, fail: Tensor, fold: Tensor) -> float:
    """Mean AUROC of the folds that have both labels."""
    areas = [
        auroc(values[inside], fail[inside])
        for k in fold.unique().tolist()
        if len(set(fail[inside := fold == k].tolist())) == 2
    ]
    return float(np.mean(areas)) if areas else 0.5


def _signed(
    states: Column, examples: Examples, fold: Tensor, readouts: Sequence[Sequence[Readout]]
) -> list[list[Readout]]:
    """Each readout or its opposite: the one that ranks its own training set better."""
    flat = [readout for of_set in readouts for readout in of_set]
    z, width = _all_margins(states, flat), len(readouts[0])
    turned = []
    for j, readout in enumerate(flat):
        seen = fold != j // width  # of the last set all: no fold has its number
        turned.append(readout if auroc(z[seen, j], examples.fail[seen]) >= 0.5 else readout.scaled(-1.0, 0.0))
    return [turned[i : i + width] for i in range(0, len(turned), width)]


def _rounds(states: Column, examples: Examples, fold: Tensor) -> tuple[list[float], list[Readout]]:
    """AUROC of each round's classifier on the folds that it did not see; and the classifiers of all examples."""
    sets = [round_readouts(m, fit_inlp(m, ROUNDS)[1]) for m in label_moments(states, examples, fold)]
    n = min(map(len, sets))
    z = _held_out(states, fold, [of_set[:n] for of_set in sets[:-1]])
    return [_area(z[:, i], examples.fail, fold) for i in range(n)], sets[-1][:n]
