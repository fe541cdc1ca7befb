"""Where an evaluation's files go, and which topics it is about, by the flags of eval.py."""

from pathlib import Path

import yaml

from honest_persona.base.errors import UserError
from honest_persona.modeling.adapters.published import is_repo


def target_of(adapter: str, folder: Path, model: str | None = None) -> Path:
    """The default of `--output`.

    Args:
        adapter: as it was named; `folder` is where it lies.
        model: the main persona that is read in the base model's place.
    """
    # a repo's folder is the Hub's cache, which is nobody's to write to
    target = Path("results", Path(adapter).name) if is_repo(adapter) else folder / "eval"
    return target if model is None else target.with_name(f"{target.name}-on-{Path(model).name}")


def topic_list(topics: str | None) -> list[str] | None:
    """Raises UserError: neither a topic nor a list of topics."""
    if topics is None or topics == "all":
        return None
    value = yaml.safe_load(topics)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"--topics: {topics!r} is not a topic or a list of topics; write '[sycophancy, reward_hacks]'")
    return names
