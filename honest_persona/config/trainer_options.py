"""What each objective asks of its trainer: the config class of TRL, our defaults for its fields, and the refused ones.

The class's fields are not mirrored: `trainer_fields.py` reads their names, types and choices from the class. Only what
this package sets itself, or what would change the loss, the batch or the trigger, is listed here, with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from honest_persona.config.objectives import DEFAULT_OBJECTIVE, OBJECTIVES

PACES: Mapping[str, str] = {"save_steps": "save_strategy", "logging_steps": "logging_strategy"}
"""Field -> the field that decides whether it is read: only where that one is `BY_STEPS`, TRL's own default."""
BY_STEPS = "steps"


@dataclass(frozen=True, eq=False)
class TrainerOptions:
    """The fields of a trainer's config class, as a run of one objective may set them."""

    config_class: str
    """dotted name, as trl.SFTConfig: the class is imported only when a trainer is made"""
    defaults: Mapping[str, Any]
    """what this package prefers to the class's own defaults"""
    fixed: Mapping[str, Any]
    """what every run sets"""
    refused: Mapping[str, str]
    """field -> why no run may set it, and what to use in its place; fields of earlier versions too"""
    own: Mapping[str, str] = field(default_factory=dict)
    """field -> the key of ours that sets it"""

    def defaults_beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults of a run that sets these fields: `save_steps` alone means `save_strategy: steps`, as in TRL."""
        defaults = dict(self.defaults)
        for pace, strategy in PACES.items():
            if pace in given:
                defaults |= {strategy: BY_STEPS} if strategy in defaults else {}
            elif given.get(strategy, BY_STEPS) != BY_STEPS:
                defaults.pop(pace, None)
        return defaults

    def load_class(self) -> Any:
        """The config class. Imports its library, which takes seconds."""
        module, _, name = self.config_class.rpartition(".")
        return getattr(import_module(module), name)


_SFT_DEFAULTS: Mapping[str, Any] = {
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

NO_TRAINER_EVALUATION = "the heavy log evaluates; use first_heavy_log_step, heavy_log_every and validation_batch_size"
_OWN_ROWS = "this package tokenizes and labels the rows"
_OWN_LOSS = "the loss is fixed: the mean over the tokens of review, flag and end of turn"
_OBJECTIVES_LOSS = "the loss is the objective's; use objective, its own keys, and also"
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

_SFT_REFUSED: Mapping[str, str] = {
    "output_dir": "the run is written to checkpoints/<run_name>; use run_name",
    "resume_from_checkpoint": "use resume: true; it continues checkpoints/<run_name>",
    "max_length": "use seq_len and overlong; a record cut at max_length would lose its review",
    "truncation_mode": "records are never cut; use seq_len and overlong",
    "save_only_model": "a run cannot resume from a checkpoint without the optimizer's state",
    "save_on_each_node": "rank 0 writes the whole checkpoint, to a folder that every node reads",
    "enable_jit_checkpoint": "SIGTERM always saves a checkpoint and ends the run",
    "ignore_data_skip": "a resumed run continues with the next record",
    "restore_callback_states_from_checkpoint": "the callbacks of this package have no state of their own",
    "optim_target_modules": "GaLore and APOLLO alone read this field; target_modules names the adapter's layers",
    "packing": "rows are never cut, and packed without padding as they are; use padding_free",
    "packing_strategy": "rows are packed as they are; use padding_free",
    "eval_packing": NO_TRAINER_EVALUATION,
    "pad_to_multiple_of": "rows are padded to the longest of their batch",
    "completion_only_loss": _OWN_LOSS,
    "assistant_only_loss": _OWN_LOSS,
    "loss_type": _OWN_LOSS,
    "label_smoothing_factor": _OWN_LOSS,
    "average_tokens_across_devices": _OWN_LOSS,
    "router_aux_loss_coef": "routers are not trained, and their loss would depend on the layout of micro-batches; off",
    "logging_nan_inf_filter": "a loss that is not a finite number ends the run, and is never hidden",
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
    "hub_always_push": "a save during an upload is left to the next upload",
    **dict.fromkeys(_EVALUATION_FIELDS, NO_TRAINER_EVALUATION),
    # Names that SFTConfig had in earlier versions.
    "evaluation_strategy": NO_TRAINER_EVALUATION,
    "max_seq_length": "use seq_len and overlong",
    "warmup_ratio": "removed in transformers 5; use warmup_steps, which below 1 is a share of all steps",
    "group_by_length": "removed in transformers 5; micro-batches are sorted by length, and tokens_per_batch sizes them",
    "no_cuda": "removed in transformers 5; use use_cpu",
    "logging_dir": "removed in transformers 5; logs are in checkpoints/<run_name>",
    "overwrite_output_dir": "removed in transformers 5; use another run_name, or resume: true",
    "save_safetensors": "removed in transformers 5; weights are always safetensors",
}

_NOT_WAITING: Mapping[str, Any] = {"accelerator_config": {"non_blocking": True}}
"""The host goes on while a batch travels to the GPU; otherwise it would wait for all kernels before."""

_PERSONA = TrainerOptions(
    config_class="trl.SFTConfig",
    defaults=_SFT_DEFAULTS,
    fixed={
        "push_to_hub": False,  # the Trainer's own takes all of the folder; hub/push.py uploads after the run
        "max_length": None,
        "router_aux_loss_coef": 0.0,
        "logging_nan_inf_filter": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        **_NOT_WAITING,
    },
    refused=_SFT_REFUSED,
)
_ANSWERS = replace(
    _PERSONA,
    defaults={**_SFT_DEFAULTS, "logging_first_step": True},  # how likely answers are before training
    refused={
        **{key: _OBJECTIVES_LOSS if why == _OWN_LOSS else why for key, why in _SFT_REFUSED.items()},
        "max_length": "answers are never cut; use seq_len and overlong",
        "truncation_mode": "answers are never cut; use seq_len and overlong",
        "train_sampling_strategy": "the order is a seeded shuffle; tokens_per_batch lays out micro-batches",
    },
)
"""For objectives on answers: what is refused is the same, and some reasons are others."""
_BESIDE = "a head's numbers are no output of the model, so that DDP would take the head for unused"
_HEADED = replace(
    _ANSWERS,
    fixed={**_ANSWERS.fixed, "ddp_find_unused_parameters": False},
    refused={**_ANSWERS.refused, "ddp_find_unused_parameters": _BESIDE},
)
"""For those of them with a head."""

_OWN_ANSWERS = "answers are written by this package, as evaluations write them"
_WHOLE_DRAW = "answers are drawn from all tokens at temperature, so that their probabilities are the policy's own"
_OWN_LOG = "rollouts.jsonl in the run's folder has all answers with their rewards"
_ONE_PASS = "every step writes its own answers, so that a run can stop and resume after any step"
_NO_STATE = "checkpoints would not keep this state"

# fmt: off
_VLLM_FIELDS = (
    "use_vllm", "vllm_mode", "vllm_model_impl", "vllm_enable_sleep_mode", "vllm_structured_outputs_regex",
    "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port",
    "vllm_gpu_memory_utilization", "vllm_max_model_length", "vllm_tensor_parallel_size",
    "vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min", "vllm_importance_sampling_cap", "use_transformers_continuous_batching",
    "transformers_continuous_batching_config", "use_transformers_paged", "cache_implementation",
    "ds3_gather_for_generation", "max_tool_calling_iterations",
)
# fmt: on
_OF_SFT = ("loss_type", "max_length", "truncation_mode", "router_aux_loss_coef")
"""Refused of SFTConfig, and allowed, absent or set otherwise in the config classes below."""
_REWARDED_REFUSED: Mapping[str, str] = {
    **{key: why for key, why in _ANSWERS.refused.items() if key not in _OF_SFT},
    **dict.fromkeys(_VLLM_FIELDS, _OWN_ANSWERS),
    "max_length": "answers are never cut; use seq_len, overlong and max_answer_tokens",
    "max_completion_length": "use max_answer_tokens",
    "chat_template_kwargs": _OWN_ROWS,
    **dict.fromkeys(("top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"), _WHOLE_DRAW),
    **dict.fromkeys(("num_iterations", "steps_per_generation", "generation_batch_size"), _ONE_PASS),
    "num_generations_eval": NO_TRAINER_EVALUATION,
    **dict.fromkeys(
        ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
        "the reference is the policy before training",
    ),
    **dict.fromkeys(("log_completions", "log_multimodal", "num_completions_to_print", "log_unique_prompts"), _OWN_LOG),
    "log_completions_hub_repo": _OWN_LOG,
    **dict.fromkeys(
        ("use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
        _NO_STATE,
    ),
    "multi_objective_aggregation": "rewards are summed by reward_weights",
    "cast_lm_head_to_fp32": "the head computes in the run's number format; use bf16: false",
    "router_aux_loss_coef": "routers are not trained; off",
    "train_sampling_strategy": "the order is a seeded shuffle of prompts",
}
_GRPO = TrainerOptions(
    config_class="trl.GRPOConfig",
    defaults={**_SFT_DEFAULTS, "logging_first_step": True, "per_device_train_batch_size": 8},
    fixed={
        "push_to_hub": False,
        "remove_unused_columns": False,
        "log_completions": False,
        "router_aux_loss_coef": 0.0,
        "num_iterations": 1,
        "logging_nan_inf_filter": False,
        "shuffle_dataset": False,  # training/batching/rollouts.py shuffles
        **_NOT_WAITING,
    },
    refused=_REWARDED_REFUSED,
    own={
        "beta": "beta",
        "num_generations": "num_generations",
        "max_completion_length": "max_answer_tokens",
        "temperature": "temperature",
        "scale_rewards": "scale_rewards",
    },
)
_RLOO = replace(
    _GRPO,
    config_class="trl.RLOOConfig",
    own={name: key for name, key in _GRPO.own.items() if name != "scale_rewards"},
)
_OPTIONS = {DEFAULT_OBJECTIVE: _PERSONA, "grpo": _GRPO, "rloo": _RLOO}


def register(objective: str, options: TrainerOptions) -> None:
    """Make a name known as the config's `objective`."""
    assert objective not in _OPTIONS, objective
    _OPTIONS[objective] = options


def objectives() -> tuple[str, ...]:
    """The names that the config's `objective` may have."""
    return tuple({**OBJECTIVES, **_OPTIONS})


def options_of(objective: str) -> TrainerOptions:
    """The options of an objective: registered for it, or those of all objectives on answers, with a head or without."""
    spec = OBJECTIVES.get(objective)
    return _OPTIONS.get(objective, _HEADED if spec is not None and spec.has_head else _ANSWERS)
