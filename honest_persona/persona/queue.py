"""A queue of prompts that wait for their reviews, for callers that do not know of each other: of a server or a harness.

queue = ReviewQueue(persona.write, batch_size=8)
review = await queue.review(prompt, max_new_tokens=512)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
from anyio.to_thread import run_sync

from honest_persona.persona.batches import Place, batches, place_of
from honest_persona.persona.parsing import Review
from honest_persona.prompts.tokens import Tokens

_GATHER_S = 0.1
"""A batch is chosen when no further call has come for so long."""


@dataclass(eq=False)
class _Call:
    """A prompt that waits for its review."""

    prompt: Tokens
    max_new_tokens: int
    place: Place
    review: Review | None = None


class ReviewQueue:
    """Answers calls that wait at the same time in batches. All calls must come from one event loop.

    Args:
        write: writes the reviews of one batch, as `HonestPersona.write`; it runs in a thread of its own.
        batch_size: the most prompts of a batch.
    """

    def __init__(self, write: Callable[[Sequence[Tokens], int], list[Review]], batch_size: int) -> None:
        self.write, self.batch_size = write, batch_size
        self._waiting: list[_Call] = []
        self._batch_done: anyio.Event | None = None  # there is one while a batch runs

    async def review(self, prompt: Tokens, max_new_tokens: int) -> Review:
        """The review of one prompt. A call that finds the model free runs the next batch, with its own prompt or not.

        An error of `write` ends the call that ran the batch; the other calls stay in the queue.
        """
        call = _Call(prompt, max_new_tokens, place_of(prompt))
        self._waiting.append(call)
        try:
            while call.review is None:
                if self._batch_done is not None:
                    await self._batch_done.wait()
                    continue
                self._batch_done = anyio.Event()
                try:
                    await self._run_batch(max_new_tokens)
                finally:
                    self._batch_done.set()
                    self._batch_done = None
        finally:
            self._waiting.remove(call)
        return call.review

    async def _run_batch(self, max_new_tokens: int) -> None:
        """Chooses as an evaluation does: prompts on one transcript, and of similar length."""
        n_before = 0
        while len(self._waiting) > n_before:
            n_before = len(self._waiting)
            await anyio.sleep(_GATHER_S)
        calls = [c for c in self._waiting if c.review is None and c.max_new_tokens == max_new_tokens]
        first, *_ = batches([call.place for call in calls], self.batch_size, world=1)[0]
        chosen = [calls[i] for i in first]
        reviews = await run_sync(self.write, [call.prompt for call in chosen], max_new_tokens)
        for call, review in zip(chosen, reviews, strict=True):
            call.review = review
