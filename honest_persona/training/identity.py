"""What makes a run this run: a checkpoint of another one is not gone on from."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from honest_persona.base import json_text
from honest_persona.base.tensors import ids_key
from honest_persona.config.keys import RunConfig
from honest_persona.config.persona import PersonaKeys
from honest_persona.prompts.tokens import TokenFormat

_OBJECTIVE = (
    "objective",
    *PersonaKeys.model_fields,
    "flag_loss_multiplier",
    "lora_r",
    "lora_alpha",
    "use_rslora",
    "lora_dropout",
    "target_modules",
    "seed",
    "optim",
    "dataloader_drop_last",
)
"""Keys of the config that decide what is learned, from which rows in which order, and what the optimizer keeps."""


def run_identity(
    config: RunConfig, rows: Iterable[Mapping[str, Any]], form: TokenFormat, batch_size: int
) -> dict[str, Any]:
    """What must be the same in a run that goes on from a checkpoint, beside the base model; JSON types.

    ZeRO stage, number of ranks and micro-batches need not be the same.
    """
    values = config.as_dict()
    # it averages squares over the rows and columns of a matrix, and under DeepSpeed, which has slices, not at all
    moments = {} if values.get("optim") != "adafactor" else {"adafactor under DeepSpeed": bool(values.get("deepspeed"))}
    return {
        "data": _hash(f"{row['record_id']} {ids_key(row['input_ids'])} {ids_key(row['kinds'])}" for row in rows),
        "tokenizer": tokenizer_hash(form.tokenizer),
        "sp_token_id": form.persona.sp_token_id,
        "examples per step": batch_size,
        **{key: values.get(key) for key in _OBJECTIVE},
        **moments,
    }


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Config keys that differ and may: a run that goes on follows the new value."""
    keys = dict.fromkeys([*before, *now])
    ours = {*_OBJECTIVE, "resume", "run_name"}
    return {k: (before.get(k), now.get(k)) for k in keys if k not in ours and before.get(k) != now.get(k)}


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of vocabulary, special tokens, rules where it has them written down, and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json_text.dumps(tokenizer.get_vocab(), sort_keys=True)
    return _hash([rules, json_text.dumps(tokenizer.special_tokens_map, sort_keys=True), str(tokenizer.chat_template)])


def _hash(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", errors="surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()
