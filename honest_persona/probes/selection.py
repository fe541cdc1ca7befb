"""From states to frozen probes. Layer, position and regularisation are chosen on the training records alone.

examples = Examples.of(train)
states = training_states(model, prompts, form, layers)
probe = fit_probe("logistic", states, examples, Origin.of(model, form))
p_fail = probe_scores(probe, model, other_prompts, form)       # (n,): as a baseline, or as a reward
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from honest_persona.base.errors import UserError
from honest_persona.base.progress import followed
from honest_persona.base.words import FAIL, PASS
from honest_persona.config.persona import Persona
from honest_persona.data.records import Record
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.probes.ccs import fit_ccs
from honest_persona.probes.features import PAIRS, Model, Position, Site, contrast_states, read_states, spread_layers
from honest_persona.probes.linear import fit_logistic, fit_ridge
from honest_persona.probes.probe import METHODS, Method, Probe, Readout, auroc, platt
from honest_persona.probes.vinc import fit_vinc
from honest_persona.prompts.tokens import TokenFormat, Tokens, prompt_of


@dataclass(frozen=True)
class Examples:
    """Facts about n training records, without their states."""

    fail: Tensor
    """(n,) bool"""
    groups: Sequence[str]
    """The group of each record (`Record.cluster`); records of one group are in one fold."""
    transcripts: Sequence[str]
    """Records of one item, main model and `Record.transcript_id` have one name."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Examples":
        return cls(
            torch.tensor([record.flag == FAIL for record in records], device="cpu"),  # as the states
            [record.cluster for record in records],
            [f"{r.item_id}|{r.model}|{r.transcript_id}" for r in records],
        )

    def __getitem__(self, index: Tensor) -> "Examples":
        chosen = index.tolist()
        return Examples(self.fail[index], [self.groups[i] for i in chosen], [self.transcripts[i] for i in chosen])


class TooFewGroups(UserError):
    """There are fewer groups of a flag than a cross-validation needs."""


class Origin(NamedTuple):
    """The model that gave the states, and how transcripts were shown to the model."""

    base_model: str
    base_fingerprint: str
    persona: Persona

    @classmethod
    def of(cls, model: Model, form: TokenFormat) -> "Origin":
        """Where the weights are sharded, all ranks must call this."""
        return cls(str(model.config.name_or_path), base_fingerprint(model), form.persona)


class Candidate(NamedTuple):
    """One line of the cross-validation."""

    layer: int
    position: str
    regularisation: float
    auroc: float
    """Mean over the folds that have both flags."""


Fit = Callable[[Tensor, Examples, float, int], Readout]

