"""Templates that make texts of rows, from a YAML file in promptsource's shape: a list of name, jinja, answer_choices.

    - name: plain_question
      jinja: |
        {{question}} {{sentence}}
        Is the question answered? ||| {{answer_choices[label]}}
      answer_choices: Yes ||| No                # or a list: [Yes, No]
      use: contrast                             # contrast, prompts, pairs, or a list of them; without it all three

`|||` separates the prompt from the answer; without it the choice itself is the answer. A template sees the columns of
the row, `answer_choices` (the rendered choices), and `label` (and the label's column under its own name): the number of
the choice that is written, so each choice is written once. The choices see the columns without the label.

The files of promptsource and elk are read too: their list stands under `templates`, by ids, and what a template holds
beside these keys is not needed here. text_render.py renders.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from honest_persona.base.console import one_line
from honest_persona.base.errors import UserError
from honest_persona.base.words import ALL
from honest_persona.prompts.rendering import Exceeded, Refused, names_in

BAR = "|||"
CHOICES, LABEL = "answer_choices", "label"
USES = ("contrast", "prompts", "pairs")
"""What a template's texts are for: probes, RL, and judging or training answers."""
OF_TWO = ("contrast", "pairs")
"""Uses that need exactly two choices."""
_KEYS = ("name", "jinja", CHOICES, "use")
_NOT_NEEDED = ("id", "metadata", "reference")
"""Keys of promptsource that say nothing about the texts."""
_LONGEST_NAME = 100
_OTHER_LINE_ENDS = re.compile("[\r\x85\u2028\u2029]")


@dataclass(frozen=True)
class TextTemplate:
    name: str
    jinja: str
    choices: tuple[str, ...] | str | None = None
    """Texts of jinja, or one such text with `|||` between the choices."""
    use: tuple[str, ...] = USES

    @property
    def fixed(self) -> tuple[str, ...] | None:
        """The choices, where they are the same for every row."""
        if self.choices is None or "{" in "".join(self.choices):
            return None
        pieces = self.choices.split(BAR) if isinstance(self.choices, str) else self.choices
        return tuple(piece.strip() for piece in pieces)

    @property
    def sources(self) -> tuple[str, ...]:
        """All texts of jinja in it."""
        return self.jinja, *((self.choices,) if isinstance(self.choices, str) else self.choices or ())

    def columns(self) -> set[str]:
        """The names that it reads, without `answer_choices`. Raises Refused, Exceeded: it cannot be read."""
        return {name for text in self.sources for name in names_in(text)} - {CHOICES}


def load_templates(path: str | Path) -> tuple[TextTemplate, ...]:
    """The templates of a file. Raises UserError: the file cannot be read, or all that is wrong with its templates."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--templates: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--templates: {path} is not UTF-8 text (byte {error.start})") from error
    return parse_templates(text, str(path))


def parse_templates(text: str, path: str) -> tuple[TextTemplate, ...]:
    """The same of a file's text; `path` is for messages."""
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else path
        raise UserError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if isinstance(content, dict):
        content = content.get("templates")
        content = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}: holds no list of templates; write one as\n- name: ...\n  jinja: ...")
    found, problems = [], []
    for number, given in enumerate(content, start=1):
        try:
            found.append(_template(given))
        except ValueError as error:
            name = given.get("name") if isinstance(given, dict) else None
            named = f" {one_line(name)!r}" if isinstance(name, str) and name else ""
            problems.append(f"{path}: template {number}{named}: {error}")
    for name, n in Counter(template.name for template in found).items():
        if n > 1:
            problems.append(f"{path}: {n} templates have the name {name!r}; give each a name of its own")
    problems += [f"{path}: template {of.name!r}: {problem}" for of in found for problem in _problems(of)]
    if problems:
        raise UserError("\n".join(problems))
    return tuple(found)


