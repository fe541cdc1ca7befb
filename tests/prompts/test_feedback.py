"""Feedback as tables of token ids."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.persona import Persona
from honest_persona.data.feedback import Feedback, FeedbackRows
from honest_persona.prompts.feedback import SCHEMAS, encode_feedback, prompt_tokens, response_tokens
from honest_persona.prompts.tokens import TokenFormat
from tests.families import family_tokenizer
from tests.tiny import form_of

FORM = form_of()


def feedback(n=0, kind="pair", **changes):
    """The n-th of a row of rows whose prompts differ in length."""
    texts = {"pair": ("Yes.", "No."), "label": ("Yes.",), "response": ("Yes.",), "score": ("Yes.",), "prompt": ()}
    values = {
        "id": f"f{n}",
        "kind": kind,
        "prompt_id": f"p{n}",
        "topic": "doors",
        "prompt": ({"role": "user", "content": f"Is the door open?{' Well?' * n}"},),
        "answers": tuple({"role": "assistant", "content": text} for text in texts[kind]),
        "label": True if kind == "label" else None,
        "scores": (1.0,) if kind == "score" else None,
    }
    return Feedback(**{**values, **changes})


def test_pairs():
    rows = FeedbackRows.of([feedback(0, margin=0.5), feedback(1, group="g", margin=None)])
    found = encode_feedback(rows, "pairs", FORM, 99, "error").rows
    assert found.features.arrow_schema.equals(SCHEMAS["pairs"], check_metadata=False)
    assert found[0] == {
        "row_id": "f0",
        "group": "p0",
        "topic": "doors",
        "prompt_ids": prompt_tokens(rows[0].messages, FORM).ids,
        "chosen_ids": response_tokens(rows[0].messages, rows[0].chosen, FORM).ids,
        "rejected_ids": response_tokens(rows[0].messages, rows[0].rejected, FORM).ids,
        "margin": 0.5,
    }
    assert found[1]["group"] == "g"
    assert found[1]["margin"] is None


@pytest.mark.parametrize("in_memory_bytes", [2**30, 0])
def test_labels_and_responses(in_memory_bytes):
    rows = [feedback(0, "label"), feedback(1, "label", label=False)]
    found = encode_feedback(rows, "labels", FORM, 99, "error", in_memory_bytes=in_memory_bytes)
    assert found.rows["label"][:] == [True, False]
    assert found.topics == {"doors": 2}
    examples = encode_feedback(
        [rows[0], feedback(1, "response")], "responses", FORM, 99, "error", in_memory_bytes=in_memory_bytes
    )
    assert examples.rows.column_names == SCHEMAS["responses"].names
    assert examples.rows[0]["response_ids"] == found.rows[0]["response_ids"]


def test_what_is_too_long_is_left_out_or_an_error():
    rows = [feedback(0), feedback(60)]
    found = encode_feedback(rows, "pairs", FORM, 60, "drop")
    assert (len(found.rows), found.too_long) == (1, ["f60"])
    with pytest.raises(UserError, match=r"seq_len: 1 of 2 rows are longer than 60 tokens, the longest has \d+; .*f60"):
        encode_feedback(rows, "pairs", FORM, 60, "error")
    with pytest.raises(UserError, match=r"Raise seq_len$"):
        encode_feedback(rows, "pairs", FORM, 3, "drop")


def test_answers_that_the_template_makes_equal():
    answers = tuple({"role": "assistant", "content": text} for text in ("Yes.", " Yes.\n"))
    strips = TokenFormat.of(family_tokenizer("gemma"), Persona())
    found = encode_feedback([feedback(0, answers=answers), feedback(1)], "pairs", strips, 999, "error")
    assert (found.alike, len(found.rows)) == (["f0"], 1)


def test_what_the_template_cannot_show_is_named():
    system = {"role": "system", "content": "Be kind."}
    tool = {"type": "function", "function": {"name": "look"}}
    rows = [feedback(0), feedback(1, tools=(tool,)), feedback(2, prompt=(system, *feedback(0).prompt))]
    found = encode_feedback(rows, "pairs", FORM, 99, "error")
    assert (found.not_shown, len(found.rows)) == (["f1"], 2)
    assert found.why_not_shown.startswith("f1: the chat template of")
