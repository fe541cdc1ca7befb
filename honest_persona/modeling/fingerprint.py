"""Recognizes a base model by its weights."""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft import PeftModel

from honest_persona.base import json_text
from honest_persona.modeling.adapters.tuning import REFERENCE, Model, base_name, has_reference


def base_fingerprint(model: Model) -> str:
    """A hash of the base model's shape and of samples of its weights: another model, or other weights, differ.

    The samples are the first 1,024 values of 16 parameters spread over the model. Quantized weights are left out: how
    they are packed depends on the machine. They are cast to bfloat16, so that
    the fingerprint does not depend on the dtype of the loaded model. Under ZeRO-3 each sampled parameter is gathered:
    all ranks must call this function.
    """
    digest = hashlib.sha256()
    named = [
        (clean, p)
        for name, p in model.named_parameters()
        if (clean := base_name(name)) is not None and p.is_floating_point()
    ]
    for name, p in named:
        digest.update(f"{name}:{tuple(getattr(p, 'ds_shape', p.shape))};".encode())
    step = max(1, len(named) // 16)
    for _, p in named[::step]:
        with _gathered(p):
            sample = p.detach().flatten()[:1024].to("cpu", torch.bfloat16)
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def whole_fingerprint(model: PeftModel) -> str:
    """A hash of all weights that the reference's log-probabilities depend on: of the base model, and of the reference
    adapter with its settings where there is one. One other bit in one weight gives another hash.

    Under ZeRO-3 each parameter is gathered: all ranks must call this function.
    """
    digest = hashlib.sha256()
    if has_reference(model):
        settings = model.peft_config[REFERENCE].to_dict()
        digest.update(json_text.dumps({k: str(v) for k, v in settings.items()}, sort_keys=True).encode())
    for name, p in model.named_parameters():
        clean = base_name(name)
        if clean is None and f".{REFERENCE}." not in name:
            continue
        with _gathered(p):
            values = p.detach().to("cpu").contiguous().flatten().view(torch.uint8).numpy()
        digest.update(f"{clean or name}:{tuple(getattr(p, 'ds_shape', p.shape))};".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _gathered(parameter: torch.nn.Parameter) -> AbstractContextManager[Any]:
    if not hasattr(parameter, "ds_id"):  # not sharded by ZeRO-3
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])
