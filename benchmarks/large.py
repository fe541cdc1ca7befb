"""The largest model that trains on one GPU: a few steps on a random model of a given shape, on rows of full length.

    python -m benchmarks.large --shape 32b                                # weights on the GPU
    deepspeed --num_gpus 1 --module benchmarks.large --shape 70b          # ZeRO-3, weights in the host's memory
    python -m benchmarks.large --shape tiny

Prints time, memory and the number of trained weights. bfloat16 weights take 2 bytes each: 32b 66 GB and 70b 141 GB, on
the GPU or in the host's memory. A shape that does not fit ends with PyTorch's out-of-memory error.
"""

import argparse
import resource
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import logging as transformers_logging

from benchmarks.common import MIB, Spread, print_table, report
from benchmarks.setups import SETUPS, Setup, lora_settings, random_base, token_format
from benchmarks.turns import StepwiseTraining
from benchmarks.variants import OPTIMIZER
from honest_persona.base.console import say
from honest_persona.base.ranks import is_launched
from honest_persona.config.keys import RunConfig
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.lora import add_adapter
from honest_persona.prompts.prepare import dummy_rows
from honest_persona.training.assembly import Assembly
from honest_persona.training.ranks import join

_SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("qwen3", {}),
    "8b": ("llama", {}),
    "32b": (  # Qwen3-32B
        "qwen3",
        {
            "hidden_size": 5120,
            "intermediate_size": 25600,
            "num_hidden_layers": 64,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "vocab_size": 151936,
        },
    ),
    "70b": (  # Llama-3.3-70B
        "llama",
        {
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
        },
    ),
}


def setup_of(shape: str) -> Setup:
    family, changes = _SHAPES[shape]
    setup = SETUPS["tiny" if shape == "tiny" else "h200"]
    return replace(setup, family=family, shape={**setup.shape, **changes})


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="benchmarks.large", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=_SHAPES, default="32b")
    parser.add_argument("--steps", type=int, default=4, help="after one that warms up")
    parser.add_argument("--batch_size", type=int, help="rows of an optimizer step; default: 16, and 4 for tiny")
    parser.add_argument("--checkpointing", choices=["on", "off"], default="on", help="of activations")
    parser.add_argument(
        "--deepspeed", default="ds_configs/zero3_offload.json", help="used where its launcher runs this"
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the launcher gives it
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    setup = setup_of(given.shape)
    form = token_format()
    batch_size = given.batch_size or setup.batch_size
    bf16 = setup.dtype == torch.bfloat16
    options = {**OPTIMIZER, "max_steps": given.steps + 1, "per_device_train_batch_size": 1}
    config = RunConfig(
        seq_len=setup.seq_len,
        batch_size=batch_size,
        num_samples=batch_size * (given.steps + 1),
        use_dummy_data=True,
        lora_r=setup.lora_r,
        activation_checkpointing=given.checkpointing == "on",
        bf16=bf16,
        trainer={**options, "deepspeed": given.deepspeed if is_launched() else None},
    )
    device = torch.device(setup.device)
    if is_launched():
        join(use_deepspeed=True)
    rows = dummy_rows(config, form)
    assembly = Assembly.of(config, form, rows)
    with tempfile.TemporaryDirectory() as folder:
        # before the model, which ZeRO-3 shards as it is made
        args = assembly.arguments(Path(folder), given.checkpointing == "on")
        base = random_base(setup)
        zero3 = args.deepspeed_plugin is not None
        model = add_adapter(base, form, {**lora_settings(setup), "autocast_adapter_dtype": not zero3})
        card = AdapterCard(form.persona, f"random:{given.shape}", None, "random", "none")
        trainer = assembly.trainer(args, model, card)
        trained = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
        total = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
        training = StepwiseTraining(trainer)
        training.turn()
        seconds = [training.turn() for _ in range(given.steps)]
        training.finish()
    gpu_bytes = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    host_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    step = Spread.of(seconds)
    tokens = batch_size * setup.seq_len / step.median
    cells = [
        f"{given.shape}, {'ZeRO-3 with offload' if zero3 else 'one process'}",
        f"{total / 1e9:.3g} B",
        f"{trained / 1e6:,.0f} M",
        str(step),
        f"{tokens:,.0f}",
        "-" if gpu_bytes is None else f"{gpu_bytes / MIB:,.0f}",
        f"{host_bytes / MIB:,.0f}",
    ]
    if trainer.is_world_process_zero():
        columns = ["", "weights", "trained", "seconds/step", "represented tokens/s", "GPU peak MiB", "host peak MiB"]
        title = f"{batch_size} rows of {setup.seq_len} tokens a step, checkpointing {given.checkpointing}"
        print_table(title, columns, [cells], [f"median (lowest-highest) of {given.steps} steps"])
    figures = {
        "shape": {"name": given.shape, "family": setup.family, **setup.shape},
        "zero3_offload": zero3,
        "checkpointing": given.checkpointing,
        "n": {"steps": given.steps, "batch_size": batch_size, "seq_len": setup.seq_len},
        "weights": total,
        "trained_weights": trained,
        "seconds": seconds,
        "gpu_peak_bytes": gpu_bytes,
        "host_peak_bytes": host_bytes,
        "losses": training.losses,
    }
    report("large", figures, device, given.json if trainer.is_world_process_zero() else None)
    say("the weights are random: losses mean nothing")
    return figures


if __name__ == "__main__":
    main()
