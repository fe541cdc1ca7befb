"""Facts as tables: one file per topic, with wordings of the question and of an answer.

    topics = load_topics()                          # the package's own tables
    topics = load_topics(Path("my-tables"), ["capitals"])

A table is YAML in which every value is text (`No`, `He` and `12` mean nothing else):

    relation: the capital of {subject}
    questions: [What is the capital of {subject}?, ...]         # four or more; the last one is held out
    statements: [The capital of {subject} is {value}., ...]     # three or more
    source: where the facts come from
    facts:
      Africa:                                                   # a group: wrong values come from the same group
        Ghana: Accra
        South Africa: [Pretoria, Cape Town, Bloemfontein]       # the answer first; the others are accepted too
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any
from unicodedata import category, normalize

import yaml

from honest_persona.base.errors import UserError
from honest_persona.data.selection import hint
from honest_persona.data.splits import uniform

TABLES = Path(__file__).parent / "tables"
_KEYS = ("relation", "questions", "statements", "source", "facts")
_MOST_CHARS = 1000
"""Of a subject, a value or a wording."""
_LEAST = {"questions": 4, "statements": 3}
"""Wordings: of the questions one is held out for evaluation, and an item of a fact takes one that no other has."""


@dataclass(frozen=True)
class Fact:
    """One thing that may be known: in `topic`, `subject` has the value `truth`."""

    topic: str
    group: str
    subject: str
    truth: str
    accepted: frozenset[str]
    """Every value that is right, `truth` among them."""
    asked: str
    """What is asked: `the capital of Ghana`."""


@dataclass(frozen=True)
class Topic:
    """Facts of one relation, and the wordings to ask for them and to state them."""

    name: str
    relation: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]
    facts: tuple[Fact, ...]
    values: frozenset[str]
    """Every value that an answer may state: of the whole table, whichever facts are chosen."""

    @property
    def training_questions(self) -> tuple[str, ...]:
        return self.questions[:-1]

    @property
    def held_out_question(self) -> str:
        return self.questions[-1]

    def begun(self, fact: Fact) -> tuple[str, ...]:
        """Statements about a fact up to where the value comes."""
        starts = (s.format(subject=fact.subject, value="\0").partition("\0")[0].rstrip() for s in self.statements)
        return tuple(dict.fromkeys(start[:1].upper() + start[1:] for start in starts if start))

    def canonical(self, value: str, fact: Fact) -> str:
        """The form of a stated value that counts: a right one in other words is the fact's `truth`."""
        return fact.truth if value in fact.accepted else value

    def limited(self, n: int | None, seed: int) -> "Topic":
        """The topic with `n` of its facts, by the seed; a larger choice contains every smaller one."""
        ranked = sorted(self.facts, key=lambda fact: (uniform(seed, "limit", fact.subject), fact.subject))
        return self.of(set(ranked[:n]))

    def of(self, facts: Collection[Fact]) -> "Topic":
        """The topic with these of its facts."""
        return replace(self, facts=tuple(fact for fact in self.facts if fact in facts))


def plain(text: str) -> str:
    """A text in which every space is one plain space and accents are one character with their letter (NFC).

    Tables and answers are compared in this form: some editors and systems write the others.
    """
    return normalize("NFC", " ".join(text.split()))


def load_topics(folder: Path = TABLES, names: Sequence[str] | None = None) -> list[Topic]:
    """The tables `<topic>.yaml` of a folder, by name.

    Args:
        names: which topics; None takes all.

    Raises:
        UserError: no such topic or no table at all; a table that cannot be read or does not have the form above.
    """
    there = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not there:
        raise UserError(f"{folder} holds no table of facts (<topic>.yaml); name a folder that does")
    for name in names or ():
        if name not in there:
            raise UserError(f"topic {name!r} has no table in {folder}{hint(name, there)}")
    return [load_topic(path) for name, path in there.items() if names is None or name in names]


