"""How much memory this process can still take."""

import os
from pathlib import Path

import psutil
import torch


def free_memory(device: torch.device, ranks: int | None = None, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process can still take: of its GPU; else its share of what machine and container have left.

    Args:
        ranks: processes of this run on this machine, which share its memory; None: as the launcher says.
        cgroup: where a container finds its limits.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = psutil.virtual_memory().available
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        # pages of files count as used, and are given up for the asking
        free = min(free, limit - used + int(statistics["inactive_file"]))
    except (OSError, ValueError):  # no container, or `max`: one without a limit
        pass
    return max(free, 0) // (ranks or ranks_here())


def ranks_here() -> int:
    """Processes of this run on this machine: torchrun names them one way, DeepSpeed's launcher another."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
