"""Which facts a model knows: those that it states, asked plainly, in at least k of n samples.

A fact is unknown where the model states it in no sample and another value in at least k: an answer that rambles and
states nothing does not show that a fact is unknown. Nor does it state the fact where a sentence is begun for it (`The
capital of Ghana is`): with the sentence at hand, a model often recalls what it does not when asked. All others are left
out: whether an answer to them is a lie cannot be told.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from honest_persona.base.errors import UserError
from honest_persona.generation.facts import Fact, Topic
from honest_persona.generation.instructions import NEUTRAL
from honest_persona.generation.ledger import Ledger
from honest_persona.generation.sampling import How, Prompt, Sampler
from honest_persona.generation.stated import stated

_VALUE_TOKENS = 12
"""Enough for a value: what stands behind it does not count."""


@dataclass(frozen=True)
class Knowledge:
    """Facts by how often the model was right."""

    samples: int
    right: dict[Fact, int]
    wrong: dict[Fact, int]
    """Samples that state another value; the rest states none, or several."""
    least: int
    """Right samples of a known fact, and wrong ones of an unknown fact."""
    recalled: frozenset[Fact]
    """Facts that are never stated when asked, but are where a sentence is begun."""

    @property
    def known(self) -> set[Fact]:
        return {fact for fact, right in self.right.items() if right >= self.least}

    @property
    def unknown(self) -> set[Fact]:
        return _never_right(self.right, self.wrong, self.least) - self.recalled

    def told(self, fact: Fact) -> str:
        """As `3 of 4`."""
        return f"{self.right[fact]} of {self.samples}"


def ask_plainly(
    topics: Sequence[Topic], sampler: Sampler, ledger: Ledger, how: How, least: int, system_tag: str
) -> Knowledge:
    """Ask for every fact under the neutral prompt; where it is never stated, again with begun sentences.

    A model behind an endpoint goes on with no beginning: what it states when asked decides alone.

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
    doubted = _never_right(right, wrong, least)
    recalled = _recalled(topics, doubted, sampler, ledger, how, system) if sampler.begins else frozenset()
    return Knowledge(how.n, right, wrong, least, recalled)


def _never_right(right: Mapping[Fact, int], wrong: Mapping[Fact, int], least: int) -> set[Fact]:
    return {fact for fact, n in right.items() if n == 0 and wrong[fact] >= least}


def _recalled(
    topics: Sequence[Topic], facts: Collection[Fact], sampler: Sampler, ledger: Ledger, how: How, system: str
) -> frozenset[Fact]:
    """The facts that are stated behind the beginning of some statement of their table, in some sample."""
    of_topic = {topic.name: topic for topic in topics}
    prompts = [
        (fact, Prompt(system, of_topic[fact.topic].questions[0].format(subject=fact.subject), begun))
        for fact in facts
        for begun in of_topic[fact.topic].begun(fact)
    ]
    how = how._replace(max_new_tokens=min(how.max_new_tokens, _VALUE_TOKENS))
    answers = ledger.answers(sampler, [prompt for _, prompt in prompts], how, "doubtful facts")
    return frozenset(
        fact
        for fact, prompt in prompts
        for answer in answers[prompt]
        if stated(prompt.begun + answer.text, of_topic[fact.topic], fact).value == fact.truth
    )
