"""Where a prefix cache keeps its entries: the memory of a process, or a folder that ranks share.

Both stores have the same methods. In the folder the key of an entry is the name of its file.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from honest_persona.base import json_text

_RECOUNT = 16
"""The number of written files after which the folder's size is counted again: other ranks write to it too."""


class Entry(NamedTuple):
    """Keys and values of one transcript of n tokens, without padding."""

    groups: tuple[tuple[int, ...], ...]
    """The states that share a shape and one block. State 2 i is the keys of layer i, state 2 i + 1 its values."""
    blocks: tuple[Tensor, ...]
    """(states of the group, key-value heads, n, head dimension) each."""

    @property
    def tokens(self) -> int:
        return self.blocks[0].shape[2]


class RamStore:
    """Entries in memory. Where there is a GPU the memory is pinned, so that the GPU reads it without another copy."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._bytes = 0
        self._pin = torch.cuda.is_available()

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def put(self, key: str, entry: Entry) -> None:
        if self._pin:
            blocks = [torch.empty_like(block, device="cpu", pin_memory=True).copy_(block) for block in entry.blocks]
        else:
            blocks = [block.cpu() for block in entry.blocks]
        self._entries[key] = Entry(entry.groups, tuple(blocks))
        self._bytes += self.cost(entry)

    def cost(self, entry: Entry) -> int:
        """Bytes that `put` would take."""
        sizes = [block.nbytes for block in entry.blocks]
        return sum(1 << (size - 1).bit_length() if self._pin else size for size in sizes)  # powers of 2 are pinned

    def held(self) -> tuple[int, int]:
        """Entries, and their bytes."""
        return len(self._entries), self._bytes

    def settle(self, keys: Sequence[str]) -> None:
        """Nothing to do: memory is equally fast at once and later."""

    def drop(self) -> None:
        """Delete the entries of this process."""
        self._entries.clear()
        self._bytes = 0

    close = drop


class DiskStore:
    """A safetensors file per key. A file appears whole or not at all, so ranks may share the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: set[str] = set()
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
            self._made = True
        except FileExistsError:
            self._made = False
        self._recount()

    def get(self, key: str) -> Entry | None:
        """None also for a file that is cut short or was written by another program; it will be replaced."""
        try:
            with safe_open(self._path(key), "pt") as file:
                groups = json_text.loads(file.metadata()["groups"])
                blocks = tuple(file.get_tensor(str(i)) for i in range(len(groups)))
            entry = Entry(tuple(map(tuple, groups)), blocks)
            whole = all(block.shape[::2] == (len(g), entry.tokens) for g, block in zip(groups, blocks, strict=True))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError):
            return None
        return entry if whole else None

    def put(self, key: str, entry: Entry) -> None:
        """Raises OSError, SafetensorError: the disk is full, or the folder is gone."""
        path = self._path(key)
        before = path.stat().st_size if path.exists() else None
        unfinished = path.with_name(f"{key}.{uuid4().hex}.unfinished")
        try:
            blocks = {str(i): block.cpu() for i, block in enumerate(entry.blocks)}
            save_file(blocks, unfinished, {"groups": json_text.dumps(entry.groups)})
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._written.add(key)
        self._files += before is None
        self._bytes += self.cost(entry) - (before or 0)
        if len(self._written) % _RECOUNT == 0:
            self._recount()

    def cost(self, entry: Entry) -> int:
        return sum(block.nbytes for block in entry.blocks)

    def held(self) -> tuple[int, int]:
        return self._files, self._bytes

    def settle(self, keys: Sequence[str]) -> None:
        """Make `get` as slow as for old entries: take the files out of the system's cache, where that is possible."""
        if not hasattr(os, "posix_fadvise"):
            return
        for key in keys:
            with suppress(OSError), self._path(key).open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def drop(self) -> None:
        """Files of other ranks stay: these ranks may still read them."""
        for key in self._written:
            self._path(key).unlink(missing_ok=True)
        self._recount()

    def close(self) -> None:
        """The process that made the folder removes it, and its parent folder where that is empty then."""
        if self._made:
            shutil.rmtree(self._folder, ignore_errors=True)
            with suppress(OSError):
                self._folder.parent.rmdir()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _recount(self) -> None:
        sizes = []
        for path in self._folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # another rank dropped it
                sizes.append(path.stat().st_size)
        self._files, self._bytes = len(sizes), sum(sizes)
