"""Probing: how fast states of answers are read beside a plain forward pass, and how much memory many answers take.

    python -m benchmarks.probing --setup cpu --answers 300,1200                 # 104 M, answers of 500 tokens
    python -m benchmarks.probing --setup cpu --answers 2000,20000 --speed 0 --idle      # states of that model's shape
    python -m benchmarks.probing --setup cpu --answers 20000 --rounds 2         # half a day on two cores
    python -m benchmarks.probing --setup gpu --answers 20000 --batch_size 32
    python -m benchmarks.probing --setup tiny --answers 40,80 --tokens 60

Speed: on `--speed` answers the two ways take turns, A B A B. Both read the same tokens in the same batches; the plain
pass keeps nothing, probing keeps the states at all places of up to eight layers.

Memory: for each number of answers a process of its own reads them all and fits ridge and INLP at every site. Its peak
is counted from the end of a first batch and fit, which all numbers have in common. The peak counts every page that is
resident; `own` leaves out pages of mapped files, which the system drops when memory is short; it is looked at 100 times
a second.

With `--idle` the blocks pass on what they get: all else is done as always, with states of the same shape, so that many
answers can be read in short time. `--blocks` makes the model shallow.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import logging as transformers_logging

from benchmarks.common import MIB, Spread, print_table, ratios, report
from benchmarks.setups import SETUPS, Setup, in_format, random_base, token_format
from honest_persona.base.tensors import pad_with_mask
from honest_persona.modeling.adapters.tuning import backbone_of
from honest_persona.modeling.prefix.frozen import positions
from honest_persona.probes.answers import read_answers
from honest_persona.probes.encoded import SCHEMA, EncodedAnswers
from honest_persona.probes.features import spread_layers
from honest_persona.probes.layers import fit_site, fold_of
from honest_persona.probes.probe import Method
from honest_persona.probes.selection import Examples
from honest_persona.prompts.feedback import spooled_table

_PROMPT_FRAC = 0.5
_OF_GROUP = 2
_LOOK_EVERY_S = 0.01
_FORM = token_format()


def encoded_answers(n: int, tokens: int, vocabulary: int, seed: int = 0) -> EncodedAnswers:
    """Random ids; half of each row is the prompt."""
    generator = torch.Generator().manual_seed(seed)
    n_prompt = int(_PROMPT_FRAC * tokens)

    def rows() -> Iterator[dict[str, Any]]:
        for _ in range(n):
            ids = torch.randint(10, vocabulary, (tokens,), generator=generator).tolist()
            last = tokens - n_prompt
            yield {
                "body": ids[:n_prompt],
                "tails": [ids[n_prompt:]],
                "starts": [last - 2, 0, last - 1],
                "stops": [last - 1, last - 1, last],
            }

    return EncodedAnswers(spooled_table(rows(), SCHEMA, in_memory_bytes=0), list(range(n)), [], [], "", None)


def examples_of(n: int) -> Examples:
    """Labels by chance: groups of two answers, half of the groups FAIL."""
    groups = [i // _OF_GROUP for i in range(n)]
    return Examples(torch.tensor([g % 2 == 0 for g in groups]), [f"g{g}" for g in groups], [f"a{i}" for i in range(n)])


@torch.no_grad()
def plain_pass(model: Any, encoded: EncodedAnswers, batch_size: int) -> None:
    """The transformer over the same rows, in the same batches."""
    backbone = backbone_of(model)
    for start in range(0, len(encoded.rows), batch_size):
        batch = encoded.rows[start : start + batch_size]
        rows = [[*body, *tail] for body, (tail,) in zip(batch["body"], batch["tails"], strict=True)]
        ids, mask = pad_with_mask(rows, _FORM.pad_id, "left", model.device)
        backbone(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
    _wait(model)


def probe_all(model: Any, encoded: EncodedAnswers, batch_size: int, methods: Sequence[Method] = ()) -> None:
    layers = spread_layers(model)
    store = read_answers(model, encoded, _FORM, layers, batch_size)
    _wait(model)
    if methods:
        examples = examples_of(len(encoded.rows))
        fold = fold_of(examples)
        for site in store.sites:
            for method in methods:
                fit_site(method, store.column(site), examples, fold, seed=0)


def _wait(model: Any) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def measure_memory(
    setup: Setup, n: int, tokens: int, batch_size: int, methods: Sequence[Method], idle: bool = False
) -> dict[str, Any]:
    """Peak bytes of this process above those of the model with one batch and one fit; and seconds."""
    model = random_base(setup).eval()
    if idle:
        for block in backbone_of(model).layers:
            block.forward = lambda hidden, *_, **__: hidden
    probe_all(model, encoded_answers(40, tokens, setup.vocabulary), batch_size, methods)
    encoded = encoded_answers(n, tokens, setup.vocabulary)
    before, own_before = _reset_peak(), _status("RssAnon")
    start = time.perf_counter()
    with _own_peak() as own:
        probe_all(model, encoded, batch_size, methods)
    return {
        "n": n,
        "before_bytes": before,
        "peak_bytes": _status("VmHWM"),
        "own_before_bytes": own_before,
        "own_peak_bytes": max(own),
        "seconds": time.perf_counter() - start,
    }


@contextmanager
def _own_peak() -> Iterator[list[int]]:
    """Bytes without those of mapped files, again and again; Linux keeps no peak of these."""
    found, ended = [_status("RssAnon")], threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            found[0] = max(found[0], _status("RssAnon"))

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield found
    finally:
        ended.set()
        watch.join()


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")  # man proc: resets VmHWM
    return _status("VmRSS")


def _status(name: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure_speed(setup: Setup, n: int, tokens: int, batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Answers per second of both ways, round by round."""
    model = random_base(setup).eval()
    encoded = encoded_answers(n, tokens, setup.vocabulary)
    warm = encoded_answers(batch_size, tokens, setup.vocabulary)
    plain_pass(model, warm, batch_size)
    probe_all(model, warm, batch_size)
    found: dict[str, list[float]] = {"plain": [], "probing": []}
    for _ in range(rounds):
        for name in found:
            start = time.perf_counter()
            if name == "plain":
                plain_pass(model, encoded, batch_size)
            else:
                probe_all(model, encoded, batch_size)
            found[name].append(n / (time.perf_counter() - start))
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="benchmarks.probing", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--setup", choices=SETUPS, default="cpu")
    parser.add_argument(
        "--answers", default="300,1200", help="numbers of answers whose memory is measured, with commas"
    )
    parser.add_argument("--speed", type=int, default=64, help="answers of a timed turn; 0 leaves the speed out")
    parser.add_argument("--tokens", type=int, default=500, help="of an answer with its prompt")
    parser.add_argument("--memory_tokens", type=int, help="the same where memory is measured (default: --tokens)")
    parser.add_argument("--blocks", type=int, help="of the model whose memory is measured (default: all)")
    parser.add_argument("--idle", action="store_true", help="its blocks compute nothing")
    parser.add_argument("--methods", default="ridge,inlp", help="that are fitted where memory is measured")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: what the machine is fast in")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--only_memory_of", type=int, help=argparse.SUPPRESS)  # in a process of its own
    given = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    setup = in_format(SETUPS[given.setup], given.dtype)
    tokens = given.memory_tokens or given.tokens
    shallow = setup
    if given.blocks:
        shallow = replace(setup, shape={**setup.shape, "num_hidden_layers": given.blocks})
    if given.only_memory_of:
        methods = cast(list[Method], given.methods.split(","))
        found = measure_memory(shallow, given.only_memory_of, tokens, given.batch_size, methods, given.idle)
        print(json.dumps(found))
        return found
    figures: dict[str, Any] = {"setup": given.setup, "tokens": given.tokens, "dtype": str(setup.dtype)}
    if given.speed:
        rates = measure_speed(setup, given.speed, given.tokens, given.batch_size, given.rounds)
        figures |= {"answers_per_s": rates, "n": {"answers": given.speed, "rounds": given.rounds}}
        rows = [[name, str(Spread.of(of)), str(ratios(of, rates["plain"]))] for name, of in rates.items()]
        title = f"{given.speed} answers of {given.tokens} tokens, {given.rounds} rounds in turn"
        print_table(title, ["", "answers/s", "of plain"], rows, ["median (lowest-highest)"])
    words = [*(sys.argv[1:] if argv is None else argv), "--dtype", str(setup.dtype).removeprefix("torch.")]
    figures["memory"] = [_in_own_process(words, int(n)) for n in given.answers.split(",")]
    cells = [
        [
            f"{one['n']:,}",
            f"{one['before_bytes'] / MIB:,.0f}",
            f"{one['peak_bytes'] / MIB:,.0f}",
            f"{(one['peak_bytes'] - one['before_bytes']) / MIB:,.0f}",
            f"{(one['own_peak_bytes'] - one['own_before_bytes']) / MIB:,.0f}",
            f"{one['seconds']:,.0f}",
        ]
        for one in figures["memory"]
    ]
    title = f"memory, answers of {tokens} tokens, {shallow.shape['num_hidden_layers']} blocks, MiB"
    print_table(title, ["answers", "model and first batch", "peak", "above", "own above", "seconds"], cells)
    report("probing", figures, torch.device(setup.device), given.json)
    return figures


def _in_own_process(words: Sequence[str], n: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.probing", *words, "--only_memory_of", str(n)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
