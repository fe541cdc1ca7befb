"""Hidden states of many answers on the disk: written once, block by block, and read site by site.

    store = StateStore.of(blocks, sites, shape)     # blocks: (W, sites, *shape) float32, in the order of the examples
    for rows, states in store.column(site).chunks():
        ...                                         # states[i] belongs to example rows.start + i

Memory holds one block, whatever the number of answers: a mapped page is given back after it was read.
"""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from honest_persona.base.spool import Spool
from honest_persona.probes.features import Site

IN_MEMORY_BYTES = 2**23
"""More states, or token ids of answers, lie in a file; and a column that is smaller is read once and kept."""
_NUMBER_BYTES = 4


@dataclass(frozen=True)
class StateStore:
    """States of n examples at several sites, each of one shape: (d,), or (2, d) for contrast pairs."""

    sites: Sequence[Site]
    shape: tuple[int, ...]
    sizes: list[int]
    """Examples of each block."""
    spool: Spool = field(repr=False)

    @classmethod
    def of(cls, blocks: Iterable[Tensor], sites: Sequence[Site], shape: tuple[int, ...]) -> "StateStore":
        """Raises UserError: the disk is full."""
        sizes = []
        with Spool(IN_MEMORY_BYTES) as spool:
            for block in blocks:
                assert block.shape[1:] == (len(sites), *shape)
                spool.write(block.transpose(0, 1).contiguous().numpy().tobytes())  # each site's states in one run
                sizes.append(len(block))
        return cls(sites, shape, sizes, spool)

    def column(self, site: Site) -> "Column":
        return Column(self, self.sites.index(site))


class Column:
    """The states of all examples at one site."""

    def __init__(self, store: StateStore, number: int) -> None:
        self._store, self._number = store, number
        self.n, self.shape = sum(store.sizes), store.shape
        self._kept: list[tuple[slice, Tensor]] | None = None

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Places of examples, and their states (W, *shape) float32; block by block, in their order."""
        if self._kept is None and self.n * prod(self.shape) * _NUMBER_BYTES <= IN_MEMORY_BYTES:
            self._kept = list(self._read())
        yield from self._kept or self._read()

    def rows(self, index: Tensor) -> Tensor:
        """(m, *shape), the states of chosen examples, in the order of `index`."""
        out = torch.empty(len(index), *self.shape)
        for places, states in self.chunks():
            inside = ((index >= places.start) & (index < places.stop)).nonzero()[:, 0]
            out[inside] = states[index[inside] - places.start]
        return out

    def _read(self) -> Iterator[tuple[slice, Tensor]]:
        view: Any = self._store.spool.view()
        one, sites = prod(self.shape), len(self._store.sites)
        start = offset = 0
        for size in self._store.sizes:
            at = offset + self._number * size * one * _NUMBER_BYTES
            states = torch.from_numpy(np.frombuffer(view, np.float32, size * one, at).copy()).view(size, *self.shape)
            if isinstance(view, mmap.mmap):
                view.madvise(mmap.MADV_DONTNEED)  # its pages would count as this process's memory
            yield slice(start, start + size), states
            start, offset = start + size, offset + sites * size * one * _NUMBER_BYTES
