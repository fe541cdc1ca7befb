"""Train an honest persona into a language model, and measure it.

    model, tokenizer = honest_persona.get_model("Qwen/Qwen3-8B")
    persona = honest_persona.load_honest_persona("checkpoints/my-run")
    persona.review([{"role": "user", "content": ...}, {"role": "assistant", "content": ...}])
    honest_persona.show_progress()          # of what takes long from here on; a library call is quiet without

The first two names import torch when they are first used; `import honest_persona` alone does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from honest_persona.base.progress import show_progress
    from honest_persona.modeling.load import get_model
    from honest_persona.persona.product import load_honest_persona

    __version__: str

__all__ = ["__version__", "get_model", "load_honest_persona", "show_progress"]

_HOMES = {
    "get_model": "honest_persona.modeling.load",
    "load_honest_persona": "honest_persona.persona.product",
    "show_progress": "honest_persona.base.progress",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("honest-persona")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
