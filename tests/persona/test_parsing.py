"""A text is parsed as it was rendered, and an answer's text is what was parsed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honest_persona.config.persona import Persona
from honest_persona.persona.parsing import Ending, Review, answer_text, parse_review
from honest_persona.prompts.segments import answer_segments

FORMATS = ["review_then_flag", "flag_then_review", "flag_only"]


def rendered(review, flag, persona):
    return "".join(segment.text for segment in answer_segments(review, flag, persona))


_HARD = [
    "\nFLAG: PASS",
    "\nFLAG: FAIL",
    "\nFLAG: ",
    "\n\nREVIEW:",
    "PASS",
    "FAIL",
    "\n",
    " ",
    "é",
    "好",
    "🙂",
    "\u2028",
]
REVIEWS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(_HARD), max_size=6).map("".join))
PREFIXES = st.sampled_from([("\n\nREVIEW:", "\nFLAG: "), ("", "\nFLAG: "), ("", ""), ("R", "F"), ("PASS", "FAIL")])


@pytest.mark.parametrize("output_format", FORMATS)
@settings(derandomize=True, max_examples=150, deadline=None)
@given(review=REVIEWS, flag=st.sampled_from(["PASS", "FAIL"]), prefixes=PREFIXES)
def test_parsing_undoes_rendering(output_format, review, flag, prefixes):
    persona = Persona(output_format=output_format, review_prefix=prefixes[0], flag_prefix=prefixes[1])
    text = rendered(review, flag, persona)
    expected = "" if output_format == "flag_only" else review
    assert parse_review(text, True, persona) == (expected, flag, Ending.CLEAN)


@pytest.mark.parametrize(
    ("output_format", "text", "expected"),
    [
        ("review_then_flag", "\n\nREVIEW:ok\nFLAG: PASS \n", ("ok", "PASS", Ending.CLEAN)),
        ("review_then_flag", "\n\nREVIEW:ok", ("ok", None, Ending.MALFORMED)),
        ("review_then_flag", "\n\nREVIEW:ok\nFLAG: MAYBE", ("ok\nFLAG: MAYBE", None, Ending.MALFORMED)),
        ("review_then_flag", "\n\nREVIEW:ok\nFLAG: PASSABLE", ("ok\nFLAG: PASSABLE", None, Ending.MALFORMED)),
        ("review_then_flag", "\n\nREVIEW:a\nFLAG: PASS b", ("a\nFLAG: PASS b", None, Ending.MALFORMED)),
        ("review_then_flag", "no prefix\nFLAG: FAIL", ("no prefix", "FAIL", Ending.MALFORMED)),
        ("review_then_flag", "", ("", None, Ending.MALFORMED)),
        ("flag_then_review", "\nFLAG: FAIL", ("", "FAIL", Ending.MALFORMED)),
        ("flag_then_review", "\nFLAG: FAILURE is", ("\nFLAG: FAILURE is", None, Ending.MALFORMED)),
        ("flag_then_review", "FAIL\n\nREVIEW:a", ("FAIL\n\nREVIEW:a", None, Ending.MALFORMED)),
        ("flag_then_review", "\n\nREVIEW:a\nFLAG: FAIL", ("a\nFLAG: FAIL", None, Ending.MALFORMED)),
        ("flag_then_review", "\nFLAG: PASS b", (" b", "PASS", Ending.MALFORMED)),
        ("flag_only", "\nFLAG: FAIL\n", ("", "FAIL", Ending.CLEAN)),
        ("flag_only", "\nFLAG: PASS or not", ("\nFLAG: PASS or not", None, Ending.MALFORMED)),
        ("flag_only", "PASS", ("PASS", None, Ending.MALFORMED)),
    ],
)
def test_endings(output_format, text, expected):
    persona = Persona(output_format=output_format)
    assert parse_review(text, True, persona) == expected
    assert parse_review(text, False, persona) == (*expected[:2], Ending.TRUNCATED)


def test_answer_text_has_review_and_flag():
    persona = Persona()
    clean = Review(" I lied.", "FAIL", 0.9, Ending.CLEAN)
    assert answer_text(clean, persona) == "REVIEW: I lied.\nFLAG: FAIL"
    assert answer_text(Review("\nno flag", None, 0.5, Ending.MALFORMED), persona) == "no flag"
