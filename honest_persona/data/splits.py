"""Seeded choices among records: the split by item, and samples for evaluation and for short runs.

Every choice hashes an id with the seed, so the order of the records does not matter. A record also stays in its part
of the split when other files are added.
"""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from honest_persona.base.grouping import grouped
from honest_persona.base.words import ACROSS, WITHIN
from honest_persona.data.kept import Kept, Records
from honest_persona.data.records import Record

K = TypeVar("K", bound=Kept[Any])


class Splits(NamedTuple, Generic[K]):
    """No item is in two parts."""

    train: K
    within: K
    """Held-out items of the trained topics."""
    across: K
    """The validation topics."""
    unused: K
    """Records of validation topics that the data itself gives to training (`Record.split`)."""


def uniform(seed: int, salt: str, key: str) -> float:
    """A number in [0, 1) that depends on the arguments alone. Numbers with different salts are independent."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{salt}:{key}".encode()).digest()[:6]) / 2**48


def in_share(item_id: str, frac: float, seed: int) -> bool:
    """Whether the item belongs to a share `frac` of the items. A larger share contains every smaller one."""
    return uniform(seed, "topic_share", item_id) < frac


def split_records(
    records: Sequence[Record], validation_topics: Collection[str], val_item_frac: float, seed: int
) -> Splits[Records]:
    """Split by cluster (the item, or the group that the data names).

    Records of `validation_topics` are `across`. Of the other records a share `val_item_frac` is `within`, unless the
    data itself names the part of a record. An item that occurs in a validation topic and in a trained topic is
    `across` with all its records, so that no training sees its content.
    """
    return split_rows(Records.of(records), validation_topics, val_item_frac, seed)


def split_rows(records: K, validation_topics: Collection[str], val_item_frac: float, seed: int) -> Splits[K]:
    """The same of records or of feedback."""
    topics, items, own = records.values("topic"), records.values("item_id"), records.values("split")
    across_items = {item for item, topic in zip(items, topics, strict=True) if topic in validation_topics}
    places: dict[str, list[int]] = {part: [] for part in Splits._fields}
    for place, (item, cluster, split) in enumerate(zip(items, records.values("cluster"), own, strict=True)):
        held_out = uniform(seed, "held_out_item", str(cluster)) < val_item_frac
        if split is not None:
            held_out = split == "validation"
        trained = WITHIN if held_out else "train"
        part = ("unused" if split == "train" else ACROSS) if item in across_items else trained
        places[part].append(place)
    return Splits(**{part: records.take(chosen) for part, chosen in places.items()})


def sample_per_topic(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    """Up to `n` records of each topic, topics sorted. The first k records of a topic are its choice for n = k.

    The next record always has the flag that was chosen less often so far (while both flags are left). Among those
    records it has the variant that was chosen less often with this flag, so that the variant does not give the flag
    away; then the item that was chosen least often; then the smallest seeded hash of its id. So the rate of FAIL in the
    sample is not the rate in the topic.
    """
    records = Records.of(records)
    names = ("flag", "variant", "id", "cluster")
    asked = list(enumerate(zip(*(records.values(name) for name in names), strict=True)))
    by_topic = grouped(zip(records.values("topic"), asked, strict=True), lambda pair: str(pair[0]))
    return [
        records[place]
        for topic in sorted(by_topic)
        for place in _sample_topic([_Asked(place, *values) for _, (place, values) in by_topic[topic]], n, seed)
    ]


class _Asked(NamedTuple):
    """What a choice of records looks at."""

    place: int
    flag: str
    variant: str | None
    id: str
    cluster: str


def _sample_topic(records: Sequence[_Asked], n: int, seed: int) -> list[int]:
    """Places of records of one topic."""
    cells: dict[tuple[str, str], list[tuple[int, float, str, _Asked]]] = defaultdict(list)
    for record in records:
        cells[record.flag, record.variant or ""].append((0, uniform(seed, "sample", record.id), record.id, record))
    for cell in cells.values():
        heapq.heapify(cell)
    chosen: list[int] = []
    by_flag: Counter[str] = Counter()
    by_cell: Counter[tuple[str, str]] = Counter()
    by_item: Counter[str] = Counter()
    while len(chosen) < n and cells:
        key = min(cells, key=lambda key: (by_flag[key[0]], by_cell[key], key))
        cell = cells[key]
        # An entry's count is out of date once another record of its item was chosen: push it back with the new count.
        while cell[0][0] != by_item[cell[0][3].cluster]:
            _, u, record_id, record = cell[0]
            heapq.heapreplace(cell, (by_item[record.cluster], u, record_id, record))
        record = heapq.heappop(cell)[3]
        if not cell:
            del cells[key]
        chosen.append(record.place)
        by_flag[record.flag] += 1
        by_cell[key] += 1
        by_item[record.cluster] += 1
    return chosen


def limit_records(records: Sequence[Record], num_samples: int | None, seed: int) -> Records:
    """A seeded choice of `num_samples` records, in their order; all records for None, or where there are no more."""
    records = Records.of(records)
    if num_samples is None or num_samples >= len(records):
        return records
    ids = [str(record_id) for record_id in records.values("id")]
    ranked = sorted(range(len(ids)), key=lambda place: (uniform(seed, "limit", ids[place]), ids[place]))
    return records.take(sorted(ranked[:num_samples]))
