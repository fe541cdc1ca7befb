"""Text files of rows: opened, unpacked and decoded; bytes that no text has are marked, so that no row is misread.

UTF-8 and UTF-16 are read, with and without a byte-order mark. Where bytes do not belong to the file's encoding, the
text holds lone surrogates in their place: `encoding_problem` says what is wrong there.
"""

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from honest_persona.base.progress import Progress

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_HEAD_BYTES = 2**20
_MB = 10**6
_EVERY_LINES = 1000
_MARK = "honest_persona.mark"
_DAMAGE = "\ud800"
"""Stands for bytes that are no UTF-16; bytes that are no UTF-8 become \\udc80 to \\udcff."""
_SURROGATES = re.compile("[\ud800-\udfff]")
_ISOLATED = 1.5
"""In texts of Western languages letters beyond ASCII seldom stand side by side: the mean length of their runs."""

codecs.register_error(_MARK, lambda error: (_DAMAGE, cast(UnicodeDecodeError, error).end))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where its ending says that it is compressed. Raises OSError."""
    compression = COMPRESSED.get(path.suffix.lower())
    with path.open("rb") as file:
        if compression is None:
            yield file
            return
        import pyarrow as pa  # takes a moment, and most files are not compressed

        with pa.CompressedInputStream(pa.PythonFile(file, "r"), compression) as stream:
            yield io.BufferedReader(stream)


@contextmanager
def opened_text(path: Path, newline: str = "\n") -> Iterator[TextIO]:
    """A text file, with `newline` as in `open`; without its byte-order mark. Raises OSError."""
    with opened(path) as file:
        head = file.read(_HEAD_BYTES)
        encoding = encoding_of(head)
    if newline == "\n" and "\n" not in (start := head.decode(encoding, "replace")) and "\r" in start:
        newline = "\r"  # as old Macs end lines
    with opened(path) as file:
        errors = "surrogateescape" if encoding == "utf-8-sig" else _MARK
        with io.TextIOWrapper(file, encoding, errors, newline) as text:
            yield text


def text_lines(path: Path, newline: str = "\n") -> Iterator[str]:
    """The lines with their ends, one by one; progress is shown for a long file. Raises OSError."""
    total = path.stat().st_size // _MB
    with opened_text(path, newline) as text, Progress("reading", total, "MB", delay_s=1.0) as progress:
        for number, line in enumerate(text):
            yield line.removeprefix("\ufeff")  # files put together with cat have one inside
            if number % _EVERY_LINES == 0 and path.suffix.lower() not in COMPRESSED:
                progress.advance(max(0, min(text.buffer.tell() // _MB, total) - progress.done))


class TooLarge(Exception):
    """A text has more characters than its reader takes."""


def whole_text(path: Path, most_chars: int | None = None) -> str:
    """The text of a file; no more than `most_chars` and one are ever unpacked. Raises OSError, TooLarge."""
    with opened_text(path, newline="") as text:
        if most_chars is None:
            return text.read()
        found = text.read(most_chars + 1)
    if len(found) > most_chars:
        raise TooLarge
    return found


def encoding_of(head: bytes) -> str:
    """By the byte-order mark; without one, by the zero byte beside the first character, which rows have in ASCII."""
    for mark, encoding in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")):
        if head.startswith(mark):
            return encoding
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    first, second = (*head[:2], 1, 1)[:2]
    if bool(first) != bool(second) and head[:2].strip(b"\0") and len(head) > 1:
        return "utf-16-le" if first else "utf-16-be"
    return "utf-8-sig"


def first_damage(text: str) -> int:
    """Where bytes do not belong to the file's encoding; -1 where there are none."""
    found = None if text.isascii() else _SURROGATES.search(text)
    return found.start() if found else -1


def encoding_problem(text: str) -> str | None:
    """The reason to reject a text as it was read from a file; None where all its bytes belong to the encoding."""
    if first_damage(text) < 0:
        return None
    return "damaged_text:UTF-16" if _DAMAGE in text else seeming_encoding(text.encode("utf-8", "surrogateescape"))


def seeming_encoding(raw: bytes) -> str:
    """The reason to reject bytes that are not UTF-8."""
    if not raw.decode("utf-8", "ignore").isascii():
        return "damaged_text:UTF-8"  # other characters are right
    runs = re.findall(rb"[\x80-\xff]+", raw)
    if not runs or sum(map(len, runs)) / len(runs) > _ISOLATED:
        return "unknown_encoding"
    return "not_utf8:iso-8859-1" if re.search(rb"[\x81\x8d\x8f\x90\x9d]", raw) else "not_utf8:cp1252"
