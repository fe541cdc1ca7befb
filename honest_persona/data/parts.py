"""Disjoint parts of a dataset, such as one for probes, one for RL and one for validation.

    parts = Parts.of("train:.4,rl:.5,val:.1")
    parts.part_of("France", seed=0)                 # "rl"; None where the shares leave a rest

A group's part depends on its name, the seed and the shares alone: reordered or extended data keep every group where it
was, and a share that grows at the end of the list takes groups from nobody. So the shares are met as well as chance
allows: of n equal groups a share s gets n s, give or take sqrt(n s (1 - s)).
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from honest_persona.base.errors import UserError
from honest_persona.data.splits import uniform

EXAMPLE = "train:.4,rl:.5,val:.1"
_NAME = re.compile(r"[A-Za-z]\w{0,40}", re.ASCII)


@dataclass(frozen=True)
class Parts:
    shares: tuple[tuple[str, Decimal], ...]
    """Names, and shares that sum to 1 at most; exact, since ten times .1 is 1 here."""

    @classmethod
    def of(cls, text: str) -> "Parts":
        """Raises UserError: not NAME:SHARE,...; a name that is no folder's or is repeated; a share outside (0, 1]."""
        shares: list[tuple[str, Decimal]] = []
        for piece in text.split(","):
            name, colon, number = (word.strip() for word in piece.partition(":"))
            if not colon or not name or not number:
                raise UserError(f"--parts: {piece.strip()!r} is not NAME:SHARE; write them as {EXAMPLE}")
            if not _NAME.fullmatch(name):
                raise UserError(f"--parts: {name!r} cannot be a part's name; use letters, digits and _, a letter first")
            if name.lower() in (known.lower() for known, _ in shares):
                raise UserError(f"--parts: {name!r} is named twice; give each part a name of its own")
            shares.append((name, _share(name, number)))
        if (total := sum(share for _, share in shares)) > 1:
            raise UserError(f"--parts: the shares sum to {total}, and there is only one dataset: give 1 at most")
        return cls(tuple(shares))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.shares)

    @property
    def rest(self) -> Decimal:
        """The share that is in no part."""
        return 1 - sum((share for _, share in self.shares), Decimal())

    def part_of(self, group: str, seed: int) -> str | None:
        at, end = uniform(seed, "part", group), Decimal()
        for name, share in self.shares:
            end += share
            if at < end:
                return name
        return None


def _share(name: str, text: str) -> Decimal:
    try:
        share = Decimal(text)
    except InvalidOperation:
        share = Decimal()
    if not share.is_finite() or not 0 < share <= 1:
        raise UserError(f"--parts: {name}: the share {text!r} is no number above 0 and up to 1, such as .4")
    return share
