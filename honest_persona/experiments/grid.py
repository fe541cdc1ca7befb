"""Trainings over values of the config's keys and over seeds: which values, and how much of it is chance?

    python -m honest_persona sweep --config configs/organism-preference.yaml --grid lr=1e-4,3e-4 beta=0.1,0.3 --seeds 3
    deepspeed --num_gpus 8 --module honest_persona sweep --config hp.yaml --grid lora_r=16,64 --limit 208

For reviews and for answers alike. Each combination with each seed is a run of its own in DIR/<cell>/ (folds.py), and
`grid.json` has the figures of all that have ended, `grid.md` their table. A grid that was stopped continues from there.

A grid picks nothing. Whoever takes its best row chooses on the held-out rows that the row's figure is of, so that this
figure is too good; the table says so.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.collectives import held_by_all
from honest_persona.base.console import say
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.base.progress import rounds
from honest_persona.base.ranks import rank
from honest_persona.config.keys import CHECKPOINTS_DIR, RunConfig
from honest_persona.config.load import ALIASES
from honest_persona.config.ood import ood_entries
from honest_persona.config.parsing import read_arguments
from honest_persona.data.check import load_run_config
from honest_persona.data.choices.read import read_ood
from honest_persona.evaluation.answers.judges import judge_of
from honest_persona.evaluation.provenance import provenance
from honest_persona.evaluation.report.page import GRID_TABLE, SWEEP_FILE
from honest_persona.experiments.answers import ENDED
from honest_persona.experiments.evaluate_any import evaluate
from honest_persona.experiments.folds import changed_keys, in_one_format, run_fold, state_of
from honest_persona.experiments.grid_table import cells_of, markdown, print_grid
from honest_persona.experiments.own_process import ranks_together
from honest_persona.modeling.load import check_loadable, load_skeleton
from honest_persona.modeling.quantized import check_trainable
from honest_persona.training.launch import on_its_base
from honest_persona.training.reference import reads_states
from honest_persona.training.represented import AnswerStates

GRID_FILE, ENDED_FILE = "grid.json", "ended.txt"
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*=")
_TAKEN: Mapping[str, str] = {
    "seed": "--seeds N takes N seeds, from the config's on",
    "run_name": "each cell is named by its values",
    "resume": "a grid that was stopped continues by itself",
    "val_samples_per_topic": "heavy logs are off in the cells; --limit is about their evaluation",
}
"""Keys of no grid, and what is there in their place."""


@dataclass(frozen=True)
class Grid:
    """What all cells share."""

    config: RunConfig
    values: dict[str, list[str]]
    """Of each key, as they were typed."""
    seeds: list[int]
    limit: int | None
    folder: Path

    @property
    def combinations(self) -> list[dict[str, str]]:
        return [dict(zip(self.values, of, strict=True)) for of in itertools.product(*self.values.values())]


def read_grid(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key, from words such as `lr=1e-4,3e-4` and `lr=1e-4,beta=0.1`; lists stand in brackets.

    Raises:
        UserError: no key, no value, a key or a value twice, or a key of no grid.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        key = ""
        for piece in _pieces(word):
            if named := _KEY.match(piece):
                given, piece = named[0][:-1].replace("-", "_"), piece[named.end() :]
                key = ALIASES.get(given, given)
                if key in found:
                    raise UserError(f"--grid: {given} is there twice; give all its values at once: {given}=A,B")
                found[key] = []
            if not key or not piece.strip():
                what = "a value is empty" if key else "no key"
                raise UserError(f"--grid: {word!r}: {what}; write KEY=VALUE,VALUE, as lr=1e-4,3e-4")
            if piece.strip() in found[key]:
                raise UserError(f"--grid: {key}: the value {piece.strip()} is there twice")
            found[key].append(piece.strip())
    for key in found:
        if key in _TAKEN:
            raise UserError(f"--grid: {key} is no key of a grid: {_TAKEN[key]}")
    return found


def _pieces(word: str) -> list[str]:
    """Split at commas that stand in no brackets and no quotes."""
    pieces, depth, quote = [""], 0, ""
    for char in word:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        if char == "," and not quote and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += char
    return pieces


def grid(
    path: str | None,
    argv: Sequence[str],
    words: Sequence[str],
    seeds: int = 1,
    limit: int | None = None,
    output: Path | None = None,
) -> Path:
    """Train and evaluate every cell that is not done yet; returns the folder. Every rank of a launcher calls this.

    The heavy log is off in the cells: the evaluation at the end of each takes its place.

    Args:
        path: the config's file; `argv` are flags of the config, the same for all cells.
        words: the grid, as `read_grid` reads it.
        seeds: of each combination: the config's seed and those after it.
        limit: rows, or records, per topic in each evaluation.
        output: the grid's folder; checkpoints/<run name>-grid where it is not given.

    Raises:
        UserError: a wrong grid; a cell whose config is refused, with its values; the folder holds another grid. All
            before the first training. Later, what `train` and `evaluate` raise.
    """
    values = read_grid(words)
    for entry in read_arguments(argv)[0]:
        if (key := ALIASES.get(entry.key, entry.key)) in values:
            raise UserError(f"--grid: {key} is a flag too; give its values in one of the two places")
    config = load_run_config(path, argv)
    folder = output or Path(CHECKPOINTS_DIR) / f"{config.run_name}-grid"
    _written(folder)
    with ranks_together():
        config = in_one_format(config, folder / GRID_FILE)
        given = Grid(config, values, [config.seed + i for i in range(seeds)], limit, folder)
        cells = _cells(given, path, argv)
        _check_same(given, cells)
        with held_by_all(folder, "a grid", "choose another --output"):
            _check_same(given, cells)  # again: another one may have written to the folder
            if rank() == 0:
                _write(given, cells)
            for cell in rounds(cells, "cell", lambda cell: cell.run_name, lambda cell: _is_done(given, cell)):
                if not _is_done(given, cell):
                    _run(given, cell)
                if rank() == 0:
                    _write(given, cells)
    if rank() == 0:
        print_grid(json_text.loads((folder / GRID_FILE).read_text(encoding="utf-8")))
        say(f"figures in {folder / GRID_FILE}, the table in {folder / GRID_TABLE}")
    return folder


def _cells(given: Grid, path: str | None, argv: Sequence[str]) -> list[RunConfig]:
    """The runs, combination by combination. Raises UserError: a config that is refused; the message names its cell."""
    cells = []
    names_of: dict[str, str] = {}
    for values in given.combinations:
        try:
            config = load_run_config(path, [*argv, *(f"--{key}={value}" for key, value in values.items())])
            _check_what_it_names(config)
        except UserError as error:
            raise UserError(f"--grid: the cell {said(values)}: {error}") from None
        if config.rounds is not None:
            raise UserError(f"--grid: the cell {said(values)}: rounds: a cell trains once; leave rounds out")
        if (same := names_of.setdefault(config.to_json(), said(values))) != said(values):
            raise UserError(f"--grid: the cells {same} and {said(values)} are one and the same; remove one")
        if config.format_name == "auto":
            config = config.in_format("bfloat16" if given.config.bf16 else "float32")
        for seed in given.seeds:
            own = {"seed": seed, "run_name": name_of(values, seed), "val_samples_per_topic": 0, "resume": False}
            cells.append(config.model_copy(update=own))
    names = [cell.run_name for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise UserError(f"--grid: two cells give a folder of one name, {twice}; write their values in another way")
    return cells


def _check_what_it_names(config: RunConfig) -> None:
    """Raises UserError: a model, layers, questions or a judge that a later cell would look for in vain."""
    base, _ = on_its_base(config)
    check_trainable(base.model, check_loadable(base.model, base.model_revision, base.bits), base.tuning)
    if reads_states(config):
        AnswerStates.of(config, load_skeleton(base.model, base.model_revision))
    read_ood(ood_entries(config.ood))
    if config.judge is not None:
        judge_of(config.judge)


def said(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def name_of(values: Mapping[str, str], seed: int) -> str:
    """Of a cell's folder: its values as far as letters and digits say them."""
    text = "_".join(f"{key}-{value}" for key, value in values.items())
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', text).strip('-._')[:150]}_seed-{seed}"


