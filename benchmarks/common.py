"""Shared by all benchmarks: a description of the machine, summaries of paired rounds, FLOP counting, table and JSON."""

import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from honest_persona.base import json_text
from honest_persona.base.console import Column, Table, say, show

MIB = 2**20
_VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "honest-persona")
_PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 peak in FLOP/s by name of the GPU, SXM boards: NVIDIA's data sheets, sparsity not counted."""


@dataclass(frozen=True)
class Spread:
    """The median of paired rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{_three_digits(self.median)} ({_three_digits(self.low)}-{_three_digits(self.high)})"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratios(of: Sequence[float], to: Sequence[float]) -> Spread:
    """Round by round, so that what slows the machine down for a while slows both."""
    return Spread.of([a / b for a, b in zip(of, to, strict=True)])


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of the device by its data sheet; None where it is not known (every CPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK_FLOPS.items() if part in name and "PCIe" not in name), None)


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, memory and GPU in words; nothing that names this very machine."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = lines[0] if lines else cpu
    found = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_gib": round(properties.total_memory / 2**30)}
    return found


def report(name: str, figures: Mapping[str, Any], device: torch.device, path: Path | None) -> None:
    """Write the figures with all that is needed to take them again; without a path nothing is written."""
    if path is None:
        return
    content = {
        "benchmark": name,
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "machine": machine(device),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _VERSIONS},
        **figures,
    }
    path.write_text(json_text.dumps(json_text.defined(content), indent=2) + "\n", encoding="utf-8")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    table = Table(title, [Column(columns[0], "name"), *(Column(heading) for heading in columns[1:])], blocks=True)
    for row in rows:
        table.add(*row)
    show(table)
    for note in notes:
        say(note)


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter, with attention counted on every device and with grouped heads too.

    A matrix product counts 2mnk. So does one that is added to something in place, as folded LoRA's, which PyTorch's own
    counter leaves out. Attention counts its products over the whole mask, masked places included. PyTorch's own
    formulas for products take no `out_dtype`, which TRL's head gives on a GPU: they raise a TypeError
    (torch/utils/flop_counter.py, `addmm_flop`, `bmm_flop`, `baddbmm_flop` of 2.13; drop ours when these take it).
    """
    aten: Any = torch.ops.aten
    kinds = ("flash_attention", "efficient_attention", "cudnn_attention")
    forward = [getattr(aten, f"_scaled_dot_product_{kind}") for kind in kinds]
    backward = [getattr(aten, f"_scaled_dot_product_{kind}_backward") for kind in kinds]
    forward.append(aten._scaled_dot_product_flash_attention_for_cpu)
    backward.append(aten._scaled_dot_product_flash_attention_for_cpu_backward)
    mapping: dict[Any, Any] = {aten.mm: _product_flops, aten.bmm: _product_flops}
    mapping |= dict.fromkeys((aten.addmm, aten.addmm_, aten.baddbmm), _added_product_flops)
    mapping |= dict.fromkeys(forward, _attention_flops) | dict.fromkeys(backward, _attention_backward_flops)
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _product_flops(a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Of (..., m, k) and (..., k, n), whatever else the call is given: out_dtype, out, beta, alpha."""
    return 2 * math.prod(a) * b[-1]


def _added_product_flops(_added: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    """The addition is not counted."""
    return _product_flops(a, b)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scores and their product with the values. Shapes are (B, heads, T, head dimension)."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (width + value[3])


def _attention_backward_flops(grad_out: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scores once more, and the gradients of values, weights, queries and keys."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (3 * width + 2 * value[3])
