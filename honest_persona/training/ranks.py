"""The processes of a run: they join a group, and notice when one of them has ended."""

import os
import socket
import time
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from accelerate.utils import gather_object

from honest_persona.base.ranks import rank


def join(use_deepspeed: bool, backend: str | None = None, timeout_s: float = 1800) -> None:
    """Join the launcher's group, with the CPU where there is no GPU.

    Call this before a model is loaded: DeepSpeed would count the ranks twice.
    """
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend, timeout = backend or ("nccl" if gpu else "gloo"), timedelta(seconds=timeout_s)
    if not use_deepspeed:
        dist.init_process_group(backend, timeout=timeout)
        return
    if not gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if not gpu:
        # This operator serves tensor-parallel inference on CPUs only. Each start would compile it (a killed start
        # leaves a lock, for which the next start waits for ever) and leave 66 MiB per rank in /dev/shm for good.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout)


class Siblings:
    """The processes of this run's other ranks on this machine. Made by all ranks together."""

    def __init__(self) -> None:
        here = (socket.gethostname(), os.getpid(), rank())
        everyone = gather_object([here]) if dist.is_initialized() else []
        self.rank_of = {pid: r for host, pid, r in everyone if host == here[0] and pid != here[1]}

    def ended(self, wait_seconds: float = 0) -> list[int]:
        """Ranks whose process has ended.

        Args:
            wait_seconds: how long to look again, since a connection breaks a moment before its process is gone.
        """
        until = time.monotonic() + wait_seconds
        while True:
            gone = [r for pid, r in self.rank_of.items() if not _runs(pid)]
            if gone or time.monotonic() >= until:
                return gone
            time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
