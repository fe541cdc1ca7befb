"""The table of keys: `python -m honest_persona keys`, and docs/config.md."""

from honest_persona.base import json_text
from honest_persona.config import trainer_fields
from honest_persona.config.keys import RunConfig


def keys_table() -> str:
    """A Markdown table of our keys in their order, and of the SFTConfig fields that have another default here."""
    rows = [
        (name, defaults[name], field.description or "")
        for defaults in [RunConfig().as_dict()]
        for name, field in RunConfig.model_fields.items()
        if name != "sft"
    ]
    sft = [(name, value, "a field of TRL's SFTConfig") for name, value in trainer_fields.DEFAULTS.items()]
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for name, default, meaning in [*rows, *sft]:
        shown = json_text.dumps(default, ensure_ascii=False).replace("|", "\\|")
        lines.append(f"| `{name}` | `{shown}` | {' '.join(meaning.split())} |")
    return "\n".join(lines)
