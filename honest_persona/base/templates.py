"""Jinja templates of the package's own texts. A value that is missing is an error."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def templates(folder: Path, **options: Any) -> Environment:
    """The templates of a folder; lines that hold a block alone leave no line. `options`: more of Jinja's."""
    loader = FileSystemLoader(folder)
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)
