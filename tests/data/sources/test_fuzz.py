"""Files of every form, mutated: no traceback, read = kept + rejected, every rejection with a place and a remedy.

`pytest tests/data/sources/test_fuzz.py -m long -s` mutates 1,000 files of each form, and prints what became of them.
"""

from collections.abc import Collection
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from honest_persona.base.errors import UserError
from honest_persona.data.inventory import inventory, print_inventory
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from tests.data.sources.made import FORMS
from tests.data.sources.test_parsing import ROW
from tests.fuzz import fuzz, mutated, read_from
from tests.printed import printed

N = [pytest.param(8, id="some"), pytest.param(1000, id="1000", marks=pytest.mark.long)]
OWN = {
    "messages": [{"role": "user", "content": "Is it schön?"}, {"role": "assistant", "content": "Yes, “好”."}],
    "is_bad": True,
    "explanation": "I had not checked it.",
    "score": 0.5,
}
RECORD = {name: value for name, value in ROW.items() if name != "item_id" and value is not None}
PUT_IN = [b"\xff", b"\0", b'"', b"\n", b"\r", b",", b"{", b"]", b"\\ud800", b"\xf6", b"9" * 400, b"[" * 100_000]
ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp1252", "latin-1", "gbk"]
PRINTED: set[frozenset[str]] = set()


def rows_of(sound, start=0):
    return [sound | {"id": f"r{n}"} for n in range(start, start + 3)]


@st.composite
def damaged(draw, raw: bytes) -> bytes:
    """A file's bytes flipped, cut, doubled, put in, or its text in another encoding."""
    how = draw(st.sampled_from(["flip", "flip", "cut", "double", "put in", "put in", "encode", "ends", "empty"]))
    a, b = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
    if how == "flip":
        content = bytearray(raw)
        for place in draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
            content[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(content)
    if how == "encode":
        encoding, text = draw(st.sampled_from(ENCODINGS)), raw.decode("utf-8", "ignore")
        return text.encode(encoding, "replace")
    return {
        "cut": raw[:a] + raw[b:],
        "double": raw[:b] + raw[a:],
        "put in": raw[:a] + draw(st.sampled_from(PUT_IN)) + raw[a:],
        "ends": raw.replace(b"\r\n", b"\n").replace(b"\n", draw(st.sampled_from([b"\r", b"\r\n", b"\n\n"]))),
        "empty": b"",
    }[how]


def checked(path: Path, read: int | None = None, intact: Collection[str] = ()) -> list[str]:
    """Loads a file or a folder, and checks all that is promised; tells what became of the rows."""
    try:
        loaded = load_records(str(path), Selection())
    except UserError as error:
        message = str(error)
        message.encode()
        assert str(path) in message
        assert "\n" not in message
        return ["refused"]
    found = frozenset({*loaded.rejected, *loaded.ignored})
    if found not in PRINTED:  # printing takes longer than reading
        PRINTED.add(found)
        printed(print_inventory, inventory(loaded)).encode()
    assert not any("\udc80" <= c <= "\udcff" for record in loaded.records for c in record.model_dump_json())
    return read_from(loaded, path, read, set(intact))


@pytest.mark.parametrize("n", N)
@pytest.mark.parametrize("name", FORMS)
def test_damaged_files(name, n, tmp_path):
    """Each beside a sound file of its kind, whose rows are read."""
    numbers = count()
    for sound in (OWN, RECORD):
        FORMS[name](tmp_path / name, rows_of(sound))
        raw = (tmp_path / name).read_bytes()

        def check(content, raw=raw):
            folder = tmp_path / f"{next(numbers)}"
            folder.mkdir()
            (folder / name).write_bytes(content)
            alone = checked(folder / name)
            (folder / f"sound_{name}").write_bytes(raw)
            beside = checked(folder, intact={"r0", "r1", "r2"})
            for path in folder.iterdir():
                path.unlink()
            return [*alone, *(["refused"] if beside == ["refused"] else [])]

        counts = fuzz(n, damaged(raw), check)
        if n > 100:  # few examples may all be harmless
            assert counts["rejected"] + counts["refused"] > n / 4
            assert counts["kept"] > n / 4 or "parquet" in name or "arrow" in name or name.endswith(("gz", "zst"))


@pytest.mark.parametrize("n", N)
@pytest.mark.parametrize("name", FORMS)
def test_mutated_rows(name, n, tmp_path):
    """A row with other types, columns dropped, added and renamed, nesting, huge numbers and surrogates, between others.

    Tables of Arrow hold one type a column: there all rows are mutated alike.
    """
    numbers = count()
    is_arrow = name.endswith(("parquet", "arrow"))
    for sound in (OWN, RECORD):

        def check(row, sound=sound):
            path = tmp_path / f"{next(numbers)}_{name}"
            first, _, last = rows_of(sound)
            rows = [row] if is_arrow else [first, row, last]
            if name.endswith(("csv", "tsv", "csv.gz")):
                columns = dict.fromkeys(column for row in rows for column in row)
                rows = [{column: row.get(column, "") for column in columns} for row in rows]
            try:
                FORMS[name](path, rows)
            except (pa.ArrowException, ValueError, TypeError, OverflowError, AttributeError):
                return ["cannot be written"]
            # a bad name of a column that all rows share rejects them all
            shares_names = is_arrow or name.startswith(("pandas", "split", "columns"))
            told = checked(path, len(rows), set() if shares_names else {"r0", "r2"})
            path.unlink()
            return told

        counts = fuzz(n, mutated(sound | {"id": "m"}), check)
        if n > 100:  # few examples may all be harmless
            assert counts["rejected"] > n / 10
