"""From a config to a trained adapter: the order in which a run is put together, on one process or on many."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainingArguments

from honest_persona.base.collectives import held_by_all
from honest_persona.base.console import hand_out, say
from honest_persona.base.errors import RankError, UserError
from honest_persona.base.interrupts import if_interrupted
from honest_persona.base.ranks import is_launched, on_first_machine, rank
from honest_persona.config.keys import CHECKPOINTS_DIR, RunConfig
from honest_persona.config.objectives import spec_of
from honest_persona.config.trainer_fields import zero_stage
from honest_persona.config.tuning_keys import DEFAULT_TUNING
from honest_persona.evaluation.answers.choices import Asked
from honest_persona.evaluation.answers.judgement import Judge
from honest_persona.evaluation.answers.judges import judge_of
from honest_persona.evaluation.answers.settings import AnswerSettings
from honest_persona.evaluation.audit.run_reward import LABEL_GATE, REWARD_SETTINGS
from honest_persona.evaluation.settings import EvalSettings
from honest_persona.labelling.gate import gate_of_labels
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.tuning import Model
from honest_persona.modeling.base_model import base_of
from honest_persona.modeling.control_tokens import check_told_apart
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.modeling.load import check_loadable, load_base
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.modeling.quantized import check_trainable
from honest_persona.prompts.prepare import Material
from honest_persona.prompts.tokens import TokenFormat
from honest_persona.training import finished
from honest_persona.training.assembly import Assembly, is_zero3, prepared, read_chosen
from honest_persona.training.callbacks import HeavyLog, MetricsFile, OptimizerCheck, SaveAtEpochEnd, StopAtSignal
from honest_persona.training.checkpoints import Checkpoint, check_same_run, last_good
from honest_persona.training.console import TrainingConsole
from honest_persona.training.continued import check_continued
from honest_persona.training.identity import run_identity
from honest_persona.training.measures import AnswersMeasure, Measure, PairsMeasure, ReviewsMeasure, asked_of
from honest_persona.training.ranks import Siblings, join
from honest_persona.training.reference import check_reference_base, check_start, keeps_start
from honest_persona.training.resumable import ResumableRun
from honest_persona.training.reward_gate import ask_gate
from honest_persona.training.rewarded import rewards_of, tell_reading
from honest_persona.training.sizing import sized
from honest_persona.training.starting import check_what_is_there, checkpoint_to_resume, in_format, in_size
from honest_persona.training.told import tell_compiling, tell_data, tell_resume
from honest_persona.training.trackers import guard_trackers, prepare_trackers
from honest_persona.training.tuned import check_processes, tuned, weights_format

# DeepSpeed calls functions of torch.distributed by names that torch 2.13 gives up
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
# accelerate says this where processes share a CPU, and then sets a fair number of threads, as is wanted
warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")
# transformers names a few settings that differ from the checkpoint's; `changed_settings` names all of them
logging.getLogger("transformers.trainer_utils").addFilter(
    lambda record: "do not match the ones in the `trainer_state.json`" not in record.getMessage()
)

_VERSIONS = ("torch", "transformers", "trl", "peft", "deepspeed", "accelerate", "honest-persona")


def train(
    config: RunConfig,
    root: Path = Path(CHECKPOINTS_DIR),
    callbacks: Sequence[TrainerCallback] = (),
    gate_refuses: bool = True,
    folder: Path | None = None,
) -> Path:
    """Train, evaluate and save; returns the run's folder, `root / run_name`. Every rank calls this.

    Args:
        callbacks: called after the package's own.
        gate_refuses: whether a reward that does not pass its gate ends the run; experiments train by such rewards too.
        folder: of the run, in place of `root / run_name`.

    Raises:
        UserError: bad data, model or config; the run's folder holds another run, or another process is at work in it;
            nothing to resume.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed warns that it found no accelerator
    if config.trainer.get("deepspeed") and not is_launched():
        say(
            f"No launcher: running on one process without DeepSpeed ({config.trainer['deepspeed']} is not used). "
            "For ZeRO: deepspeed --num_gpus N train.py ..."
        )
        config = config.without_deepspeed()
    check_processes(config)
    if config.rounds is not None:
        raise UserError("rounds: train.py alone goes through rounds, and here a run is trained once; leave the key out")
    folder = folder or root / config.run_name
    if on_first_machine():
        check_what_is_there(folder, config.resume)
    writes_answers = spec_of(config.objective).writes_answers
    gate = None if writes_answers else gate_of_labels(config.dataset)
    config, fingerprint = on_its_base(config)
    check_trainable(config.model, check_loadable(config.model, config.model_revision, config.bits), config.tuning)
    if writes_answers:
        rewards_of(config)  # before anything works: a reward that cannot be read
    # the mask and ZeRO's stage before the data are read
    check_start(config, zero_stage(config.trainer.get("deepspeed")) == 3)
    mask = read_chosen(config)
    form, material = prepared(config)
    check_continued(config, form)
    tell_data(material, config.seq_len, gate)
    judge = _judge(config, material)
    asked = asked_of(config, form, material)
    if writes_answers:
        tell_reading(config)
    if is_launched():
        options = config.trainer
        join(bool(options.get("deepspeed")), options.get("ddp_backend"), options.get("ddp_timeout") or 1800)
    try:
        with if_interrupted(lambda: f"the run is in {folder}; {last_good(folder)}"):
            assembly = Assembly.of(config, form, material.rows, mask)
            if config.tokens_per_batch != "auto":
                say(assembly.batches.plan().line())
            with held_by_all(folder, "a training", "choose another --run_name"):
                if run := _begun(assembly, material, folder):
                    run = replace(run, fingerprint=fingerprint, judge=judge, gate=gate, asked=asked)
                    _train(_gated(run, gate_refuses) if writes_answers else run, callbacks)
        return folder
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@dataclass(frozen=True)
class _Run:
    """A run whose folder is this process's, and which has something left to do."""

    assembly: Assembly
    material: Material
    folder: Path
    checkpoint: Checkpoint | None
    identity: dict[str, Any]
    """What a run that resumes it must share; the base model joins when it is loaded."""
    judge: Judge | None = None
    """Of the answers that heavy logs measure."""
    asked: Asked = field(default_factory=Asked)
    """Questions with given choices, which heavy logs measure too."""
    gate: dict[str, Any] | None = None
    """What the gate found of the labels, where `label` made them, or of the reward."""
    fingerprint: str | None = None
    """Of the base model, where `model` named an adapter whose card says it."""


