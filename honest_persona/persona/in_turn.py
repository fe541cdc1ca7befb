"""Reviews of many prompts, a batch at a time or in slots that are never empty while prompts wait.

    for place, review in each_review(model, batches, form, n_prompts, batch_size, max_new_tokens):
        ...    # as reviews end; `place` counts the prompts of all batches

In slots, a prompt takes the place of a review that has ended, whatever batch either is of.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain, islice

import torch
from peft import PeftModel
from torch import Tensor

from honest_persona.base.tensors import integers
from honest_persona.modeling.adapters.tuning import ungated
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.modeling.prefix.frozen import Prefix, why_not_frozen
from honest_persona.persona.answering import read_review, until_flag, write_reviews
from honest_persona.persona.continuing import OnPrefixes
from honest_persona.persona.decoding.slots import Rows, in_slots
from honest_persona.persona.decoding.writing import Writer
from honest_persona.persona.flag_logits import of_flags, one_token_per_row, p_fail_of, precise_logits
from honest_persona.persona.parsing import Review
from honest_persona.prompts.tokens import TokenFormat, Tokens


def each_review(
    model: PeftModel,
    batches: Iterable[Sequence[Tokens]],
    form: TokenFormat,
    n_prompts: int,
    batch_size: int,
    max_new_tokens: int,
    frozen_prefix: bool = True,
    prefix_cache: PrefixCache | None = None,
) -> Generator[tuple[int, Review], None, None]:
    """Greedy reviews by place, as they end; other arguments as of `write_reviews`.

    Close the iterator where it is not run to its end: meanwhile the adapter is not gated.

    Args:
        batches: prompts of one transcript side by side; they are asked for as they are needed.
        n_prompts: of all batches.
        batch_size: how many reviews are written at a time.
    """
    if (
        frozen_prefix
        and why_not_frozen(model) is None
        and in_slots(model)
        and not (prefix_cache and prefix_cache.together)
    ):
        yield from _InSlots(model, batches, form, n_prompts, batch_size, max_new_tokens, prefix_cache).reviews()
        return
    place = 0
    for batch in batches:
        reviews = write_reviews(model, batch, form, max_new_tokens, frozen_prefix, prefix_cache)
        yield from enumerate(reviews, place)
        place += len(reviews)


class _InSlots:
    def __init__(
        self,
        model: PeftModel,
        batches: Iterable[Sequence[Tokens]],
        form: TokenFormat,
        n_prompts: int,
        n_slots: int,
        max_new_tokens: int,
        prefix_cache: PrefixCache | None,
    ) -> None:
        self.model, self.form, self.prefix_cache = model, form, prefix_cache
        self.waiting = _Waiting(model, chain.from_iterable(batches), form, prefix_cache)
        self.flag_logits = torch.zeros(n_prompts, max_new_tokens, 2, device=model.device)
        self.writer = Writer(model, n_prompts, n_slots, max_new_tokens, [form.end_id], see=self._keep)

    def reviews(self) -> Iterator[tuple[int, Review]]:
        with precise_logits(self.model, self.form.flag_ids[1:]), ungated(self.model):
            for written in self.writer.written(self.waiting.take):
                yield from zip(written, self._read(written), strict=True)

    def _keep(self, logits: Tensor, places: Tensor, step: Tensor) -> None:
        self.flag_logits[places, step] = of_flags(logits, self.form)

    def _read(self, written: dict[int, list[int]]) -> list[Review]:
        """The beginning of a written answer costs nothing: the logits behind it were kept when it was written."""
        suffixes = [self.waiting.suffixes.pop(place) for place in written]
        parsed = [read_review(ids, self.form) for ids in written.values()]
        forced = [until_flag(review, self.form) for review, _, _ in parsed]
        at = [min(len(answer), len(ids) - 1) for answer, ids in zip(forced, written.values(), strict=True)]
        logits = self.flag_logits[integers(list(written)), integers(at)]
        rest = [
            i
            for i, (answer, ids) in enumerate(zip(forced, written.values(), strict=True))
            if ids[: len(answer)] != answer or len(answer) == len(ids)
        ]
        if rest:
            rows = [suffixes[i] + forced[i] for i in rest]
            with one_token_per_row(self.model, integers([len(row) - 1 for row in rows]).to(logits.device)):
                found = self.writer.behind([list(written)[i] for i in rest], rows)[:, 0]
            logits[integers(rest)] = of_flags(found, self.form)
        return [Review(r, flag, p, ending) for (r, flag, ending), p in zip(parsed, p_fail_of(logits), strict=True)]


class _Waiting:
    """Prompts in order. A transcript that the prompts before them end with is not run again."""

    def __init__(
        self, model: PeftModel, prompts: Iterable[Tokens], form: TokenFormat, prefix_cache: PrefixCache | None
    ) -> None:
        self.model, self.form, self.prefix_cache = model, form, prefix_cache
        self.prompts = iter(prompts)
        self.suffixes: dict[int, list[int]] = {}
        """Of prompts whose reviews are not there yet, by place."""
        self._n = 0
        self._last: tuple[str, Prefix] | None = None

    def take(self, n: int) -> Rows:
        prompts = list(islice(self.prompts, n))
        places = list(range(self._n, self._n + len(prompts)))
        self._n += len(prompts)
        if not prompts:
            return Rows([], Prefix([], torch.zeros(0, 0)), [], [])
        batch = OnPrefixes(self.model, prompts, self.form, self.prefix_cache, self._last)
        self._last = batch.last()
        self.suffixes |= zip(places, batch.suffixes, strict=True)
        return batch.rows(range(len(prompts)))._replace(places=places)
