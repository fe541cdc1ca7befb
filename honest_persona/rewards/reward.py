"""A reward: a number for each conversation, the higher the better its last answer is.

    reward = reward_from("python:rewards.py:brevity")     # def brevity(conversations): return [float, ...]
    scores = score(reward, conversations)

Another kind is one function from the text after `kind:` to a `Reward`: an entry of `KINDS`, or a call of `register`.
"""

import importlib.util
import math
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from honest_persona.base.errors import UserError

Conversation = Sequence[Mapping[str, str]]
"""Messages of `role` and `content`; the last one is the answer that the reward is for."""


class Reward(Protocol):
    @property
    def name(self) -> str:
        """For tables and messages; `reward_from` understands it."""

    def __call__(self, conversations: Sequence[Conversation]) -> Sequence[float]:
        """A finite number for each conversation, in their order. Callers use `score`, which checks the numbers."""


def reward_from(text: str) -> Reward:
    """The reward that `kind:what` names. Raises UserError: an unknown kind, or a kind that cannot find its `what`."""
    kind, colon, what = text.partition(":")
    if not colon or kind not in KINDS:
        raise UserError(f"reward {text!r} is of no known kind; write KIND:WHAT with one of {', '.join(sorted(KINDS))}")
    return KINDS[kind](what)


def register(kind: str, make: Callable[[str], Reward]) -> None:
    """Add a kind for this process. `make` gets the text after `kind:`, and raises UserError where the text is wrong."""
    assert kind not in KINDS, f"{kind!r} is taken"
    KINDS[kind] = make


def score(reward: Reward, conversations: Sequence[Conversation]) -> list[float]:
    """The reward of each conversation. Raises UserError: not one finite number for each."""
    n, given = len(conversations), reward(conversations)
    if not isinstance(given, Iterable) or isinstance(given, Mapping | Set | str) or getattr(given, "shape", None) == ():
        raise UserError(f"reward {reward.name}: {reprlib.repr(given)} is no list of numbers, one per conversation")
    numbers = list(given)
    if len(numbers) != n:
        raise UserError(f"reward {reward.name}: {len(numbers)} numbers for {n} conversations")
    for i, number in enumerate(numbers):
        if not _is_finite(number):
            what = reprlib.repr(number)
            raise UserError(f"reward {reward.name}: {what} for conversation {i}; it must be a finite number")
    return [float(number) for number in numbers]


def _is_finite(number: object) -> bool:
    try:
        return isinstance(number, Real) and not isinstance(number, bool) and math.isfinite(number)
    except OverflowError:  # an integer that no float can hold
        return False


class PythonFunction(NamedTuple):
    """A function of a user's file."""

    name: str
    function: Callable[[Sequence[Conversation]], Sequence[float]]

    def __call__(self, conversations: Sequence[Conversation]) -> Sequence[float]:
        return self.function(conversations)

    @classmethod
    def of(cls, what: str) -> "PythonFunction":
        """Runs the file. Raises UserError: there is no such file or function."""
        return cls(f"python:{what}", function_of(what, "reward"))


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


KINDS: dict[str, Callable[[str], Reward]] = {"python": PythonFunction.of}
