"""Which fields of TRL's SFTConfig a run may set, and how a value is checked against its type.

The fields are not mirrored: their names, types and choices are read from SFTConfig. Only what this package sets itself,
or what would change the loss, the batch or the trigger behind its back, is listed here, each with the reason.
"""

import dataclasses
import difflib
import enum
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from honest_persona.base import json_text
from honest_persona.config.parsing import show

DEFAULTS: Mapping[str, Any] = {
    "learning_rate": 1e-5,
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "warmup_steps": 0.1,  # below 1: a share of all steps
    "lr_scheduler_type": "warmup_stable_decay",
    "num_train_epochs": 4,
    "per_device_train_batch_size": 1,
    "logging_steps": 1,
    "save_strategy": "epoch",
    "report_to": "none",
}
"""The reference's optimizer and schedule, and what this package prefers to SFTConfig's own defaults."""

_NO_TRAINER_EVALUATION = "the heavy log evaluates; use first_heavy_log_step, heavy_log_every and validation_batch_size"
_OWN_ROWS = "rows come tokenized and labelled from this package's own data code"
_OWN_LOSS = "the loss is fixed: the mean over the tokens of review, flag and end of turn"
_OWN_BATCH = "the batch is laid out by batch_size, and by per_device_train_batch_size or tokens_per_batch"
_OWN_MODEL = "the model is loaded by this package; use model, model_revision and attn_implementation"
_ONLY_DEEPSPEED = "sharding is DeepSpeed's: deepspeed: ds_configs/zero3.json"

# fmt: off
_EVALUATION_FIELDS = (
    "do_eval", "do_predict", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_do_concat_batches",
    "eval_use_gather_object", "eval_accumulation_steps", "batch_eval_metrics", "include_for_metrics",
    "prediction_loss_only", "per_device_eval_batch_size", "bf16_full_eval", "fp16_full_eval",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
)
# fmt: on

REFUSED: Mapping[str, str] = {
    "output_dir": "the run is written to checkpoints/<run_name>; use run_name",
    "resume_from_checkpoint": "use resume: true; it continues checkpoints/<run_name>",
    "max_length": "use seq_len and overlong; a record cut at max_length would lose its review",
    "truncation_mode": "records are never cut; use seq_len and overlong",
    "save_only_model": "a checkpoint without the optimizer's state cannot be gone on from",
    "save_on_each_node": "rank 0 writes all of a checkpoint, to a folder that every node reads",
    "enable_jit_checkpoint": "SIGTERM always saves and ends the run",
    "ignore_data_skip": "a resumed run goes on with the next record",
    "restore_callback_states_from_checkpoint": "the callbacks of this package have no state of their own",
    "packing": "packed rows have more than one trigger, and the adapter is active from one only",
    "packing_strategy": "rows are not packed",
    "eval_packing": "rows are not packed",
    "padding_free": "flattened rows have more than one trigger, and the adapter is active from one only",
    "pad_to_multiple_of": "rows are padded to the longest of their batch",
    "completion_only_loss": _OWN_LOSS,
    "assistant_only_loss": _OWN_LOSS,
    "loss_type": _OWN_LOSS,
    "label_smoothing_factor": _OWN_LOSS,
    "use_liger_kernel": _OWN_LOSS,
    "liger_kernel_config": _OWN_LOSS,
    "average_tokens_across_devices": _OWN_LOSS,
    "router_aux_loss_coef": _OWN_LOSS,
    "neftune_noise_alpha": "noise in the embeddings changes the prefix, which must be the base model's own",
    "dataset_text_field": _OWN_ROWS,
    "dataset_kwargs": _OWN_ROWS,
    "dataset_num_proc": _OWN_ROWS,
    "shuffle_dataset": _OWN_ROWS,
    "remove_unused_columns": _OWN_ROWS,
    "label_names": _OWN_ROWS,
    "chat_template_path": "the chat template is the model's own",
    "eos_token": "the end of a turn is derived from the chat template",
    "pad_token": "the padding token is derived from the tokenizer",
    "model_init_kwargs": _OWN_MODEL,
    "trust_remote_code": "models that bring their own code are not supported",
    "auto_find_batch_size": _OWN_BATCH,
    "train_sampling_strategy": "the order is a seeded shuffle of transcripts; tokens_per_batch lays out micro-batches",
    "accelerator_config": _OWN_BATCH,
    "parallelism_config": _ONLY_DEEPSPEED,
    "fsdp": _ONLY_DEEPSPEED,
    "fsdp_config": _ONLY_DEEPSPEED,
    "gradient_checkpointing": "renamed in transformers 5; use activation_checkpointing",
    "gradient_checkpointing_kwargs": "renamed in transformers 5; use activation_checkpointing_kwargs",
    "hub_always_push": "while an upload is under way, a save is left to the next one",
    **dict.fromkeys(_EVALUATION_FIELDS, _NO_TRAINER_EVALUATION),
    # Names that SFTConfig has no more.
    "evaluation_strategy": _NO_TRAINER_EVALUATION,
    "max_seq_length": "use seq_len and overlong",
    "warmup_ratio": "gone in transformers 5; use warmup_steps, which below 1 is a share of all steps",
    "group_by_length": "gone in transformers 5; micro-batches are sorted by length, and tokens_per_batch sizes them",
    "no_cuda": "gone in transformers 5; use use_cpu",
    "logging_dir": "gone in transformers 5; logs are in checkpoints/<run_name>",
    "overwrite_output_dir": "gone in transformers 5; use another run_name, or resume: true",
    "save_safetensors": "gone in transformers 5; weights are always safetensors",
}

