"""What lies beside an audited run: a comparison of capability, the rewards over the training.

beside(Path("checkpoints/my-run"))      # {"capability": ... | None, "course": [...]}
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.grouping import grouped

CAPABILITY, ROLLOUTS = "eval/capability.json", "rollouts.jsonl"


def beside(run: Path) -> dict[str, Any]:
    """Raises UserError: a file that is there cannot be read."""
    return {"capability": _capability(run / CAPABILITY), "course": course(run / ROLLOUTS)}


def _capability(path: Path) -> list[str] | None:
    """What may be claimed of the model's capability, in words; None: not run."""
    if not path.is_file():
        return None
    try:
        found = json_text.loads(path.read_text(encoding="utf-8"))["verdicts"]
        if not isinstance(found, list) or not all(isinstance(line, str) for line in found):
            raise TypeError("verdicts")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: no comparison of capability ({error!r}); run `capability` again") from error
    return found


def course(path: Path) -> list[dict[str, Any]]:
    """Mean rewards by step of an RL run's answers: `{step, n, reward, rewards: {name: mean}, malformed}`; none: []."""
    if not path.is_file():
        return []
    try:
        by_step = grouped(_lines(path), lambda line: int(line["step"]))
        return [
            {
                "step": step,
                "n": len(lines),
                "reward": _mean(line.get("reward") for line in lines),
                "rewards": {name: _mean(line["rewards"].get(name) for line in lines) for name in lines[0]["rewards"]},
                "malformed": sum(bool(line.get("malformed")) for line in lines) / len(lines),
            }
            for step, lines in sorted(by_step.items())
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no log of an RL run's answers ({error!r}); move it away to audit without") from error


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):  # the last line of a run that goes on may not be whole
                yield json_text.loads(line)


def _mean(values: Any) -> float | None:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None
