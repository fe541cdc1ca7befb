"""One owner at a time for a folder of results.

    with held(Path("checkpoints/my-run"), "a training", "choose another --run_name"):
        ...                                 # raises UserError where another process holds it, and names the process

The lock is a file in the folder with the host, the id and the start time of the process. The file is removed at the
end, on an error and on SIGTERM. After kill -9 or a power cut it stays. The next process on the same host then sees that
the owner is gone (or that another process has the id now), and takes the lock over. Nobody can know whether a process
of another host is gone; then the message names the file to remove.

The lock is made by O_EXCL and not by flock: on network file systems (NFS since version 3, Lustre, BeeGFS) O_EXCL is one
step for all hosts, while flock often holds for one host alone, or not at all.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from honest_persona.base import json_text
from honest_persona.base.console import one_line, tell
from honest_persona.base.errors import UserError
from honest_persona.base.files import clear_parts
from honest_persona.base.output import check_writable

LOCK_FILE = ".honest_persona.lock"
_SAME_S = 1.0
"""Two readings of the start of one process differ by less than this."""
_WRITTEN_S = 2.0
"""A lock that stays empty for longer is not being written."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock, as the lock's file describes it."""

    what: str
    host: str
    namespace: str
    """The namespace of the process id: each container on a host may have its own."""
    pid: int
    began: float
    """When the process began, in seconds since 1970; since the start of the machine in `after_boot`."""
    after_boot: float
    since: str
    token: str
    """A text that no other lock has."""

    @classmethod
    def here(cls, what: str) -> "Holder":
        began, after_boot = _start(psutil.Process())
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(what, socket.gethostname(), _namespace(), os.getpid(), began, after_boot, now, uuid4().hex)

    @property
    def elsewhere(self) -> bool:
        """Whether the process cannot be seen: on another host, or in another container of a host with this name."""
        return (self.host, self.namespace) != (socket.gethostname(), _namespace())

    @property
    def gone(self) -> bool:
        """Whether the process has certainly ended."""
        if self.elsewhere:
            return False
        try:
            process = psutil.Process(self.pid)
            began, after_boot = _start(process)
            ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.AccessDenied:
            return False
        except psutil.NoSuchProcess:
            return not psutil.pid_exists(self.pid)  # a process of another user may be hidden
        # the clock may have been set since, or the machine restarted: only another process differs in both times
        other = min(abs(began - self.began), abs(after_boot - self.after_boot)) > _SAME_S
        return ended or other

    def check(self) -> None:
        """Raises ValueError: `here` could not have made one of the values."""
        texts = (self.what, self.host, self.namespace, self.since, self.token)
        sound = all(type(text) is str and len(text) < 1000 for text in texts) and self.token.isalnum()
        sound &= all(type(seconds) in (int, float) for seconds in (self.began, self.after_boot))
        if not (sound and type(self.pid) is int and 0 < self.pid < 2**31):
            raise ValueError

    def __str__(self) -> str:
        return one_line(f"{self.what} (process {self.pid} on {self.host}, since {self.since})")


class _Held(Exception):
    """Another process holds the lock."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(str(holder))
        self.holder = holder


@contextmanager
def held(folder: Path, what: str, remedy: str, wait_s: float = 0.0) -> Iterator[None]:
    """Own the folder. A missing folder is made, and removed at the end if it is still empty.

    Args:
        what: names this process's work to other processes that ask for the folder, such as "a training".
        remedy: what these processes can do instead of waiting, such as "choose another --run_name".
        wait_s: how long to wait for another owner.

    Raises:
        UserError: another process owns the folder, nobody can write to it, or its disk is full. Then nothing is
            written.
    """
    made = _make(folder)
    try:
        with _locked(folder / LOCK_FILE, folder, what, remedy, wait_s):
            clear_parts(folder)
            yield
    finally:
        for path in made:
            with suppress(OSError):  # something is in it
                path.rmdir()


def is_held_here(folder: Path) -> bool:
    """Whether this process owns the folder."""
    return folder / LOCK_FILE in _mine


@contextmanager
def held_file(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Own one file that is written piece by piece; the lock stands beside the file, not beside a link to it."""
    file = path.resolve()
    with _locked(file.with_name(f".{file.name}.lock"), path, what, remedy, 0.0):
        yield


