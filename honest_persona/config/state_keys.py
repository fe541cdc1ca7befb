"""Keys of the losses that read hidden states: which states, and what of them (docs/representation.md)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from honest_persona.base.console import counted
from honest_persona.config.objective_keys import ObjectiveKeys, Positive, Share
from honest_persona.config.objectives import specs_of

Layers = int | float | str | Sequence[int | float]
"""A layer, a range, or a list of layers, as `repr_layers` has them."""
_HOW = (
    "must be a layer (3; -1: the last one), a share of the depth (0.5), a list of these, or a range with both ends "
    "included ('0.3:-2')"
)
_RANGE = re.compile(r"(-?[0-9]+|0?\.[0-9]+)?:(-?[0-9]+|0?\.[0-9]+)?")


def _layers(value: Any) -> Any:
    ends = _ends(value) if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    for end in ends:
        whole = isinstance(end, int) and not isinstance(end, bool)
        if not whole and not (isinstance(end, float) and 0 < end < 1):
            raise ValueError(_HOW)
    if not ends:
        raise ValueError(_HOW)
    return tuple(value) if isinstance(value, list) else value


def _ends(text: str) -> list[int | float]:
    """The first and the last layer of a range."""
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if found is None:
        raise ValueError(_HOW)
    ends = [end or default for end, default in zip(found.groups(), ("1", "-1"), strict=True)]
    return [float(end) if "." in end else int(end) for end in ends]


def layers_in(layers: Layers, n: int) -> list[int]:
    """The layers of a model of n blocks that `repr_layers` names: 1 to n, the state behind the i-th block.

    Raises:
        ValueError: a layer is not there, or none is named.
    """
    if isinstance(layers, str):
        first, last = (_layer(end, n) for end in _ends(layers))
        found = list(range(first, last + 1))
    else:
        found = sorted({_layer(one, n) for one in ([layers] if isinstance(layers, int | float) else layers)})
    if not found:
        raise ValueError(
            f"{layers!r} names no layer: its first one stands behind its last one in a model of "
            f"{counted(n, 'block')}; give one that is there, as -1"
        )
    if wrong := [layer for layer in found if not 1 <= layer <= n]:
        hint = "; 0 is the embeddings, in front of all that is trained" if wrong == [0] else ""
        raise ValueError(f"{layers!r} names layer {wrong[0]}, and this model has 1 to {n}{hint}")
    return found


def _layer(end: int | float, n: int) -> int:
    return max(1, round(end * n)) if isinstance(end, float) else end if end >= 0 else n + 1 + end


def _off(value: Any) -> Any:
    return "off" if value is False else value


class StateKeys(ObjectiveKeys):
    """Which hidden states a loss reads, how they become one vector per answer, and the weights of the loss's parts."""

    repr_layers: Annotated[int | float | str | tuple[int | float, ...], BeforeValidator(_layers)] | None = None
    """layers whose states are compared: a layer (1: the first block's output, -1: the last one's), a share of the depth
    (0.5), a list of these, or a range with both ends included ('0.3:-2')"""
    repr_states: Literal["residual", "side_channels"] | None = None
    """which states: of the residual stream behind a block (residual), or the inputs of its two layers that write into
    the stream, o_proj and down_proj in Llama's names (side_channels)"""
    repr_pooling: Literal["mean", "last"] | Positive | None = None
    """how an answer's tokens become one state: their mean, the last one, or, with a number, a mean whose weights halve
    every so many tokens from the end backwards"""
    repr_sink_filter: Annotated[Annotated[float, Field(ge=1)] | Literal["off"], BeforeValidator(_off)] | None = None
    """leave out tokens whose state is longer than so many times the median of the answer's tokens, by the reference's
    states, for policy and reference alike; or off"""
    repr_transform: Literal["none", "svd"] | None = None
    """what is compared of a state: all of it (none), or what the output layer sees least of (svd): without the leading
    right singular vectors of its weights, which hold half of their squared singular values"""
    repr_grad_projection: (
        Annotated[Annotated[float, Field(ge=0, le=1)] | Literal["off"], BeforeValidator(_off)] | None
    ) = None
    """share that is left of the gradient's part across the preference direction, for weights that write (or read) these
    states; the part along it is dropped where the step would go against it. Not under DeepSpeed; off: no projection"""
    repr_dpo_weight: Annotated[float, Field(ge=0)] | None = None
    """weight of DPO's own loss beside the one on states; 0: states alone"""
    repr_retain_weight: Share | None = None
    """share of the loss that holds the chosen answer's states; the rest moves the rejected one's to them"""
    repr_schedule: Literal["constant", "linear"] | None = None
    """whether that share is the same throughout, or rises from 0 over the run, as circuit breakers have it (linear)"""
    repr_slope: Positive | None = None
    """slope of the logistic loss on states"""
    repr_orthogonal_weight: Annotated[float, Field(ge=0)] | None = None
    """weight of what the states move across the preference direction"""


def contradictions(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys that contradict each other, as (key, message). Absent keys are not checked."""
    specs = specs_of(values["objective"], values.get("also", {})) if "objective" in values else ()
    name = next((spec.name for spec in specs if spec.needs_states), None)
    if name is None:
        return
    why = f"objective {name} reads hidden states"
    if values.get("reference_logprobs") == "cached":
        yield "reference_logprobs", f"{why}, the reference's too, in each step; remove cached, or set it to live"
    if values.get("repr_transform") == "svd" and values.get("repr_states") == "side_channels":
        yield "repr_transform", "svd is of the output layer, which reads the residual stream; set repr_states: residual"
    if values.get("repr_grad_projection") not in (None, "off"):
        for key in ("deepspeed", "optimizer_in_backward"):
            if values.get(key):
                yield key, "repr_grad_projection changes whole gradients in front of the optimizer's step; remove one"
        if values.get("tuning") == "sparse":
            yield "repr_grad_projection", "tuning sparse has no gradient of whole rows; set it to off"
    for key in ("torch_compile", "torch_compile_backend", "torch_compile_mode"):
        if values.get(key):
            yield key, f"{why}, which compiled layers do not give out; remove it"
    if (values.get("activation_checkpointing_kwargs") or {}).get("use_reentrant"):
        yield (
            "activation_checkpointing_kwargs",
            f"{why}, and with use_reentrant these have no gradient; set use_reentrant: false",
        )
