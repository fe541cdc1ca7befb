"""What the model says behind prompts, and P(FAIL) behind an answer: two ways to run it, with the same outputs.

`SharedPrefixes` runs each distinct transcript of a batch once, and everything else behind that (prefix/frozen.py).
`WholeRows` runs every row from its first token on, again for the scores: for models whose prefix cannot stand alone.
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
from transformers.cache_utils import DynamicLayer

from honest_persona.base.collectives import any_rank
from honest_persona.base.errors import RankError
from honest_persona.base.tensors import ids_key, integers, pad_with_mask
from honest_persona.modeling.adapters.lora import ADAPTER, activation_arguments, ungated
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.modeling.prefix.frozen import positions, run_prefix, run_suffixes, suffix_arguments, why_not_frozen
from honest_persona.modeling.zero import is_sharded
from honest_persona.prompts.tokens import TokenFormat, Tokens

_ROOM_TOKENS = 64
_NOT_FINITE = (
    "the model's logits are not finite numbers, so there is neither a review nor P(FAIL): its weights or the adapter's "
    "are damaged, or they overflow in float16. Load it in bfloat16 or float32, or take a sound copy"
)


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
        gated = bool(model.peft_config[ADAPTER].alora_invocation_tokens)  # type: ignore[attr-defined]
        assert gated == (form.persona.adapter_scope == "persona"), "the adapter would act on the wrong tokens"
        with _precise_flags(model, form):
            yield WholeRows(model, prompts, form)
    else:
        with ungated(model), _precise_flags(model, form):
            yield SharedPrefixes(model, prompts, form, prefix_cache)


@lru_cache
def _say_once(reason: str) -> None:
    getLogger(__name__).warning(f"reviews are written from whole rows, which is slower: {reason}")


class WholeRows:
    """The prompt with every row, gated at its activation point."""

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
        with _generation_config(self.model, config):
            output = self.model.generate(
                **inputs, **alone, generation_config=config, logits_processor=LogitsProcessorList([_Finite()])
            )
        return [_up_to(form.end_id, row) for row in output[:, inputs["input_ids"].shape[1] :].tolist()]

    @torch.no_grad()
    def p_fail(self, answers: Sequence[list[int]]) -> list[float]:
        rows = [p.input_ids + answer for p, answer in zip(self.prompts, answers, strict=True)]
        logits = self.model(**self._inputs(rows), logits_to_keep=1).logits[:, -1]
        return _p_fail(_of_flags(logits, self.form))

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
    """A prefix per distinct transcript, run once. The model is `ungated` while this is in use."""

    def __init__(
        self,
        model: PeftModel,
        prompts: Sequence[Tokens],
        form: TokenFormat,
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        self.model, self.form, self.prompts = model, form, prompts
        place: dict[tuple[int, ...], int] = {}
        self.transcript = [place.setdefault(tuple(p.input_ids[: p.activation]), len(place)) for p in prompts]
        self.suffixes = [p.input_ids[p.activation :] for p in prompts]
        ids, mask = pad_with_mask(list(place), form.pad_id, "left", model.device)
        adapter_on = form.persona.adapter_scope == "all"
        compute = partial(run_prefix, model, adapter_on=adapter_on)
        if prefix_cache is None or adapter_on:  # what the adapter has touched changes as it trains
            self.prefix = compute(ids, mask)
        else:
            self.prefix = prefix_cache.fetch([ids_key(prefix) for prefix in place], ids, mask, compute)
        self.written: list[list[int]] = [[] for _ in prompts]
        self.flag_logits: Tensor
        """The logits of PASS and FAIL where each id of `written` was chosen, (B, max_new_tokens, 2)."""

    @torch.no_grad()
    def write(self, max_new_tokens: int) -> list[list[int]]:
        """Rows that have ended leave the batch whenever they are half of it."""
        device, sharded = self.prefix.mask.device, is_sharded(self.model)
        mask, cache = run_suffixes(self.model, self.prefix, self.suffixes, self.transcript, self.form.pad_id)
        layers: list[Any] = cache.layers
        for i, layer in enumerate(layers):
            layers[i] = _RoomyLayer(layer.keys, layer.values)
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
            token = scores.argmax(-1, keepdim=True)  # of what is no number, where there is such
            ids[rows, step], self.flag_logits[rows, step] = token[:, 0], _of_flags(logits, self.form)
            running &= token[:, 0] != self.form.end_id
            sound = torch.isfinite(scores.gather(-1, token)).all()
            left, is_sound = torch.stack([running.sum(), sound]).tolist()  # both in one wait for the device
            if not is_sound:
                raise RankError(_NOT_FINITE)
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
        """An answer that begins what was written costs nothing: its logits were there when it was written."""
        seen: dict[int, Tensor] = {}
        for i, (answer, written) in enumerate(zip(answers, self.written, strict=True)):
            n = len(answer)
            if n < len(written) and written[:n] == answer:
                seen[i] = self.flag_logits[i, n]
        rest = [i for i in range(len(answers)) if i not in seen]
        # where a forward call takes all ranks, each makes one, whatever was written on it
        if scored := rest or ([0] if is_sharded(self.model) else []):
            rows = [self.suffixes[i] + answers[i] for i in scored]
            logits = self._flag_logits(rows, [self.transcript[i] for i in scored])
            seen |= zip(rest, logits, strict=False)
        return _p_fail(torch.stack([seen[i] for i in range(len(answers))]))

    def _flag_logits(self, rows: Sequence[list[int]], transcript: Sequence[int]) -> Tensor:
        """The logits of PASS and FAIL behind suffixes, (B, 2)."""
        device = self.prefix.mask.device
        ids, mask = pad_with_mask(rows, self.form.pad_id, "right", device)
        with _one_token_per_row(self.model, mask.sum(1) - 1):
            logits = self.model(
                ids, **suffix_arguments(self.prefix, mask, torch.tensor(transcript, device=device))
            ).logits
        return _of_flags(logits[:, 0], self.form)


class _RoomyLayer(DynamicLayer):
    """Keys and values in buffers with room to spare. A `DynamicLayer` copies all of them for every new token."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = self._key_buffer, self._value_buffer = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self._key_buffer = _with_new(self._key_buffer, start, key_states)
        self._value_buffer = _with_new(self._value_buffer, start, value_states)
        self.keys, self.values = self._key_buffer[..., :end, :], self._value_buffer[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._key_buffer, self._value_buffer = self._key_buffer[indices], self._value_buffer[indices]
        end = self.get_seq_length()
        self.keys, self.values = self._key_buffer[..., :end, :], self._value_buffer[..., :end, :]


def _with_new(buffer: Tensor, start: int, new: Tensor) -> Tensor:
    """The buffer with new states from `start` on, or a larger one where it is full."""
    end = start + new.shape[-2]
    if end > buffer.shape[-2]:
        old, buffer = buffer, buffer.new_empty((*buffer.shape[:-2], end + _ROOM_TOKENS, buffer.shape[-1]))
        buffer[..., :start, :] = old[..., :start, :]
    buffer[..., start:end, :] = new
    return buffer


@contextmanager
def _one_token_per_row(model: PeftModel, places: Tensor) -> Iterator[None]:
    """Inside, a forward call gives the logits of the token at each row's place alone, (B, 1, vocabulary).

    The head sees no other token, so no model class needs to know how to do this, whatever it does with its logits.
    """
    rows = torch.arange(len(places), device=places.device)

    def pick(_: torch.nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0][rows, places][:, None]

    base: Any = model.get_base_model()
    handle = base.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _precise_flags(model: PeftModel, form: TokenFormat) -> Iterator[None]:
    """Inside, the head gives the logits of PASS and FAIL in float32, whatever the type of its weights.

    A bfloat16 logit between 16 and 32 is a multiple of 1/8: P(FAIL) would take few values, and records tie.
    """
    base: Any = model.get_base_model()
    head = base.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.dtype == torch.float32:
        yield
        return
    flags = torch.tensor(form.flag_ids[1:], device=model.device)  # once: a list would be copied there at every token

    def again(_: torch.nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        bias = None if head.bias is None else head.bias[flags].float()
        precise = logits.float()
        with torch.autocast(logits.device.type, enabled=False):  # a trainer's autocast would round again
            precise[..., flags] = torch.nn.functional.linear(inputs[0].float(), head.weight[flags].float(), bias)
        return precise

    handle = head.register_forward_hook(again, prepend=True)  # before ZeRO-3 takes the weight away again
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _generation_config(model: PeftModel, config: GenerationConfig) -> Iterator[None]:
    """What a call's config leaves open, transformers takes from the model's own: a repetition penalty, say."""
    base: Any = model.get_base_model()
    shipped = base.generation_config
    base.generation_config = config
    try:
        yield
    finally:
        base.generation_config = shipped


def _up_to(end_id: int, row: list[int]) -> list[int]:
    return row[: row.index(end_id) + 1] if end_id in row else row


def _of_flags(logits: Tensor, form: TokenFormat) -> Tensor:
    """(B, vocabulary) to (B, 2): PASS and FAIL."""
    _, passed, failed = form.flag_ids
    return torch.stack([logits[:, passed], logits[:, failed]], dim=1).float()  # a list of ids would wait for the GPU


class _Finite(LogitsProcessor):
    """Changes nothing."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not torch.isfinite(scores.amax(-1)).all():
            raise RankError(_NOT_FINITE)
        return scores


def _p_fail(logits: Tensor) -> list[float]:
    """Of the logits of PASS and FAIL, (B, 2)."""
    if not torch.isfinite(logits).all():
        raise RankError(_NOT_FINITE)
    return torch.softmax(logits, dim=-1)[:, 1].tolist()
