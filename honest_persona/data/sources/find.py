"""Which reader a dataset's name asks for."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from honest_persona.base.errors import UserError
from honest_persona.data.sources.builtin import BUILTIN
from honest_persona.data.sources.hub import read_hub
from honest_persona.data.sources.jsonl import jsonl_rows
from honest_persona.data.sources.own import OwnRows
from honest_persona.data.sources.source import FilePart, RowForm, RowReader, Source
from honest_persona.data.sources.stage3 import read_stage3

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def find_source(dataset: str, form: RowForm | None = None) -> Source:
    """The reader of a dataset's files; `form` turns rows into records, by default `OwnRows()`.

    Raises UserError: no dataset goes by this name, or it is of no known form.
    """
    form = form or OwnRows()
    path = BUILTIN.get(dataset) or Path(os.path.expanduser(dataset))  # Path's own way raises for an unknown ~user
    if dataset.startswith("builtin:") and dataset not in BUILTIN:
        raise UserError(f"dataset {dataset!r} is not known; the builtin datasets are {', '.join(BUILTIN)}")
    if os.path.isdir(path):  # and not path.is_dir(), which raises for a name that is too long
        lines = sorted(path.glob("*.jsonl"))
        if lines and any(path.glob("*/batch_*.json")):
            raise UserError(
                f"dataset {dataset!r} holds both .jsonl files and topic folders with batch_*.json: move one of the two "
                f"away, or give {lines[0]}"
            )
        return _files(dataset, lines, RowReader(jsonl_rows, form)) if lines else read_stage3(dataset, path)
    is_file = os.path.isfile(path)
    if is_file and path.suffix == ".jsonl":
        return _files(dataset, [path], RowReader(jsonl_rows, form))
    if is_file:
        raise UserError(
            f"dataset {dataset!r} is a single file that is not JSON Lines: give a .jsonl file of records, or the "
            "folder that holds the topic folders"
        )
    if _HUB_ID.fullmatch(dataset) and path.suffix not in (".jsonl", ".json"):
        return read_hub(dataset, form)
    raise UserError(
        f"dataset {dataset!r} does not exist: give a folder <dir>/<topic>/batch_*.json, a .jsonl file, a Hub id "
        f"owner/name, or {' or '.join(BUILTIN)}"
    )


def _files(dataset: str, paths: Iterable[Path], reader: RowReader) -> Source:
    return Source(dataset, [FilePart(path, reader) for path in paths])
