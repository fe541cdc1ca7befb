"""JSON after RFC 8259, without NaN and Infinity, for all files that this package writes and reads.

text = dumps(content)             # ValueError: a number is not finite, which is a defect of ours
text = dumps(defined(content))    # for figures that may be undefined: null stands for them
content = loads(text)             # ValueError: no such JSON, or numbers and nesting without end
"""

import json
import math
from typing import Any, NoReturn


def dumps(content: Any, **options: Any) -> str:
    """As `json.dumps`. Raises ValueError: a number that is not finite."""
    return json.dumps(content, allow_nan=False, **options)


def loads(text: str | bytes, undefined: bool = False) -> Any:
    """As `json.loads`. Raises ValueError, and no other error, where the text is no JSON.

    Args:
        undefined: read NaN and Infinity as None: earlier versions wrote undefined figures in this way.
    """
    try:
        return json.loads(text, parse_constant=(lambda _: None) if undefined else _refuse, parse_float=_finite)
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


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is beyond all numbers")
    return value