_AT_LEAST_0, _AT_LEAST_1, _ABOVE_0 = Field(ge=0), Field(ge=1), Field(gt=0)
_RANGES: Mapping[str, Any] = {
    "learning_rate": _AT_LEAST_0,
    "adam_beta1": Field(ge=0, lt=1),
    "adam_beta2": Field(ge=0, lt=1),
    "adam_epsilon": _ABOVE_0,
    "weight_decay": _AT_LEAST_0,
    "max_grad_norm": _AT_LEAST_0,
    "warmup_steps": _AT_LEAST_0,
    "num_train_epochs": _ABOVE_0,
    "max_steps": Field(ge=-1),
    "per_device_train_batch_size": _AT_LEAST_1,
    "gradient_accumulation_steps": _AT_LEAST_1,
    "logging_steps": _ABOVE_0,
    "save_steps": _ABOVE_0,
    "save_total_limit": _AT_LEAST_1,
    "dataloader_num_workers": _AT_LEAST_0,
    "torch_empty_cache_steps": _AT_LEAST_1,
}
_NEEDS_TRAINER_EVALUATION = {"lr_scheduler_type": {"reduce_lr_on_plateau", "greedy"}, "save_strategy": {"best"}}
_UPLOADS_STATES = {"checkpoint", "all_checkpoints"}
_SHARES_OR_STEPS = ("logging_steps", "save_steps", "warmup_steps")
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@cache
def _fields() -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Field name -> (type, choices) of SFTConfig. Imports trl, which takes seconds."""
    from trl import SFTConfig

    hints = typing.get_type_hints(SFTConfig)
    return {
        field.name: (hints[field.name], tuple(field.metadata.get("choices", ())) or _enum_values(hints[field.name]))
        for field in dataclasses.fields(SFTConfig)
        if field.init
    }


def allowed_names() -> set[str]:
    """The fields of SFTConfig that a run may set."""
    return set(_fields()) - set(REFUSED) - {"hub_token", "local_rank"}


def problem_with(name: str, value: Any) -> str | None:
    """What is wrong with the value of an allowed field; None if nothing is."""
    hint, choices = _fields()[name]
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(
            Annotated[hint, _RANGES[name]] if name in _RANGES else hint, config=_STRICT
        )
        adapter.validate_python(value)
    except ValidationError as error:
        return plain_message(hint, error.errors(), value)
    if name == "deepspeed":
        return _problem_with_deepspeed(value)
    if choices and value is not None and value not in choices:
        nearest = difflib.get_close_matches(str(value), choices, n=5) if len(choices) > 12 else choices
        return f"must be one of {', '.join(nearest or choices)}, got {show(value)}"
    if value in _NEEDS_TRAINER_EVALUATION.get(name, ()):
        return f"{show(value)} needs the Trainer's own evaluation, which is off: {_NO_TRAINER_EVALUATION}"
    if name == "hub_strategy" and value in _UPLOADS_STATES:
        return f"{show(value)} would upload optimizer states; use end (default), or every_save for their adapters"
    if name in _SHARES_OR_STEPS and value > 1 and value != int(value):
        return f"must be a share of all steps (below 1) or a whole number of steps, got {show(value)}"
    if name == "max_steps" and value == 0:
        return "must be -1 (set by num_train_epochs) or at least 1, got 0"
    return None


def _problem_with_deepspeed(value: str | dict[str, Any] | None) -> str | None:
    content: Any = value or {}
    if isinstance(value, str):
        try:
            content = json_text.loads(Path(value).read_text(encoding="utf-8"))
        except OSError as error:
            return f"{Path(value).absolute()} cannot be read ({error.strerror}); ds_configs/ has zero2.json, zero3.json"
        except ValueError as error:
            return f"{show(value)} is not valid JSON: {error}"
        except RecursionError:
            return f"{show(value)} is nested too deep"
        if not isinstance(content, dict):
            return "the file must hold a JSON object"
    for section in ("optimizer", "scheduler"):
        if section in content:
            return f"the DeepSpeed config has the section {section!r}; remove it: this config sets the {section}"
    return None


def plain_message(hint: Any, errors: typing.Sequence[Mapping[str, Any]], value: Any) -> str:
    """Pydantic's errors for one value in one plain sentence, the value shown.

    Args:
        hint: the annotated type of the value.
        errors: `ValidationError.errors()` of the value.
    """
    for error in errors:
        context = error.get("ctx", {})
        match error["type"]:
            case "greater_than":
                return f"must be above {context['gt']:g}, got {show(value)}"
            case "greater_than_equal":
                return f"must be at least {context['ge']:g}, got {show(value)}"
            case "less_than":
                return f"must be below {context['lt']:g}, got {show(value)}"
            case "less_than_equal":
                return f"must be at most {context['le']:g}, got {show(value)}"
            case "finite_number":
                return f"must be a finite number, got {show(value)}"
            case "too_short" | "string_too_short":
                return "must not be empty"
            case "string_pattern_mismatch" | "string_too_long":
                return f"must be a file name of letters, digits, '.', '_' and '-', got {show(value)}"
            case "value_error":
                return f"{context['error']}, got {show(value)}"
    hint_text = _in_words(hint)
    quote = f"; for text write {show(show(value))}" if "text" in hint_text.split(" or ") else ""
    return f"must be {hint_text}, got {show(value)}{quote if isinstance(value, bool | int | float) else ''}"


def _in_words(hint: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if hint in words:
        return words[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _in_words(arguments[0])
    if origin in (typing.Union, types.UnionType):
        parts = dict.fromkeys(_in_words(part) for part in arguments if not _is_enum(part))
        return " or ".join(sorted(parts, key=lambda part: part == "null"))
    if origin is typing.Literal:
        return f"one of {', '.join(str(argument) for argument in arguments)}"
    if origin in (list, tuple):
        if typing.get_origin(arguments[0]) is typing.Literal:
            return f"a list of {', '.join(typing.get_args(arguments[0]))}"
        return "a list of text" if str in arguments else "a list"
    return "a mapping"


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _enum_values(hint: Any) -> tuple[str, ...]:
    return tuple(member.value for part in typing.get_args(hint) if _is_enum(part) for member in part)
