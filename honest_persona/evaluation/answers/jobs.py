"""Rows of feedback with the ids of their prompts and answers, made before the first batch runs."""

from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from honest_persona.base.console import one_line
from honest_persona.base.errors import UserError
from honest_persona.base.progress import followed
from honest_persona.base.tensors import ids_key
from honest_persona.data.feedback import Feedback
from honest_persona.data.messages import Message
from honest_persona.persona.batches import Place, place_of
from honest_persona.prompts.feedback import prompt_tokens, response_tokens
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.tokens import TokenFormat, Tokens


class Job(NamedTuple):
    """A row to measure. Ids take 4 bytes each: all rows are encoded before the first batch."""

    part: str
    row: Feedback
    prompt: "array[int]"
    activation: int
    """Where the adapter begins to act in the prompt."""
    chosen: "array[int] | None"
    """The answer that is to be likely, up to and with its end of turn; None where the row has none."""
    rejected: "array[int] | None"
    first: bool
    """Whether no earlier row of the part has this prompt: then it is answered."""

    def tokens(self, control: int | None = None) -> Tokens:
        """The prompt, with a control token behind it where answers are trained behind one."""
        ids = [*self.prompt, *([] if control is None else [control])]
        return Tokens(ids, [Kind.TEMPLATE] * len(ids), self.activation)

    @property
    def place(self) -> Place:
        return place_of(self.tokens())

    @property
    def key(self) -> str:
        return ids_key(self.prompt)


class Jobs(NamedTuple):
    jobs: list[Job]
    too_long: dict[str, int]
    """Rows per part that were left out, because prompt and answer would be longer than `seq_len`."""
    not_shown: dict[str, int]
    """Rows per part that the chat template cannot show."""
    why_not_shown: str
    """The reason for the first of them."""


def jobs_of(
    parts: Mapping[str, Sequence[Feedback]], form: TokenFormat, max_new_tokens: int, seq_len: int | None
) -> Jobs:
    """The rows that can be measured, in their order, and how many cannot."""
    found = Jobs([], {}, {}, "")
    why = ""
    seen: set[tuple[str, str]] = set()
    for part, row in followed([(part, row) for part, rows in parts.items() for row in rows], "encoding", "rows"):
        try:
            prompt = prompt_tokens(row.messages, form, row.tools).ids
            chosen, rejected = (_response(row, answer, form) for answer in good_and_bad(row))
        except UserError as error:
            why = why or f"{one_line(row.id)}: {error}"
            found.not_shown[part] = found.not_shown.get(part, 0) + 1
            continue
        longest = max([max_new_tokens, *(len(answer) for answer in (chosen, rejected) if answer is not None)])
        if seq_len is not None and len(prompt) + longest + (form.control is not None) > seq_len:
            found.too_long[part] = found.too_long.get(part, 0) + 1
            continue
        key = part, ids_key(prompt)
        start = len(prompt) - max(1, len(form.answer_prefix))  # an answer is predicted at one token at least
        found.jobs.append(Job(part, row, array("i", prompt), start, chosen, rejected, key not in seen))
        seen.add(key)
    return found._replace(why_not_shown=why)


def good_and_bad(row: Feedback) -> tuple[Message | None, Message | None]:
    """The answer that should be likely, and the one that should be less likely; None where the row has none."""
    if row.kind == "pair":
        return row.chosen, row.rejected
    if row.kind == "response" or row.label:
        return row.response, None
    return None, None


def _response(row: Feedback, answer: Message | None, form: TokenFormat) -> "array[int] | None":
    return None if answer is None else array("i", response_tokens(row.messages, answer, form, row.tools).ids)
