"""The texts of rows as lines of feedback (data/sources/feedback.py), one file for each part and use.

| use | file | a line holds |
| --- | --- | --- |
| contrast | contrast.jsonl | both answers in the order of the choices; the true one has the score 1, the other 0 |
| prompts | prompts.jsonl | the prompt alone |
| pairs | pairs.jsonl | the true answer as `chosen`, the other one as `rejected` |

`topic` is the template's name, and `about` holds the row's id, the number of the true choice, and the answers.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.progress import Progress
from honest_persona.data.sources.plain import PlainTable
from honest_persona.generation.prepare.items import Chosen, Item
from honest_persona.prompts.rendering import Exceeded
from honest_persona.prompts.text_render import NotShown, Shown, rendered
from honest_persona.prompts.text_templates import USES, TextTemplate

_TOGETHER = 32
"""Rows that are rendered at once."""


@dataclass
class Written:
    """What was written."""

    lines: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By part and use."""
    nothing: Counter[str] = field(default_factory=Counter)
    """Rows for which a template writes nothing, by its name."""
    shared: Counter[str] = field(default_factory=Counter)
    """Prompts that stand in several parts, by the template's name: of rows that differ elsewhere."""


def write_texts(
    folder: Path, table: PlainTable, chosen: Chosen, templates: Sequence[TextTemplate], parts: Sequence[str]
) -> Written:
    """Write FOLDER/<part>/<use>.jsonl. Raises UserError: a template has no texts for a row, and for which."""
    written = Written()
    part_of_prompt: dict[tuple[str, int], str] = {}
    uses = [use for use in USES if any(use in template.use for template in templates)]
    with ExitStack() as files, Progress("texts", total=len(chosen.items), unit="rows") as progress:
        opened = {}
        for part in parts:
            (folder / part).mkdir()
            for use in uses:
                file = (folder / part / f"{use}.jsonl").open("x", encoding="utf-8", newline="\n")
                opened[part, use] = files.enter_context(file)
        for item, template, shown in _shown(table, chosen, templates, progress.advance):
            if shown is None:
                written.nothing[template.name] += 1
                continue
            key = template.name, hash(shown.prompt)
            written.shared[template.name] += part_of_prompt.setdefault(key, item.part) != item.part
            for use in template.use:
                line = json_text.dumps(_LINES[use](item, template, shown), ensure_ascii=False)
                opened[item.part, use].write(f"{line}\n")
                written.lines[item.part, use] += 1
    written.shared = +written.shared
    for part, use in opened:
        if not written.lines[part, use]:
            raise UserError(f"no template writes {use} for a row of part {part}; look at the conditions in them")
    return written


def _shown(
    table: PlainTable, chosen: Chosen, templates: Sequence[TextTemplate], advance: Callable[[int], None]
) -> Iterator[tuple[Item, TextTemplate, Shown | None]]:
    """By row and template. Raises UserError."""
    for start in range(0, len(chosen.items), _TOGETHER):
        items = chosen.items[start : start + _TOGETHER]
        rows = [table.row(item.place) for item in items]
        found = []
        for template in templates:
            try:
                found.append(rendered(template, rows, chosen.label))
            except Exceeded as error:
                raise UserError(f"template {template.name!r} takes more than {error}; make it simpler") from error
        for index, item in enumerate(items):
            for template, of_template in zip(templates, found, strict=True):
                shown = of_template[index]
                if isinstance(shown, NotShown):
                    raise UserError(f"template {template.name!r}, {table.place(item.place)}: {shown}")
                if shown is not None and item.label is not None and shown.answers and item.label >= len(shown.answers):
                    raise UserError(
                        f"template {template.name!r}, {table.place(item.place)}: the label {item.label} is outside the "
                        f"choices, of which there are {len(shown.answers)}, from 0 on"
                    )
                yield item, template, shown
        advance(len(items))


def _line(item: Item, template: TextTemplate, shown: Shown) -> dict[str, Any]:
    return {
        "id": f"{item.id} {template.name}",
        "topic": template.name,
        "group": item.group,
        "messages": [{"role": "user", "content": shown.prompt}],
        "about": {"row": item.id, "label": item.label, "choices": list(shown.answers)},
    }


def _contrast(item: Item, template: TextTemplate, shown: Shown) -> dict[str, Any]:
    scores = [float(number == item.label) for number in range(len(shown.answers))]
    return _line(item, template, shown) | {"responses": list(shown.answers), "scores": scores}


def _pair(item: Item, template: TextTemplate, shown: Shown) -> dict[str, Any]:
    assert item.label is not None
    chosen, rejected = shown.answers[item.label], shown.answers[1 - item.label]
    return _line(item, template, shown) | {"chosen": chosen, "rejected": rejected}


_LINES: Mapping[str, Callable[[Item, TextTemplate, Shown], dict[str, Any]]] = {
    "contrast": _contrast,
    "prompts": _line,
    "pairs": _pair,
}
