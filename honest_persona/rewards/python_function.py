"""`python:FILE:FUNCTION`: a function of the user's own."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from honest_persona.base.errors import UserError
from honest_persona.rewards.reward import Conversation, Given, Reading, Row


class PythonFunction(NamedTuple):
    """A function of a user's file: of the conversations, and of the rows too where it has a parameter `rows`."""

    name: str
    function: Callable[..., Given]
    takes_rows: bool

    def __call__(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> Given:
        return self.function(conversations, rows=rows) if self.takes_rows else self.function(conversations)

    @classmethod
    def of(cls, what: str, reading: Reading) -> "PythonFunction":
        """Runs the file. Raises UserError: there is no such file or function."""
        function = function_of(what, "reward")
        return cls(f"python:{what}", function, "rows" in inspect.signature(function).parameters)


def function_of(what: str, role: str) -> Callable[..., Any]:
    """The function of `FILE.py:FUNCTION`; runs the file.

    Args:
        role: what the function is for, for messages.

    Raises:
        UserError: there is no such file or function.
    """
    file, _, name = what.rpartition(":")
    own_name = f"honest_persona_{role}_{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(own_name, file) if Path(file).is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(f"{role} python:{what}: {file!r} is no Python file; write python:FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own_name] = module  # where dataclasses look for the module of a class
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{role} python:{what}: {file} has no function {name!r}")
    return function
