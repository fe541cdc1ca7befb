"""The trainers that `preference.py` compares: TRL's and ours, on the same rows, steps and micro-batches."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, Trainer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from benchmarks.lengths import one_answer_each
from benchmarks.setups import Setup, lora_settings, token_format, twin
from benchmarks.turns import StepwiseTraining
from benchmarks.variants import OPTIMIZER, SEED
from honest_persona.base.words import AdapterScope
from honest_persona.config.keys import RunConfig
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.lora import add_adapter
from honest_persona.training.assembly import Assembly

BETA = 0.1


@dataclass(frozen=True)
class Variant:
    label: str
    objective: str
    scope: AdapterScope | None = None
    """None: TRL's trainer"""
    cached: bool = False
    """Whether the reference's log-probabilities are computed once, before training."""
    beside: str = ""
    """TRL's variant for the same loss."""


VARIANTS = {
    "A": Variant("TRL's DPOTrainer", "dpo"),
    "B": Variant("dpo, scope response", "dpo", "response", beside="A"),
    "C": Variant("dpo, scope all", "dpo", "all", beside="A"),
    "D": Variant("TRL's DPOTrainer, reference kept", "dpo", cached=True),
    "E": Variant("dpo, scope response, reference kept", "dpo", "response", cached=True, beside="D"),
    "F": Variant("TRL's KTOTrainer", "kto"),
    "G": Variant("kto, scope response", "kto", "response", beside="F"),
    "H": Variant("kto, scope all", "kto", "all", beside="F"),
}


class DpoOnIds(DPOTrainer):
    """TRL's trainer on rows that are encoded already."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        return dataset


class KtoOnIds(KTOTrainer):
    """The same. A mismatched answer is that of the row before in the micro-batch, as TRL chooses it."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        return dataset.map(_with_mismatched, batched=True, batch_size=args.per_device_train_batch_size)


def _with_mismatched(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    answers = rows["completion_ids"]
    return {**rows, "KL_completion_ids": [answers[-1], *answers[:-1]]}


@dataclass(frozen=True)
class PreferenceBench:
    """Pairs in steps, the shared base model, and where trainers may write."""

    setup: Setup
    base: PreTrainedModel
    pairs: Dataset
    folder: Path

    def rows(self, objective: str) -> Dataset:
        return self._labels if objective == "kto" else self.pairs

    @cached_property
    def _labels(self) -> Dataset:
        return one_answer_each(self.pairs)

    def trainer(self, name: str) -> Trainer:
        """Adapters of all variants begin with the same weights."""
        torch.manual_seed(SEED)
        return self._trl(name) if VARIANTS[name].scope is None else self._ours(name)

    def steps(self, objective: str) -> list[list[int]]:
        """The rows of each optimizer step: our own plan, which TRL follows."""
        name = next(name for name, one in VARIANTS.items() if one.objective == objective and one.scope)
        return self.assembly(name).batches.step_rows(0)

    def ordered(self, objective: str) -> list[list[int]]:
        """Each step's rows by length, so that TRL's micro-batches have little padding, as ours."""
        rows = self.rows(objective)
        columns = [name for name in rows.column_names if name.endswith("_ids")]
        return [sorted(step, key=lambda i: -sum(len(rows[i][c]) for c in columns)) for step in self.steps(objective)]

    def _arguments(self) -> dict[str, Any]:
        size = self.setup.micro_batch
        return {**OPTIMIZER, "per_device_train_batch_size": size, "num_train_epochs": 1}

    def _trl(self, name: str) -> Trainer:
        """TRL alone: its trainer, its collator, its loss."""
        variant = VARIANTS[name]
        kto = variant.objective == "kto"
        config: Any = KTOConfig if kto else DPOConfig
        trainer: Any = KtoOnIds if kto else DpoOnIds
        args = config(
            output_dir=str(self.folder / name),
            seed=SEED,
            max_length=None,  # its default cuts rows at 1,024 tokens
            train_sampling_strategy="sequential",  # the rows stand in their steps' order already
            use_cpu=self.setup.device == "cpu",
            gradient_checkpointing=False,
            gradient_accumulation_steps=self.setup.batch_size // self.setup.micro_batch,
            precompute_ref_log_probs=variant.cached,
            beta=BETA,
            bf16=self.setup.dtype == torch.bfloat16,
            **self._arguments(),
        )
        made: Trainer = trainer(
            model=twin(self.base),
            args=args,
            train_dataset=self._in_trls_columns(variant.objective),
            processing_class=token_format("all").tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", **lora_settings(self.setup)),
        )
        return made

    def _in_trls_columns(self, objective: str) -> Dataset:
        rows = self.rows(objective)
        ordered = rows.select([i for step in self.ordered(objective) for i in step])
        if objective == "kto":
            ordered = ordered.rename_column("response_ids", "completion_ids")
        kept = {"prompt_ids", "chosen_ids", "rejected_ids", "completion_ids", "label"}
        return ordered.select_columns([name for name in ordered.column_names if name in kept])

    def config(self, name: str) -> RunConfig:
        """Of ours, as a user would write it."""
        variant = VARIANTS[name]
        assert variant.scope is not None, "TRL's variants have no config of ours"
        return RunConfig(
            objective=variant.objective,
            adapter_scope=variant.scope,
            reference_logprobs="cached" if variant.cached else "live",
            max_nll_rise="off",
            beta=BETA,
            seed=SEED,
            seq_len=self.setup.seq_len,
            batch_size=self.setup.batch_size,
            lora_r=self.setup.lora_r,
            activation_checkpointing=False,
            bf16=self.setup.dtype == torch.bfloat16,
            trainer=self._arguments(),
        )

    def assembly(self, name: str) -> Assembly:
        config = self.config(name)
        return Assembly.of(config, token_format(config.adapter_scope), self.rows(config.objective))

    def _ours(self, name: str) -> Trainer:
        """The trainer of a run, as `train.py` builds it."""
        assembly = self.assembly(name)
        args = assembly.arguments(self.folder / name, checkpointing=False)
        model = add_adapter(twin(self.base), assembly.form, lora_settings(self.setup))
        card = AdapterCard(assembly.form.persona, str(self.base.config.name_or_path), None, "random", "none")
        return assembly.trainer(args, model, card)

    def keep_reference(self, name: str) -> None:
        """Fills the user's cache, as a run's first seconds do: no step of a later trainer pays for it."""
        training = StepwiseTraining(self.trainer(name))
        training.turn()
        training.finish()


def padding_frac(trainer: Trainer) -> float:
    """Share of padding in all places of a trainer's batches; packed ones have no masks and no padding."""
    masks = [
        batch[key]
        for batch in trainer.get_train_dataloader()
        for key in ("attention_mask", "prefix_mask")
        if key in batch
    ]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks) if masks else 0.0