def _make(folder: Path) -> list[Path]:
    """The folders that had to be made, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror or error}; choose another folder") from error
    return missing


@contextmanager
def _locked(lock: Path, subject: Path, what: str, remedy: str, wait_s: float) -> Iterator[None]:
    until = time.monotonic() + wait_s
    mine = Holder.here(what)
    while True:
        try:
            _take(lock, mine)
            break
        except _Held as other:
            if time.monotonic() < until:
                time.sleep(0.1)
                continue
            holder = other.holder
            advice = f"wait for its end, or {remedy}"
            if holder.elsewhere:
                advice += f". If that process is gone, remove {lock}"
            raise UserError(f"{subject} is in use by {holder}: {advice}") from other
        except OSError as error:
            if isinstance(error, FileNotFoundError) and subject == lock.parent:
                _make(subject)  # its last owner has just removed it, because it was empty
                continue
            raise UserError(
                f"{subject} cannot be written to: {error.strerror or error}; choose another place"
            ) from error
    _mine[lock] = mine
    _heed_sigterm()
    try:
        check_writable(lock.parent, what)
        yield
    finally:
        _release(lock)


def _take(lock: Path, mine: Holder) -> None:
    """Raises _Held: another process holds the lock and may still be running."""
    while not _made(lock, mine):
        other = _read(lock)
        if other is None:
            continue  # the lock has just been removed
        if not other.gone:
            raise _Held(other)
        # Several processes may have seen that the owner of this lock is gone. Only the holder of the claim, which is a
        # lock too, may replace the lock. It reads the lock again, because an earlier claim may have ended meanwhile.
        claim = lock.with_name(f"{lock.name}.{other.token}")
        _take(claim, mine)
        try:
            if _read(lock) != other:
                continue
            new = lock.with_name(f"{lock.name}.{mine.token}.new")
            _made(new, mine)
            new.replace(lock)
        finally:
            claim.unlink(missing_ok=True)
        tell(f"{lock.parent}: taken over from {other}, which was killed")
        break
    for left in lock.parent.glob(f"{lock.name}.*"):  # left by processes that were killed while they took the lock over
        left.unlink(missing_ok=True)


def _made(lock: Path, mine: Holder) -> bool:
    """Make the lock's file; False where a file is there already."""
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as file:
        file.write((json_text.dumps(asdict(mine)) + "\n").encode())
    return True


def _read(lock: Path) -> Holder | None:
    """None where the file is not there."""
    until = time.monotonic() + _WRITTEN_S
    while True:
        try:
            content: dict[str, Any] = json_text.loads(lock.read_text(encoding="utf-8"))
            holder = Holder(**content)
            holder.check()
            return holder
        except FileNotFoundError as error:
            if lock.is_symlink():
                raise UserError(f"{lock} is a link to nothing, and no lock; remove it") from error
            return None
        except (ValueError, TypeError) as error:
            if time.monotonic() > until:
                raise UserError(
                    f"{lock} is no lock that this version writes; if no process is at work in its folder, remove it"
                ) from error
            time.sleep(0.01)


def _start(process: psutil.Process) -> tuple[float, float]:
    began = process.create_time()
    return began, began - psutil.boot_time()


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return ""


_mine: dict[Path, Holder] = {}
"""Locks that this process holds."""


def _release(lock: Path) -> None:
    mine = _mine.pop(lock, None)
    # a forked child has a copy of the parent's list, and a person may have removed the file
    if mine is not None and mine.pid == os.getpid() and _read(lock) == mine:
        lock.unlink(missing_ok=True)


def release_all() -> None:
    """Release all locks of this process, before it ends without clean-up."""
    for lock in list(_mine):
        _release(lock)


def _heed_sigterm() -> None:
    """By default SIGTERM ends a process at once. Release the locks first, unless SIGTERM has another handler."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, _: Any) -> None:
    release_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
