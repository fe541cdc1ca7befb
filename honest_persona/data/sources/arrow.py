"""Arrow files, and the folders that `save_to_disk` of datasets writes: Dataset and DatasetDict."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.progress import Progress
from honest_persona.data.rejections import Rejection
from honest_persona.data.sources.source import shown
from honest_persona.data.sources.tables import table_rows

STATE, DICT = "state.json", "dataset_dict.json"
_SIGNATURE = b"ARROW1"
_MB = 10**6


def arrow_rows(path: Path) -> Iterator[tuple[Any, str]]:
    """Each row with its place. After a damaged part the rest of the file is one rejection. Raises OSError."""
    import pyarrow as pa  # takes a moment, and most runs do not need it

    name, first, total = shown(path), 0, path.stat().st_size // _MB
    with path.open("rb") as raw, Progress("reading", total, "MB", delay_s=1.0) as progress:
        is_file = raw.read(len(_SIGNATURE)) == _SIGNATURE
        raw.seek(0)
        source = pa.PythonFile(raw, "r")
        try:
            for batch in _file(pa.ipc.open_file(source)) if is_file else pa.ipc.open_stream(source):
                yield from table_rows(batch, name, first)
                first += batch.num_rows
                progress.advance(max(0, raw.tell() // _MB - progress.done))
        except (pa.ArrowException, OSError, ValueError, MemoryError):
            yield Rejection(name, f"from row {first} on", "rows", "damaged_file:Arrow file"), ""


def _file(reader: Any) -> Iterator[Any]:
    return (reader.get_batch(number) for number in range(reader.num_record_batches))


def saved_splits(dataset: str, folder: Path) -> dict[str, list[Path]] | None:
    """The files of each split of a folder that `save_to_disk` wrote ("" for a Dataset); None: it wrote no such folder.

    Raises UserError: a part of the folder is missing or damaged.
    """
    if (folder / DICT).is_file():
        splits = _json(dataset, folder / DICT).get("splits")
        if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits) or not splits:
            raise UserError(f"dataset {dataset!r}: {DICT} names no splits: save the dataset again with save_to_disk")
        return {split: _saved(dataset, folder / split) for split in splits}
    return {"": _saved(dataset, folder)} if (folder / STATE).is_file() else None


def _saved(dataset: str, folder: Path) -> list[Path]:
    files = _json(dataset, folder / STATE).get("_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in files or [None]]
    if not isinstance(files, list) or not all(isinstance(name, str) and name for name in names):
        raise UserError(
            f"dataset {dataset!r}: {shown(folder / STATE)} names no data files: save the dataset again "
            "with save_to_disk"
        )
    return [folder / Path(name).name for name in names if name]


def _json(dataset: str, path: Path) -> dict[str, Any]:
    try:
        found = json_text.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"dataset {dataset!r}: {shown(path)} cannot be read ({type(error).__name__}): save the dataset again with "
            "save_to_disk"
        ) from error
    return found if isinstance(found, dict) else {}
