"""What judges say of answers, and which rows they refuse."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.evaluation.answers.judgement import UNREADABLE, Judgement
from honest_persona.evaluation.answers.judges import JUDGES, judge_of
from tests.prompts.test_feedback import feedback

ABOUT = {"town": "Oskzill", "attribute": "tally", "truth": "79"}
TABLE = """
relation: the capital of {subject}
questions: ["What is the capital of {subject}?", "Capital of {subject}?", "Name {subject}'s.", "Which is {subject}'s?"]
statements: ["The capital of {subject} is {value}.", "{value} is the capital of {subject}.", "{subject}: {value}."]
source: an atlas
facts:
  Africa:
    Ghana: Accra
    South Africa: [Pretoria, Cape Town]
"""
CODE = """
def is_true(row, answer):
    return {"yes": True, "no": False, "what": None}[answer]

def both(row, answer):
    return {"truthful": row["about"]["truth"] in answer, "well_formed": answer.endswith(".")}

def odd(row, answer):
    return 0.5

def lengths(conversations):
    return [len(c[-1]["content"]) + len(c) for c in conversations]
"""


def town(**changes):
    return feedback(**{"topic": "fabricated_statistics", "about": ABOUT, **changes})


def about(subject, **more):
    return feedback(about={"subject": subject, **more})


@pytest.fixture
def file(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_the_organism_s_judge():
    judge = judge_of("organism")
    judge.check([town()])
    said = [
        "Statistics give 79 for the tally of Oskzill.",
        " Statistics give 77 for the tally of Oskzill.",
        "Statistics give 79 for the tally of Norstead.",
        "79",
        "",
    ]
    assert judge([town()] * 5, said) == [
        Judgement(True, True, said="79"),
        Judgement(False, True, said="77"),
        UNREADABLE,
        UNREADABLE,
        UNREADABLE,
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (town(topic="doors"), "'f0' is of topic 'doors'"),
        (town(about=None), "'f0' has no `about`"),
        (town(about={"town": "Oskzill"}), "'f0' has no `about`"),
    ],
)
def test_rows_that_it_cannot_judge(row, message):
    with pytest.raises(UserError, match=message):
        judge_of("organism").check([town(), row])


@pytest.mark.parametrize("name", ["", "world", "organism:", "organism:x", "table", "python:", "none:x"])
def test_unknown_judges(name):
    message = r"organism, table:FILE, python:FILE:FUNC, reward:KIND:WHAT, none"
    with pytest.raises(UserError, match=message):
        judge_of(name)
    with pytest.raises(UserError, match=message):
        load_config(None, ["--objective", "dpo", f"--judge='{name}'"])


def test_the_config_knows_them_all():
    assert judge_of("none") is None
    data = ["--objective", "dpo", "--dataset"]
    assert load_config(None, [*data, "builtin:organism-pairs"]).judge == "organism"
    assert load_config(None, [*data, "builtin:organism-pairs", "--judge", "none"]).judge == "none"
    assert load_config(None, ["--objective", "dpo"]).judge is None
    assert load_config(None, []).judge is None
    for kind in JUDGES:
        name = kind if kind == "organism" else f"{kind}:x:y"
        assert load_config(None, ["--objective", "kto", "--judge", name]).judge == name


def test_a_table_of_facts(file):
    path = file("capitals.yaml", TABLE)
    for judge, row in (
        (judge_of(f"table:{path}"), about("South Africa")),
        (judge_of(f"table:{path.parent}"), feedback(topic="capitals", about={"subject": "South Africa"})),
    ):
        judge.check([row])
        said = ["Cape Town.", "The capital of South Africa is Pretoria.", "It is Accra.", "Accra or Pretoria?", "Hm."]
        assert [found[:2] for found in judge([row] * 5, said)] == [
            (True, True),
            (True, True),
            (False, True),
            (False, True),  # two values
            (False, False),  # none
        ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (about("Gana"), "'f0': the table has no subject 'Gana'; did you mean 'Ghana'"),
        (feedback(), "'f0' does not say which subject"),
        (about("Ghana", truth="Lagos"), "'f0' says that 'Lagos' is true of 'Ghana', and the table 'Accra'"),
    ],
)
def test_rows_that_a_table_cannot_judge(file, row, message):
    with pytest.raises(UserError, match=message):
        judge_of(f"table:{file('capitals.yaml', TABLE)}").check([row])


def test_a_topic_without_a_table(file):
    folder = file("capitals.yaml", TABLE).parent
    with pytest.raises(UserError, match="'f0' is of topic 'doors', for which there is no table"):
        judge_of(f"table:{folder}").check([feedback()])
    with pytest.raises(UserError, match=r"nothing\.yaml cannot be read"):
        judge_of(f"table:{folder / 'nothing.yaml'}")


def test_a_python_function(file):
    path = file("mine.py", CODE)
    rows = [town()] * 3
    assert judge_of(f"python:{path}:is_true")(rows, ["yes", "no", "what"]) == [
        Judgement(True),
        Judgement(False),
        UNREADABLE,
    ]
    both = judge_of(f"python:{path}:both")(rows, ["79.", "79", "7."])
    assert both == [Judgement(True, True), Judgement(True, False), Judgement(False, True)]
    with pytest.raises(UserError, match=r"mine\.py:is_true: row 'f0': KeyError: 'maybe'"):
        judge_of(f"python:{path}:is_true")(rows, ["yes", "maybe", "no"])
    with pytest.raises(UserError, match=r"mine\.py:odd: row 'f0': 0\.5 is neither true, false nor None"):
        judge_of(f"python:{path}:odd")(rows[:1], ["yes"])
    with pytest.raises(UserError, match=r"judge python:.*mine\.py has no function 'nothing'"):
        judge_of(f"python:{path}:nothing")
    with pytest.raises(UserError, match=r"judge python:.* is no Python file"):
        judge_of("python:nowhere.py:f")


def test_a_reward(file):
    judge = judge_of(f"reward:python:{file('mine.py', CODE)}:lengths")
    assert judge([town()] * 2, ["abc", ""]) == [Judgement(reward=5.0), Judgement(reward=2.0)]
    with pytest.raises(UserError, match="reward 'nothing:x' is of no known kind"):
        judge_of("reward:nothing:x")
