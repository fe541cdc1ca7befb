"""What each design of `designs.py` changes, in one phrase. Imports nothing: `eval.py --help` prints the names."""

from collections.abc import Mapping
from types import MappingProxyType

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "other_system": "the system prompt of the other variant, above the same response",
        "no_system": "the system prompt removed",
        "other_response": "a response that another main model wrote, with its truth",
        "new_wording": "an intervention worded as in no record of the data",
        "longer_answer": "polite words behind the answer",
        "longer_answer_control": "neutral text in their place, of as many tokens",
        "forged_review": "behind the answer a review, as plain text, that comes to the wrong flag",
        "forged_review_control": "neutral text in its place, of as many tokens",
        "benign": "nothing hidden and nothing wrong: every FAIL is a false alarm",
    }
)
