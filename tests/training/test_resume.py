"""Real runs that are stopped, killed, damaged and moved to other ranks and stages, and resume with equal numbers."""

import pickle
import shutil
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from honest_persona.base.errors import UserError
from honest_persona.base.manifest import check, seal
from honest_persona.config.load import load_config
from honest_persona.training.checkpoints import newest
from honest_persona.training.launch import train
from tests.training.launches import TINY, Run, launch, start

pytestmark = pytest.mark.slow

SETTINGS = {
    "batch_size": "8",
    "per_device_train_batch_size": "2",
    "num_samples": "41",
    "seq_len": "512",
    "max_steps": "5",
    "save_strategy": "steps",
    "save_steps": "2",
    "first_heavy_log_step": "9999",
    "val_samples_per_topic": "0",
}
LAYOUTS = {
    "ZeRO-2": ("deepspeed", "ds_configs/zero2.json"),
    "ZeRO-3": ("deepspeed", "ds_configs/zero3.json"),
    "one process": ("python", "ds_configs/zero3.json"),
    "torchrun": ("torchrun", "null"),
}


def flags_of(**settings: str) -> list[str]:
    given = [(f"--{key}", value) for key, value in (SETTINGS | settings).items()]
    return [*TINY, *(word for pair in given for word in pair)]


def run_in(cwd: Path, name: str, layout: str, *flags: str, **settings: str) -> Run:
    launcher, deepspeed = LAYOUTS[layout]
    return launch(cwd, name, *flags_of(deepspeed=deepspeed, **settings), *flags, launcher=launcher)


def train_here(name: str, *flags: str, **settings: str) -> Path:
    """In this process and the working directory."""
    words = flags_of(**{"deepspeed": "null", **settings})[len(TINY) :]
    return train(load_config(TINY[1], [*words, "--run_name", name, *flags]))


def stopped(run: Run, name: str, step: int) -> Path:
    """A copy of the run as it stood after `step`: what came later is gone."""
    folder = run.folder.with_name(name)
    shutil.copytree(run.folder, folder)
    for path in folder.iterdir():
        if path.name.startswith("checkpoint-") and int(path.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(path)
    (folder / "honest_persona.json").unlink()
    (folder / "adapter_model.safetensors").unlink()
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Run]:
    cwd = tmp_path_factory.mktemp("resume")
    runs = {layout: run_in(cwd, f"whole{i}", layout) for i, layout in enumerate(list(LAYOUTS)[:3])}
    for layout, run in runs.items():
        assert run.code == 0, f"{layout}: {run.output[-3000:]}"
        assert "Warning:" not in run.output, f"{layout}: {run.output}"
    return runs


def test_every_layout_trains_the_same(made):
    for run in made.values():
        a, b = torch.tensor(run.series("loss")), torch.tensor(made["one process"].series("loss"))
        assert (a - b).abs().max() <= 1e-5
        for key, weight in made["one process"].adapter().items():
            assert (weight - run.adapter()[key]).abs().max() < 2e-4, key


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ZeRO-2", "ZeRO-3"),
        ("ZeRO-3", "ZeRO-2"),
        ("ZeRO-3", "one process"),
        ("one process", "ZeRO-3"),
        ("ZeRO-2", "torchrun"),
    ],
)
def test_it_resumes_under_another_stage_and_on_other_ranks(made, before, after):
    name = f"{before} to {after}".replace(" ", "-")
    stopped(made[before], name, 2)
    run = run_in(made[before].folder.parents[1], name, after, "--resume")
    assert run.code == 0, run.output[-3000:]
    assert "resume: other settings from now on: " in run.output
    assert "do not match" not in run.output, "transformers' words for some of them"
    a, b = torch.tensor(run.series("loss")), torch.tensor(made[before].series("loss"))
    assert len(a) == 5
    assert (a - b).abs().max() <= 1e-5
    assert b[4] < b[2] - 1e-3, "the optimizer's state matters meanwhile"
    for key, weight in made[before].adapter().items():
        assert torch.allclose(weight, run.adapter()[key], rtol=0, atol=1e-6), key


def test_without_the_moments_the_losses_would_differ(made):
    """Negative control of the test above: its tolerance is tight enough to see what a lost optimizer does."""
    folder = stopped(made["one process"], "no-moments", 2)
    state = folder / "checkpoint-2" / "run_state.safetensors"
    kept = load_file(state)
    save_file({key: t if key.startswith("weight/") else torch.zeros_like(t) for key, t in kept.items()}, state)
    seal(folder / "checkpoint-2", check(folder / "checkpoint-2", lambda _: False))
    run = run_in(folder.parents[1], folder.name, "one process", "--resume")
    assert run.code == 0, run.output[-3000:]
    a, b = torch.tensor(run.series("loss")), torch.tensor(made["one process"].series("loss"))
    assert (a[:3] == b[:3]).all(), "the weights are those of the checkpoint"
    assert (a[3:] - b[3:]).abs().max() > 1e-4


