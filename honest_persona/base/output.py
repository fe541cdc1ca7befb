"""Whether results can be written at their place: found out before a model is loaded, by writing."""

import shutil
import tempfile
from pathlib import Path

from honest_persona.base.errors import UserError

_LEAST_BYTES = 16 * 2**20
"""Free for the texts, tables and plots of an evaluation, or the reviews of a file."""


def check_writable(folder: Path, what: str, needed_bytes: int = _LEAST_BYTES) -> None:
    """Make the folder, and write a file into it that is gone at once, as root has every permission.

    Args:
        what: is going to write there, or names the folder; for the message.

    Raises:
        UserError: it cannot be made or written to, or its disk has less than `needed_bytes` free.
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
    if free < needed_bytes:
        raise UserError(
            f"{what}: {folder} has {free / 2**20:.1f} MiB free, and {needed_bytes / 2**20:.0f} MiB may be needed; make "
            "room, or name another folder"
        )
