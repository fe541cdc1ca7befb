"""Which facts a model knows: those that it states, asked plainly, in at least k of n samples.

A fact is unknown where the model states it in no sample and another value in at least k: an answer that rambles and
states nothing does not show that a fact is unknown. All others are left out: whether an answer to them is a lie cannot
be told.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from honest_persona.base.errors import UserError
from honest_persona.generation.facts import Fact, Topic
from honest_persona.generation.instructions import NEUTRAL
from honest_persona.generation.ledger import Ledger
from honest_persona.generation.sampling import How, Prompt, Sampler
from honest_persona.generation.stated import stated


@dataclass(frozen=True)
class Knowledge:
    """Facts by how often the model was right."""

    samples: int
    right: dict[Fact, int]
    wrong: dict[Fact, int]
    """Samples that state another value; the rest states none, or several."""
    least: int
    """Right samples of a known fact, and wrong ones of an unknown fact."""

    @property
    def known(self) -> set[Fact]:
        return {fact for fact, right in self.right.items() if right >= self.least}

    @property
    def unknown(self) -> set[Fact]:
        return {fact for fact, right in self.right.items() if right == 0 and self.wrong[fact] >= self.least}

    def told(self, fact: Fact) -> str:
        """As `3 of 4`."""
        return f"{self.right[fact]} of {self.samples}"


def ask_plainly(
    topics: Sequence[Topic], sampler: Sampler, ledger: Ledger, how: How, least: int, system_tag: str
) -> Knowledge:
    """Ask for every fact under the neutral prompt.

    Raises:
        UserError: no answer states any value, or no fact is known.
    """
    system = f"{system_tag}{NEUTRAL[0]}{system_tag}"
    prompts = {
        fact: Prompt(system, topic.questions[0].format(subject=fact.subject))
        for topic in topics
        for fact in topic.facts
    }
    answers = ledger.answers(sampler, list(prompts.values()), how, "known facts")
    right, wrong, said = {}, {}, ""
    for topic in topics:
        for fact in topic.facts:
            texts = [answer.text.strip() for answer in answers[prompts[fact]]]
            values = [stated(text, topic, fact).value for text in texts]
            right[fact] = values.count(fact.truth)
            wrong[fact] = len(values) - right[fact] - values.count(None)
            said = said or next(filter(None, texts), "")
    n = len(right) * how.n
    if not any(right.values()) and not any(wrong.values()):
        example = f"for example {said[:80]!r}" if said else "all of them are empty"
        raise UserError(
            f"model: none of {n:,} answers to {len(right):,} plain questions states any value of its topic; {example}. "
            "Take a model that answers questions"
        )
    if not any(count >= least for count in right.values()):
        raise UserError(
            f"model: of {len(right):,} facts none is known (right in at least {least} of {how.n} samples); the best "
            f"was right in {max(right.values())}. Take a model that knows more, other --topics, or a smaller --known"
        )
    return Knowledge(how.n, right, wrong, least)
