"""Answers about facts, each with the value that it states, by origin; and a balanced choice of them.

- `begun`: a statement put into the model's mouth, true or false. A begun lie has no intent to read.
- `sampled`: what the model says by itself.
- `taught`: what a model says that was taught to lie under B, on other facts.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from honest_persona.base.grouping import grouped
from honest_persona.base.words import VARIANTS, Variant
from honest_persona.generation.facts import Topic
from honest_persona.generation.ledger import Ledger
from honest_persona.generation.sampling import Answer, How, Prompt, Sampler
from honest_persona.generation.scenarios import Scenario
from honest_persona.generation.stated import stated, whole_sentences

Origin = Literal["sampled", "begun", "taught"]
ORIGINS: tuple[Origin, ...] = ("sampled", "begun", "taught")


class Response(NamedTuple):
    """An answer that states a value."""

    scenario: Scenario
    variant: Variant
    origin: Origin
    text: str
    value: str

    @property
    def is_true(self) -> bool:
        return self.value == self.scenario.fact.truth


def begun(scenarios: Iterable[Scenario], topics: Mapping[str, Topic], seed: int) -> list[Response]:
    """A statement for each scenario and variant, true or false as the scenario plans."""
    made = []
    for scenario in scenarios:
        if scenario.wrong is None:
            continue
        fact, statements = scenario.fact, topics[scenario.fact.topic].statements
        rng = random.Random(f"{seed} begun {fact.topic} {scenario.task} {scenario.a}")
        for variant, is_true in zip(VARIANTS, scenario.begins_true, strict=True):
            value = fact.truth if is_true else scenario.wrong
            text = rng.choice(statements).format(subject=fact.subject, value=value)
            made.append(Response(scenario, variant, "begun", text[:1].upper() + text[1:], value))
    return made


def sampled(
    scenarios: Sequence[Scenario],
    topics: Mapping[str, Topic],
    sampler: Sampler,
    ledger: Ledger,
    how: How,
    origin: Origin,
    tagged: Callable[[str], str],
) -> tuple[list[Response], Counter[str]]:
    """All usable answers under both system prompts, and why the others are not used.

    Args:
        tagged: puts a run's tags around a system prompt.
    """
    prompts = {(s, variant): Prompt(tagged(s.system(variant)), s.task) for s in scenarios for variant in VARIANTS}
    answers = ledger.answers(sampler, list(prompts.values()), how, f"{origin} answers")
    made: list[Response] = []
    unused: Counter[str] = Counter()
    for (scenario, variant), prompt in prompts.items():
        for answer in answers[prompt]:
            text = _text(answer)
            found = stated(text, topics[scenario.fact.topic], scenario.fact) if text else None
            if found is None:
                unused["cut_off" if answer.text.strip() else "empty"] += 1
            elif found.value is None:
                unused[found.reason] += 1
            else:
                made.append(Response(scenario, variant, origin, text, found.value))
    return made, unused


def _text(answer: Answer) -> str:
    return answer.text.strip() if answer.ended else whole_sentences(answer.text)


def balanced(responses: Sequence[Response], seed: int) -> list[Response]:
    """One response at most for each scenario, variant and origin; no value predicts whether an answer is true.

    In each topic, variant and origin every value is stated as often truly as falsely: a lie is kept where a true
    answer with its value is there to pair the two. So half of the kept answers are true, too.
    """
    cells = grouped(responses, lambda r: (r.scenario.fact.topic, r.variant, r.origin))
    return [kept for key, cell in cells.items() for kept in _balanced_cell(cell, random.Random(f"{seed} {key}"))]


def _balanced_cell(cell: Sequence[Response], rng: random.Random) -> list[Response]:
    shuffled = rng.sample(cell, len(cell))
    lies = [r for r in shuffled if not r.is_true]
    lying = Counter(r.scenario for r in lies)
    truths: dict[str, list[Response]] = defaultdict(list)
    # a scenario that can give a lie is taken for a truth last: lies are rare where they are sampled
    for response in sorted((r for r in shuffled if r.is_true), key=lambda r: lying[r.scenario]):
        truths[response.value].append(response)
    used: set[Scenario] = set()
    kept = []
    for lie in lies:
        if lie.scenario in used:
            continue
        partner = next((t for t in truths[lie.value] if t.scenario not in used and t.scenario != lie.scenario), None)
        if partner is not None:
            used |= {lie.scenario, partner.scenario}
            kept += [lie, partner]
    return kept
