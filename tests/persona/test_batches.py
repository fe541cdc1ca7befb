"""Which prompts are answered together."""

import pytest

from honest_persona.persona.batches import batches, place_of
from honest_persona.prompts.tokens import Tokens


def prompt(transcript, intervention, length=None):
    """Prompts of one transcript begin with the same ids."""
    prefix = [transcript] * (length or 4 + transcript % 3)
    return Tokens([*prefix, 1000, intervention], [], len(prefix))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_batches_keep_transcripts_together(world):
    # 12 transcripts with 1 to 5 interventions each, mixed up
    prompts = [prompt(t, i) for i in range(5) for t in range(12) if t % 5 + 1 > i]
    places = [place_of(p) for p in prompts]
    plan = batches(places, 4, world)
    placed = [
        [prompts[i].input_ids[0] for i in batch]
        for together in zip(*plan, strict=True)  # the ranks' batches side by side
        for batch in together
    ]
    n_prefixes = sum(len(set(batch)) for batch in placed)
    assert n_prefixes < 12 + len(placed), "at most one transcript is cut where a batch ends"
    assert n_prefixes < sum(len({p.input_ids[0] for p in prompts[i : i + 4]}) for i in range(0, len(prompts), 4))
    lengths = [[prompts[i].activation for i in batch] for batch in plan[0]]
    assert [min(batch) for batch in lengths] == sorted(min(batch) for batch in lengths), "similar lengths together"
    assert batches(places[::-1], 4, world) != plan
    again = [[len(prompts) - 1 - i for i in batch] for batch in batches(places[::-1], 4, world)[0]]
    assert again == plan[0], "whatever the order of the records"
