"""Large tables lie in a mapped file, which goes with its process, however the process ends."""

import os
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from honest_persona.base import scratch, spool
from honest_persona.base.errors import UserError
from honest_persona.base.spool import Spool


def spooled(in_memory_bytes, pieces):
    with Spool(in_memory_bytes) as made:
        for n in range(pieces):
            made.write(bytes(range(10 * n, 10 * n + 10)))
    return made


@pytest.fixture(autouse=True)
def own_room(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    scratch._folder_of.cache_clear()
    yield
    scratch._folder_of.cache_clear()


@pytest.mark.parametrize(("in_memory_bytes", "pieces", "in_file"), [(20, 2, False), (20, 3, True), (0, 1, True)])
def test_what_was_written(in_memory_bytes, pieces, in_file):
    made = spooled(in_memory_bytes, pieces)
    assert (made.path is not None) == in_file
    assert made.size_bytes == 10 * pieces
    assert made.view()[:] == bytes(range(10 * pieces))
    assert made.view() is made.view()
    assert not in_file or not made.path.exists(), "the disk is free again when the view is gone"


def test_nothing_written():
    assert spooled(0, 0).view() == b""


def test_a_file_takes_no_memory_of_its_own():
    tracemalloc.start()
    try:
        with Spool(10_000) as made:
            for _ in range(5000):
                made.write(bytes(1000))
        assert made.view()[4_999_000:] == bytes(1000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_an_error_leaves_no_file():
    made = Spool(0)
    with suppress(RuntimeError), made:
        made.write(b"1")
        assert made.path.exists()
        raise RuntimeError
    assert not made.path.exists()


@pytest.mark.parametrize("n_bytes", [10, 10**7])
def test_a_full_disk_is_told_with_a_remedy(monkeypatch, n_bytes):
    file = scratch.scratch_folder() / "full"
    monkeypatch.setattr(spool, "uuid4", lambda: SimpleNamespace(hex="full"))
    monkeypatch.setattr(Path, "open", lambda _, mode, buffering: open("/dev/full", "r+b", buffering))  # noqa: SIM115
    with pytest.raises(UserError, match=r"the disk of .* is full: .*TMPDIR"), Spool(0) as made:
        made.write(bytes(n_bytes))
    assert not file.exists()


_OWNER = """
import os, signal, sys
from honest_persona.base.scratch import scratch_folder
folder = scratch_folder()
if os.fork() == 0:
    sys.exit()  # a forked process leaves the folder of its parent
os.wait()
print(folder, flush=True)
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
