"""Checks, before a model is loaded, that results can be written to their folder."""

import shutil
import tempfile
from pathlib import Path

from honest_persona.base.errors import UserError

_LEAST_BYTES = 16 * 2**20
"""Enough for the texts, tables and plots of an evaluation, or for the reviews of a file."""


def check_writable(folder: Path, what: str) -> None:
    """Make the folder, and write a temporary file into it; permissions alone say nothing where the user is root.

    Args:
        what: names the writer or the folder in the message.

    Raises:
        UserError: the folder cannot be made or written to, or its disk has too little room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{what}: {folder} cannot be written to ({reason}); name another folder") from error
    if free < _LEAST_BYTES:
        raise UserError(
            f"{what}: {folder} has {free / 2**20:.1f} MiB free, and {_LEAST_BYTES / 2**20:.0f} MiB may be needed; make "
            "room, or name another folder"
        )
