"""Progress in a terminal, in a file, on other ranks and in a library call; what is printed meanwhile."""

import os
import sys

import pytest
from tqdm import tqdm

import honest_persona
from honest_persona.base import progress
from honest_persona.base.progress import Progress, begin_command, followed, paused, rounds


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so, in bars too."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "1")
    monkeypatch.delenv("RANK", raising=False)


def test_a_bar_says_count_rate_and_time_left(terminal, clock):
    with terminal, Progress("reviews", 1200, "records") as bar:
        assert terminal.screen == f"reviews          0% {' ' * 20} 0/1,200 records"
        clock(10)
        bar.advance(300)
        assert terminal.screen == f"reviews         25% {'█' * 5}{' ' * 15} 300/1,200 records, 30.0/s, 00:30 left"
        clock(30)
        bar.advance(900)
    assert terminal.screen == f"reviews        100% {'█' * 20} 1,200/1,200 records, 30.0/s, in 00:40\n"
    assert terminal.stdout.getvalue() == ""


def test_what_is_printed_stands_above_the_bars(terminal, clock):
    with terminal, Progress("training", 4, "steps") as outer:
        clock(2)
        outer.advance()
        print("step 1: loss 0.7")
        with paused(), Progress("heavy log at step 1", 10, "records") as inner:
            clock(50)
            inner.advance(5)
            print("half a line, ", end="")
            print("and its end", file=sys.stdout)
            print("a warning", file=sys.stderr)
            lines = terminal.screen.splitlines()
            assert [line.split()[0] for line in lines[-2:]] == ["training", "heavy"]
            for _ in tqdm(range(3), desc="of a library", leave=False):
                clock(1)
            print("\na table\nof two lines", flush=True)
        clock(6)
        outer.advance(3)
    *above, last = terminal.screen.splitlines()
    assert above == ["step 1: loss 0.7", "half a line, and its end", "a warning", "", "a table", "of two lines"]
    assert last == f"training       100% {'█' * 20} 4/4 steps, 2.0 s each, in 00:08", "without the heavy log's time"
    assert terminal.stdout.getvalue().count("\r") == 0


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_bar_never_wraps(terminal, monkeypatch, columns, clock):
    monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    with terminal, Progress("heavy log at step 123456", 1_000_000, "conversations") as bar:
        for _ in range(5):
            clock(3)
            bar.advance(199_999)
            assert len(terminal.lines[0].rstrip()) < columns


def test_short_work_leaves_nothing(terminal, clock):
    with terminal:
        assert list(followed("abc", "reading", "files")) == ["a", "b", "c"]
    assert terminal.screen == ""
    with terminal, Progress("reviews", 1, "records") as bar:
        bar.advance()
    assert terminal.screen == ""


def test_an_error_leaves_the_bar_where_it_was(terminal, clock):
    def work():
        with Progress("reviews", 4, "records") as bar:
            clock(2)
            bar.advance()
            raise KeyError

    with terminal, pytest.raises(KeyError):
        work()
    assert terminal.screen.startswith("reviews         25%")
    assert terminal.screen.endswith("\n")


def test_a_file_gets_plain_lines_now_and_then(shown, capsys, clock):
    with Progress("reviews", 100, "records", done=20) as bar:
        for _ in range(80):
            clock(10)
            bar.advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    lines = err.splitlines()
    assert lines[0] == "reviews: 23%, 23/100 records, 10.0 s each, 12:50 left"
    assert lines[-1] == "reviews: 100%, 100/100 records, 10.0 s each, in 13:20"
    assert len(lines) < 20, "fewer and fewer: 27 would be one each half minute"
    with Progress("reviews", 100, "records") as bar:
        clock(29)
        bar.advance(100)
    assert capsys.readouterr().err == "", "nothing for short work"


def test_other_ranks_and_library_calls_are_silent(terminal, monkeypatch, clock):
    def work():
        with terminal:
            for _ in followed(range(3), "reading", "files"):
                clock(100)
            list(rounds("ab", "fold", str))

    monkeypatch.setenv("RANK", "1")
    work()
    monkeypatch.delenv("RANK")
    monkeypatch.delenv(progress.VARIABLE)
    work()
    assert terminal.screen == ""
    honest_persona.show_progress()
    work()
    assert terminal.screen != ""
    honest_persona.show_progress(False)
    with monkeypatch.context() as patch:
        patch.setattr(terminal.stderr, "write", None)
        work()


def test_no_bar_where_a_pipes_reader_may_write_to_the_terminal(terminal, monkeypatch, clock):
    monkeypatch.setattr(progress, "_writes_to_pipe", lambda: True)
    with terminal:
        for _ in followed(range(2), "reading", "files"):
            clock(40)
    assert terminal.stderr.getvalue().startswith("reading: 50%, 1/2 files, 40.0 s each, 00:40 left\n")


def test_rounds_tell_which_of_how_many_and_how_long_still(shown, capsys, clock):
    seen = []
    for fold in rounds(["a", "b", "c", "d"], "fold", str, is_done=lambda name: name == "b"):
        seen.append(fold)
        clock(0 if fold == "b" else 60)
    assert seen == ["a", "b", "c", "d"]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "fold 1 of 4: a",
        "fold 3 of 4: c, about 02:00 left",
        "fold 4 of 4: d, about 01:00 left",
    ]


def test_a_command_shows_it_unless_it_is_told_not_to(monkeypatch, capsys):
    libraries = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
    for name in (progress.VARIABLE, "RANK", *libraries):
        monkeypatch.delenv(name, raising=False)
    begin_command()
    assert progress.shows_progress()
    assert [progress.os.environ[name] for name in libraries] == ["1", "1"], "no carriage returns in a file"
    monkeypatch.setenv(progress.VARIABLE, "0")
    begin_command()
    assert not progress.shows_progress()
