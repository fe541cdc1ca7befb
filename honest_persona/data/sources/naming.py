"""The name of a dataset: a path, a Hub id or a builtin name, with a config or a split behind a colon.

`owner/name`, `owner/name:config`, `owner/name:split` and `owner/name:config:split`; with a path the same.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_MOST_CHOICES = 2


class DatasetName(NamedTuple):
    """Where a dataset lies, and which part of it is wanted."""

    base: str
    """The path or the id."""
    chosen: tuple[str, ...] = ()
    """A config, a split, or both in this order."""

    @property
    def path(self) -> Path:
        return Path(os.path.expanduser(self.base))  # Path's own way raises for an unknown ~user

    @property
    def is_hub_id(self) -> bool:
        return bool(_HUB_ID.fullmatch(self.base))


def dataset_name(dataset: str) -> DatasetName:
    """A path that exists is taken as it is, colons included."""
    base, chosen = dataset, ()  # type: tuple[str, tuple[str, ...]]
    while len(chosen) <= _MOST_CHOICES:
        name = DatasetName(base, chosen)
        if os.path.exists(name.path) or (chosen and name.is_hub_id):
            return name
        base, colon, last = base.rpartition(":")
        if not colon or not base or not last:
            break
        chosen = (last, *chosen)
    return DatasetName(dataset)
