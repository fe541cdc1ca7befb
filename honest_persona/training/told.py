"""What a run says of itself before its first step: about its data, its resume, its settings."""

import os
from collections.abc import Mapping
from typing import Any

from honest_persona.base.console import counted, one_line, say
from honest_persona.data.inventory import one_flag
from honest_persona.labelling.gate import in_words
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.prompts.prepare import Material
from honest_persona.training.checkpoints import Checkpoint, changed
from honest_persona.training.identity import changed_settings

_FEW_ITEMS = 5
"""Fewer held-out items than this give no interval."""


def tell_data(material: Material, seq_len: int, gate: Mapping[str, Any] | None) -> None:
    """What was read, kept and left out, how much is held out, and what the gate found of the labels."""
    if (loaded := material.loaded) is not None:
        parts = [
            f"{name} {counted(len(records), 'record')} of {counted(len(set(records.values('item_id'))), 'item')}"
            for name, records in material.splits._asdict().items()
            if records or name != "unused"
        ]
        counts = f"kept {len(loaded.records):,} + rejected {sum(loaded.rejected.values()):,}; {'; '.join(parts)}"
        say(f"data: read {loaded.read:,} = {counts} (`python -m honest_persona data` shows the reasons)")
        if loaded.notes:
            say(
                "data: "
                + "; ".join(f"{one_line(note)} ({counted(rows, 'row')})" for note, rows in loaded.notes.items())
            )
        if note := one_flag(material.splits):
            say(f"data: {note}")
    for line in material.told:
        say(line)
    if gate is not None:
        say(in_words(gate))
    if material.held_out is not None and material.held_out < _FEW_ITEMS:
        nothing = not material.held_out
        say(
            f"data: {counted(material.held_out, 'item')} {'is' if material.held_out == 1 else 'are'} held out: "
            + ("nothing shows what this training teaches" if nothing else "their figures say next to nothing")
            + "; give more rows, a larger val_item_frac, or rows with `split: validation`"
        )
    if material.not_shown:
        say(f"data: left out are {material.not_shown}")
    if material.too_long:
        say(f"{len(material.too_long)} training records are longer than seq_len {seq_len} and are left out")


def tell_resume(checkpoint: Checkpoint, card: AdapterCard) -> None:
    """From where the run goes on, and what is set otherwise from now on."""
    before = checkpoint.about
    say(f"resume: from {checkpoint.folder}")
    for what, differing in {
        "settings": changed_settings(before["config"], card.config),
        "versions": changed(before["versions"], card.versions),
    }.items():
        if differing:
            say(f"resume: other {what} from now on: {'; '.join(f'{k} {b} -> {n}' for k, (b, n) in differing.items())}")


def tell_compiling(options: Mapping[str, Any]) -> None:
    """Of the trainer's settings."""
    asked = any(options.get(name) for name in ("torch_compile", "torch_compile_backend", "torch_compile_mode"))
    if asked and os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        say("torch_compile: nothing is compiled, because TORCHDYNAMO_DISABLE=1 stands in the environment or env.json")
