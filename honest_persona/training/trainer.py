"""TRL's SFTTrainer with the persona's loss, its activation point, and its card beside every saved adapter."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import get_wsd_schedule
from transformers.trainer import TRAINER_STATE_NAME
from trl import SFTTrainer

from honest_persona.base import json_text, progress
from honest_persona.base.errors import RankError
from honest_persona.base.manifest import MANIFEST
from honest_persona.modeling.adapters.folder import seal_folder
from honest_persona.modeling.adapters.lora import (
    ADAPTER,
    AdapterCard,
    activation_arguments,
    cast_by_autocast,
    castable,
    ungated,
)
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.modeling.prefix.frozen import Prefix, checkpoint_with_prefix, run_prefix, suffix_arguments
from honest_persona.objectives.persona import persona_loss
from honest_persona.training.batching.sampler import PersonaBatches, RowsWithBlanks
from honest_persona.training.checkpoints import into_place, last_good, thin_out, whole
from honest_persona.training.run_state import RunState, collect, restore, restore_generators, save, trainable


class PersonaTrainer(SFTTrainer):
    """Trains the adapter on rows of `SplitCollator`, or of `PersonaCollator` where the prefix cannot be frozen.

    Args:
        batches: the micro-batches of this rank, of the rows in `train_dataset`.
        run: what a run that goes on from one of this run's checkpoints must share with it (checkpoints.py).
        card: saved as `honest_persona.json` beside the adapter; its persona says where the adapter is active.
        frozen: batches are split at the activation point, and only suffixes are trained on (scope `persona`).
        prefix_cache: where prefixes are kept for later epochs.
        flag_loss_multiplier: weight of the flag's tokens in the loss.
        lr_cooldown_frac: share of the steps over which the learning rate falls, at the end (cosine).
        lr_min_frac: the share of the learning rate that it falls to.
    """

    def __init__(
        self,
        *args: Any,
        batches: PersonaBatches,
        card: AdapterCard,
        run: Mapping[str, Any] | None = None,
        frozen: bool = False,
        prefix_cache: PrefixCache | None = None,
        flag_loss_multiplier: float = 1.0,
        lr_cooldown_frac: float = 0.5,
        lr_min_frac: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.batches = batches
        self.train_dataset = RowsWithBlanks(cast(Any, self.train_dataset), batches)
        self.card, self.run = card, dict(run or {})
        self.frozen, self.prefix_cache = frozen, prefix_cache
        self.flag_loss_multiplier = flag_loss_multiplier
        self.lr_cooldown_frac = lr_cooldown_frac
        self.lr_min_frac = lr_min_frac
        # since the last log, on this rank: review nll, flag nll, review tokens, flag tokens, right tokens, tokens of
        # all rows, tokens that were computed
        self._sums = torch.zeros(7, dtype=torch.float64, device=self.accelerator.device)
        self._logged_at = time.perf_counter()
        self.peft_model = cast(PeftModel, self.model)
        self._gate = self._adapter_config.alora_invocation_tokens
        self._cast_by_autocast = castable(self.peft_model) if self.accelerator.native_amp else []
        if frozen:
            checkpoint_with_prefix(self.peft_model)

    @property
    def _adapter_config(self) -> Any:
        return self.peft_model.peft_config[ADAPTER]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        # Autocast keeps its casts of weights until the outermost context ends, which would be each forward call's. This
        # one is off, and changes nothing but that: the adapter's weights are cast once a step (`training_step`).
        outermost = torch.autocast(self.args.device.type, enabled=False)
        self._step_begins = True
        with ungated(self.peft_model) if self.frozen else nullcontext(), outermost:
            return super().train(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As the Trainer's.

        Raises:
            RankError: the loss is not a finite number; names the records. No step is taken with it.
        """
        if self._step_begins:  # what an evaluation since the last step has cast is not of this step
            torch.clear_autocast_cache()
        with cast_by_autocast(self._cast_by_autocast):
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_begins = self.accelerator.sync_gradients
        if self._step_begins:  # the optimizer is about to change the weights
            torch.clear_autocast_cache()
        if not torch.isfinite(loss):
            raise RankError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1} with the records "
                f"{', '.join(inputs['record_ids'])}. Lower learning_rate, or look at them (`python -m honest_persona "
                f"tokens`); {last_good(Path(str(self.args.output_dir)))}"
            )
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The batch's share of the mean over the whole accumulated batch. `return_outputs` gives the fused outputs."""
        outputs, tokens = self._suffixes(model, inputs) if self.frozen else self._whole_rows(model, inputs)
        num_items = outputs.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
        result = persona_loss(outputs.log_probs, inputs["kinds"], num_items, self.flag_loss_multiplier)
        if model.training:
            batch = [*result.nll_sums, *result.counts, outputs.is_top1.sum(), *tokens]
            self._sums += torch.stack(batch).double()
        loss = result.loss
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # num_items counts the tokens of every rank, and the gradients are averaged over the ranks
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _whole_rows(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, tuple[torch.Tensor, torch.Tensor]]:
        """Outputs of the fused head over whole rows; how many tokens they have, and how many were computed."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        gate = activation_arguments(self.card.persona.adapter_scope, inputs["activation"], ids.shape[1])
        outputs = model(
            input_ids=ids, attention_mask=mask, labels=inputs["labels"], **gate, use_cache=False, fused_lm_head=True
        )
        return outputs, (mask.sum(), mask.sum())

    def _suffixes(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, tuple[torch.Tensor, torch.Tensor]]:
        """The same over suffixes, each behind its transcript's prefix, which is run once and without gradient."""
        transcript, mask = inputs["transcript"], inputs["attention_mask"]
        prefix, n_run = self._prefix(inputs)
        behind = suffix_arguments(prefix, mask, transcript)
        outputs = model(input_ids=inputs["input_ids"], labels=inputs["labels"], **behind, fused_lm_head=True)
        return outputs, (prefix.mask.sum(1)[transcript].sum() + mask.sum(), n_run + mask.sum())

    def _prefix(self, inputs: dict[str, Any]) -> tuple[Prefix, torch.Tensor]:
        """The batch's transcripts, computed or from the cache, and how many tokens were computed."""
        n_run = torch.zeros((), dtype=torch.long, device=self.accelerator.device)

        def compute(ids: torch.Tensor, mask: torch.Tensor) -> Prefix:
            n_run.add_(mask.sum())
            with self.accelerator.autocast():  # in the precision that the wrapped model's forward call has
                return run_prefix(self.peft_model, ids, mask, adapter_on=False)

        ids, mask = inputs["prefix_ids"], inputs["prefix_mask"]
        cache = self.prefix_cache
        keys = inputs["prefix_keys"]
        return (compute(ids, mask) if cache is None else cache.fetch(keys, ids, mask, compute)), n_run

    def _get_train_sampler(self, train_dataset: Any = None) -> PersonaBatches:
        return self.batches

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds review and flag loss, token accuracy and tokens/s to a line of training logs. All ranks call this."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self._sums, reduction="sum").tolist()
            review, flag, n_review, n_flag, right, seen, computed = sums
            now = time.perf_counter()
            logs["review_loss"] = review / max(n_review, 1)
            logs["flag_loss"] = flag / max(n_flag, 1)
            logs["token_accuracy"] = right / max(n_review + n_flag, 1)
            logs["tokens_per_second"] = seen / (now - self._logged_at)
            logs["computed_tokens_per_second"] = computed / (now - self._logged_at)
            self._sums.zero_()
            self._logged_at = now
        super().log(logs, start_time)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside does not count as time of training, in tokens/s and for the time left."""
        start = time.perf_counter()
        with progress.paused():
            yield
        self._logged_at += time.perf_counter() - start

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """`warmup_stable_decay` with its lengths as shares of the run; any other scheduler as the Trainer makes it."""
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "warmup_stable_decay":
            warmup = self.args.get_warmup_steps(num_training_steps)
            decay = min(round(self.lr_cooldown_frac * num_training_steps), num_training_steps - warmup)
            optimizer = optimizer or self.optimizer
            assert optimizer is not None
            self.lr_scheduler = get_wsd_schedule(
                optimizer,
                num_warmup_steps=warmup,
                num_decay_steps=decay,
                num_training_steps=num_training_steps,
                min_lr_ratio=self.lr_min_frac,
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter with its card and tokenizer, into the run's folder or `output_dir`. All ranks must call this."""
        state = collect(self, weights_alone=True)
        folder = Path(output_dir or str(self.args.output_dir))
        with into_place(folder, MANIFEST, self.args.should_save, state) as partial:
            self._save_adapter(partial, state)
            if self.args.should_save:
                seal_folder(partial)

    def _save_adapter(self, folder: Path, state: RunState) -> None:
        """Under every ZeRO stage the same: the gathered weights, in the precision that the model has them in."""
        if not self.args.should_save:
            return
        config = self._adapter_config
        current, config.alora_invocation_tokens = config.alora_invocation_tokens, self._gate
        try:
            dtypes = {name: p.dtype for name, p in trainable(self).items()}
            weights = {name: weight.to(dtypes[name]) for name, weight in state.weights.items()}
            self.peft_model.save_pretrained(str(folder), state_dict=weights)
        finally:
            config.alora_invocation_tokens = current
        cast(Any, self.processing_class).save_pretrained(folder)
        replace(self.card, sealed=True).save(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Whole or not at all, without pickles, and free of stage and ranks. All ranks call this together."""
        self.store_flos()
        state, step, run_folder = collect(self), self.state.global_step, Path(str(self.args.output_dir))
        about = {"step": step, "run": self.run, "config": self.card.config, "versions": self.card.versions}
        with whole(run_folder / f"checkpoint-{step}", about, self.args.should_save, state) as folder:
            self._save_adapter(folder, state)
            if self.args.should_save:
                save(state, folder)
                # as TrainerState.save_to_json, which writes a gradient norm that overflowed as Infinity
                text = json_text.dumps(json_text.defined(asdict(self.state)), indent=2, sort_keys=True) + "\n"
                (folder / TRAINER_STATE_NAME).write_text(text, encoding="utf-8")
        if self.args.should_save:
            thin_out(run_folder, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        """Weights and optimizer come from `run_state`, not from the Trainer's or DeepSpeed's own files."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            restore(self, Path(resume_from_checkpoint))
        return prepared

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Not even one step where none is left, as in a run that was killed between its last one and its end."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: see `_prepare_for_training`."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            restore_generators(self, Path(checkpoint))
