"""Which of the run's processes this is, and what they decide together."""

import os

import torch
import torch.distributed as dist


def is_launched() -> bool:
    """Whether a launcher (deepspeed, torchrun, accelerate) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def world_size() -> int:
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def rank() -> int:
    return int(os.environ["RANK"]) if is_launched() else 0


def say(text: str) -> None:
    """Print on the first rank only."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, flush=True)


def all_agree(here: bool) -> bool:
    """Whether it is so on every rank."""
    if not dist.is_initialized():
        return here
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    agreed = torch.tensor(int(here), device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed.item())
