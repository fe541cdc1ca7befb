"""The gate of an activated LoRA: in each row the adapter acts on the last tokens alone.

PEFT's gate takes a layer's input for (rows, tokens, width). Shared experts get all tokens in one dimension, and latent
attention has a dimension for its one head.
"""

from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.variants import ALoraLinearVariant
from torch import Tensor

from honest_persona.modeling.adapters.tuning import ADAPTER


def gate_all_shapes(model: PeftModel) -> None:
    """Put `TokenGate` in the place of PEFT's gates. Nothing changes in scope `all`, which has no gate."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_variant:
            layer.lora_variant.update({name: TokenGate() for name in layer.lora_variant})


_PEFTS: Any = ALoraLinearVariant.forward


class TokenGate(ALoraLinearVariant):
    """As PEFT's gate, and for inputs of (rows x tokens, width) and (rows, 1, tokens, width) too."""

    @staticmethod
    def forward(module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        offsets = kwargs.get("alora_offsets")
        if offsets is None or result.dim() == 3:
            return _PEFTS(module, active_adapter, x.contiguous(), result, **kwargs)
        shape, rows = result.shape, len(offsets)
        in_rows = shape[0] == rows and shape[1] == 1 if len(shape) == 4 else len(shape) == 2 and shape[0] % rows == 0
        assert in_rows, f"no rows of tokens: {tuple(shape)}"
        x, result = x.reshape(rows, -1, x.shape[-1]), result.reshape(rows, -1, shape[-1])
        return _PEFTS(module, active_adapter, x, result, **kwargs).reshape(shape)
