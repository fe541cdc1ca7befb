"""A dataset of the Hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from honest_persona.base.errors import UserError
from honest_persona.data.rejections import Outcome
from honest_persona.data.sources.source import RowForm, Source

if TYPE_CHECKING:
    from datasets import DatasetDict


@dataclass(frozen=True)
class HubPart:
    """One split."""

    name: str
    """The dataset's."""
    split: str
    form: RowForm

    def stamp(self) -> tuple[int, int]:
        return 0, _load(self.name)[self.split].data.nbytes

    def read(self) -> Iterator[Outcome]:
        for index, row in enumerate(_load(self.name)[self.split]):
            yield self.form(row, self.name, f"{self.split}[{index}]")


def read_hub(dataset: str, form: RowForm) -> Source:
    return Source(dataset, [HubPart(dataset, split, form) for split in _load(dataset)])


@lru_cache(maxsize=8)
def _load(dataset: str) -> "DatasetDict":
    import datasets  # takes seconds, and most runs do not need it

    try:
        return datasets.load_dataset(dataset)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"dataset {dataset!r} is neither a path here nor a Hub dataset that can be reached "
            f"({type(error).__name__}: {error}). Check the spelling, the network, and HF_TOKEN for a private dataset"
        ) from error
