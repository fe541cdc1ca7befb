"""`checkpoint-N/` of a run's folder: written aside and renamed when whole, chosen for a resume, deleted when old.

A checkpoint holds the adapter as it is published, `run_state.*` (run_state.py), `trainer_state.json`, and a manifest
(base/manifest.py) with what the run was; no pickle. A run killed at any moment leaves whole checkpoints and at most
one `checkpoint-N.<random>.partial`, which nothing reads.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from safetensors import SafetensorError

from honest_persona.base.errors import RankError, UserError
from honest_persona.base.files import to_disk
from honest_persona.base.manifest import MANIFEST, Damaged, check, seal
from honest_persona.config.objectives import DEFAULT_OBJECTIVE
from honest_persona.config.parsing import show
from honest_persona.training.run_state import RunState

PARTIAL = ".partial"
_NAME = re.compile(r"checkpoint-(\d+)")
_MIB = 2**20


class Checkpoint(NamedTuple):
    step: int
    folder: Path
    about: dict[str, Any]
    """The manifest's: `run` (what a run that resumes the checkpoint must share), `config`, `versions`, `step`."""


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, whole or not, the newest first."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest(folder: Path, tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint.

    Args:
        tell: is called with a line for each newer checkpoint that is not whole.
    """
    for path in checkpoints(folder):
        try:
            about = check(path)
            return Checkpoint(about["step"], path, about)
        except Damaged as damage:
            tell(f"{path} is skipped: {damage}")
    return None


@contextmanager
def whole(folder: Path, about: Mapping[str, Any], writes: bool, state: RunState) -> Iterator[Path]:
    """A folder to write a checkpoint into; the folder gets its name when the block ends without an error.

    Args:
        folder: the checkpoint's, `<run>/checkpoint-N`.
        about: the manifest's content.
        writes: whether this rank writes.

    Raises:
        RankError: the checkpoint cannot be written, for example on a full disk. Earlier checkpoints stay.
    """
    with _aside(folder, folder.with_name(f"{folder.name}.{uuid4().hex[:8]}{PARTIAL}"), writes, state) as partial:
        yield partial
        if writes:
            seal(partial, dict(about))
            if folder.exists():  # left by an earlier try, and not whole: a whole one would have been resumed
                shutil.rmtree(folder)
            partial.replace(folder)
            to_disk(folder.parent)


@contextmanager
def into_place(folder: Path, last: str, writes: bool, state: RunState) -> Iterator[Path]:
    """A folder whose files move into `folder`, one whole file after the other, when the block ends without an error.

    Args:
        last: the name of the file that moves at the end.

    Raises:
        RankError: as `whole`.
    """
    with _aside(folder, folder / f"adapter.{uuid4().hex[:8]}{PARTIAL}", writes, state) as partial:
        yield partial
        if writes:
            for path in sorted(partial.iterdir(), key=lambda path: path.name == last):
                to_disk(path)
                path.replace(folder / path.name)
            partial.rmdir()
            to_disk(folder)


@contextmanager
def _aside(folder: Path, partial: Path, writes: bool, state: RunState) -> Iterator[Path]:
    try:
        if writes:
            parts = [path for what in ("checkpoint-*", "adapter.*") for path in partial.parent.glob(what + PARTIAL)]
            for left in parts:  # left by killed processes: a run's folder has one owner
                shutil.rmtree(left, ignore_errors=True)
            partial.mkdir(parents=True)
            if shutil.disk_usage(partial).free < state.n_bytes:
                raise OSError("the disk is too full")
        yield partial
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(partial.parent).free
        if writes:
            shutil.rmtree(partial, ignore_errors=True)
        raise RankError(
            f"{folder} could not be written ({error}): it needs {state.n_bytes / _MIB:.1f} MiB and room for the "
            f"tokenizer's files, {free / _MIB:.1f} MiB are free. Make room, or lower "
            f"save_total_limit; {last_good(partial.parent)}"
        ) from error


def thin_out(folder: Path, keep: int | None) -> None:
    """Delete the oldest checkpoints beyond `keep`. The newest whole one always stays; None keeps all."""
    found = checkpoints(folder)
    good = next((path for path in found if (path / MANIFEST).is_file()), None)
    for path in found[keep:] if keep else ():
        if path != good:
            (path / MANIFEST).unlink(missing_ok=True)  # first: a half deleted checkpoint is not whole
            shutil.rmtree(path)


def check_same_run(checkpoint: Checkpoint, run: Mapping[str, Any]) -> None:
    """Raises UserError: the checkpoint belongs to another run; the message names what differs."""
    one = {"objective": DEFAULT_OBJECTIVE, "tools_as_text": False}  # older checkpoints name neither
    if differing := changed({**one, **checkpoint.about["run"]}, {**one, **run}):
        said = [f"{key}: {show(there, 40)} there, {show(here, 40)} here" for key, (there, here) in differing.items()]
        raise UserError(
            f"resume: {checkpoint.folder} belongs to another run: {'; '.join(said)}. Give the same settings and "
            "data, or start a new run with another --run_name (adapter: starts from the weights alone)"
        )


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each key whose values differ, with both values."""
    return {k: (before.get(k), now.get(k)) for k in {**before, **now} if before.get(k) != now.get(k)}


def last_good(folder: Path) -> str:
    """For a message: the checkpoint from which a run that ends now can resume."""
    found: Sequence[Path] = [path for path in checkpoints(folder) if (path / MANIFEST).is_file()]
    return f"{found[0]} stays; continue with --resume" if found else "there is no checkpoint yet"
