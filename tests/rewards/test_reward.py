"""A reward by its name, its numbers checked; a kind that this file alone brings."""

from typing import NamedTuple

import numpy as np
import pytest

from honest_persona.base.errors import UserError
from honest_persona.rewards import kinds
from honest_persona.rewards.kinds import KINDS, register, reward_from
from honest_persona.rewards.reward import score


def conversation(answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "Is the earth flat?"}, {"role": "assistant", "content": answer}]


TWO = [conversation("No."), conversation("Yes, as flat as a plate.")]


class Brevity(NamedTuple):
    """The toy kind: `brevity:N` is 1 for an answer of at most N characters."""

    longest: int

    @property
    def name(self) -> str:
        return f"brevity:{self.longest}"

    def __call__(self, conversations, rows):
        return [float(len(messages[-1]["content"]) <= self.longest) for messages in conversations]


@pytest.fixture
def brevity(monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", dict(KINDS))
    monkeypatch.setattr(kinds, "FORMS", dict(kinds.FORMS))
    register("brevity", lambda what, reading: Brevity(int(what)), "brevity:N")


@pytest.mark.usefixtures("brevity")
def test_a_kind_is_one_registration():
    reward = reward_from("brevity:10")
    assert score(reward, TWO) == [1.0, 0.0]
    assert reward.name == "brevity:10"
    assert reward_from(reward.name) == reward
    with pytest.raises(AssertionError, match="taken"):
        register("brevity", lambda what, reading: Brevity(1), "brevity:N")


@pytest.mark.parametrize("text", ["brevity:10", "pythons", "", ":x"])
def test_an_unknown_kind_names_those_that_there_are(text):
    with pytest.raises(UserError, match=r"no known kind; write one of persona:DIR, .*python:FILE:FUNCTION$"):
        reward_from(text)


def test_a_function_of_a_file(tmp_path):
    file = tmp_path / "mine.py"
    body = "np.float32([len(messages[-1]['content']) for messages in conversations])"
    file.write_text(f"import numpy as np\n\n\ndef length(conversations):\n    return {body}\n")
    reward = reward_from(f"python:{file}:length")
    assert reward.name == f"python:{file}:length"
    scores = score(reward, TWO)
    assert scores == [3.0, 24.0]
    assert all(type(number) is float for number in scores)
    assert score(reward, []) == []


def test_a_file_with_a_dataclass_and_a_generator(tmp_path):
    file = tmp_path / "scales.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Scale:\n"
        "    by: float = 2.0\n\n\ndef double(conversations):\n    for _ in conversations:\n        yield Scale().by\n"
    )
    assert score(reward_from(f"python:{file}:double"), TWO) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('door')", r"KeyError: 'door' \(.*mine.py, line 2\); mend the function"),
        ("import sys; sys.exit(0)", r"SystemExit: 0 \(.*mine.py, line 2\)"),
        ("import json; json.loads('{')", r"JSONDecodeError: .* \(.*mine.py, line 2\)"),
        ("yield 1 / 0", r"ZeroDivisionError: .*line 2\)"),
        ("return 1 / 0, '\\n\\x1b[2J'", "ZeroDivisionError"),
    ],
)
def test_a_function_that_fails_or_exits(tmp_path, body, message):
    file = tmp_path / "mine.py"
    file.write_text(f"def mine(conversations):\n    {body}\n")
    with pytest.raises(UserError, match=rf"reward python:.*mine.py:mine: {message}"):
        score(reward_from(f"python:{file}:mine"), TWO)


@pytest.mark.parametrize("text", ["import gone_away\n", "raise SystemExit\n", "def mine(:\n", "x = '\x00'\n"])
def test_a_file_that_cannot_be_run(tmp_path, text):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=r"reward python:.*mine.py:mine: \w+(Error|Exit): .*; mend the function"):
        reward_from(f"python:{tmp_path / 'mine.py'}:mine")


