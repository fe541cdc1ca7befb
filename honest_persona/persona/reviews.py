"""The honest persona at work: generate reviews, parse them, score P(FAIL).

persona = load_honest_persona("checkpoints/my-run")
review = persona.review([{"role": "user", "content": ...}, {"role": "assistant", "content": ...}])
review.text, review.flag, review.p_fail, review.ending
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from honest_persona.base.errors import UserError
from honest_persona.base.number_format import FormatName, format_of
from honest_persona.base.progress import Progress
from honest_persona.modeling.adapters.lora import CARD_FILE, AdapterCard, base_fingerprint, check_active, load_adapter
from honest_persona.modeling.adapters.published import resolve
from honest_persona.modeling.load import load_base, load_tokenizer
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.persona.answering import batch_of
from honest_persona.prompts.persona_token import resolve_persona_token
from honest_persona.prompts.segments import Kind, Persona, Segment
from honest_persona.prompts.tokens import TokenFormat, Tokens, apply_intervention
from honest_persona.statistics.threshold import Threshold


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
    """P(FAIL) / (P(FAIL) + P(PASS)) at the flag's place after the review as it was written, whether or not a flag was.
    Always a finite number: where the logits are none, there is no review but an error."""
    ending: Ending
    above_threshold: bool | None = None
    """The decision at the threshold that `calibrate` stored with the adapter for this wording of the intervention.

    - True: `p_fail` is above it, whatever was written.
    - False: it is not, and the review has its flag, PASS or FAIL: a written FAIL below the threshold is not certain
      enough for the false positive rate that was wanted.
    - None: nothing was decided. There is no threshold, or it was fixed with another wording; or `p_fail` is not above
      it and there is no flag (a review that was cut off, or is none): a score behind such a text clears nobody.
    """


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
        intervention: str | Sequence[str] | None = None,
        max_new_tokens: int = 512,
        batch_size: int = 8,
    ) -> list[Review]:
        """`review` of several conversations, in batches. One that is too long for the model is an error."""
        return list(self.each_review(conversations, intervention, max_new_tokens, batch_size))

    def each_review(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        intervention: str | Sequence[str] | None = None,
        max_new_tokens: int = 512,
        batch_size: int = 8,
    ) -> Iterator[Review]:
        """`reviews`, in order, as their batches are written. All conversations are checked before the first of them.

        Shows progress after `honest_persona.show_progress()`.

        Args:
            intervention: one text for all, or one for each; the adapter's default one where it is not given.
        """
        text = self.card.default_intervention if intervention is None else intervention
        texts = [text] * len(conversations) if isinstance(text, str) else list(text)
        prompts = [apply_intervention(messages, t, self.form) for messages, t in zip(conversations, texts, strict=True)]
        positions = _positions(self.model)
        for i, prompt in enumerate(prompts):
            n = len(prompt.input_ids)
            if n + max_new_tokens > positions:
                raise UserError(
                    f"conversation {i} has {n} tokens; with a review of up to {max_new_tokens} that is more than the "
                    f"model's {positions} positions. Shorten it, or lower max_new_tokens"
                )
        return self._each_review(prompts, texts, max_new_tokens, batch_size)

    def _each_review(
        self, prompts: Sequence[Tokens], texts: Sequence[str], max_new_tokens: int, batch_size: int
    ) -> Iterator[Review]:
        with Progress("reviews", len(prompts), "conversations") as progress:
            for start in range(0, len(prompts), batch_size):
                of = slice(start, start + batch_size)
                written = write_reviews(self.model, prompts[of], self.form, max_new_tokens)
                progress.advance(len(written))
                for review, text in zip(written, texts[of], strict=True):
                    yield self.decided(review, text)

    def decided(self, review: Review, intervention: str) -> Review:
        """With the decision at the stored threshold, where that was fixed for this wording."""
        stored = self.card.threshold
        if stored is None or stored["intervention"] != intervention:
            return review
        above = bool(Threshold.from_dict(stored).flags([review.p_fail])[0])
        return replace(review, above_threshold=above if above or review.flag is not None else None)


def load_honest_persona(
    path: str | Path,
    dtype: torch.dtype | FormatName | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
) -> HonestPersona:
    """An adapter with its base model, checked to be active, and at its place alone.

    Args:
        path: the adapter's folder, or a repo of the Hub: "user/name".
        dtype: the number format to run in. None and `auto`: that of the training where this machine is fast in it, else
            float32 (`number_format.format_of`).
        revision: branch, tag or commit of the repo.

    Raises:
        UserError: no adapter there, or one that is not whole; another base model than it was trained on, or an adapter
            that changes nothing.
    """
    folder = resolve(path, revision)
    card = AdapterCard.load(folder)
    if not isinstance(dtype, torch.dtype):
        dtype = format_of(dtype, card.trained_in).dtype
    base = load_base(card.base_model, card.base_revision, dtype)
    fingerprint = base_fingerprint(base)
    if fingerprint != card.base_fingerprint:
        raise UserError(
            f"{folder}: the base model {card.base_model!r} has other weights than the adapter was trained on "
            f"(fingerprint {fingerprint[:12]}, expected {card.base_fingerprint[:12]}); load the original one"
        )
    form = TokenFormat.of(load_tokenizer(str(folder)), card.persona)
    _check_token(folder, form, base)
    model = load_adapter(base, folder).eval()
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    probe = apply_intervention(
        [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello to you."}],
        card.default_intervention,
        form,
    )
    if (n := len(probe.input_ids)) > _positions(model):
        raise UserError(
            f"{folder}: a greeting has {n} tokens in the adapter's chat template with its default_intervention, more "
            f"than the model's {_positions(model)} positions; one of the two is damaged, or made to do harm: take a "
            "sound copy"
        )
    check_active(model, form, probe.input_ids, probe.activation)
    return HonestPersona(model, form, card)


def _positions(model: PeftModel) -> int:
    config: Any = model.config
    return config.get_text_config().max_position_embeddings


def _check_token(folder: Path, form: TokenFormat, base: PreTrainedModel) -> None:
    """Raises UserError: the card's persona token is none of the model's, or one that text can produce."""
    if form.persona.sp_token_id is None:
        return
    embedding: Any = base.get_input_embeddings()
    try:
        resolve_persona_token(form.tokenizer, embedding.weight.shape[0], form.persona.sp_token_id)
    except UserError as error:
        raise UserError(f"{folder / CARD_FILE}: persona.{error}") from error
