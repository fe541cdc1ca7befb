"""Keeps prefixes over epochs: keys and values of transcripts do not change, so a later epoch can read them.

    cache = PrefixCache("ram", budget_bytes, base_identity(model, fingerprint))
    prefix = cache.fetch(keys, input_ids, layout, compute)  # compute(ids, layout) -> Prefix runs what is not held
    print(cache.report())
    cache.close()

Whether reading is faster than computing depends on model and machine. Both are timed on the first transcripts. Where
reading is not faster, the cache drops its entries and says so.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from honest_persona.base import json_text
from honest_persona.modeling.prefix.layouts import Layout, Packed, Padded, laid_out, layers_of
from honest_persona.modeling.prefix.store import DiskStore, Entry, RamStore

Compute = Callable[[Tensor, Any], Any]
"""(ids, layout) -> `Prefix`, or `PackedPrefix` for lengths."""
ENOUGH = 8
"""The number of transcripts for which computing and reading are timed before the two are compared."""
_VOLATILE = ("_name_or_path", "transformers_version", "use_cache", "dtype", "torch_dtype")
"""Settings of a model that do not change its keys and values, or that `base_identity` has in another form."""


class PrefixCache:
    """Keys and values by the hash of their prefix's ids, up to a budget of bytes.

    Nothing is evicted. An epoch visits every transcript once, so the entry that was used longest ago is needed first: a
    cache that replaced old entries by new ones would never be hit. Prefixes that do not fit are computed every epoch.

    With `ram` each process has a cache of its own. On several ranks a shuffled epoch brings a rank transcripts that
    another rank holds, so use `disk` there: all ranks of a machine share the folder.

    Args:
        budget_bytes: the most bytes of this process (`ram`), or of the whole folder (`disk`).
        base_hash: a hash of everything but the ids that keys and values depend on: `base_identity`.
        folder: `disk` makes its own folder in this one, named after `base_hash`.
        agree: called once per `fetch` with whether this rank holds all entries. Under ZeRO-3 a forward pass is a
            collective call: give an all-reduce (minimum) over the ranks, so that all ranks compute, or none does.
        clock: gives the time in seconds.
    """

    def __init__(
        self,
        kind: Literal["ram", "disk"],
        budget_bytes: int,
        base_hash: str,
        folder: Path | None = None,
        agree: Callable[[bool], bool] = bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.kind, self.budget_bytes = kind, budget_bytes
        self.together = agree is not bool
        """Whether all ranks must call `fetch` equally often."""
        if kind == "disk":
            assert folder is not None, "kind disk needs a folder"
            self._store: DiskStore | RamStore = DiskStore(folder / base_hash[:16])
        else:
            self._store = RamStore()
        self._agree, self._clock = agree, clock
        self._asked = self._hits = 0
        self._in_use = self._storing = True
        self._stopped = ""
        self._faster: bool | None = None
        self._warm = False
        self._computed, self._read = _Rate(), _Rate()
        self._samples: list[str] = []  # keys to read back

    def fetch(self, keys: Sequence[str], input_ids: Tensor, layout: Layout, compute: Compute) -> Any:
        """Keys and values of U transcripts, on the device of `input_ids`: a `Prefix`, or a `PackedPrefix` for lengths.

        Where ranks are `together`, every rank must call this equally often. `compute` is called at most once. It gets
        the rows that are not held; all rows, where this rank holds all of them and another rank lacks some; and is not
        called where every rank holds all.

        Args:
            keys: U hashes of the prefixes' ids.
            input_ids, layout: int64 and `Layout`.
        """
        form = laid_out(input_ids, layout)
        # read before `agree`: the ranks decide together, so each rank must know its damaged entries by then
        held = [self._get(key, form.longest) for key in keys]
        missing = [row for row, entry in enumerate(held) if entry is None]
        self._asked += len(keys)
        if self._agree(not missing):
            assert not missing
            self._hits += len(keys)
            return form.joined([entry for entry in held if entry is not None])
        rows = missing or list(range(len(keys)))
        self._hits += len(keys) - len(rows)
        if len(rows) == len(keys):
            prefix = self._run(compute, form)
            new = form.entries(prefix) if missing and self._storing else []
        else:
            part = form.take(rows)
            new = part.entries(self._run(compute, part))
            by_row = dict(zip(rows, new, strict=True)) | {i: entry for i, entry in enumerate(held) if entry is not None}
            prefix = form.joined([by_row[i] for i in range(len(keys))])
        if new:
            for row, entry in zip(rows, new, strict=True):
                self._put(keys[row], entry)
        self._decide(input_ids.device, len(keys))
        return prefix

    def report(self) -> str:
        """One line for the log: the size of the cache, the share of hits, and whether reading is faster."""
        n, size = self._store.held()
        held = f"{n:,} transcripts, {size / 2**30:.2f} GiB"
        used = f"{self._hits / self._asked:.0%} of {self._asked:,} asked for were held" if self._asked else "not used"
        verdict = "too few to compare reading with computing"
        if self._faster is not None:
            found = "reading is faster, kept" if self._faster else "reading is not faster, dropped"
            verdict = f"computing {self._computed}, reading {self._read} tokens/s: {found}"
        return f"prefix cache ({self.kind}): {held}, {used}; {verdict}{self._stopped}"

    def close(self) -> None:
        """Drop all entries. A folder is removed by the process that made it."""
        self._in_use = self._storing = False
        self._store.close()

    def _get(self, key: str, longest: int) -> Entry | None:
        entry = self._store.get(key) if self._in_use else None
        return entry if entry is not None and entry.tokens <= longest else None

    def _put(self, key: str, entry: Entry) -> None:
        if not self._storing:
            return
        if self._store.held()[1] + self._store.cost(entry) > self.budget_bytes:
            self._storing, self._stopped = False, "; budget reached"
            return
        try:
            self._store.put(key, entry)
        except (OSError, SafetensorError) as error:
            self._storing, self._stopped = False, f"; nothing more is stored: {error}"
            return
        if len(self._samples) < ENOUGH:
            self._samples.append(key)

    def _run(self, compute: Compute, form: Padded | Packed) -> Any:
        if self._faster is not None:
            return compute(*form)
        prefix, seconds = self._timed(partial(compute, *form), form.input_ids.device)
        if self._warm:  # the first call also allocates, and may compile
            self._computed.add(form.rows, form.tokens, seconds)
        self._warm = True
        return prefix

    def _decide(self, device: torch.device, at_once: int) -> None:
        """Compare reading and computing once, as soon as enough entries were stored and computed.

        Ranks may decide differently: the comparison runs no forward pass, and a rank that drops its entries tells the
        other ranks in every later `fetch` that it holds nothing.
        """
        enough = len(self._samples) == ENOUGH or (self._samples and not self._storing)
        if self._faster is not None or not enough or self._computed.transcripts < len(self._samples):
            return
        self._store.settle(self._samples)
        for i in range(0, len(self._samples), at_once):
            keys = self._samples[i : i + at_once]
            entries, seconds = self._timed(partial(self._read_back, keys, device), device)
            self._read.add(len(entries), sum(entry.tokens for entry in entries), seconds)
        self._faster = self._read.faster_than(self._computed)
        if not self._faster:
            self._in_use = self._storing = False
            self._store.drop()

    def _read_back(self, keys: Sequence[str], device: torch.device) -> list[Entry]:
        entries = [entry for entry in map(self._store.get, keys) if entry is not None]
        if entries:
            layers_of(entries, max(entry.tokens for entry in entries), device)
        return entries

    def _timed(self, work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
        _synchronize(device)
        start = self._clock()
        result = work()
        _synchronize(device)
        return result, self._clock() - start


def base_identity(model: PreTrainedModel | PeftModel, fingerprint: str, *more: object) -> str:
    """A hash of everything but the ids that keys and values depend on, so that entries of another model never match.

    Args:
        fingerprint: of the base model's weights, `fingerprint.base_fingerprint`.
        more: further values that they depend on, such as the dtype of autocast.
    """
    config: Any = model.config.get_text_config()
    settings = {name: value for name, value in config.to_dict().items() if name not in _VOLATILE}
    parts = [fingerprint, model.dtype, config.num_hidden_layers, config._attn_implementation, settings, *more]
    return hashlib.sha256(json_text.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class _Rate:
    """A number of transcripts, their tokens, and the seconds spent on them."""

    def __init__(self) -> None:
        self.transcripts = self.tokens = 0
        self.seconds = 0.0

    def add(self, transcripts: int, tokens: int, seconds: float) -> None:
        self.transcripts, self.tokens = self.transcripts + transcripts, self.tokens + tokens
        self.seconds += seconds

    def faster_than(self, other: "_Rate") -> bool:
        return self.seconds * other.tokens < other.seconds * self.tokens

    def __str__(self) -> str:
        return f"{self.tokens / max(self.seconds, 1e-9):,.0f}"


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
