"""Contrast-Consistent Search: a direction along which a statement and its negation get opposite probabilities.

Burns et al. 2022, "Discovering Latent Knowledge in Language Models Without Supervision", arXiv 2212.03827, section 2.2.
Labels of training data decide the sign, and nothing else.
"""

import torch
from torch import Tensor

from honest_persona.probes.linear import standardised
from honest_persona.probes.probe import Readout

MOST_PAIRS = 1000
"""As the authors take; more are slower, and of no use."""


def ccs_loss(p0: Tensor, p1: Tensor) -> Tensor:
    """Consistency and confidence: mean (p0 - (1 - p1))^2 + mean min(p0, p1)^2 over the first dimension.

    Args:
        p0, p1: (n, ...) probabilities of the two sides of each pair.
    """
    return ((p0 - (1 - p1)) ** 2).mean(0) + (torch.minimum(p0, p1) ** 2).mean(0)


def fit_ccs(
    pairs: Tensor,
    fail: Tensor,
    weight_decay: float = 0.01,
    restarts: int = 10,
    steps: int = 1000,
    learning_rate: float = 0.01,
    most_pairs: int = MOST_PAIRS,
    seed: int = 0,
) -> Readout:
    """The restart with the lowest loss. Each side is standardised by itself, so that the probe does not
    simply read the word of the flag.

    Args:
        pairs: (n, 2, d), PASS side and FAIL side.
        fail: (n,) bool; decides the sign, and nothing else.
        weight_decay, restarts, steps, learning_rate: settings of AdamW over all pairs; the restarts run side by side.
        most_pairs: a seeded choice of this many pairs is used where there are more, as the authors do.
    """
    x, mean, scale = standardised(pairs)
    generator = torch.Generator("cpu").manual_seed(seed)
    x = x[chosen(len(x), most_pairs, generator)]
    weight, bias = search(x, generator, weight_decay, restarts, steps, learning_rate)
    return Readout("ccs", weight, bias, mean, scale).signed(pairs, fail)


def chosen(n: int, most: int, generator: torch.Generator) -> Tensor:
    """Places of up to `most` of n pairs, by chance where there are more."""
    return torch.randperm(n, generator=generator, device="cpu")[:most] if n > most else torch.arange(n, device="cpu")


def search(
    x: Tensor,
    generator: torch.Generator,
    weight_decay: float = 0.01,
    restarts: int = 10,
    steps: int = 1000,
    learning_rate: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Weight (d,) and bias () of the restart with the lowest loss, on standardised pairs (n, 2, d)."""
    n, _, d = x.shape
    flat = x.reshape(2 * n, d)
    bound = d**-0.5  # as torch.nn.Linear starts
    # (d, restarts) and (restarts,): AdamW treats every number separately, so the restarts stay independent
    weight = torch.empty(d, restarts, device="cpu").uniform_(-bound, bound, generator=generator).requires_grad_()
    bias = torch.empty(restarts, device="cpu").uniform_(-bound, bound, generator=generator).requires_grad_()
    optimizer = torch.optim.AdamW([weight, bias], lr=learning_rate, weight_decay=weight_decay)

    def losses() -> Tensor:
        p = torch.sigmoid(flat @ weight + bias).unflatten(0, (n, 2))
        return ccs_loss(p[:, 0], p[:, 1])  # (restarts,)

    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            losses().sum().backward()
            optimizer.step()
    with torch.no_grad():
        best = int(losses().argmin())
    return weight[:, best].detach().clone(), bias[best].detach().clone()
