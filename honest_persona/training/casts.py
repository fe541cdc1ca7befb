"""The adapter's weights are cast (under autocast) and joined once an optimizer step, not once a forward call."""

from typing import Any, cast

import torch
from peft import PeftModel
from transformers import Trainer

from honest_persona.modeling.adapters.folded import keeping, step_weights
from honest_persona.modeling.adapters.lora import cast_by_autocast, castable


class CastsOncePerStep(Trainer):
    """A trainer of an adapter, with the same numbers and fewer casts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._step_weights = step_weights(cast(PeftModel, self.model))
        self._cast_by_autocast = castable(cast(PeftModel, self.model)) if self.accelerator.native_amp else []

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._step_begins = True
        # Autocast keeps its casts of weights until the outermost context ends, which would be each forward call's. This
        # one is off, and changes nothing but that: the adapter's weights are cast once a step (`training_step`).
        with torch.autocast(self.args.device.type, enabled=False):
            return super().train(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self._step_begins:  # what an evaluation since the last step has cast is not of this step
            self._forget()
        with cast_by_autocast(self._cast_by_autocast), keeping(self._step_weights):
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_begins = self.accelerator.sync_gradients
        if self._step_begins:  # the optimizer is about to change the weights
            self._forget()
        return loss

    def _forget(self) -> None:
        torch.clear_autocast_cache()
        for weights in self._step_weights:
            weights.clear()
