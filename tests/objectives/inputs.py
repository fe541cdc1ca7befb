"""Random answers for the tests of losses."""

import numpy as np
import torch

from honest_persona.objectives.logprobs import LogProbs

N = 1000


def answers(seed: int, n: int = N, spread: float = 10.0) -> LogProbs:
    """Answers of 1 to 300 tokens; log-ratios of both signs up to about 3 `spread`, float64, policy with gradient."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 300, n)
    reference = -tokens * rng.uniform(0.01, 4.0, n)
    policy = reference + spread * rng.normal(size=n) * 10 ** rng.uniform(-3, 0, n)
    return LogProbs(torch.tensor(policy, requires_grad=True), torch.tensor(reference), torch.tensor(tokens))


def labels(n: int = N) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(5).integers(0, 2, n).astype(bool))
