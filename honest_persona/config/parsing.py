"""A flat YAML or JSON file, and a command line, as entries with their places. The keys have no meaning here.

YAML is read by the 1.2 core schema: `1e-5` is a number, `yes`, `no`, `on` and `off` are text, `010` is ten.
JSON is read by the same code, so that its values have line numbers too.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from honest_persona.base.environment import is_secret_name, is_secret_value
from honest_persona.config.persona import SPACED

IGNORED_FLAGS = {"local_rank"}
"""Added by the deepspeed launcher; the rank is read from the environment."""
SECRET_MESSAGE = "looks like a secret; secrets belong into env.json (see env.example.json) or into the environment"
COMMIT_KEYS = {"model_revision"}
"""Keys whose 40 hex digits are a git commit, not an old wandb key."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN_CHARS = 60
_MAX_DEPTH = 20
_INT_BITS = 63
_BEYOND_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufffe\uffff]")
"""Raw characters that JSON allows in strings, and that YAML refuses or takes for line ends."""


@dataclass(frozen=True)
class Problem:
    place: str
    """as `hp.yaml:12: lora_r` or `--lora_r`"""
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


@dataclass(frozen=True)
class Entry:
    """A key and its value, as they were given, with the place."""

    key: str
    value: Any
    place: str
    is_bare_flag: bool = False
    """a command-line flag without a value: true"""


def show(value: Any, most_chars: int = _SHOWN_CHARS) -> str:
    """A value for a message: as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most_chars else text[: most_chars - 3] + "..."


def read_file(path: str) -> tuple[list[Entry], list[Problem]]:
    """The entries of a flat YAML or JSON file. A repeated key is a problem, and its first value counts."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        return [], [Problem(path, f"cannot be read: {error.strerror}")]
    except UnicodeDecodeError as error:
        return [], [Problem(path, f"is not UTF-8 text (byte {error.start})")]
    if path.endswith(".json"):
        # In JSON a tab is white space, and never a part of a string; YAML does not take a tab for indentation.
        text = _BEYOND_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text.replace("\t", " "))
    try:
        node = _compose(text)
    except yaml.YAMLError as error:
        return [], [_syntax_problem(error, path, text)]
    if node is None:
        return [], []
    if not isinstance(node, yaml.MappingNode) or node.tag != f"{_TAG}map":
        return [], [Problem(f"{path}:{_line(node)}", "the file must be a list of `key: value` pairs")]
    entries, problems = [], []
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), _line(key_node)
        place = f"{path}:{line}: {key}"
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(Problem(f"{path}:{line}", "a key must be plain text"))
        elif key in seen:
            problems.append(Problem(place, f"repeated key, given first on line {seen[key]}; keep one of the two"))
        else:
            seen[key] = line
            try:
                entries.append(Entry(key, _construct(value_node), place))
            except ValueError as error:
                problems.append(Problem(place, str(error)))
    return _without_secrets(entries, problems)


def read_arguments(argv: Sequence[str]) -> tuple[list[Entry], list[Problem]]:
    """The entries of `--key value`, `--key=value` and `--flag` (= true). Values are YAML, as in a file.

    A value that starts with `--` needs the form `--key=value`. Dashes within a key count as underscores.
    """
    entries: list[Entry] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            # Only the part before "=" is shown: the part after it may be a secret.
            shown = "" if is_secret_value(word) else f" {show(word.partition('=')[0])}"
            problems.append(
                Problem("command line", f"unexpected word{shown}; write --key value, and a list as --key '[a, b]'")
            )
            continue
        name, has_value, text = word.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        is_bare = not has_value and (not words or words[0].startswith("--"))
        if not has_value and not is_bare:
            text = words.pop(0)
        if key in IGNORED_FLAGS:
            continue
        place = f"--{key}"
        if key in seen:
            problems.append(Problem(place, "given twice; keep one of the two"))
            continue
        seen.add(key)
        if is_bare:
            entries.append(Entry(key, True, place, is_bare_flag=True))
            continue
        try:
            node = _compose(text)
            value = None if node is None else _construct(node)
            is_plain = isinstance(value, str) and value == text.strip()
            entries.append(Entry(key, text if is_plain and key in SPACED else value, place))
        except yaml.YAMLError:
            problems.append(Problem(place, "the value is not valid YAML; put text in double quotes within single ones"))
        except ValueError as error:
            problems.append(Problem(place, str(error)))
    return _without_secrets(entries, problems)


