"""JSON without NaN and Infinity, in all files that the package writes and reads."""

import ast
import json
import math

import pytest

from honest_persona.base.json_text import defined, dumps, loads

NOT_FINITE = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_number_that_is_not_finite_is_not_written(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"a": [value]})
    assert dumps(defined({"a": [value, (1.5, value)], "b": "NaN"})) == '{"a": [null, [1.5, null]], "b": "NaN"}'
    assert json.loads(json.dumps(value)) != 0, "negative control: Python's own reads and writes it"


@pytest.mark.parametrize("text", ["NaN", '{"a": -Infinity}', "[Infinity]", "1e999", "[-1e400]", "[" * 10**5, "{", ""])
def test_what_is_no_json(text):
    with pytest.raises(ValueError, match=r"."):
        loads(text)


def test_older_files_may_hold_undefined_figures():
    assert loads('{"a": NaN, "b": Infinity, "c": 1e3}', undefined=True) == {"a": None, "b": None, "c": 1000.0}


def test_nobody_reads_or_writes_json_past_it(root):
    """Exceptions have hooks of their own, or show a user's value in a message."""
    own_ways = {"json_text.py", "strict_json.py", "environment.py", "parsing.py", "render_child.py"}
    found = [
        f"{path}:{node.lineno}"
        for path in (root / "honest_persona").rglob("*.py")
        if path.name not in own_ways
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("json.dumps", "json.dump", "json.loads", "json.load")
    ]
    assert not found
