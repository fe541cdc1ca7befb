"""Bytes written piece by piece and read at random: in memory, and in a mapped file once they are many.

    with Spool() as spool:
        spool.write(data)
    spool.view()[10:20]

A mapped file takes no memory of its own: the system reads its pages when they are needed, drops them when memory is
short, and shows all processes of the machine the same pages.
"""

import errno
import io
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from uuid import uuid4

from honest_persona.base.errors import UserError
from honest_persona.base.scratch import scratch_folder

IN_MEMORY_BYTES = 2**26
_BUFFER_BYTES = 2**20


class Spool(io.RawIOBase):
    """Args:
    in_memory_bytes: more bytes lie in a file of the process's scratch folder.
    """

    def __init__(self, in_memory_bytes: int = IN_MEMORY_BYTES) -> None:
        self.path: Path | None = None
        """None while all is in memory."""
        self.size_bytes = 0
        self._limit = in_memory_bytes
        self._file: IO[bytes] = io.BytesIO()
        self._view: Any = None

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            with self._told():
                self._file.flush()
        elif self.path is not None:
            with suppress(OSError):  # a full disk again
                self._file.close()
            self.path.unlink(missing_ok=True)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Raises UserError: the disk is full."""
        with self._told():
            if self.path is None and self.size_bytes + len(data) > self._limit:
                self._move_to_file()
            self._file.write(data)
        self.size_bytes += len(data)
        return len(data)

    def view(self) -> "bytes | mmap.mmap":
        """All that was written, after the `with` block. The file has no name from now on."""
        if self._view is None:
            if isinstance(self._file, io.BytesIO):
                self._view = self._file.getvalue()
            else:
                assert self.path is not None
                self._view = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
                self.path.unlink()  # the disk is free again when nobody reads the view any more
            self._file.close()
        return self._view

    def _move_to_file(self) -> None:
        assert isinstance(self._file, io.BytesIO)
        self.path = scratch_folder() / uuid4().hex
        file = self.path.open("x+b", buffering=_BUFFER_BYTES)
        file.write(self._file.getbuffer())
        self._file = file

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"the disk of {tempfile.gettempdir()} is full: large data lie there while a command uses them. Make "
                "room, or set the variable TMPDIR to a folder on a larger disk"
            ) from error
