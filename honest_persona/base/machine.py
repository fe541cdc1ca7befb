"""The part of the machine that this process may use: a container, a batch system or `taskset` may set limits."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """The number of cores that this process may run on: the cores it is pinned to, at most its container's quota.

    Args:
        cgroup: where Linux shows the limits of containers, version 1 or 2.
    """
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups("cpu", cgroup) if (quota := _quota(folder))]
    return max(1, min([pinned, *map(round, quotas)]))


def container_bytes(cgroup: Path = CGROUP) -> int | None:
    """Memory that this process's container can still take; None without a limit. Cached files count as free."""
    left = [free for folder in _groups("memory", cgroup) if (free := _bytes_left(folder)) is not None]
    return min(left, default=None)


def ranks_here() -> int:
    """Processes of this run on this machine; torchrun and DeepSpeed's launcher use different variables."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)


def use_own_cores(cgroup: Path = CGROUP) -> int:
    """Let torch use this process's share of the usable cores; returns how many threads it uses now.

    torch starts a thread for each core of the machine. In a container with a quota, or with several ranks on one CPU,
    these threads would hinder each other. Where OMP_NUM_THREADS is set, nothing is changed.
    """
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, min(torch.get_num_threads(), usable_cores(cgroup) // ranks_here())))
    return torch.get_num_threads()


def _groups(controller: str, cgroup: Path) -> Iterator[Path]:
    """Folders of the control groups of this process, the innermost first; the limits of all groups hold."""
    tops = {cgroup: "/", cgroup / controller: "/"}
    for line in _OWN_GROUPS.read_text().splitlines() if _OWN_GROUPS.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2; `unified` where both versions are mounted
            tops |= {cgroup: path, cgroup / "unified": path}
        elif controller in controllers.split(","):
            tops[cgroup / controller] = path
    for top, path in tops.items():
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):  # within a container the outer part of the path is not there
            if folder.is_dir():
                yield folder
            if folder == top:
                break


def _quota(folder: Path) -> float | None:
    """The quota of processor time, in cores; None without a limit."""
    words = _words(folder / "cpu.max") or [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
    match words:
        case [quota, period] if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return None


def _bytes_left(folder: Path) -> int | None:
    limit = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
    used = _words(folder / "memory.current") or _words(folder / "memory.usage_in_bytes")
    if not limit or not used or limit == ["max"]:
        return None
    statistics = _words(folder / "memory.stat")
    by_name = dict(zip(statistics[::2], statistics[1::2], strict=True))
    # cached files count as used, but the system frees them on demand; version 1 counts those of inner groups apart
    files = by_name.get("total_inactive_file") or by_name.get("inactive_file", "0")
    return max(0, int(limit[0]) - int(used[0]) + int(files))


def _words(path: Path) -> list[str]:
    """The words of a file of the kernel; an empty list where the file cannot be read."""
    try:
        return path.read_text().split()
    except OSError:
        return []
