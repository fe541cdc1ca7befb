"""The datasets of the package, found by name."""

from pathlib import Path

SAMPLE = "builtin:sample"
_PACKAGE = Path(__file__).parents[2]
BUILTIN = {SAMPLE: _PACKAGE / "data" / "sample", "builtin:organism": _PACKAGE / "organism" / "data"}
