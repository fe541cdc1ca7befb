"""Llama 3's scaled positions, which a GGUF file holds as a tensor of divisors and transformers does not read.

llama.cpp writes the tensor for Llama 3.1 to 3.3 alone. Its numbers are computed from four values in the model's config,
of which three are the same in all of these models; the largest divisor is the fourth.
"""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from honest_persona.base.errors import UserError
from honest_persona.modeling.gguf.header import DIVISORS, INSTEAD, Header

_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read_scaling(header: Header, model: str, config: PreTrainedConfig) -> None:
    """Write the scaling of positions into the config, where the file has one.

    Args:
        model: what the user named.

    Raises:
        UserError: the divisors are not computed as Llama 3's.
    """
    tensor = next((tensor for tensor in header.reader.tensors if tensor.name == DIVISORS), None)
    if tensor is None:
        return
    divisors = torch.from_numpy(np.array(tensor.data, dtype=np.float32))  # (head_dim / 2,)
    plain: Any = config.rope_parameters
    config.rope_parameters = {**_LLAMA3, "rope_theta": plain["rope_theta"], "factor": float(divisors.max())}
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    steps = torch.arange(0, 2 * len(divisors), 2, dtype=torch.float64) / (2 * len(divisors))
    found = plain["rope_theta"] ** -steps / scaled.double()
    if len(found) != len(scaled) or not torch.allclose(found, divisors.double(), rtol=1e-3):
        raise UserError(f"model: {model!r} scales its positions ({DIVISORS}) in another way than Llama 3; {INSTEAD}")
