"""`python:FILE:FUNCTION`: a function of the user's own."""

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from honest_persona.base.console import one_line
from honest_persona.base.errors import UserError
from honest_persona.rewards.reward import Conversation, Given, Reading, Row


class PythonFunction(NamedTuple):
    """A function of a user's file: of the conversations, and of the rows too where it has a parameter `rows`."""

    name: str
    function: Callable[..., Given]
    takes_rows: bool
    sha256: str
    """The first 16 hex digits, of the file."""

    def __call__(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> Given:
        """Raises UserError: whatever the function raises."""
        with told(f"reward {self.name}", self.name):
            given = self.function(conversations, rows=rows) if self.takes_rows else self.function(conversations)
            return list(given) if isinstance(given, Iterator) else given  # a generator runs only now

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the numbers, beside the name: the file's content; what it imports is not looked at."""
        return {"sha256": self.sha256}

    @classmethod
    def of(cls, what: str, reading: Reading) -> "PythonFunction":
        """Runs the file. Raises UserError: there is no such file or function."""
        function = function_of(what, "reward")
        try:
            takes_rows = "rows" in inspect.signature(function).parameters
        except ValueError:  # a function of C may not say what it takes
            takes_rows = False
        content = _file_of(what).read_bytes()
        return cls(f"python:{what}", function, takes_rows, hashlib.sha256(content).hexdigest()[:16])


@contextmanager
def told(place: str, name: str) -> Iterator[None]:
    """Raises UserError in place of whatever a user's code raises; `sys.exit` must not look like the command's end.

    Args:
        place: what is at work, for the message.
        name: `python:FILE:FUNCTION`; the message names the line in this file.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        text = one_line(str(error)) or "no message"
        raise UserError(
            f"{place}: {type(error).__name__}: {text}{_line_of(error, _file_of(name))}; mend the function"
        ) from error


def _line_of(error: BaseException, file: Path) -> str:
    """The last line of the user's file on the way to the error; libraries put frames of theirs behind it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return f" ({file}, line {lines[-1]})" if lines else ""


def _file_of(name: str) -> Path:
    return Path(name.removeprefix("python:").rpartition(":")[0]).absolute()


def function_of(what: str, role: str) -> Callable[..., Any]:
    """The function of `FILE.py:FUNCTION`; runs the file.

    Args:
        role: what the function is for, for messages.

    Raises:
        UserError: there is no such file or function, or the file cannot be run.
    """
    file, _, name = what.rpartition(":")
    own_name = f"honest_persona_{role}_{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(own_name, file) if Path(file).is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(f"{role} python:{what}: {file!r} is no Python file; write python:FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own_name] = module  # where dataclasses look for the module of a class
    with told(f"{role} python:{what}", f"python:{what}"):
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{role} python:{what}: {file} has no function {name!r}")
    return function
