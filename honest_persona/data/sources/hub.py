"""A dataset of the Hub whose columns are a Record's."""

from functools import lru_cache

from honest_persona.base.errors import UserError
from honest_persona.data.rejections import Outcome
from honest_persona.data.sources.rows import parse_row, rows_source
from honest_persona.data.sources.source import Source


def read_hub(dataset: str) -> Source:
    return rows_source(dataset, _hub_outcomes(dataset))


@lru_cache(maxsize=8)
def _hub_outcomes(dataset: str) -> tuple[Outcome, ...]:
    import datasets  # takes seconds, and most runs do not need it

    try:
        splits = datasets.load_dataset(dataset)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"dataset {dataset!r} is neither a path here nor a Hub dataset that can be reached "
            f"({type(error).__name__}: {error}). Check the spelling, the network, and HF_TOKEN for a private dataset"
        ) from error
    return tuple(
        parse_row(row, dataset, f"{name}[{index}]") for name, rows in splits.items() for index, row in enumerate(rows)
    )
