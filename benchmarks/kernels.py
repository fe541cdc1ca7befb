"""Kernel calls of a training step, counted: TRL's step and ours, on the lengths of real records.

    python -m benchmarks.kernels                  # the 104 M model of `benchmarks.training --setup cpu`
    python -m benchmarks.kernels --setup tiny     # seconds

PyTorch's profiler sees every operator. Counted are matrix products, and all other operators that call no counted
operator themselves. An operator that computes nothing (a view, an empty tensor, a look at a number) is not counted. On
a GPU a counted operator is one kernel, with few exceptions. The head and attention are others there than on a CPU.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import logging as transformers_logging

from benchmarks.common import print_table, report
from benchmarks.rounds import give_back_memory
from benchmarks.setups import SETUPS, in_format
from benchmarks.training import make_bench
from benchmarks.turns import StepwiseTraining
from benchmarks.variants import LABELS, Bench

PRODUCTS = frozenset({"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "mv", "addmv", "dot"})
COPIES = frozenset({"copy_", "cat", "_foreach_copy_", "_to_copy", "clone", "contiguous", "index_select", "stack"})
KINDS = ("products", "copies", "attention", "elementwise")
# fmt: off
NO_KERNEL = frozenset((
    "view", "_unsafe_view", "reshape", "_reshape_alias", "as_strided", "expand", "expand_as", "t", "transpose",
    "transpose_", "permute", "unsqueeze", "squeeze", "squeeze_", "select", "narrow", "slice", "split",
    "split_with_sizes", "unbind", "chunk", "detach", "detach_", "alias", "lift_fresh", "resolve_conj", "resolve_neg",
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_", "result_type",
    "unfold", "numpy_T", "is_same_size", "_has_compatible_shallow_copy_type", "to", "_local_scalar_dense", "item",
    "is_nonzero", "unflatten", "flatten", "ones", "zeros", "view_as", "movedim", "scalar_tensor", "unsafe_split",
    "requires_grad_", "real", "resize_as_", "_nested_tensor_size", "diagonal", "as_strided_",
))
# fmt: on
"""Operators that compute nothing. `ones` and `zeros` call `fill_` or `zero_`, which is counted."""


_CASTS, _HELPERS = frozenset({"to", "_to_copy"}), frozenset({"fill_", "zero_"})
"""What an operator does to its own output before it computes (`sum`) is no call of its own."""


class Kernels(AbstractContextManager["Kernels"]):
    """Counts kernel calls of what runs inside, in the thread that enters, by operator."""

    counts: Counter[str]

    def __enter__(self) -> "Kernels":
        self._profile = profile(activities=[ProfilerActivity.CPU], acc_events=True, record_shapes=True)
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profile.__exit__(*error)
        events: Any = self._profile.events()
        roots = [event for event in events if event.cpu_parent is None]
        self.counts = sum((_counted(event) for event in roots), Counter())

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def by_kind(self) -> dict[str, int]:
        """Elementwise operators and sums are what is neither product nor copy nor attention."""
        found = dict.fromkeys(KINDS, 0)
        for name, n in self.counts.items():
            kind = "products" if name in PRODUCTS else "copies" if name in COPIES else "elementwise"
            found["attention" if "attention" in name else kind] += n
        return found


def _counted(event: Any) -> Counter[str]:
    """The kernel calls of an operator and of all that it calls."""
    name = event.name.removeprefix("aten::")
    if name in _CASTS and event.input_shapes[:1] == [[]]:
        return Counter()  # of a number, on the host
    within: Counter[str] = sum((_counted(child) for child in event.cpu_children), Counter())
    if name == event.name or name in NO_KERNEL:
        return within
    if name in PRODUCTS:
        within[name] += 1
        return within
    return within if set(within) - _HELPERS else Counter({name: 1})


def counted_steps(bench: Bench, names: Sequence[str]) -> dict[str, Kernels]:
    """Kernel calls of each variant's second optimizer step; all variants take the same rows."""
    found = {}
    for name in names:
        training = StepwiseTraining(bench.trainer(name))
        training.turn()
        found[name] = Kernels()
        training.turn(found[name])
        training.finish()
        give_back_memory()
        print(f"{name}: {found[name].total:,} kernel calls", file=sys.stderr, flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="benchmarks.kernels", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--setup", choices=SETUPS, default="cpu")
    parser.add_argument("--only", default="A,E", help="variants of benchmarks.training")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the base model; default: as the setup")
    parser.add_argument("--tokens_per_batch", type=int, help="of E; default: the setup's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there too")
    given = parser.parse_args(argv)
    names = given.only.split(",")
    if unknown := sorted(set(names) - set(LABELS)):
        parser.error(f"--only: choose from {','.join(LABELS)}, got {','.join(unknown)}")
    setup = in_format(SETUPS[given.setup], given.dtype)
    transformers_logging.set_verbosity_error()
    Kernels().__enter__().__exit__(None, None, None)  # the profiler wants to be set up in the main thread
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(setup, False, 1, given.tokens_per_batch, Path(folder))
        found = counted_steps(bench, names)
        batches = {name: len(bench.layout(name)[1]) for name in names}
    counts = {
        name: {"total": one.total, **one.by_kind(), "micro_batches": batches[name]} for name, one in found.items()
    }
    columns = ["micro_batches", "total", *KINDS]
    print_table(
        f"kernel calls of an optimizer step: {setup.family}, {setup.batch_size} rows, {setup.dtype}",
        ["", "micro-batches", "all", *KINDS],
        [[f"{name} {LABELS[name]}", *(f"{one[key]:,}" for key in columns)] for name, one in counts.items()],
        ["a matrix product, or an operator that calls no other; views and empty tensors are not counted"],
    )
    operators = {name: dict(one.counts.most_common()) for name, one in found.items()}
    figures = {"counts": counts, "operators": operators}
    report("kernels", figures, torch.device(setup.device), given.json)
    return figures


if __name__ == "__main__":
    main()
