"""JSON as RFC 8259 has it, for all that this package writes and reads: without NaN and Infinity.

text = dumps(content)             # a number that is not finite is a defect of ours: ValueError
text = dumps(defined(content))    # where a figure may be undefined: null in its place
content = loads(text)             # ValueError for what is no such JSON, and for endless numbers and nesting
"""

import json
import math
from typing import Any, NoReturn


def dumps(content: Any, **options: Any) -> str:
    """As `json.dumps`. Raises ValueError: a number that is not finite."""
    return json.dumps(content, allow_nan=False, **options)


def loads(text: str | bytes, undefined: bool = False) -> Any:
    """As `json.loads`. Raises ValueError, and nothing else, for what is no JSON.

    Args:
        undefined: NaN and Infinity give None: for files in which earlier versions left undefined figures so.
    """
    try:
        return json.loads(text, parse_constant=_none if undefined else _refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def defined(content: Any) -> Any:
    """A copy of lists and dicts in which a number that is not finite is None."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: defined(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [defined(value) for value in content]
    return content


def _none(_: str) -> None:
    return None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is beyond all numbers")
    return value
