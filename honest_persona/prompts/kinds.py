"""The role of each token: what it says, and whether it carries loss."""

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """The role of a token. Loss masks are a pure function of it (`tokens.labels`)."""

    PAD = 0
    TEMPLATE = 1
    """The chat template's own text: no other text may become a control token."""
    SYSTEM = 2
    """The system prompt, and the words of the tools that could be called."""
    USER = 3
    """What the main persona was told: by the user, and by the results of tools."""
    RESPONSE = 4
    """What the main persona wrote: reasoning, answers, and the words of calls of tools."""
    PERSONA_TOKEN = 5
    INTERVENTION = 6
    REVIEW = 7
    FLAG = 8
    END = 9


SUPERVISED = frozenset({Kind.REVIEW, Kind.FLAG, Kind.END})


class Segment(NamedTuple):
    kind: Kind
    text: str
