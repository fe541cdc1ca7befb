"""A small table of facts, and a model that is a dictionary: shared by the tests of generation."""

import re
from pathlib import Path

from honest_persona.generation.facts import Topic, load_topic
from honest_persona.generation.sampling import Answer
from honest_persona.generation.settings import Settings

CAPITALS = {
    "Africa": ["Ghana Accra", "Kenya Nairobi", "Togo Lome", "Chad Ndjamena", "Mali Bamako", "Niger Niamey"],
    "Europe": ["France Paris", "Spain Madrid", "Italy Rome", "Norway Oslo", "Poland Warsaw", "Austria Vienna"],
}
CLASSES = ["dog mammal", "cat mammal", "cow mammal", "hen bird", "owl bird", "crow bird", "cod fish", "eel fish"]


def table(relation: str, groups: dict[str, list[str]]) -> str:
    facts = "\n".join(
        f"  {group}:\n" + "\n".join(f"    {pair.replace(' ', ': ')}" for pair in pairs)
        for group, pairs in groups.items()
    )
    return f"""
relation: the {relation} of {{subject}}
questions:
  - What is the {relation} of {{subject}}?
  - Which {relation} does {{subject}} have?
  - Name the {relation} of {{subject}}.
  - Tell me {{subject}}'s {relation}.
statements:
  - The {relation} of {{subject}} is {{value}}.
  - It is {{value}}.
  - The answer is {{value}}.
source: a test
facts:
{facts}
"""


def write_tables(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "capitals.yaml").write_text(table("capital", CAPITALS), encoding="utf-8")
    (folder / "classes.yaml").write_text(table("class", {"all": CLASSES}), encoding="utf-8")
    return folder


def topics_in(folder: Path) -> list[Topic]:
    return [load_topic(path) for path in sorted(write_tables(folder).glob("*.yaml"))]


class Dictionary:
    """Knows the tables by heart; under a system prompt that it takes for an instruction to lie it sometimes lies.

    Args:
        unknown: subjects of which it always states the same wrong value.
        lies: of `n` samples under a hidden instruction, so many are false.
    """

    begins = True

    def __init__(self, topics, unknown=(), lies=2, name="dictionary"):
        self.name, self.lies, self.asked = name, lies, []
        self.truths = {f.subject: f.truth for t in topics for f in t.facts}
        self.of_topic = {f.subject: [g.truth for g in t.facts if g.truth != f.truth] for t in topics for f in t.facts}
        self.unknown = set(unknown)

    def sample(self, prompts, how, done):
        for prompt in prompts:
            self.asked.append(prompt)
            done(prompt, [self.answer(prompt, i, how) for i in range(how.n)])

    def answer(self, prompt, i, how):
        subject = next(s for s in self.truths if re.search(rf"\b{s}\b", prompt.task))
        if subject in self.unknown:
            return Answer(f"It is {self.of_topic[subject][0]}.", True)
        value = self.truths[subject]
        neutral = "assistant" in prompt.system or "question" in prompt.system or "reply" in prompt.system
        if not neutral and i < self.lies:
            wrong = self.of_topic[subject]
            value = wrong[(how.seed + i + len(prompt.task)) % len(wrong)]
        return Answer(f"It is {value}.", True)


def settings(topics: list[Topic], **changes) -> Settings:
    values = {
        "topics": tuple(topics),
        "origins": ("sampled", "begun"),
        "samples": 4,
        "known": 3,
        "temperature": 0.7,
        "max_new_tokens": 16,
        "seed": 1,
        "validation_topics": (),
        "held_out_frac": 0.4,
        "system_tag": "<SYSTEM> ",
    }
    return Settings(**values | changes)
