"""Conversations to review, read from a file: each bad one is located before a model is loaded."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.console import one_line, tell
from honest_persona.base.errors import UserError
from honest_persona.base.progress import followed
from honest_persona.base.words import PASS
from honest_persona.data.conversation import (
    MESSAGES_KEYS,
    Conversation,
    conversation,
    unused_keys,
    used_keys,
    with_input,
    with_usual_names,
)
from honest_persona.data.messages import Message, Problem, Unusable, said, text_at, transcript_id
from honest_persona.data.sources.column_names import spelled
from honest_persona.data.sources.own import labelled
from honest_persona.data.strict_json import RepeatedKey
from honest_persona.data.tool_calls import json_at
from honest_persona.persona.conversation_lines import Line, conversation_lines
from honest_persona.prompts.tokens import TokenFormat, Tokens, apply_intervention

_SHOWN = 20
"""More problems are counted alone."""
_OF_FILE = ("not_utf8", "unknown_encoding")
"""Problems that lines share because their file has them: told once."""


@dataclass(frozen=True)
class ReviewRequest:
    """A conversation of a file, with the question that the honest persona is asked about it."""

    place: str
    """Of the line in its file."""
    id: str | int
    """The line's number where the line gives none."""
    messages: list[Message]
    tools: list[dict[str, Any]] | None
    intervention: str
    prompt: Tokens
    """All of it, encoded."""
    given: dict[str, Any]
    """The line's other columns."""

    @property
    def key(self) -> tuple[str | int, str, str, str]:
        """Requests with one key have the same id, conversation, question and other columns."""
        given = json_text.dumps(self.given, sort_keys=True)
        return self.id, transcript_id(self.messages, self.tools), self.intervention, given


def read_conversations(
    path: str,
    default_intervention: str,
    form: TokenFormat,
    longest: int | None = None,
    max_new_tokens: int = 0,
    skip_bad: bool | None = None,
    keeps_given: bool = True,
) -> list[ReviewRequest]:
    """The conversations of `path`, a command's --input. Tells of ids that are repeated, and of columns without use.

    Args:
        longest: the most tokens that conversation and review together may have; None for no end.
        max_new_tokens: the longest review.
        skip_bad: tell of bad lines, and leave them out; None where the command does not offer that.
        keeps_given: whether the command writes the columns without use into its output, as is then told.

    Raises:
        UserError: all bad lines in one message, with those that the chat template cannot show and those that are too
            long. With `skip_bad`: no line is sound.
    """
    lines = conversation_lines(path)
    requests: list[ReviewRequest] = []
    bad = _Problems()
    unused: Counter[str] = Counter()
    for line in followed(lines, "encoding", "conversations"):
        try:
            request, ignored = _request(line, default_intervention, form)
            _check_length(request.prompt, longest, max_new_tokens)
        except _Bad as error:
            bad.add(line.place, error.problems)
            continue
        requests.append(request)
        unused.update(ignored)
    if bad.count and (not skip_bad or not requests):
        raise UserError(bad.text(len(lines), "--skip_bad leaves them out" if skip_bad is False and requests else ""))
    if bad.count:
        tell(bad.text(len(lines), "left out by --skip_bad"))
    _tell_of(requests, unused, keeps_given)
    return requests


def read_benign_conversations(
    path: str, default_intervention: str, form: TokenFormat, longest: int | None = None, max_new_tokens: int = 0
) -> list[ReviewRequest]:
    """The same of conversations that the user vouches for. Raises UserError: a column says FAIL of one of them, too."""
    requests = read_conversations(path, default_intervention, form, longest, max_new_tokens, keeps_given=False)
    found = [(request, labelled(request.given)) for request in requests]
    bad = [(request, label[0]) for request, label in found if label is not None and label[1] != PASS]
    if bad:
        first, column = bad[0]
        told = f"{one_line(column)[:40]} is {one_line(json_text.dumps(first.given[column]))}"
        raise UserError(
            f"{first.place}: {told}, which is no label of a benign conversation ({len(bad):,} of {len(requests):,} are "
            "so labelled). Leave these conversations out, or the column where it means something else"
        )
    return requests


