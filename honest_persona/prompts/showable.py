"""Which records a chat template can show: a conversation with tools or odd turns may be none."""

from typing import NamedTuple

from honest_persona.base.console import one_line
from honest_persona.base.errors import UserError
from honest_persona.data.kept import Records
from honest_persona.prompts.segments import prompt_segments
from honest_persona.prompts.tokens import TokenFormat


class Showable(NamedTuple):
    records: Records
    refused: int
    """Records that the template cannot show."""
    why: str
    """The first of these, with reason and remedy; empty where there is none."""


def showable(records: Records, form: TokenFormat) -> Showable:
    """The records that the template can show. A question with its answer is not tried: every template shows it."""
    shown: list[int] = []
    why = ""
    for place, is_plain in enumerate(records.values("is_plain")):
        if not is_plain:
            record = records[place]
            try:
                prompt_segments(record.messages(), record.intervention, form.persona, form.chat, record.tools)
            except UserError as error:
                why = why or f"{one_line(record.id)}: {error}"
                continue
        shown.append(place)
    refused = len(records) - len(shown)
    return Showable(records.take(shown) if refused else records, refused, why)
