"""The part of a trainer that runs each transcript once, without gradient, in front of everything that stands on it."""

from contextlib import nullcontext
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import Trainer

from honest_persona.modeling.adapters.tuning import ungated
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.modeling.prefix.frozen import Prefix, checkpoint_with_prefix, run_prefix


class RunsPrefixesOnce(Trainer):
    """A trainer of an adapter on batches that are split at activation points, or on whole rows.

    Args:
        frozen: batches are split, and only what stands behind the activation points is trained on.
        prefix_cache: where prefixes are kept for later epochs.
    """

    def __init__(
        self, *args: Any, frozen: bool = False, prefix_cache: PrefixCache | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.frozen, self.prefix_cache = frozen, prefix_cache
        if frozen:
            checkpoint_with_prefix(cast(PeftModel, self.model))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with ungated(cast(PeftModel, self.model)) if self.frozen else nullcontext():
            return super().train(*args, **kwargs)

    def prefix_of(self, inputs: dict[str, Any]) -> tuple[Prefix, torch.Tensor]:
        """The batch's transcripts, computed or from the cache, and how many tokens were computed."""
        n_run = torch.zeros((), dtype=torch.long, device=self.accelerator.device)

        def compute(ids: torch.Tensor, mask: torch.Tensor) -> Prefix:
            n_run.add_(mask.sum())
            with self.accelerator.autocast():  # in the precision that the wrapped model's forward call has
                return run_prefix(cast(PeftModel, self.model), ids, mask, adapter_on=False)

        ids, mask = inputs["prefix_ids"], inputs["prefix_mask"]
        cache = self.prefix_cache
        keys = inputs["prefix_keys"]
        return (compute(ids, mask) if cache is None else cache.fetch(keys, ids, mask, compute)), n_run
