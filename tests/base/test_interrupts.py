"""Ctrl-C: one line that says what is kept, exit code 130, and no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from honest_persona.base.interrupts import if_interrupted, second_ends_at_once
from honest_persona.entry import run_entry


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["honest_persona"])


def interrupt(_=None):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


def test_an_interrupt_is_one_line(capsys):
    before = signal.getsignal(signal.SIGINT)
    assert run_entry(interrupt) == 130
    assert capsys.readouterr().err == "\ninterrupted: nothing was written\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_the_innermost_says_what_is_kept(capsys):
    def main(_):
        with if_interrupted("outer"), if_interrupted(lambda: "checkpoint-7 stays"):
            interrupt()

    assert run_entry(main) == 130
    assert capsys.readouterr().err == "\ninterrupted: checkpoint-7 stays\n"


def test_a_second_one_ends_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr("os._exit", ended.append)
    with second_ends_at_once():
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        os.kill(os.getpid(), signal.SIGINT)
    assert ended == [130]


def test_of_many_ranks_the_first_one_tells(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run_entry(interrupt) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_while_modules_are_imported(root):
    """A moment at which most of a program's start is spent."""
    words = [sys.executable, "-m", "honest_persona", "tokens", "--config", "hp.yaml", "--json"]
    running = subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "libtorch" not in Path(f"/proc/{running.pid}/maps").read_text():
        assert running.poll() is None, "it ended without torch"
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err == "\ninterrupted: nothing was written\n"
