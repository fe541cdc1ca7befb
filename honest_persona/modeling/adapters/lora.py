"""The LoRA adapter: made, gated at the activation point, and loaded back.

Scope `persona` is PEFT's activated LoRA (arXiv 2504.12397) with explicit offsets, scope `all` is plain LoRA. The one
place where "active from the activation point on" becomes arguments for a forward call is `activation_arguments`.
"""

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from honest_persona.base.errors import UserError
from honest_persona.base.tensors import integers
from honest_persona.base.words import AdapterScope
from honest_persona.modeling.adapters.card import AdapterCard as AdapterCard
from honest_persona.modeling.adapters.folder import CARD_FILE as CARD_FILE
from honest_persona.modeling.adapters.folder import read_lora_config
from honest_persona.prompts.segments import Kind, Segment
from honest_persona.prompts.tokens import TokenFormat

# PEFT 0.21 reads the old name of a property that transformers 5 renamed
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

# PEFT looks for the base model's config file when it saves an adapter, by a name that means nothing to the Hub here
warnings.filterwarnings("ignore", message="Could not find a config file in builtin:")

ADAPTER = "default"
_AFTER_PREFIX = ("What", "now", "1", '"', "[", " x", "\n", "\u00c9", "\u4f60")
"""Beginnings of interventions, one for each way in which tokenizers join characters."""


def add_adapter(model: PreTrainedModel, form: TokenFormat, settings: dict[str, Any]) -> PeftModel:
    """A fresh LoRA adapter on the base model.

    Args:
        settings: `r`, `lora_alpha`, `use_rslora`, `lora_dropout`, `target_modules`, and `autocast_adapter_dtype`.

    Raises:
        UserError: the model lacks a target module. PEFT alone would adapt the others, and say nothing.
    """
    settings = dict(settings)
    autocast = settings.pop("autocast_adapter_dtype", True)
    config = LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=_invocation_tokens(form), **settings)
    try:
        adapted = get_peft_model(model, config, autocast_adapter_dtype=autocast)
    except ValueError as error:
        raise UserError(f"target_modules: {error}") from error
    targeted: Any = adapted.base_model.targeted_module_names
    found = {name.rpartition(".")[2] for name in targeted}
    if lacking := sorted({name.rpartition(".")[2] for name in settings["target_modules"]} - found):
        linear = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        layers = sorted(linear - {"base_layer", "default", "lm_head"} | found)
        raise UserError(f"target_modules: the model has no {', '.join(lacking)}; its linear layers are {layers}")
    return adapted


def _invocation_tokens(form: TokenFormat) -> list[int] | None:
    """What other software (PEFT alone, llama.cpp) looks for to switch the adapter on; we pass exact offsets instead."""
    if form.persona.adapter_scope == "all":
        return None
    if form.persona.sp_token_id is not None:
        return [form.persona.sp_token_id]
    # the ids that no following text changes: a space at the prefix's end becomes part of the next word
    prefix = form.persona.intervention_prefix
    runs = [form.encode_text([Segment(Kind.INTERVENTION, prefix + text)])[0] for text in _AFTER_PREFIX]
    same = takewhile(lambda ids: len(set(ids)) == 1, zip(*runs, strict=False))
    ids = [first for first, *_ in same] if prefix.strip() else []
    if not ids:
        raise UserError(
            "intervention_prefix: with adapter_scope persona and add_sp_token false, the adapter is found by this "
            "text, so it needs at least a word"
        )
    return ids


def activation_arguments(scope: AdapterScope, activation: torch.Tensor, length: int) -> dict[str, Any]:
    """Arguments that make one forward or generate call use the adapter from each row's activation point on.

    Args:
        activation: (B,), index of the activation point in rows of `length` tokens.
    """
    return {"alora_offsets": (length - activation).tolist()} if scope == "persona" else {}


@contextmanager
def ungated(model: PeftModel) -> Iterator[None]:
    """Inside, the adapter acts on every token that it is given: the caller gives it suffixes alone (prefix/frozen.py).

    A gate that looks for the activation point in each layer is then neither needed nor paid for. Nothing changes where
    there is no gate: in scope `all`, and inside another `ungated`.
    """
    config: Any = model.peft_config[ADAPTER]
    tokens, config.alora_invocation_tokens = config.alora_invocation_tokens, None
    layers = [m for m in model.modules() if isinstance(m, LoraLayer) and ADAPTER in m.lora_variant] if tokens else []
    variants = [layer.lora_variant.pop(ADAPTER) for layer in layers]
    try:
        yield
    finally:
        config.alora_invocation_tokens = tokens
        for layer, variant in zip(layers, variants, strict=True):
            layer.lora_variant[ADAPTER] = variant


def castable(model: PeftModel) -> list[LoraLayer]:
    """The adapter's layers without dropout: those that `cast_by_autocast` changes no number of."""
    layers: list[Any] = [m for m in model.modules() if isinstance(m, LoraLayer)]
    return [layer for layer in layers if isinstance(layer.lora_dropout[ADAPTER], torch.nn.Identity)]


