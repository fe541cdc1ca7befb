"""Where transformers finds a model: its name, or the folder that holds what the name stands for.

- `builtin:...` is a model of the package, or SmolLM2 from a package of its own.
- `path/to/file.gguf` stands for its conversion in the user's cache.
- Any other name stands for itself: a folder, or a repo of the Hub.
"""

import difflib
from pathlib import Path

from honest_persona.base.errors import UserError
from honest_persona.modeling import smollm2
from honest_persona.modeling.builtin import BUILTIN, FOLDERS, TINY
from honest_persona.modeling.gguf.cache import check_conversion, conversion, remembered_hash
from honest_persona.modeling.shipped import verify_files

_GGUF = ".gguf"


def source_of(model: str, weights: bool = False) -> str:
    """Where transformers finds the model; a model in GGUF is converted first, where that was not done yet.

    Files that this package brought or wrote are checked: they are what they were.

    Args:
        weights: check a conversion's weights too, which takes a second for each GB.

    Raises:
        UserError: `model` begins with `builtin:` and names no model of the package; its files are not whole; or it is
            in GGUF and cannot be converted.
    """
    if model in FOLDERS:
        verify_files(FOLDERS[model])
        return str(FOLDERS[model])
    if model == smollm2.NAME:
        folder = smollm2.folder()
    elif model.startswith(BUILTIN) and model != TINY:
        known = ", ".join([TINY, *FOLDERS, smollm2.NAME])
        raise UserError(f"model: {model!r} is not in the package; it has {known}")
    elif is_gguf(model):
        folder = _of_file(model)
    else:
        return model
    if weights:
        check_conversion(model, folder, weights=True)
    return str(folder)


def is_gguf(model: str) -> bool:
    """Whether the name is of a file in GGUF."""
    return model.lower().endswith(_GGUF) and not Path(model).expanduser().is_dir()


def _of_file(model: str) -> Path:
    path = Path(model).expanduser()
    if not path.is_file():
        raise UserError(f"model: there is no file {model!r}{_like(path)}")
    try:
        sha256 = remembered_hash(path)
    except OSError as error:
        raise UserError(f"model: {model!r} cannot be read: {error.strerror}") from error
    return conversion(model, path.stem, sha256, lambda: path)


def _like(path: Path) -> str:
    """Files that the name may have meant, or how to get one from the Hub."""
    there = sorted(p.name for p in path.parent.iterdir() if p.suffix == _GGUF) if path.parent.is_dir() else []
    if near := difflib.get_close_matches(path.name, there, n=1):
        return f"; there is {path.parent / near[0]}"
    return (
        f". A file of the Hub is downloaded first: `hf download USER/REPO {path.name} --local-dir .`, then "
        f"`model: {path.name}`"
    )
