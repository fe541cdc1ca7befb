"""Renders templates in a process of their own, within limits, because templates are programs of strangers.

    text = render(template, variables)              # a chat template, as transformers renders it
    texts = render_texts(template, [variables])     # a template of texts, as jinja renders it; strict
    names = names_in(template)                      # what such a template reads

jinja's sandbox keeps a template from files and from Python's inner parts, but not from endless loops or from texts of
gigabytes. Such a template ends the child process (render_child.py) and not this one; the next rendering starts a new
child. A child lives as long as this process, and rendering in the child takes no longer than here.
"""

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.console import one_line
from honest_persona.prompts.render_child import CPU_S, MEMORY_BYTES

_CHILD = Path(__file__).with_name("render_child.py")


class Refused(ValueError):
    """The template cannot show these messages; carries the template's reason."""


class Exceeded(ValueError):
    """The template does not end, or takes too much memory; carries the limit that it exceeded."""


class _Child:
    def __init__(self) -> None:
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            # -P: modules of this folder must not hide modules of the standard library
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, line: bytes) -> bytes:
        """The line that the child answers; empty where the child has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except BrokenPipeError:
            return b""
        return self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


_lock = Lock()
_child: _Child | None = None
_cut_off: dict[str, str] = {}
"""Templates, each with the limit that it exceeded: a template is cut off once, not once for every conversation."""


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The template's text.

    Args:
        variables: JSON types; values of other types appear as `str` of them.

    Raises:
        Refused: the template, or jinja, does not accept these variables.
        Exceeded: the rendering takes more than `CPU_S` seconds or `MEMORY_BYTES`, or its text is too long.
    """
    return _answered(template, {"variables": variables})["text"]


def render_texts(template: str, each: Sequence[Mapping[str, Any]]) -> list[str | Refused]:
    """The text of a template for each of the variables, without the ways of chat templates: lines that hold a block
    alone stay. An unknown name is refused, and so is null as a value to write.

    Raises:
        Exceeded: as `render`, where all of them together exceed a limit.
    """
    found = _answered(template, {"each": each})["each"]
    return [Refused(one_line(one["refused"])) if "refused" in one else one["text"] for one in found]


def names_in(template: str) -> list[str]:
    """The names that a template of texts reads, sorted; without those that it sets itself, or that jinja brings.

    Raises:
        Refused: it is no jinja template.
        Exceeded: looking at it takes too much.
    """
    return _answered(template, {"names": True})["names"]


def _answered(template: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    global _child
    if template in _cut_off:
        raise Exceeded(_cut_off[template])
    line = json_text.dumps({"template": template, **asked}, default=str).encode() + b"\n"
    with _lock:
        if _child is None or _child.owner != os.getpid():  # a forked process must not use its parent's child
            _child = _Child()
        said = _child.ask(line)
        timed_out = not said and _child.process.wait() == -signal.SIGPROF
        if not said:
            _end()
    limits = {"exceeded": f"{CPU_S:g} s of processor time, or {MEMORY_BYTES >> 20} MiB"}
    answer = json_text.loads(said) if said else limits
    if "refused" in answer:
        raise Refused(one_line(answer["refused"]))
    if "exceeded" in answer:
        if said or timed_out:  # and not killed by someone else
            _cut_off[template] = answer["exceeded"]
            _end()  # the next template's time is its own
        raise Exceeded(answer["exceeded"])
    return answer


@atexit.register
def _end() -> None:
    global _child
    if _child is not None and _child.owner == os.getpid():
        _child.end()
    _child = None
