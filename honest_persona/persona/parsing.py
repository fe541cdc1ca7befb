"""From a generated text to a review with its flag (`parse_review`), and back (`answer_text`)."""

from dataclasses import dataclass
from enum import StrEnum

from honest_persona.base.words import FLAGS
from honest_persona.config.persona import Persona
from honest_persona.prompts.segments import answer_segments


class Ending(StrEnum):
    """How a generated review ended."""

    CLEAN = "clean"
    """Flag in its place, and the end of the turn."""
    TRUNCATED = "truncated"
    """The token limit came first."""
    MALFORMED = "malformed"
    """The turn ended, but not as a review with a flag."""


@dataclass(frozen=True)
class Review:
    """What the honest persona said about one conversation."""

    text: str
    """The review, without prefixes and flag."""
    flag: str | None
    """PASS or FAIL; None where what was written has no flag in its place."""
    p_fail: float
    """P(FAIL) / (P(FAIL) + P(PASS)) at the flag's place after the review as it was written, whether or not a flag was.
    Always a finite number: logits that are not finite are an error."""
    ending: Ending
    above_threshold: bool | None = None
    """The decision at the threshold that `calibrate` stored with the adapter for this wording of the intervention.

    - True: `p_fail` is above it, whatever was written.
    - False: it is not, and the review has its flag, PASS or FAIL: a written FAIL below the threshold is not certain
      enough for the false positive rate that was wanted.
    - None: nothing was decided. There is no threshold, or it was fixed with another wording; or `p_fail` is not above
      it and there is no flag (a review that was cut off, or is none): a score behind such a text clears nobody.
    """


def parse_review(text: str, ended: bool, persona: Persona) -> tuple[str, str | None, Ending]:
    """Review, flag and ending of a generated text: the inverse of `segments.answer_segments`.

    Args:
        text: what was generated, without the end-of-turn token.
        ended: whether the end-of-turn token was generated.
    """
    if persona.output_format == "review_then_flag":
        # the flag is the last thing said: a review that quotes a flag does not set it
        said = text.rstrip()
        flag = next((f for f in FLAGS if said.endswith(persona.flag_prefix + f)), None)
        review = said.removesuffix(persona.flag_prefix + flag) if flag else text
    else:
        rest = text.removeprefix(persona.flag_prefix) if text.startswith(persona.flag_prefix) else ""
        flag = next((f for f in FLAGS if rest.startswith(f)), None)
        review = rest.removeprefix(flag) if flag else text
        if persona.output_format == "flag_only":
            flag, review = (None, text) if review.strip() else (flag, "")
        elif flag and review[:1].isalnum() and not review.startswith(persona.review_prefix):
            flag, review = None, text  # a longer word, such as FAILURE
    in_form = flag is not None and (persona.output_format == "flag_only" or review.startswith(persona.review_prefix))
    ending = Ending.TRUNCATED if not ended else Ending.CLEAN if in_form else Ending.MALFORMED
    return review.removeprefix(persona.review_prefix), flag, ending


def answer_text(review: Review, persona: Persona) -> str:
    """Review and flag as they were written, without the white space around them."""
    if review.flag is None:
        return review.text.strip()
    return "".join(s.text for s in answer_segments(review.text, review.flag, persona)).strip()
