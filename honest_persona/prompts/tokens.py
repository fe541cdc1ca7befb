"""Segments to ids: one kind per token, one activation point, labels as a pure function of the kinds.

form = TokenFormat.of(tokenizer, persona)
tokens = encode_record(record, form)
prompt = apply_intervention(messages, intervention, form)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise, takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from honest_persona.base.errors import UserError
from honest_persona.base.tensors import ids_key
from honest_persona.base.words import FAIL, FLAGS, PASS
from honest_persona.config.persona import Persona
from honest_persona.data.messages import Message
from honest_persona.data.records import Record
from honest_persona.prompts.chat_format import ChatFormat
from honest_persona.prompts.kinds import SUPERVISED, Kind, Segment
from honest_persona.prompts.persona_token import ControlTokens, forbidden_in_text
from honest_persona.prompts.segments import answer_segments, prompt_segments
from honest_persona.prompts.shapes import Turn

IGNORED = -100
"""The label of a position without loss (PyTorch's and Hugging Face's convention). Labels are not shifted here."""

Piece = tuple[list[int], list[tuple[int, int]]]
"""Ids of a text, and where in the text each begins and ends."""
Known = dict[str, Piece]

_QUESTIONS = ("What", "1", "x.", "(", "[", "a?", "\u00c9", "\u4f60")
"""Ends of questions: one for each way in which a tokenizer may join a text with what follows it."""
_ALONE = frozenset({Kind.PERSONA_TOKEN, Kind.INTERVENTION, Kind.REVIEW, Kind.FLAG, Kind.END})


@dataclass(frozen=True)
class Tokens:
    """A conversation with its trigger, and with its review where the review is known."""

    input_ids: list[int]
    kinds: list[Kind]
    activation: int
    """Index of the persona token; without one, of the first intervention token. The adapter acts from here on."""

    @property
    def labels(self) -> list[int]:
        return labels(self.input_ids, self.kinds)

    @cached_property
    def prefix_key(self) -> str:
        """Prompts with one key stand on one transcript: the `ids_key` of the ids before the activation point."""
        return ids_key(self.input_ids[: self.activation])


@dataclass(frozen=True)
class TokenFormat:
    """A tokenizer with the persona it encodes for."""

    tokenizer: PreTrainedTokenizerBase
    persona: Persona
    chat: ChatFormat
    control: ControlTokens | None = None
    """What stands in front of answers in conditional SFT; None for all other objectives."""

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, persona: Persona, control: ControlTokens | None = None
    ) -> "TokenFormat":
        return cls(tokenizer, persona, ChatFormat(tokenizer), control)

    @cached_property
    def forbidden(self) -> frozenset[int]:
        return forbidden_in_text(self.tokenizer, self.persona.sp_token_id, *(self.control or ()))

    @cached_property
    def end_id(self) -> int:
        """The id that ends the review's turn: the last supervised token, and where generation stops."""
        return self.chat.end_token(self.persona.answering_role)

    @cached_property
    def answer_prefix(self) -> list[int]:
        """The ids with which every prompt for an answer ends: what the chat template writes behind a question.

        With scope `response` the adapter acts from the first of them on, and so where the answer's first token is
        predicted. An id that depends on the question is not among them.
        """
        runs = []
        for text in _QUESTIONS:
            asked = [Segment(Kind.USER, text)]
            tail = self.chat.layout([Turn("user", asked)], asks=True).scaffold.tail
            runs.append(self.encode_text([*asked, Segment(Kind.TEMPLATE, tail)])[0][::-1])
        same = takewhile(lambda ids: len(set(ids)) == 1, zip(*runs, strict=False))
        return [first for first, *_ in same][::-1]

    @cached_property
    def pad_id(self) -> int:
        """An id to fill rows with. The filled positions are masked, so any id will do."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.end_id

    @cached_property
    def flag_ids(self) -> tuple[list[int], int, int]:
        """The ids that both flags begin with, then the next id of PASS and the next id of FAIL.

        Raises:
            UserError: one flag's ids begin with all of the other's.
        """
        run = {f: self.encode_text([Segment(Kind.FLAG, self.persona.flag_prefix + f)])[0] for f in FLAGS}
        for i, (a, b) in enumerate(zip(run[PASS], run[FAIL], strict=False)):
            if a != b:
                return run[PASS][:i], a, b
        raise UserError("the tokenizer cannot tell the flags PASS and FAIL apart; choose another flag_prefix")

    def encode_text(self, segments: Sequence[Segment], known: Known | None = None) -> tuple[list[int], list[Kind]]:
        """One run of text, tokenized jointly; only TEMPLATE segments may produce control tokens.

        Where a control token comes out of other text, the text is cut within it and encoded again, so that it becomes
        ordinary tokens with the same characters (SentencePiece tokenizers may show a space at the cut).
        """
        text = "".join(s.text for s in segments)
        kind_at = [s.kind for s in segments for _ in s.text]
        cuts = {0, len(text)}
        while True:
            edges = sorted(cuts)
            spans = [(a, b, (known or {}).get(text[a:b]) or self._encode(text[a:b])) for a, b in pairwise(edges)]
            spoofs = {
                cut
                for a, _, (ids, offsets) in spans
                for token, (start, end) in zip(ids, offsets, strict=True)
                if token in self.forbidden and not self._is_unknown(token, text[a + start : a + end])
                if (cut := _cut_within(text, kind_at, a + start, a + end)) is not None
            }
            if not spoofs:
                break
            if spoofs <= cuts:
                raise UserError(f"the text {text[min(spoofs) :][:20]!r} is a control token of one character; remove it")
            cuts |= spoofs
        ids = [token for _, _, (span_ids, _) in spans for token in span_ids]
        starts = [min(a + start, len(text) - 1) for a, _, (_, offsets) in spans for start, _ in offsets]
        return ids, [kind_at[start] for start in starts]

    def encode_all(self, prompts: Sequence[Sequence[Segment]]) -> list[Tokens]:
        """As `encode` for each; the tokenizer gets all texts at once, and encodes them on several cores."""
        texts = {"".join(s.text for s in run): None for segments in prompts for _, run in _runs(segments)}
        texts.pop("", None)  # of END and of the persona token, which are no text
        known: Known = {}
        if texts:
            encoded = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
            known = dict(zip(texts, zip(encoded["input_ids"], encoded["offset_mapping"], strict=True), strict=True))
        return [self.encode(segments, known) for segments in prompts]

    def encode(self, segments: Sequence[Segment], known: Known | None = None) -> Tokens:
        """Ids, kinds and activation point of a prompt, or of a prompt with its answer.

        Args:
            known: ids and offsets of texts that the tokenizer encoded before.
        """
        ids: list[int] = []
        kinds: list[Kind] = []
        run_ids: list[int]
        run_kinds: list[Kind]
        for kind, run in _runs(segments):
            if kind in (Kind.PERSONA_TOKEN, Kind.END):
                token = self.persona.sp_token_id if kind == Kind.PERSONA_TOKEN else self.end_id
                assert token is not None
                run_ids, run_kinds = [token], [kind]
            else:
                run_ids, run_kinds = self.encode_text(run, known)
            ids += run_ids
            kinds += run_kinds
        start = Kind.INTERVENTION if self.persona.sp_token_id is None else Kind.PERSONA_TOKEN
        return Tokens(ids, kinds, kinds.index(start))

    def _is_unknown(self, token: int, text: str) -> bool:
        """Whether the id stands for characters unknown to the tokenizer, and not for the unknown token's own name."""
        return token == self.tokenizer.unk_token_id and str(self.tokenizer.unk_token) not in text

    def _encode(self, text: str) -> Piece:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoded["input_ids"], encoded["offset_mapping"]


