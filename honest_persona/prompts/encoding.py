"""Records as training rows: encoded a few at a time, so that texts and lists of ids are never held for all of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from datasets import Dataset

from honest_persona.base.errors import UserError
from honest_persona.base.progress import followed
from honest_persona.base.spool import IN_MEMORY_BYTES
from honest_persona.data.records import Record
from honest_persona.prompts.rows import training_rows
from honest_persona.prompts.tokens import TokenFormat, Tokens, record_segments

_AT_ONCE = 64
"""Records whose texts the tokenizer gets in one call: it encodes them on several cores."""


class Encoded(NamedTuple):
    rows: Dataset
    """Of the records that are no longer than `seq_len` tokens, in their order."""
    too_long: list[str]
    """Ids of the other records."""
    topics: Counter[str]
    """Rows of each topic."""
    interventions: Counter[str]
    """Rows with each wording."""


def encode_records(
    records: Sequence[Record],
    systems: Iterable[str],
    form: TokenFormat,
    seq_len: int,
    overlong: str,
    in_memory_bytes: int = IN_MEMORY_BYTES,
) -> Encoded:
    """Training rows no longer than `seq_len` tokens.

    Args:
        systems: the system prompt that each record shows.
        in_memory_bytes: more rows lie in a file.

    Raises:
        UserError: a record is too long and `overlong` is "error", or nothing is left; the disk is full.
    """
    too_long: list[str] = []
    topics: Counter[str] = Counter()
    interventions: Counter[str] = Counter()
    longest = 0

    def fitting() -> Iterator[tuple[str, Tokens]]:
        nonlocal longest
        for record, tokens in _encoded(records, systems, form):
            longest = max(longest, len(tokens.input_ids))
            if len(tokens.input_ids) > seq_len:
                too_long.append(record.id)
            else:
                topics[record.topic] += 1
                interventions[record.intervention] += 1
                yield record.id, tokens

    rows = training_rows(fitting(), in_memory_bytes)
    if too_long and (overlong == "error" or not rows):
        raise UserError(
            f"seq_len: {len(too_long)} of {len(records)} records are longer than {seq_len} tokens, the longest has "
            f"{longest}; first: {too_long[0]}. Raise seq_len{', or set overlong: drop' if rows else ''}"
        )
    return Encoded(rows, too_long, topics, interventions)


def _encoded(records: Sequence[Record], systems: Iterable[str], form: TokenFormat) -> Iterator[tuple[Record, Tokens]]:
    pairs = zip(followed(records, "encoding", "records"), systems, strict=True)
    while chunk := list(islice(pairs, _AT_ONCE)):
        segments = [record_segments(record, form, system) for record, system in chunk]
        yield from zip((record for record, _ in chunk), form.encode_all(segments), strict=True)
