"""Answers of a model on this machine.

A prompt runs once for all of its answers, and what the prompts of a batch begin with (their system prompt) runs once
for the batch. Each answer has random numbers of its own, drawn from the prompt's content and the seed: which other
prompts stand in the batch, or are asked for at all, changes nothing (but for ties within the precision of a float).
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.tensors import integers, pad_with_mask
from honest_persona.config.persona import Persona
from honest_persona.data.messages import Message
from honest_persona.generation.sampling import Answer, Done, How, Prompt
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.modeling.prefix.frozen import positions, why_not_split
from honest_persona.persona.flag_logits import NOT_FINITE
from honest_persona.persona.roomy_layer import RoomyLayer
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.segments import prompt_segments
from honest_persona.prompts.tokens import TokenFormat

ROWS = 128
"""Answers that are written together."""
_LIKELIEST = 64
"""A token is drawn from this many; all others together are too rare to matter at usual temperatures."""
_LEFT = 3 / 4
"""Answers that have ended leave the batch when no more than this share of it is left."""


class LocalModel:
    """A chat model in memory."""

    begins = True

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int = ROWS) -> None:
        if reason := why_not_split(model.config):
            raise UserError(
                f"model: answers of {model.config.name_or_path!r} cannot be sampled here: {reason}. Serve the model, "
                "and give --endpoint"
            )
        self.model, self.rows = model.eval(), rows
        self.form = plain_format(tokenizer)
        self.name = named(base_fingerprint(model))

    def sample(self, prompts: Sequence[Prompt], how: How, done: Done) -> None:
        ids = {prompt: self.encode(prompt) for prompt in prompts}
        ordered = sorted(ids, key=lambda prompt: (prompt.system, len(ids[prompt]), prompt.task, prompt.begun))
        per_batch = max(1, self.rows // how.n)
        for start in range(0, len(ordered), per_batch):
            batch = ordered[start : start + per_batch]
            answers = self._batch([ids[p] for p in batch], [uniforms(p, how) for p in batch], how)
            for i, prompt in enumerate(batch):
                done(prompt, answers[i * how.n : (i + 1) * how.n])

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids up to where the model goes on: the same as in a training on the answer."""
        return encoded(prompt, self.form)[0]

    @torch.inference_mode()
    def _batch(self, prompts: Sequence[list[int]], drawn: Sequence[np.ndarray], how: How) -> list[Answer]:
        device = self.model.device
        logits, cache, mask = self._read(prompts)
        layers: list[Any] = cache.layers
        for i, layer in enumerate(layers):
            layers[i] = RoomyLayer(*(t.repeat_interleave(how.n, 0) for t in (layer.keys, layer.values)))
        logits, mask = logits.repeat_interleave(how.n, 0), mask.repeat_interleave(how.n, 0)
        numbers = torch.from_numpy(np.concatenate(drawn)).to(device)
        rows = torch.arange(len(mask), device=device)
        written = torch.full((len(mask), how.max_new_tokens), self.form.end_id, device=device)
        for step in range(how.max_new_tokens):
            token = choose(logits, numbers[rows, step], how.temperature)
            written[rows, step] = token
            running = token != self.form.end_id
            left = int(running.sum())
            if not left or step + 1 == how.max_new_tokens:
                break
            if left <= _LEFT * len(rows):
                cache.batch_select_indices(running.nonzero()[:, 0])
                token, mask, rows = token[running], mask[running], rows[running]
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            logits = self._forward(token[:, None], mask, cache)
        last = [prompt[-1:] for prompt in prompts for _ in range(how.n)]
        return [self._answer(*pair) for pair in zip(last, written.tolist(), strict=True)]

    def _read(self, prompts: Sequence[list[int]]) -> tuple[Tensor, DynamicCache, Tensor]:
        """The logits behind each prompt (U, V), the cache and its mask (U, P); padding stands behind what is common."""
        common = _common(prompts)
        cache = DynamicCache()  # without a config: sliding layers keep everything, so that all layers are one length
        if common:
            ids = integers(prompts[0][:common])[None].to(self.model.device)
            self._forward(ids, torch.ones_like(ids), cache)
            cache.batch_repeat_interleave(len(prompts))
        ids, mask = pad_with_mask([p[common:] for p in prompts], self.form.pad_id, "left", self.model.device)
        mask = torch.nn.functional.pad(mask, (common, 0), value=1)
        return self._forward(ids, mask, cache), cache, mask

    def _forward(self, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        places = positions(mask)[:, -ids.shape[1] :]
        model: Any = self.model
        return model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _answer(self, last: list[int], written: list[int]) -> Answer:
        """`last` is the prompt's end: some tokenizers drop the space of a text that begins with one."""
        end = self.form.end_id
        ended = end in written
        ids = written[: written.index(end)] if ended else written
        before, whole = self._text(last), self._text([*last, *ids])
        return Answer(whole.removeprefix(before), ended)

    def _text(self, ids: list[int]) -> str:
        return str(self.form.tokenizer.decode(ids, skip_special_tokens=True))


def named(fingerprint: str) -> str:
    """How ledgers and records name a model on this machine."""
    return f"weights {fingerprint[:16]}"


def plain_format(tokenizer: PreTrainedTokenizerBase) -> TokenFormat:
    """A format without a persona; prompts bring the tags of their system prompts."""
    return TokenFormat.of(tokenizer, Persona(system_tag=""))


def encoded(prompt: Prompt, form: TokenFormat) -> tuple[list[int], list[Kind]]:
    """A prompt with what is begun, in a turn that stays open."""
    answer: Message = {"role": "assistant", "content": prompt.begun}
    *segments, _ = prompt_segments([*prompt.messages, answer], "trigger", form.persona, form.chat)
    return form.encode_text(segments)


def _common(rows: Sequence[list[int]]) -> int:
    """How many ids all rows begin with; each row has one more at least."""
    least, most = min(rows), max(rows)  # what these two begin with, all rows between them begin with
    alike = next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
    return min(alike, *(len(row) - 1 for row in rows))


def uniforms(prompt: Prompt, how: How) -> np.ndarray:
    """Numbers in [0, 1), (n, max_new_tokens), from the prompt and the seed alone; answer i has row i for every n."""
    return numbers_of([how.seed, prompt.system, prompt.task, prompt.begun], (how.n, how.max_new_tokens))


def numbers_of(content: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers in [0, 1), from the content alone. A longer last dimension begins with those of a shorter one."""
    key = json_text.dumps(content)
    generator = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    return generator.random(shape)


def choose(logits: Tensor, numbers: Tensor, temperature: float, most: int | None = _LIKELIEST) -> Tensor:
    """(B,) int64: the likeliest token at temperature 0, else a token drawn with the row's number.

    Args:
        logits: (B, V).
        numbers: (B,), in [0, 1).
        most: how many of the likeliest tokens are drawn from; None draws from all.
    """
    likeliest = logits.float().amax(-1)
    if not bool(torch.isfinite(likeliest).all()):  # a NaN is the greatest of all
        raise UserError(NOT_FINITE)
    return drawn(logits, numbers, temperature, most)


def drawn(logits: Tensor, numbers: Tensor, temperature: float, most: int | None) -> Tensor:
    """`choose` without a wait for the device: where logits are not finite, a token is chosen whose own is not."""
    scores, tokens = logits.float().topk(min(most or logits.shape[-1], logits.shape[-1]))
    if temperature == 0:
        return tokens[:, 0]
    shares = torch.softmax(scores.double() / temperature, -1).cumsum(-1)
    place = (shares <= numbers[:, None]).sum(-1).clamp(max=scores.shape[-1] - 1)
    return tokens.gather(-1, place[:, None])[:, 0]
