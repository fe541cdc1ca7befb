"""The records that an adapter is measured on: those of a dataset that its training did not see."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from honest_persona.base.console import one_line
from honest_persona.base.errors import UserError
from honest_persona.base.words import ACROSS, WITHIN
from honest_persona.data.check import check_selection
from honest_persona.data.load import load_records
from honest_persona.data.records import Record
from honest_persona.data.rejections import NOT_CHOSEN
from honest_persona.data.selection import Selection, hint
from honest_persona.data.sources.own import no_column
from honest_persona.data.splits import sample_per_topic, split_records
from honest_persona.evaluation.row_keys import keys_for
from honest_persona.modeling.adapters.card import AdapterCard, RunSettings
from honest_persona.prompts.showable import showable
from honest_persona.prompts.tokens import TokenFormat


class HeldOut(NamedTuple):
    parts: dict[str, list[Record]]
    """`within`: held-out items of topics that the adapter was trained on; `across`: all other topics."""
    train: Sequence[Record]
    """Records of the trained topics on the other side of the split by item."""
    records: Sequence[Record]
    """All of the data."""
    left_out: Sequence[str]
    """Rows that cannot be used, and records that the chat template cannot show; each with their number and a reason."""


def held_out(
    card: AdapterCard,
    dataset: str,
    form: TokenFormat,
    topics: Sequence[str] | None = None,
    limit: int | None = None,
    all_items: bool = False,
    rows: Mapping[str, Any] | None = None,
) -> HeldOut:
    """A dataset's records as they are to be evaluated; arguments as in `evaluate_adapter`, `rows` as of `row_keys`.

    Rows that cannot be used, and records that the chat template of `form` cannot show, are left out.

    Raises:
        UserError: no row can be used.
    """
    keys = keys_for(card, dataset, rows or {})
    settings = RunSettings(card.config).over(
        train_topics=topics or "all", validation_topics=[], claude_frac=1.0, **keys
    )
    reading = {key: value for key, value in settings.items() if key not in Selection.KEYS}
    for _, problem in check_selection({**reading, "dataset": dataset}):
        raise UserError(f"{problem}\n--columns and --flag_values say how the rows of other data are read")
    loaded = load_records(dataset, Selection.of(settings))
    for ours, theirs in keys["columns"].items():
        if loaded.records and theirs and loaded.notes.get(no_column(ours, theirs)) == len(loaded.records):
            raise UserError(f"--columns: {ours}: no row has a column {theirs!r}{hint(theirs, loaded.ignored)}")
    records, refused, why = showable(loaded.records, form)
    left_out = [f"{refused:,} records, which the chat template cannot show; first: {why}"] if refused else []
    unusable = [rejection for rejection in loaded.rejections if rejection.reason.partition(":")[0] not in NOT_CHOSEN]
    if unusable:
        first = unusable[0]
        left_out.append(
            f"{len(unusable):,} of {loaded.read:,} rows of the data, which cannot be used; first: "
            f"{one_line(first.file)}, {one_line(first.place)}: {first.reason.partition(':')[0]}"
        )
    new_topics: set[str] = set(records.values("topic")) - set(card.trained_topics)
    splits = split_records(records, new_topics, card.config["val_item_frac"], card.config["seed"])
    within = splits.within + splits.train if all_items else splits.within
    across = splits.across + splits.unused if all_items else splits.across
    parts = {WITHIN: within, ACROSS: across}
    n = limit if limit is not None else len(records)
    chosen = {part: sample_per_topic(of, n, card.config["seed"]) for part, of in parts.items()}
    return HeldOut(chosen, splits.train, records, left_out)
