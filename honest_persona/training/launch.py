"""From a config to a trained adapter: the order in which a run is put together, on one process or on many."""

import logging
import os
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, set_seed
from trl import SFTConfig

from honest_persona.base.collectives import from_rank_0, held_by_all
from honest_persona.base.console import hand_out, say
from honest_persona.base.errors import RankError, UserError
from honest_persona.base.interrupts import if_interrupted
from honest_persona.base.number_format import fastest_format
from honest_persona.base.ranks import is_launched, rank
from honest_persona.config.keys import CHECKPOINTS_DIR, RunConfig
from honest_persona.config.persona import Persona
from honest_persona.data.load import Loaded
from honest_persona.data.splits import Splits
from honest_persona.evaluation.settings import EvalSettings
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import CARD_FILE
from honest_persona.modeling.adapters.load import load_adapter
from honest_persona.modeling.adapters.lora import add_adapter
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.modeling.load import load_base
from honest_persona.modeling.token_format import token_format
from honest_persona.prompts.prepare import Material, prepare
from honest_persona.prompts.tokens import TokenFormat
from honest_persona.training import finished
from honest_persona.training.assembly import (
    build_trainer,
    checkpoints_activations,
    freezes_prefix,
    make_batches,
    make_prefix_cache,
)
from honest_persona.training.batching.sampler import PersonaBatches
from honest_persona.training.callbacks import HeavyLog, MetricsFile, OptimizerCheck, SaveAtEpochEnd, StopAtSignal
from honest_persona.training.checkpoints import Checkpoint, check_same_run, checkpoints, last_good, newest
from honest_persona.training.console import TrainingConsole
from honest_persona.training.identity import changed_settings, run_identity
from honest_persona.training.ranks import Siblings, join
from honest_persona.training.trackers import guard_trackers, prepare_trackers

# DeepSpeed calls functions of torch.distributed by names that torch 2.13 gives up
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
# accelerate, where many processes share a CPU: it sets a fair number, which is what is wanted
warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")
# transformers knows a few settings that differ from the checkpoint's; `changed_settings` tells all of them
logging.getLogger("transformers.trainer_utils").addFilter(
    lambda record: "do not match the ones in the `trainer_state.json`" not in record.getMessage()
)

_VERSIONS = ("torch", "transformers", "trl", "peft", "deepspeed", "accelerate", "honest-persona")


