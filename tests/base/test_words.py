"""The words of base/words.py are said there alone, and each detector is named once."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from honest_persona.base.words import ACROSS, FAIL, HONEST_PERSONA, PASS, WITHIN, other
from honest_persona.evaluation.baselines import RESPONSE_BIGRAMS, TOPIC_ONLY, TRANSCRIPT_BIGRAMS, VARIANT_ONLY
from honest_persona.evaluation.controls import ASKED_PLAINLY, NO_ADAPTER, PROMPT_ONLY

WORDS = {PASS, FAIL, WITHIN, ACROSS, HONEST_PERSONA}
DETECTORS = {VARIANT_ONLY, TOPIC_ONLY, RESPONSE_BIGRAMS, TRANSCRIPT_BIGRAMS, NO_ADAPTER, PROMPT_ONLY}
DETECTORS |= {ASKED_PLAINLY}


def literals(path: Path) -> Iterator[tuple[str, int]]:
    """The string literals of a file with their lines, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value, node.lineno


def said(root: Path, words: set[str]) -> list[tuple[str, str]]:
    """(word, place) of every literal that is one of the words."""
    found = []
    for path in sorted((root / "honest_persona").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        found += [(word, f"{name}:{line}") for word, line in literals(path) if word in words]
    return found


def test_flags_parts_and_the_honest_persona_are_said_in_words_alone(root):
    assert [place for _, place in said(root, WORDS) if not place.startswith("honest_persona/base/words.py")] == []
    assert {word for word, _ in said(root, WORDS)} == WORDS


def test_each_detector_is_named_once(root):
    assert Counter(word for word, _ in said(root, DETECTORS)) == dict.fromkeys(DETECTORS, 1)


def test_a_word_said_again_is_found_and_a_docstring_is_not(tmp_path):
    path = tmp_path / "honest_persona" / "a.py"
    path.parent.mkdir()
    path.write_text("\"\"\"PASS\"\"\"\nFLAG_PREFIX = 'FLAG: '\nx = 'within' if y else f'{FLAG_PREFIX}PASS'\n")
    assert said(tmp_path, WORDS) == [(WITHIN, "honest_persona/a.py:3"), (PASS, "honest_persona/a.py:3")]


def test_the_other_flag():
    assert (other(PASS), other(FAIL)) == (FAIL, PASS)
