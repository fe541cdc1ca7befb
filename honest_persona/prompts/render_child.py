"""The process that renders templates of strangers; a template can harm this process, but not its parent.

rendering.py runs this file by its path. The file imports nothing of this package, so that the process starts at once.
One line of JSON comes in and one goes out for each of these:

    {"template", "variables"}                       a chat template, as transformers renders it
    {"template", "each": [variables, ...]}          a template of texts, as jinja renders it, strict; many at a time
    {"template", "names": true}                     the names that such a template reads

What goes out is `{"text"}`, `{"each"}` with an answer for each, `{"names"}`, `{"refused"}` or `{"exceeded"}`. A
template that takes more than its seconds of processor time ends the process by a signal. A rendering depends on its
variables alone: random numbers in a template are the same each time.
"""

import json
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S = 1.0
"""Processor time of one rendering, or of many that are asked for together; chat templates take some milliseconds."""
MEAN_CPU_S = 0.02
"""The mean processor time allowed over many renderings, on top of twice `CPU_S`: long conversations take hundreds."""
MEMORY_BYTES = 512 * 2**20
TEXT_CHARS = 4 * 2**20


class _Generation(jinja2.ext.Extension):
    """The tag `{% generation %}` around an assistant's text: the text is shown as it is."""

    tags = {"generation"}  # noqa: RUF012, as jinja declares it

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace has no {name!r}")
        super().__setitem__(name, value)


class _Dict:
    """Stands in for the class `dict`, which offers more than templates need."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _shown(value: Any) -> Any:
    """Null is no text; jinja would write None."""
    if value is None:
        raise jinja2.TemplateError("a value that it writes is null")
    return value


_PLAIN = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, finalize=_shown)
_PLAIN.globals |= {"raise_exception": _refuse, "dict": _Dict(), "namespace": _Namespace}


@lru_cache(maxsize=256)
def _compiled_plain(template: str) -> jinja2.Template:
    return _PLAIN.from_string(template)


def _names(template: str) -> list[str]:
    """The names that a template reads and does not set itself; not those that jinja brings."""
    return sorted(jinja2.meta.find_undeclared_variables(_PLAIN.parse(template)) - _PLAIN.globals.keys())


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    """The template, compiled as in transformers (transformers/utils/chat_template_utils.py)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _refuse, "dict": _Dict(), "namespace": _Namespace}
    return environment.from_string(template)


def answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    if "each" not in asked:
        return _answer(asked)
    answers = []
    for variables in asked["each"]:
        answers.append(_answer({"template": asked["template"], "variables": variables}, _compiled_plain))
        if "exceeded" in answers[-1]:
            return answers[-1]
    return {"each": answers}


def _answer(asked: Mapping[str, Any], compiled: Callable[[str], jinja2.Template] = _compiled) -> dict[str, Any]:
    random.seed(0)
    try:
        if "names" in asked:
            return {"names": _names(asked["template"])}
        text = compiled(asked["template"]).render(asked["variables"])
    except (MemoryError, RecursionError) as error:
        return {"exceeded": "memory" if isinstance(error, MemoryError) else "depth of calls"}
    except Exception as error:  # a template may raise anything: then it cannot show these messages
        return {"refused": f"{type(error).__name__}: {error}"[:200]}
    if any("\ud800" <= c <= "\udfff" for c in text):
        return {"refused": "it writes lone surrogates, which are no characters"}
    return {"text": text} if len(text) <= TEXT_CHARS else {"exceeded": f"{TEXT_CHARS} characters"}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    n = 0
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        n += len(asked.get("each", "1"))
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        said = answer(asked)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if time.process_time() > 2 * CPU_S + n * MEAN_CPU_S:
            said = {"exceeded": f"{MEAN_CPU_S:g} s of processor time in each of {n} renderings"}
        sys.stdout.buffer.write(json.dumps(said).encode() + b"\n")  # whatever encoding is set for consoles
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
