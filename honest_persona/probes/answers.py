"""Answers of the main persona as what a probe reads: encoded once, run once, kept on the disk.

    examples = labelled_examples(rows, of_pairs=False)             # facts about answers, from rows of feedback
    encoded = encode_answers(examples, form, places, wording, seq_len)
    store = read_answers(model, encoded, form, layers, batch_size)         # Site -> column of states
    p_fail = score_answers(probe, model, form, rows)               # of other answers: as a baseline, or as a reward

Prompt and answer have the very ids that the main persona reads and writes (prompts/feedback.py). Nothing here holds all
answers or states in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor

from honest_persona.base.errors import UserError
from honest_persona.base.progress import Progress, followed
from honest_persona.data.feedback import Feedback
from honest_persona.data.messages import Message
from honest_persona.modeling.adapters.tuning import Model
from honest_persona.modeling.prefix.frozen import why_not_split
from honest_persona.probes.features import (
    PAIRS,
    Position,
    Site,
    batches_of,
    flag_tails,
    pair_states,
    states_behind,
    states_of,
)
from honest_persona.probes.probe import Probe
from honest_persona.probes.store import StateStore
from honest_persona.prompts.feedback import prompt_tokens, response_tokens, spooled_table
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.tokens import TokenFormat, apply_intervention

PLACES = (Position.RESPONSE_END, Position.RESPONSE_MEAN, Position.TURN_END)
"""The positions of an answer alone."""

WINDOW = 256
"""Answers whose states are in memory together; within a window rows of similar length are run together."""

_INT = pa.list_(pa.int32())
_SCHEMA = pa.schema({"body": _INT, "tails": pa.list_(_INT), "starts": _INT, "stops": _INT})
"""Of one answer: its tokens are body and the one tail; the body ends where an adapter of scope `response` begins.
Of a contrast pair: two tails behind one body. Starts and stops: of the places, counted from the tail's beginning."""


class Answer(NamedTuple):
    """An answer to read; at Position.CHOICE also what else the template offers."""

    row: Feedback
    message: Message
    """The answer."""
    fail: bool | None
    """Of a contrast pair of choices: whether the second choice is the right one. None: not known."""
    choices: tuple[Message, Message] | None = None


def choices_of(row: Feedback) -> tuple[Message, Message] | None:
    """The two answers that a template offers, in its order; None where the row names none."""
    given = (row.about or {}).get("choices")
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(text, str) for text in given):
        return None
    return {"role": "assistant", "content": given[0]}, {"role": "assistant", "content": given[1]}


def encode_answer(answer: Answer, place: Position | None, form: TokenFormat, wording: str) -> dict[str, Any]:
    """The fields of `_SCHEMA`.

    Args:
        place: None reads all `PLACES`; else one of `PAIRS`.
        wording: the trigger's text behind the answer, for Position.FLAG.

    Raises:
        UserError: the chat template cannot show the conversation, or the answer is empty.
    """
    row = answer.row
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
        raise UserError("the answer is empty: there is nothing for a probe to read")
    stop = start = own[-1] + 1
    while start and kinds[start - 1] == Kind.RESPONSE:
        start -= 1
    return start, stop


@dataclass(frozen=True)
class EncodedAnswers:
    rows: Dataset
    """By `_SCHEMA`; in the order of the answers that are kept."""
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

    rows = spooled_table(fitting(), _SCHEMA)
    return EncodedAnswers(rows, found.kept, found.too_long, found.not_shown, why, place)


def sites_of(place: Position | None, layers: Sequence[int], places: Sequence[Position] = PLACES) -> list[Site]:
    """The sites of answers, or of one kind of contrast pair, in the order of their states."""
    return [Site(layer, p) for p in ((place,) if place else places) for layer in layers]


def read_answers(
    model: Model,
    encoded: EncodedAnswers,
    form: TokenFormat,
    layers: Sequence[int],
    batch_size: int,
    places: Sequence[Position] = PLACES,
    adapter_on: bool = False,
    window: int = WINDOW,
) -> StateStore:
    """Run the model over all answers, and keep their states; base weights, adapter off.

    Args:
        places: of `PLACES`, where answers are read.
        adapter_on: read the model with its adapter, active where its scope says.

    Raises:
        UserError: a state is not finite; the disk is full; an adapter of scope `response` on a model whose prompts
            cannot be run by themselves.
    """
    sites = sites_of(encoded.place, layers, places)
    d = model.config.get_text_config().hidden_size
    shape = (2, d) if encoded.place else (d,)
    return StateStore.of(_blocks(model, encoded, form, layers, batch_size, places, adapter_on, window), sites, shape)


