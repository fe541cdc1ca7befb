"""Seeded choices among records: the split by item, and samples for evaluation and for short runs.

Every choice hashes an id with the seed, so the order of the records does not matter. A record also stays in its part
of the split when other files are added.
"""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from honest_persona.base.grouping import grouped
from honest_persona.data.records import Record


class Splits(NamedTuple):
    """No item is in two parts."""

    train: list[Record]
    within: list[Record]
    """Held-out items of the trained topics."""
    across: list[Record]
    """The validation topics."""
    unused: list[Record]
    """Records of validation topics that the data itself gives to training (`Record.split`)."""


def uniform(seed: int, salt: str, key: str) -> float:
    """A number in [0, 1) that depends on the arguments alone. Numbers with different salts are independent."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{salt}:{key}".encode()).digest()[:6]) / 2**48


def in_share(item_id: str, frac: float, seed: int) -> bool:
    """Whether the item belongs to a share `frac` of the items. A larger share contains every smaller one."""
    return uniform(seed, "topic_share", item_id) < frac


def split_records(
    records: Sequence[Record], validation_topics: Collection[str], val_item_frac: float, seed: int
) -> Splits:
    """Split by cluster (the item, or the group that the data names).

    Records of `validation_topics` are `across`. Of the other records a share `val_item_frac` is `within`, unless the
    data itself names the part of a record. An item that occurs in a validation topic and in a trained topic is
    `across` with all its records, so that no training sees its content.
    """
    across_items = {record.item_id for record in records if record.topic in validation_topics}
    splits = Splits([], [], [], [])
    for record in records:
        held_out = uniform(seed, "held_out_item", record.cluster) < val_item_frac
        if record.split is not None:
            held_out = record.split == "validation"
        if record.item_id in across_items:
            (splits.unused if record.split == "train" else splits.across).append(record)
        else:
            (splits.within if held_out else splits.train).append(record)
    return splits


def sample_per_topic(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    """Up to `n` records of each topic, topics sorted. The first k records of a topic are its choice for n = k.

    The next record always has the flag that was chosen less often so far (while both flags are left). Among those
    records it has the variant that was chosen less often with this flag, so that the variant does not give the flag
    away; then the item that was chosen least often; then the smallest seeded hash of its id. So the rate of FAIL in the
    sample is not the rate in the topic.
    """
    by_topic = grouped(records, lambda record: record.topic)
    return [record for topic in sorted(by_topic) for record in _sample_topic(by_topic[topic], n, seed)]


def _sample_topic(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    cells: dict[tuple[str, str], list[tuple[int, float, str, Record]]] = defaultdict(list)
    for record in records:
        cells[record.flag, record.variant or ""].append((0, uniform(seed, "sample", record.id), record.id, record))
    for cell in cells.values():
        heapq.heapify(cell)
    chosen: list[Record] = []
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
        chosen.append(record)
        by_flag[record.flag] += 1
        by_cell[key] += 1
        by_item[record.cluster] += 1
    return chosen


def limit_records(records: Sequence[Record], num_samples: int | None, seed: int) -> list[Record]:
    """A seeded choice of `num_samples` records, in their order; all records for None, or where there are no more."""
    if num_samples is None or num_samples >= len(records):
        return list(records)
    ranked = sorted(
        range(len(records)), key=lambda index: (uniform(seed, "limit", records[index].id), records[index].id)
    )
    return [records[index] for index in sorted(ranked[:num_samples])]
