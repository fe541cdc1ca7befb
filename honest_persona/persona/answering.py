"""Reviews of a batch of prompts, and P(FAIL) behind each: two ways to run the model, with the same outputs.

`SharedPrefixes` runs each distinct transcript of a batch once, and the rest on its keys and values (continuing.py).
`WholeRows` runs every row from its first token, and once more for the scores.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor

from honest_persona.base.tensors import integers
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.modeling.zero import is_sharded
from honest_persona.persona.continuing import OnPrefixes, OnWholeRows, either_way
from honest_persona.persona.flag_logits import of_flags, one_token_per_row, p_fail_of, precise_logits
from honest_persona.persona.parsing import Ending, Review, parse_review
from honest_persona.prompts.kinds import Kind, Segment
from honest_persona.prompts.tokens import TokenFormat, Tokens


class Batch(Protocol):
    """Prompts that are answered together. Where the weights are sharded, all ranks call its methods equally often.

    Both methods raise RankError for logits that are not finite numbers.
    """

    def write(self, max_new_tokens: int) -> list[list[int]]:
        """Greedy answers' ids, each up to the end of its turn, and with it where it was reached."""

    def p_fail(self, answers: Sequence[list[int]]) -> list[float]:
        """P(FAIL) against P(PASS) behind each prompt with an answer that ends where the two flags part."""


@contextmanager
def batch_of(
    model: PeftModel,
    prompts: Sequence[Tokens],
    form: TokenFormat,
    frozen_prefix: bool,
    prefix_cache: PrefixCache | None = None,
) -> Iterator[Batch]:
    """The fastest way to run these prompts that the model allows; `frozen_prefix` False takes `WholeRows`."""
    with (
        precise_logits(model, form.flag_ids[1:]),
        either_way(
            model,
            frozen_prefix,
            form.persona.adapter_scope,
            lambda: SharedPrefixes(model, prompts, form, prefix_cache),
            lambda: WholeRows(model, prompts, form),
        ) as batch,
    ):
        yield batch


def write_reviews(
    model: PeftModel,
    prompts: Sequence[Tokens],
    form: TokenFormat,
    max_new_tokens: int,
    frozen_prefix: bool = True,
    prefix_cache: PrefixCache | None = None,
) -> list[Review]:
    """Greedy reviews of one batch of prompts. The model is in eval mode, without activation checkpointing.

    Where ZeRO-3 shards the weights, every rank must call this equally often: each forward pass gathers them.

    Args:
        frozen_prefix: run each distinct transcript once, where the model allows it; False runs every row as a whole.
        prefix_cache: transcripts' keys and values from earlier evaluations of the same base model.
    """
    parsed, forced = [], []
    with batch_of(model, prompts, form, frozen_prefix, prefix_cache) as batch:
        for row in batch.write(max_new_tokens):
            parsed.append(read_review(row, form))
            forced.append(until_flag(parsed[-1][0], form))
        p_fail = batch.p_fail(forced)
    return [Review(r, flag, p, ending) for (r, flag, ending), p in zip(parsed, p_fail, strict=True)]


def read_review(row: list[int], form: TokenFormat) -> tuple[str, str | None, Ending]:
    """Review, flag and ending of written ids."""
    ended = row[-1:] == [form.end_id]
    text = str(form.tokenizer.decode(row[:-1] if ended else row, skip_special_tokens=False))
    return parse_review(text, ended, form.persona)


def until_flag(review: str, form: TokenFormat) -> list[int]:
    """The answer's ids up to where the two flags part, encoded as training encodes them."""
    common, _, _ = form.flag_ids
    if form.persona.output_format != "review_then_flag":
        return common
    ids, _ = form.encode_text([Segment(Kind.REVIEW, form.persona.review_prefix + review)])
    return ids + common


class WholeRows(OnWholeRows):
    """Reviews and scores from whole rows."""

    def write(self, max_new_tokens: int) -> list[list[int]]:
        return self.written(max_new_tokens, [self.form.end_id])

    @torch.no_grad()
    def p_fail(self, answers: Sequence[list[int]]) -> list[float]:
        rows = [p.input_ids + answer for p, answer in zip(self.prompts, answers, strict=True)]
        logits = self.model(**self._inputs(rows), logits_to_keep=1).logits[:, -1]
        return p_fail_of(of_flags(logits, self.form))


class SharedPrefixes(OnPrefixes):
    """Reviews and scores on transcripts that are run once."""

    flag_logits: Tensor
    """The logits of PASS and FAIL where each id of a written review was chosen, (B, max_new_tokens, 2)."""
    reviews: Sequence[list[int]] = ()
    """What `write` wrote."""

    def write(self, max_new_tokens: int) -> list[list[int]]:
        kept = torch.zeros(len(self.suffixes), max_new_tokens, 2, device=self.prefix.mask.device)

        def keep(logits: Tensor, rows: Tensor, step: Tensor) -> None:
            kept[rows, step] = of_flags(logits, self.form)

        self.flag_logits = kept
        self.reviews = self.written(max_new_tokens, [self.form.end_id], see=keep)
        return self.reviews

    @torch.no_grad()
    def p_fail(self, answers: Sequence[list[int]]) -> list[float]:
        """The beginning of a written answer costs nothing: the logits behind it were kept when it was written."""
        seen: dict[int, Tensor] = {}
        reviews = self.reviews or [[] for _ in answers]
        for i, (answer, written) in enumerate(zip(answers, reviews, strict=True)):
            n = len(answer)
            if n < len(written) and written[:n] == answer:
                seen[i] = self.flag_logits[i, n]
        rest = [i for i in range(len(answers)) if i not in seen]
        # sharded weights: a forward call needs all ranks, so each makes one, whatever was written on it
        if scored := rest or ([0] if is_sharded(self.model) else []):
            rows = [self.suffixes[i] + answers[i] for i in scored]
            with one_token_per_row(self.model, integers([len(row) - 1 for row in rows]).to(self.prefix.mask.device)):
                logits = self.behind(rows, scored)[:, 0]
            seen |= zip(rest, of_flags(logits, self.form), strict=False)
        return p_fail_of(torch.stack([seen[i] for i in range(len(answers))]))