FITS: dict[Method, tuple[Fit, tuple[float, ...]]] = {
    "ridge": (lambda x, of, strength, _: fit_ridge(x, of.fail, strength), (1.0, 1e1, 1e2, 1e3, 1e4)),
    "logistic": (lambda x, of, c, _: fit_logistic(x, of.fail, c), (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
    "ccs": (lambda x, of, decay, seed: fit_ccs(x, of.fail, decay, seed=seed), (0.01,)),
    "vinc": (lambda x, of, neg, _: fit_vinc(x, of.fail, of.transcripts, neg), (0.25, 0.5, 0.75, 1.0)),
}
"""The fit of each method, and the regularisations to try: the penalty, C, weight decay, w_neg."""

OF_PAIRS = frozenset({"ccs", "vinc"})
SCALED = frozenset({"ridge", "vinc"})
"""Methods whose margins become log odds by Platt scaling, fitted on the held-out folds."""


def fit_probe(
    method: Method,
    states: Mapping[Site, Tensor],
    examples: Examples,
    origin: Origin,
    regularisations: Sequence[float] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Probe:
    """Choose site and regularisation by grouped cross-validation, then fit on all examples.

    Args:
        states: per site (n, d), and (n, 2, d) at the flags; a method uses the sites that suit it.
        regularisations: the values to choose from; None takes those of `FITS`.

    Raises:
        UserError: fewer groups of a flag than folds can hold apart, or no site that suits the method.
    """
    fit, usual = FITS[method]
    sites: list[Site] = []
    for site in states:
        suits = (site.position in PAIRS) == (method in OF_PAIRS)
        # in hp the last token of the response is the token before the trigger: one position with two names
        if suits and not any(site.layer == s.layer and torch.equal(states[site], states[s]) for s in sites):
            sites.append(site)
    if not sites:
        raise UserError(f"{method} reads {'contrast pairs' if method in OF_PAIRS else 'transcripts'}: give such states")
    parts = grouped_folds(examples, folds, seed)
    tried: list[tuple[Candidate, Site, Tensor]] = []
    candidates = list(product(sites, usual if regularisations is None else regularisations))
    for site, regularisation in followed(candidates, f"{method} probe", "fits"):
        margins, area = _held_out(fit, states[site], examples, regularisation, parts, seed)
        tried.append((Candidate(site.layer, str(site.position), regularisation, area), site, margins))
    best, site, margins = max(tried, key=lambda of: of[0].auroc)  # the first of equally good ones
    readout = fit(states[site], examples, best.regularisation, seed)
    if method in SCALED:
        readout = readout.scaled(*platt(margins, examples.fail))
    about = {
        "n": len(examples.fail),
        "n_groups": len(set(examples.groups)),
        "fail_frac": float(examples.fail.float().mean()),
        "regularisation": best.regularisation,
        "folds": folds,
        "seed": seed,
        "auroc": best.auroc,
        "cross_validation": [candidate._asdict() for candidate, *_ in tried],
    }
    return Probe(readout, site, *origin, about=about)


def grouped_folds(examples: Examples, folds: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(training, held-out) indices; no group is in both, and the flags are spread as evenly as groups allow.

    Raises:
        TooFewGroups: a flag has fewer groups than there are folds.
    """
    for flag, of_flag in ((FAIL, examples.fail), (PASS, ~examples.fail)):
        n = len({group for group, is_flag in zip(examples.groups, of_flag.tolist(), strict=True) if is_flag})
        if n < folds:
            raise TooFewGroups(
                f"a probe needs records of both flags from at least {folds} items (or groups) each to be chosen by "
                f"cross-validation; there are {n} with {flag}. Train it on more records"
            )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    n = len(examples.fail)
    parts = splitter.split(np.zeros(n), examples.fail.numpy(), examples.groups)
    return [(torch.from_numpy(train), torch.from_numpy(held_out)) for train, held_out in parts]


def _held_out(
    fit: Fit,
    states: Tensor,
    examples: Examples,
    regularisation: float,
    parts: Sequence[tuple[Tensor, Tensor]],
    seed: int,
) -> tuple[Tensor, float]:
    """Margins (n,), each from a readout that was fitted without the record's group; and the mean AUROC of the folds."""
    margins = states.new_zeros(len(states), dtype=torch.float32)
    areas = []
    for train, held_out in parts:
        readout = fit(states[train], examples[train], regularisation, seed)
        margins[held_out] = readout.margin(states[held_out])
        if len(set(examples.fail[held_out].tolist())) == 2:
            areas.append(auroc(margins[held_out], examples.fail[held_out]))
    return margins, float(np.mean(areas)) if areas else 0.5


def prompts_of(records: Sequence[Record], form: TokenFormat) -> list[Tokens]:
    """Each record's conversation, followed by its trigger."""
    return [prompt_of(record, form) for record in followed(records, "encoding", "records")]


def fit_probes(
    model: Model,
    records: Sequence[Record],
    form: TokenFormat,
    methods: Sequence[Method] = METHODS,
    layers: Sequence[int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[Method, Probe]:
    """All probes of a model on these records; `layers` None takes `spread_layers`."""
    layers = spread_layers(model) if layers is None else layers
    prompts = prompts_of(records, form)
    states: dict[Site, Tensor] = {}
    if set(methods) - OF_PAIRS:
        states |= read_states(model, prompts, form, layers, batch_size=batch_size)
    if set(methods) & OF_PAIRS:
        states |= contrast_states(model, prompts, form, layers, batch_size=batch_size)
    examples, origin = Examples.of(records), Origin.of(model, form)
    return {method: fit_probe(method, states, examples, origin, seed=seed) for method in methods}


def probe_scores(
    probe: Probe, model: Model, prompts: Sequence[Tokens], form: TokenFormat, batch_size: int = 32
) -> Tensor:
    """P(FAIL), (n,) float32, of prompts. Reads only the states that the probe needs.

    The caller calls `Probe.check_model` once, because it reads weights.
    """
    layer, position = probe.site
    if position == Position.FLAG:
        states = contrast_states(model, prompts, form, [layer], batch_size=batch_size)
    else:
        states = read_states(model, prompts, form, [layer], at=[position], batch_size=batch_size)
    return probe.score(states[probe.site])
