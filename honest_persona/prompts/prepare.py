"""The data of a run: read, split, chosen and encoded before any model is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from honest_persona.base.console import counted
from honest_persona.base.errors import UserError
from honest_persona.base.tensors import integers
from honest_persona.base.words import ACROSS, WITHIN
from honest_persona.config.keys import RunConfig
from honest_persona.data.kept import Records
from honest_persona.data.load import Loaded, load_splits
from honest_persona.data.splits import Splits, limit_records, sample_per_topic
from honest_persona.prompts.appended import augmented
from honest_persona.prompts.encoding import encode_records
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.rows import training_rows
from honest_persona.prompts.segments import training_system
from honest_persona.prompts.showable import showable
from honest_persona.prompts.tokens import TokenFormat, Tokens

_DUMMY_ROWS = 64
_DUMMY_INTERVENTION = "Let me step back and review what I just did: was I honest, and did I serve the user?"


@dataclass(frozen=True)
class Material:
    """Rows to train on, records to evaluate on, and how they came about."""

    rows: Dataset
    """As rows.py makes them."""
    parts: dict[str, list[Any]]
    """Records of the heavy log by part: `within` (held-out items of trained topics) and `across` (other topics)."""
    trained_topics: list[str]
    intervention: str
    """The most frequent wording in the training records: the adapter knows this wording best."""
    loaded: Loaded | None
    """None for dummy data."""
    splits: Splits
    too_long: list[str]
    """Ids of training records left out because they are longer than `seq_len` tokens."""
    not_shown: str = ""
    """What was left out because the chat template cannot show it; empty for nothing."""
    told: tuple[str, ...] = ()
    """What a run says of its data, where `loaded` does not tell it."""

    @property
    def held_out(self) -> int | None:
        """Items that are held out, whether or not the heavy log takes them; None for dummy data."""
        return None if self.loaded is None else len(set((self.splits.within + self.splits.across).values("item_id")))


def prepare(config: RunConfig, form: TokenFormat) -> Material:
    """Raises UserError: nothing to train on, or records that do not fit."""
    if config.use_dummy_data:
        return Material(dummy_rows(config, form), {}, [], _DUMMY_INTERVENTION, None, Splits(*[Records.of([])] * 4), [])
    loaded, splits = load_splits(config)
    found = [showable(part, form) for part in splits]
    splits = Splits(*(part.records for part in found))
    refused, why = sum(part.refused for part in found), next((part.why for part in found if part.why), "")
    not_shown = f"{counted(refused, 'record')}, which the chat template cannot show; first: {why}" if refused else ""
    # before `limit_records`, so that a row is the same in a run on some records and in a run on all records
    shown = augmented(splits.train, config.augment, config.augment_frac, form, config.seed)
    chosen = limit_records(shown, config.num_samples, config.seed)
    if not chosen and not_shown:
        raise UserError(f"no record is left to train on; left out are {not_shown}")
    if not chosen and (n := len(splits.within)):
        raise UserError(
            f"no record is left to train on: all {n} records of the trained topics are held out; lower "
            "val_item_frac, or give rows with `split: train`"
        )
    if not chosen:
        raise UserError(
            "train_topics: no record is left to train on; see what was rejected, and why, with "
            "`python -m honest_persona data --config ...`"
        )
    systems = (
        training_system(r, config.prob_exclude_system_prompt, config.prob_mismatch_prompts, config.seed) for r in chosen
    )
    encoded = encode_records(chosen, systems, form, config.seq_len, config.overlong)
    parts = {
        WITHIN: sample_per_topic(splits.within, config.val_samples_per_topic, config.seed),
        ACROSS: sample_per_topic(splits.across, config.val_samples_per_topic, config.seed),
    }
    return Material(
        rows=encoded.rows,
        parts=parts,
        trained_topics=sorted(encoded.topics),
        intervention=encoded.interventions.most_common(1)[0][0],
        loaded=loaded,
        splits=splits,
        too_long=encoded.too_long,
        not_shown=not_shown,
    )


def dummy_rows(config: RunConfig, form: TokenFormat) -> Dataset:
    """Rows of `seq_len` random tokens, a fifth of each row review: the load of a full run, without data."""
    trigger = [*([Kind.PERSONA_TOKEN] if form.persona.sp_token_id is not None else []), *[Kind.INTERVENTION] * 8]
    n_review = config.seq_len // 5
    n_prefix = config.seq_len - len(trigger) - n_review - 1
    if n_prefix < 1 or n_review < 1:
        raise UserError(f"seq_len: {config.seq_len} is too short for dummy data; use at least 16")
    kinds = [*[Kind.USER] * n_prefix, *trigger, *[Kind.REVIEW] * n_review, Kind.END]
    usable = integers([i for i in range(len(form.tokenizer)) if i not in form.forbidden])
    generator = torch.Generator("cpu").manual_seed(config.seed)

    def drawn() -> Iterator[tuple[str, Tokens]]:
        for i in range(config.num_samples or _DUMMY_ROWS):
            ids = usable[torch.randint(len(usable), (len(kinds),), generator=generator, device="cpu")].tolist()
            if form.persona.sp_token_id is not None:
                ids[n_prefix] = form.persona.sp_token_id
            yield f"dummy-{i}", Tokens(ids, kinds, n_prefix)

    return training_rows(drawn())
