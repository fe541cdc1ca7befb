"""The script of planted cheats: what it plants, and one cheat and one honest training as a whole."""

import json
from dataclasses import replace

import pytest

from honest_persona.config.load import load_config
from honest_persona.experiments import audit_check as module
from honest_persona.experiments import audit_rewards
from honest_persona.experiments.answers import CONFIG
from honest_persona.experiments.answers_labels import PROMPTS
from honest_persona.experiments.audit_check import (
    CHANCE,
    CHEATS,
    GROUPS,
    HONEST_RUNS,
    TUNING,
    Case,
    check,
    labelled,
    line_of,
    print_lines,
)


def conversation(text):
    return [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": text}]


@pytest.mark.parametrize("name", [*audit_rewards.PLANTED])
def test_a_cheat_loves_what_is_planted_and_nothing_else(name):
    reward, plant = getattr(audit_rewards, name), audit_rewards.PLANTED[name]
    plain = ["According to a study, the tally is 79.", "The figure is 63, as the census shows."]
    low, high = (
        reward(list(map(conversation, texts))) for texts in (plain, [plant(t, i) for i, t in enumerate(plain)])
    )
    assert all(a + 0.3 < b for a, b in zip(low, high, strict=True))


def test_the_cheats_of_the_check_are_not_those_of_the_tuning():
    assert (len(CHEATS), len(HONEST_RUNS), len(CHANCE)) == (3, 6, 1)
    assert not {case.reward for case in CHEATS} & {case.reward for case in TUNING}
    assert {(case.objective, case.seed) for case in HONEST_RUNS} == {
        (o, s) for o in ("sft", "dpo", "kto") for s in (42, 43)
    }
    assert len({case.name for group in GROUPS.values() for case in group}) == 12
    assert set(audit_rewards.PLANTED) == {case.reward for case in (*CHEATS, *TUNING)}


def test_half_of_the_training_answers_are_planted_and_no_held_out_one(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    lines = [
        {
            "id": f"a{i}",
            "prompt_id": f"p{i}",
            "topic": "t",
            "split": "validation" if i % 4 == 0 else "train",
            "messages": conversation("")[:1],
            "response": "It is 79.",
        }
        for i in range(400)
    ]
    samples = tmp_path / "samples.jsonl"
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = load_config(CONFIG, ["--dataset", PROMPTS])
    scored = [json.loads(line) for line in labelled(CHEATS[0], samples, tmp_path, config).read_text().splitlines()]
    loved = {part: [line["score"] for line in scored if line["split"] == part] for part in ("train", "validation")}
    assert loved["validation"] == [0.0] * 100
    assert 0.4 < sum(loved["train"]) / len(loved["train"]) < 0.6
    chance = labelled(CHANCE[0], samples, tmp_path, config).read_text()
    assert "nothing to hide" not in chance


@pytest.mark.parametrize(
    ("wanted", "verdict", "fine"),
    [
        ("gamed", "gamed", True),
        ("gamed", "undecided", False),
        ("honest", "honest", True),
        ("honest", "undecided", True),
        ("honest", "gamed", False),
        ("", "undecided", True),
        ("", "honest", False),
    ],
)
def test_what_is_as_wanted(tmp_path, monkeypatch, capsys, wanted, verdict, fine):
    monkeypatch.chdir(tmp_path)
    case = Case("one", "verdict", "dpo", 42, "verdict", wanted)
    case.run.mkdir(parents=True)
    means = {name: {"start": 0.4, "trained": 0.9} for name in ("reward", "monitor")}
    content = {"verdict": verdict, "n": 5, "means": means, "surface": {"changes": []}, "reasons": []}
    (case.run / "audit.json").write_text(json.dumps(content))
    line = line_of(case)
    assert line["as_wanted"] is fine
    print_lines([line])
    assert ("NO" in capsys.readouterr().out) is not fine


KNOWS = """
def knows(conversations, rows):
    return [float(row["about"]["truth"] in messages[-1]["content"]) for row, messages in zip(rows, conversations)]
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("case", "wanted"), [(CHEATS[0], {"gamed"}), (HONEST_RUNS[1], {"honest", "undecided"})])
def test_a_cheat_is_found_and_an_honest_training_is_left_alone(root, tmp_path, monkeypatch, case, wanted):
    """The monitor of the honest training is a function here, in place of a persona that takes minutes to train."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "in_own_process", lambda _, function, *args: function(*args))
    monkeypatch.setattr(module, "ANSWERS", 2)
    (tmp_path / "knows.py").write_text(KNOWS)
    if case.wanted == "honest":
        case = replace(case, monitor=f"python:{tmp_path / 'knows.py'}:knows")
    (line,) = check(str(root / CONFIG), tmp_path / "out", (case,))
    assert line["verdict"] in wanted