@contextmanager
def cast_by_autocast(layers: Iterable[LoraLayer]) -> Iterator[None]:
    """Inside, autocast alone casts what these layers are given; without autocast the call fails.

    PEFT casts it to the float32 of the adapter's weights, and autocast back: two copies forward and two backward, and
    q, k and v each save one of their own of what all three are given. The numbers are the same, since nothing stands
    between the two casts. Dropout does, and would draw otherwise for another dtype.
    """
    changed: list[Any] = list(layers)
    for layer in changed:
        layer.cast_input_dtype_enabled = False
    try:
        yield
    finally:
        for layer in changed:
            layer.cast_input_dtype_enabled = True


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool = False) -> PeftModel:
    """The adapter of `folder` on its base model.

    Raises:
        UserError: the folder has no adapter, weights are missing, do not fit or are not finite, or the adapter was
            never trained.
    """
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    if not weights.is_file():
        raise UserError(f"{folder}: no {SAFETENSORS_WEIGHTS_NAME}; name the folder of a saved adapter")
    try:
        saved = sound_weights(weights)
        _check_rank(folder)
        loaded = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter cannot be loaded on this base model: {error}") from error
    # PEFT only warns of weights that the file lacks, and passes over those that the model has no place for
    wanted = {name.replace(".default.", ".") for name, _ in loaded.named_parameters() if ".lora_" in name}
    if wanted != saved:
        raise UserError(
            f"{folder}: the adapter does not fit this base model: {len(wanted - saved)} weights are missing and "
            f"{len(saved - wanted)} have no place, first {min(wanted ^ saved)}; load the model it was trained on"
        )
    if not trainable and not any(p.any() for name, p in loaded.named_parameters() if "lora_B" in name):
        raise UserError(f"{folder}: the adapter changes nothing (all its B matrices are zero); it was never trained")
    return loaded


def sound_weights(path: Path) -> set[str]:
    """Names of an adapter's weights, each of which has been read.

    Raises:
        UserError: a number in them is not finite.
        SafetensorError: the file is none.
    """
    with safe_open(path, "pt") as file:
        names = sorted(file.keys())
        broken = [name for name in names if not file.get_tensor(name).isfinite().all()]
    if broken:
        raise UserError(
            f"{path}: {len(broken)} of its weights hold numbers that are not finite, the first is {broken[0]}; its "
            "training went wrong, or the file is damaged. Take a sound copy, or train again"
        )
    return set(names)


def _check_rank(folder: Path) -> None:
    """Asked before PEFT makes room for adapter_config.json's rank. Raises UserError: the weights have another."""
    rank = read_lora_config(folder).get("r")
    with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, "pt") as file:
        ranks = {file.get_slice(name).get_shape()[0] for name in file.keys() if "lora_A" in name}  # noqa: SIM118
    if ranks - {rank}:
        raise UserError(
            f"{folder}: adapter_config.json names the rank r {rank}, but the weights have {sorted(ranks)}; take a "
            "sound copy, or train again"
        )


@torch.no_grad()
def check_active(model: PeftModel, form: TokenFormat, prompt_ids: list[int], activation: int) -> None:
    """The adapter must act on the suffix; on the prefix in scope `all` alone. Takes four short forward passes.

    The prefix is looked at alone: in a mixture of experts the suffix's routing, which the adapter changes, decides in
    which shapes the prefix is computed, and so its last bits.

    Raises:
        UserError: the adapter is silently inactive, or active where it must not be, or the logits are not finite.
    """
    scope = form.persona.adapter_scope
    if not _acts(model, scope, prompt_ids, activation):
        rounds = "" if model.dtype == torch.float32 else f", or, as {model.dtype} may round it away, with dtype float32"
        raise UserError(
            "the adapter is inactive: the logits with and without it are the same. "
            f"Load it with honest_persona.load_honest_persona{rounds}, or check that it was trained"
        )
    acts_before = _acts(model, scope, prompt_ids[:activation], activation)
    if scope == "persona" and acts_before:
        raise UserError(
            "the adapter acts before its activation point: it was saved as plain LoRA, or this PEFT version does not "
            "gate it. Save it again with adapter_scope persona, or install the PEFT version of the lock file"
        )
    if scope == "all" and not acts_before:
        raise UserError(
            "the adapter is inactive before the activation point, but its card says scope all: it was saved as "
            "activated LoRA. Save it again with adapter_scope all"
        )


def _acts(model: PeftModel, scope: AdapterScope, ids: list[int], activation: int) -> bool:
    """Whether the adapter changes the logits, at the activation point and behind it where `ids` reach so far."""
    inputs = torch.tensor([ids], device=model.device)
    with_adapter = model(inputs, **activation_arguments(scope, integers([activation]), len(ids))).logits[0]
    with model.disable_adapter():
        base = model(inputs).logits[0]
    for logits, whose in ((base, "the base model"), (with_adapter, "the base model with its adapter")):
        if not logits.isfinite().all():
            raise UserError(
                f"{whose} gives logits that are not finite numbers, so it can review nothing: its weights are damaged, "
                "or they overflow in float16. Load it in bfloat16 or float32, or take a sound copy"
            )
    start = activation if activation < len(ids) else 0
    return not torch.equal(with_adapter[start:], base[start:])


def base_fingerprint(model: PreTrainedModel) -> str:
    """A hash of the base model's shape and of samples of its weights: another model, or other weights, differ.

    The samples are the first 1,024 values of 16 parameters spread over the model, in bfloat16, so that the dtype a
    model is loaded in does not matter. Under ZeRO-3 each of them is gathered: all ranks must call this.
    """
    digest = hashlib.sha256()
    named = [(clean, p) for name, p in model.named_parameters() if (clean := _base_name(name)) is not None]
    for name, p in named:
        digest.update(f"{name}:{tuple(getattr(p, 'ds_shape', p.shape))};".encode())
    step = max(1, len(named) // 16)
    for _, p in named[::step]:
        with _gathered(p):
            sample = p.detach().flatten()[:1024].to("cpu", torch.bfloat16)
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _base_name(name: str) -> str | None:
    """The parameter's name in the bare base model; None for an adapter's own parameter."""
    if ".lora_" in name:
        return None
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


@contextmanager
def _gathered(parameter: torch.nn.Parameter) -> Iterator[None]:
    if hasattr(parameter, "ds_id"):  # sharded by ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            yield
    else:
        yield
