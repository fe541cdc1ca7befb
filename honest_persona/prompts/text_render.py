"""The texts of rows by a template: one prompt with an answer for each choice.

    for shown in rendered(template, rows, "label"):
        shown.prompt, shown.answers, shown.choices

Each choice is written in its turn, so `label` in a template is the number of the choice, and never tells which is true.
A template may write the choice behind `|||` alone: its prompt must be the same for all choices.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from honest_persona.base.console import one_line
from honest_persona.prompts.rendering import Refused, render_texts
from honest_persona.prompts.text_templates import BAR, CHOICES, LABEL, OF_TWO, TextTemplate, choice_problems

_STANDS_FOR_BAR = "5b0f6f3c92c14c0e9d5ac1c1e7c0a3d8"
"""In the values of a row, while they are rendered, so that no text of the data ends a prompt; as promptsource does."""


class Shown(NamedTuple):
    """The texts of one row."""

    prompt: str
    answers: tuple[str, ...]
    """By choice, in their order; empty where the template has no choices."""
    choices: tuple[str, ...]


class NotShown(ValueError):
    """A template has no texts for a row; carries the reason."""


def rendered(
    template: TextTemplate, rows: Sequence[Mapping[str, Any]], label: str | None
) -> list[Shown | NotShown | None]:
    """The texts for each row; None where the template writes nothing for it, as promptsource's conditions do.

    Args:
        rows: values of JSON types by column.
        label: the column of the labels, which the template sees as the number of the choice.

    Raises:
        Exceeded: rendering takes more than a template may.
    """
    seen = [{name: _guarded(value) for name, value in row.items()} for row in rows]
    if label is not None:
        for row in seen:
            row.pop(label, None)
    choices = _choices(template, seen)
    asked: list[dict[str, Any]] = []
    for row, of_row in zip(seen, choices, strict=True):
        if isinstance(of_row, tuple):
            numbered = {label or LABEL, *({LABEL} - row.keys())}
            known = {**row, CHOICES: [_guarded(choice) for choice in of_row]}
            asked += [{**known, **dict.fromkeys(numbered, k)} for k in range(len(of_row))] if of_row else [row]
    texts = iter(render_texts(template.jinja, asked))
    found: list[Shown | NotShown | None] = []
    for of_row in choices:
        try:
            if isinstance(of_row, NotShown):
                raise of_row
            found.append(_shown(template, [next(texts) for _ in of_row or (0,)], of_row))
        except NotShown as problem:
            found.append(problem)
    return found


def _choices(template: TextTemplate, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...] | NotShown]:
    """The choices of each row; an empty tuple where the template has none."""
    if template.choices is None or template.fixed is not None:
        return [template.fixed or ()] * len(rows)
    joined = template.choices if isinstance(template.choices, str) else BAR.join(template.choices)
    found: list[tuple[str, ...] | NotShown] = []
    for text in render_texts(joined, rows):
        if isinstance(text, Refused):
            found.append(NotShown(f"{CHOICES}: {text}"))
            continue
        pieces = tuple(_free(piece.strip()) for piece in text.split(BAR))
        problem = next(choice_problems(pieces, any(use in OF_TWO for use in template.use)), None)
        found.append(NotShown(problem) if problem else pieces)
    return found


def _shown(template: TextTemplate, texts: Iterable[str | Refused], choices: tuple[str, ...]) -> Shown | None:
    """Raises NotShown."""
    parts = []
    for text in texts:
        if isinstance(text, Refused):
            raise NotShown(str(text))
        parts.append([_free(part.strip()) for part in text.split(BAR)])
    if not any(any(part) for part in parts):
        return None
    if most := [part for part in parts if len(part) > 2]:
        raise NotShown(f"writes {BAR} {len(most[0]) - 1} times; it separates one prompt from one answer")
    if len({len(part) for part in parts}) > 1 or not all(all(part) for part in parts):
        raise NotShown("writes no prompt, or no answer, for one of the choices; write both for each")
    prompts = list(dict.fromkeys(part[0] for part in parts))
    if len(prompts) > 1:
        raise NotShown(
            f"writes the choice into the prompt ({_differing(*prompts[:2])}), and a pair is one prompt with two "
            f"answers: write {{{{answer_choices[label]}}}} behind {BAR}"
        )
    answers = tuple(part[1] for part in parts) if len(parts[0]) > 1 else choices
    if choices and len(set(answers)) < len(answers):
        raise NotShown(f"writes one answer, {one_line(answers[0])!r}, for different choices: write the choice into it")
    return Shown(prompts[0], answers if choices else (), choices)


def _differing(a: str, b: str) -> str:
    """Where two texts begin to differ."""
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, at - 10)
    return f"{one_line(a[start : at + 15])!r} and {one_line(b[start : at + 15])!r}"


def _guarded(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(BAR, _STANDS_FOR_BAR)
    if isinstance(value, list):
        return [_guarded(inside) for inside in value]
    if isinstance(value, dict):
        return {_guarded(key): _guarded(inside) for key, inside in value.items()}
    return value


def _free(text: str) -> str:
    return text.replace(_STANDS_FOR_BAR, BAR)
