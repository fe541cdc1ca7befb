"""Answers as token ids, with the places at which their states are read; before any model is loaded.

    encoded = encode_answers(answers, None, form, wording="", seq_len=2048)     # answers alone, at PLACES
    encoded = encode_answers(answers, Position.CHOICE, form, "", 2048)          # contrast pairs

Prompt and answer have the very ids that the main persona reads and writes (prompts/feedback.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset

from honest_persona.base.errors import UserError
from honest_persona.base.progress import followed
from honest_persona.data.feedback import Feedback
from honest_persona.data.messages import Message
from honest_persona.probes.features import Position, flag_tails
from honest_persona.probes.store import IN_MEMORY_BYTES
from honest_persona.prompts.feedback import prompt_tokens, response_tokens, spooled_table
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.tokens import TokenFormat, apply_intervention

PLACES = (Position.RESPONSE_END, Position.RESPONSE_MEAN, Position.TURN_END)
"""The positions of an answer alone."""

_INT = pa.list_(pa.int32())
SCHEMA = pa.schema({"body": _INT, "tails": pa.list_(_INT), "starts": _INT, "stops": _INT})
"""Of one answer: its tokens are body and the one tail; the body ends where an adapter of scope `response` begins.
Of a contrast pair: two tails behind one body. Starts and stops: of the places, counted from the tail's beginning."""

_EMPTY = "the answer is empty: there is nothing for a probe to read"


class Answer(NamedTuple):
    """An answer to read; at Position.CHOICE also what else the template offers."""

    row: Feedback
    message: Message
    """The answer."""
    choices: tuple[Message, Message] | None = None


def choices_of(row: Feedback) -> tuple[Message, Message] | None:
    """The two answers that a template offers, in its order; None where the row names none."""
    given = (row.about or {}).get("choices")
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(text, str) for text in given):
        return None
    return {"role": "assistant", "content": given[0]}, {"role": "assistant", "content": given[1]}


def encode_answer(answer: Answer, place: Position | None, form: TokenFormat, wording: str) -> dict[str, Any]:
    """The fields of `SCHEMA`.

    Args:
        place: None reads all `PLACES`; else one of `PAIRS`.
        wording: the trigger's text behind the answer, for Position.FLAG.

    Raises:
        UserError: the chat template cannot show the conversation, or the answer is empty.
    """
    row = answer.row
    if not answer.message["content"].strip() and not answer.message.get("tool_calls"):
        raise UserError(_EMPTY)
    if place == Position.FLAG:
        shared, tails = flag_tails(form)
        prompt = apply_intervention([*row.messages, answer.message], wording, form, row.tools)
        return {"body": [*prompt.input_ids, *shared], "tails": tails, "starts": [], "stops": []}
    prompt_ids = prompt_tokens(row.messages, form, row.tools).ids
    if place == Position.CHOICE:
        assert answer.choices is not None
        tails = []
        for message in answer.choices:
            ids, kinds = response_tokens(row.messages, message, form, row.tools)
            tails.append(ids[: _said(kinds)[1]])
        if tails[0] == tails[1]:
            raise UserError("the two choices have the same tokens")
        return {"body": prompt_ids, "tails": tails, "starts": [], "stops": []}
    ids, kinds = response_tokens(row.messages, answer.message, form, row.tools)
    start, stop = _said(kinds)
    cut = len(form.answer_prefix)
    spans = [(stop - 1, stop), (start, stop), (len(ids) - 1, len(ids))]
    return {
        "body": prompt_ids[: len(prompt_ids) - cut],
        "tails": [[*prompt_ids[len(prompt_ids) - cut :], *ids]],
        "starts": [cut + a for a, _ in spans],
        "stops": [cut + z for _, z in spans],
    }


def _said(kinds: Sequence[Kind]) -> tuple[int, int]:
    """The first index of the last run of the answer's own text, and the index after its last."""
    own = [i for i, kind in enumerate(kinds) if kind == Kind.RESPONSE]
    if not own:
        raise UserError(_EMPTY)
    stop = start = own[-1] + 1
    while start and kinds[start - 1] == Kind.RESPONSE:
        start -= 1
    return start, stop


@dataclass(frozen=True)
class EncodedAnswers:
    rows: Dataset
    """By `SCHEMA`; in the order of the answers that are kept."""
    kept: list[int]
    """Their places among all answers."""
    too_long: list[str]
    """Ids of rows of more than `seq_len` tokens."""
    not_shown: list[str]
    """Ids of rows that the chat template cannot show, or whose answer is empty."""
    why_not_shown: str
    place: Position | None


def encode_answers(
    answers: Sequence[Answer], place: Position | None, form: TokenFormat, wording: str, seq_len: int
) -> EncodedAnswers:
    """Answers as token ids, in memory or in a mapped file. Raises UserError: the disk is full."""
    found = EncodedAnswers(Dataset.from_dict({}), [], [], [], "", place)
    why = ""

    def fitting() -> Iterator[dict[str, Any]]:
        nonlocal why
        for i, answer in enumerate(followed(answers, "encoding", "answers")):
            try:
                made = encode_answer(answer, place, form, wording)
            except UserError as error:
                why = why or f"{answer.row.id}: {error}"
                found.not_shown.append(answer.row.id)
                continue
            if len(made["body"]) + max(map(len, made["tails"])) > seq_len:
                found.too_long.append(answer.row.id)
                continue
            found.kept.append(i)
            yield made

    rows = spooled_table(fitting(), SCHEMA, IN_MEMORY_BYTES)
    return EncodedAnswers(rows, found.kept, found.too_long, found.not_shown, why, place)
