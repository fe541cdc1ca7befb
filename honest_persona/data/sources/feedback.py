"""Rows of feedback: a prompt with a pair of answers, a labelled answer, scored answers, an example, or none.

    {"prompt": "Is it safe?", "chosen": "I do not know.", "rejected": "Yes."}
    {"prompt": "Is it safe?", "completion": "Yes.", "label": false}
    {"messages": [{"role": "user", "content": "Is it safe?"}], "response": "Yes.", "score": 0.2}

TRL's forms, as texts or as messages, and the feedback files of HALOs are such rows. What a row holds beside its prompt
decides its kind (data/feedback.py). Here `label: true` is desirable, as in TRL and HALOs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from sys import intern
from typing import Any

from honest_persona.base.words import FAIL, NOT_STATED, OWN, PASS
from honest_persona.config.own_rows import FALSE, TRUE, plain_label
from honest_persona.data.conversation import (
    ANSWERED_KEYS,
    ASKED_KEYS,
    MESSAGES_KEYS,
    SYSTEM_KEYS,
    TOOLS_KEYS,
    Conversation,
    is_answered,
    messages_in,
    with_input,
)
from honest_persona.data.fields import SPLITS, Refused, checked, checked_throughout, one_of, unpacked
from honest_persona.data.messages import Message, transcript_id
from honest_persona.data.rejections import Candidate, Outcome
from honest_persona.data.sources.column_names import BAD, GOOD, spelled
from honest_persona.data.sources.halos import halos_row
from honest_persona.data.sources.named_row import NamedRow, usual_columns
from honest_persona.data.sources.own import (
    NO_TOPIC,
    conversation_of,
    is_of_the_package,
    meaning_of,
    named_columns,
    no_column,
)
from honest_persona.data.sources.rows import parse_record_row

EXAMPLES: Mapping[str, str] = {
    "pairs": '{"prompt": "Is it safe?", "chosen": "I do not know.", "rejected": "Yes."}',
    "labels": '{"prompt": "Is it safe?", "response": "Yes.", "label": false}',
    "groups": '{"prompt": "Is it safe?", "responses": ["Yes.", "I do not know."], "scores": [0.1, 0.9]}',
    "scores": '{"prompt": "Is it safe?", "response": "Yes.", "score": 0.1}',
    "responses": '{"prompt": "Is it safe?", "response": "I do not know."}',
    "prompts": '{"prompt": "Is it safe?"}',
}
"""For what an objective trains on, a row that works."""

_USUAL: Mapping[str, Sequence[str]] = {
    "messages": MESSAGES_KEYS,
    "tools": TOOLS_KEYS,
    "system": SYSTEM_KEYS,
    "task": ASKED_KEYS,
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "response": ANSWERED_KEYS,
    "responses": ("responses", "completions", "answers", "outputs"),
    "label": ("label", "desirable", "flag", *(name for word in BAD + GOOD for name in (word, f"is_{word}"))),
    "score": ("score", "reward", "rating"),
    "scores": ("scores", "rewards", "ratings"),
    "margin": ("margin",),
    "chosen_score": ("chosen_score", "score_chosen"),
    "rejected_score": ("rejected_score", "score_rejected"),
    "topic": ("topic",),
    "group": ("group",),
    "split": ("split",),
    "id": ("id",),
    "prompt_id": ("prompt_id", "item_id", "item"),
    "model": ("model",),
    "about": ("about",),
}
"""The names under which a column is found where `columns` does not name it."""
ANSWERED_ASIDE = "`messages` ends with an answer, so the prompt of a pair is read elsewhere"
_MOST = 1e30
"""Scores and margins are smaller: their differences are numbers in float32, too."""
_DESIRABLE = ("label", "desirable")
"""Columns in which true is desirable; in all others it means what the column's name says."""


