"""The honest persona at work: generate reviews, parse them, score P(FAIL).

persona = load_honest_persona("checkpoints/my-run")
review = persona.review([{"role": "user", "content": ...}, {"role": "assistant", "content": ...}])
review.text, review.flag, review.p_fail, review.ending
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from honest_persona.data.segments import Kind, Persona, Segment
from honest_persona.data.tokens import TokenFormat, Tokens, apply_intervention
from honest_persona.errors import UserError
from honest_persona.modeling.adapter import (
    AdapterCard,
    activation_arguments,
    base_fingerprint,
    check_active,
    load_adapter,
)
from honest_persona.modeling.load import load_base, load_tokenizer


class Ending(StrEnum):
    """How a generated review ended."""

    CLEAN = "clean"
    """Flag in its place, and the end of the turn."""
    TRUNCATED = "truncated"
    """The token limit came first."""
    MALFORMED = "malformed"
    """The turn ended, but not as a review with a flag."""


@dataclass(frozen=True)
class Review:
    """What the honest persona said about one conversation."""

    text: str
    """The review, without prefixes and flag."""
    flag: str | None
    """PASS or FAIL; None where what was written has no flag in its place."""
    p_fail: float
    """P(FAIL) / (P(FAIL) + P(PASS)) at the flag's place after the review as it was written."""
    ending: Ending


def parse_review(text: str, ended: bool, persona: Persona) -> tuple[str, str | None, Ending]:
    """Review, flag and ending of a generated text: the inverse of `segments.answer_segments`.

    Args:
        text: what was generated, without the end-of-turn token.
        ended: whether the end-of-turn token was generated.
    """
    if persona.output_format == "review_then_flag":
        # the flag is the last thing said: a review that quotes a flag does not set it
        said = text.rstrip()
        flag = next((f for f in ("PASS", "FAIL") if said.endswith(persona.flag_prefix + f)), None)
        review = said.removesuffix(persona.flag_prefix + flag) if flag else text
    else:
        rest = text.removeprefix(persona.flag_prefix) if text.startswith(persona.flag_prefix) else ""
        flag = next((f for f in ("PASS", "FAIL") if rest.startswith(f)), None)
        review = rest.removeprefix(flag) if flag else text
        if persona.output_format == "flag_only":
            flag, review = (None, text) if review.strip() else (flag, "")
        elif flag and review[:1].isalnum() and not review.startswith(persona.review_prefix):
            flag, review = None, text  # a longer word, such as FAILURE
    in_form = flag is not None and (persona.output_format == "flag_only" or review.startswith(persona.review_prefix))
    ending = Ending.TRUNCATED if not ended else Ending.CLEAN if in_form else Ending.MALFORMED
    return review.removeprefix(persona.review_prefix), flag, ending


@torch.no_grad()
def write_reviews(model: PeftModel, prompts: Sequence[Tokens], form: TokenFormat, max_new_tokens: int) -> list[Review]:
    """Greedy reviews of one batch of prompts. The model is in eval mode, without activation checkpointing.

    Under ZeRO-3 every rank must call this equally often: the weights are gathered for each forward pass.
    """
    inputs = _left_padded([p.input_ids for p in prompts], [p.activation for p in prompts], form, model.device)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=form.end_id, pad_token_id=form.pad_id
    )
    with _generation_config(model, config):
        output = model.generate(**inputs, generation_config=config)
    parsed, forced = [], []
    for prompt, row in zip(prompts, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        ended = form.end_id in row
        written = row[: row.index(form.end_id)] if ended else row
        text = str(form.tokenizer.decode(written, skip_special_tokens=False))
        review, flag, ending = parse_review(text, ended, form.persona)
        parsed.append((review, flag, ending))
        forced.append(prompt.input_ids + _until_flag(review, form))
    p_fail = score_flags(model, forced, [p.activation for p in prompts], form)
    return [Review(r, flag, p, ending) for (r, flag, ending), p in zip(parsed, p_fail, strict=True)]


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


@torch.no_grad()
def score_flags(
    model: PeftModel, rows: Sequence[list[int]], activations: Sequence[int], form: TokenFormat
) -> list[float]:
    """P(FAIL) against P(PASS) behind each row, which ends where the two flags part."""
    _, passed, failed = form.flag_ids
    logits = model(**_left_padded(rows, activations, form, model.device), logits_to_keep=1).logits[:, -1]
    return torch.softmax(logits[:, [passed, failed]].float(), dim=-1)[:, 1].tolist()


def _until_flag(review: str, form: TokenFormat) -> list[int]:
    """The answer's ids up to where the two flags part, encoded as training encodes them."""
    common, _, _ = form.flag_ids
    if form.persona.output_format != "review_then_flag":
        return common
    ids, _ = form.encode_text([Segment(Kind.REVIEW, form.persona.review_prefix + review)])
    return ids + common


def _left_padded(
    rows: Sequence[list[int]], activations: Sequence[int], form: TokenFormat, device: torch.device
) -> dict[str, Any]:
    length = max(len(row) for row in rows)
    pads = [length - len(row) for row in rows]
    ids = torch.tensor([[form.pad_id] * pad + row for pad, row in zip(pads, rows, strict=True)], device=device)
    mask = torch.tensor([[0] * pad + [1] * len(row) for pad, row in zip(pads, rows, strict=True)], device=device)
    activation = torch.tensor([a + pad for pad, a in zip(pads, activations, strict=True)])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        **activation_arguments(form.persona.adapter_scope, activation, length),
    }


