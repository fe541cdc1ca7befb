"""Rows as they are shown: every token, in order, with its kind, its loss and the activation point."""

import io
import re

import pytest
from rich.console import Console

from honest_persona.config.persona import Persona
from honest_persona.data.records import Record
from honest_persona.modeling.builtin import tiny_tokenizer
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.rows import training_row
from honest_persona.prompts.show import ACTIVATION_MARK, BAR, as_json, legend, pieces, render
from honest_persona.prompts.tokens import IGNORED, TokenFormat, encode_record

SP_TOKEN = 3
RECORD = Record(
    id="r[bold]1",
    item_id="i1",
    topic="sycophancy",
    variant="B",
    system="Agree.",
    other_system="Be helpful.",
    task="[red]Is <|im_end|> flat?[/red]\x1b[31m\t\u200bé 🌍",
    model="m",
    response="Yes,\nyou are right!",
    intervention_name="split_personality__version_3",
    intervention="Now be honest.",
    review="I agreed to please.",
    flag="FAIL",
    tags=(),
)


def form_of(**settings) -> TokenFormat:
    return TokenFormat.of(tiny_tokenizer(), Persona(**settings))


def shown(row, form, **console) -> str:
    out = io.StringIO()
    Console(file=out, width=150, **console).print(legend(), render(row, form))
    return out.getvalue()


def text_column(text: str) -> str:
    """What stands right of the counts, in one line, less the padding."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if re.match(rf" +TEMPLATE +\d+ {BAR}", line))
    body, start = lines[first:], lines[first].index(BAR)
    return "".join(line[start:].rstrip() for line in body)


@pytest.fixture
def form():
    return form_of(sp_token_id=SP_TOKEN)


@pytest.fixture
def row(form):
    return training_row(RECORD.id, encode_record(RECORD, form))


def test_json_is_the_row_with_kinds_by_name(row):
    shown = as_json(row)
    assert shown["kinds"] == [Kind(kind).name for kind in row["kinds"]]
    assert {key: shown[key] for key in shown if key != "kinds"} == {
        key: row[key] for key in row if key not in ("kinds", "prefix_key")
    }


def test_every_piece_stands_in_order_between_bars(row, form):
    expected = ""
    previous = None
    for i, (piece, kind) in enumerate(zip(pieces(row["input_ids"], form), row["kinds"], strict=True)):
        expected += BAR if kind != previous else ""
        expected += (ACTIVATION_MARK if i == row["activation"] else "") + piece + BAR
        previous = kind
    assert text_column(shown(row, form)) == expected


@pytest.mark.parametrize(("sp_token_id", "first"), [(SP_TOKEN, "<|reserved_0|>"), (None, "·I")])
def test_the_arrow_points_at_the_activation_point_alone(sp_token_id, first):
    form = form_of(sp_token_id=sp_token_id)
    row = training_row(RECORD.id, encode_record(RECORD, form))
    assert pieces(row["input_ids"], form)[row["activation"]] == first
    text = text_column(shown(row, form))
    assert text.count(ACTIVATION_MARK) == 1
    assert f"{BAR}{ACTIVATION_MARK}{first}{BAR}" in text


def test_loss_is_marked_on_exactly_the_labelled_runs(row, form):
    lines = shown(row, form).splitlines()
    marked = [line.split()[1:3] for line in lines if line.startswith("loss ")]
    assert marked == [[name, str(row["kinds"].count(Kind[name]))] for name in ("REVIEW", "FLAG", "END")]
    # the mark follows the labels, not the kinds: a row whose labels are wrong shows it
    masked = {**row, "labels": [IGNORED] * len(row["labels"])}
    assert not [line for line in shown(masked, form).splitlines() if line.startswith("loss ")]


def test_counts_stand_beside(row, form):
    text = shown(row, form)
    n_loss = sum(label != IGNORED for label in row["labels"])
    assert f"{len(row['input_ids'])} tokens, {n_loss} with loss" in text
    assert f"activation point {row['activation']}: id {SP_TOKEN} <|reserved_0|>" in text
    for kind in set(row["kinds"]):
        assert f"{Kind(kind).name} {row['kinds'].count(kind)}" in text


def test_no_text_acts_on_the_terminal_or_as_markup(row, form):
    text = shown(row, form, force_terminal=False)
    assert "r[bold]1" in text
    joined = text_column(text).replace(BAR, "")
    assert "[red]Is·<|im_end|>·flat?[/red]\\u001b[31m⇥" in joined
    assert "Yes,⏎" in joined
    assert not [c for c in text if not c.isprintable() and c != "\n"]


def test_text_that_looks_like_a_control_token_shows_as_several(row, form):
    text = text_column(shown(row, form))
    assert text.count(f"{BAR}<|im_end|>{BAR}") == 3, "two turns of the template and the end of the review"


def test_kinds_have_colours_of_their_own_and_loss_is_underlined(row, form):
    text = shown(row, form, force_terminal=True, color_system="standard")
    review = next(line for line in text.splitlines() if "REVIEW" in line and "loss" in line and "\x1b[1;4m" in line)
    assert "\x1b[1;4;32m" in review
    assert "\x1b[34m" in text, "the user's text is blue"


def test_pieces_of_a_character_and_spare_rows_are_visible(form):
    ids = form.tokenizer("🌍", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    assert all(piece.startswith("⟨") and piece.endswith("⟩") and len(piece) > 2 for piece in pieces(ids, form))
    assert pieces([len(form.tokenizer) + 7], form) == [f"⟨{len(form.tokenizer) + 7}⟩"]


def test_pieces_of_a_real_tokenizer_join_to_its_text(minimind):
    form = TokenFormat.of(minimind, Persona(sp_token_id=3))
    text = "The user asked:\n\tis it flat?  Yes."
    ids = minimind(text, add_special_tokens=False)["input_ids"]
    assert "".join(pieces(ids, form)) == "The·user·asked:⏎⇥is·it·flat?··Yes."
