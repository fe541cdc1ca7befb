"""A reward model as a run leaves it: an adapter with a score head, in the form of PEFT's sequence classifiers.

    save_score(folder, weight)                       # beside an adapter that was saved before
    model = load_reward_model(folder, card, dtype)   # (B, T) ids and mask -> (B,) rewards

The folder is what PEFT leaves of such a model (`task_type: SEQ_CLS`, `modules_to_save: [score]`), so that
`AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1)` reads it too.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import read_lora_config
from honest_persona.modeling.adapters.load import sound_weights
from honest_persona.modeling.load import load_base

SCORE = "score"
"""The name of the head in transformers' sequence classifiers of decoders."""
_SAVED = f"base_model.model.{SCORE}.weight"


class RewardModel(nn.Module):
    """Rewards of whole conversations, read at their last tokens."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.trunk, self.score = classifier.base_model, getattr(classifier, SCORE)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) right-padded ids and their mask to (B,) float32. What a padding id is does not matter."""
        states = self.trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return nn.functional.linear(at_last(states, mask).float(), self.score.weight.float())[:, 0]


def at_last(states: Tensor, mask: Tensor) -> Tensor:
    """(B, T, H) states of right-padded rows to (B, H) of each row's last token."""
    last = mask.sum(1) - 1
    return states[torch.arange(len(states), device=states.device), last.to(states.device)]


def check_classifies(model: str, config: PreTrainedConfig) -> None:
    """Raises UserError: transformers has no sequence classifier of this kind of model whose head is `score`."""
    try:
        made = _skeleton(config)
    except ValueError:
        made = None
    if made is None or not isinstance(getattr(made, SCORE, None), nn.Linear) or getattr(made, SCORE).bias is not None:
        raise UserError(
            f"model: transformers has no sequence classifier with a plain score head for {model!r} "
            f"({config.model_type}), and a reward model is one; train it on a decoder such as Llama or Qwen"
        )


def save_score(folder: Path, weight: Tensor) -> None:
    """Put a score head, (1, H), into the folder of an adapter."""
    path = folder / SAFETENSORS_WEIGHTS_NAME
    save_file({**load_file(path), _SAVED: weight.contiguous()}, path, {"format": "pt"})
    content = read_lora_config(folder) | {"task_type": "SEQ_CLS", "modules_to_save": [SCORE]}
    write_text(folder / CONFIG_NAME, json_text.dumps(content, indent=2, sort_keys=True))


def load_reward_model(folder: Path, card: AdapterCard, dtype: torch.dtype) -> RewardModel:
    """The base model with adapter and head. The adapter is merged where the weights are not quantized: those cannot
    hold both.

    Raises:
        UserError: the base model cannot be loaded, or the adapter does not fit it.
    """
    saved = sound_weights(folder / SAFETENSORS_WEIGHTS_NAME)
    base: PreTrainedModel = load_base(card.base_model, card.base_revision, dtype, None, card.bits)
    made: Any = _skeleton(base.config)
    setattr(made, made.base_model_prefix, base.base_model)
    for mark in ("is_loaded_in_8bit", "is_loaded_in_4bit"):  # by which PEFT knows quantized layers
        setattr(made, mark, getattr(base, mark, False))
    setattr(made, SCORE, nn.Linear(made.config.get_text_config().hidden_size, 1, bias=False, dtype=dtype))
    try:
        adapted: Any = PeftModel.from_pretrained(made, folder)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: the reward model cannot be loaded on {card.base_model!r}: {error}") from error
    wanted = {name for name, _ in adapted.named_parameters() if ".lora_" in name}
    if _SAVED not in saved or len(wanted) != len(saved) - 1:
        raise UserError(f"{folder}: the reward model does not fit {card.base_model!r}; take a sound copy")
    classifier = adapted.merge_and_unload(safe_merge=True) if card.bits is None else adapted.get_base_model()
    return RewardModel(classifier).eval()


def _skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """A sequence classifier with one output, without weights. Raises ValueError: there is none of this kind."""
    config = copy.deepcopy(config)
    config.num_labels = 1
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)
