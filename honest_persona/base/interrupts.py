"""Ctrl-C (SIGINT): prints one line that says what is kept, and gives exit code 130. A second Ctrl-C ends at once.

    with if_interrupted("the reviews so far are in out.jsonl"):
        ...

`entry.run_entry` prints the line. A training saves first (training/callbacks.py).
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from honest_persona.base.locks import release_all

EXIT_CODE = 128 + signal.SIGINT


@contextmanager
def if_interrupted(told: str | Callable[[], str]) -> Iterator[None]:
    """An interrupt inside carries `told`: what is kept, and how to resume. Of nested calls the innermost counts."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not interrupt.args:
            interrupt.args = (told if isinstance(told, str) else told(),)
        raise


@contextmanager
def second_ends_at_once() -> Iterator[None]:
    """The first SIGINT raises KeyboardInterrupt, as usual; a second one ends the process without any clean-up."""
    if not heeds_interrupts():
        yield
        return
    before = signal.signal(signal.SIGINT, _first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def heeds_interrupts() -> bool:
    """Whether this thread may handle SIGINT, and the process was not started with SIGINT ignored (nohup, `&`)."""
    on_main_thread = threading.current_thread() is threading.main_thread()
    return on_main_thread and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def _first(number: int, frame: Any) -> None:
    signal.signal(signal.SIGINT, _second)
    raise KeyboardInterrupt


def _second(number: int, frame: Any) -> None:
    release_all()
    os._exit(EXIT_CODE)
