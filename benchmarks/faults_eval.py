"""Kills evaluations by SIGKILL at random moments: the files that they leave are whole and of one evaluation.

    python -m benchmarks.faults_eval --kills 20 --json faults_eval.json

First two trainings with one run name, and two evaluations of one adapter, are started together: one of each must be
refused with exit code 2. Then evaluations of one adapter are killed, each with a different number of records: every
second one at any moment, the others after their writing has begun. The files that are left must be the whole set of one
evaluation, with a page; the next evaluation continues from there.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import print_table, report
from honest_persona.evaluation.report.page import write_report
from honest_persona.evaluation.sets import BASELINES_FILE, EVALUATION, REPORT_FILE, SAMPLES_FILE, page_id, read_set
from honest_persona.experiments.evaluate import evaluate_adapter

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ("--config", str(ROOT / "tests" / "tiny_run.yaml"), "--run_name", "run", "--max_steps", "2")
SMALL = ("--num_samples", "8", "--val_samples_per_topic", "0", "--seq_len", "512")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", type=Path)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        (Path(place) / "ds_configs").symlink_to(ROOT / "ds_configs")
        adapter = Path("checkpoints", "run")
        codes = {
            "trainings": together("train.py", *TRAIN, *SMALL),
            "evaluations": together("eval.py", "--adapter", str(adapter), "--limit", "1", "--max_new_tokens", "2"),
        }
        began = time.monotonic()
        killed_after(adapter, 2, None)
        seconds = time.monotonic() - began
        rows: list[dict[str, Any]] = []
        while len(rows) < given.kills:
            row = kill_one(adapter, 2 + len(rows) % 2, len(rows) % 2 == 0, seconds, chance)
            rows += [row] * row.pop("killed_in_time")
    whole = sum(row["whole"] for row in rows)
    ways = ("once it writes", "at any moment")
    print_table(
        "evaluations killed by SIGKILL",
        ["killed", "kills", "old set", "new set", "whole and of one evaluation"],
        [summary([row for row in rows if row["killed"] == way], way) for way in ways],
        [
            f"{whole} of {len(rows)} whole and of one evaluation",
            *(f"two {what} at once: exit codes {' and '.join(map(str, found))}" for what, found in codes.items()),
        ],
    )
    report("faults_eval", {"kills": rows, "whole": whole, "exit_codes": codes}, torch.device("cpu"), given.json)
    if whole < len(rows) or any(found != [0, 2] for found in codes.values()):
        raise SystemExit(1)


def summary(rows: list[dict[str, Any]], way: str) -> list[str]:
    left = [row["left"] for row in rows]
    sets = [str(left.count(which)) for which in ("old", "new")]
    return [way, str(len(rows)), *sets, str(sum(row["whole"] for row in rows))]


def together(script: str, *flags: str) -> list[int]:
    """Exit codes of two processes that are started at once, in order."""
    command = [sys.executable, str(ROOT / script), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    return sorted(process.wait() for process in running)


def kill_one(adapter: Path, limit: int, writing: bool, seconds: float, chance: random.Random) -> dict[str, Any]:
    """Evaluate, kill, look at what is left."""
    before = (read_set(adapter / "eval") or {})["about"][EVALUATION]
    moment = chance.uniform(0, seconds)
    killed = killed_after(adapter, limit, moment, adapter / "eval" if writing else None)
    fault = ""
    try:
        found = whole_id(adapter / "eval")
    except Exception as error:  # whatever is wrong with the files counts
        found, fault = None, repr(error)
    row = {
        "killed": "once it writes" if writing else "at any moment",
        "after_s": round(moment, 3),
        "killed_in_time": killed,
        "left": "old" if found == before else "new",
        "whole": not fault,
        "fault": fault,
    }
    print(row, flush=True)
    return row


def killed_after(adapter: Path, limit: int, moment: float | None, writing: Path | None = None) -> bool:
    """A child process does eval.py's work; whether it was killed. None for a moment lets it end.

    Args:
        writing: count the moment from when this folder holds a new evaluation's files.
    """
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        torch.set_num_threads(1)
        evaluate_adapter(str(adapter), limit=limit, max_new_tokens=2)
        os._exit(0)
    if moment is not None:
        while writing and not any(writing.glob(".new-*")) and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(moment)
        os.kill(child, 9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9


def whole_id(folder: Path) -> str:
    """The evaluation that all files are of. Raises whatever is wrong with them."""
    content = read_set(folder)
    assert content is not None, "nothing is left"
    found = content["about"][EVALUATION]
    for name in (SAMPLES_FILE, BASELINES_FILE):
        ids = {json.loads(line)[EVALUATION] for line in (folder / name).open(encoding="utf-8")}
        assert ids == {found}, f"{name}: {ids}"
    assert page_id(folder / REPORT_FILE) == found, REPORT_FILE
    write_report(folder)
    assert page_id(folder / REPORT_FILE) == found, REPORT_FILE
    return found


if __name__ == "__main__":
    main()
