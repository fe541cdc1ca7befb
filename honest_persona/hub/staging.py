"""A new folder with the files of an adapter that may be published: an allow-list.

    staged = stage(Path("checkpoints/my-run"), Path(tempfile.mkdtemp()))
    staged.files, staged.left_out, staged.notices

The adapter's own folder is only read. Optimizer states, logs, data, env files, pickles and links are never staged.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.manifest import MANIFEST
from honest_persona.evaluation.sets import EVALUATION, page_id, read_set
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import CARD_FILE, read_lora_config, seal_folder
from honest_persona.modeling.adapters.load import sound_weights
from honest_persona.modeling.adapters.published import ALLOWED, README, REPORT, REQUIRED, RESULTS, TOKENIZER
from honest_persona.modeling.builtin import BUILTIN
from honest_persona.modeling.gguf.cache import cache_folder
from honest_persona.modeling.source import is_gguf

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

REWARD_MODEL = (
    "push publishes adapters that answer or review: no one could name a repo as reward: [model:user/name] and get this "
    "one's rewards. Give its folder to others as it is"
)
"""Why a reward model is not published."""
_NOT_THE_ORIGINAL = (
    "The repo of the model that was quantized will not do: its weights differ, so the adapter would refuse to load"
)
_LOCAL_PATH = re.compile(r"~?/[^/\s]+/\S|[A-Za-z]:[\\/]\S")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class StagedFiles:
    """A folder that is ready to be published."""

    folder: Path
    left_out: tuple[str, ...]
    """what else the folder that is published holds, at its top"""
    notices: tuple[str, ...]
    """what was changed in the copies, and local paths that stay in them"""

    @property
    def files(self) -> dict[str, int]:
        """Bytes by path within the folder."""
        found = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in found}


@dataclass(frozen=True)
class Staged(StagedFiles):
    """The same of an adapter."""

    card: AdapterCard
    """as it is published"""


def stage(adapter: Path, folder: Path, base_model: str | None = None, report: bool = False) -> Staged:
    """Copy what may be published into the empty `folder`; the model card is not part of it (model_card.py).

    Args:
        base_model: the Hub id to write in place of a base model that is a folder of this machine.
        report: stage eval/report.html too, which shows transcripts of the data.

    Raises:
        UserError: no whole adapter there, a link in place of a file, or a base model that nobody else can load.
    """
    for name in ALLOWED:
        _is_there(adapter, name)  # no link is followed, not even to read it
    card = AdapterCard.load(adapter, reward_model=True)
    if card.makes_reward:
        raise UserError(f"{adapter}: objective {card.objective} made a reward model, and {REWARD_MODEL}")
    if card.tuning == "full":
        raise UserError(
            f"{adapter}: tuning full changed all weights of {card.base_model}, so there is no adapter to publish. "
            f"`python -m honest_persona export --adapter {adapter} --output FOLDER --format merged` writes the model "
            "with its card alone; `hf upload user/name FOLDER` publishes it"
        )
    published = published_base(card.base_model, base_model)
    names = copy_allowed(adapter, folder, report)
    notices = _name_base(folder, card, published)
    if is_gguf(card.base_model):
        notices.append(f"{published} must hold the conversion of {card.base_model}. {_NOT_THE_ORIGINAL}")
    seal_folder(folder)
    for name in (CONFIG, CARD_FILE, "tokenizer_config.json", *({RESULTS} & set(names))):
        notices += local_paths(folder, name)
    top = {name.partition("/")[0] for name in names} | {README, MANIFEST}
    left_out = tuple(sorted(path.name for path in adapter.iterdir() if path.name not in top))
    return Staged(folder, left_out, tuple(notices), AdapterCard.load(folder))


def _check_evaluation(adapter: Path, report: bool) -> None:
    """Raises UserError: the evaluation's files to publish are of two evaluations, or were changed."""
    folder = (adapter / RESULTS).parent
    results = read_set(folder, alone=True)
    page = adapter / REPORT
    if report and results is not None and page.is_file():
        wanted, found = results["about"].get(EVALUATION), page_id(page)
        if wanted != found:
            raise UserError(
                f"{page} is of another evaluation than {RESULTS} ({found}, not {wanted}); run "
                f"`python -m honest_persona report {folder}`"
            )


