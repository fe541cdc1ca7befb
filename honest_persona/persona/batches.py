"""Which prompts are answered together, or one behind the other: by the queue, and by an evaluation."""

from collections.abc import Iterable

from honest_persona.base.tensors import ids_key
from honest_persona.prompts.tokens import Tokens

Place = tuple[int, str, int, str]


def place_of(prompt: Tokens) -> Place:
    """What `batches` sorts by: activation point, transcript, length, all ids."""
    ids = prompt.input_ids
    return prompt.activation, prompt.prefix_key, len(ids), ids_key(ids)


def batches(places: Iterable[Place], batch_size: int, world: int) -> list[list[list[int]]]:
    """Which prompts each rank reviews together: indices by rank and batch.

    Prompts on one transcript stand side by side, and transcripts of similar length, so that a batch runs few prefixes
    and pads little. Every rank gets equally many batches of equal size, as ZeRO-3 demands: a rank for which no prompt
    is left repeats one.

    Args:
        places: of each prompt, by `place_of`.
    """
    order = [i for _, i in sorted((place, i) for i, place in enumerate(places))]
    by_rank: list[list[list[int]]] = [[] for _ in range(world)]
    for start in range(0, len(order), batch_size * world):
        together = order[start : start + batch_size * world]
        size = -(-len(together) // world)
        together += together[-1:] * (size * world - len(together))
        for rank in range(world):
            by_rank[rank].append(together[rank * size : (rank + 1) * size])
    return by_rank
