"""Models in GGUF, the format of llama.cpp, converted to safetensors once and kept in the user's cache.

    folder = converted(Path("models/mine.gguf"), "models/mine.gguf")

A conversion lies in a folder that is named by the file's SHA-256, so an altered file is converted anew. The environment
variable HONEST_PERSONA_CACHE moves the cache; without it, it is `honest_persona` in Hugging Face's cache (HF_HOME).
The weights are stored in bfloat16.
"""

import hashlib
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from honest_persona.base.console import tell
from honest_persona.base.errors import UserError
from honest_persona.base.files import part_of
from honest_persona.base.locks import held
from honest_persona.base.manifest import Damaged, check, seal
from honest_persona.modeling.load_errors import told

VARIABLE = "HONEST_PERSONA_CACHE"
INSTALL = "pip install 'honest-persona[gguf]'"
_MODEL = "model"
_LONGEST_S = 3600.0
"""How long to wait for another process that converts the same file."""


def cache_folder() -> Path:
    """Where converted models are kept."""
    return Path(os.environ.get(VARIABLE) or Path(constants.HF_HOME) / "honest_persona").expanduser()


def is_weights(name: str) -> bool:
    """Whether a file of a conversion holds weights: these are checked where they are loaded, not for a tokenizer."""
    return name.endswith(".safetensors")


def converted(path: Path, model: str, sha256: str | None = None, about: dict[str, Any] | None = None) -> Path:
    """The folder with the file's model in safetensors and its tokenizer; made where it is not there.

    Args:
        model: what the user named.
        sha256: the file's hash where it is known.
        about: further facts for the card.

    Raises:
        UserError: the file cannot be converted, or a conversion cannot be kept, or is not what was written.
    """
    sha256 = sha256 or file_hash(path)
    home = cache_folder() / "models" / f"{path.stem}-{sha256[:12]}"
    folder = home / _MODEL
    if not folder.is_dir():
        with held(home, f"a conversion of {model}", f"wait for it, or set {VARIABLE} to another folder", _LONGEST_S):
            if not folder.is_dir():
                _convert(path, model, folder, {"sha256": sha256, **(about or {})})
    check_whole(folder, model, weights=False)
    return folder


def check_whole(folder: Path, model: str, weights: bool) -> None:
    """Hash the files of a conversion: its weights, or all others.

    Raises:
        UserError: a file is not what was written.
    """
    try:
        check(folder, lambda name: is_weights(name) == weights)
    except Damaged as error:
        raise UserError(
            f"model: the conversion of {model!r} in {folder} is not as it was written: {error}. Remove the folder; "
            "it is then made anew"
        ) from error


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(path: Path, model: str, folder: Path, about: dict[str, Any]) -> None:
    if find_spec("gguf") is None:
        raise UserError(f"model: {model!r} is in GGUF, and the package that reads it is not installed: {INSTALL}")
    tell(f"model: {model} is converted to safetensors, once, into {folder.parent}")
    part = part_of(folder)
    try:
        with told("model", model):
            _save(path, part)
        seal(part, about)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _save(path: Path, folder: Path) -> None:
    place, file = str(path.parent), path.name
    config = AutoConfig.from_pretrained(place, gguf_file=file, trust_remote_code=False)
    AutoTokenizer.from_pretrained(place, gguf_file=file, trust_remote_code=False).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(
        place,
        gguf_file=file,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
    )
    # transformers saves no model that was read from GGUF; a skeleton of its shape takes the weights
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    skeleton.save_pretrained(folder, state_dict=loaded.state_dict(), max_shard_size="2GB")
