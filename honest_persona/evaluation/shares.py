"""What the ranks of a run do together: each works on its share of the batches, and every rank gets all results."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import islice
from typing import TypeVar

from honest_persona.base.collectives import from_every_rank, rank_and_world
from honest_persona.persona.batches import Place, batches

T = TypeVar("T")
Batches = Sequence[Sequence[int]]
Results = Generator[tuple[int, T], None, None]


def on_all_ranks(
    places: Sequence[Place], batch_size: int, work: Callable[[Batches], Results[T]]
) -> Generator[dict[int, T], None, None]:
    """Results by their place in `places`, as many at a time as batches of all ranks have. All ranks call this together.

    Close the iterator where it is not run to its end.

    Args:
        work: gives a result for each place of this rank's batches, in any order, with a count: which of all places in
            the batches the result is of.
    """
    rank, world = rank_and_world()
    seen: set[int] = set()
    mine = batches(places, batch_size, world)[rank]
    counted = [i for batch in mine for i in batch]
    with closing(work(mine)) as results:
        for batch in mine:
            shares = from_every_rank({counted[n]: result for n, result in islice(results, len(batch))})
            # a rank that repeats another rank's prompt gives a copy: the first result counts, of the first rank
            found = {i: result for share in reversed(shares) for i, result in share.items() if i not in seen}
            seen |= found.keys()
            yield dict(sorted(found.items()))


def by_batches(work: Callable[[Sequence[int]], Sequence[T]], mine: Batches) -> Results[T]:
    """For `on_all_ranks`: work that gives the results of a batch together."""
    n = 0
    for batch in mine:
        results = work(batch)
        yield from enumerate(results, n)
        n += len(results)
