"""TRL's SFTTrainer with the persona's loss and its activation point."""

from collections.abc import Mapping
from typing import Any

import torch
from trl import SFTTrainer

from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.objectives.persona import persona_loss
from honest_persona.training.casts import CastsOncePerStep
from honest_persona.training.prefixes import RunsPrefixesOnce
from honest_persona.training.resumable import ResumableRun


class PersonaTrainer(RunsPrefixesOnce, ResumableRun, CastsOncePerStep, SFTTrainer):
    """Trains the adapter on rows of `SplitCollator`, packed or not, or, where the prefix is not frozen, of
    `PersonaCollator`.

    The card's persona says where the adapter is active.

    Args:
        flag_loss_multiplier: weight of the flag's tokens in the loss.
        args, kwargs: as for `RunsPrefixesOnce`, `ResumableRun` and `SFTTrainer`.
    """

    def __init__(self, *args: Any, flag_loss_multiplier: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.flag_loss_multiplier = flag_loss_multiplier

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The batch's share of the mean over the whole accumulated batch; with `return_outputs` the head's outputs."""
        outputs, tokens = self._suffixes(model, inputs) if self.frozen else self._whole_rows(model, inputs)
        num_items = outputs.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
        sums = persona_loss(outputs.log_probs, inputs["kinds"], num_items, self.flag_loss_multiplier)._asdict()
        loss = sums.pop("loss")
        if model.training:
            self.sums.add(**sums, right_tokens=outputs.is_top1.sum(), tokens=tokens[0], computed_tokens=tokens[1])
        loss = self.over_ranks(loss, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Loss of review and of flag in nats per token, and how many supervised tokens are the likeliest ones."""
        n_review, n_flag = sums["review_tokens"], sums["flag_tokens"]
        return {
            "review_loss": sums["review_nll"] / max(n_review, 1),
            "flag_loss": sums["flag_nll"] / max(n_flag, 1),
            "token_accuracy": sums["right_tokens"] / max(n_review + n_flag, 1),
        }

    def _whole_rows(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, tuple[torch.Tensor, torch.Tensor]]:
        """Outputs of the fused head over whole rows; how many tokens they have, and how many were computed."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        gate = activation_arguments(self.card.persona.adapter_scope, inputs["activation"], ids.shape[1])
        outputs = model(
            input_ids=ids, attention_mask=mask, labels=inputs["labels"], **gate, use_cache=False, fused_lm_head=True
        )
        return outputs, (mask.sum(), mask.sum())

    def _suffixes(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, tuple[torch.Tensor, torch.Tensor]]:
        """The same over suffixes. Each transcript's prefix is run once, without gradient."""
        behind, tokens = self.behind(self.prefix_of(inputs), inputs)
        outputs = model(input_ids=inputs["input_ids"], labels=inputs["labels"], **behind, fused_lm_head=True)
        return outputs, tokens
