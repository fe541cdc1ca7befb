"""The table of keys: `python -m honest_persona keys`, and docs/config.md."""

from honest_persona.base import json_text
from honest_persona.config.keys import RunConfig
from honest_persona.config.persona import PersonaKeys


def keys_table() -> str:
    """A Markdown table of our keys, the persona's behind the others, and of the trainer's with another default here."""
    config = RunConfig()
    own = [
        (name, config.as_dict()[name], field.description or "")
        for name, field in sorted(RunConfig.model_fields.items(), key=lambda item: item[0] in PersonaKeys.model_fields)
        if name != "trainer"
    ]
    origin = f"a field of TRL's {config.options.config_class.rpartition('.')[2]}"
    trainer = [(name, value, origin) for name, value in config.options.defaults.items()]
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for name, default, meaning in [*own, *trainer]:
        shown = json_text.dumps(default, ensure_ascii=False).replace("|", "\\|")
        lines.append(f"| `{name}` | `{shown}` | {' '.join(meaning.split())} |")
    return "\n".join(lines)
