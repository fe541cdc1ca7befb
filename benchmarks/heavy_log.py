"""Times a heavy log that runs each transcript once against one that generates every review from its full prompt.

    python -m benchmarks.heavy_log --setup cpu --batches 8     # 8 of the batches of 13 topics x 128 samples
    python -m benchmarks.heavy_log --setup h200                # all of them
    python -m benchmarks.heavy_log --setup tiny --topics 1 --samples 8

whole   every row from its first token, once to write and once to score
shared  each transcript run once
held    keys and values of transcripts come from the heavy log before, as with `prefix_cache: ram`
slots   the same, in buffers of fixed shape; on a GPU, steps are recorded once and replayed (CUDA graphs)

`shared` and `held` write in a cache that grows. An evaluation writes in slots. `--ways` chooses.

The ways take turns on every batch of the heavy log's own plan (whole, shared, held, slots, whole, ...). In float32 all
reviews must be equal; a difference is an error. In bfloat16 the share of equal reviews is printed, because two logits
that differ in the last bit only may change places. A random model does not end its turn, so every review is as long as
`--review_tokens`, the median of real reviews.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import logging as transformers_logging

from benchmarks.common import print_table, ratios, report
from benchmarks.lengths import load_groups, random_rows
from benchmarks.setups import SETUPS, Setup, in_format, lora_settings, random_base, token_format
from honest_persona.modeling.adapters.lora import add_adapter
from honest_persona.modeling.modes import with_attribute
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.persona import continuing
from honest_persona.persona.answering import write_reviews
from honest_persona.persona.batches import batches, place_of
from honest_persona.persona.parsing import Review
from honest_persona.prompts.kinds import SUPERVISED, Kind
from honest_persona.prompts.rows import TrainingRow
from honest_persona.prompts.tokens import TokenFormat, Tokens

SEED = 42
WAYS = {
    "whole": "each review from its full prompt",
    "shared": "each transcript once",
    "held": "none, as of the second log",
    "slots": "none, in slots",
}
_HELD_BYTES = 2**36
_BATCH_SIZE = {"tiny": 4, "cpu": 8, "gpu": 64, "h200": 64}


def prompt_of(row: TrainingRow) -> Tokens:
    """A row up to where the review begins."""
    kinds = [Kind(kind) for kind in row["kinds"]]  # type: ignore[attr-defined]
    end = next(i for i, kind in enumerate(kinds) if kind in SUPERVISED)
    return Tokens(row["input_ids"][:end], kinds[:end], row["activation"])  # type: ignore[index, arg-type]


def acting_adapter(setup: Setup, form: TokenFormat) -> PeftModel:
    """The base model with an adapter that changes what it says."""
    model = add_adapter(random_base(setup), form, lora_settings(setup))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def spread_over(n: int, wanted: int | None) -> list[int]:
    """Indices of `wanted` batches, each from the middle of its share of the plan, which sorts them by length."""
    if wanted is None or wanted >= n:
        return list(range(n))
    return [(2 * i + 1) * n // (2 * wanted) for i in range(wanted)]


def run(
    model: PeftModel, plan: Sequence[Sequence[Tokens]], form: TokenFormat, max_new_tokens: int, ways: Sequence[str]
) -> tuple[dict[str, list[float]], dict[str, list[Review]]]:
    """Seconds of every batch and its reviews, by way. The first batch is run once before, untimed."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    reviews: dict[str, list[Review]] = {way: [] for way in ways}
    for way in ways:
        with _as(way):
            write_reviews(model, plan[0], form, min(8, max_new_tokens), way != "whole")
    for number, prompts in enumerate(plan):
        for way in ways:
            cache = PrefixCache("ram", _HELD_BYTES, way) if way in ("held", "slots") else None
            if cache:
                write_reviews(model, prompts, form, 1, True, cache)
            _synchronize(model.device)
            start = time.perf_counter()
            with _as(way):
                reviews[way] += write_reviews(model, prompts, form, max_new_tokens, way != "whole", cache)
            _synchronize(model.device)
            seconds[way].append(time.perf_counter() - start)
            print(f"batch {number} of {len(plan) - 1}, {way}: {seconds[way][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds, reviews


def _as(way: str) -> AbstractContextManager[None]:
    """Inside, a batch on prefixes is written in this way."""
    return nullcontext() if way == "slots" else with_attribute([continuing], "in_slots", lambda _: False)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="benchmarks.heavy_log", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--setup", choices=SETUPS, default="cpu")
    parser.add_argument("--topics", type=int, default=13)
    parser.add_argument("--samples", type=int, default=128, help="per topic")
    parser.add_argument("--sharing", action="store_true", help="all interventions: 2 to 6 prompts on most transcripts")
    parser.add_argument("--batches", type=int, help="run so many batches, spread over the heavy log; default: all")
    parser.add_argument("--batch_size", type=int, help="reviews written at once; default: the setup's")
    parser.add_argument("--review_tokens", type=int, help="default: 176; 16 for tiny")
    parser.add_argument("--ways", default=",".join(WAYS), help="two or more of whole,shared,held,slots; default: all")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the base model; default: as the setup")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args(argv)
    ways = [way for way in WAYS if way in given.ways.split(",")]
    if set(ways) != set(given.ways.split(",")) or len(ways) < 2:
        parser.error(f"--ways {given.ways}: name two or more of {', '.join(WAYS)}")
    first = ways[0]
    setup = SETUPS[given.setup]
    setup = in_format(setup, given.dtype)
    transformers_logging.set_verbosity_error()
    form = token_format()
    n_reviews = given.topics * given.samples
    sp_token_id = form.persona.sp_token_id
    assert sp_token_id is not None
    groups = load_groups("sharing" if given.sharing else "default", setup.seq_len, n_reviews, SEED)
    prompts = [prompt_of(row) for row in random_rows(groups, setup.vocabulary, sp_token_id, SEED)]
    plan = batches(map(place_of, prompts), given.batch_size or _BATCH_SIZE[given.setup], world=1)[0]
    chosen = spread_over(len(plan), given.batches)
    max_new_tokens = given.review_tokens or (16 if given.setup == "tiny" else 176)
    model = acting_adapter(setup, form)
    seconds, reviews = run(model, [[prompts[i] for i in plan[b]] for b in chosen], form, max_new_tokens, ways)

    pairs = [pair for way in ways[1:] for pair in zip(reviews[first], reviews[way], strict=True)]
    equal_frac = sum(a.text == b.text and a.flag == b.flag for a, b in pairs) / len(pairs)
    p_fail_difference = max((abs(a.p_fail - b.p_fail) for a, b in pairs if a.text == b.text), default=0.0)
    if setup.dtype == torch.float32 and equal_frac < 1:
        raise SystemExit(f"only {equal_frac:.1%} of {len(pairs)} reviews are equal in all ways, in float32")
    sizes = [float(len(plan[b])) for b in chosen]
    whole_log = {way: sum(seconds[way]) * n_reviews / sum(sizes) for way in ways}
    rates = {way: ratios(sizes, seconds[way]) for way in ways}
    speed_up = {way: ratios(seconds[first], seconds[way]) for way in ways}
    rows = [[WAYS[way], str(rates[way]), f"{whole_log[way]:,.0f}", str(speed_up[way])] for way in ways]
    extrapolated = "" if len(chosen) == len(plan) else f", extrapolated from {len(chosen)} of {len(plan)} batches"
    n_transcripts = len({tuple(p.input_ids[: p.activation]) for p in prompts})
    print_table(
        f"heavy log of {given.topics} topics x {given.samples} samples, {n_transcripts} transcripts",
        ["prefixes run", "reviews/s", f"seconds{extrapolated}", "speed-up"],
        rows,
        [
            f"median (lowest-highest) of {len(chosen)} batches of up to {max(sizes):.0f}; "
            f"reviews of {max_new_tokens} tokens",
            f"{equal_frac:.1%} of {len(pairs)} reviews are as in the first way in {setup.dtype}; "
            f"P(FAIL) of these differs by at most {p_fail_difference:.1e}",
        ],
    )
    figures = {
        "setup": {**asdict(setup), "dtype": str(setup.dtype), "name": given.setup, "sharing": given.sharing},
        "n": {
            "reviews": len(reviews[first]),
            "batches": len(chosen),
            "of_batches": len(plan),
            "transcripts": n_transcripts,
        },
        "review_tokens": max_new_tokens,
        "reviews_per_s": {way: asdict(rate) for way, rate in rates.items()},
        "seconds": seconds,
        "seconds_of_the_whole_log": whole_log,
        "speed_up": {way: asdict(ratio) for way, ratio in speed_up.items()},
        "speed_up_of_the_whole_log": {way: whole_log[first] / whole_log[way] for way in ways},
        "equal_frac": equal_frac,
        "p_fail_max_difference": p_fail_difference,
    }
    report("heavy_log", figures, torch.device(setup.device), given.json)
    return figures


if __name__ == "__main__":
    main()