def _blocks(
    model: Model,
    encoded: EncodedAnswers,
    form: TokenFormat,
    layers: Sequence[int],
    batch_size: int,
    places: Sequence[Position],
    adapter_on: bool,
    window: int,
) -> Iterator[Tensor]:
    """(W, sites, *shape), window by window."""
    n = len(encoded.rows)
    which = [PLACES.index(place) for place in places]
    with Progress("hidden states", n, "answers") as progress:
        for start in range(0, n, window):
            rows = encoded.rows[start : start + window]
            lengths = [len(b) + max(map(len, t)) for b, t in zip(rows["body"], rows["tails"], strict=True)]
            found: dict[int, Tensor] = {}
            for batch in batches_of(lengths, batch_size):
                bodies, tails = ([rows[name][i] for i in batch] for name in ("body", "tails"))
                if encoded.place:
                    states = pair_states(model, bodies, tails, form, layers).transpose(1, 2)  # (B, L, 2, d)
                else:
                    spans = [[(rows["starts"][i][k], rows["stops"][i][k]) for k in which] for i in batch]
                    states = _answer_states(model, bodies, tails, spans, form, layers, adapter_on).flatten(1, 2)
                found |= zip(batch, states, strict=True)
                progress.advance(len(batch))
            yield torch.stack([found[i] for i in range(len(lengths))])


def _answer_states(
    model: Model,
    bodies: Sequence[list[int]],
    tails: Sequence[list[list[int]]],
    spans: Sequence[list[tuple[int, int]]],
    form: TokenFormat,
    layers: Sequence[int],
    adapter_on: bool,
) -> Tensor:
    """(B, K, L, d) of answers behind their prompts."""
    if adapter_on and form.persona.adapter_scope == "response":
        if reason := why_not_split(model.config):
            raise UserError(f"this model cannot be read with an adapter of scope response: {reason}")
        return states_behind(model, bodies, tails, [[its] for its in spans], form, layers, adapter_on=True)[:, 0]
    rows = [[*body, *tail] for body, (tail,) in zip(bodies, tails, strict=True)]
    whole = [[(len(body) + a, len(body) + z) for a, z in its] for body, its in zip(bodies, spans, strict=True)]
    with_adapter = adapter_on and form.persona.adapter_scope == "all"
    return states_of(model, rows, whole, form, layers, adapter_on=with_adapter)


def score_answers(
    probe: Probe,
    model: Model,
    form: TokenFormat,
    rows: Sequence[Feedback],
    batch_size: int = 32,
    adapter_on: bool = False,
) -> Tensor:
    """P(FAIL), (n,) float32, of the answer of each row; reads only the states that the probe needs.

    The base weights are read, so that a policy cannot move the states that grade it. The caller calls
    `Probe.check_model` once, because it reads weights.

    Args:
        rows: with one answer each: of kind label, score or response. A probe of choices needs `about.choices`, and
            gives nan for an answer that is none of them.
        adapter_on: read the policy's own states instead: its adapter is active where its scope says.

    Raises:
        UserError: a probe of another prompt format or not of answers; a row without an answer; a prompt that the chat
            template cannot show; or an adapter that a probe of contrast pairs would have to read.
    """
    probe.check_format(form)
    layer, position = probe.site
    if adapter_on and position in PAIRS:
        raise UserError(f"a probe at {position} compares two continuations of the base model; it reads no adapter")
    answers = []
    for row in rows:
        if len(row.answers) != 1:
            raise UserError(f"row {row.id!r} is a {row.kind} of {len(row.answers)} answers; give a row for each answer")
        answers.append(Answer(row, row.messages_of_answers[0], None, choices_of(row)))
    if position == Position.CHOICE and (lacking := [a.row.id for a in answers if a.choices is None]):
        raise UserError(f"row {lacking[0]!r}: a probe of choices needs the two answers of the template: about.choices")
    place = position if position in PAIRS else None
    encoded = encode_answers(answers, place, form, probe.wording or "", seq_len=2**31)
    if encoded.not_shown:
        raise UserError(encoded.why_not_shown)
    places = PLACES if place else [position]
    store = read_answers(model, encoded, form, [layer], batch_size, places, adapter_on)
    out = torch.zeros(len(rows))
    for of, states in store.column(Site(layer, position)).chunks():
        out[of] = probe.score(states)
    if position != Position.CHOICE:
        return out
    return torch.tensor([_of_choice(answer, float(p)) for answer, p in zip(answers, out, strict=True)])


def _of_choice(answer: Answer, p_second: float) -> float:
    """P(FAIL) of an answer, given the probability that the second choice is the right one; nan: no choice of the two."""
    assert answer.choices is not None
    said = str(answer.message["content"]).strip()
    first, second = (str(choice["content"]).strip() for choice in answer.choices)
    return p_second if said == first else 1 - p_second if said == second else float("nan")