def _without_secrets(entries: Iterable[Entry], problems: list[Problem]) -> tuple[list[Entry], list[Problem]]:
    """The entries without values that look like access keys, so that no later message can show a key."""
    kept = []
    for entry in entries:
        if entry.key in COMMIT_KEYS and _COMMIT.fullmatch(str(entry.value)):
            kept.append(entry)
        elif is_secret_value(entry.key):
            problems.append(Problem(entry.place.replace(entry.key, "***"), SECRET_MESSAGE))
        elif _holds_secret(entry.value):
            problems.append(Problem(entry.place, SECRET_MESSAGE))
        else:
            kept.append(entry)
    return kept, problems


def _holds_secret(value: Any) -> bool:
    match value:
        case str():
            return is_secret_value(value)
        case list():
            return any(_holds_secret(item) for item in value)
        case dict():
            return any(
                is_secret_name(key) or is_secret_value(key) or _holds_secret(item) for key, item in value.items()
            )
    return False


class _CoreLoader(yaml.SafeLoader):
    """PyYAML with the YAML 1.2 core schema in place of 1.1's implicit types, without aliases, and not nested deep."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - PyYAML's own protocol
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported", mark)
        if self.depth == _MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {_MAX_DEPTH} deep", mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_TAG = "tag:yaml.org,2002:"
_PATTERNS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}
for _name, _pattern in _PATTERNS.items():
    _CoreLoader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), None)


def _compose(text: str) -> yaml.Node | None:
    loader = _CoreLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _construct(node: yaml.Node) -> Any:
    """Plain Python data of a node.

    Raises:
        ValueError: within the value, a repeated key or a number that is not finite; an unknown tag; a tag that does
            not fit its text; a number that is too long.
    """
    text, kind = node.value, node.tag.removeprefix(_TAG)
    match node:
        case yaml.SequenceNode() if kind == "seq":
            return [_finite(_construct(item)) for item in node.value]
        case yaml.MappingNode() if kind == "map":
            mapping: dict[str, Any] = {}
            lines: dict[str, int] = {}
            for key_node, value_node in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise ValueError(f"the key on line {_line(key_node)} must be plain text")
                key = _joined_surrogates(key_node.value)
                if key in mapping:
                    raise ValueError(f"repeated key {show(key)} on lines {lines[key]} and {_line(key_node)}")
                mapping[key], lines[key] = _finite(_construct(value_node)), _line(key_node)
            return mapping
    if kind == "str":
        return _joined_surrogates(text)
    if not isinstance(node, yaml.ScalarNode) or kind not in _PATTERNS or not re.fullmatch(_PATTERNS[kind], text):
        raise ValueError(f"the YAML tag {node.tag} does not fit here; write the plain value")
    match kind:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return _whole(text)
    sign = -math.inf if text.startswith("-") else math.inf
    return sign if text.lower().endswith("inf") else float(text.lower().replace(".nan", "nan"))


def _whole(text: str) -> int:
    number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if len(text) <= _INT_BITS else 1 << _INT_BITS
    if number.bit_length() > _INT_BITS:
        raise ValueError(f"must be a number of at most {_INT_BITS} bits, got {text[:_SHOWN_CHARS]}")
    return number


def _finite(value: Any) -> Any:
    """The item of a list or mapping, which must be finite. Single values are checked by the type of their key."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"every number in it must be finite, got {show(value)}")
    return value


def _joined_surrogates(text: str) -> str:
    """JSON writes a character beyond U+FFFF as two `\\u` escapes, which YAML takes for two characters."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError("the text has half of a two-part \\u escape") from None


def _syntax_problem(error: yaml.YAMLError, path: str, text: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return Problem(f"{path}:{mark.line + 1}", f"not valid YAML: {error.problem} (column {mark.column + 1})")
    assert isinstance(error, yaml.reader.ReaderError)
    line = text.count("\n", 0, error.position) + 1
    return Problem(f"{path}:{line}", f"not valid YAML: the character U+{error.character:04X} is not printable")


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
