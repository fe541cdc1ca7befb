"""A folder of data files: files of one kind, what `save_to_disk` wrote, or a clone of a Hub dataset."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from honest_persona.base.errors import UserError
from honest_persona.data.sources.arrow import arrow_rows, saved_splits
from honest_persona.data.sources.class_names import Names, WithNames, names_in_card
from honest_persona.data.sources.csv_file import csv_rows
from honest_persona.data.sources.json_file import json_rows, lines_rows
from honest_persona.data.sources.kinds import REMEDIES, bare_ending
from honest_persona.data.sources.naming import DatasetName
from honest_persona.data.sources.parquet import parquet_rows
from honest_persona.data.sources.source import FilePart, RowForm, RowReader, Source, shown
from honest_persona.data.sources.splits import chosen_split, form_of, parts_of, split_of

READERS: Mapping[str, Callable[[Path], Iterator[tuple[Any, str]]]] = {
    ".jsonl": lines_rows,
    ".ndjson": lines_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
}
KINDS = ".jsonl, .json, .csv, .tsv, .parquet or .arrow"
_ABOUT_DATA = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "metadata.json"}
_MOST_FILES = 100_000


def read_folder(dataset: str, name: DatasetName, form: RowForm) -> Source:
    """Raises UserError: the folder holds no data files, or files of several kinds, or no such split or config."""
    root, config, chosen = name.path, None, name.chosen
    splits = saved_splits(dataset, root)
    card = _card(root) if splits is None else {}
    if splits is None and (configs := _configs(card)):
        config, chosen = _chosen_config(dataset, configs, chosen)
        splits = _files_of(dataset, root, config)
    elif splits is None:
        splits = defaultdict(list)
        for path in _files(dataset, root):
            splits[split_of(path, root)].append(path)
    names = names_in_card(card, config)
    return source_of(dataset, chosen_split(dataset, splits, chosen), form, config, parts_of(splits), names)


def source_of(
    dataset: str,
    splits: Mapping[str, Sequence[Path]],
    form: RowForm,
    config: str | None = None,
    parts: Mapping[str, str | None] | None = None,
    names: Names | None = None,
) -> Source:
    """The files as they are; `parts` says what each split is for, `names` what the numbers of class labels mean."""
    parts = parts or parts_of(splits)
    if len(splits) == 1:
        parts = dict.fromkeys(splits)  # one split alone is divided by the seed
    forms = {split: form_of(form, parts[split], split) for split in splits}
    if names:
        forms = {split: WithNames(of, tuple(names.items())) for split, of in forms.items()}
    files = [
        FilePart(path, RowReader(READERS[bare_ending(path)], forms[split]))
        for split, paths in splits.items()
        for path in paths
    ]
    named = {split: parts[split] for split in splits if split}
    return Source(dataset, files, config=config, splits=named if len(splits) > 1 or named else {})


def _files(dataset: str, root: Path) -> list[Path]:
    """All data files of a folder and its folders, sorted; hidden ones are left out."""
    found: list[Path] = []
    others: Counter[str] = Counter()
    for folder, folders, names in os.walk(root, onerror=_stop(dataset)):
        here = Path(folder)
        like_files = [name for name in folders if bare_ending(here / name) in READERS]
        folders[:] = sorted(name for name in folders if name[0] not in "._" and name not in like_files)
        for name in sorted([*names, *like_files]):
            if bare_ending(here / name) in READERS and name[0] != "." and name not in _ABOUT_DATA:
                found.append(here / name)
            elif name[0] != ".":
                others[Path(name).suffix.lower() or name] += 1
        if len(found) + others.total() > _MOST_FILES:
            raise UserError(f"dataset {dataset!r} holds more than {_MOST_FILES:,} files: give the folder of the data")
    kinds = Counter(bare_ending(path) for path in found)
    if not found:
        endings = [ending for ending, _ in others.most_common(3)]
        holds = ", ".join(f"{others[ending]} {shown(ending)}" for ending in endings) or "nothing"
        remedies = "".join(f"; {ending}: {REMEDIES[ending]}" for ending in endings if ending in REMEDIES)
        raise UserError(
            f"dataset {dataset!r} has no topic folder with batch files and no data file (it holds {holds}): it must "
            f"hold <topic>/batch_*.json, or {KINDS} files{remedies}{_on_the_hub(dataset, root)}"
        )
    if len(kinds) > 1:
        counts = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        raise UserError(
            f"dataset {dataset!r} holds data files of several kinds ({counts}): give one file, such as "
            f"{shown(found[0])}, or move the others away"
        )
    return found


def _on_the_hub(dataset: str, root: Path) -> str:
    """A hint where a folder hides a Hub dataset of its name."""
    if DatasetName(dataset).is_hub_id and not root.is_absolute():
        return ". A folder of this name comes before a dataset of the Hub: rename the folder to read from the Hub"
    return ""


def _stop(dataset: str) -> Callable[[OSError], None]:
    def stop(error: OSError) -> None:
        raise UserError(f"dataset {dataset!r} cannot be read: {error.strerror}; check its permissions") from error

    return stop


def _card(root: Path) -> dict[str, Any]:
    """The YAML head of a dataset card, README.md; empty where there is none."""
    try:
        head = (root / "README.md").read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
        card = (
            yaml.safe_load(head.removeprefix("\ufeff").removeprefix("---"))
            if head.lstrip("\ufeff")[:3] == "---"
            else {}
        )
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def _configs(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The configs that a dataset card has under `configs:`."""
    configs = card.get("configs")
    found = [entry for entry in configs if isinstance(entry, dict)] if isinstance(configs, list) else []
    return [entry for entry in found if isinstance(entry.get("config_name"), str) and "data_files" in entry]


def _chosen_config(
    dataset: str, configs: Sequence[dict[str, Any]], chosen: tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    """A config's name, and what is left of the choice."""
    names = [entry["config_name"] for entry in configs]
    if chosen and chosen[0] in names:
        return chosen[0], chosen[1:]
    defaults = [entry["config_name"] for entry in configs if entry.get("default") is True]
    if "default" in names:
        defaults.append("default")
    if len(names) == 1 or defaults:
        return (defaults or names)[0], chosen
    raise UserError(
        f"dataset {dataset!r} has several configs: choose one of {', '.join(names)}, as {dataset}:{names[0]}"
    )


def _files_of(dataset: str, root: Path, config: str) -> dict[str, list[Path]]:
    """The files of each split of a config, found by datasets as its `load_dataset` finds them."""
    import datasets  # takes seconds, and most runs do not need it

    try:
        builder = datasets.load_dataset_builder(str(root), config)
    except Exception as error:  # whatever a card makes datasets stumble over
        raise UserError(
            f"dataset {dataset!r}: datasets cannot find config {config!r} ({type(error).__name__}: {error}). "
            "Correct `configs` in its README.md, or give the folder of the files"
        ) from error
    files = {
        str(split): [Path(str(file)) for file in found] for split, found in (builder.config.data_files or {}).items()
    }
    for path in (path for found in files.values() for path in found):
        if bare_ending(path) not in READERS or not path.is_absolute():
            raise UserError(f"dataset {dataset!r}: config {config!r} names {shown(path)}, which is no {KINDS} file")
    return files
