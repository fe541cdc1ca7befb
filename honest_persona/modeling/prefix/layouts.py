"""How transcripts stand in a batch, and how their keys and values are taken apart for the cache and put together."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from honest_persona.modeling.prefix.frozen import Prefix
from honest_persona.modeling.prefix.packed_attention import PackedPrefix
from honest_persona.modeling.prefix.store import Entry

Layout = Tensor | Sequence[int]
"""How U transcripts stand in ids: by a mask, (U, P) and left-padded; by lengths, one behind the other in (1, F)."""


class Padded(NamedTuple):
    """Transcripts left-padded to one length, and their states so."""

    input_ids: Tensor
    mask: Tensor

    @property
    def rows(self) -> int:
        return len(self.mask)

    @property
    def longest(self) -> int:
        return self.mask.shape[1]

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())

    def take(self, rows: Sequence[int]) -> Self:
        start = self.longest - int(self.mask[rows].sum(1).max())
        return type(self)(self.input_ids[rows, start:], self.mask[rows, start:])

    def entries(self, prefix: Prefix) -> list[Entry]:
        lengths = self.mask.sum(1).tolist()
        states = [state for layer in prefix.layers for state in layer]
        return entries_of([[state[row, :, -n:] for state in states] for row, n in enumerate(lengths)])

    def joined(self, entries: Sequence[Entry]) -> Prefix:
        return Prefix(layers_of(entries, self.longest, self.mask.device), self.mask)


class Packed(NamedTuple):
    """Transcripts one behind the other, and their states so."""

    input_ids: Tensor
    lengths: Sequence[int]

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def take(self, rows: Sequence[int]) -> Self:
        each = self.input_ids.split(list(self.lengths), dim=1)
        return type(self)(torch.cat([each[row] for row in rows], dim=1), [self.lengths[row] for row in rows])

    def entries(self, prefix: PackedPrefix) -> list[Entry]:
        states = [state.transpose(0, 1) for layer in prefix.layers for state in layer]
        each = [state.split(list(self.lengths), dim=1) for state in states]
        return entries_of([[parts[row] for parts in each] for row in range(self.rows)])

    def joined(self, entries: Sequence[Entry]) -> PackedPrefix:
        states: dict[int, Tensor] = {}
        for g, group in enumerate(entries[0].groups):
            blocks = [entry.blocks[g].to(self.input_ids.device, non_blocking=True) for entry in entries]
            states |= zip(group, torch.cat(blocks, dim=2).transpose(1, 2).unbind(), strict=True)
        return PackedPrefix([(states[i], states[i + 1]) for i in range(0, len(states), 2)], self.lengths)


def laid_out(input_ids: Tensor, layout: Layout) -> Padded | Packed:
    return Padded(input_ids, layout) if isinstance(layout, Tensor) else Packed(input_ids, layout)


def entries_of(rows: Sequence[Sequence[Tensor]]) -> list[Entry]:
    """An entry for each row of states (heads, tokens, head dimension), with memory of its own."""
    by_shape: dict[Any, list[int]] = {}
    for i, state in enumerate(rows[0]):
        by_shape.setdefault((state.shape[0], state.shape[2], state.dtype), []).append(i)
    groups = tuple(map(tuple, by_shape.values()))
    return [Entry(groups, tuple(torch.stack([states[i] for i in group]) for group in groups)) for states in rows]


def layers_of(entries: Sequence[Entry], width: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The layers of all entries as one batch, left-padded to `width` with zeros."""
    states: dict[int, Tensor] = {}
    for g, group in enumerate(entries[0].groups):
        like = entries[0].blocks[g]
        n_states, heads, _, dimension = like.shape
        padded = torch.zeros(n_states, len(entries), heads, width, dimension, dtype=like.dtype, device=device)
        for row, entry in enumerate(entries):
            padded[:, row, :, width - entry.tokens :] = entry.blocks[g].to(device, non_blocking=True)
        states |= zip(group, padded.unbind(), strict=True)
    return [(states[i], states[i + 1]) for i in range(0, len(states), 2)]
