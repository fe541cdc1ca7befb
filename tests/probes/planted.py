"""States in which the truth is a known direction, beside much else."""

import torch

from honest_persona.config.persona import Persona
from honest_persona.probes.answers import _windows
from honest_persona.probes.features import Position, Site
from honest_persona.probes.selection import Examples, Origin
from honest_persona.probes.store import StateStore

D = 12
ORIGIN = Origin("builtin:tiny", "0" * 64, Persona())


def planted(n=120, seed=0, strength=1.5, triggers=2):
    """Plain states (n, d), contrast pairs (n, 2, d), examples and the planted direction (d,).

    Each transcript has a topic along other directions, shared by the two sides and larger than the truth. In a pair the
    side whose flag is right lies `strength` further along the direction. The sides' words are far apart.
    """
    g = torch.Generator().manual_seed(seed)
    direction = torch.randn(D, generator=g)
    direction /= direction.norm()
    m = n // triggers
    transcript = torch.arange(n) // triggers
    fail = torch.randperm(m, generator=g)[transcript] < m // 2
    content = 2 * torch.randn(m, D, generator=g)
    content -= torch.outer(content @ direction, direction)
    truth = (fail * 2.0 - 1)[:, None] * direction
    words = 5 * torch.randn(2, D, generator=g)
    pairs = content[transcript][:, None] + words + strength * torch.stack([-truth, truth], 1)
    pairs = pairs + 0.3 * torch.randn(pairs.shape, generator=g)
    states = content[transcript] + strength * truth + 0.3 * torch.randn(n, D, generator=g)
    names = [f"t{i}" for i in transcript.tolist()]
    groups = [f"g{i // 2}" for i in transcript.tolist()]  # two transcripts a group
    return states, pairs, Examples(fail, groups, names), direction


def cosine(readout, direction):
    """Of the readout's direction in the space of the states."""
    weight = readout.weight / (readout.scale if readout.scale.ndim == 1 else readout.scale.mean(0))
    return float(torch.nn.functional.cosine_similarity(weight, direction, dim=0))


def column(states, block=50, items=()):
    """States as they lie on the disk, in blocks; an item's rows are in one block."""
    site = Site(1, Position.RESPONSE_END)
    bounds = list(_windows(len(states), items, block))
    store = StateStore.of((states[a:z, None] for a, z in bounds), [site], tuple(states.shape[1:]))
    return store.column(site)
