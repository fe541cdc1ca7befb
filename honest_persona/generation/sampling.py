"""What samples answers: a local model, or one behind an endpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from honest_persona.data.messages import Message


class Answer(NamedTuple):
    """What a model wrote behind a prompt, without the beginning that was put into its mouth."""

    text: str
    ended: bool
    """Whether the model ended its turn; False where the answer was cut off at the most tokens."""


@dataclass(frozen=True)
class Prompt:
    """A question, as it is put to a model."""

    system: str
    """Without the tags that a run puts around system prompts."""
    task: str
    begun: str = ""
    """The beginning of the answer, which the model goes on with."""

    @property
    def messages(self) -> list[Message]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.task}]


class How(NamedTuple):
    """How answers are sampled."""

    n: int
    """Answers per prompt."""
    max_new_tokens: int
    temperature: float
    """0 takes the likeliest token; then all answers to a prompt are equal."""
    seed: int


Done = Callable[[Prompt, list[Answer]], None]


class Sampler(Protocol):
    """Samples answers. The answers to a prompt depend on this prompt, `How` and the model alone."""

    name: str
    """Names the model's answers in a ledger: other weights, another name."""
    begins: bool
    """Whether it goes on with a beginning."""

    def sample(self, prompts: Sequence[Prompt], how: How, done: Done) -> None:
        """Calls `done` for each prompt with its `how.n` answers, as soon as these are there, in any order."""
