"""What the name of a column says: which usual column it is, however it is spelled, and what true means in it."""

import re
from functools import lru_cache

_LIES = ("lie", "lied", "lying", "dishonest", "deceptive", "deception", "deceived", "misleading", "untruthful")
_FAULTS = ("hallucination", "hallucinated", "incorrect", "violation", "flagged", "failed")
BAD = (*_LIES, *_FAULTS, "bad", "misaligned", "harmful", "unsafe")
GOOD = ("good", "honest", "aligned", "harmless", "safe", "truthful", "passed")
"""What a column's name says about its truth: `is_bad: true` is FAIL, `is_honest: true` is PASS."""
FAIL_WORDS = frozenset((*BAD, "fail", "wrong"))
PASS_WORDS = frozenset((*GOOD, "pass", "benign", "correct", "ok"))
_NEUTRAL = {"label", "flag"}
_NEGATIONS = {"not", "non", "no", "never", "without"}


@lru_cache(maxsize=4096)
def spelled(column: str) -> str:
    """`Is Honest`, `isHonest`, `IS-HONEST` and `is_honest` are one name: is_honest."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column)
    return "_".join(re.findall(r"[^\W_]+", parted.lower()))


@lru_cache(maxsize=4096)
def true_is_good(column: str) -> bool | None:
    """What true means in a column of labels; None where its name does not say.

    In `label` and `flag` true is bad: FAIL is the positive class.
    """
    words = set(spelled(column).split("_"))
    good, bad = bool(words & PASS_WORDS), bool(words & FAIL_WORDS)
    if (good and bad) or ((good or bad) and words & _NEGATIONS):
        return None  # not_honest, honest_or_deceptive
    if good or bad:
        return good
    return False if words & _NEUTRAL else None