def _begun(assembly: Assembly, material: Material, folder: Path) -> _Run | None:
    """The run at the point where it begins or resumes; None where it has ended. Nobody else writes to the folder."""
    resume = assembly.config.resume
    checkpoint = checkpoint_to_resume(folder, resume)
    identity = run_identity(assembly)
    if checkpoint is not None:  # all but the base model, which is not loaded yet
        check_same_run(checkpoint, {**checkpoint.about["run"], **identity})
    if resume and finished.nothing_to_do(folder, checkpoint, identity, assembly.planned_steps):
        return None
    assembly = in_format(in_size(assembly, checkpoint), checkpoint)
    return _Run(assembly, material, folder, checkpoint, identity)


def _gated(run: _Run, refuses: bool) -> _Run:
    """The run with what the gate found of its reward. Raises UserError: the reward does not pass.

    DeepSpeed is not set up yet: the policy and the models that rewards read are loaded whole, and are gone afterwards.
    """
    return replace(run, gate=ask_gate(run.assembly.config, run.folder, run.judge, refuses))


def _train(run: _Run, callbacks: Sequence[TrainerCallback]) -> None:
    assembly, config, folder = run.assembly, run.assembly.config, run.folder
    # made twice: ZeRO-3 shards a model as it is read, by these arguments, and what fits in memory shows on the model
    args = assembly.arguments(folder, config.activation_checkpointing is True)
    prepare_trackers(args.report_to or ())
    tell_compiling(config.trainer)
    dtype = weights_format(config)
    check_start(config, is_zero3(args))
    base = load_base(config.model, config.model_revision, dtype, config.attn_implementation, config.bits)
    run = replace(run, identity={**run.identity, "base_model": base_fingerprint(base)})
    # a quantized model is recognized by other samples than a whole one
    if run.fingerprint is not None and config.bits is None and run.identity["base_model"] != run.fingerprint:
        raise UserError(
            f"model: {config.model!r} has other weights now than the adapter that was named was trained on; name the "
            "base model itself, or take the original one"
        )
    check_reference_base(config, run.identity["base_model"])
    if config.tuning == DEFAULT_TUNING:  # embeddings are frozen
        check_told_apart(base, assembly.form)
    if run.checkpoint is not None:
        check_same_run(run.checkpoint, run.identity)
    model = tuned(base, assembly, args)
    assembly, checkpointing = sized(assembly, args, model)
    if config.tokens_per_batch == "auto":
        say(assembly.batches.plan().line())
    run = replace(run, assembly=assembly)
    card = _card(run)
    if run.checkpoint is not None:
        tell_resume(run.checkpoint, card)
    args = assembly.arguments(folder, checkpointing)
    with _prefix_caches(run, args, model) as (cache, log_cache):
        trainer = assembly.trainer(args, model, card, cache, run.identity)
        with closing(TrainingConsole(trainer)) as console:
            siblings = Siblings()
            for callback in (console, *_callbacks(trainer, run, siblings, log_cache), *callbacks):
                trainer.add_callback(callback)
            guard_trackers(trainer)
            _run_to_its_end(trainer, run, siblings)
    _save(trainer, run)


def on_its_base(config: RunConfig) -> tuple[RunConfig, str | None]:
    """The run on the base model that `model` stands for, and the fingerprint that its weights must have, if known."""
    base = base_of(config.model, config.model_revision)
    if base.lora is not None:
        scope = None if base.lora.card is None else base.lora.card.persona.adapter_scope
        say(
            f"model: {config.model} is a LoRA adapter; it is merged into its base model {base.lora.base.name}"
            + (": it acts on whole conversations now, and was trained on answers alone" if scope == "response" else "")
        )
    elif base.name != config.model:
        say(f"model: {config.model} is an adapter's; the new adapter stands on its base model {base.name}")
    return config.model_copy(update={"model": base.name, "model_revision": base.revision}), base.fingerprint


