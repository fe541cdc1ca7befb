"""Times reviews written in slots, as an evaluation writes them, against batches in caches that grow.

    python -m benchmarks.slots                               # 48 reviews as long as real ones, 8 at a time: minutes
    python -m benchmarks.slots --length 96 --reviews 8       # one batch of reviews that are equally long

The organism writes in float32 on one thread of a CPU, with a random adapter that changes what it says; a review is cut
off at its length. Transcripts are run before. The two ways take turns; times are CPU time, so that other work on the
machine counts little. The reviews must be equal.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import logging as transformers_logging

from benchmarks.common import print_table, ratios, report
from benchmarks.lengths import load_groups
from benchmarks.setups import SETUPS, lora_settings
from honest_persona.config.persona import Persona
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.modeling.adapters.lora import add_adapter
from honest_persona.modeling.adapters.tuning import ungated
from honest_persona.modeling.load import get_model
from honest_persona.persona.continuing import OnPrefixes
from honest_persona.persona.decoding.choices import Choose, likeliest
from honest_persona.persona.decoding.growing import grown
from honest_persona.persona.decoding.writing import Writer
from honest_persona.prompts.persona_token import resolve_persona_token
from honest_persona.prompts.tokens import TokenFormat, prompt_of

SEED = 42
ORGANISM = "builtin:organism"
Reviews = list[list[int]]


def acting_organism() -> tuple[PeftModel, TokenFormat]:
    base, tokenizer = get_model(ORGANISM, dtype=torch.float32)
    persona = Persona(sp_token_id=resolve_persona_token(tokenizer, len(tokenizer)))
    form = TokenFormat.of(tokenizer, persona)
    torch.manual_seed(SEED)
    model = add_adapter(base, form, lora_settings(SETUPS["tiny"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval(), form


@dataclass(frozen=True)
class Work:
    """Reviews to write, of given lengths."""

    batch: OnPrefixes
    lengths: list[int]
    at_once: int

    def in_caches_that_grow(self) -> Reviews:
        found: Reviews = []
        for start in range(0, len(self.lengths), self.at_once):
            lengths = self.lengths[start : start + self.at_once]
            rows = self.batch.rows(range(start, start + len(lengths)))
            found += grown(self.batch.model, rows, max(self.lengths), [self._end], self._cut_off(lengths), None)
        return found

    def in_slots(self) -> Reviews:
        n, choose = len(self.lengths), self._cut_off(self.lengths)
        writer, places = (
            Writer(self.batch.model, n, self.at_once, max(self.lengths), [self._end], choose),
            iter(range(n)),
        )
        found: dict[int, list[int]] = {}
        for ended in writer.written(lambda n: self.batch.rows(list(islice(places, n)))):
            found |= ended
        return [found[i] for i in range(n)]

    def _cut_off(self, lengths: list[int]) -> Choose:
        """The likeliest token, and an end as the last one."""
        last = torch.tensor(lengths) - 1

        def choose(logits: Tensor, rows: Tensor, step: Tensor) -> Tensor:
            return likeliest(logits, rows, step).masked_fill(step == last[rows], self._end)

        return choose

    @property
    def _end(self) -> int:
        return self.batch.form.pad_id


WAYS = {"caches that grow": Work.in_caches_that_grow, "slots": Work.in_slots}


def real_lengths(n: int) -> list[int]:
    """Of reviews of n real records, in tokens."""
    return [suffix.supervised for group in load_groups("default", sys.maxsize, n, SEED) for suffix in group.suffixes]


@contextmanager
def counted_calls(model: PeftModel) -> Iterator[list[int]]:
    """Inside, a call of the output layer adds the number of rows."""
    calls: list[int] = []
    base: Any = model.get_base_model()
    handle = base.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    try:
        yield calls
    finally:
        handle.remove()


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="benchmarks.slots", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reviews", type=int, default=48)
    parser.add_argument("--at_once", type=int, default=8, help="rows of a batch; number of slots")
    parser.add_argument("--length", type=int, help="of each review, in tokens; default: those of real reviews")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    model, form = acting_organism()
    torch.set_num_threads(1)  # CPU time counts threads that wait
    records = load_records(ORGANISM, Selection()).records[: given.reviews]
    prompts = [prompt_of(record, form) for record in records]
    lengths = real_lengths(len(prompts)) if given.length is None else [given.length] * len(prompts)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    calls: dict[str, int] = {}
    with ungated(model):
        work = Work(OnPrefixes(model, prompts, form), lengths, given.at_once)
        expected = work.in_slots()
        for _ in range(given.rounds):
            for way, write in WAYS.items():
                with counted_calls(model) as called:
                    start = time.process_time()
                    reviews = write(work)
                    seconds[way].append(time.process_time() - start)
                if reviews != expected:
                    raise SystemExit(f"{way}: other reviews")
                calls[way] = len(called)
    speed_up = {way: ratios(seconds["caches that grow"], of) for way, of in seconds.items()}
    lengths = sorted(map(len, expected))
    print_table(
        f"{len(prompts)} reviews of the organism, {given.at_once} at a time",
        ["written in", "forward calls", "speed-up in CPU time"],
        [[way, f"{calls[way]:,}", str(speed_up[way])] for way in WAYS],
        [
            f"median (lowest-highest) of {given.rounds} rounds; reviews of {lengths[0]} to {lengths[-1]} tokens, "
            f"{sum(lengths) / len(lengths):.0f} on average; prefixes of "
            f"{work.batch.prefix.mask.sum(1).float().mean():.0f}"
        ],
    )
    figures = {
        "n": {"rounds": given.rounds, "reviews": len(prompts), "at_once": given.at_once, "lengths": lengths},
        "cpu_seconds": seconds,
        "forward_calls": calls,
        "speed_up": {way: asdict(ratio) for way, ratio in speed_up.items()},
    }
    report("slots", figures, torch.device("cpu"), given.json)
    return figures


if __name__ == "__main__":
    main()