def test_another_content_of_the_file_is_another_reward(tmp_path):
    file = tmp_path / "mine.py"
    settings = []
    for number in (1, 2):
        file.write_text(f"def mine(conversations):\n    return [{number}.0] * len(conversations)\n")
        settings.append(reward_from(f"python:{file}:mine").settings)
    assert settings[0] != settings[1]


def test_a_reward_that_removes_conversations():
    class Greedy(NamedTuple):
        name: str = "greedy"

        def __call__(self, conversations, rows):
            conversations.clear()
            return []

    with pytest.raises(UserError, match="reward greedy: 0 numbers for 2 conversations"):
        score(Greedy(), list(TWO))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("gone.py:length", "'gone.py' is no Python file; write python:FILE.py:FUNCTION"),
        ("mine.txt:length", "'mine.txt' is no Python file"),
        ("mine.py", "'' is no Python file"),
        ("mine.py:width", "mine.py has no function 'width'"),
        ("mine.py:LENGTH", "mine.py has no function 'LENGTH'"),
    ],
)
def test_what_is_no_function_of_a_file(tmp_path, monkeypatch, what, message):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "mine.txt"):
        (tmp_path / name).write_text("LENGTH = 1\n")
    with pytest.raises(UserError, match=message):
        reward_from(f"python:{what}")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([1.0], "1 numbers for 2 conversations"),
        ([1.0, 2.0, 3.0], "3 numbers for 2 conversations"),
        ([1.0, float("nan")], "nan for conversation 1"),
        ([float("inf"), 0.0], "inf for conversation 0"),
        ([0.5, None], "says nothing of conversation 1; give reward_invalid"),
        ([0.5, "1"], "'1' for conversation 1"),
        ([True, 0.5], "True for conversation 0"),
        ([0.5, 10**400], "1000.*000 for conversation 1"),
        (None, "None is no list"),
        (1.0, "1.0 is no list"),
        (np.array(1.0), "array.* is no list"),
        ({1.0: "a", 2.0: "b"}, r"\{1.0: 'a', 2.0: 'b'\} is no list"),
        ({1.0, 2.0}, r"\{1.0, 2.0\} is no list"),
        ("12", "'12' is no list"),
    ],
)
def test_numbers_that_are_not_one_finite_number_each(numbers, message):
    class Toy(NamedTuple):
        name: str = "toy"

        def __call__(self, _, rows):
            return numbers

    with pytest.raises(UserError, match=f"reward toy: {message}"):
        score(Toy(), TWO)


def test_an_answer_of_which_nothing_is_said_gets_the_number_for_it():
    class Half(NamedTuple):
        name: str = "half"

        def __call__(self, conversations, rows):
            return [1.0, None]

    assert score(Half(), TWO, invalid=-1.0) == [1.0, -1.0]


def test_a_function_may_ask_for_the_rows(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def stated(conversations, rows):\n    return [row['about']['n'] for row in rows]\n")
    assert score(reward_from(f"python:{file}:stated"), TWO, [{"about": {"n": 3}}, {"about": {"n": 4}}]) == [3.0, 4.0]


def test_a_column(monkeypatch):
    rows = [{"given": 0.5, "about": {"right": True}}, {"given": None, "about": {}}]
    assert score(reward_from("column:given"), TWO, rows, invalid=0.0) == [0.5, 0.0]
    assert score(reward_from("column:about.right"), TWO, rows, invalid=-1.0) == [1.0, -1.0]
    with pytest.raises(UserError, match=r"column:given: says nothing of conversation 1; give reward_invalid"):
        score(reward_from("column:given"), TWO, rows)
    with pytest.raises(UserError, match=r"reward column:other: no row has a value there; the first has about, given"):
        score(reward_from("column:other"), TWO, rows)
    with pytest.raises(UserError, match=r"reward column:given: row 1 has 'much', which is no number"):
        score(reward_from("column:given"), TWO, [{"given": 1}, {"given": "much"}])
    with pytest.raises(UserError, match="needs a column's name"):
        reward_from("column")
