"""When, with which model and by which command an evaluation was made: for results.json and the page."""

import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from honest_persona.base.environment import redact
from honest_persona.modeling.adapters.card import AdapterCard

MADE = ("date", "version", "base_revision", "base_fingerprint", "command")
_FINGERPRINT_DIGITS = 12


def provenance(card: AdapterCard | None = None) -> dict[str, Any]:
    """For `about` in results.json: date (UTC), version of this package, command; with a card, the base model too."""
    base = {}
    if card is not None:
        base = {"base_revision": card.base_revision, "base_fingerprint": card.base_fingerprint[:_FINGERPRINT_DIGITS]}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": version("honest-persona"),
        **base,
        "command": command(sys.argv),
    }


def command(argv: list[str]) -> str | None:
    """The command line to repeat the evaluation, without access keys; None where no script was started."""
    if not argv or argv[0] in ("", "-c"):
        return None
    script = Path(argv[0])
    program = ["-m", script.parent.name] if script.name == "__main__.py" else [script.name]
    return redact(shlex.join(["python", *program, *argv[1:]]))
