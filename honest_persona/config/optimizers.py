"""What the Trainer's optimizers and schedules need, and which of them no run can take: told with the config.

Found by a run of each: three steps, a checkpoint, and the same weights after a resume. An optimizer that a newer
transformers adds is admitted; after its first step the training checks that its state can be saved.
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from honest_persona.base import json_text

_PLAIN = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
"""Optimizers that need nothing."""

# fmt: off
_BITSANDBYTES = (
    "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_8bit", "lion_32bit",
    "paged_lion_32bit", "paged_lion_8bit", "ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit",
    "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit",
)
# fmt: on
_PACKAGES: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(_BITSANDBYTES, ("bitsandbytes", "pip install bitsandbytes")),
    "adamw_torch_xla": ("torch_xla", "it is for TPUs"),
    "adamw_torch_npu_fused": ("torch_npu", "it is for Ascend NPUs"),
    "adamw_anyprecision": ("torchdistx", "https://github.com/pytorch/torchdistx"),
}
"""Optimizer -> the package that it is in, and where that is to be had."""

_LOW_RANK = "projects the gradients of large matrices, and an adapter's matrices are of low rank already"
_IN_BACKWARD = "changes the weights within the backward pass, so gradients cannot be accumulated, clipped or checked"
_LOST = "keeps a part of its state where no checkpoint finds it, so a resumed run silently goes another way"
_REFUSED: Mapping[str, str] = {
    **{
        f"{name}{layerwise}": _LOW_RANK
        for name in ("galore_adamw", "galore_adamw_8bit", "galore_adafactor", "apollo_adamw")
        for layerwise in ("", "_layerwise")
    },
    "lomo": _IN_BACKWARD,
    "adalomo": _IN_BACKWARD,
    "grokadamw": _LOST,
    "stable_adamw": _LOST,
    **dict.fromkeys(
        ("adamw_torch_4bit", "adamw_torch_8bit"),
        "keeps its state in tensors of torchao, which a checkpoint without pickles cannot hold",
    ),
    **dict.fromkeys(
        ("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"),
        "trains other weights than the ones it ends with, and heavy logs and checkpoints would hold the wrong ones",
    ),
}
_INSTEAD = "take adamw_torch, adafactor or, with bitsandbytes, adamw_8bit"

_NUMBER, _SWITCH = "a number", "true or false"
_ADEMAMIX = dict.fromkeys(("beta1", "beta2", "beta3", "alpha", "eps", "t_alpha", "t_beta3"), _NUMBER)
_ARGUMENTS: Mapping[str, Mapping[str, str]] = {
    "sgd": {"momentum": _NUMBER, "dampening": _NUMBER, "nesterov": _SWITCH},
    "adagrad": {"lr_decay": _NUMBER, "eps": _NUMBER},
    "rmsprop": {"momentum": _NUMBER, "alpha": _NUMBER, "eps": _NUMBER, "centered": _SWITCH},
    **{name: _ADEMAMIX for name in _BITSANDBYTES if "ademamix" in name},
}
"""Optimizer -> what `optim_args` may set. (`weight_decay` is a field of its own, which would win.)"""

_SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "polynomial": ("lr_end", "power"),
    "constant": (),
    "constant_with_warmup": (),
    "inverse_sqrt": ("timescale",),
    "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"),
    "warmup_stable_decay": (),
}
"""Schedule -> what `lr_scheduler_kwargs` may set."""


def problem_with_optimizer(name: str) -> str | None:
    """Why no run can take this optimizer, or what is lacking for it; None where nothing is."""
    if name in _REFUSED:
        return f"{name} {_REFUSED[name]}; {_INSTEAD}"
    package, where = _PACKAGES.get(name, (None, ""))
    if package is not None and find_spec(package) is None:
        return f"{name} is in the package {package}, which is not installed ({where}); install it, or {_INSTEAD}"
    return None


def contradictions(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Arguments of optimizer and schedule that do not fit them, as (key, message). Absent keys are not checked."""
    if problem := _optim_args(values.get("optim"), values.get("optim_args")):
        yield "optim_args", problem
    given, schedule = values.get("lr_scheduler_kwargs"), str(values.get("lr_scheduler_type"))
    if schedule in _SCHEDULES and (problem := _schedule(schedule, given, values.get("learning_rate"))):
        yield "lr_scheduler_kwargs", problem


def _optim_args(optimizer: Any, text: str | None) -> str | None:
    """`optim_args` is text as `momentum=0.9, nesterov=true`."""
    if not text or (optimizer not in _ARGUMENTS and optimizer not in (*_PLAIN, *_BITSANDBYTES, None)):
        return None
    name = optimizer or "adamw_torch_fused"  # TRL's default
    known, found = _ARGUMENTS.get(name, {}), {}
    for part in text.replace(" ", "").split(","):
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            return f"must be text as key=value, key=value, got {part!r}"
        if key not in known:
            takes = f"takes {', '.join(known)}" if known else "takes none; its settings are fields of their own"
            return f"{name} does not take {key}; it {takes}"
        if not _fits(value, known[key]):
            return f"{key} must be {known[key]}{' of at least 0' if known[key] == _NUMBER else ''}, got {value!r}"
        found[key] = value
    if found.get("nesterov", "").lower() == "true" and not float(found.get("momentum", 0)):
        return "nesterov needs a momentum above 0, as momentum=0.9, nesterov=true"
    return None


def _fits(value: str, kind: str) -> bool:
    if kind == _SWITCH:
        return value.lower() in ("true", "false")
    try:
        return 0 <= float(value) < float("inf")
    except ValueError:
        return False


def _schedule(schedule: str, given: Any, learning_rate: float | None) -> str | None:
    if isinstance(given, str):
        try:
            given = json_text.loads(given)
        except ValueError as error:
            return f"must be a mapping, got text that is no JSON ({error})"
        if not isinstance(given, dict):
            return "must be a mapping"
    given, known = given or {}, _SCHEDULES[schedule]
    if odd := [str(key) for key in given if key not in known]:
        takes = f"takes {', '.join(known)}" if known else "takes none"
        if schedule == "warmup_stable_decay":
            takes = "is set by warmup_steps, lr_cooldown_frac and lr_min_frac"
        return f"{schedule} does not take {', '.join(odd)}; it {takes}"
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            return f"{key} must be a number of at least 0, got {value!r}"
        if (key == "timescale" or schedule == "cosine_with_restarts") and (value < 1 or value != int(value)):
            return f"{key} must be a whole number of at least 1, got {value!r}"
        if key.endswith("_rate") and value > 1:
            return f"{key} is a share of learning_rate, so it must be at most 1, got {value!r}"
        if key in ("min_lr", "lr_end") and learning_rate is not None and value >= learning_rate:
            return f"{key} must be below learning_rate ({learning_rate:g}), got {value!r}"
    if "min_lr" in known and ("min_lr" in given) == ("min_lr_rate" in given):
        return (
            f"{schedule} needs one of min_lr and min_lr_rate (a share of learning_rate), as "
            "lr_scheduler_kwargs: {min_lr_rate: 0.1}"
        )
    if schedule == "polynomial" and "lr_end" not in given and learning_rate is not None and learning_rate <= 1e-7:
        return f"polynomial ends at lr_end 1e-07, which must be below learning_rate ({learning_rate:g}); set lr_end"
    return None