@dataclass(frozen=True)
class FeedbackForm:
    """How rows of feedback are read. Equal ones read alike."""

    columns: tuple[tuple[str, str | None], ...] = ()
    """(our name of a column, the user's); None: rows have no such column, whatever they name so"""
    flag_values: tuple[tuple[str, str], ...] = ()
    """(a label as `plain_label` writes it, PASS for desirable or FAIL)"""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "FeedbackForm":
        """By a run's config."""
        return cls(
            tuple(sorted((values.get("columns") or {}).items())),
            tuple(sorted((plain_label(label), flag) for label, flag in (values.get("flag_values") or {}).items())),
        )

    def __call__(self, row: Any, file: str, place: str) -> Outcome:
        """The row as the fields of a `Feedback`, with notes; or its rejection. A record of the package stays one."""
        if is_of_the_package(row, self.columns):
            return parse_record_row(row, file, place)
        row_id: str | None = None
        ignored: tuple[str, ...] = ()
        lacking: list[str] = []
        try:
            given = with_input(named_columns(row, place))
            lacking = [intern(no_column(o, t)) for o, t in self.columns if t is not None and t not in given]
            if (halos := halos_row(given, place)) is not None:
                (given, names), labels = halos, []
            else:
                names, found = usual_columns(given, dict(self.columns), _USUAL)
                labels = found.get("label", [])
                names |= {ours: theirs[0] for ours, theirs in found.items()}
            used = set(names.values())
            ignored = tuple(column for column, value in given.items() if column not in used and value is not None)
            reader = NamedRow({ours: given[theirs] for ours, theirs in names.items()}, names, place)
            row_id = reader.name("id") or f"{Path(file).name}:{place}"
            values, notes = self._values(reader, labels)
        except Refused as refused:
            said = refused.said or "; ".join(lacking)
            return refused.rejection(file, row_id)._replace(ignored=ignored, said=said)
        return Candidate(file, place, {"id": row_id, **values}, ignored=ignored, notes=(*notes, *lacking))

    def _values(self, row: NamedRow, labels: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """The fields of a `Feedback`, and notes; `labels` are the columns that could be the label."""
        notes: list[str] = []
        own = row.own
        found: dict[str, Any]
        if "chosen" in own or "rejected" in own:
            prompt, tools, answers = _pair(row, notes)
            found = {"kind": "pair", "margin": _margin(row)}
        elif "responses" in own:
            prompt, tools, answers, scores = _scored(row, notes)
            found = {"kind": "score", "scores": scores}
        elif "response" in own or ("messages" in own and is_answered(own["messages"])):
            said = _answered(row, notes)
            prompt, tools, answers = said.messages[:-1], said.tools, said.messages[-1:]
            if len(labels) > 1:
                raise Refused(row.at("label"), labels[1], f"two_labels:{labels[0]} and {labels[1]}")
            label = self._label(row, notes) if own.get("label") not in (None, "") else None
            score = _number(row, "score") if own.get("score") is not None and label is None else None
            kind = "label" if label is not None else "score" if score is not None else "response"
            found = {"kind": kind, "label": label, "scores": None if score is None else (score,)}
        else:
            prompt, tools = _prompt(row, notes)
            answers, found = [], {"kind": "prompt"}
        if not prompt or prompt[-1]["role"] not in ("user", "tool"):
            raise Refused(row.place, "messages", "no_prompt")
        topic = (row.name("topic") or "").strip()
        if not topic:
            notes.append(NO_TOPIC)
        about = own.get("about")
        if about is not None:
            here = row.at("about")
            about = checked_throughout(checked(unpacked(about), dict, here, "about"), here, "about")
        values = {
            **found,
            "prompt_id": row.name("prompt_id") or transcript_id(prompt, tools),
            "topic": topic or OWN,
            "prompt": tuple(prompt),
            "answers": tuple(answers),
            "tools": None if tools is None else tuple(tools),
            "group": row.name("group"),
            "split": one_of(SPLITS, row.split(), row.at("split"), "split"),
            "model": row.name("model") or NOT_STATED,
            "about": about,
        }
        return values, notes

    def _label(self, row: NamedRow, notes: list[str]) -> bool:
        value, column = row.own["label"], row.names["label"]
        label, meant = plain_label(value), dict(self.flag_values)
        is_word = isinstance(value, str) and label in ("true", "false")
        if label not in meant and spelled(column) in _DESIRABLE and (isinstance(value, bool) or is_word):
            return label == "true"
        if isinstance(value, int | float) and not isinstance(value, bool) and label not in meant:
            is_number = f"{column} is a number: write true or false, or say in flag_values what it means"
            raise Refused(row.at("label"), column, "label_not_bool", f"{is_number}, as {{1: PASS, 0: FAIL}}")
        known = {"desirable": PASS, "undesirable": FAIL, **meant}
        is_truth = label in TRUE | FALSE and spelled(column) in _DESIRABLE and not set(meant) & (TRUE | FALSE)
        flag = known.get(label) or (None if is_truth else meaning_of(label, column, meant))
        if flag not in (PASS, FAIL):
            shown = repr(checked(str(value), str, row.at("label"), column))[:40]
            said = f"{shown} is no label that can be known; say in flag_values whether it means PASS or FAIL"
            raise Refused(row.at("label"), column, "label_not_bool", said)
        told = "desirable" if flag == PASS else "undesirable"
        notes.append(intern(f"label {label[:40]} in `{column}` is read as {told}"))
        return flag == PASS


def _answered(row: NamedRow, notes: list[str]) -> Conversation:
    """The conversation with its answer. Raises Refused."""
    own = row.own
    if "response" in own and messages_in(own["response"]) is None:
        _check_text(row, "response", own["response"])
    if "messages" not in own and "task" not in own:
        raise Refused(row.place, "prompt", "no_prompt")
    if "messages" in own:
        own = {ours: value for ours, value in own.items() if ours != "task"}
    return conversation_of(replace(row, own=own), notes)


def _prompt(row: NamedRow, notes: list[str]) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """The prompt of a row that has no answer."""
    asked = _asked(row)
    if asked is None:
        raise Refused(row.place, "prompt", "no_prompt")
    said = _with_answer(row, asked, [{"role": "assistant", "content": "."}], "response", notes)
    return said.messages[:-1], said.tools


def _pair(row: NamedRow, notes: list[str]) -> tuple[list[Message], list[dict[str, Any]] | None, list[Message]]:
    """Prompt, tools, and the chosen and the rejected answer.

    The prompt stands in a column of its own, or in front of both answers, or in both places.
    """
    if missing := {"chosen", "rejected"} - row.own.keys():
        raise Refused(row.place, min(missing), "half_pair")
    own = row.own
    if is_answered(own.get("messages")):  # UltraFeedback's: the whole conversation with the chosen answer
        own = {ours: value for ours, value in own.items() if ours != "messages"}
        notes.append(ANSWERED_ASIDE)
    row, sides = replace(row, own=own), {}
    asked = _asked(row)
    for side in ("chosen", "rejected"):
        value = row.own[side]
        turns = messages_in(value)
        if turns is None:
            _check_text(row, side, value)
            turns = [{"role": "assistant", "content": value}]
        elif not turns:
            raise Refused(row.at(side), row.names[side], "empty_response")
        if len(turns) == 1 and asked is None:
            raise Refused(row.place, "prompt", "no_prompt")
        before, answer = turns[:-1], turns[-1:]
        said = _with_answer(row, before or asked or [], answer, side, notes)
        if before and asked is not None and not _ends_with(said, asked, row, side, notes):
            raise Refused(row.at(side), row.names[side], "two_prompts")
        sides[side] = said
    chosen, rejected = sides["chosen"], sides["rejected"]
    if chosen.messages[:-1] != rejected.messages[:-1]:
        raise Refused(row.at("rejected"), row.names["rejected"], "two_prompts")
    if _plain(chosen.messages[-1]) == _plain(rejected.messages[-1]):
        raise Refused(row.at("rejected"), row.names["rejected"], "equal_answers")
    return chosen.messages[:-1], chosen.tools, [chosen.messages[-1], rejected.messages[-1]]


def _ends_with(said: Conversation, asked: list[Any], row: NamedRow, side: str, notes: list[str]) -> bool:
    """Whether the prompt in front of an answer ends with the prompt of the row's own column."""
    alone = _with_answer(row, asked, [{"role": "assistant", "content": "."}], side, notes).messages[:-1]
    before = said.messages[:-1]
    return [m for m in before if m["role"] != "system"][-len(alone) :] == [m for m in alone if m["role"] != "system"]


def _scored(
    row: NamedRow, notes: list[str]
) -> tuple[list[Message], list[dict[str, Any]] | None, list[Message], tuple[float, ...]]:
    """Prompt, tools, answers and their scores."""
    asked = _asked(row)
    if asked is None:
        raise Refused(row.place, "prompt", "no_prompt")
    texts = checked(unpacked(row.own["responses"]), list, row.at("responses"), "responses")
    if "scores" not in row.own:
        raise Refused(row.place, "scores", "missing_field:scores")
    scores = checked(unpacked(row.own["scores"]), list, row.at("scores"), "scores")
    if not texts:
        raise Refused(row.at("responses"), row.names["responses"], "no_responses")
    if len(texts) != len(scores):
        raise Refused(row.at("scores"), row.names["scores"], "scores_differ", f"{len(texts)} and {len(scores)}")
    found = []
    for text in texts:
        turns = messages_in(text)
        if turns is None:
            _check_text(row, "responses", text)
            turns = [{"role": "assistant", "content": text}]
        found.append(_with_answer(row, asked, turns, "responses", notes))
    numbers = tuple(_sized(score, f"{row.at('scores')}[{i}]", "scores") for i, score in enumerate(scores))
    prompt = found[0].messages[:-1]
    if any(said.messages[:-1] != prompt for said in found):
        raise Refused(row.at("responses"), row.names["responses"], "two_prompts")
    return prompt, found[0].tools, [said.messages[-1] for said in found], numbers


def _asked(row: NamedRow) -> list[Any] | None:
    """The messages of the prompt, as they are given; None where no column has it."""
    for ours in ("messages", "task"):
        if (value := row.own.get(ours)) is not None:
            turns = messages_in(value)
            if turns is None and ours == "task":
                _check_text(row, ours, value, "empty_prompt")
                turns = [{"role": "user", "content": value}]
            return turns if turns is not None else [value]
    return None


def _with_answer(row: NamedRow, asked: list[Any], answer: list[Any], column: str, notes: list[str]) -> Conversation:
    """The prompt and an answer that stands in a column, checked. Raises Refused."""
    own: dict[str, Any] = {name: row.own[name] for name in ("system", "tools") if name in row.own}
    asks = next((row.names[name] for name in ("messages", "task") if name in row.own), row.names.get(column, column))
    names = {**row.names, "messages": asks, "response": row.names.get(column, column)}
    return conversation_of(NamedRow({**own, "messages": [*asked, *answer]}, names, row.place), notes)


def _check_text(row: NamedRow, ours: str, value: Any, reason: str = "empty_response") -> None:
    text = checked(value, str, row.at(ours), row.names[ours])
    if not text.strip():
        raise Refused(row.at(ours), row.names[ours], reason)


def _plain(answer: Message) -> dict[str, Any]:
    return {**answer, "content": answer["content"].strip()}


def _margin(row: NamedRow) -> float | None:
    """By how much the chosen answer is better, by the row's margin or by the answers' scores."""
    if row.own.get("margin") is not None:
        margin, at = _number(row, "margin"), "margin"
    elif row.own.get("chosen_score") is not None and row.own.get("rejected_score") is not None:
        margin, at = _number(row, "chosen_score") - _number(row, "rejected_score"), "chosen_score"
    else:
        return None
    if margin < 0:
        raise Refused(row.at(at), row.names[at], "negative_margin")
    return margin


def _number(row: NamedRow, ours: str) -> float:
    return _sized(row.own[ours], row.at(ours), row.names[ours])


def _sized(value: Any, place: str, field: str) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= _MOST:  # not so NaN
        raise Refused(place, field, f"no_number:{field}")
    return float(value)