def _card(run: _Run) -> AdapterCard:
    config = run.assembly.config
    return AdapterCard(
        persona=run.assembly.form.persona,
        base_model=config.model,
        base_revision=config.model_revision,
        base_fingerprint=run.identity["base_model"],
        default_intervention=config.default_intervention or run.material.intervention,
        trained_topics=run.material.trained_topics,
        validation_topics=list(config.validation_topics),
        config={**config.as_dict(), **_control_ids(run.assembly.form), **_gate_figures(run)},
        versions={name: version(name) for name in _VERSIONS},
    )


def _control_ids(form: TokenFormat) -> dict[str, int]:
    """The control tokens that were chosen, by the keys of the config that name them."""
    control = form.control
    return {} if control is None else {f"{name}_token_id": token for name, token in control._asdict().items()}


def _gate_figures(run: _Run) -> dict[str, Any]:
    """What the gate found of labels or of the reward, and what decides the reward's numbers beside its name."""
    config = run.assembly.config
    if spec_of(config.objective).writes_answers:
        return {"gate": run.gate, REWARD_SETTINGS: rewards_of(config).settings}
    return {} if run.gate is None else {LABEL_GATE: run.gate}


def _judge(config: RunConfig, material: Material) -> Judge | None:
    """Of answers in heavy logs. Raises UserError: no such judge, or a held-out row that it cannot judge."""
    judge = None if config.judge is None else judge_of(config.judge)
    if judge is not None:
        judge.check([row for rows in material.parts.values() for row in rows])
    return judge


@contextmanager
def _prefix_caches(
    run: _Run, args: TrainingArguments, model: Model
) -> Iterator[tuple[PrefixCache | None, PrefixCache | None]]:
    """One for training and one for the heavy logs; each reports at the end what it saved."""
    fingerprint = run.identity["base_model"]
    uses = ("training", "heavy log")
    caches = [run.assembly.prefix_cache(args, model, fingerprint, run.folder, use) for use in uses]
    try:
        yield caches[0], caches[1]
    finally:
        for use, cache in zip(uses, caches, strict=True):
            if cache is not None:
                say(f"{use}: {cache.report()}")
                cache.close()


def _callbacks(
    trainer: ResumableRun, run: _Run, siblings: Siblings, log_cache: PrefixCache | None
) -> list[TrainerCallback]:
    """In the order in which they are called."""
    config, stop = run.assembly.config, StopAtSignal(siblings)
    metrics = MetricsFile(run.folder / "metrics.jsonl")
    when = config.first_heavy_log_step, config.heavy_log_every
    heavy_log = HeavyLog(trainer, _measure(run, log_cache), metrics, *when, stop.agreed)
    return [metrics, OptimizerCheck(trainer), SaveAtEpochEnd(), stop, heavy_log]


def _measure(run: _Run, cache: PrefixCache | None) -> Measure:
    """What the heavy log measures."""
    config, form, parts = run.assembly.config, run.assembly.form, run.material.parts
    sizes = config.validation_batch_size, config.max_new_tokens, config.seq_len
    if not spec_of(config.objective).trains_answers:
        return ReviewsMeasure(parts, form, EvalSettings(*sizes, config.frozen_prefix, prefix_cache=cache))
    if spec_of(config.objective).makes_reward:
        return PairsMeasure(parts, form, AnswerSettings(*sizes, against_base=False))
    against_base = config.reference is not None and (config.tuning != "full" or keeps_start(config))
    settings = AnswerSettings(
        *sizes, config.frozen_prefix, prefix_cache=cache, seed=config.seed, against_base=against_base
    )
    return AnswersMeasure(parts, form, settings, run.judge, run.asked)


def _run_to_its_end(trainer: ResumableRun, run: _Run, siblings: Siblings) -> None:
    try:
        trainer.train(resume_from_checkpoint=None if run.checkpoint is None else str(run.checkpoint.folder))
    except RuntimeError as error:  # a broken connection does not say which rank broke it
        if gone := siblings.ended(wait_seconds=3):
            raise RankError(f"rank {gone[0]} has ended, so this one ends too; {last_good(run.folder)}") from error
        raise


def _save(trainer: ResumableRun, run: _Run) -> None:
    """Save the adapter into the run's folder, and mark the run as ended. All ranks call this together."""
    if rank() == 0:
        finished.unmark(run.folder)
    trainer.save_model()
    if rank() == 0:
        finished.mark(run.folder, trainer.state.global_step, run.identity)
    trainer.accelerator.wait_for_everyone()
    config = run.assembly.config
    if spec_of(config.objective).makes_reward:
        say(f"reward model saved in {run.folder}")
        hand_out(f"next: python train.py --objective grpo --reward '[model:{run.folder}]' ...")
        return
    say(f"{'adapter' if config.tuning == DEFAULT_TUNING else 'model'} saved in {run.folder}")
    hand_out(f"next: python eval.py --adapter {run.folder}")  # a command to copy: not broken
