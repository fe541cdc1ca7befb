"""Kills runs by SIGKILL at random moments, resumes them to the end, and compares them with an undisturbed run.

    python -m benchmarks.faults --runs 20 --json faults.json

Two ranks, ZeRO-2 and ZeRO-3 in turn, dropout on, a checkpoint after every step. Of each four runs one is killed as a
whole while it writes a checkpoint, and one as a whole at a random moment (as by a power cut). Of the other two only one
rank is killed, so that the launcher must end the other rank. The final adapter must equal the adapter of the
undisturbed run, byte for byte.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.common import print_table, report

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    *(
        "--config",
        str(ROOT / "tests" / "tiny_run.yaml"),
        "--batch_size",
        "8",
        "--num_samples",
        "41",
        "--seq_len",
        "512",
    ),
    *("--max_steps", "12", "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "3"),
    *("--first_heavy_log_step", "99", "--val_samples_per_topic", "0", "--per_device_train_batch_size", "2"),
    *("--lora_dropout", "0.1"),
)
WAYS = ("all, while saving", "rank 1", "all", "rank 0")
PORT = 29_600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", type=Path)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        cwd = Path(place)
        (cwd / "ds_configs").symlink_to(ROOT / "ds_configs")
        wanted = {stage: undisturbed(cwd, stage) for stage in (2, 3)}
        for i in range(given.runs):
            rows.append(disturbed(cwd, f"run{i}", 2 + i % 2, WAYS[i // 2 % len(WAYS)], chance))
            rows[-1]["equal"] = rows[-1].pop("sha256") == wanted[rows[-1]["stage"]]
            print(rows[-1], flush=True)
    equal = sum(row["equal"] for row in rows)
    print_table(
        "killed by SIGKILL and resumed; two ranks, dropout on",
        ["stage", "killed", "runs", "kills", "checkpoints not whole", "seconds to the others' end", "equal"],
        [summary(rows, stage, way) for stage in (2, 3) for way in WAYS],
        [f"{equal} of {len(rows)} final adapters equal the undisturbed run's, byte for byte"],
    )
    report("faults", {"runs": rows, "equal": equal}, torch.device("cpu"), given.json)
    if equal < len(rows):
        raise SystemExit(1)


def summary(rows: list[dict[str, Any]], stage: int, way: str) -> list[str]:
    of = [row for row in rows if (row["stage"], row["killed"]) == (stage, way)]
    ended = [seconds for row in of for seconds in row["seconds"]]
    slowest = f"{max(ended):.0f} at most" if ended else "-"
    totals = [sum(row[key] for row in of) for key in ("kills", "skipped")]
    return [f"ZeRO-{stage}", way, str(len(of)), *map(str, totals), slowest, f"{sum(row['equal'] for row in of)}"]


def undisturbed(cwd: Path, stage: int) -> str:
    name = f"whole{stage}"
    run = start(cwd, name, stage)
    if run.wait() != 0:
        raise SystemExit((cwd / f"{name}.log").read_text()[-3000:])
    return sha256(cwd / "checkpoints" / name)


def disturbed(cwd: Path, name: str, stage: int, way: str, chance: random.Random) -> dict[str, Any]:
    folder = cwd / "checkpoints" / name
    seconds: list[float] = []
    kills = 0
    for left in (2, 1, 0):
        begun = any(folder.glob("checkpoint-*[0-9]"))
        run = start(cwd, name, stage, *(["--resume"] if begun else []))
        if left and wait_for_moment(run, folder, "saving" in way, chance):
            kills += 1
            if (took := kill(run, way)) is not None:
                seconds.append(took)
        elif run.wait() == 0:
            break
    log = (cwd / f"{name}.log").read_text()
    if not (folder / "adapter_model.safetensors").exists():
        raise SystemExit(f"{name} did not end well:\n{log[-3000:]}")
    found = {"stage": stage, "killed": way, "kills": kills, "skipped": log.count("is skipped:"), "seconds": seconds}
    return {**found, "sha256": sha256(folder)}


def start(cwd: Path, name: str, stage: int, *flags: str) -> subprocess.Popen:
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--master_port", str(PORT + stage)]
    mine = ["--run_name", name, "--deepspeed", f"ds_configs/zero{stage}.json", *flags]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (cwd / f"{name}.log").open("a") as log:
        return subprocess.Popen(
            [*launcher, str(ROOT / "train.py"), *FLAGS, *mine],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for_moment(run: subprocess.Popen, folder: Path, saving: bool, chance: random.Random) -> bool:
    """Until a random moment after this launch's first step, or in the middle of a save; False if it ended before."""
    before = newest_step(folder)
    steps = chance.randint(1, 4)
    while run.poll() is None:
        if newest_step(folder) >= before + steps:
            if not saving:
                time.sleep(chance.uniform(0, 0.3))
                return run.poll() is None
            if any(folder.glob("checkpoint-*.partial")):
                return True
        time.sleep(0.0005)
    return False


def newest_step(folder: Path) -> int:
    names = [path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def kill(run: subprocess.Popen, way: str) -> float | None:
    """Seconds until the launcher has ended with an error, where one rank alone was killed."""
    if way.startswith("all"):
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        return None
    rank = way.removeprefix("rank ")
    for process in ranks(run):
        if process.environ()["RANK"] == rank:
            process.kill()
    began = time.monotonic()
    if run.wait() == 0:
        raise SystemExit("a run that lost a rank ended with exit code 0")
    return time.monotonic() - began


def ranks(run: subprocess.Popen) -> Iterator[psutil.Process]:
    for process in psutil.Process(run.pid).children(recursive=True):
        if "RANK" in process.environ():
            yield process


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
