"""Calls that wait together are answered in an evaluation's batches, whoever makes them."""

import anyio
import pytest

from honest_persona.persona.batches import batches, place_of
from honest_persona.persona.parsing import Ending, Review
from honest_persona.persona.queue import ReviewQueue
from tests.persona.test_batches import prompt


def ask(queue, prompts, limits):
    """The reviews of calls that are made at the same time; of a call that failed, its error."""
    said = [None] * len(prompts)

    async def one(i):
        try:
            said[i] = (await queue.review(prompts[i], limits[i])).text
        except MemoryError as error:
            said[i] = error

    async def together():
        async with anyio.create_task_group() as tasks:
            for i in range(len(prompts)):
                tasks.start_soon(one, i)

    anyio.run(together)
    return said


@pytest.fixture
def written():
    return []


@pytest.fixture
def queue(written):
    def write(prompts, max_new_tokens):
        written.append((max_new_tokens, [tuple(p.input_ids) for p in prompts]))
        return [Review(str(p.input_ids), "PASS", 0.5, Ending.CLEAN) for p in prompts]

    return ReviewQueue(write, batch_size=3)


def test_each_call_gets_its_own_review_from_the_batches_of_an_evaluation(queue, written):
    prompts = [prompt(t, i) for i in range(2) for t in (5, 1, 3, 0)]
    assert ask(queue, prompts, [8] * 8) == [str(p.input_ids) for p in prompts]
    plan = batches(map(place_of, prompts), 3, world=1)[0]
    assert written == [(8, [tuple(prompts[i].input_ids) for i in batch]) for batch in plan]
    assert ask(queue, prompts[:1], [8]) == [str(prompts[0].input_ids)], "the queue can be used again"


def test_calls_with_another_limit_make_a_batch_of_their_own(queue, written):
    prompts = [prompt(t, 0) for t in range(4)]
    ask(queue, prompts, [8, 8, 2, 8])
    assert [(limit, len(of)) for limit, of in written] == [(8, 3), (2, 1)]


def test_an_error_ends_the_call_that_ran_the_batch_and_no_other(written):
    def write(prompts, _):
        written.append(len(prompts))
        if len(written) == 1:
            raise MemoryError("too large")
        return [Review("fine", "PASS", 0.5, Ending.CLEAN) for _ in prompts]

    first, *others = ask(ReviewQueue(write, batch_size=4), [prompt(t, 0) for t in range(3)], [8] * 3)
    assert str(first) == "too large"
    assert others == ["fine"] * 2
    assert written == [3, 2]
