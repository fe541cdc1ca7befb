"""What `tokens_per_batch: auto` and `activation_checkpointing: auto` come to, once the model is loaded.

    assembly, checkpointing = sized(assembly, args, model)      # every rank calls this

Memory decides: what the micro-batches of the run need, beside what is free (memory.py, budget.py).
"""

from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import TrainingArguments

from honest_persona.base.collectives import all_agree
from honest_persona.base.console import say
from honest_persona.base.ranks import world_size
from honest_persona.modeling.free_memory import free_memory
from honest_persona.training.assembly import Assembly
from honest_persona.training.batching.sampler import PersonaBatches
from honest_persona.training.budget import Choice, choose, foreseen_need, measured_need, room, sizes
from honest_persona.training.memory import Shape, choose_checkpointing, other_bytes, peak_bytes


def sized(assembly: Assembly, args: TrainingArguments, model: PeftModel) -> tuple[Assembly, bool]:
    """The run with what `tokens_per_batch` and `activation_checkpointing` come to; says why. All ranks call this.

    Whether activations are recomputed is the second value.
    """
    config, batches = assembly.config, assembly.batches
    if config.tokens_per_batch != "auto":
        return assembly, _checkpoints_activations(assembly, args, model)
    forced = None if config.activation_checkpointing == "auto" else config.activation_checkpointing
    free, precision = _free_bytes(assembly, args), _precision(args)
    assert isinstance(batches, PersonaBatches)
    steps = (rows for epoch in range(batches.epochs) for rows in batches.steps(epoch))
    step = max(sum(batch.tokens for ranks in rows for batch in ranks) for rows in steps)
    budgets = sizes(-(-step // world_size()), max(batches.lengths))

    def plan(tokens: int) -> set[Shape]:
        return shapes_of(assembly.with_budget(tokens))

    how = "foreseen"
    try:
        need = foreseen_need(model, args.device, **precision)
        chosen = choose(budgets, plan, need, room(free), forced, all_agree)
        if args.device.type == "cuda" and not args.deepspeed_plugin and not chosen.checkpointing:
            half = precision["autocast"]
            line = measured_need(chosen.tokens, plan, lambda shape: peak_bytes(model, shape, args.device, half))
            if all_agree(line is not None):
                assert line is not None
                how, tile = "measured", other_bytes(model, Shape(1, 1), args.device)
                chosen = choose(budgets, plan, line, room(free, True) - tile, False, all_agree)
                if not chosen.fits and forced is None:
                    how, chosen = "foreseen", choose(budgets, plan, need, room(free), True, all_agree)
    except (RuntimeError, TypeError, AttributeError) as error:
        all_agree(False)
        chosen = Choice(budgets[-1], forced is not False, False, 0)
        how = f"not foreseen: {str(error).partition(chr(10))[0] or type(error).__name__}"
    say(chosen.line(how, free))
    return assembly.with_budget(chosen.tokens), chosen.checkpointing


def _checkpoints_activations(assembly: Assembly, args: TrainingArguments, model: PeftModel) -> bool:
    """What `activation_checkpointing` comes to: for auto, by the heaviest micro-batches of the run; says why."""
    asked = assembly.config.activation_checkpointing
    if asked != "auto":
        return asked
    on, why = choose_checkpointing(
        model,
        shapes_of(assembly),
        args.device,
        _free_bytes(assembly, args),
        **_precision(args),
        agree=all_agree,
    )
    say(why)
    return on


def shapes_of(assembly: Assembly) -> set[Shape]:
    """The shapes of all micro-batches of the run."""
    batches = assembly.batches
    if isinstance(batches, PersonaBatches):
        return _shapes(batches, assembly.objective.answers)
    longest, answer = max(batches.prompt_tokens), assembly.config.max_answer_tokens or 0
    rows, first = batches.micro_batch, len(assembly.form.answer_prefix)
    if assembly.layout == "whole":
        return {Shape(rows, longest + answer)}
    return {Shape(rows, first + answer, batches.prompts, longest - first)}


def _shapes(batches: PersonaBatches, answers: int) -> set[Shape]:
    """The shapes of all micro-batches of the planned epochs, on all ranks; a row becomes so many answers."""
    prefix, suffix, transcript = batches.row_lengths
    shapes = set()
    for epoch in range(batches.epochs):
        for batch in (batch for step in batches.steps(epoch) for ranks in step for batch in ranks):
            rows = [i if i >= 0 else ~i for i in batch.rows]
            longest = int(prefix[rows].max())
            if batches.packed:
                first, index = np.unique(transcript[rows], return_index=True, return_inverse=True)[1:]
                lengths = prefix[rows][first].tolist()
                halves = [length // answers for length in suffix[rows].tolist()] * answers
                shapes.add(Shape.of_packed(lengths, index.tolist() * answers, halves))
                continue
            transcripts = len(set(transcript[rows].tolist())) if longest else 0
            shapes.add(Shape(len(rows) * answers, int(suffix[rows].max()) // answers, transcripts, longest))
    return shapes


def _free_bytes(assembly: Assembly, args: TrainingArguments) -> int:
    """What is not promised to the caches of training and of heavy logs."""
    in_memory = assembly.config.prefix_cache == "ram" and args.device.type == "cpu"
    return free_memory(args.device) - (2 * int(assembly.config.prefix_cache_gb * 2**30) if in_memory else 0)


def _precision(args: TrainingArguments) -> dict[str, Any]:
    """`autocast`, `cast` and `shards` of `saved_bytes` and `other_bytes`."""
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    if args.deepspeed_plugin:
        return {"autocast": None, "cast": half, "shards": world_size()}
    return {"autocast": half, "cast": None, "shards": 1}
