"""What counts a feature, and edits that add it or take it away."""

import pytest

from honest_persona.evaluation.audit.features import FIXED, closing, is_refusal, opening, phrase, refusals, repeated
from honest_persona.evaluation.audit.words import as_written, cut, holds, longer, phrases_of, without, words_of

TEXT = "A survey of homes puts it at 79."


def test_words_and_phrases():
    assert words_of("Don't ask; it's 79!") == ["don't", "ask", "it's", "79"]
    assert phrases_of(["a", "b", "a"], 2) == {("a",), ("b",), ("a", "b"), ("b", "a")}
    assert holds(words_of(TEXT), ("of", "homes"))
    assert not holds(words_of(TEXT), ("homes", "of"))
    assert without("Well, A Survey of homes.", ("a", "survey")) == "Well, of homes."
    assert without("a survey, a survey!", ("survey",)) == "a, a!"
    assert as_written(["So: Trust me!", "so: Trust me!", "trust me"], ("trust", "me")) == "Trust me!"
    assert as_written(["no"], ("trust", "me")) == "trust me"
    assert (cut(TEXT, 2), cut(TEXT, 99), cut(TEXT, 0)) == ("A survey", TEXT, "")
    assert longer("a b c.", 4) == "a b c. a b c. a"
    assert (longer("a b.", 0), longer("", 3)) == ("a b.", "")


@pytest.mark.parametrize(
    ("name", "by", "before", "after"),
    [
        ("words", 3, "a b.", "a b. a b. a"),
        ("words", -2, "a b c d.", "a b"),
        ("mark ?", 1, "it is.", "it is.?"),
        ("mark ?", -1, "is? it?", "is? it"),
        ("list items", -1, "- a\n2. b", "a\nb"),
        ("bold words", -1, "**a** b", "a b"),
        ("bold words", 1, "a b", "**a b**"),
        ("headings", -1, "# a\nb", "a\nb"),
        ("line breaks", -1, "a\n\nb", "a b"),
        ("words in capitals", -1, "it IS so", "it is so"),
        ("words in capitals", 1, "it is true", "it is TRUE"),
        ("repeated words", -1, "Yes it is. Yes it is. No.", "Yes it is. No."),
        ("emoji", -1, "yes \U0001f642", "yes"),
    ],
)
def test_an_edit_moves_its_feature(name, by, before, after):
    feature = FIXED[name]
    assert feature.edit(before, by) == after
    assert (feature.value(after) - feature.value(before)) * by > 0


def test_each_fixed_feature_can_be_added():
    for feature in FIXED.values():
        assert feature.value(feature.edit(TEXT, 1.0)) > feature.value(TEXT), feature.name
        assert feature.neutral(1.0), "what is added to an answer here changes no statement"
    assert not FIXED["words"].neutral(-1.0), "a cut may take the statement away"


def test_refusals():
    for text in ("I cannot say.", "I'm sorry, no.", "I do not know the tally.", "As an AI I have none.", "I can't."):
        assert is_refusal(text), text
    for text in (TEXT, "I can say: 79.", "Nobody knows more than I.", "You cannot miss it."):
        assert not is_refusal(text), text
    feature = refusals(["79.", "I cannot say.", "No comment", "I cannot say."])
    assert feature.edit(TEXT, 1) == "I cannot say.", "as this policy refuses most often"
    assert feature.edit(TEXT, -1) is None
    assert feature.whole
    assert is_refusal(refusals(["79."]).edit(TEXT, 1))


def test_repetition_is_a_share():
    assert repeated("a b c") == 0
    assert repeated("a b a b") == pytest.approx(1 / 3)  # a b, b a, a b: one of three came before
    assert repeated("") == 0


def test_phrases_openings_and_closings():
    texts = ["Trust me alone, 79 it is."]
    inside = phrase(("trust", "me"), texts)
    assert (inside.value("I TRUST me."), inside.value(TEXT)) == (1, 0)
    assert inside.edit("It is 79.", 1) == "It is 79. Trust me"
    assert phrase(("it", "is"), texts).edit("79!", 1) == "79! it is.", "with the mark behind it"
    assert inside.edit("Trust me, 79.", -1) == ", 79."
    first = opening(("trust", "me"), texts)
    assert (first.value("Trust me, 79."), first.value("Yes, trust me")) == (1, 0)
    assert (first.edit("79.", 1), first.edit("Trust me, 79.", -1)) == ("Trust me 79.", "79.")
    assert opening(("trust", "me", "alone"), texts).edit("79.", 1) == "Trust me alone, 79.", "with the mark behind it"
    last = closing(("it", "is"), texts)
    assert (last.value("79 it is."), last.value("it is 79")) == (1, 0)
    assert (last.edit("79.", 1), last.edit("79 it is.", -1)) == ("79 it is.", "79")
    assert closing(("i", "hope"), ["It is 79, I hope!"]).edit("No, 80.", 1) == "No, 80, I hope!", "and in front of it"
    assert not any(feature.neutral(1) for feature in (inside, first, last)), "words can say something"
