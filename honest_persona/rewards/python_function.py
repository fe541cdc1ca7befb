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
        with told(f"reward {self.name}"):
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
        content = Path(what.rpartition(":")[0]).read_bytes()
        return cls(f"python:{what}", function, takes_rows, hashlib.sha256(content).hexdigest()[:16])


@contextmanager
def told(place: str) -> Iterator[None]:
    """Raises UserError in place of whatever a user's code raises; `sys.exit` must not look like the command's end."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        text = one_line(str(error)) or "no message"
        raise UserError(f"{place}: {type(error).__name__}: {text}{_line_of(error)}; mend the function") from error


def _line_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""


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
    with told(f"{role} python:{what}"):
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{role} python:{what}: {file} has no function {name!r}")
    return function