def _is_done(given: Grid, cell: RunConfig) -> bool:
    folder = given.folder / cell.run_name
    return (folder / ENDED_FILE).exists() or state_of(folder) == "evaluated"


def _run(given: Grid, cell: RunConfig) -> None:
    """One cell. A run that ends because its answers became unlikely is a result, and no error. All ranks call this."""
    try:
        run_fold(cell, given.folder, evaluate, limit=given.limit)
    except UserError as error:
        if not str(error).startswith(ENDED):
            raise UserError(f"the cell {cell.run_name}: {error}") from error
        if rank() == 0:
            write_text(given.folder / cell.run_name / ENDED_FILE, f"{error}\n")


def _check_same(given: Grid, cells: Sequence[RunConfig]) -> None:
    """Raises UserError: the folder holds another grid. More values and more seeds are the same grid, continued."""
    differing = changed_keys(cells, given.folder)
    if (before := _written(given.folder)) is not None:
        differing |= {"limit"} if before["limit"] != given.limit else set()
        differing |= {"the keys of the grid"} if list(before["grid"]) != list(given.values) else set()
    if differing:
        raise UserError(
            f"{given.folder} holds a grid that was begun with other settings of {', '.join(sorted(differing))}; give "
            "it the same ones to continue, or choose another --output"
        )


