"""Converts a model in GGUF to a folder of safetensors, in bfloat16, as transformers reads it.

Transformers reads GGUF, but such a model it neither trains nor saves, and it reads the file anew each time.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers.modeling_gguf_pytorch_utils as reading
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed
from transformers.utils.logging import set_tqdm_hook

from honest_persona.base.console import tell
from honest_persona.base.errors import UserError
from honest_persona.base.progress import followed
from honest_persona.modeling.gguf.header import DIVISORS, INSTEAD, Header
from honest_persona.modeling.gguf.rope import read_scaling
from honest_persona.modeling.gguf.tokenizer import read_tokenizer, save_tokenizer
from honest_persona.modeling.load_errors import told
from honest_persona.modeling.modes import with_attribute

_SHARD = "2GB"
"""Of weights a file: as much is copied once more while it is written."""


def convert(header: Header, model: str, folder: Path) -> None:
    """Write the model and its tokenizer.

    Args:
        model: what the user named.
        folder: a new one.

    Raises:
        UserError: transformers cannot read the file, or would read another model than the file holds.
    """
    if header.unread:
        tell(f"note: transformers does not read these values of {model}, and takes its own: {', '.join(header.unread)}")
    with _on_its_own():
        with told("GGUF", model):
            tokenizer, config, loaded, missing = _read(header, model)
        read_scaling(header, model, config)
        _check_complete(header, model, loaded, missing)
        # transformers saves no model that it read from GGUF; a model without weights takes them
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
        save_tokenizer(tokenizer, header, folder)
        skeleton.save_pretrained(folder, state_dict=loaded.state_dict(), max_shard_size=_SHARD)


def _read(
    header: Header, model: str
) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig, PreTrainedModel, Iterable[str]]:
    """The tokenizer, the config, the model, and the names of weights that the file lacks."""
    place, file = str(header.path.parent), header.path.name
    tokenizer = read_tokenizer(header, model)
    config = AutoConfig.from_pretrained(place, gguf_file=file, trust_remote_code=False)
    read: Any = AutoModelForCausalLM.from_pretrained(
        place,
        gguf_file=file,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        trust_remote_code=False,
    )
    loaded, info = read
    return tokenizer, config, loaded, info["missing_keys"]


def _check_complete(header: Header, model: str, loaded: PreTrainedModel, missing: Iterable[str]) -> None:
    """Raises UserError: weights of the file have no place in the model, or the model has weights that it lacks."""
    if missing := sorted(missing):  # transformers fills them with random numbers
        raise UserError(f"model: {model!r} lacks {len(missing)} weights, the first is {missing[0]}; {INSTEAD}")
    layers, tied = loaded.config.num_hidden_layers, loaded.config.tie_word_embeddings
    elsewhere = {DIVISORS} | ({"output.weight"} if tied else set())
    used = sum(
        int(tensor.n_elements)
        for tensor in header.reader.tensors
        # layers beyond the last only draft tokens; a tied output layer may be written twice; divisors are in the config
        if _layer(tensor.name) < layers and tensor.name not in elsewhere
    )
    found = sum(t.numel() for t in {t.data_ptr(): t for t in loaded.state_dict().values()}.values())
    if used != found:
        raise UserError(
            f"model: {model!r} holds {used:,} numbers, and the model that transformers makes of it {found:,}: it is "
            f"of a kind that transformers reads only in part; {INSTEAD}"
        )


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


@contextmanager
def _on_its_own() -> Iterator[None]:
    """Shows the package's own progress alone, and reads whole weights also in a run under ZeRO-3."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed warns that it found no accelerator

    def bar(tensors: Any, desc: str) -> Iterator[Any]:
        return followed(tensors, "conversion", "tensors")

    before = set_tqdm_hook(lambda make, args, kwargs: make(*args, **{**kwargs, "disable": True}))
    try:
        with with_attribute([reading], "tqdm", bar), with_attribute([deepspeed], "_hf_deepspeed_config_weak_ref", None):
            yield
    finally:
        set_tqdm_hook(before)
