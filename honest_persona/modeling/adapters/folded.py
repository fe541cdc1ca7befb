"""LoRA in fewer, larger products: y = W x + s B A x, for layers that have the same input at once.

PEFT computes W x, A x and B A x, scales the last one, and adds it: five kernels, two of them over the whole output.
Here B A x is added to W x by the product itself (`addmm`), the scale included, and the layers that read one input
(q, k, v; gate and up) share the product with their A matrices. In the backward pass the parts of an input's gradient
are added up by the products too. The numbers are PEFT's up to rounding, and a saved adapter is PEFT's.

PEFT's own way is taken where dropout is on, where the adapter has a bias or is of another kind (DoRA), where the layer
is gated at an activation point, and where two adapters act at once. A layer whose base weights are quantized, trained
or sharded (ZeRO-3 gathers the weights of a module when the module is called) goes module by module: the scale is taken
into the small product, and nothing else changes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Layers of one module that are called with one input. Where a model does otherwise, the group finds out, and parts."""


def fold(model: nn.Module) -> None:
    """Let the adapter's plain linear layers compute so. May be called again."""
    kept = StepWeights()
    for parent in model.modules():
        children = {name: child for name, child in parent.named_children() if type(child) in (Linear, FoldedLinear)}
        groups = [[name for name in names if name in children] for names in _SAME_INPUT]
        alone = [[name] for name in children if not any(name in group for group in groups)]
        for names in filter(None, [*groups, *alone]):
            members: list[Any] = [children[name] for name in names]
            group = Group(members, kept)
            for layer in members:
                layer.__class__ = FoldedLinear
                # not a submodule: the group holds layers that are submodules of their parents already
                object.__setattr__(layer, "group", group)


class FoldedLinear(Linear):
    """PEFT's layer with the forward call of this module. `fold` makes it of PEFT's."""

    group: "Group"

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or any(value is not None for value in kwargs.values()) or self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        name = self.acting()
        if name is None:
            return super().forward(x)
        dtype = _compute_dtype(x)
        if self.is_plain(name, dtype):
            return self.group.output(self, name, x.to(dtype))
        result = self.base_layer(x)
        first: Any = self.lora_A[name]
        small = first(self._cast_input_dtype(x, first.weight.dtype))
        return (result + self.lora_B[name](small * self.scaling[name])).to(result.dtype)

    def acting(self) -> str | None:
        """The one adapter that acts here in the plain way; None for PEFT's own way."""
        acting = [name for name in self.active_adapters if name in self.lora_A]
        if len(acting) != 1 or acting[0] in self.lora_variant or self.lora_bias[acting[0]]:
            return None
        dropout: Any = self.lora_dropout[acting[0]]
        return acting[0] if isinstance(dropout, nn.Identity) or not dropout.training else None

    def is_plain(self, name: str, dtype: torch.dtype) -> bool:
        """Whether base weights and adapter can be read here, and multiplied in `dtype`."""
        base: Any = self.base_layer
        if type(base) is not nn.Linear or base.weight.dtype != dtype or base.weight.requires_grad:
            return False
        if _is_hooked(base) or hasattr(base.weight, "ds_id") or (base.bias is not None and base.bias.requires_grad):
            return False
        weight: Any = self.lora_A[name].weight
        return weight.dtype == dtype or torch.is_autocast_enabled(weight.device.type)


class Group:
    """Layers with one input. The first that is called computes for all; the others find their outputs ready."""

    def __init__(self, layers: Sequence[FoldedLinear], kept: "StepWeights") -> None:
        self.layers, self.kept = list(layers), kept
        self._input: Tensor | None = None
        self._ready: dict[FoldedLinear, Tensor] = {}

    def output(self, layer: FoldedLinear, name: str, x: Tensor) -> Tensor:
        """Of one layer. An output that nobody came for tells that the layers have not one input: the group parts."""
        together = len(self.layers) > 1 and not torch.compiler.is_compiling()
        if together and self._input is x and layer in self._ready:
            output = self._ready.pop(layer)
            if not self._ready:
                self._input = None
            return output
        if not together or self._ready:
            if self._ready:
                self._part()
            return self._outputs([layer], name, x)[0]
        members = [one for one in self.layers if one.acting() == name and one.is_plain(name, x.dtype)]
        members = [one for one in members if one.scaling[name] == layer.scaling[name] and not one.disable_adapters]
        outputs = dict(zip(members, self._outputs(members, name, x), strict=True))
        output = outputs.pop(layer)
        self._input, self._ready = (x, outputs) if outputs else (None, {})
        return output

    def forget(self) -> None:
        self._input, self._ready = None, {}

    def _part(self) -> None:
        for layer in self.layers:
            object.__setattr__(layer, "group", Group([layer], self.kept))
        self.forget()

    def _outputs(self, layers: Sequence[FoldedLinear], name: str, x: Tensor) -> list[Tensor]:
        weights = self.kept.of(layers, name, x.dtype)
        flat = x.reshape(-1, x.shape[-1])
        bases: list[Any] = [layer.base_layer for layer in layers]
        frozen = [part for base in bases for part in (base.weight, base.bias)]
        outputs = _Folded.apply(flat, layers[0].scaling[name], weights.a, *weights.b, *frozen)
        return [output.view(*x.shape[:-1], output.shape[-1]) for output in outputs]