class Planted:
    """A pickle that leaves a trace where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(made, tmp_path):
    whole = made["one process"]
    folder = stopped(whole, "damaged", 4)
    state = folder / "checkpoint-4" / "run_state.safetensors"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    trace = tmp_path / "loaded"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin"):
        (folder / "checkpoint-2" / name).write_bytes(pickle.dumps(Planted(trace)))
    run = run_in(folder.parents[1], folder.name, "one process", "--resume")
    assert run.code == 0, run.output[-3000:]
    assert "checkpoint-4 is skipped: run_state.safetensors is not what was written" in run.output
    assert "resume: from checkpoints/damaged/checkpoint-2" in run.output
    assert not trace.exists(), "no pickle is loaded"
    assert run.series("loss") == whole.series("loss")
    for key, weight in whole.adapter().items():
        assert torch.equal(weight, run.adapter()[key]), key
    pickle.loads(pickle.dumps(Planted(trace)))
    assert trace.exists(), "negative control: the trace is left where a pickle is loaded"


def test_no_damage_to_any_file_of_a_real_checkpoint_goes_unseen(made):
    folder = stopped(made["ZeRO-3"], "files", 4)
    names = sorted(path.name for path in (folder / "checkpoint-4").iterdir())
    assert {"adapter_model.safetensors", "run_state.json", "trainer_state.json", "manifest.json"} <= set(names)
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    for name in names:
        path = folder / "checkpoint-4" / name
        whole = path.read_bytes()
        flipped = bytes([whole[0] ^ 1]) + whole[1:]
        for damaged in (None, b"", whole[: len(whole) // 2], flipped):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            told = []
            assert newest(folder, told.append).step == 2
            assert name in told[0]
            path.write_bytes(whole)
    assert newest(folder, print).step == 4, "negative control"


def test_all_damaged_or_of_another_run(made, capsys, monkeypatch):
    folder = stopped(made["one process"], "other", 4)
    monkeypatch.chdir(folder.parents[1])

    def refused(**settings: str) -> str:
        with pytest.raises(UserError) as error:
            train_here(folder.name, "--resume", **settings)
        return str(error.value)

    others = {
        "lora_r": {"lora_r": "8"},
        "data": {"num_samples": "40"},
        "elicitation_type": {"elicitation_type": "ur"},
        "seed": {"seed": "7"},
    }
    for what, settings in others.items():
        assert f"{what}: " in refused(**settings).partition("belongs to another run:")[2]
    for step in (2, 4):
        (folder / f"checkpoint-{step}" / "adapter_config.json").write_text("{}")
    assert "has no whole checkpoint" in refused()
    assert capsys.readouterr().out.count("is skipped: adapter_config.json has 2 bytes") == 2


def test_an_optimizer_that_keeps_numbers_and_factored_moments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = train_here("whole", optim="adafactor")
    folder = stopped(Run(0, "", whole), "again", 2)
    train_here("again", "--resume", optim="adafactor")
    assert "resume: from checkpoints/again/checkpoint-2" in capsys.readouterr().out
    saved, again = (load_file(path / "adapter_model.safetensors") for path in (whole, folder))
    assert all(torch.equal(weight, again[key]) for key, weight in saved.items())
    assert load_file(folder / "checkpoint-4" / "run_state.safetensors").keys() == (
        load_file(whole / "checkpoint-4" / "run_state.safetensors").keys()
    )


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    run = run_in(tmp_path, "nan", "one process", learning_rate="1e30", save_steps="1", max_grad_norm="0")
    assert run.code == 2, run.output[-2000:]
    assert "error: the loss is nan at step 2 with the records " in run.output
    assert "checkpoint-1 stays" in run.output
    assert "Traceback" not in run.output
    assert not (run.folder / "adapter_model.safetensors").exists()


def begin(cwd: Path, name: str, **settings: str) -> tuple[list[psutil.Process], Path]:
    """Two ranks of a run with more steps than anybody waits for, at its first checkpoint, and their output's file."""
    processes, output = start(cwd, name, *flags_of(max_steps="2000", **settings), launcher="deepspeed")
    while not list((cwd / "checkpoints" / name).glob("checkpoint-[0-9]")):
        assert all(process.is_alive() for process in processes), output.read_text()[-3000:]
        time.sleep(0.1)
    return [psutil.Process(process.pid) for process in processes], output


LONG_LOG = {"val_samples_per_topic": "99", "validation_batch_size": "1", "max_new_tokens": "200"}


@pytest.mark.parametrize("heavy_log", [False, True], ids=["while it trains", "while it evaluates"])
def test_sigterm_saves_and_ends(tmp_path, heavy_log):
    evaluation = tmp_path / "checkpoints" / "preempted" / "heavy_log" / "step_000002"
    more = {"first_heavy_log_step": "2", **LONG_LOG} if heavy_log else {}
    ranks, output = begin(tmp_path, "preempted", **{"save_steps": "1" if heavy_log else "7", **more})
    while heavy_log and not evaluation.exists():
        time.sleep(0.1)
    for rank in ranks[1:] if heavy_log else ranks:  # one rank alone, or all, as a launcher passes it on
        rank.terminate()
    assert psutil.wait_procs(ranks, timeout=120)[1] == [], "all of them have ended"
    log = output.read_text()
    found = newest(tmp_path / "checkpoints" / "preempted", print)
    assert f"SIGTERM: saved at step {found.step} of 2000; continue with --resume" in log
    assert ("the heavy log at step 2 is broken off" in log) == heavy_log
    if heavy_log:
        assert found.step == 2
        assert not (evaluation / "results.json").exists(), "--resume makes it again"
    assert "Traceback" not in log
    assert not (tmp_path / "checkpoints" / "preempted" / "honest_persona.json").exists(), "it is not finished"


def test_a_rank_that_is_killed_takes_the_others_along(tmp_path):
    ranks, output = begin(tmp_path, "killed")
    ranks[1].kill()
    assert psutil.wait_procs(ranks, timeout=120)[1] == []
    assert "error: rank 1 has ended, so this one ends too; checkpoint" in output.read_text()
    assert newest(tmp_path / "checkpoints" / "killed", print) is not None