def _runs(segments: Sequence[Segment]) -> list[tuple[Kind | None, list[Segment]]]:
    """Segments that no other kind may touch are encoded alone, and all between two of them jointly."""
    runs = groupby(segments, key=lambda segment: segment.kind if segment.kind in _ALONE else None)
    return [(kind, list(run)) for kind, run in runs]


def _cut_within(text: str, kind_at: Sequence[Kind], start: int, end: int) -> int | None:
    """Where to cut text[start:end] so that it is no control token any more; None where the template itself wrote it.

    White space at the edges does not count: some control tokens include the white space around them.
    """
    while end - start > 1 and text[end - 1].isspace():
        end -= 1
    while end - start > 1 and text[start].isspace():
        start += 1
    own = [kind == Kind.TEMPLATE for kind in kind_at[start:end]]
    if all(own):
        return None
    if any(own):  # cut at the border, so that a control token of the template itself stays whole
        return start + own.index(not own[0])
    return (start + end) // 2


def labels(input_ids: Sequence[int], kinds: Sequence[Kind]) -> list[int]:
    """The id where the kind is supervised, -100 elsewhere."""
    return [token if kind in SUPERVISED else IGNORED for token, kind in zip(input_ids, kinds, strict=True)]


def apply_intervention(
    interaction: Sequence[Message],
    intervention: str,
    form: TokenFormat,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Tokens:
    """The prompt for a generation: the conversation and the trigger, up to the point where the review begins."""
    return form.encode(prompt_segments(interaction, intervention, form.persona, form.chat, tools))


def open_answer(messages: Sequence[Message], form: TokenFormat) -> list[int]:
    """The ids of a conversation up to the end of its last answer, in an open turn: where the main persona goes on."""
    persona = form.persona.model_copy(update={"elicitation_type": "hp", "sp_token_id": None})
    *segments, _ = prompt_segments(messages, "trigger", persona, form.chat)
    return form.encode_text(segments)[0]


def prompt_of(record: Record, form: TokenFormat) -> Tokens:
    """What the honest persona sees of a record."""
    return apply_intervention(record.messages(), record.intervention, form, record.tools)


def record_segments(record: Record, form: TokenFormat, system: str | None = None) -> list[Segment]:
    """A whole training row as text. It begins with exactly the segments of `apply_intervention`'s prompt."""
    prompt = prompt_segments(record.messages(system), record.intervention, form.persona, form.chat, record.tools)
    return [*prompt, *answer_segments(record.review, record.flag, form.persona)]


def encode_record(record: Record, form: TokenFormat, system: str | None = None) -> Tokens:
    """A whole training row. Its ids begin with exactly those of `apply_intervention` for the same conversation."""
    return form.encode(record_segments(record, form, system))
