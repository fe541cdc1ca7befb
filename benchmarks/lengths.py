"""Rows of random tokens, as long as real records, that share transcripts as real records do.

`lengths.json` has two selections of the SPT stage-3 data, counted with the 6,400-entry tokenizer of the public
repository jingyaogong/minimind (a larger vocabulary gives shorter rows at about the same ratio of prefix to suffix):

- `default`: every record that the default config keeps (two intervention versions, its tag filter), of any length;
- `sharing`: 400 transcripts, drawn with a seed, with all their interventions.

    python -m benchmarks.lengths DATASET_FOLDER TOKENIZER_FOLDER    # writes lengths.json again
"""

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import AutoTokenizer

from honest_persona.base import json_text
from honest_persona.config.keys import RunConfig
from honest_persona.config.persona import Persona
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.prompts.feedback import feedback_table
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.persona_token import resolve_persona_token
from honest_persona.prompts.rows import training_rows
from honest_persona.prompts.tokens import TokenFormat, Tokens, encode_record

FILE = Path(__file__).with_name("lengths.json")
_SHARING_TRANSCRIPTS = 400
_FIRST_ORDINARY_ID = 8


class Suffix(NamedTuple):
    tokens: int
    supervised: int
    """The last so many of them carry loss."""


class Group(NamedTuple):
    """One transcript with the suffixes that stand on it."""

    prefix_tokens: int
    suffixes: list[Suffix]


def load_groups(selection: str, seq_len: int, n_rows: int, seed: int) -> list[Group]:
    """A seeded draw of whole groups, of `n_rows` rows in all; the last group may lose suffixes.

    Rows longer than `seq_len` are left out, as a run leaves them out by default. A draw that needs more rows than there
    are begins again.
    """
    groups = []
    for prefix, *suffixes in json_text.loads(FILE.read_text(encoding="utf-8"))[selection]:
        fitting = [Suffix(*s) for s in suffixes if prefix + s[0] <= seq_len]
        if fitting:
            groups.append(Group(prefix, fitting))
    generator = random.Random(seed)
    drawn: list[Group] = []
    missing = n_rows
    while missing:
        for group in generator.sample(groups, len(groups)):
            drawn.append(Group(group.prefix_tokens, group.suffixes[:missing]))
            missing -= len(drawn[-1].suffixes)
            if not missing:
                break
    return drawn


def random_rows(groups: Iterable[Group], vocabulary: int, sp_token_id: int, seed: int) -> Dataset:
    """Training rows of such lengths: the rows of a group have the same random prefix, and nothing else in common."""
    generator = random.Random(seed)

    def draw(n: int) -> list[int]:
        ids = generator.choices(range(_FIRST_ORDINARY_ID, vocabulary), k=n)
        return [token if token != sp_token_id else _FIRST_ORDINARY_ID for token in ids]

    def drawn() -> Iterator[tuple[str, Tokens]]:
        for n, group in enumerate(groups):
            prefix = draw(group.prefix_tokens)
            for k, (tokens, supervised) in enumerate(group.suffixes):
                trigger, review = tokens - supervised, supervised - 2
                kinds = [Kind.PERSONA_TOKEN, *[Kind.INTERVENTION] * (trigger - 1), *[Kind.REVIEW] * review]
                kinds = [*[Kind.USER] * len(prefix), *kinds, Kind.FLAG, Kind.END]
                ids = [*prefix, sp_token_id, *draw(tokens - 1)]
                yield f"{n}-{k}", Tokens(ids, kinds, len(prefix))

    return training_rows(drawn())


def random_pairs(groups: Iterable[Group], vocabulary: int, form: TokenFormat, seed: int) -> Dataset:
    """Pairs of answers, each on a random prompt of its own: prompts as long as transcripts, answers as reviews.

    The rejected answer is as long as the next row's chosen one.
    """
    generator = random.Random(seed)
    sizes = [(group.prefix_tokens, suffix.supervised) for group in groups for suffix in group.suffixes]

    def draw(n: int, end: Sequence[int]) -> list[int]:
        return [*generator.choices(range(_FIRST_ORDINARY_ID, vocabulary), k=n - len(end)), *end]

    def drawn() -> Iterator[dict[str, Any]]:
        for n, ((prompt, chosen), (_, rejected)) in enumerate(zip(sizes, sizes[1:] + sizes[:1], strict=True)):
            answers = {"chosen_ids": draw(chosen, [form.end_id]), "rejected_ids": draw(rejected, [form.end_id])}
            yield {"row_id": str(n), "prompt_ids": draw(prompt, form.answer_prefix), **answers}

    return feedback_table(drawn(), "pairs")


def one_answer_each(pairs: Dataset) -> Dataset:
    """Rows with labels: of each pair one answer, the chosen and the rejected in turn."""
    rows = ({**row, "response_ids": row["rejected_ids" if n % 2 else "chosen_ids"]} for n, row in enumerate(pairs))
    return feedback_table(({**row, "label": n % 2 == 0} for n, row in enumerate(rows)), "labels")


def group_lengths(rows: Iterable[Tokens]) -> list[Group]:
    """Rows with equal ids before the activation point form a group."""
    groups: dict[tuple[int, ...], list[Suffix]] = {}
    for row in rows:
        suffix = Suffix(len(row.input_ids) - row.activation, sum(label >= 0 for label in row.labels))
        groups.setdefault(tuple(row.input_ids[: row.activation]), []).append(suffix)
    return [Group(len(prefix), suffixes) for prefix, suffixes in groups.items()]


def measure(dataset: str, tokenizer_folder: str) -> dict[str, list[Group]]:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    form = TokenFormat.of(tokenizer, Persona(sp_token_id=resolve_persona_token(tokenizer, len(tokenizer) + 1)))

    def groups(selection: Selection) -> list[Group]:
        return group_lengths(encode_record(record, form) for record in load_records(dataset, selection).records)

    shared = groups(Selection())
    chosen = random.Random(0).sample(shared, min(_SHARING_TRANSCRIPTS, len(shared)))
    return {"default": groups(Selection.of(RunConfig().as_dict())), "sharing": chosen}


def to_json(selections: dict[str, list[Group]]) -> str:
    """A line per selection; a group is [prefix tokens, [suffix tokens, supervised tokens], ...]."""
    lines = [
        f'"{name}": '
        + json_text.dumps([[group.prefix_tokens, *group.suffixes] for group in groups], separators=(",", ":"))
        for name, groups in selections.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        raise SystemExit("usage: python -m benchmarks.lengths DATASET_FOLDER TOKENIZER_FOLDER")
    FILE.write_text(to_json(measure(*argv)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
