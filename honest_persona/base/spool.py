"""Arrow tables written piece by piece and read as one: in memory, and in a mapped file once they are large.

    with Spool(schema) as spool:
        spool.add(table)
    table = spool.table()

A mapped file takes no memory of its own: the system reads its pages when they are needed, drops them when memory is
short, and shows all processes of the machine the same pages.
"""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import pyarrow as pa

from honest_persona.base.errors import UserError
from honest_persona.base.scratch import scratch_folder

IN_MEMORY_BYTES = 2**26
_BUFFER_BYTES = 2**22


class Spool:
    """Args:
    in_memory_bytes: larger tables lie in a file of the process's scratch folder.
    """

    def __init__(self, schema: pa.Schema, in_memory_bytes: int = IN_MEMORY_BYTES) -> None:
        self.schema = schema
        self.path: Path | None = None
        """The file, a stream of Arrow's; None while all is in memory."""
        self._held: list[pa.Table] = []
        self._held_bytes, self._limit = 0, in_memory_bytes
        self._open = ExitStack()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self.path is None:
            return
        whole = False
        try:
            with _told() if kind is None else suppress(OSError):
                if kind is None:
                    self._flush()
                self._open.close()
                whole = kind is None
        finally:
            if not whole:
                self.path.unlink(missing_ok=True)

    def add(self, table: pa.Table) -> None:
        """Raises UserError: the disk is full."""
        self._held.append(table)
        self._held_bytes += table.nbytes
        if self._held_bytes > self._limit:
            with _told():
                self._flush()

    def table(self) -> pa.Table:
        """All that was added, after the `with` block."""
        if self.path is None:
            return pa.concat_tables([self.schema.empty_table(), *self._held])
        return pa.ipc.open_stream(pa.memory_map(str(self.path))).read_all()

    def _flush(self) -> None:
        """Moves what is in memory into the file."""
        if self.path is None:
            self.path = scratch_folder() / f"{uuid4().hex}.arrow"
            self._writer = self._open.enter_context(pa.ipc.new_stream(str(self.path), self.schema))
        for table in self._held:
            self._writer.write_table(table)
        self._held, self._held_bytes, self._limit = [], 0, _BUFFER_BYTES


@contextmanager
def _told() -> Iterator[None]:
    """Raises UserError: the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk of {tempfile.gettempdir()} is full: large data lie there while a command uses them. Make room, "
            "or set the variable TMPDIR to a folder on a larger disk"
        ) from error
