"""Contrast-Consistent Search: a direction along which a statement and its negation get opposite probabilities.

Burns et al. 2022, "Discovering Latent Knowledge in Language Models Without Supervision", arXiv 2212.03827, section 2.2.
Labels of training data decide the sign, and nothing else.
"""

import torch
from torch import Tensor

from honest_persona.probes.linear import standardised
from honest_persona.probes.probe import Readout


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
    most_pairs: int = 1000,
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
    if len(x) > most_pairs:
        x = x[torch.randperm(len(x), generator=generator, device="cpu")[:most_pairs]]
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
    readout = Readout("ccs", weight[:, best].detach().clone(), bias[best].detach().clone(), mean, scale)
    return readout.signed(pairs, fail)