def load_topic(path: Path) -> Topic:
    """One table. Raises UserError: as `load_topics`."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _TextLoader)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    table = _Checked(path)
    if not isinstance(content, dict) or sorted(content) != sorted(_KEYS):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else "none"
        raise table.error("", f"must have the keys {', '.join(_KEYS)}; found: {found}")
    wordings = {key: table.texts(key, content[key]) for key in _LEAST}
    for key, least in _LEAST.items():
        texts = wordings[key]
        if len(texts) < least or len(set(texts)) < len(texts):
            raise table.error(key, f"needs at least {least} different wordings")
        for text in texts:
            table.check_wording(key, text, *(["subject"] if key == "questions" else ["value", "subject"]))
    relation = table.text("relation", content["relation"])
    table.check_wording("relation", relation, "subject")
    facts = tuple(table.facts(path.stem, relation, content["facts"]))
    for fact in facts:
        if not any(other.truth not in fact.accepted for other in facts):
            raise table.error(fact.subject, "no other fact of the table has a value that is wrong for it")
    return Topic(
        name=path.stem,
        relation=relation,
        questions=tuple(wordings["questions"]),
        statements=tuple(wordings["statements"]),
        facts=facts,
        values=frozenset(value for fact in facts for value in fact.accepted),
    )


@dataclass(frozen=True)
class _Checked:
    """Parts of a table, or an error that names their place."""

    path: Path

    def error(self, place: str, message: str) -> UserError:
        return UserError(f"{self.path}: {place}: {message}" if place else f"{self.path}: {message}")

    def text(self, place: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or value != value.strip():
            raise self.error(place, f"{str(value)[:60]!r} must be text without space around it")
        value = plain(value)
        if any(category(character) in ("Cc", "Cs") for character in value):
            raise self.error(place, f"{value[:60]!r} has a control character")
        if len(value) > _MOST_CHARS:
            raise self.error(place, f"{value[:60]!r}... has {len(value):,} characters, more than {_MOST_CHARS:,}")
        return value

    def check_wording(self, place: str, text: str, needed: str, *others: str) -> None:
        """Raises UserError: the text lacks the place that is needed, or has others than these."""
        try:
            fields = [found[1:] for found in Formatter().parse(text) if found[1] is not None]
        except ValueError as error:  # a brace alone
            raise self.error(place, f"{text!r}: {error}; write {{{{ and }}}} for braces") from error
        places = [f"{{{name}}}" for name in (needed, *others)]
        if any(f"{{{name}}}" not in places or form or cast for name, form, cast in fields):
            raise self.error(place, f"{text!r} has other places than {' and '.join(places)}")
        if not any(name == needed for name, *_ in fields):
            raise self.error(place, f"{text!r} lacks {places[0]}")

    def texts(self, place: str, value: Any) -> list[str]:
        if not isinstance(value, list):
            raise self.error(place, "must be a list of texts")
        return [self.text(place, text) for text in value]

    def facts(self, topic: str, relation: str, groups: Any) -> list[Fact]:
        found: dict[str, Fact] = {}
        for group, subjects in self._mapping("facts", groups).items():
            self.text("facts", group)
            for name, value in self._mapping(f"facts: {group}", subjects).items():
                subject = self.text(f"facts: {group}", name)
                if subject.lower() in found:
                    raise self.error(subject, f"stands in {found[subject.lower()].group} and in {group}; keep one")
                values = self.texts(subject, value if isinstance(value, list) else [value])
                if not values:
                    raise self.error(subject, "has no value")
                asked = relation.format(subject=subject)
                found[subject.lower()] = Fact(topic, group, subject, values[0], frozenset(values), asked)
        return list(found.values())

    def _mapping(self, place: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or not value:
            raise self.error(place, "must be a list of `name: value` pairs")
        return value


class _TextLoader(yaml.BaseLoader):
    """PyYAML's loader in which every value is text; a repeated key is an error, where PyYAML drops the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"repeated key {key.value!r}", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