def train(config: RunConfig, root: Path = Path(CHECKPOINTS_DIR), callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Train, evaluate and save; returns the run's folder, `root / run_name`. Every rank calls this.

    Args:
        callbacks: called after the package's own.

    Raises:
        UserError: bad data, model or config; the run's folder holds another run, or another process is at work in it;
            nothing to resume.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it has looked for one
    if config.trainer.get("deepspeed") and not is_launched():
        say(
            f"No launcher: running on one process without DeepSpeed ({config.trainer['deepspeed']} is not used). "
            "For ZeRO: deepspeed --num_gpus N train.py ..."
        )
        config = config.without_deepspeed()
    folder = root / config.run_name
    _check_what_is_there(folder, config.resume)
    form = token_format(config)
    material = prepare(config, form)
    if material.loaded is not None:
        say(_summary(material.loaded, material.splits))
    if material.too_long:
        say(f"{len(material.too_long)} training records are longer than seq_len {config.seq_len} and are left out")
    if is_launched():
        join(
            bool(config.trainer.get("deepspeed")),
            config.trainer.get("ddp_backend"),
            config.trainer.get("ddp_timeout") or 1800,
        )
    try:
        with if_interrupted(lambda: f"the run is in {folder}; {last_good(folder)}"):
            return _train(config, form, material, folder, callbacks)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _train(
    config: RunConfig,
    form: TokenFormat,
    material: Material,
    folder: Path,
    callbacks: Sequence[TrainerCallback],
) -> Path:
    frozen = freezes_prefix(config)
    batches = make_batches(config, material.rows, frozen)
    say(batches.plan().line())
    with held_by_all(folder, "a training", "choose another --run_name"):
        checkpoint = _checkpoint_to_resume(folder, config.resume)  # nobody else writes to the folder from here on
        run = run_identity(config, material.rows, form, batches.effective_batch_size)
        if checkpoint is not None:  # all but the base model, which is not loaded yet
            check_same_run(checkpoint, {**checkpoint.about["run"], **run})
        if config.resume and finished.nothing_to_do(folder, checkpoint, run, finished.planned_steps(config, batches)):
            return folder
        return _train_owned(config, form, material, folder, checkpoint, callbacks, frozen, batches, run)


def _train_owned(
    config: RunConfig,
    form: TokenFormat,
    material: Material,
    folder: Path,
    checkpoint: Checkpoint | None,
    callbacks: Sequence[TrainerCallback],
    frozen: bool,
    batches: PersonaBatches,
    run: dict[str, Any],
) -> Path:
    """What is left when the folder is this process's, and there is something to do."""
    config = _in_format(config, checkpoint)
    # made twice: ZeRO-3 shards a model as it is read, by these arguments, and what fits in memory shows on the model
    args = _sft_config(config, folder, batches, config.activation_checkpointing is True)
    prepare_trackers(args.report_to or ())
    _tell_compiling(args)
    dtype = getattr(torch, config.format_name)
    base = load_base(config.model, config.model_revision, dtype, config.attn_implementation)
    fingerprint = base_fingerprint(base)
    run["base_model"] = fingerprint
    if checkpoint is not None:
        check_same_run(checkpoint, run)
    set_seed(config.seed)  # the adapter's first weights are the same on every rank and for every number of ranks
    if config.adapter is None:
        model = add_adapter(base, form, _lora_settings(config, args))
    else:
        _check_same_persona(config.adapter, form.persona)
        model = load_adapter(base, Path(config.adapter), trainable=True)
    card = AdapterCard(
        persona=form.persona,
        base_model=config.model,
        base_revision=config.model_revision,
        base_fingerprint=fingerprint,
        default_intervention=config.default_intervention or material.intervention,
        trained_topics=material.trained_topics,
        validation_topics=list(config.validation_topics),
        config=config.as_dict(),
        versions={name: version(name) for name in _VERSIONS},
    )
    if checkpoint is not None:
        _tell_resume(checkpoint, card)
    metrics = MetricsFile(folder / "metrics.jsonl")
    checkpointing = checkpoints_activations(config, args, batches, model)
    args = _sft_config(config, folder, batches, checkpointing)
    cache, log_cache = (
        make_prefix_cache(config, args, model, fingerprint, folder, use) if frozen else None
        for use in ("training", "heavy log")
    )
    trainer = build_trainer(config, args, form, material.rows, batches, model, card, frozen, cache, run)
    siblings = Siblings()
    stop_at_signal = StopAtSignal(siblings)
    console = TrainingConsole(trainer)
    for callback in (console, metrics, OptimizerCheck(trainer), SaveAtEpochEnd(), stop_at_signal):
        trainer.add_callback(callback)
    settings = EvalSettings(
        config.validation_batch_size,
        config.max_new_tokens,
        config.seq_len,
        config.frozen_prefix,
        prefix_cache=log_cache,
    )
    trainer.add_callback(
        HeavyLog(
            trainer,
            material.parts,
            form,
            metrics,
            first_step=config.first_heavy_log_step,
            every=config.heavy_log_every,
            settings=settings,
            stop=stop_at_signal.agreed,
        )
    )
    for more in callbacks:
        trainer.add_callback(more)
    guard_trackers(trainer)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint.folder))
    except RuntimeError as error:  # a broken connection says less than who broke it
        if gone := siblings.ended(wait_seconds=3):
            raise RankError(f"rank {gone[0]} has ended, so this one cannot go on; {last_good(folder)}") from error
        raise
    finally:
        console.close()
        for use, held in (("training", cache), ("heavy log", log_cache)):
            if held is not None:
                say(f"{use}: {held.report()}")
                held.close()
    if rank() == 0:
        finished.unmark(folder)
    trainer.save_model()
    if rank() == 0:
        finished.mark(folder, trainer.state.global_step, run)
    trainer.accelerator.wait_for_everyone()
    say(f"adapter saved in {folder}")
    hand_out(f"next: python eval.py --adapter {folder}")  # a command to copy: not broken
    return folder


