"""How much memory this process can still take."""

from pathlib import Path

import psutil
import torch

from honest_persona.base.machine import CGROUP, container_bytes, ranks_here


def free_memory(device: torch.device, ranks: int | None = None, cgroup: Path = CGROUP) -> int:
    """Bytes that this process can still take: of its GPU, or else its share of what machine and container have free.

    Args:
        ranks: processes of this run on this machine, which share its memory; None: as the launcher says.
        cgroup: where Linux shows the limits of containers.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free, in_container = psutil.virtual_memory().available, container_bytes(cgroup)
    return (free if in_container is None else min(free, in_container)) // (ranks or ranks_here())
