"""Progress of long work on standard error: share done, speed, time left.

    with Progress("reviews", total=640, unit="records") as progress:
        for batch in batches:
            ...
            progress.advance(len(batch))

    for path in followed(paths, "reading", "files"): ...
    for fold in rounds(folds, "fold", name=str): ...

A terminal shows a bar, and all other output appears above the bar. Elsewhere a plain line is printed now and then, the
first after half a minute. The entry points show progress, on the first rank. A library call shows none, unless
`show_progress()` was called before, or HONEST_PERSONA_PROGRESS is 1. With HONEST_PERSONA_PROGRESS=0 the entry points
show none either.
"""

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm
from tqdm.utils import ObjectWrapper, _term_move_up

from honest_persona.base.console import tell

T = TypeVar("T")

VARIABLE = "HONEST_PERSONA_PROGRESS"
_SHORT_S = 1.0
"""The bar of shorter work leaves nothing behind."""
_LINE_EVERY_S = 30.0
_LINE_EVERY_FRAC = 0.1
"""A share of the time passed: near the end of a day's work a line comes every two hours, not every half minute."""


def show_progress(shown: bool = True) -> None:
    """Show progress from now on, or hide it, also in the processes that this one starts."""
    os.environ[VARIABLE] = str(int(shown))


def begin_command() -> None:
    """Show progress, unless VARIABLE is 0; libraries show bars only where we do. Call this before importing them."""
    os.environ.setdefault(VARIABLE, "1")
    if not (shows_progress() and shows_bars()):
        for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")


def shows_progress() -> bool:
    """Whether this process shows progress."""
    return os.environ.get(VARIABLE, "0") != "0" and os.environ.get("RANK", "0") == "0" and sys.stderr is not None


def shows_bars() -> bool:
    """Whether there is a terminal for bars. With a pipe on standard output the pipe's reader may use the terminal."""
    return sys.stderr is not None and sys.stderr.isatty() and not _writes_to_pipe()


def _writes_to_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:  # closed
        return False


def clock(seconds: float) -> str:
    """A duration as 01:23 or 2:01:23."""
    return tqdm.format_interval(seconds)


