"""One owner at a time: refused while it is at work, taken over when it is gone, and never two of them."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from honest_persona.base import locks
from honest_persona.base.errors import UserError
from honest_persona.base.locks import LOCK_FILE, Holder, held, held_file

HOLD = """
import sys, time
from pathlib import Path
from honest_persona.base.locks import held
with held(Path(sys.argv[1]), "a training", "choose another --run_name"):
    print("held", flush=True)
    sys.stdin.read()
"""
"""A process that holds a folder until it is told to end; it imports no torch."""


def holding(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def take(folder: Path, **more) -> None:
    with held(folder, "eval.py", "choose another --output", **more):
        assert (folder / LOCK_FILE).exists()


def left_by(folder: Path, **changes) -> Path:
    """A lock in the folder, as a process with these changes would have it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK_FILE
    lock.write_text(json.dumps(asdict(replace(Holder.here("a training"), **{"token": "old", **changes}))))
    return lock


def test_one_at_a_time_and_whoever_is_killed_holds_nothing(tmp_path, capfd):
    folder = tmp_path / "run"
    process = holding(folder)
    with pytest.raises(UserError) as refused:
        take(folder)
    told = str(refused.value)
    assert f"{folder} is in use by a training (process {process.pid} on " in told
    assert told.endswith("wait for its end, or choose another --output")
    assert LOCK_FILE not in told, "it is not to be removed: the process is there"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie has ended
    take(folder)
    assert f"taken over from a training (process {process.pid} on " in capfd.readouterr().err
    process.communicate()
    assert not any(folder.iterdir())


@pytest.mark.parametrize("how", ["end", "SIGTERM"])
def test_it_is_given_back(tmp_path, how, capfd):
    process = holding(tmp_path)
    if how == "end":
        process.communicate("")
        assert process.returncode == 0
    else:
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert process.returncode == -signal.SIGTERM, "it ends as it would have"
    assert not any(tmp_path.iterdir())
    take(tmp_path)
    assert capfd.readouterr().err == ""


def test_it_is_given_back_on_errors_and_waited_for(tmp_path):
    with pytest.raises(KeyboardInterrupt), held(tmp_path / "a" / "b", "x", "y"):
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir()), "the folders that were made for it are gone too"
    with held(tmp_path / "b", "x", "y"):
        (tmp_path / "b" / "result").touch()
        with pytest.raises(UserError, match=f"in use by x .process {os.getpid()} "):
            take(tmp_path / "b")
    assert (tmp_path / "b" / "result").exists()
    process = holding(tmp_path / "c")
    assert process.stdin is not None
    process.stdin.close()
    take(tmp_path / "c", wait_s=10)
    process.wait()


def test_a_process_id_that_another_process_has_now_is_no_holder(tmp_path, capfd):
    mine = Holder.here("x")
    left_by(tmp_path, began=mine.began - 100, after_boot=mine.after_boot - 100)
    take(tmp_path)
    assert "taken over from a training" in capfd.readouterr().err
    # the machine's clock was set meanwhile, or it was started anew in the same second of its life: rather too careful
    for changes in ({"began": mine.began - 100}, {"after_boot": mine.after_boot - 100}):
        lock = left_by(tmp_path, **changes)
        with pytest.raises(UserError, match="in use by a training"):
            take(tmp_path)
        lock.unlink()


@pytest.mark.parametrize("changes", [{"host": "another"}, {"namespace": "pid:[1]"}], ids=["host", "container"])
def test_of_another_host_the_file_to_remove_is_named(tmp_path, changes):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock = left_by(tmp_path, pid=dead.pid, **changes)
    with pytest.raises(UserError, match=rf"If that process is gone, remove {lock}$"):
        take(tmp_path)
    lock.unlink()
    take(tmp_path)