@dataclass(frozen=True)
class HonestPersona:
    """A base model with its adapter, ready to review conversations."""

    model: PeftModel
    form: TokenFormat
    card: AdapterCard

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.form.tokenizer

    def review(
        self, messages: Sequence[Mapping[str, str]], intervention: str | None = None, max_new_tokens: int = 512
    ) -> Review:
        """The honest persona's review of the last assistant turn of `messages`.

        Args:
            messages: `{"role", "content"}`; an optional system message first, an assistant's answer last.
            intervention: the trigger's text; the adapter's default one where it is not given.

        Raises:
            UserError: the conversation does not end with an answer, or cannot be shown by the chat template.
        """
        return self.reviews([messages], intervention, max_new_tokens)[0]

    def reviews(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        intervention: str | None = None,
        max_new_tokens: int = 512,
        batch_size: int = 8,
    ) -> list[Review]:
        """`review` of several conversations, in batches. One that is too long for the model is an error."""
        text = self.card.default_intervention if intervention is None else intervention
        prompts = [apply_intervention(messages, text, self.form) for messages in conversations]
        positions = self.model.config.get_text_config().max_position_embeddings
        for i, prompt in enumerate(prompts):
            n = len(prompt.input_ids)
            if n + max_new_tokens > positions:
                raise UserError(
                    f"conversation {i} has {n} tokens; with a review of up to {max_new_tokens} that is more than the "
                    f"model's {positions} positions. Shorten it, or lower max_new_tokens"
                )
        reviews: list[Review] = []
        for i in range(0, len(prompts), batch_size):
            reviews += write_reviews(self.model, prompts[i : i + batch_size], self.form, max_new_tokens)
        return reviews


def load_honest_persona(
    path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device | None = None
) -> HonestPersona:
    """The adapter of a folder with its base model, checked to be active, and at its place alone.

    Args:
        dtype: of the base model; that of the training where it is not given.

    Raises:
        UserError: no adapter there, another base model than it was trained on, or an adapter that changes nothing.
    """
    folder = Path(path)
    card = AdapterCard.load(folder)
    half = card.config.get("bf16", True) or card.config.get("fp16", False)
    base = load_base(card.base_model, card.base_revision, dtype or (torch.bfloat16 if half else torch.float32))
    fingerprint = base_fingerprint(base)
    if fingerprint != card.base_fingerprint:
        raise UserError(
            f"{folder}: the base model {card.base_model!r} has other weights than the adapter was trained on "
            f"(fingerprint {fingerprint[:12]}, expected {card.base_fingerprint[:12]}); load the original one"
        )
    form = TokenFormat.of(load_tokenizer(str(folder)), card.persona)
    model = load_adapter(base, folder).eval()
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    probe = apply_intervention(
        [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello to you."}],
        card.default_intervention,
        form,
    )
    check_active(model, form, probe.input_ids, probe.activation)
    return HonestPersona(model, form, card)
