"""Reviews of a batch of prompts, and P(FAIL) behind each: two ways to run the model, with the same outputs.

`SharedPrefixes` runs each distinct transcript of a batch once, and the rest on its keys and values (prefix/frozen.py).
`WholeRows` runs every row from its first token, and once more for the scores: for models whose prefix cannot run alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from logging import getLogger
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from honest_persona.base.collectives import any_rank
from honest_persona.base.errors import RankError
from honest_persona.base.tensors import integers, pad_with_mask
from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.modeling.adapters.tuning import gate_of, ungated
from honest_persona.modeling.modes import with_attribute
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.modeling.prefix.frozen import positions, run_prefix, run_suffixes, suffix_arguments, why_not_frozen
from honest_persona.modeling.zero import is_sharded
from honest_persona.persona.flag_logits import NOT_FINITE, of_flags, one_token_per_row, p_fail_of, precise_logits
from honest_persona.persona.parsing import Review, parse_review
from honest_persona.persona.roomy_layer import RoomyLayer
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
    reason = why_not_frozen(model) if frozen_prefix else None
    if reason:
        _say_once(reason)
    if reason or not frozen_prefix:
        gated = bool(gate_of(model))
        assert gated == (form.persona.adapter_scope != "all"), "the adapter would act on the wrong tokens"
        with precise_logits(model, form.flag_ids[1:]):
            yield WholeRows(model, prompts, form)
    else:
        with ungated(model), precise_logits(model, form.flag_ids[1:]):
            yield SharedPrefixes(model, prompts, form, prefix_cache)


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
            ended = row[-1:] == [form.end_id]
            text = str(form.tokenizer.decode(row[:-1] if ended else row, skip_special_tokens=False))
            review, flag, ending = parse_review(text, ended, form.persona)
            parsed.append((review, flag, ending))
            forced.append(_until_flag(review, form))
        p_fail = batch.p_fail(forced)
    return [Review(r, flag, p, ending) for (r, flag, ending), p in zip(parsed, p_fail, strict=True)]


def _until_flag(review: str, form: TokenFormat) -> list[int]:
    """The answer's ids up to where the two flags part, encoded as training encodes them."""
    common, _, _ = form.flag_ids
    if form.persona.output_format != "review_then_flag":
        return common
    ids, _ = form.encode_text([Segment(Kind.REVIEW, form.persona.review_prefix + review)])
    return ids + common


@lru_cache
def _say_once(reason: str) -> None:
    getLogger(__name__).warning(f"reviews are written from whole rows, which is slower: {reason}")


class WholeRows:
    """Every row is run with its prompt; the adapter is gated at the row's activation point."""

    def __init__(self, model: PeftModel, prompts: Sequence[Tokens], form: TokenFormat) -> None:
        self.model, self.prompts, self.form = model, prompts, form

    @torch.no_grad()
    def write(self, max_new_tokens: int) -> list[list[int]]:
        form, inputs = self.form, self._inputs([p.input_ids for p in self.prompts])
        config = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=form.end_id, pad_token_id=form.pad_id
        )
        # transformers keeps ranks in step wherever ZeRO-3 is set up; with whole weights none has to wait for the others
        alone = {} if is_sharded(self.model) else {"synced_gpus": False}
        # the model's own config too: from there transformers takes what a call's config leaves open
        with with_attribute([self.model.get_base_model()], "generation_config", config):
            output = self.model.generate(
                **inputs, **alone, generation_config=config, logits_processor=LogitsProcessorList([_Finite()])
            )
        return [_up_to(form.end_id, row) for row in output[:, inputs["input_ids"].shape[1] :].tolist()]

    @torch.no_grad()
    def p_fail(self, answers: Sequence[list[int]]) -> list[float]:
        rows = [p.input_ids + answer for p, answer in zip(self.prompts, answers, strict=True)]
        logits = self.model(**self._inputs(rows), logits_to_keep=1).logits[:, -1]
        return p_fail_of(of_flags(logits, self.form))

    def _inputs(self, rows: Sequence[list[int]]) -> dict[str, Any]:
        """Left-padded."""
        ids, mask = pad_with_mask(rows, self.form.pad_id, "left", self.model.device)
        length = ids.shape[1]
        activation = [p.activation + length - len(row) for p, row in zip(self.prompts, rows, strict=True)]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions(mask),
            **activation_arguments(self.form.persona.adapter_scope, integers(activation), length),
        }