def test_a_lock_that_nobody_wrote_is_named_and_an_unwritable_folder_told(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_WRITTEN_S", 0.0)
    lock = tmp_path / LOCK_FILE
    for content in ("", "{}", "[1]", '{"pid": 3}'):
        lock.write_text(content)
        with pytest.raises(UserError, match=rf"{lock} is no lock .* remove it"):
            take(tmp_path)
    with pytest.raises(UserError, match="cannot be made: Not a directory"):
        take(lock / "below")
    with (
        pytest.raises(UserError, match="cannot be written to: No such file"),
        held_file(tmp_path / "a" / "b", "x", "y"),
    ):
        pass


@pytest.mark.parametrize(
    "changes",
    [{"pid": "1"}, {"pid": 10**30}, {"pid": -1}, {"pid": 1.5}, {"began": "x"}, {"token": "../x"}, {"what": [1]}],
)
def test_a_lock_with_values_that_are_none_is_named(tmp_path, monkeypatch, changes):
    monkeypatch.setattr(locks, "_WRITTEN_S", 0)
    left_by(tmp_path, **changes)
    with pytest.raises(UserError, match="is no lock that this version writes"):
        take(tmp_path)


def test_a_lock_that_is_a_link_to_nothing_is_named_and_not_waited_for(tmp_path):
    (tmp_path / LOCK_FILE).symlink_to("nowhere")
    with pytest.raises(UserError, match="is a link to nothing"):
        take(tmp_path)


def test_a_holder_is_told_in_one_line(tmp_path):
    left_by(tmp_path, host="elsewhere", what="a\nerror: none \x1b[2J")
    with pytest.raises(UserError, match=r"in use by a\\nerror: none \\x1b\[2J"):
        take(tmp_path)


def test_a_file_alone(tmp_path):
    def again(name):
        with held_file(tmp_path / name, "x", "name another --output"):
            pass

    with held_file(tmp_path / "out.jsonl", "a review", "y"):
        with pytest.raises(UserError, match=r"out.jsonl is in use by a review .* or name another --output"):
            again("out.jsonl")
        again("other.jsonl")
    assert not any(tmp_path.iterdir())


def test_who_looks_at_a_stale_lock_for_long_does_not_take_it_from_who_was_quicker(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left_by(tmp_path, pid=dead.pid)
    read, quicker = locks._read, []

    def slowly(lock: Path) -> Holder | None:
        found = read(lock)
        if not quicker:
            quicker.append(holding(tmp_path))
        return found

    monkeypatch.setattr(locks, "_read", slowly)
    with pytest.raises(UserError, match="in use by a training"):
        take(tmp_path)
    assert read(tmp_path / LOCK_FILE).pid == quicker[0].pid
    quicker[0].communicate("")
    assert not any(tmp_path.iterdir()), "no claim is left"


def racer(folder: Path, log: Path, dies: bool) -> int:
    """In a forked child: takes the folder as often as it can for a while, and writes down when it had it."""
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        try:
            with held(folder, "a racer", "wait"):
                with log.open("a") as file:
                    file.write(f"in {os.getpid()}\n")
                if dies:
                    os._exit(0)  # as kill -9: the lock stays
                time.sleep(0.001)
                with log.open("a") as file:
                    file.write(f"out {os.getpid()}\n")
        except UserError:
            pass
    os._exit(0)


def test_stale_locks_are_never_taken_over_by_two(tmp_path, capfd):
    """Processes that die with the lock, among others that fight for what they leave."""
    log = tmp_path / "log"
    children, mortal = [], set()
    for i in range(12):
        if (child := os.fork()) == 0:
            racer(tmp_path / "folder", log, dies=i % 2 == 0)
        children.append(child)
        mortal |= {child} if i % 2 == 0 else set()
    for child in children:
        os.waitpid(child, 0)
    events = [line.split() for line in log.read_text().splitlines()]
    inside = None
    n_taken_over = 0
    for what, pid in events:
        if what == "in":
            n_taken_over += inside is not None
            assert inside is None or int(inside) in mortal, "one that was at work lost it"
            inside = pid
        else:
            assert inside == pid, "another one came in before this one was out"
            inside = None
    assert n_taken_over >= 3
    assert len(events) > 20
    assert sorted(path.name for path in tmp_path.glob("folder/*")) == []
