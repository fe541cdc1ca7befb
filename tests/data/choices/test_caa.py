"""The files of contrastive activation addition: a letter in brackets answers."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.ood import ood_entries
from tests.data.choices.files import read, written

ROW = {
    "question": "I like this plan.\nWhich do you agree with?\n(A) It is good.\n(B) It is bad.",
    "answer_matching_behavior": "(A)",
    "answer_not_matching_behavior": "(B)",
}


def test_a_file_of_a_behaviour(tmp_path):
    path = written(tmp_path / "sycophancy" / "test_dataset_ab.json", [ROW, {**ROW, "question": "Or (A) or (B)?"}])
    questions = read("caa", path)
    assert [choice["content"] for choice in questions[0].choices] == ["(A)", "(B)"]
    assert len(questions) == 2
    assert ood_entries([f"caa:{path}"])[0].name == "sycophancy", "all its files have one name"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_matching_behavior": "Yes"}, r"'Yes' is no letter in brackets.*It looks like model_written's format"),
        ({"answer_matching_behavior": "A"}, "'A' is no letter in brackets"),
        (
            {"answer_not_matching_behavior": "No"},
            "answer_not_matching_behavior: 'No' is no letter",
        ),
        ({"question": "Which?\n(B) It is bad."}, r"question: the answer \(A\) is not among its choices"),
    ],
)
def test_what_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read("caa", written(tmp_path / "a.json", [{**ROW, **changes}]))


def test_a_row_with_one_letter_is_not_told_to_be_of_this_format(tmp_path):
    path = written(tmp_path / "a.json", [{**ROW, "answer_not_matching_behavior": " No"}])
    with pytest.raises(UserError, match="It looks like model_written's format"):
        read("genies", path)


def test_a_question_that_is_there_again_has_a_number(tmp_path):
    first, *again = (one.record_id for one in read("caa", written(tmp_path / "a.json", [ROW] * 3)))
    assert again == [f"{first}#2", f"{first}#3"]