class _Weights(NamedTuple):
    """The adapter's, of n layers with one input of width d."""

    a: Tensor
    """(sum of ranks, d)"""
    b: tuple[Tensor, ...]
    """(output, rank) of each layer"""


class StepWeights:
    """The adapter's weights in the precision of the products, and joined: made once a step where `keeping` is on."""

    def __init__(self) -> None:
        self.keeping = False
        self._kept: dict[Any, _Weights] = {}

    def clear(self) -> None:
        self._kept.clear()

    def of(self, layers: Sequence[FoldedLinear], name: str, dtype: torch.dtype) -> _Weights:
        keeps = self.keeping and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not keeps:
            return _made(layers, name, dtype)
        key = (*layers, name, dtype)
        if key not in self._kept:
            self._kept[key] = _made(layers, name, dtype)
        return self._kept[key]


def _made(layers: Sequence[FoldedLinear], name: str, dtype: torch.dtype) -> _Weights:
    first: list[Any] = [layer.lora_A[name].weight for layer in layers]
    second: list[Any] = [layer.lora_B[name].weight for layer in layers]
    joined = first[0] if len(first) == 1 else torch.cat(first)
    return _Weights(joined.to(dtype), tuple(weight.to(dtype) for weight in second))


@contextmanager
def forgetting(model: nn.Module) -> Iterator[None]:
    """Inside, a forward call may end with an error: afterwards no group holds outputs of it, or what hangs on them.

    Without this, the next call would take these outputs for a sign that the layers have not one input.
    """
    try:
        yield
    finally:
        for module in model.modules():
            if isinstance(module, FoldedLinear):
                module.group.forget()


def step_weights(model: nn.Module) -> list[StepWeights]:
    """Those of the model: one, or none without an adapter's plain layer."""
    return list({id(m.group.kept): m.group.kept for m in model.modules() if isinstance(m, FoldedLinear)}.values())


@contextmanager
def keeping(weights: Iterable[StepWeights]) -> Iterator[None]:
    """Inside, weights are kept until they are cleared."""
    weights = list(weights)
    for one in weights:
        one.keeping = True
    try:
        yield
    finally:
        for one in weights:
            one.keeping = False


class _Folded(torch.autograd.Function):
    """(N, d) -> n outputs of (N, d_i); base weights are frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, a: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        n = len(rest) // 3
        b, base = rest[:n], rest[n:]
        with torch.autocast(x.device.type, enabled=False):
            small = nn.functional.linear(x, a)
            outputs = []
            for part, up, weight, bias in zip(_parts(small, b), b, base[::2], base[1::2], strict=True):
                output = nn.functional.linear(x, weight, bias)
                outputs.append(output.addmm_(part, up.t(), alpha=scale))
        # without a gradient of the input neither A nor the base weights are needed again
        ctx.save_for_backward(x, small, *b, *((a, *base[::2]) if ctx.needs_input_grad[0] else ()))
        ctx.scale = scale
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        n = len(grads)
        x, small, *rest = ctx.saved_tensors
        b, frozen = rest[:n], rest[n:]
        grad_small = torch.empty_like(small)
        for part, grad, up in zip(_parts(grad_small, b), grads, b, strict=True):
            _scaled_product(part, grad, up, ctx.scale)
        grad_b = [
            _scaled_product(torch.empty_like(up), grad.t(), part, ctx.scale) if needed else None
            for up, grad, part, needed in zip(b, grads, _parts(small, b), ctx.needs_input_grad[3 : 3 + n], strict=True)
        ]
        grad_x = None
        if frozen:
            a, *base = frozen
            grad_x = grads[0] @ base[0]
            for grad, weight in zip(grads[1:], base[1:], strict=True):
                grad_x.addmm_(grad, weight)
            grad_x.addmm_(grad_small, a)
        grad_a = grad_small.t() @ x if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_a, *grad_b, *([None] * 2 * n)


def _parts(small: Tensor, b: Sequence[Tensor]) -> list[Tensor]:
    """Each layer's columns of (N, sum of ranks)."""
    return list(small.split([up.shape[1] for up in b], dim=1)) if len(b) > 1 else [small]


def _scaled_product(into: Tensor, first: Tensor, second: Tensor, scale: float) -> Tensor:
    """`into` = scale x first x second."""
    if torch.compiler.is_compiling():  # a compiler may read what `beta=0` leaves unread
        return into.copy_((first @ second) * scale)
    return into.addmm_(first, second, beta=0, alpha=scale)


def _compute_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _is_hooked(module: nn.Module) -> bool:
    """Whether a call of the module is more than its forward: weights elsewhere, a hook of somebody's."""
    return hasattr(module, "_hf_hook") or bool(module._forward_hooks or module._forward_pre_hooks)