def dump_templates(templates: Iterable[TextTemplate]) -> str:
    """A file's text, from which `parse_templates` makes equal templates."""
    rows: list[dict[str, Any]] = []
    for template in templates:
        row: dict[str, Any] = {"name": template.name, "jinja": template.jinja}
        if template.choices is not None:
            row[CHOICES] = template.choices if isinstance(template.choices, str) else list(template.choices)
        if template.use != USES:
            row["use"] = list(template.use)
        rows.append(row)
    return yaml.dump(rows, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)


def _template(given: Any) -> TextTemplate:
    """Raises ValueError: what is wrong."""
    if not isinstance(given, dict):
        raise ValueError("is no mapping with name and jinja")
    if unknown := [str(key) for key in given if key not in (*_KEYS, *_NOT_NEEDED)]:
        raise ValueError(f"has no key {', '.join(map(one_line, unknown))}; the keys are {', '.join(_KEYS)}")
    name, jinja = (_text(given, key) for key in ("name", "jinja"))
    name = name.strip()
    if name == ALL or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ValueError(f"name: give it one printable line of at most {_LONGEST_NAME} characters, and not {ALL!r}")
    choices, use = given.get(CHOICES), given.get("use")
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        choices = tuple(choices)
    elif choices is not None and not isinstance(choices, str):
        raise ValueError(f"{CHOICES} is neither a list of texts nor one text with {BAR} between the choices")
    wanted = USES if use is None else (use,) if isinstance(use, str) else use
    if not isinstance(wanted, list | tuple) or not wanted or any(one not in USES for one in wanted):
        raise ValueError(f"use: {use!r} is not known; write one or more of {', '.join(USES)}")
    return TextTemplate(name, jinja, choices, tuple(one for one in USES if one in wanted))


def _text(given: dict[str, Any], key: str) -> str:
    text = given.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{key} is missing; write a text")
    return text


def _problems(template: TextTemplate) -> Iterator[str]:
    """What is wrong with a template, whatever the rows are."""
    try:
        columns = template.columns()
    except (Refused, Exceeded) as error:
        yield f"is no template that can be rendered: {error}"
        return
    if not columns - {LABEL}:
        yield "names no column of a row; write a column's name in braces, as {{question}}"
    pairs = [use for use in template.use if use in OF_TWO]
    if template.choices is None and pairs:
        yield f"has no {CHOICES}, and {pairs[0]} needs two; add them, or write `use: prompts`"
    if (fixed := template.fixed) is not None:
        yield from choice_problems(fixed, bool(pairs))


def choice_problems(choices: Sequence[str], is_pair: bool) -> Iterator[str]:
    """What is wrong with rendered choices."""
    shown = ", ".join(repr(one_line(choice)) for choice in choices)
    if is_pair and len(choices) != 2:
        yield f"has {len(choices)} {CHOICES} ({shown}), and a pair needs two; change them, or write `use: prompts`"
    if "" in choices:
        yield f"has an empty one among its {CHOICES} ({shown}); write a text"
    elif repeated := [choice for choice, n in Counter(choices).items() if n > 1]:
        yield f"has equal {CHOICES} ({shown}): nothing tells them apart; change one {one_line(repeated[0])!r}"


class _Loader(yaml.SafeLoader):
    """Every scalar is text, so that `[Yes, No]` and `[1, 2]` are choices; null, ~ and nothing are null."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - PyYAML's own protocol

    def tagged(self, _: str, node: yaml.Node) -> Any:
        """An object of another program, such as promptsource's !Template: its values."""
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, f"unknown tag {node.tag}", node.start_mark)
        return self.construct_mapping(node, deep=True)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := [key for key, n in Counter(keys).items() if n > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"repeated key {repeated[0]!r}", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), None)
_Loader.add_multi_constructor("!", _Loader.tagged)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, where YAML can hold them so; all others in quotes."""


def _as_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    is_block = "\n" in text and not _OTHER_LINE_ENDS.search(text)  # which a block would give back as \n
    style = None if text in _KEYS else "|" if is_block else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _as_text)
