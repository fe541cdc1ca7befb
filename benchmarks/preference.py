"""The cost of a step on preferences: TRL's DPOTrainer and KTOTrainer against ours, on the same rows, in one process.

    python -m benchmarks.preference --setup cpu     # a 104 M model of Qwen3's shape, two cores: an hour
    python -m benchmarks.preference --setup gpu     # a model of Llama-3.2-1B's shape on any GPU of 24 GB
    python -m benchmarks.preference --setup tiny    # seconds; its times mean nothing

A  TRL's DPOTrainer: the reference runs in every step
B  dpo, scope response: each prompt is run once, without gradient, for policy and reference, chosen and rejected
C  dpo, scope all: TRL's maths
D  TRL's DPOTrainer with precompute_ref_log_probs
E  dpo, scope response, with reference_logprobs: cached
F  TRL's KTOTrainer
G  kto, scope response
H  kto, scope all

TRL is tuned: LoRA on the same layers, no checkpointing, rows of a step sorted by length, rows of any length, the same
number format, micro-batches and accumulation. It has no padding-free batches for these losses. Every variant is a real
trainer inside its own `train()` (see turns.py), over one base model whose weights they share. First each runs two steps
alone; FLOPs and memory are counted. Then all take turns, with one optimizer step each on the same rows, from the same
adapter. The first round warms up; ratios are taken round by round. No step pays for keeping the reference.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import logging as transformers_logging

from benchmarks.common import MIB, Spread, print_table, ratios, report
from benchmarks.lengths import load_groups, random_pairs
from benchmarks.preference_variants import VARIANTS, PreferenceBench, padding_frac
from benchmarks.rounds import COUNTED, UNTIMED, Cost, Timed, cost_of, give_back_memory, set_up_profiler, take_turns
from benchmarks.setups import SETUPS, Setup, in_format, random_base, token_format
from benchmarks.variants import SEED

PARTS = ("costs", "times")


@dataclass
class Measured:
    cost: Cost | None = None
    padding_frac: float | None = None
    timed: Timed | None = None


def run(bench: PreferenceBench, names: Sequence[str], rounds: int, parts: Sequence[str] = PARTS) -> dict[str, Measured]:
    set_up_profiler(bench.setup.device)
    measured = {name: Measured() for name in names}
    for name in names:
        if VARIANTS[name].cached and VARIANTS[name].scope:
            bench.keep_reference(name)
        if "costs" in parts:
            trainer = bench.trainer(name)
            measured[name].cost, measured[name].padding_frac = cost_of(trainer, bench.base), padding_frac(trainer)
            del trainer
            give_back_memory()
            print(f"{name} by itself: FLOPs and memory of a step are counted", file=sys.stderr, flush=True)
    if "times" in parts:
        for name, timed in take_turns({name: bench.trainer(name) for name in names}, rounds).items():
            measured[name].timed = timed
    return measured


def figures_of(bench: PreferenceBench, measured: dict[str, Measured]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, one in measured.items():
        variant = VARIANTS[name]
        found[name] = {"label": variant.label}
        if one.cost:
            found[name] |= {
                "counted_flops_of_a_step": one.cost.flops,
                "peak_bytes": one.cost.peak_bytes,
                "step_bytes": one.cost.step_bytes,
                "padding_frac": one.padding_frac,
            }
        if one.timed:
            seconds = one.timed.seconds
            found[name] |= {
                "rows_per_s": asdict(ratios([bench.setup.batch_size] * len(seconds), seconds)),
                **asdict(one.timed),
            }
        if trls := measured.get(variant.beside):
            found[name]["beside"] = {"variant": variant.beside, **_beside(one, trls, variant.scope == "all")}
    return found


def _beside(one: Measured, trls: Measured, same_maths: bool) -> dict[str, Any]:
    """Times, FLOPs and memory as ratios; and how far the losses are apart where the maths is TRL's."""
    found: dict[str, Any] = {}
    if one.cost and trls.cost:
        found |= {"flops": trls.cost.flops / one.cost.flops, "peak_bytes": one.cost.peak_bytes / trls.cost.peak_bytes}
    if one.timed and trls.timed:
        found["speed_up"] = asdict(ratios(trls.timed.seconds, one.timed.seconds))
        if same_maths:
            curves = zip(trls.timed.losses, one.timed.losses, strict=True)
            found["max_loss_difference"] = max(abs(a - b) for a, b in curves)
    return found