def _summary(loaded: Loaded, splits: Splits) -> str:
    parts = [
        f"{name} {len(records):,} records of {len({r.item_id for r in records}):,} items"
        for name, records in zip(splits._fields, splits, strict=True)
        if records or name != "unused"
    ]
    return (
        f"data: read {loaded.read:,} = kept {len(loaded.records):,} + rejected {sum(loaded.rejected.values()):,}; "
        + "; ".join(parts)
        + " (`python -m honest_persona data` shows the reasons)"
    )


def _check_what_is_there(folder: Path, resume: bool) -> None:
    """Whether there is a run to go on with, or none that would be overwritten; whole or not."""
    begun = bool(checkpoints(folder)) or (folder / CARD_FILE).exists()
    if resume and not begun:
        raise _nothing_to_resume(folder)
    if begun and not resume:
        raise UserError(
            f"run_name: {folder} already holds a run; continue it with --resume, choose another --run_name, "
            "or remove the folder"
        )


def _checkpoint_to_resume(folder: Path, resume: bool) -> Checkpoint | None:
    """None for a new run, and for one that has ended and kept no checkpoint."""
    _check_what_is_there(folder, resume)
    checkpoint = newest(folder, say) if resume else None
    if resume and checkpoint is None and finished.read(folder, None) is None:
        raise _nothing_to_resume(folder)
    return checkpoint


def _nothing_to_resume(folder: Path) -> UserError:
    return UserError(
        f"resume: {folder} has no whole checkpoint; check run_name, or start without --resume (and remove "
        "checkpoints that are not whole)"
    )


def _in_format(config: RunConfig, checkpoint: Checkpoint | None) -> RunConfig:
    """The config with its number format chosen: that of the run it resumes, else what rank 0's machine is fast in."""
    if config.bf16 != "auto" or config.trainer.get("fp16"):
        return config.in_format("float16")  # nothing is open: float16 at most, which fp16 asks for
    before = None if checkpoint is None else checkpoint.about["config"]
    if before is not None and not before.get("fp16") and isinstance(before.get("bf16"), bool):
        chosen, reason = "bfloat16" if before["bf16"] else "float32", "as the run began"
    else:
        fastest = fastest_format()
        chosen, reason = from_rank_0((fastest.name, fastest.reason))
    say(f"number format {chosen}: {reason} (bf16: auto)")
    return config.in_format(chosen)


def _tell_resume(checkpoint: Checkpoint, card: AdapterCard) -> None:
    before = checkpoint.about
    say(f"resume: from {checkpoint.folder}")
    for what, changed in {
        "settings": changed_settings(before["config"], card.config),
        "versions": changed_settings(before["versions"], card.versions),
    }.items():
        if changed:
            say(f"resume: other {what} from here on: {'; '.join(f'{k} {b} -> {n}' for k, (b, n) in changed.items())}")


def _tell_compiling(args: SFTConfig) -> None:
    if args.torch_compile and os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        say("torch_compile: nothing is compiled, because TORCHDYNAMO_DISABLE=1 stands in the environment or env.json")


def _check_same_persona(adapter: str, persona: Persona) -> None:
    trained = AdapterCard.load(Path(adapter)).persona
    differing = [name for name, value in vars(trained).items() if value != vars(persona)[name]]
    if differing:
        raise UserError(
            f"adapter: {adapter} was trained with other settings of {', '.join(differing)}; give this run the same ones"
        )


def _sft_config(config: RunConfig, folder: Path, batches: PersonaBatches, checkpointing: bool) -> SFTConfig:
    arguments = config.trainer_arguments(batches.accumulation, checkpointing)
    try:
        return SFTConfig(**{**arguments, "output_dir": str(folder)})
    except ValueError as error:
        raise UserError(f"the trainer refuses these settings: {error}") from error


def _lora_settings(config: RunConfig, args: SFTConfig) -> dict[str, Any]:
    # ZeRO-3 gathers base and adapter parameters into buffers of one dtype, so the adapter takes the base model's there
    # (https://github.com/deepspeedai/DeepSpeed/issues/8072); elsewhere PEFT keeps a half-precision model's in float32.
    zero3 = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    return {
        "r": config.lora_r,
        "lora_alpha": config.lora_alpha or config.lora_r,
        "use_rslora": config.use_rslora,
        "lora_dropout": config.lora_dropout,
        "target_modules": config.target_modules,
        "autocast_adapter_dtype": not zero3,
    }
