"""The fastest number format of this machine: a GPU's capability decides, on a CPU a measured product decides.

Processors with AMX or AVX512-BF16 multiply bfloat16 two to eight times as fast as float32. All other processors emulate
bfloat16, four to sixty times slower than float32. So neither format is right everywhere.
"""

import time
from typing import Literal, NamedTuple, get_args

import torch

FormatName = Literal["auto", "float32", "bfloat16", "float16"]
FORMATS: tuple[str, ...] = get_args(FormatName)

_SIZE = 256
_ROUNDS = 5
_ENOUGH_S = 0.1
WORTH = 1.2
"""A bfloat16 product must be faster by this factor: casts between the formats cost a part of the gain."""


class NumberFormat(NamedTuple):
    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        """As the config and transformers spell it: `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"number format {self.name}: {self.reason}"


def fastest_format(device: torch.device | None = None) -> NumberFormat:
    """bfloat16 where the device computes fast in bfloat16, float32 elsewhere.

    Args:
        device: None takes the GPU where there is one, and the CPU otherwise.

    On a CPU two products are timed, usually for 10 ms; where bfloat16 is emulated for at most about 0.3 s.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return NumberFormat(torch.bfloat16, "this GPU computes in it")
        return NumberFormat(torch.float32, "this GPU has no bfloat16")
    if device.type != "cpu":
        return NumberFormat(torch.float32, f"bfloat16 is not known to be fast on {device.type}")
    return choose(*_product_seconds())


def choose(float32_s: float, bfloat16_s: float) -> NumberFormat:
    """The format to use, given the seconds of one product in each format."""
    in_bfloat16 = bfloat16_s * WORTH < float32_s
    measured = f"{1e3 * float32_s:.2g} ms in float32, {1e3 * bfloat16_s:.2g} ms in bfloat16"
    return NumberFormat(
        torch.bfloat16 if in_bfloat16 else torch.float32,
        f"a product of {_SIZE} x {_SIZE} matrices takes one core {measured}",
    )


def format_of(name: str | None, trained_in: str) -> NumberFormat:
    """The number format for running a trained model.

    Args:
        name: one of `FORMATS`. `auto` and None take the format of the training where this device is fast in it, and
            float32 elsewhere, which loses nothing. (bfloat16 can round away a short training in float32.)
        trained_in: the name of the training's format.
    """
    if name not in (None, "auto"):
        return NumberFormat(getattr(torch, str(name)), "as asked for")
    if trained_in == "float32":
        return NumberFormat(torch.float32, "as in training")
    fastest = fastest_format()
    on_gpu = torch.cuda.is_available()
    if fastest.name == trained_in or (on_gpu and trained_in == "float16"):
        return NumberFormat(getattr(torch, trained_in), f"as in training; {fastest.reason}")
    reason = fastest.reason if fastest.dtype == torch.float32 else "a CPU emulates float16"
    return NumberFormat(torch.float32, f"training was in {trained_in}; {reason}")


def _product_seconds() -> tuple[float, float]:
    """Seconds of one product in float32 and in bfloat16: the fastest of several each, taken in turn.

    Timed on one thread: one thread shows the speed of the processor's instructions, even while other work is running.
    """
    values = torch.randn(_SIZE, _SIZE, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    operands = [values.to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    best = [float("inf"), float("inf")]
    threads, spent = torch.get_num_threads(), 0.0
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for turn in range(1 + _ROUNDS):
                for i, operand in enumerate(operands):
                    start = time.perf_counter()
                    torch.nn.functional.linear(operand, operand)
                    seconds = time.perf_counter() - start
                    if turn:  # the first product only builds the kernel
                        best[i] = min(best[i], seconds)
                        spent += seconds
                if spent > _ENOUGH_S:
                    break
    finally:
        torch.set_num_threads(threads)
    return best[0], best[1]
