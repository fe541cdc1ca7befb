"""Shows training rows token by token, for `python -m honest_persona tokens`.

Everything that matters is visible without colour too: a bar between tokens; kind, count and loss before each run of
tokens; an arrow at the activation point.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from honest_persona.base.console import one_line, sign
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.tokens import IGNORED, TokenFormat

ACTIVATION_MARK = "▶"
BAR = "│"

_STYLES = {
    Kind.PAD: "bright_black",
    Kind.TEMPLATE: "bright_black",
    Kind.SYSTEM: "magenta",
    Kind.USER: "blue",
    Kind.RESPONSE: "cyan",
    Kind.PERSONA_TOKEN: "bright_red",
    Kind.INTERVENTION: "yellow",
    Kind.REVIEW: "green",
    Kind.FLAG: "bright_green",
    Kind.END: "bright_magenta",
}
_LOSS_STYLE = "bold underline"
_SHOWN_AS = {" ": "·", "\n": "⏎", "\t": "⇥"}
_PLAIN = {"▶": ">", "│": "|", "·": "_", "⏎": "\\n", "⇥": "\\t", "⟨": "<", "⟩": ">", "…": "..."}
"""Replacements of the marks for a terminal that cannot encode them."""


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the collator gets it, with the names of the kinds."""
    return {
        "record_id": row["record_id"],
        "activation": row["activation"],
        "input_ids": list(row["input_ids"]),
        "kinds": [Kind(kind).name for kind in row["kinds"]],
        "labels": list(row["labels"]),
    }


def legend() -> Text:
    """What the colours and marks of `render` mean."""
    kinds = Text("  ").join(Text(kind.name, _STYLES[kind]) for kind in Kind if kind != Kind.PAD)
    marks = (
        f"{ACTIVATION_MARK} activation point   {BAR} between tokens   · space   ⏎ line end   ⇥ tab   "
        "\\u200b other invisible character   ⟨…⟩ part of a character, or an id without text   "
    )
    return Text.assemble(kinds, "\n", marks.translate(_signs()), ("loss", _LOSS_STYLE), " carries loss")


def render(row: Mapping[str, Any], form: TokenFormat) -> RenderableType:
    """The row's counts, then its runs of tokens of one kind: loss or not, kind, number of tokens, tokens."""
    kinds = [Kind(kind) for kind in row["kinds"]]
    has_loss = [label != IGNORED for label in row["labels"]]
    signs = _signs()
    shown = [piece.translate(signs) for piece in pieces(row["input_ids"], form)]
    bar, mark, line_end = (sign.translate(signs) for sign in (BAR, ACTIVATION_MARK, _SHOWN_AS["\n"]))
    counts = Counter(kinds)
    activation = row["activation"]
    title = Text.assemble(
        (one_line(row["record_id"]), "bold"),
        f"\n{len(kinds)} tokens, {sum(has_loss)} with loss; "
        f"activation point {activation}: id {row['input_ids'][activation]} {shown[activation]}\n",
        Text(", ").join(Text(f"{kind.name} {counts[kind]}", _STYLES[kind]) for kind in Kind if counts[kind]),
    )
    runs = Table.grid(
        Column("loss"), Column("kind"), Column("n", justify="right"), Column("text", overflow="fold"), padding=(0, 1)
    )
    for (kind, loss), group in groupby(range(len(kinds)), key=lambda i: (kinds[i], has_loss[i])):
        run = list(group)
        text = Text().append(bar, "dim")
        for i in run:
            if i == activation:
                text.append(mark, "bold bright_red")
            control = " reverse" if row["input_ids"][i] in form.forbidden else ""
            text.append(shown[i], _STYLES[kind] + (f" {_LOSS_STYLE}" if loss else "") + control)
            text.append(bar, "dim")
            if shown[i].endswith(line_end) and i != run[-1]:
                text.append("\n")
        runs.add_row(Text("loss" if loss else "", _LOSS_STYLE), Text(kind.name, _STYLES[kind]), str(len(run)), text)
    return Group(title, runs, Text())


def _signs() -> dict[int, str]:
    """For `str.translate`: each mark as standard output can show it."""
    return str.maketrans({mark: sign(mark, plain) for mark, plain in _PLAIN.items()})


def pieces(input_ids: Sequence[int], form: TokenFormat) -> list[str]:
    """The text of each token, every character of it visible."""
    return [_piece(token, form) for token in input_ids]


def _piece(token: int, form: TokenFormat) -> str:
    text = str(form.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    spelling = form.tokenizer.convert_ids_to_tokens([token])[0]  # None for a spare row of the embedding
    if not text or "\ufffd" in text:  # bytes of a character that spans several tokens
        return f"⟨{token if spelling is None else _visible(spelling)}⟩"
    if spelling is not None and spelling.startswith("▁") and not text.startswith(" "):
        text = " " + text  # SentencePiece decoders drop the space at the start of a text
    return _visible(text)


def _visible(text: str) -> str:
    return "".join(_SHOWN_AS.get(c) or (c if c.isprintable() else f"\\u{ord(c):04x}") for c in text)
