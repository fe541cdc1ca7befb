"""What the ranks of a run do together: each works on its share of the batches, and every rank gets all results."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from honest_persona.base.collectives import from_every_rank, rank_and_world
from honest_persona.persona.batches import Place, batches

T = TypeVar("T")


def on_all_ranks(
    places: Sequence[Place], batch_size: int, work: Callable[[list[int]], Sequence[T]]
) -> Iterator[dict[int, T]]:
    """Results by their place in `places`, as batches of all ranks are done. All ranks call this together.

    Args:
        work: gives a result for each place of a batch.
    """
    rank, world = rank_and_world()
    seen: set[int] = set()
    for batch in batches(places, batch_size, world)[rank]:
        shares = from_every_rank(dict(zip(batch, work(batch), strict=True)))
        # a rank that repeats another rank's prompt gives a copy: the first result counts, of the first rank
        found = {i: result for share in reversed(shares) for i, result in share.items() if i not in seen}
        seen |= found.keys()
        yield dict(sorted(found.items()))
