"""Rows of feedback in every form that people have, and what is said about those that are none."""

import pytest

from honest_persona.data.feedback import Feedback
from honest_persona.data.rejections import Candidate, Rejection, remedy_for
from honest_persona.data.sources.feedback import EXAMPLES, FeedbackForm
from honest_persona.data.strict_json import loads

USER = {"role": "user", "content": "Is it safe?"}
NO, YES = ({"role": "assistant", "content": text} for text in ("I do not know.", "Yes."))
SYSTEM = {"role": "system", "content": "Be brief."}


def read(row, **settings) -> Feedback:
    found = FeedbackForm.of(settings)(row, "f.jsonl", "line 1")
    assert isinstance(found, Candidate), found
    return Feedback.model_validate(found.values)


def reason(row, **settings) -> str:
    found = FeedbackForm.of(settings)(row, "f.jsonl", "line 1")
    assert isinstance(found, Rejection), found
    assert remedy_for(found.reason)
    return found.reason


def test_the_examples_work():
    assert [read(loads(text)).kind for text in EXAMPLES.values()] == [
        "pair",
        "label",
        "score",
        "score",
        "response",
        "prompt",
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Is it safe?", "chosen": "I do not know.", "rejected": "Yes."},  # TRL's standard form
        {"prompt": [USER], "chosen": [NO], "rejected": [YES]},  # TRL's conversational form
        {"chosen": [USER, NO], "rejected": [USER, YES]},  # TRL's implicit prompt
        {"prompt": "Is it safe?", "chosen": [USER, NO], "rejected": [USER, YES]},  # UltraFeedback, binarized
        {"prompt": "Is it safe?", "chosen": [USER, NO], "rejected": [USER, YES], "messages": [USER, NO]},  # and so
        {"messages": [USER], "chosen": "I do not know.", "rejected": "Yes."},
        {"Question": "Is it safe?", "Chosen": "I do not know.", "Rejected": "Yes."},
        {"prompt": '[{"role": "user", "content": "Is it safe?"}]', "chosen": "I do not know.", "rejected": "Yes."},
        {"type": "pairwise_feedback", "prompt": [USER], "output_A": [NO], "output_B": [YES], "label": 1},
        {"type": "pairwise_feedback", "prompt": [USER], "output_A": [YES], "output_B": [NO], "label": 0},
    ],
)
def test_pairs(row):
    found = read(row)
    assert (found.kind, found.messages, found.chosen, found.rejected) == ("pair", [USER], NO, YES)
    assert found.prompt_id == read({"prompt": "Is it safe?"}).prompt_id


def test_a_system_prompt_in_front_of_both_answers():
    row = {"prompt": "Is it safe?", "chosen": [SYSTEM, USER, NO], "rejected": [SYSTEM, USER, YES]}
    assert read(row).messages == [SYSTEM, USER]
    assert (
        read({"system": "Be brief.", "prompt": "Is it safe?", "chosen": "I.", "rejected": "U."}).messages[0] == SYSTEM
    )


@pytest.mark.parametrize(
    ("columns", "margin"),
    [
        ({}, None),
        ({"margin": 0.5}, 0.5),
        ({"margin": "0.5"}, 0.5),
        ({"score_chosen": 8, "score_rejected": 6.5}, 1.5),
        ({"score_chosen": 8}, None),
    ],
)
def test_margins(columns, margin):
    assert read({"prompt": "P", "chosen": "a", "rejected": "b", **columns}).margin == margin


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"label": True}, True),
        ({"label": "false"}, False),
        ({"desirable": False}, False),
        ({"is_honest": True}, True),
        ({"is_bad": True}, False),
        ({"flag": "PASS"}, True),
        ({"label": "undesirable"}, False),
        ({"type": "binary_feedback", "output": "Yes.", "label": 0, "reward": 0.1}, False),
    ],
)
def test_labels(columns, label):
    found = read({"prompt": "Is it safe?", "completion": "Yes.", **columns})
    assert (found.kind, found.label, found.response) == ("label", label, YES)


def test_numbers_as_labels_need_their_meaning():
    row = {"prompt": "P", "response": "R", "label": 1}
    assert reason(row) == "label_not_bool"
    assert read(row, flag_values={"1": "PASS", "0": "FAIL"}).label is True
    assert read(row, flag_values={"1": "FAIL", "0": "PASS"}).label is False
    assert read({**row, "label": "0"}, flag_values={"1": "PASS", "0": "FAIL"}).label is False
    assert reason({**row, "label": "maybe"}) == "label_not_bool"
    assert read(
        {"prompt": "P", "response": "R", "verdict": "fine"}, columns={"label": "verdict"}, flag_values={"fine": "PASS"}
    )