def show(bench: PreferenceBench, found: dict[str, Any], rounds: int) -> None:
    setup, lengths = bench.setup, _mean_lengths(bench)
    notes = [
        f"{setup.family}, {setup.dtype}, LoRA rank {setup.lora_r}; {setup.batch_size} rows a step in micro-batches of "
        f"{setup.micro_batch}; prompts of {lengths['prompt']:.0f} tokens, answers of {lengths['answer']:.0f} on "
        f"average; a row of dpo is a pair, of kto one answer",
        f"medians of {rounds} rounds with lowest and highest; speed-up: round by round",
        "FLOPs by PyTorch's counter; peak MiB: base model, adapter, optimizer and step, at the highest",
    ]
    for name, one in found.items():
        if "max_loss_difference" in (beside := one.get("beside", {})):
            difference = beside["max_loss_difference"]
            notes.append(f"losses of {name} and {beside['variant']}: greatest difference {difference:.1e}")
    columns = ["rows/s", "speed-up", "TFLOP", "fewer FLOPs", "peak MiB", "step MiB", "padding"]
    rows = [[f"{name} {one['label']}", *_cells(one)] for name, one in found.items()]
    print_table("a step on preferences", ["", *columns], rows, notes)


def _cells(one: dict[str, Any]) -> list[str]:
    beside = one.get("beside", {})
    times, costs = ["-", "-"], ["-"] * 5
    if "seconds" in one:
        times = [str(Spread(**one["rows_per_s"])), "1"]
    if "speed_up" in beside:
        times[1] = f"{Spread(**beside['speed_up'])} x {beside['variant']}"
    if "peak_bytes" in one:
        costs = [f"{one['counted_flops_of_a_step'] / 1e12:.3g}", f"{beside.get('flops', 1):.2f}"]
        costs += [f"{one[key] / MIB:,.0f}" for key in ("peak_bytes", "step_bytes")]
        costs.append(f"{one['padding_frac']:.1%}")
    return times + costs


def _mean_lengths(bench: PreferenceBench) -> dict[str, float]:
    pairs = bench.pairs
    total = {c: sum(map(len, pairs[c])) / len(pairs) for c in ("prompt_ids", "chosen_ids", "rejected_ids")}
    return {"prompt": total["prompt_ids"], "answer": (total["chosen_ids"] + total["rejected_ids"]) / 2}


def make_bench(setup: Setup, rounds: int, folder: Path) -> PreferenceBench:
    n_rows = max(UNTIMED + rounds, COUNTED) * setup.batch_size
    groups = load_groups("default", setup.seq_len, n_rows, SEED)
    pairs = random_pairs(groups, setup.vocabulary, token_format("response"), SEED)
    return PreferenceBench(setup, random_base(setup), pairs, folder)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="benchmarks.preference", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--setup", choices=SETUPS, default="cpu")
    parser.add_argument("--rounds", type=int, help="timed rounds; default: the setup's")
    parser.add_argument("--only", default=",".join(VARIANTS), help="variants, as A,B")
    parser.add_argument("--part", choices=PARTS, help="FLOPs and memory alone, or seconds alone; default: both")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the base model; default: as the setup")
    parser.add_argument("--seq_len", type=int, help="leave out longer rows; default: the setup's")
    parser.add_argument("--batch_size", type=int, help="rows of an optimizer step; default: the setup's")
    parser.add_argument("--micro_batch", type=int, help="rows of a micro-batch; default: the setup's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args(argv)
    names = [name for name in VARIANTS if name in given.only.split(",")]
    if not names or set(given.only.split(",")) - set(VARIANTS):
        parser.error(f"--only: choose from {','.join(VARIANTS)}, got {given.only}")
    changed = {
        key: value for key in ("seq_len", "batch_size", "micro_batch") if (value := getattr(given, key)) is not None
    }
    setup = in_format(replace(SETUPS[given.setup], **changed), given.dtype)
    rounds = setup.rounds if given.rounds is None else given.rounds
    transformers_logging.set_verbosity_error()
    # kernels are kept per shape, and every micro-batch has another one
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HONEST_PERSONA_CACHE"] = folder  # log-probabilities of a random model are of no use to the user
        bench = make_bench(setup, rounds, Path(folder))
        found = figures_of(bench, run(bench, names, rounds, [given.part] if given.part else PARTS))
    show(bench, found, rounds)
    figures = {
        "setup": {**asdict(setup), "dtype": str(setup.dtype), "name": given.setup},
        "n": {"rounds": rounds, "rows": len(bench.pairs), "mean_tokens": _mean_lengths(bench)},
        "variants": found,
    }
    report("preference", figures, torch.device(setup.device), given.json)
    return figures


if __name__ == "__main__":
    main()
