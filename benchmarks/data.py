"""The memory of a run from the raw file to the first step of training.

    python -m benchmarks.data --rows 200000 --tokens 1000
    python -m benchmarks.data --rows 2000 --tokens 1000 --form parquet --ranks 2

Writes rows `{messages, is_bad, explanation}` to a temporary folder, of so many tokens of the tiny model; an emoji
stands in every tenth answer. Then a process of its own (or one for each rank) reads, rejects and encodes them as
`train.py` does, and takes one optimizer step. A table shows the seconds of each stage and the most resident memory so
far, mapped pages included; for several ranks also each rank's own share, in which a page that ranks share counts once.
"""

import argparse
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import MIB, print_table, report
from honest_persona.base import json_text
from honest_persona.base.console import say
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.data.sources.builtin import SAMPLE

_BATCH = 4096
_WORDS_PER_TOKEN = 0.6
"""Of the words of the sample data, with the tiny model's tokenizer."""
_STEP = ["--max_steps", "1", "--batch_size", "2", "--per_device_train_batch_size", "1", "--bf16", "false"]


def rows(n: int, tokens: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of about `tokens` tokens, half of them bad; a hundredth cannot be used."""
    generator = random.Random(seed)
    known = " ".join(record.response for record in load_records(SAMPLE, Selection()).records).split()

    def text(share: float) -> str:
        return " ".join(generator.choices(known, k=max(3, round(share * tokens * _WORDS_PER_TOKEN))))

    for i in range(n):
        asked, answered = f"{i} {text(0.3)} – it’s so?", text(0.6) + (" 🙂" if i % 10 == 0 else "")
        turns = [("system", text(0.05)), ("user", asked), ("assistant", "" if i % 100 == 99 else answered)]
        messages = [{"role": role, "content": content} for role, content in turns]
        yield {"messages": messages, "is_bad": i % 2 == 1, "explanation": text(0.03)}


def write(path: Path, n: int, tokens: int) -> None:
    """A JSON Lines or a Parquet file, by its name's ending; little is held in memory."""
    made = rows(n, tokens)
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json_text.dumps(row) + "\n" for row in made)
        return
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    writer = None
    while chunk := [row for row, _ in zip(made, range(_BATCH), strict=False)]:
        table = pa.Table.from_pylist(chunk)
        writer = writer or ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def peak_bytes() -> int:
    """The most resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def own_bytes() -> int | None:
    """Resident memory now, in which each page counts by the share of this process; None where Linux is not there."""
    path = Path("/proc/self/smaps_rollup")
    lines = path.read_text().splitlines() if path.exists() else ()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def run(dataset: str, folder: Path) -> dict[str, Any]:
    """What `train.py` does up to its first step, in this process, stage by stage."""
    stages: list[dict[str, Any]] = []
    begun = time.perf_counter()

    def done(stage: str) -> None:
        nonlocal begun
        now = time.perf_counter()
        stages.append({"stage": stage, "seconds": now - begun, "peak_bytes": peak_bytes()})
        begun = time.perf_counter()

    import torch

    from benchmarks.turns import StepwiseTraining
    from honest_persona.base.ranks import is_launched
    from honest_persona.config.load import load_config
    from honest_persona.data.check import check_selection
    from honest_persona.modeling.adapters.card import AdapterCard
    from honest_persona.modeling.adapters.lora import add_adapter
    from honest_persona.modeling.load import load_base
    from honest_persona.training.assembly import Assembly, prepared
    from honest_persona.training.ranks import join

    done("libraries")
    flags = ["--dataset", dataset, "--model", "builtin:tiny", "--val_item_frac", "0.02", "--deepspeed", "null", *_STEP]
    config = load_config(None, flags, checks=[check_selection])
    done("reading, rejecting")
    if is_launched():
        join(use_deepspeed=False)
    form, material = prepared(config)
    done("encoding")
    assembly = Assembly.of(config, form, material.rows)
    args = assembly.arguments(folder, False)
    base = load_base(config.model, None, torch.float32, None)
    model = add_adapter(base, form, assembly.lora_settings(args))
    trainer = assembly.trainer(args, model, AdapterCard(form.persona, config.model, None, "random", "none"))
    training = StepwiseTraining(trainer)
    training.turn()
    training.finish()
    done("first step")
    tokens = sum(map(len, material.rows.select(range(min(100, len(material.rows))))["input_ids"]))
    kept = len(material.rows)
    return {
        "stages": stages,
        "rows": kept,
        "tokens_per_row": tokens / min(100, kept),
        "loss": training.losses[0],
        "own_bytes": own_bytes(),
    }


def measure(dataset: Path, ranks: int) -> list[dict[str, Any]]:
    """`run` in processes of their own, one for each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(ranks):
        told: dict[str, Any] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **({key: str(value) for key, value in told.items()} if ranks > 1 else {})}
        command = [sys.executable, "-m", "benchmarks.data", "--run", str(dataset)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"a process failed:\n{''.join(outputs)}")
    found = [json_text.loads(output.splitlines()[-1]) for output in outputs]
    assert all(isinstance(one, dict) for one in found)
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="benchmarks.data", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--tokens", type=int, default=1000, help="of a row, about")
    parser.add_argument("--form", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--run", metavar="DATASET", help=argparse.SUPPRESS)  # for the measured processes
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if given.run:
            figures = run(given.run, Path(folder))
            print(json_text.dumps(figures), flush=True)
            return figures
        dataset = Path(folder) / f"rows.{given.form}"
        write(dataset, given.rows, given.tokens)
        size = dataset.stat().st_size
        found = measure(dataset, given.ranks)
    first = found[0]
    cells = [
        [stage["stage"], f"{stage['seconds']:,.1f}", *(f"{one['stages'][i]['peak_bytes'] / MIB:,.0f}" for one in found)]
        for i, stage in enumerate(first["stages"])
    ]
    columns = ["stage", "seconds", *(f"peak MiB{f', rank {rank}' * (given.ranks > 1)}" for rank in range(given.ranks))]
    title = f"{given.rows:,} rows, {size / MIB:,.0f} MiB as {given.form}; {first['rows']:,} trained on"
    print_table(title, columns, cells, [f"{first['tokens_per_row']:,.0f} tokens a row (n = 100)"])
    if given.ranks > 1 and all(one["own_bytes"] for one in found):
        say(
            f"after the step, shared pages counted once: {sum(one['own_bytes'] for one in found) / MIB:,.0f} MiB in all"
        )
    import torch

    n = {"rows": given.rows, "tokens": given.tokens, "ranks": given.ranks}
    figures = {"n": n, "form": given.form, "file_bytes": size, "ranks": found}
    report("data", figures, torch.device("cpu"), given.json)
    return figures


if __name__ == "__main__":
    main()
