"""What a training costs in communication on many GPUs: computed from rates of one GPU and of links, not measured.

    python -m benchmarks.nodes                            # 70B on 8 and 64 GPUs of 140 GB
    python -m benchmarks.nodes --gpu_gb 80 --gpus 8 16    # the same on GPUs of 80 GB
    python -m benchmarks.nodes --reached 0.7              # links that reach 70 % of their data sheets' rates

A step of variant E that was measured on one H200 (`MEASURED`; docs/performance.md, section 2) is scaled to the shape:
its time by the FLOPs of the linear layers, its activations by layers x hidden size. For each stage the table has the
fewest micro-batches that fit, because ZeRO-3 gathers all weights anew for each.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.common import MIB, print_table, report
from benchmarks.large import setup_of
from benchmarks.lengths import load_groups
from benchmarks.setups import TARGETS, Setup

GB = 1e9


class Measured(NamedTuple):
    """A step of variant E on one GPU: one micro-batch, activations kept."""

    shape: str
    rows: int
    seconds: float
    peak: float
    """Bytes."""


MEASURED = Measured("8b", 16, 0.76, 50_124 * MIB)
DRAWS = 100
"""Lengths are means over so many steps of the measured setup."""
ADAM = 8
"""Bytes of optimizer state for each trained weight, which is float32, as its gradient is."""
BASES = {"bfloat16": 2.0, "8-bit": 1.0, "4-bit": 0.55}
"""Bytes of a base model's weight."""
WAYS = ((2, "bfloat16"), (2, "8-bit"), (2, "4-bit"), (3, "bfloat16"))
"""Stages of ZeRO, and how the base model's weights are held."""


@dataclass(frozen=True)
class Sizes:
    """What a model's shape says."""

    weights: int
    linear: int
    """Weights of the linear layers that every token passes."""
    adapter: int
    layers: int
    hidden: int
    key_values: int
    """Numbers of a token's keys and values in one layer."""

    @classmethod
    def of(cls, setup: Setup) -> "Sizes":
        config = AutoConfig.for_model(setup.family, **setup.shape)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        shapes = [m.weight.shape for name, m in model.named_modules() if name.rpartition(".")[2] in TARGETS]
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            sum(p.numel() for p in model.parameters()),
            sum(shape.numel() for shape in shapes),
            sum(setup.lora_r * sum(shape) for shape in shapes),
            config.num_hidden_layers,
            config.hidden_size,
            2 * config.num_key_value_heads * head,
        )


class Tokens(NamedTuple):
    """Of one GPU's rows, each transcript counted once."""

    prefixes: int
    suffixes: int


@dataclass(frozen=True)
class Links:
    """Bytes per second that a GPU takes in, from GPUs of its machine and of others."""

    within: float
    between: float
    per_machine: int

    def gather(self, size: float, gpus: int) -> float:
        """Seconds in which every GPU gets `size` bytes that are spread over all of them.

        Rings of NCCL enter a machine by all its links at once, so that each link carries its share alone.
        """
        bandwidth = self.within if gpus <= self.per_machine else min(self.within, self.between * self.per_machine)
        return size * (gpus - 1) / gpus / bandwidth


class Plan(NamedTuple):
    stage: int
    base: str
    recomputed: bool
    micro_batches: int
    memory: float
    """Bytes on each GPU at most."""
    compute: float
    """Seconds of a step."""
    communication: float

    @property
    def share(self) -> float:
        """Of the step, where nothing overlaps."""
        return self.communication / (self.communication + self.compute)

    @property
    def waiting(self) -> float:
        """The same where all of it overlaps with computing, except what takes longer than computing."""
        return max(0.0, 1 - self.compute / self.communication)


def flops(sizes: Sizes, tokens: Tokens, recomputed: bool) -> float:
    """Of the linear layers: docs/performance.md, section 1."""
    suffix = 6 if recomputed else 4
    return sizes.linear * (2 * tokens.prefixes + suffix * tokens.suffixes) + 6 * sizes.adapter * tokens.suffixes


def kept(sizes: Sizes, tokens: Tokens) -> float:
    """Bytes of keys and values of transcripts."""
    return 2.0 * sizes.layers * sizes.key_values * tokens.prefixes


def activations(sizes: Sizes, measured: Sizes, step: Tokens, tokens: Tokens, recomputed: bool) -> float:
    """Bytes of one micro-batch.

    All of the measured peak that is not weights, optimizer, or transcripts' keys and values is counted as activations
    of suffixes: somewhat too much, since it grows more slowly than they do.

    Args:
        step: the tokens of the measured step.
    """
    state = BASES["bfloat16"] * measured.weights + (4 + 4 + ADAM) * measured.adapter
    a_token = (MEASURED.peak - state - kept(measured, step)) / step.suffixes
    a_token *= sizes.layers * sizes.hidden / (measured.layers * measured.hidden)
    if recomputed:  # the inputs of layers are kept, and one layer at a time is whole
        a_token = 2 * sizes.layers * sizes.hidden + a_token / sizes.layers
    return kept(sizes, tokens) + a_token * tokens.suffixes