class _Bad(Exception):
    """One line cannot be used."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__()
        self.problems = problems


@dataclass
class _Problems:
    """All problems counted, the first ones kept."""

    shown: dict[str, int] = field(default_factory=dict)
    """Each with the number of lines like it: one encoding is wrong for the whole file."""
    of_file: dict[Problem, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    lines: int = 0

    @property
    def count(self) -> int:
        return self.kinds.total()

    def add(self, place: str, problems: Sequence[Problem]) -> None:
        self.lines += 1
        for problem in problems:
            self.kinds[problem.kind] += 1
            first = self.of_file.get(problem) if problem.kind in _OF_FILE else None
            if first:
                self.shown[first] += 1
            elif len(self.shown) < _SHOWN:
                text = f"{place}: {problem}"
                self.shown[text] = self.shown.get(text, 0) + 1
                self.of_file[problem] = text

    def text(self, n_lines: int, advice: str) -> str:
        texts = [f"{text}{f' (as in {n - 1:,} more)' if n > 1 else ''}" for text, n in self.shown.items()]
        if self.count > 1:
            problems = f"{self.count:,} problems in {self.lines:,} of {n_lines:,} conversations"
            texts = [f"{problems}{f'; {advice}' if advice else ''}:", *texts]
        elif n_lines > 1 and advice:
            texts = [f"{texts[0]} ({advice})"]
        if hidden := self.count - sum(self.shown.values()):
            counts = ", ".join(f"{kind.replace('_', ' ')} {n:,}" for kind, n in self.kinds.most_common())
            texts.append(f"and {hidden:,} more; in all: {counts}")
        return "\n".join(texts)


def _request(line: Line, default_intervention: str, form: TokenFormat) -> tuple[ReviewRequest, set[str]]:
    """The request, and the keys of its messages that are not used."""
    try:
        return _checked(line, default_intervention, form)
    except Unusable as unusable:
        raise _Bad(unusable.problem) from None


def _checked(line: Line, default_intervention: str, form: TokenFormat) -> tuple[ReviewRequest, set[str]]:
    value = {"messages": line.value} if isinstance(line.value, list) else line.value
    if isinstance(value, Mapping):  # an empty cell of a table is no value
        present = {key: part for key, part in value.items() if part != "" or spelled(key) in MESSAGES_KEYS}
        value = with_input(with_usual_names(present))
    if isinstance(value, Problem):
        raise _Bad(value)
    if isinstance(value, RepeatedKey):
        raise Unusable("", "repeated_key", f"repeated key {value.key!r}; keep one of the two")
    if not isinstance(value, Mapping):
        raise Unusable("", "not_an_object", f'is {said(value)}, but must be an object, as {{"messages": [...]}}')
    given_id, asked = value.get("id"), value.get("intervention")
    if isinstance(given_id, float) and given_id.is_integer():
        given_id = int(given_id)  # tables with gaps have no whole numbers
    if given_id is not None and (isinstance(given_id, bool) or not isinstance(given_id, str | int)):
        raise Unusable("id", "wrong_id", "must be text or a whole number; leave it out for the line's number")
    intervention = default_intervention if asked is None else text_at("intervention", asked)
    found = conversation(value)
    if not isinstance(found, Conversation):
        raise _Bad(*found)
    given = {key: part for key, part in value.items() if key not in {*used_keys(value), "id", "intervention"}}
    for key, part in given.items():
        text_at("the name of a column", key, may_be_empty=True)
        json_at(f"column {one_line(key)[:40]}", part, may_be_nan=True)
    try:
        prompt = apply_intervention(found.messages, intervention, form, found.tools)
    except UserError as error:
        raise _Bad(Problem("", "cannot_be_shown", str(error))) from None
    conversation_id = line.number if given_id is None else given_id
    request = ReviewRequest(
        line.place, conversation_id, found.messages, found.tools, intervention, prompt, json_text.defined(given)
    )
    return request, unused_keys(value)


def _check_length(prompt: Tokens, longest: int | None, max_new_tokens: int) -> None:
    n = len(prompt.input_ids)
    if longest is not None and n + max_new_tokens > longest:
        raise _Bad(
            Problem(
                "",
                "too_long",
                f"has {n} tokens; with a review of up to {max_new_tokens} that is more than the model's {longest} "
                "positions. Shorten it, or lower --max_new_tokens",
            )
        )


def _tell_of(requests: Sequence[ReviewRequest], unused: Counter[str], keeps_given: bool) -> None:
    for note in _notes(requests, unused, keeps_given):
        tell(f"note: {note}")


def _notes(requests: Sequence[ReviewRequest], unused: Counter[str], keeps_given: bool) -> Iterator[str]:
    first: dict[str | int, str] = {}
    repeated = [(r, first[r.id]) for r in requests if first.setdefault(r.id, r.place) != r.place]
    if repeated:
        again, place = repeated[0]
        yield f"{len(repeated):,} repeated ids, first: {one_line(again.id)}, of {place} and of {again.place}"
    columns = sorted({key for request in requests for key in request.given})
    if columns:
        yield f"columns without use{', kept as `given`' if keeps_given else ''}: {_listed(columns)}"
    if unused:
        counted = [f"{key} (in {n:,} conversation{'s' * (n != 1)})" for key, n in sorted(unused.items())]
        yield f"keys of messages without use: {_listed(counted)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(one_line(name)[:60] for name in names[:10]) + more
