"""Ranks as threads of one process, for tests of what ranks do together."""

import threading
from concurrent.futures import ThreadPoolExecutor


class Ranks:
    """The collectives for threads of one process: a rank each, and one that waits for all."""

    def __init__(self, world):
        self.world, self.local = world, threading.local()
        self.slots, self.barrier = [None] * world, threading.Barrier(world, timeout=20)

    def patch(self, monkeypatch, *modules):
        """Put these collectives in the place of the modules' own."""
        for name in ("rank_and_world", "from_every_rank"):
            for module in modules:
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, getattr(self, name))

    def rank_and_world(self):
        return self.local.rank, self.world

    def from_every_rank(self, value):
        self.slots[self.local.rank] = value
        self.barrier.wait()
        values = list(self.slots)
        self.barrier.wait()
        return values

    def run(self, work):
        def on_rank(rank):
            self.local.rank = rank
            return work()

        with ThreadPoolExecutor(self.world) as pool:
            return list(pool.map(on_rank, range(self.world)))