@dataclass(frozen=True)
class Training:
    """What is trained, and where."""

    sizes: Sizes
    measured: Sizes
    tokens: Tokens
    links: Links
    gpus: int

    def plan(self, stage: int, base: str, recomputed: bool, micro_batches: int) -> Plan:
        sizes, tokens, gpus = self.sizes, self.tokens, self.gpus
        part = Tokens(*(math.ceil(n / micro_batches) for n in tokens))
        weights = BASES[base] * sizes.weights
        if stage == 3:  # a part of all weights, and two layers whole: the one at work, and the next
            memory = weights / gpus + 2 * weights / sizes.layers + (4 + 4 + ADAM) * sizes.adapter / gpus
        else:
            memory = weights + (4 + (4 + ADAM) / gpus) * sizes.adapter
        memory += activations(sizes, self.measured, tokens, part, recomputed)
        compute = MEASURED.seconds * flops(sizes, tokens, recomputed) / flops(self.measured, tokens, False)
        reduced = self.links.gather(4 * sizes.adapter, gpus) * (1 if stage == 3 else 2)  # stage 2 sends new weights too
        passes = 4 if recomputed else 3  # transcripts, suffixes, recomputed suffixes, backward
        gathered = passes * micro_batches * self.links.gather(weights, gpus) if stage == 3 else 0.0
        return Plan(stage, base, recomputed, micro_batches, memory, compute, reduced + gathered)

    def plans(self, capacity: float) -> Iterator[tuple[Plan, bool]]:
        """For each stage and base, kept and recomputed, the plan with the fewest micro-batches that fits.

        Where none fits: the one that needs least, and False.
        """
        for stage, base in WAYS:
            every = [[self.plan(stage, base, again, k + 1) for k in range(MEASURED.rows)] for again in (False, True)]
            found = [next((one for one in some if one.memory <= capacity), None) for some in every]
            yield from ((one, True) for one in found if one is not None)
            if not any(found):
                yield every[-1][-1], False


def mean_tokens() -> Tokens:
    """Of a step of the measured setup."""
    setup = setup_of(MEASURED.shape)
    groups = load_groups("default", setup.seq_len, MEASURED.rows * DRAWS, 0)
    suffixes = sum(suffix.tokens for group in groups for suffix in group.suffixes)
    return Tokens(round(sum(group.prefix_tokens for group in groups) / DRAWS), round(suffixes / DRAWS))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="benchmarks.nodes", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=["8b", "32b", "70b"], default="70b")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--per_machine", type=int, default=8, help="GPUs of a machine, each with a network link")
    parser.add_argument("--gpu_gb", type=float, default=140.0)
    parser.add_argument("--nvlink", type=float, default=450.0, help="GB/s of a GPU in each direction")
    parser.add_argument("--network", type=float, default=50.0, help="GB/s of a network link in each direction")
    parser.add_argument("--reached", type=float, default=1.0, help="share of these rates that is reached")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args(argv)
    if min(given.gpus) < 2 or not 0 < given.reached <= 1:
        parser.error("--gpus: 2 or more; --reached: above 0, at most 1")
    links = Links(given.nvlink * GB * given.reached, given.network * GB * given.reached, given.per_machine)
    sizes, measured = (Sizes.of(setup_of(shape)) for shape in (given.shape, MEASURED.shape))
    tokens = mean_tokens()
    lines, found = [], []
    for gpus in given.gpus:
        training = Training(sizes, measured, tokens, links, gpus)
        for one, fits in training.plans(0.95 * given.gpu_gb * GB):
            cells = [f"{gpus} ZeRO-{one.stage}, {one.base}, {'recomputed' if one.recomputed else 'kept'}"]
            cells += [str(one.micro_batches), f"{one.memory / GB:,.0f}{'' if fits else ': no'}"]
            times = f"{one.compute:.1f}", f"{one.communication:.2f}", f"{one.share:.0%}", f"{one.waiting:.0%}"
            lines.append([*cells, *(times if fits else ["-"] * 4)])
            found.append({"gpus": gpus, "fits": fits, **one._asdict(), "share": one.share, "waiting": one.waiting})
    print_table(
        f"{given.shape}: {MEASURED.rows} rows a GPU and step; GPUs of {given.gpu_gb:g} GB; computed, not measured",
        ["GPUs, weights, activations", "micro-batches", "GB", "compute s", "links s", "share", "waiting"],
        lines,
        [
            f"rows up to 2,048 tokens: {tokens.prefixes:,} of transcripts and {tokens.suffixes:,} of suffixes a step",
            "micro-batches: the fewest that fit into 95 % of the memory",
            "share: of the links in a step in which nothing overlaps; waiting: where all that can overlap does",
            "with a quantized base computing takes longer than this",
        ],
    )
    figures = {"tokens": tokens._asdict(), "sizes": asdict(sizes), "plans": found}
    report("nodes", figures, torch.device("cpu"), given.json)
    return figures


if __name__ == "__main__":
    main()
