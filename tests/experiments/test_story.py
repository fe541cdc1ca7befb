"""The story's steps: kept, resumed, refused, stopped; its commands parse; a small story as a whole."""

import gzip
import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from honest_persona.base.errors import UserError
from honest_persona.cli import _parser
from honest_persona.data.check import load_run_config
from honest_persona.data.sources.builtin import builtin_path
from honest_persona.experiments.story import MODULE, OUTPUT, Plan, Step, run_steps, story
from tests.experiments.test_audit_check import KNOWS


def step(name, code, ends_with=0, found="a figure"):
    return Step(name, f"do {name}", ("-c", code), lambda: found, ends_with)


def test_finished_steps_are_kept_and_a_failed_one_ends_the_story(tmp_path, capsys):
    count = tmp_path / "count"
    first = step("first", f"open({str(count)!r}, 'a').write('x')")
    with pytest.raises(UserError, match=r"second ended with exit code 3: the reason \(all of it: .*second\.log\)"):
        run_steps([first, step("second", "print('the reason'); exit(3)"), step("third", "1 / 0")], tmp_path)
    assert "3/3" not in capsys.readouterr().out
    # the command that failed is the same one, and this time it can
    failing = tmp_path / "second.json"
    state = json.loads(failing.read_text())
    mended = step("second", "pass")
    failing.write_text(json.dumps({**state, "command": mended.command}))
    minutes = run_steps([first, mended], tmp_path)
    assert count.read_text() == "x"
    assert minutes["second"] > state["minutes"] > 0
    assert capsys.readouterr().out.count("a figure") == 2


def test_a_control_that_is_not_refused_ends_the_story(tmp_path):
    run_steps([step("refused", "exit(2)", ends_with=2)], tmp_path)
    with pytest.raises(UserError, match="exit code 0, and not with 2"):
        run_steps([step("let through", "pass", ends_with=2)], tmp_path)


def test_a_finished_step_of_another_command_is_told(tmp_path):
    run_steps([step("one", "pass")], tmp_path)
    with pytest.raises(UserError, match="is of another command"):
        run_steps([step("one", "print(1)")], tmp_path)


def test_a_control_that_ends_for_another_reason_ends_the_story(tmp_path):
    control = Step("blind", "ask", ("-c", "exit(2)"), (tmp_path / "gate.json").read_text, 2)
    with pytest.raises(UserError, match=r"blind: .*gate\.json is not there; remove .*blind\.json"):
        run_steps([control], tmp_path)


def test_a_training_that_began_is_resumed(tmp_path):
    run = tmp_path / "run"
    train = Step("train", "train", ("-c", "import sys; print(sys.argv[1:])"), str, run=run)
    run_steps([train], tmp_path)
    assert (tmp_path / "train.log").read_text() == "[]\n"
    run.mkdir()
    (run / "honest_persona.json").write_text("{}")
    (tmp_path / "train.json").unlink()
    run_steps([train], tmp_path)
    assert "--resume" in (tmp_path / "train.log").read_text()


def test_the_page_has_the_commands_and_they_parse(root, monkeypatch):
    monkeypatch.chdir(root)
    page = re.sub(r"\\\n\s+", "", (root / "docs" / "story.md").read_text(encoding="utf-8"))
    for one in Plan(Path(OUTPUT)).steps():
        assert one.command in page, one.name
        assert shlex.split(one.command)[1:] == list(one.argv)
        if one.argv[:2] == MODULE:
            _parser().parse_known_args(one.argv[2:])
        if one.name == "persona":
            load_run_config("hp.yaml", list(one.argv[3:]))


@pytest.mark.slow
def test_a_small_story_as_a_whole(root, tmp_path, monkeypatch, capsys):
    """The reward is the model's own verdict, and the monitor a function: a persona takes minutes to train."""
    for name in ("train.py", "eval.py", "configs", "honest_persona"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    Path("knows.py").write_text(KNOWS)
    n: Counter[tuple[str, str]] = Counter()
    with gzip.open(builtin_path("builtin:organism-prompts"), "rt", encoding="utf-8") as lines, open("few", "w") as few:
        for line in lines:
            row = json.loads(line)
            n[place := (row["topic"], row["split"])] += 1
            few.write(line if n[place] <= 32 else "")
    Path("few").rename("few.jsonl")
    plan = Plan(Path("out/small"), "few.jsonl", "verdict", "python:knows.py:knows", edits=4)
    found = story(plan)
    assert [*found["minutes"]] == ["sample", "blind", "label", "train", "eval", "audit"]
    figures = {row[0]: row[1:] for row in found["figures"]}
    assert "refused" in figures["gate: chance"][1]
    assert "passed" in figures["gate: verdict"][1]
    assert Path("checkpoints/small/audit.html").exists()
    capsys.readouterr()
    assert story(plan) == found
    assert capsys.readouterr().out.count(", kept") == 6
