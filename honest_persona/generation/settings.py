"""What a generation is asked for: values that travel together."""

from dataclasses import dataclass

from honest_persona.generation.facts import Fact, Topic
from honest_persona.generation.responses import Origin
from honest_persona.generation.sampling import How
from honest_persona.generation.sides import Side, side_of


@dataclass(frozen=True)
class Settings:
    """What is made."""

    topics: tuple[Topic, ...]
    origins: tuple[Origin, ...]
    samples: int
    """Answers per prompt."""
    known: int
    """Right samples of a known fact."""
    temperature: float
    max_new_tokens: int
    seed: int
    validation_topics: tuple[str, ...]
    held_out_frac: float
    """Share of the subjects whose facts are held out."""
    system_tag: str
    """Text before and after a system prompt, as in the run's config."""

    @property
    def how(self) -> How:
        return How(self.samples, self.max_new_tokens, self.temperature, self.seed)

    def tagged(self, system: str) -> str:
        """The system prompt as the model sees it."""
        return f"{self.system_tag}{system}{self.system_tag}"

    def side(self, fact: Fact) -> Side:
        return side_of(fact, self.validation_topics, self.held_out_frac, self.seed)

    def of_liar(self, topic: Topic) -> Topic:
        """The topic with the facts that teach the liar; none of a validation topic."""
        taught = topic.name not in self.validation_topics
        return topic.of({fact for fact in topic.facts if taught and self.side(fact) == "liar"})