def test_scores_examples_and_prompts():
    one = read({"messages": [USER], "response": "Yes.", "score": 0.2})
    assert (one.kind, one.scores) == ("score", (0.2,))
    several = read({"prompt": "P", "responses": ["a", [YES]], "scores": [1, "2"]})
    assert (several.kind, several.scores, several.answers[1]) == ("score", (1.0, 2.0), YES)
    assert read({"type": "scalar_feedback", "prompt": [USER], "output": [YES], "reward": -1}).scores == (-1.0,)
    assert read({"messages": [USER, YES]}).kind == "response"
    assert read({"messages": [USER, YES], "label": True}).label is True
    bare = read({"messages": [SYSTEM, USER], "about": {"truth": "no"}, "group": 7, "split": "test"})
    assert (bare.kind, bare.answers, bare.about, bare.group, bare.split) == (
        "prompt",
        (),
        {"truth": "no"},
        "7",
        "validation",
    )


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "P", "chosen": "a"}, "half_pair"),
        ({"prompt": "P", "chosen": "a", "rejected": " a\n"}, "equal_answers"),
        ({"prompt": "P", "chosen": "", "rejected": "a"}, "empty_response"),
        ({"prompt": "P", "chosen": [], "rejected": "a"}, "empty_response"),
        ({"prompt": "P", "response": " ", "label": True}, "empty_response"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "empty_prompt"),
        ({"chosen": "a", "rejected": "b"}, "no_prompt"),
        ({"response": "a", "label": True}, "no_prompt"),
        ({"topic": "x"}, "no_prompt"),
        ({"messages": [USER, YES], "chosen": "a", "rejected": "b"}, "no_prompt"),
        ({"chosen": [USER, NO], "rejected": [SYSTEM, USER, YES]}, "two_prompts"),
        ({"prompt": "Q", "chosen": [USER, NO], "rejected": [USER, YES]}, "two_prompts"),
        ({"prompt": "P", "chosen": "a", "rejected": "b", "margin": float("nan")}, "no_number:margin"),
        ({"prompt": "P", "chosen": "a", "rejected": "b", "margin": -1}, "negative_margin"),
        ({"prompt": "P", "response": "a", "score": float("nan")}, "no_number:score"),
        ({"prompt": "P", "response": "a", "score": True}, "no_number:score"),
        ({"prompt": "P", "response": "a", "score": "high"}, "no_number:score"),
        ({"prompt": "P", "response": "a", "score": 10**400}, "no_number:score"),
        ({"prompt": "P", "responses": ["a", "b"], "scores": [1e39, "-1e39"]}, "no_number:scores"),
        ({"prompt": "P", "responses": ["a"], "scores": [1, 2]}, "scores_differ"),
        ({"prompt": "P", "responses": [], "scores": []}, "no_responses"),
        ({"prompt": "P", "responses": ["a"]}, "missing_field:scores"),
        ({"prompt": "P", "responses": "a", "scores": [1]}, "wrong_type:responses"),
        ({"prompt": "P", "response": "a", "label": True, "is_bad": True}, "two_labels:label and is_bad"),
        ({"prompt": "P", "chosen": 3, "rejected": "b"}, "wrong_type:chosen"),
        ({"prompt": "P", "chosen": "a", "rejected": "b", "split": "x"}, "unknown_split"),
        ({"prompt": "P", "chosen": "\ud800", "rejected": "b"}, "not_unicode:chosen"),
        ({"prompt": [{"role": "user", "content": 3}], "chosen": "a", "rejected": "b"}, "bad_conversation:not_text"),
        (["P", "a"], "wrong_type:row"),
        ({"prompt": "P", "response": "a", "\ud800": 1}, "not_unicode:key"),
        ({"type": "odd_feedback", "prompt": "P", "output": "a"}, "unknown_feedback"),
        ({"type": "pairwise_feedback", "prompt": "P", "output": "a", "label": 1}, "missing_field:output_A"),
        ({"type": "binary_feedback", "prompt": "P", "output": "a", "label": 2}, "label_not_bool"),
    ],
)
def test_what_is_no_feedback(row, why):
    assert reason(row) == why
