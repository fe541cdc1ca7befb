"""Access keys of the shapes that there are, none of them real, and a look for them in all that a run leaves."""

import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

IN_ENVIRONMENT = {"WANDB_API_KEY": "0dd5eed" * 5 + "0dd5e", "OPENAI_API_KEY": "sk-proj-" + "kAnar1e" * 6}
IN_FILE = {"HF_TOKEN": "hf_" + "kAnarY7" * 5, "OPENROUTER_KEY": "sk-or-v1-" + "c0ffee5" * 9}
KEYS = [*IN_ENVIRONMENT.values(), *IN_FILE.values()]


def keys_in(content: str | bytes) -> list[str]:
    found = content.encode() if isinstance(content, str) else content
    return [key for key in KEYS if key.encode() in found]


def places_of_keys(folder: Path) -> list[str]:
    """Files that hold a key, in their bytes as they are, or within an archive or a database."""
    return [f"{path.relative_to(folder)}: {key}" for path, content in _contents(folder) for key in keys_in(content)]


def _contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        yield path, content
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield path / name, archive.read(name)
        if content.startswith(b"SQLite format 3"):  # a long value lies in pieces, one per page
            with closing(sqlite3.connect(path)) as database:
                yield path / "dump", "\n".join(database.iterdump()).encode()