class Progress:
    """Counts finished units inside its context. A second, nested context shows a second bar and removes it at its end.

    Args:
        what: names the work.
        total: how many units there are.
        unit: the name of a unit, in the plural.
        done: units that were done before; they do not count for the rate.
        delay_s: the bar appears after this time.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0, delay_s: float = 0.0) -> None:
        self.what, self.total, self.unit, self.done, self.done_before = what, total, unit, done, done
        self.delay_s = delay_s
        self._shown = self._has_lines = False
        self._bar: _Bar | None = None

    def __enter__(self) -> "Progress":
        self._shown = shows_progress()
        self._start_s = self._line_s = time.monotonic()
        if self._shown:
            _open.append(self)
            if shows_bars():
                self._bar = _Bar(self)
                _write_above_bars()
        return self

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
        elif self._shown and self.done < self.total:
            now = time.monotonic()
            if now - self._line_s >= max(_LINE_EVERY_S, _LINE_EVERY_FRAC * (now - self._start_s)):
                self._write_line(now)

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if not self._shown:
            return
        _open.remove(self)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.leave = not _open and now - self._start_s >= _SHORT_S
            self._bar.delay = 0  # output may have shown the bar earlier
            self._bar.close()
        elif self._has_lines and kind is None:
            self._write_line(now)
        if not _open:
            _write_as_before()

    def state(self, elapsed_s: float, rate: float | None = None) -> str:
        """A text such as `412/960 records, 11.6/s, 00:47 left`; without `rate` the mean rate is shown."""
        parts = [f"{self.done:,}/{self.total:,} {self.unit}"]
        if rate := rate or ((self.done - self.done_before) / elapsed_s if elapsed_s > 0 else 0):
            parts.append(f"{rate:,.{int(rate < 100)}f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
            left = f"{clock((self.total - self.done) / rate)} left"
            parts.append(left if self.done < self.total else f"in {clock(elapsed_s)}")
        return ", ".join(parts)

    def _write_line(self, now: float) -> None:
        self._line_s, self._has_lines = now, True
        share = self.done / self.total if self.total else 1.0
        tell(f"{self.what}: {share:.0%}, {self.state(now - self._start_s)}")

    def _leave_out(self, seconds: float) -> None:
        self._start_s += seconds
        if self._bar is not None:
            self._bar.start_t += seconds
            self._bar.last_print_t += seconds


def followed(items: Sequence[T], what: str, unit: str) -> Iterator[T]:
    """The items one by one, with their progress."""
    with Progress(what, len(items), unit, delay_s=_SHORT_S) as progress:
        for item in items:
            yield item
            progress.advance()


@contextmanager
def paused() -> Iterator[None]:
    """The time inside does not count for the progress outside."""
    start_s = time.monotonic()
    yield
    for progress in _open:
        progress._leave_out(time.monotonic() - start_s)


def rounds(
    items: Sequence[T], what: str, name: Callable[[T], str], is_done: Callable[[T], bool] = lambda _: False
) -> Iterator[T]:
    """The items one by one. Before each a line gives its name, and the time left, estimated from earlier rounds.

    Args:
        what: the name of an item, in the singular.
        is_done: whether there is nothing to do for an item; such an item gets no line.
    """
    times: list[float] = []
    for number, item in enumerate(items, start=1):
        if not shows_progress() or is_done(item):
            yield item
            continue
        to_do = 1 + sum(not is_done(other) for other in items[number:])
        left = f", about {clock(to_do * sum(times) / len(times))} left" if times else ""
        tell(f"{what} {number} of {len(items)}: {name(item)}{left}")
        start_s = time.monotonic()
        yield item
        times.append(time.monotonic() - start_s)


_open: list[Progress] = []
"""Progress contexts that are open now, the outermost first."""


_NAME_CELLS, _BAR_CELLS = 14, 20
"""The widths of names and bars that stand below each other."""


class _Bar(tqdm):
    monitor_interval = 0  # starts no thread; tqdm's thread serves bars that skip updates

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        super().__init__(
            desc=progress.what,
            total=progress.total,
            initial=progress.done_before,
            file=getattr(sys.stderr, "_wrapped", sys.stderr),
            dynamic_ncols=True,
            miniters=1,
            delay=progress.delay_s,
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        values = super().format_dict
        state = self.progress.state(values["elapsed"], values["rate"])
        room = (values["ncols"] or 80) - max(len(self.progress.what), _NAME_CELLS) - len(" 100%   ") - len(state)
        form = f"{{desc:<{_NAME_CELLS}}} {{percentage:3.0f}}% {{bar:{min(max(room, 1), _BAR_CELLS)}}} {{state}}"
        return {**values, "bar_format": form, "state": state}


class _AboveBars(ObjectWrapper):
    """A stream that writes its lines above the bars. A line without an end waits for its end."""

    def __init__(self, stream: Any, is_error: bool) -> None:
        super().__init__(stream)
        self.wrapper_setattr("begun", "")
        self.wrapper_setattr("is_error", is_error)

    def write(self, text: str) -> int:
        if "\r" in text or _term_move_up() in text or (self.is_error and not self.begun and not text.strip("\n")):
            return self._wrapped.write(text)  # the bar of a library, on the way to its line
        lines, end, rest = (self.begun + text).rpartition("\n")
        self.wrapper_setattr("begun", rest)
        if end:
            with tqdm.external_write_mode(file=self._wrapped):
                self._wrapped.write(lines + end)
                self._wrapped.flush()
        return len(text)

    def __eq__(self, other: object) -> bool:  # tqdm compares the streams of its bars with sys.stdout and sys.stderr
        return self._wrapped is getattr(other, "_wrapped", other)

    __hash__ = object.__hash__


def _write_above_bars() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _AboveBars):
            setattr(sys, name, _AboveBars(stream, is_error=name == "stderr"))


def _write_as_before() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, _AboveBars):
            setattr(sys, name, stream._wrapped)
            stream._wrapped.write(stream.begun)
