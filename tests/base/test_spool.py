"""Large tables lie in a mapped file, which goes with its process, however the process ends."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from honest_persona.base import scratch, spool
from honest_persona.base.errors import UserError
from honest_persona.base.spool import Spool

SCHEMA = pa.schema({"n": pa.int64()})


def spooled(in_memory_bytes, tables):
    with Spool(SCHEMA, in_memory_bytes) as made:
        for n in range(tables):
            made.add(pa.table({"n": [2 * n, 2 * n + 1]}))
    return made


@pytest.fixture(autouse=True)
def own_room(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    scratch._folder_of.cache_clear()
    yield
    scratch._folder_of.cache_clear()


@pytest.mark.parametrize(("in_memory_bytes", "in_file"), [(1000, False), (40, True), (0, True)])
@pytest.mark.parametrize("tables", [1, 5])
def test_what_was_added_in_its_order(in_memory_bytes, in_file, tables):
    made = spooled(in_memory_bytes, tables)
    assert (made.path is not None) == (in_file and (tables > 1 or in_memory_bytes == 0))
    assert made.table().schema == SCHEMA
    assert made.table()["n"].to_pylist() == list(range(2 * tables))


def test_nothing_added_is_an_empty_table():
    assert spooled(0, 0).table() == SCHEMA.empty_table()


def test_a_file_takes_no_memory_of_its_own():
    before = pa.total_allocated_bytes()
    with Spool(SCHEMA, 0) as made:
        for _ in range(50):
            made.add(pa.table({"n": range(10_000)}))
    table = made.table()
    assert table.nbytes == 50 * 80_000
    assert pa.total_allocated_bytes() - before < 200_000


def test_an_error_leaves_no_file():
    made = Spool(SCHEMA, 0)
    with suppress(RuntimeError), made:
        made.add(pa.table({"n": [1]}))
        assert made.path.exists()
        raise RuntimeError
    assert not made.path.exists()


@pytest.mark.parametrize("tables", [1, 5])
def test_a_full_disk_is_told_with_a_remedy(monkeypatch, tables):
    monkeypatch.setattr(spool, "uuid4", lambda: SimpleNamespace(hex="full"))
    (scratch.scratch_folder() / "full.arrow").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"the disk of .* is full: .*TMPDIR"):
        spooled(0, tables)
    assert not (scratch.scratch_folder() / "full.arrow").is_symlink()


_OWNER = """
import os, signal, sys
from honest_persona.base.scratch import scratch_folder
print(scratch_folder(), flush=True)
assert scratch_folder() == scratch_folder()
(scratch_folder() / "data").write_text("x")
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL) if sys.argv[1] == "killed" else None
"""


def owner(how):
    """A process with a scratch folder; it ends when its standard input does."""
    command = [sys.executable, "-c", _OWNER, how]
    environment = {**os.environ, "TMPDIR": scratch.tempfile.tempdir}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    return process, Path(process.stdout.readline().strip())


def test_the_folder_goes_with_its_process_or_with_the_next_one():
    ended, its = owner("ended")
    killed, left = owner("killed")
    assert its.stat().st_mode & 0o077 == 0
    mine = scratch.scratch_folder()
    assert len({its, left, mine}) == 3
    assert its.is_dir(), "its process is alive"
    assert left.is_dir()
    for process in (ended, killed):
        process.communicate()
    assert not its.exists()
    assert (left / "data").exists()
    scratch._folder_of.cache_clear()
    assert scratch.scratch_folder() != mine
    assert not left.exists()
    assert mine.is_dir(), "held by this process"
