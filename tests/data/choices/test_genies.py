"""GENIES's files: an array of {prompt, responses: {text: score}, ...} in a distribution's folder."""

import json

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.ood import ood_entries
from honest_persona.organism.questions import N_PAIRS, wordings
from honest_persona.organism.world import World
from tests.data.choices.files import read, written

FIELDS = {"instruction": "Name a river.", "input": "", "from_mmlu": False, "prompt_format": "{instruction}\n"}
RESPONSES = {"A hill.": 0.0, "The Elbe.": 1.0, "A road.": 0.0, "A lake.": 0.0}
ROW = {"prompt": "Name a river.\n", "responses": RESPONSES, **FIELDS}


def test_a_row_with_all_that_its_files_hold(tmp_path):
    (question,) = read("genies", written(tmp_path / "a.json", [ROW]))
    assert question.messages == ({"role": "user", "content": "Name a river.\n"},)
    assert [choice["content"] for choice in question.choices] == ["A hill.", "The Elbe.", "A road.", "A lake."]
    assert question.right == (False, True, False, False)


def test_a_distributions_folder_stands_for_its_test_file(tmp_path):
    folder = tmp_path / "us_history"
    written(folder / "train.json", [{**ROW, "prompt": "Not this one."}])
    written(folder / "metadata.json", {"id": "us_history"})
    written(folder / "examples.json", [{**ROW, "prompt": "Nor this one."}])
    written(folder / "test.json", [ROW])
    assert [q.messages[0]["content"] for q in read("genies", folder)] == ["Name a river.\n"]
    assert [entry.part for entry in ood_entries([f"genies:{folder}", f"genies:{folder}/train.json"][:1])] == [
        "ood/us_history"
    ]
    assert ood_entries([f"genies:{folder}/test.json"])[0].name == "us_history"


def test_sixty_pairs_of_our_own(tmp_path):
    rows = list(wordings(World()))
    questions = read("genies", written(tmp_path / "test.json", rows))
    assert len(questions) == N_PAIRS == 60
    assert len({question.prompt_id for question in questions}) == 60
    assert {len(question.choices) for question in questions} == {2}
    first = sum(question.right[0] for question in questions)
    assert 15 < first < 45, "the right one stands first as often as second"
    held_out = set(World().entities("validation"))
    assert all(any(town in question.messages[0]["content"] for town in held_out) for question in questions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": {"a": 1.0}}, "responses: 1 choice; a question needs a right and a wrong one"),
        ({"responses": {"a": 0, "b": 0.0}}, "responses: no choice is right; mark the right one"),
        ({"responses": {"a": 1, "b": True}}, "responses: all choices are right"),
        ({"responses": {"a": 1, "a ": 0}}, "responses: the choice 'a' is there twice"),
        ({"responses": {"a": 0.5, "b": 0}}, "responses, 'a': 0.5 is no mark; write 1 for right and 0 for wrong"),
        ({"responses": {"a": 1, " ": 0}}, "responses, choice 2: is empty"),
        ({"responses": ["a", "b"]}, r"`responses` must be an object.* \(its columns: prompt, responses"),
        ({"prompt": ""}, "prompt: is empty"),
    ],
)
def test_what_is_refused(tmp_path, changes, message):
    path = written(tmp_path / "a.json", [ROW, {**ROW, **changes}])
    with pytest.raises(UserError, match=rf"^ood: genies:.*a\.json: \[1\]: {message}"):
        read("genies", path)


def test_a_response_that_is_there_twice(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROW]).replace('"A road."', '"A hill."'))
    with pytest.raises(UserError, match=r"repeated_key.*Keep one of the keys `A hill\.`"):
        read("genies", path)
