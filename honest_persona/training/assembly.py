"""A trainer from its parts: batches, the prefix cache, whether to checkpoint."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import PeftModel
from trl import SFTConfig

from honest_persona.base.collectives import all_agree
from honest_persona.base.console import say
from honest_persona.base.errors import UserError
from honest_persona.base.ranks import rank, world_size
from honest_persona.config.keys import RunConfig
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.free_memory import free_memory
from honest_persona.modeling.load import load_model_config
from honest_persona.modeling.prefix.cache import PrefixCache, base_identity
from honest_persona.modeling.prefix.frozen import why_not_frozen, why_not_split
from honest_persona.prompts.collator import PersonaCollator, SplitCollator
from honest_persona.prompts.prepare import Row
from honest_persona.prompts.tokens import TokenFormat
from honest_persona.training.batching.lengths import Lengths
from honest_persona.training.batching.sampler import PersonaBatches
from honest_persona.training.memory import Shape, choose_checkpointing
from honest_persona.training.supervised import PersonaTrainer


def freezes_prefix(config: RunConfig) -> bool:
    """Whether training splits its rows at the activation point; says why not where the model does not let it."""
    if config.adapter_scope == "all" or not config.frozen_prefix:
        return False
    if reason := why_not_split(load_model_config(config.model, config.model_revision)):
        say(f"frozen_prefix: not with {config.model}: {reason}; training runs on whole sequences")
    return reason is None


def make_batches(config: RunConfig, rows: list[Row], frozen: bool) -> PersonaBatches:
    """This rank's micro-batches for all epochs. Raises UserError: batch_size does not go with the number of ranks."""
    world = world_size()
    batch_size = config.examples_per_step(world)
    max_steps = config.trainer.get("max_steps", -1)
    drop_last = config.trainer.get("dataloader_drop_last", False)
    steps = len(rows) // batch_size if drop_last else -(-len(rows) // batch_size)
    epochs = -(-max_steps // max(steps, 1)) if max_steps > 0 else math.ceil(config.trainer["num_train_epochs"])
    try:
        return PersonaBatches(
            Lengths.split(rows) if frozen else Lengths.whole(rows),
            batch_size,
            world=world,
            rank=rank(),
            seed=config.seed,
            epochs=epochs,
            tokens_per_batch=config.tokens_per_batch,
            micro_batch=None if config.tokens_per_batch else config.trainer["per_device_train_batch_size"],
            drop_last=drop_last,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def build_trainer(
    config: RunConfig,
    args: SFTConfig,
    form: TokenFormat,
    rows: list[Row],
    batches: PersonaBatches,
    model: PeftModel,
    card: AdapterCard,
    frozen: bool,
    prefix_cache: PrefixCache | None = None,
    run: Mapping[str, Any] | None = None,
) -> PersonaTrainer:
    """The trainer with its batches, without callbacks: all of a run that a benchmark measures."""
    if frozen and (reason := why_not_frozen(model)):
        say(f"frozen_prefix: {reason}; training runs on whole sequences")
        frozen = False
    collator = SplitCollator if frozen else PersonaCollator
    return PersonaTrainer(
        model=model,
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        data_collator=collator(form.pad_id, form.persona.sp_token_id),
        processing_class=form.tokenizer,
        batches=batches,
        card=card,
        run=run,
        frozen=frozen,
        prefix_cache=prefix_cache,
        flag_loss_multiplier=config.flag_loss_multiplier,
        lr_cooldown_frac=config.lr_cooldown_frac,
        lr_min_frac=config.lr_min_frac,
    )


def checkpoints_activations(config: RunConfig, args: SFTConfig, batches: PersonaBatches, model: PeftModel) -> bool:
    """What `activation_checkpointing` comes to: for auto, by the heaviest micro-batches of the run; says why."""
    if config.activation_checkpointing != "auto":
        return config.activation_checkpointing
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    in_memory = config.prefix_cache == "ram" and args.device.type == "cpu"
    promised = 2 * int(config.prefix_cache_gb * 2**30) if in_memory else 0  # of training, and of heavy logs
    on, why = choose_checkpointing(
        model,
        _shapes(batches),
        args.device,
        free_memory(args.device) - promised,
        autocast=None if args.deepspeed_plugin else half,
        cast=half if args.deepspeed_plugin else None,
        shards=world_size() if args.deepspeed_plugin else 1,
        agree=all_agree,
    )
    say(why)
    return on


def make_prefix_cache(
    config: RunConfig, args: SFTConfig, model: PeftModel, fingerprint: str, folder: Path, use: str
) -> PrefixCache | None:
    """As the config asks; None for none. Each use has its own: training runs its prefixes in autocast, logs do not."""
    if config.prefix_cache == "none":
        return None
    zero3 = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    return PrefixCache(
        config.prefix_cache,
        int(config.prefix_cache_gb * 2**30),
        base_identity(model, fingerprint, args.bf16, args.fp16, use),
        folder / "prefix_cache",
        agree=all_agree if zero3 else bool,
    )


def _shapes(batches: PersonaBatches) -> set[Shape]:
    """Of every micro-batch of the planned epochs, on all ranks."""
    prefix, suffix, transcript = batches.row_lengths
    shapes = set()
    for epoch in range(batches.epochs):
        for batch in (batch for step in batches.steps(epoch) for ranks in step for batch in ranks):
            rows = [i if i >= 0 else ~i for i in batch.rows]
            longest = int(prefix[rows].max())
            transcripts = len(set(transcript[rows].tolist())) if longest else 0
            shapes.add(Shape(len(rows), int(suffix[rows].max()), transcripts, longest))
    return shapes
