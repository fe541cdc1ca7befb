"""Room on the disk for what a process needs while it runs: large data that are mapped and not held in memory.

The folder lies where temporary files belong (the variable TMPDIR moves it) and goes when the process ends. A folder
that kill -9 left behind goes when the next process asks for room: nobody holds its lock any more.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

_PREFIX = "honest-persona-"
_LOCK = "lock"


def scratch_folder() -> Path:
    """The folder of this process, which other users cannot read."""
    return _folder_of(os.getpid())


@lru_cache(maxsize=1)
def _folder_of(pid: int) -> Path:
    """A forked process gets a folder of its own."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_left_behind(folder):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    file = os.open(folder / "new", os.O_CREAT | os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_EX)  # until the process ends, however it ends
    (folder / "new").rename(folder / _LOCK)  # other processes see it locked
    atexit.register(_remove, folder, pid)
    return folder


def _is_left_behind(folder: Path) -> bool:
    try:
        file = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:  # another user's, or not locked yet
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
