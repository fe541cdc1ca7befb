"""Starts real runs of the entry points, on one process or on two ranks, in a folder of their own."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Run:
    """A finished run."""

    code: int
    output: str
    folder: Path

    @cached_property
    def lines(self) -> list[dict]:
        """Training lines of metrics.jsonl."""
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [line for line in lines if "loss" in line]

    def series(self, key: str) -> list[float]:
        return [line[key] for line in self.lines]

    def adapter(self) -> dict:
        return load_file(self.folder / "adapter_model.safetensors")


TINY = ("--config", str(ROOT / "tests" / "tiny_run.yaml"))
"""A run on the random model in float32, whatever hp.yaml says."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(cwd: Path, name: str, *flags: str, launcher: str = "python", script: str = "train.py") -> Run:
    """`launcher` is python, deepspeed or torchrun, the latter two with two ranks over gloo."""
    command = {
        "python": [sys.executable],
        "deepspeed": [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", str(free_port())],
        "torchrun": [str(BIN / "torchrun"), "--nproc_per_node", "2", "--master_port", str(free_port())],
    }[launcher]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    if not (cwd / "ds_configs").exists():
        (cwd / "ds_configs").symlink_to(ROOT / "ds_configs")
    named = ["--run_name", name] if script == "train.py" else []
    done = subprocess.run(
        [*command, str(ROOT / script), *named, *flags],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    return Run(done.returncode, done.stdout + done.stderr, cwd / "checkpoints" / name)


def drop(run: Run) -> None:
    """Free the disk of a run that no test needs any more."""
    shutil.rmtree(run.folder)