def _written(folder: Path) -> dict[str, Any] | None:
    """What `grid.json` holds; None where there is none. Raises UserError: it, or the folder, is not a grid's."""
    path = folder / GRID_FILE
    if (folder / SWEEP_FILE).exists():
        raise UserError(f"{folder} holds a sweep by topic; choose another --output")
    if not path.exists():
        return None
    try:
        content = json_text.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        remedy = "remove it, the cells beside it are kept, or choose another --output"
        raise UserError(f"{path} is no JSON: {error}; {remedy}") from error
    if not isinstance(content, dict) or not {"config", "limit", "grid"} <= content.keys():
        raise UserError(f"{path} was not written by a grid; choose another --output")
    return content


def _write(given: Grid, cells: Sequence[RunConfig]) -> None:
    """`grid.json` and `grid.md`, with every cell that has been evaluated."""
    folders: dict[str, list[tuple[int, Path]]] = {}
    ended: dict[str, list[str]] = {}
    for i, values in enumerate(given.combinations):
        of = cells[i * len(given.seeds) : (i + 1) * len(given.seeds)]
        done = [(cell.seed, given.folder / cell.run_name) for cell in of if _is_done(given, cell)]
        folders[said(values)] = [(seed, folder) for seed, folder in done if not (folder / ENDED_FILE).exists()]
        ended[said(values)] = [
            f"seed {seed}: {path.read_text(encoding='utf-8').strip()}"
            for seed, folder in done
            if (path := folder / ENDED_FILE).exists()
        ]
    content: dict[str, Any] = {
        "about": provenance(),
        "design": "grid",
        "objective": given.config.objective,
        "limit": given.limit,
        "config": given.config.as_dict(),
        "grid": given.values,
        "seeds": given.seeds,
        "cells": [{**cell, "ended": ended[cell["values"]]} for cell in cells_of(folders)],
    }
    text = json_text.dumps(json_text.defined(content), indent=1, ensure_ascii=False)
    write_text(given.folder / GRID_FILE, text + "\n")
    write_text(given.folder / GRID_TABLE, markdown(content))
