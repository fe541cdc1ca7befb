"""A GGUF file's header, and what can be said against the file before its weights are read.

header = read_header(Path("models/mine.gguf"), "models/mine.gguf")
"""

from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.integrations import GGUF_CONFIG_MAPPING
from transformers.integrations.gguf import GGUF_ARCHS
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from honest_persona.base.errors import UserError
from honest_persona.base.versions import check_versions
from honest_persona.modeling.unsupported import UNSUPPORTED

if TYPE_CHECKING:
    from gguf import GGUFReader

INSTALL = "pip install 'honest-persona[gguf]'"
INSTEAD = "take the model's repository with safetensors"
_MAGIC = b"GGUF"
_SPELLED = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss", "minimax_m2": "minimax-m2"}
"""Architectures by transformers' name -> as GGUF files name them."""
_SEEN_IN_SHAPES = {"attention.key_length", "attention.value_length"}
"""Values that the weights' shapes repeat: another one would be an error."""
_SCALED_BY_CONFIG = "gpt-oss"
"""The architecture of which transformers reads how the positions are scaled."""
DIVISORS = "rope_freqs.weight"
"""A tensor that scales the positions; rope.py reads it for Llama."""


def architectures() -> list[str]:
    """Names of architectures, as in GGUF files, that transformers converts and that can review."""
    legacy = {
        _SPELLED.get(name, name)
        for name in GGUF_SUPPORTED_ARCHITECTURES
        if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and name not in UNSUPPORTED
    }
    return sorted(legacy | set(GGUF_ARCHS))


@dataclass(frozen=True)
class Header:
    """What stands in a GGUF file before the weights."""

    path: Path
    reader: "GGUFReader"

    def get(self, key: str) -> Any:
        """The value of a key: a text, a number, a truth value or a list of these. None where it is absent."""
        field = self.reader.get_field(key)
        return None if field is None else field.contents()

    def has(self, key: str) -> bool:
        return self.reader.get_field(key) is not None

    @cached_property
    def architecture(self) -> str:
        return str(self.get("general.architecture"))

    @property
    def n_weights(self) -> int:
        """How many numbers its tensors hold."""
        return sum(int(tensor.n_elements) for tensor in self.reader.tensors)

    @property
    def unread(self) -> list[str]:
        """Keys of the architecture that transformers does not read: it takes its own values in their place."""
        name = next((name for name, spelled in _SPELLED.items() if spelled == self.architecture), self.architecture)
        mapping: Any = GGUF_CONFIG_MAPPING
        if self.architecture in GGUF_ARCHS or name not in mapping:
            return []
        read = {f"{self.architecture}.{key}" for key in {*mapping[name], *_SEEN_IN_SHAPES}}
        return [key for key in self.reader.fields if key.startswith(f"{self.architecture}.") and key not in read]

    @property
    def about(self) -> dict[str, Any]:
        """What the file says of the model's name, maker and licence."""
        keys = {
            "model": "general.name",
            "by": "general.organization",
            "licence": "general.license",
            "source": "general.source.huggingface.repository",
        }
        return {name: value for name, key in keys.items() if (value := self.get(key)) is not None}


def read_header(path: Path, model: str) -> Header:
    """The header of a file that can be converted, as far as the header tells.

    Args:
        model: what the user named.

    Raises:
        UserError: no GGUF file, one that is cut off, holds no chat model, or is of a kind that transformers does not
            read; or the package `gguf` is missing.
    """
    _check_magic(path, model)
    if find_spec("gguf") is None:
        raise UserError(f"model: {model!r} is in GGUF, and the package that reads it is not installed. Run: {INSTALL}")
    check_versions("gguf")
    from gguf import GGUFReader

    try:
        header = Header(path, GGUFReader(path))
    # what is read in place of lengths and kinds of values may be any number
    except (ValueError, LookupError, OverflowError, TypeError, MemoryError) as error:
        raise UserError(
            f"model: {model!r} is a GGUF file that is cut off or damaged, or newer than gguf {version('gguf')} reads. "
            "Download it again"
        ) from error
    if reason := _against(header):
        raise UserError(f"model: {model!r} {reason}")
    return header


def _check_magic(path: Path, model: str) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(40)
    except OSError as error:
        raise UserError(f"model: {model!r} cannot be read: {error.strerror}") from error
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"model: {model!r} is a pointer of Git LFS, not the file itself. Run `git lfs pull` in its folder, or "
            "download the file with `hf download`"
        )
    if not start.startswith(_MAGIC):
        what = f"begins with {start[:4]!r}" if start else "is empty"
        raise UserError(f"model: {model!r} is no GGUF file: it {what}, not with {_MAGIC!r}. Download it again")


def _against(header: Header) -> str | None:
    """Why the file cannot be converted, and what helps; None where nothing is known."""
    if header.reader.byte_order == "S":
        return f"is written for machines with the other byte order; {INSTEAD}"
    if not header.has("general.architecture"):
        return "names no architecture (general.architecture), so it is damaged or no model; download it again"
    if (kind := header.get("general.type")) not in (None, "model"):
        return f"holds no model, but a part of one (general.type is {str(kind)[:40]!r}); name the model's own file"
    if (parts := header.get("split.count") or 1) > 1:
        return (
            f"is one of {parts} parts of a model. Join them with llama.cpp's `llama-gguf-split --merge`, and name the "
            "file that it writes"
        )
    if header.architecture not in architectures():
        return (
            f"has the architecture {header.architecture[:40]!r}, which cannot be read from GGUF here. These can: "
            f"{', '.join(architectures())}. For any other, {INSTEAD}"
        )
    if not header.reader.tensors:
        return "holds no weights, but a vocabulary alone; name the model's own file"
    if not header.has("tokenizer.ggml.tokens") or not header.has("tokenizer.ggml.model"):
        return f"holds no tokenizer (tokenizer.ggml.tokens); {INSTEAD}"
    if not header.has("tokenizer.chat_template"):
        return (
            "holds no chat template (tokenizer.chat_template), so it is a base model, or an old conversion. Take the "
            "GGUF of the chat model of its family (-Instruct, -Chat, -it)"
        )
    return _unread(header)


def _unread(header: Header) -> str | None:
    """What the file says that transformers would leave out without a word, so that the model would be another one."""
    scaling = header.get(f"{header.architecture}.rope.scaling.type")
    if scaling not in (None, "none") and header.architecture != _SCALED_BY_CONFIG:
        return f"scales its positions ({scaling}), which transformers does not read from GGUF; {INSTEAD}"
    read = {DIVISORS} if header.architecture == "llama" else set()
    if name := next((t.name for t in header.reader.tensors if t.name.startswith("rope_") and t.name not in read), None):
        return f"scales its positions ({name}), which transformers does not read from GGUF; {INSTEAD}"
    from gguf import dequantize

    for kind, tensor in {tensor.tensor_type: tensor for tensor in header.reader.tensors}.items():
        try:
            dequantize(np.atleast_2d(tensor.data)[:1], kind)
        except NotImplementedError:
            return f"holds weights in the format {kind.name}, which gguf {version('gguf')} does not read; {INSTEAD}"
    return None
