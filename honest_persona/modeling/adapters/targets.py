"""Which layers of a model get an adapter: `target_modules` of a run's config, as names of this model's layers.

An adapter is put on linear layers that every token of a text passes. Left out are the output layer, towers for images
and sounds, routers, and experts: transformers keeps the weights of all experts of a layer in one tensor, and a router
chooses anew for which tokens an expert computes.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from honest_persona.base.errors import UserError
from honest_persona.base.words import ALL_LINEAR

_NO_PROJECTION = re.compile(
    r"(^|\.)(router|gate|classifier|\w+_gate|experts?\.\d+|cross_attn|encoder_attn|embed_tokens_extend|altup|indexer|kv_b_proj)(\.|$)"
)
"""Names of routers and gates, of single experts, of layers that read images or an encoder, and of layers through which
nothing is learned: an indexer chooses tokens, `altup` uses weights without a call. Latent attention calls `kv_b_proj`
again for all kept tokens, so that no adapter on it could act from one token on."""
_NO_PLAIN_LINEAR = re.compile("Router|Grouped")
"""Subclasses of `nn.Linear` whose output is no product of input and weight."""
_READ_BY_KERNELS = ("x_proj", "dt_proj", "out_proj")
"""Layers of a state space that are never called on a GPU: its kernels read the weights, and no adapter would act."""


def find_targets(model: PreTrainedModel, wanted: str | Sequence[str]) -> list[str]:
    """The names that PEFT shall look for: as short as they can be without meaning another layer too.

    Args:
        model: on any device, the meta device too.
        wanted: `all-linear`, or names; a name stands for all layers whose full name ends with the name.

    Raises:
        UserError: a name stands for no layer that can have an adapter, or the model has no such layer at all.
    """
    layers = adaptable_layers(model)
    if wanted == ALL_LINEAR:
        chosen, names = layers, list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    else:
        chosen, names = [name for name in layers if _stands_for(name, wanted)], list(wanted)
        if lacking := [name for name in wanted if not any(_stands_for(layer, [name]) for layer in layers)]:
            raise UserError(_cannot_have(model, lacking, layers))
    if not chosen:
        raise UserError(f"target_modules: {type(model).__name__} has no linear layer that an adapter can be put on")
    also = [name for name, _ in model.named_modules() if _stands_for(name, names) and name not in chosen]
    return chosen if also else names


def adaptable_layers(model: PreTrainedModel) -> list[str]:
    """The full names of all layers that can have an adapter, in the model's order."""
    text = _language_model(model)
    head = model.get_output_embeddings()
    within = {id(module) for module in text.modules()} - {id(module) for m in _towers(text) for module in m.modules()}
    linear = [
        name
        for name, module in model.named_modules()
        if id(module) in within and module is not head and _is_linear(module) and not _NO_PROJECTION.search(name)
    ]
    kernels = {
        f"{name}.{layer}" for name, m in model.named_modules() if _is_state_space(m) for layer in _READ_BY_KERNELS
    }
    linear = [name for name in linear if name not in kernels]
    fused = {name for name in {name.rpartition(".")[2] for name in linear} if not _is_kept_by_peft(model, name)}
    return [name for name in linear if name.rpartition(".")[2] not in fused]


def _stands_for(layer: str, names: Iterable[str]) -> bool:
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _language_model(model: PreTrainedModel) -> nn.Module:
    """The part of a model that reads text."""
    base: Any = model.base_model
    decoder: Any = model.get_decoder()
    if decoder is None or decoder is model or isinstance(decoder, nn.Linear):
        decoder = getattr(base, "language_model", base)
    return decoder


def _towers(text: nn.Module) -> Iterable[nn.Module]:
    """Models inside a language model that read something else: images, sounds."""
    return (m for m in text.modules() if isinstance(m, PreTrainedModel) and m.main_input_name != "input_ids")


def _is_linear(module: nn.Module) -> bool:
    """Also of a quantized layer, which need not be a subclass of `nn.Linear`."""
    kind = type(module).__name__
    quantized = "Linear" in kind and hasattr(module, "in_features") and not list(module.children())
    return (quantized or isinstance(module, nn.Linear | Conv1D)) and not _NO_PLAIN_LINEAR.search(kind)


def _is_state_space(module: nn.Module) -> bool:
    return hasattr(module, "A_log") and hasattr(module, "D")


def _is_kept_by_peft(model: PreTrainedModel, name: str) -> bool:
    """Whether PEFT looks for layers of this name.

    In some mixtures of experts the expert's layers had the same names in earlier versions of transformers. For these
    models PEFT takes the name for the tensor of all experts, which an activated LoRA cannot be put on.
    """
    config = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # one of two names that PEFT takes for one tensor
        return False
    return name in (config.target_modules or ())


def _cannot_have(model: PreTrainedModel, names: Sequence[str], layers: Sequence[str]) -> str:
    known = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
    there = [name for name in names if any(_stands_for(layer, [name]) for layer in known)]
    absent = [name for name in names if name not in there]
    problems = [f"the model has no {', '.join(absent)}"] if absent else []
    if there:
        problems.append(f"no adapter can be put on {', '.join(there)}: only on linear layers that every token passes")
    can = sorted({name.rpartition(".")[2] for name in layers})
    return f"target_modules: {'; '.join(problems)}. In this model there are {', '.join(can)}, or {ALL_LINEAR} for all"
