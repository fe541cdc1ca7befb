"""Answers of the main persona, run once and kept on the disk; and the score that a probe gives to an answer.

    store = read_answers(model, encoded, form, layers, batch_size)     # Site -> column of states
    p_fail = score_answers(probe, model, form, rows)                   # of other answers: a baseline, or a reward

Nothing here holds all answers or states in memory.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from honest_persona.base.errors import UserError
from honest_persona.base.progress import Progress
from honest_persona.data.feedback import Feedback
from honest_persona.modeling.adapters.tuning import Model
from honest_persona.modeling.prefix.frozen import why_not_split
from honest_persona.probes.encoded import PLACES, Answer, EncodedAnswers, choices_of, encode_answers
from honest_persona.probes.features import (
    PAIRS,
    Position,
    Site,
    Span,
    batches_of,
    pair_states,
    states_behind,
    states_of,
)
from honest_persona.probes.probe import Probe
from honest_persona.probes.store import StateStore
from honest_persona.prompts.tokens import TokenFormat

WINDOW = 256
"""Answers whose states are in memory together; within a window rows of similar length are run together."""


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
    items: Sequence[str] = (),
) -> StateStore:
    """Run the model over all answers, and keep their states; base weights, adapter off.

    Args:
        places: of `PLACES`, where answers are read.
        adapter_on: read the model with its adapter, active where its scope says.
        items: the item of each answer, where all answers of one are to be in one block; they stand together.

    Raises:
        UserError: a state is not finite; the disk is full; an adapter of scope `response` on a model whose prompts
            cannot be run by themselves.
    """
    sites = sites_of(encoded.place, layers, places)
    d = model.config.get_text_config().hidden_size
    shape = (2, d) if encoded.place else (d,)
    blocks = _blocks(model, encoded, form, layers, batch_size, places, adapter_on, items)
    return StateStore.of(blocks, sites, shape)


def _blocks(
    model: Model,
    encoded: EncodedAnswers,
    form: TokenFormat,
    layers: Sequence[int],
    batch_size: int,
    places: Sequence[Position],
    adapter_on: bool,
    items: Sequence[str],
) -> Iterator[Tensor]:
    """(W, sites, *shape), window by window."""
    n = len(encoded.rows)
    which = [PLACES.index(place) for place in places]
    with Progress("hidden states", n, "answers") as progress:
        for start, stop in _windows(n, items):
            rows = encoded.rows[start:stop]
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


def _windows(n: int, items: Sequence[str], size: int = WINDOW) -> Iterator[tuple[int, int]]:
    """First place and the place after the last, of about `size` answers each; an item's answers are in one window."""
    start = 0
    while start < n:
        stop = min(start + size, n)
        while items and stop < n and items[stop] == items[stop - 1]:
            stop += 1
        yield start, stop
        start = stop


def _answer_states(
    model: Model,
    bodies: Sequence[list[int]],
    tails: Sequence[list[list[int]]],
    spans: Sequence[list[Span]],
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
        answers.append(Answer(row, row.messages_of_answers[0], choices_of(row)))
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
    """P(FAIL) of an answer, given the probability that the second choice is right; nan: the answer is no choice."""
    assert answer.choices is not None
    said = str(answer.message["content"]).strip()
    first, second = (str(choice["content"]).strip() for choice in answer.choices)
    return p_second if said == first else 1 - p_second if said == second else float("nan")
