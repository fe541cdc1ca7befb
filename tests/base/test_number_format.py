"""Which number format is chosen: by the measured product on a CPU, by capability on a GPU, by the training for use."""

import pytest
import torch

from honest_persona.base import number_format
from honest_persona.base.number_format import WORTH, choose, fastest_format, format_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("float32_ms", "bfloat16_ms", "chosen"),
    [
        (0.4, 2.2, torch.float32),  # AVX2: emulated
        (0.4, 35.0, torch.float32),
        (0.4, 0.4, torch.float32),  # casts would cost more than nothing gains
        (0.4, 0.4 / WORTH, torch.float32),
        (0.4, 0.39 / WORTH, torch.bfloat16),
        (0.4, 0.05, torch.bfloat16),  # AMX
    ],
)
def test_the_measured_product_decides(monkeypatch, float32_ms, bfloat16_ms, chosen):
    monkeypatch.setattr(number_format, "_product_seconds", lambda: (float32_ms / 1e3, bfloat16_ms / 1e3))
    found = fastest_format(CPU)
    assert found.dtype == chosen
    assert found.reason.endswith(f"{float32_ms:.2g} ms in float32, {bfloat16_ms:.2g} ms in bfloat16")


def test_a_measurement_is_of_this_machine_and_leaves_its_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seconds = number_format._product_seconds()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert all(0 < s < 5 for s in seconds)
    # where the processor's instructions leave no doubt, the measurement must have none
    if torch.cpu._is_amx_tile_supported() and torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert choose(*seconds).dtype == torch.bfloat16
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        assert choose(*seconds).dtype == torch.float32


@pytest.mark.parametrize("capable", [True, False])
def test_a_gpu_is_known_by_its_capability(monkeypatch, capable):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capable)
    monkeypatch.setattr(number_format, "_product_seconds", lambda: pytest.fail("nothing is measured"))
    assert fastest_format().dtype == (torch.bfloat16 if capable else torch.float32)


@pytest.mark.parametrize(
    ("asked", "trained_in", "fastest", "gpu", "used"),
    [
        ("float32", "bfloat16", "bfloat16", False, "float32"),
        ("bfloat16", "float32", "float32", False, "bfloat16"),
        ("auto", "bfloat16", "bfloat16", False, "bfloat16"),
        (None, "bfloat16", "float32", False, "float32"),
        ("auto", "float32", "bfloat16", True, "float32"),  # bfloat16 would round away what training has changed
        ("auto", "float16", "float32", False, "float32"),
        ("auto", "float16", "bfloat16", False, "float32"),
        ("auto", "float16", "bfloat16", True, "float16"),
        ("auto", "float16", "float32", True, "float16"),
    ],
)
def test_use_follows_the_training_where_that_is_fast(monkeypatch, asked, trained_in, fastest, gpu, used):
    found = number_format.NumberFormat(getattr(torch, fastest), "measured")
    monkeypatch.setattr(number_format, "fastest_format", lambda: found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    chosen = format_of(asked, trained_in)
    assert chosen.name == used
    assert str(chosen).startswith(f"number format {used}: ")
    assert ("as in training" in chosen.reason) == (asked in (None, "auto") and used == trained_in)
    assert trained_in in chosen.reason or asked not in (None, "auto") or used == trained_in
