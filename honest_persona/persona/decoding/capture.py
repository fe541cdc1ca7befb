"""Steps whose launches are recorded once and replayed: a step of a large model launches thousands of small kernels.

Where nothing is recorded, the same step is called directly.
"""

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from logging import getLogger
from typing import Any

import torch

Step = Callable[[], None]
Capture = Callable[[Step], Step]
"""Records a step without running it, and gives what runs the record."""


class Replayed:
    """Runs steps by their shape: the first run of a shape directly, the second one from a record, as all after.

    A step whose recording fails is run directly from then on, and so are all others.

    Args:
        capture: None records nothing.
    """

    def __init__(self, capture: Capture | None) -> None:
        self.capture = capture
        self._records: dict[Hashable, Step | None] = {}

    def run(self, shape: Hashable, step: Step) -> None:
        if self.capture is None:
            step()
        elif shape not in self._records:
            self._records[shape] = None
            step()  # libraries prepare themselves at a first call, which a record must not hold
        else:
            record = self._records[shape] or self._recorded(shape, step)
            record()

    def forget(self) -> None:
        """Drop all records: the tensors of the step are others."""
        self._records.clear()

    def _recorded(self, shape: Hashable, step: Step) -> Step:
        assert self.capture is not None
        try:
            record = self.capture(step)
        except RuntimeError as error:  # of CUDA, or of a model that waits for the device
            self.capture = None
            _say_once(str(error).partition("\n")[0])
            return step
        self._records[shape] = record
        return record


@lru_cache
def _say_once(reason: str) -> None:
    getLogger(__name__).warning(f"texts are written without CUDA graphs, which is slower: {reason}")


def cuda_graphs() -> Capture:
    """Records CUDA graphs that share one pool of memory: of two graphs none runs while the other one does."""
    pool = torch.cuda.graph_pool_handle()

    def capture(step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        # what another thread does with the GPU meanwhile is no part of the record, and no error
        with _no_kept_casts(), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            step()
        return graph.replay

    return capture


def _no_kept_casts() -> AbstractContextManager[Any]:
    """Autocast keeps casts of weights until it ends; a graph must hold its own."""
    if not torch.is_autocast_enabled("cuda"):
        return nullcontext()
    return torch.autocast("cuda", torch.get_autocast_dtype("cuda"), cache_enabled=False)


def capture_on(device: torch.device) -> Capture | None:
    return cuda_graphs() if device.type == "cuda" else None
