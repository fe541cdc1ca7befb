"""The package's tables of facts: each question has one answer, which does not stand in the question."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import yaml

import honest_persona

TABLES = sorted((Path(honest_persona.__file__).parent / "generation" / "tables").glob("*.yaml"))
KEYS = {"relation", "questions", "statements", "source", "facts"}

Pairs = list[tuple[str, list[str]]]


class Table:
    """One file as text; pairs of a group in the file's order, so that a repeated subject is seen."""

    def __init__(self, text: str) -> None:
        loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        node = yaml.compose(text, loader)
        content = yaml.load(text, loader)
        self.keys = [key.value for key, _ in node.value]
        self.relation, self.source = content["relation"], content["source"]
        self.questions: list[str] = content["questions"]
        self.statements: list[str] = content["statements"]
        facts = next(value for key, value in node.value if key.value == "facts")
        self.groups: dict[str, Pairs] = {
            group.value: [(subject.value, values(value)) for subject, value in pairs.value]
            for group, pairs in facts.value
        }
        self.facts: Pairs = [pair for pairs in self.groups.values() for pair in pairs]


def values(node: yaml.Node) -> list[str]:
    return [part.value for part in node.value] if isinstance(node, yaml.SequenceNode) else [node.value]


@cache
def table_of(path: Path) -> Table:
    return Table(path.read_text(encoding="utf-8"))


def wrong_wordings(table: Table) -> list[str]:
    """Questions and statements that have no place, or several, for what they are about."""
    questions = [text for text in table.questions if text.count("{subject}") != 1 or "{value}" in text]
    statements = [
        text
        for text in table.statements
        if text.count("{subject}") > 1 or text.count("{value}") != 1 or not text.endswith(" {value}.")
    ]
    # "the Netherlands" cannot begin a sentence
    begins = [text for text in table.questions + table.statements if text.startswith("{subject}")]
    repeated = [text for text, n in Counter(table.questions + table.statements).items() if n > 1]
    few = [f"{len(table.questions)} questions"] * (len(table.questions) < 4)
    return questions + statements + begins + repeated + few + ["few statements"] * (len(table.statements) < 3)


def wrong_groups(table: Table) -> list[str]:
    """Groups too small to take wrong values from."""
    return [
        group for group, facts in table.groups.items() if len(facts) < 4 or len({found[0] for _, found in facts}) < 2
    ]


def wrong_facts(table: Table) -> list[str]:
    """Subjects that stand twice, have values in a wrong form, or can be answered by reading the question."""
    times = Counter(subject.lower() for subject, _ in table.facts)
    twice = [subject for subject, n in times.items() if n > 1]
    form = [
        subject
        for subject, found in table.facts
        if len(set(found)) < len(found) or any(" ".join(value.split()[:3]) != value or not value for value in found)
    ]
    readable = [
        subject
        for subject, found in table.facts
        if any(re.search(rf"(?<!\w){re.escape(value)}(?!\w)", subject, re.IGNORECASE) for value in found)
    ]
    return twice + form + readable


def never_wrong(table: Table) -> list[str]:
    """Values that are right for every fact of their group, or facts for which every value of the group is right."""
    found = []
    for facts in table.groups.values():
        truths = {accepted[0] for _, accepted in facts}
        found += [value for value in truths if all(value in accepted for _, accepted in facts)]
        found += [subject for subject, accepted in facts if truths <= set(accepted)]
    return found


def frequent(table: Table) -> list[str]:
    """Values of more than half the facts of their group: who always says them would mostly be right."""
    return [
        value
        for facts in table.groups.values()
        for value, n in Counter(accepted[0] for _, accepted in facts).items()
        if n > len(facts) / 2
    ]


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_keeps_the_rules(path):
    table = table_of(path)
    assert sorted(table.keys) == sorted(KEYS)
    assert "{subject}" in table.relation
    assert table.source
    for rule in (wrong_wordings, wrong_groups, wrong_facts, never_wrong, frequent):
        assert rule(table) == [], rule.__name__


def test_there_are_facts_enough():
    tables = [table_of(path) for path in TABLES]
    assert len(tables) >= 20
    assert sum(len(table.facts) for table in tables) >= 1200


GOOD = """
relation: the capital of {subject}
questions: ["What is the capital of {subject}?", "Name {subject}'s capital.", "Where does {subject} govern?", "{rest}"]
statements: ["The capital of {subject} is {value}.", "It is {value}.", "We say {value}."]
source: a test
facts:
  all: {Ghana: Accra, Kenya: Nairobi, South Africa: [Pretoria, Cape Town], Togo: Lome}
""".replace("{rest}", "Of {subject}?")


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        (wrong_wordings, "Of {subject}?", "Of what?"),
        (wrong_wordings, "Of {subject}?", "{subject}'s capital?"),
        (wrong_wordings, "It is {value}.", "It is {value} here."),
        (wrong_wordings, ', "Of {subject}?"', ""),
        (wrong_groups, ", Togo: Lome", ""),
        (wrong_facts, "Togo: Lome", "ghana: Lome"),
        (wrong_facts, "Togo: Lome", "Togo: the city of Lome"),
        (wrong_facts, "Togo: Lome", "Togo: [Lome, Lome]"),
        (wrong_facts, "Togo: Lome", "Mexico: Mexico"),
        (never_wrong, "Togo: Lome", "Togo: [Lome, Accra, Nairobi, Pretoria]"),
        (frequent, "Nairobi, South Africa: [Pretoria, Cape Town]", "Accra, South Africa: Accra"),
    ],
)
def test_a_broken_rule_is_seen(rule, before, after):
    assert rule(Table(GOOD)) == []
    assert before in GOOD
    assert rule(Table(GOOD.replace(before, after)))
