"""Models whose weights are quantized already: what they need is checked before they are loaded."""

from typing import Any

from transformers import PreTrainedConfig
from transformers.quantizers import AutoHfQuantizer

from honest_persona.base.errors import UserError
from honest_persona.modeling.load_errors import told


def check_quantized(model: str, config: PreTrainedConfig) -> None:
    """Check that a quantized checkpoint (GPTQ, AWQ, FP8, ...) can be loaded here.

    Raises:
        UserError: transformers does not know the method (and would load the packed numbers as if they were weights), or
            a package or a GPU is lacking.
    """
    found: Any = getattr(config, "quantization_config", None)
    found = found or getattr(config.get_text_config(), "quantization_config", None)
    if not found:
        return
    content: dict[str, Any] = found if isinstance(found, dict) else found.to_dict()
    with told("quantization", model):
        known = AutoHfQuantizer.supports_quant_method(content)
    if not known:
        raise UserError(
            f"model: {model!r} is quantized by the method {content.get('quant_method')!r}, which this transformers "
            "does not know. Take the original model, without quantization_config"
        )
    with told("quantization", model):
        AutoHfQuantizer.from_config(found, pre_quantized=True).validate_environment(device_map=None, weights_only=True)
