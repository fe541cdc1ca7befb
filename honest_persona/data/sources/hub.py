"""A dataset of the Hub."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from honest_persona.base.errors import UserError
from honest_persona.data.rejections import Outcome, Rejection
from honest_persona.data.sources.naming import DatasetName
from honest_persona.data.sources.source import RowForm, Source
from honest_persona.data.sources.splits import chosen_split, form_of, parts_of
from honest_persona.data.sources.tables import table_rows

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH_ROWS = 512


@dataclass(frozen=True)
class HubPart:
    """One split."""

    name: str
    """The dataset's id."""
    config: str | None
    split: str
    form: RowForm

    def stamp(self) -> tuple[int, int]:
        return 0, _load(self.name, self.config)[self.split].data.nbytes

    def read(self) -> Iterator[Outcome]:
        rows, first = _load(self.name, self.config)[self.split].with_format("arrow"), 0
        for table in rows.iter(_BATCH_ROWS):
            for row, place in table_rows(table, self.name, first, f"{self.split}[{{}}]".format):
                yield row if isinstance(row, Rejection) else self.form(row, self.name, place)
            first += table.num_rows


def read_hub(dataset: str, name: DatasetName, form: RowForm) -> Source:
    """Raises UserError: the dataset cannot be loaded, or has no such config or split."""
    config, chosen = None, name.chosen
    if len(chosen) > 1:
        config, chosen = chosen[0], chosen[1:]
    try:
        splits = _load(name.base, config)
    except UserError:
        if not chosen or config is not None:
            raise
        config, chosen = chosen[0], ()  # the dataset has several configs, and one of them is named
        splits = _load(name.base, config)
    else:
        if chosen and config is None and chosen[0] not in splits:
            config, chosen = chosen[0], ()
            splits = _load(name.base, config)
    taken = chosen_split(dataset, splits, chosen)
    parts = parts_of(splits) if len(taken) > 1 else dict.fromkeys(taken)
    files = [HubPart(name.base, config, split, form_of(form, parts[split], split)) for split in taken]
    return Source(dataset, files, config=config, splits={split: parts[split] for split in taken})


@lru_cache(maxsize=8)
def _load(dataset: str, config: str | None) -> "Mapping[str, Dataset]":
    import datasets  # takes seconds, and most runs do not need it

    try:
        return datasets.load_dataset(*([dataset] if config is None else [dataset, config]))
    except Exception as error:  # datasets raises what its readers raise, and what the network does
        name = dataset if config is None else f"{dataset}:{config}"
        raise UserError(
            f"dataset {name!r} is neither a path here nor a Hub dataset that can be reached "
            f"({type(error).__name__}: {error}). Check the spelling, the network, and HF_TOKEN for a private dataset; "
            f"where it has several configs, name one, as {dataset}:CONFIG"
        ) from error
