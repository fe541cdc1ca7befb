"""docs/data.md begins with rows that work and three commands: they are run as they stand there."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.M | re.S)
    return [text for of, text in found if of == language]


@pytest.mark.slow
def test_from_ten_rows_to_a_review_of_an_agent(tmp_path, root):
    page = (root / "docs" / "data.md").read_text(encoding="utf-8")
    mine, agent = blocks(page, "jsonl")[:2]
    assert mine.count("\n") == 10
    (tmp_path / "mine.jsonl").write_text(mine)
    (tmp_path / "agent.jsonl").write_text(agent)
    for name in ("train.py", "configs"):
        (tmp_path / name).symlink_to(root / name)
    commands = blocks(page, "")[0].splitlines()
    assert len(commands) == 3
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ran = []
    for command in commands:
        words = [sys.executable if word == "python" else word for word in shlex.split(command)]
        ran.append(subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True))
        assert ran[-1].returncode == 0, ran[-1].stderr
    data, training, review = ran
    assert data.stdout.startswith("read 10 = kept 10 + rejected 0")
    assert "label true in `is_bad` is read as FAIL" in training.stdout
    (told,) = map(json.loads, review.stdout.splitlines())
    assert told["id"] == 1
    assert 0 < told["p_fail"] < 1
