"""Which reader a dataset's name asks for."""

import os
from pathlib import Path

from honest_persona.base.errors import UserError
from honest_persona.data.rejections import remedy_for
from honest_persona.data.sources.builtin import BUILTIN, builtin_path
from honest_persona.data.sources.folder import KINDS, READERS, read_folder, source_of
from honest_persona.data.sources.hub import read_hub
from honest_persona.data.sources.kinds import REMEDIES, bare_ending, kind_problem
from honest_persona.data.sources.naming import DatasetName, dataset_name
from honest_persona.data.sources.own import OwnRows
from honest_persona.data.sources.source import RowForm, Source
from honest_persona.data.sources.splits import chosen_split
from honest_persona.data.sources.stage3 import batch_files, read_stage3

_HEAD_BYTES = 2**16


def find_source(dataset: str, form: RowForm | None = None) -> Source:
    """The reader of a dataset's files; `form` turns rows into records, by default `OwnRows()`.

    Raises UserError: no dataset goes by this name, or it is of no known form.
    """
    form = form or OwnRows()
    if dataset.startswith("builtin:"):
        path = builtin_path(dataset)
        return source_of(dataset, {"": [path]}, form) if path.suffix == ".gz" else read_stage3(dataset, path)
    name = dataset_name(dataset)
    path = name.path
    if os.path.isdir(path):  # and not path.is_dir(), which raises for a name that is too long
        return _folder(dataset, name, form)
    if os.path.isfile(path):
        _check_file(dataset, path)
        chosen_split(dataset, {"": [path]}, name.chosen)
        return source_of(dataset, {"": [path]}, form)
    if name.is_hub_id and bare_ending(path) not in (*READERS, *REMEDIES):
        return read_hub(dataset, name, form)
    raise UserError(
        f"dataset {dataset!r} does not exist: give a {KINDS} file or a folder of such files, a folder "
        f"<dir>/<topic>/batch_*.json, a Hub id owner/name, or one of the package's: {', '.join(BUILTIN)}"
    )


def _folder(dataset: str, name: DatasetName, form: RowForm) -> Source:
    path = name.path
    if not any(batch_files(folder) for folder in path.glob("*/")):
        if batch_files(path) and not any(path.glob("*.jsonl")):
            raise UserError(f"dataset {dataset!r} has no topic folder with batch files: give its parent folder")
        return read_folder(dataset, name, form)
    if lines := sorted(path.glob("*.jsonl")):
        raise UserError(
            f"dataset {dataset!r} holds both .jsonl files and topic folders with batch_*.json: move one of the two "
            f"away, or give {lines[0]}"
        )
    chosen_split(dataset, {}, name.chosen)
    return read_stage3(dataset, path)


def _check_file(dataset: str, path: Path) -> None:
    """Raises UserError: a single file that cannot be read as a whole."""
    ending = bare_ending(path)
    if ending not in READERS:
        what = f"a {ending} file" if ending else "a file without an ending"
        remedy = REMEDIES.get(ending, f"give a {KINDS} file; where it is one of these, rename it so")
        raise UserError(f"dataset {dataset!r} is {what}, which is not read: {remedy}")
    try:
        problem = kind_problem(path)
        with path.open("rb") as file:
            is_batch = path.name.startswith("batch_") and b'"inferences"' in file.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(f"dataset {dataset!r} cannot be read: {error.strerror}; check its permissions") from error
    if problem:
        reason, _, detail = problem.partition(":")
        raise UserError(f"dataset {dataset!r} ({reason}{detail and ': '}{detail}): {remedy_for(problem)}")
    if is_batch:
        raise UserError(f"dataset {dataset!r} is a single stage-3 file: give the folder that holds its topic's folder")