def copy_allowed(adapter: Path, folder: Path, report: bool = False) -> list[str]:
    """Copy the allow-list's files into `folder`; return their names. Raises UserError as `stage`."""
    _check_evaluation(adapter, report)
    wanted = [*REQUIRED, *TOKENIZER, RESULTS, *([REPORT] if report else [])]
    names = [name for name in wanted if _is_there(adapter, name)]
    needed = [*REQUIRED, "tokenizer_config.json", *([REPORT] if report else [])]
    if lacking := [name for name in needed if name not in names]:
        raise UserError(f"{adapter}: {', '.join(lacking)} is missing; name the folder of a finished run")
    try:
        sound_weights(adapter / WEIGHTS)
    except SafetensorError as error:
        raise UserError(f"{adapter / WEIGHTS}: no weights of an adapter ({error}); take a sound copy") from error
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(adapter / name, target)
    return names


def _is_there(adapter: Path, name: str) -> bool:
    path = adapter / name
    steps = [path, *path.parents][: name.count("/") + 1]
    if link := next((step for step in steps if step.is_symlink()), None):
        raise UserError(f"{link} is a link, and what it points to may be anything; put the file itself there (cp -L)")
    return path.is_file()


def published_base(base: str, given: str | None = None) -> str:
    """The base model's name for others. Raises UserError: it is a folder or a file of this machine."""
    if given is not None and _is_local(given):
        raise UserError(f"--base_model: {given!r} is no Hub id; give one as user/name, which others can load")
    if given is None and is_gguf(base):
        raise UserError(
            f"the base model {base!r} is a file of this machine, which nobody else can load. Upload its conversion, a "
            f"folder in {cache_folder() / 'models'} (`hf upload user/name FOLDER/format-1`), and give that Hub id with "
            f"push --base_model. {_NOT_THE_ORIGINAL}"
        )
    if given is None and _is_local(base):
        raise UserError(
            f"the base model {base!r} is a folder of this machine, which nobody else can load. Give the Hub id of the "
            "same model with push --base_model; its weights are compared with the adapter's fingerprint when it is "
            "loaded"
        )
    return given or base


def on_hub(model: str) -> bool:
    """Whether the name is on the Hub: neither a model of the package nor a folder of this machine."""
    return not (model.startswith(BUILTIN) or _is_local(model))


def _is_local(model: str) -> bool:
    there = os.path.exists(model) or is_gguf(model)  # a file in GGUF is no repo, also where it is gone
    return not model.startswith(BUILTIN) and (there or _HUB_ID.fullmatch(model) is None)


def _name_base(folder: Path, card: AdapterCard, published: str) -> list[str]:
    """Write the base model's public name into the copies; return what was changed."""
    notices = []
    path = folder / CONFIG
    config = read_lora_config(folder)
    if (was := config.get("base_model_name_or_path")) != published:
        config["base_model_name_or_path"] = published
        path.write_text(json_text.dumps(config, indent=2) + "\n", encoding="utf-8")
        notices.append(f"{CONFIG}: base_model_name_or_path is published as {published}, here it is {was}")
    if card.base_model != published:
        run = {**card.config, "model": published, "model_revision": None}
        replace(card, base_model=published, base_revision=None, config=run).save(folder)
        notices.append(f"{CARD_FILE}: base_model and config.model are published as {published}, not {card.base_model}")
    return notices


def local_paths(folder: Path, name: str) -> list[str]:
    """What to tell of absolute paths in a JSON file. Raises UserError: it is no JSON."""
    try:
        content = json_text.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{name} is no JSON ({error}); take a sound copy") from error
    return [f"{name}: {key} stays a path of this machine: {path}" for key, path in _local_paths(content)]


def _local_paths(content: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Places and values of a JSON content that look like absolute paths."""
    if isinstance(content, str):
        if _LOCAL_PATH.match(content):
            yield at, content
    elif isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _local_paths(value, f"{at}.{key}" if at else str(key))
