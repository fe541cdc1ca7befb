"""Conversions of models in GGUF, the format of llama.cpp: made once, kept in the user's cache, checked at each load.

    folder = conversion("models/mine.gguf", "mine", sha256, lambda: Path("models/mine.gguf"))

A conversion lies in a folder that is named by the SHA-256 of the GGUF file, so an altered file is converted anew. The
environment variable HONEST_PERSONA_CACHE moves the cache; without it, the cache is `honest_persona` in Hugging Face's
cache (HF_HOME).
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from safetensors import SafetensorError

from honest_persona.base import json_text
from honest_persona.base.console import tell
from honest_persona.base.errors import UserError
from honest_persona.base.files import part_of, write_text
from honest_persona.base.locks import held
from honest_persona.base.manifest import Damaged, check, seal

VARIABLE = "HONEST_PERSONA_CACHE"
_FORMAT = 1
"""Of a conversion. Another number makes conversions of earlier versions of this package be made anew."""
_LONGEST_S = 4 * 3600.0
"""How long to wait for another process that converts the same file."""
_SPARE_BYTES = 64 * 2**20
"""For a conversion's tokenizer and lists."""


def cache_folder() -> Path:
    """The user's cache of this package."""
    return Path(os.environ.get(VARIABLE) or Path(constants.HF_HOME) / "honest_persona").expanduser().absolute()


def conversion(
    model: str, name: str, sha256: str, file: Callable[[], Path], about: dict[str, Any] | None = None
) -> Path:
    """The folder with a GGUF file's model in safetensors, and its tokenizer. It is made where it is not there.

    Files that are not weights are checked here; `check_conversion` checks the weights.

    Args:
        model: what the user named.
        name: of the folder, for people who look into the cache.
        sha256: of the GGUF file.
        file: finds the GGUF file; called only where there is no conversion.
        about: further facts for the conversion's card.json.

    Raises:
        UserError: the file cannot be converted; the conversion cannot be kept, or is not what was written.
    """
    home = cache_folder() / "models" / f"{name}-{sha256[:16]}"
    folder = home / f"format-{_FORMAT}"
    if not folder.is_dir():
        _make(model, sha256, file(), home, folder, about or {})
    check_conversion(model, folder, weights=False, sha256=sha256)
    return folder


def check_conversion(model: str, folder: Path, weights: bool, sha256: str | None = None) -> None:
    """Hash the weights of a conversion, or all its other files.

    Args:
        sha256: of the GGUF file, where it is to be checked too.

    Raises:
        UserError: a file is not what was written, or the conversion is of another GGUF file.
    """
    try:
        about = check(folder, lambda name: name.endswith(".safetensors") == weights)
        if sha256 is not None and about.get("sha256") != sha256:
            raise Damaged(f"it was made from a file with SHA-256 {about.get('sha256')}, not {sha256}")
    except Damaged as error:
        raise UserError(
            f"model: the conversion of {model!r} in {folder} is not what was written: {error}. Remove that folder; the "
            "next run makes it anew"
        ) from error
    except OSError as error:
        raise UserError(f"model: the conversion of {model!r} in {folder} cannot be read: {error.strerror}") from error


def file_hash(path: Path) -> str:
    """A file's SHA-256, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_hash(path: Path) -> str:
    """The same, and quick for a file that was hashed before and has its size and times of change still.

    The time of change of the contents can be set by hand, as `cp -p` does; that of the file's entry cannot.
    """
    found = path.stat()
    place = str(path.resolve())
    stamp = {"path": place, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}
    memory = cache_folder() / "hashes" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError, TypeError, LookupError):
        known = json_text.loads(memory.read_text(encoding="utf-8"))
        if known == {**stamp, "sha256": str(known["sha256"])}:
            return str(known["sha256"])
    sha256 = file_hash(path)
    with suppress(OSError):  # a cache that only others may write to
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_text(memory, json_text.dumps({**stamp, "sha256": sha256}) + "\n")
    return sha256


def _make(model: str, sha256: str, file: Path, home: Path, folder: Path, about: dict[str, Any]) -> None:
    from honest_persona.modeling.gguf.convert import convert
    from honest_persona.modeling.gguf.header import read_header

    header = read_header(file, model)
    remedy = f"set {VARIABLE}"
    with _owned(home, model, remedy):
        if folder.is_dir():  # made by another process meanwhile
            return
        needed = header.n_weights * 2 + _SPARE_BYTES
        if (free := shutil.disk_usage(home).free) < needed:
            raise UserError(
                f"model: the conversion of {model!r} needs {needed / 1e9:.2f} GB in {home}, and {free / 1e9:.2f} GB "
                f"are free there; make room, or {remedy}"
            )
        tell(f"{model}: converted to safetensors once, {needed / 1e9:.2f} GB in {home}")
        part = part_of(folder)
        try:
            convert(header, model, part)
            facts = {**header.about, "file": str(file), "sha256": sha256, **about}
            write_text(part / "card.json", json_text.dumps(facts, indent=1) + "\n")
            for path in part.iterdir():  # safetensors makes files that nobody else may read
                path.chmod((part / "card.json").stat().st_mode)
            seal(part, {"sha256": sha256})
            part.replace(folder)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"model: the conversion of {model!r} cannot be written to {home}: {error}; make room, or {remedy}"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _owned(home: Path, model: str, remedy: str) -> Iterator[None]:
    """Raises UserError: the folder cannot be written to, or another process works in it for hours."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(home, f"the conversion of {model}", f"wait, or {remedy}", _LONGEST_S))
        except UserError as error:
            raise UserError(f"model: {model!r} cannot be converted: {error}: {remedy}") from error
        yield
