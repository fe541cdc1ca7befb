"""Checks the files that come with the package: an altered file is an error with its name and the expected hash."""

import hashlib
import json
from pathlib import Path

from honest_persona.base import json_text
from honest_persona.base.errors import UserError

FACTS_FILE = "card.json"
_REMEDY = "install the package again"


def verify_files(folder: Path) -> None:
    """Hash every file that the folder's card.json lists under `sha256`.

    Raises:
        UserError: no card.json, or a file that is missing or differs; names it, and the hash that was expected.
    """
    try:
        expected = json_text.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))["sha256"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"model: {folder / FACTS_FILE} is missing or has no list of files; {_REMEDY}") from error
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"model: {path} is missing (expected SHA-256 {digest}); {_REMEDY}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != digest:
            raise UserError(f"model: {path} is altered: SHA-256 {found}, expected {digest}; {_REMEDY}")