class SharedPrefixes:
    """Each distinct prefix is run once. The model must be `ungated` as long as this object is used."""

    def __init__(
        self, model: PeftModel, prompts: Sequence[Tokens], form: TokenFormat, prefix_cache: PrefixCache | None
    ) -> None:
        self.model, self.form = model, form
        prefixes = {p.prefix_key: p.input_ids[: p.activation] for p in prompts}
        number = {key: i for i, key in enumerate(prefixes)}
        self.prefix_of = [number[p.prefix_key] for p in prompts]  # row of `self.prefix`, for each prompt
        self.suffixes = [p.input_ids[p.activation :] for p in prompts]
        ids, mask = pad_with_mask(list(prefixes.values()), form.pad_id, "left", model.device)
        adapter_on = form.persona.adapter_scope == "all"
        compute = partial(run_prefix, model, adapter_on=adapter_on)
        if prefix_cache is None or adapter_on:  # an active adapter's states change while it trains
            self.prefix = compute(ids, mask)
        else:
            self.prefix = prefix_cache.fetch(list(prefixes), ids, mask, compute)
        self.written: list[list[int]] = [[] for _ in prompts]
        self.flag_logits: Tensor
        """The logits of PASS and FAIL where each id of `written` was chosen, (B, max_new_tokens, 2)."""

    @torch.no_grad()
    def write(self, max_new_tokens: int) -> list[list[int]]:
        """Rows that have ended leave the batch whenever they are half of it."""
        device, sharded = self.prefix.mask.device, is_sharded(self.model)
        mask, cache = run_suffixes(self.model, self.prefix, self.suffixes, self.prefix_of, self.form.pad_id)
        layers: list[Any] = cache.layers
        for i, layer in enumerate(layers):
            layers[i] = RoomyLayer(layer.keys, layer.values)
        token = torch.tensor([suffix[-1:] for suffix in self.suffixes], device=device)
        rows = torch.arange(len(token), device=device)
        running = torch.ones_like(rows, dtype=torch.bool)
        ids = torch.full((len(rows), max_new_tokens), self.form.end_id, device=device)
        self.flag_logits = torch.zeros(*ids.shape, 2, device=device)
        for step in range(max_new_tokens):
            logits = self.model(
                input_ids=token,
                attention_mask=mask,
                position_ids=mask.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            scores = logits.float()
            token = scores.argmax(-1, keepdim=True)  # a NaN wins, and `sound` finds it
            ids[rows, step], self.flag_logits[rows, step] = token[:, 0], of_flags(logits, self.form)
            running &= token[:, 0] != self.form.end_id
            sound = torch.isfinite(scores.gather(-1, token)).all()
            left, is_sound = torch.stack([running.sum(), sound]).tolist()  # both in one wait for the device
            if not is_sound:
                raise RankError(NOT_FINITE)
            if not (any_rank(left > 0) if sharded else left):
                break
            if left <= len(rows) // 2 and not sharded:
                cache.batch_select_indices(running.nonzero()[:, 0])
                token, mask, rows, running = token[running], mask[running], rows[running], running[running]
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        self.written = [_up_to(self.form.end_id, row) for row in ids[:, : step + 1].tolist()]
        return self.written

    @torch.no_grad()
    def p_fail(self, answers: Sequence[list[int]]) -> list[float]:
        """The beginning of a written answer costs nothing: the logits behind it were kept when it was written."""
        seen: dict[int, Tensor] = {}
        for i, (answer, written) in enumerate(zip(answers, self.written, strict=True)):
            n = len(answer)
            if n < len(written) and written[:n] == answer:
                seen[i] = self.flag_logits[i, n]
        rest = [i for i in range(len(answers)) if i not in seen]
        # sharded weights: a forward call needs all ranks, so each makes one, whatever was written on it
        if scored := rest or ([0] if is_sharded(self.model) else []):
            rows = [self.suffixes[i] + answers[i] for i in scored]
            logits = self._flag_logits(rows, [self.prefix_of[i] for i in scored])
            seen |= zip(rest, logits, strict=False)
        return p_fail_of(torch.stack([seen[i] for i in range(len(answers))]))

    def _flag_logits(self, rows: Sequence[list[int]], prefix_of: Sequence[int]) -> Tensor:
        """The logits of PASS and FAIL behind suffixes, (B, 2)."""
        device = self.prefix.mask.device
        ids, mask = pad_with_mask(rows, self.form.pad_id, "right", device)
        with one_token_per_row(self.model, mask.sum(1) - 1):
            logits = self.model(
                ids, **suffix_arguments(self.prefix, mask, torch.tensor(prefix_of, device=device))
            ).logits
        return of_flags(logits[:, 0], self.form)


def _up_to(end_id: int, row: list[int]) -> list[int]:
    return row[: row.index(end_id) + 1] if end_id in row else row


class _Finite(LogitsProcessor):
    """Changes no score; raises RankError where one is not finite."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not torch.isfinite(scores.amax(-1)).all():
            raise RankError(NOT_FINITE)
        return scores
