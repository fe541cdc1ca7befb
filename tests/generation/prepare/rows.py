"""Rows of QNLI's shape, and the templates that the package ships for them."""

import json
from pathlib import Path
from typing import Any

TEMPLATES = str(Path(__file__).parents[3] / "configs" / "templates" / "qnli.yaml")
NAMES = ["entailment", "not_entailment"]


def qnli(n: int, question: str = "When was tower {0} built?") -> list[dict[str, Any]]:
    """`n` rows; each question has two sentences, of which the first answers it."""
    return [
        {
            "question": question.format(i // 2),
            "sentence": f"Tower {i // 2} was built in {1000 + i}." if i % 2 == 0 else f"The river has {i} bridges.",
            "label": i % 2,
            "idx": i,
        }
        for i in range(n)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_qnli(path: Path, n: int, **more: str) -> Path:
    return write_rows(path, qnli(n, **more))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
