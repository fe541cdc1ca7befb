"""A part of the machine is all there is: pinned cores, quotas and limits of containers, several ranks."""

import os

import pytest
import torch

from honest_persona.base import machine
from honest_persona.base.machine import container_bytes, usable_cores, use_own_cores


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Writes files of the kernel; the process is in the group /job/step of every controller."""
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    (tmp_path / "own").write_text("3:memory:/job/step\n2:cpu,cpuacct:/job/step\n0::/job/step\n")

    def write(name: str, text: str):
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return tmp_path / "cgroup"

    return write


def test_cores_without_a_limit(cgroup, monkeypatch):
    folder = cgroup("cpu.max", "max 100000\n")
    cgroup("cpu/cpu.cfs_quota_us", "-1\n")
    assert usable_cores(cgroup("cpu/cpu.cfs_period_us", "100000\n")) == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})  # taskset, or a batch system
    assert usable_cores(folder) == 2


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"job/cpu.max": "400000 100000\n", "job/step/cpu.max": "max 100000\n"}, 4),
        ({"job/cpu.max": "400000 100000\n", "job/step/cpu.max": "800000 100000\n"}, 4),
        ({"unified/job/step/cpu.max": "300000 100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "600000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ({"cpu/job/step/cpu.cfs_quota_us": "50000\n", "cpu/job/step/cpu.cfs_period_us": "10000\n"}, 5),
        ({"other/cpu.max": "100000 100000\n"}, 64),
    ],
)
def test_cores_of_a_quota(cgroup, files, cores):
    for name, text in files.items():
        folder = cgroup(name, text)
    assert usable_cores(folder) == cores


@pytest.mark.parametrize(
    ("where", "names", "inactive"),
    [
        ("job/step", ("memory.max", "memory.current"), "inactive_file"),
        ("memory/job/step", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "inactive_file"),
    ],
)
def test_memory_of_a_container(cgroup, where, names, inactive):
    assert container_bytes(cgroup("memory.max", "max\n")) is None
    for name, value in zip(names, (1_000_000, 700_000), strict=True):
        folder = cgroup(f"{where}/{name}", f"{value}\n")
    cgroup(f"{where}/memory.stat", f"anon 500000\n{inactive} 150000\n")
    assert container_bytes(folder) == 1_000_000 - 700_000 + 150_000


def test_ranks_share_the_cores(cgroup, monkeypatch):
    folder = cgroup("cpu.max", "600000 100000\n")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = torch.get_num_threads()
    try:
        for name, ranks, wanted in (("LOCAL_SIZE", "2", 3), ("LOCAL_WORLD_SIZE", "4", 1), ("LOCAL_WORLD_SIZE", "9", 1)):
            monkeypatch.setenv(name, ranks)
            torch.set_num_threads(8)
            assert use_own_cores(folder) == torch.get_num_threads() == wanted
        torch.set_num_threads(8)
        monkeypatch.setenv("OMP_NUM_THREADS", "8")
        assert use_own_cores(folder) == 8
    finally:
        torch.set_num_threads(threads)
