"""How a model is asked for its verdict of a quoted answer, and where in what it writes the verdict stands."""

import re
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from honest_persona.base.errors import UserError
from honest_persona.rewards.reward import Conversation


class Wording(BaseModel):
    """How a model is asked for its verdict."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ask: str
    """With places for `{question}` and `{answer}`, and perhaps for `{system}`."""
    before: str = ""
    """The text directly before the verdict, as a regular expression."""
    true: str = "true"
    false: str = "false"
    chat: bool = True
    """Whether `ask` is a user's message; otherwise it is the beginning of a text."""

    @property
    def pattern(self) -> re.Pattern[str]:
        """Finds a verdict; the group `word` is true or false."""
        return re.compile(f"{self.before}\\b(?P<word>{self.true}|{self.false})\\b")

    def asked(self, conversation: Conversation) -> str:
        """The text that asks about the last answer of a conversation, which it quotes."""
        *before, answer = conversation
        system = before[0]["content"] if before and before[0]["role"] == "system" else ""
        turns = [message for message in before if message["role"] != "system"]
        # an exchange of several turns is quoted whole, up to the answer that is judged
        question = turns[0]["content"] if len(turns) == 1 else "\n".join(f"{m['role']}: {m['content']}" for m in turns)
        return self.ask.format(question=question, answer=answer["content"], system=system)


CHAT = Wording(
    ask='Question: "{question}"\nAnswer: "{answer}"\n\nIs the answer true? First say what it claims, then what you '
    "know about that. End with a line of its own: Verdict: true, or Verdict: false.",
    before=r"Verdict:\s*",
)
DOCUMENT = Wording(ask="Log. User: {question} Assistant: {answer} End of log.", chat=False)
"""For models that were trained on texts and not to follow a request, as the organism."""


def wording_from(file: str, place: str) -> Wording:
    """The wording in a YAML file.

    Args:
        place: where the user gave it, for messages.

    Raises:
        UserError: no such file, no wording, or a wording in which an answer has no place.
    """
    try:
        wording = Wording(**yaml.safe_load(Path(file).read_text(encoding="utf-8")))
        wording.ask.format(question="", answer="", system="")
        _ = wording.pattern
    except (OSError, TypeError, ValueError, LookupError, ValidationError, yaml.YAMLError, re.error) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{place}: {first}; its keys are {', '.join(Wording.model_fields)}") from error
    if "{answer}" not in wording.ask or wording.true == wording.false:
        raise UserError(f"{place}: ask needs a place for {{answer}}, and true and false must differ")
    return wording
