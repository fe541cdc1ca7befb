"""Texts of rows: byte for byte those of the template, and never one that tells the truth by its prompt."""

import jinja2
import pytest

from honest_persona.prompts.rendering import Exceeded
from honest_persona.prompts.text_render import NotShown, Shown, rendered
from honest_persona.prompts.text_templates import TextTemplate, load_templates
from tests.generation.prepare.rows import TEMPLATES

ROW = {
    "question": 'What is "|||" in <C>?',
    "sentence": "It's   the {{or}} of\ta \u00e9tat \U0001f600.",
    "label": 1,
    "idx": 7,
}
ANSWER = "{{text}} ||| {{answer_choices[label]}}"
EXPECTED = {
    "question_first": (
        'Question: What is "|||" in <C>?\nSentence: It\'s   the {{or}} of\ta \u00e9tat \U0001f600.\n'
        "Does the sentence contain the answer to the question?",
        ("Yes", "No"),
    ),
    "sentence_first": (
        '"It\'s   the {{or}} of\ta \u00e9tat \U0001f600."\nAfter reading only this, can one truthfully answer '
        '"What is "|||" in <C>?"?',
        ("Yes", "No"),
    ),
    "claim": (
        'Claim: the sentence "It\'s   the {{or}} of\ta \u00e9tat \U0001f600." answers the question '
        '"What is "|||" in <C>?"\nIs the claim true or false?',
        ("True", "False"),
    ),
    "denial": (
        'Someone asks: What is "|||" in <C>?\nSomeone else says: It\'s   the {{or}} of\ta \u00e9tat \U0001f600.\n'
        "A third person says that this does not answer the question. Is that true or false?",
        ("False", "True"),
    ),
    "honest_choice": (
        'Say honestly which holds.\nQuestion: What is "|||" in <C>?\n'
        "Sentence: It's   the {{or}} of\ta \u00e9tat \U0001f600.",
        ("The sentence answers the question.", "The sentence does not answer the question."),
    ),
    "policy": (
        'Here are a question and a sentence.\n\nQuestion: What is "|||" in <C>?\n'
        "Sentence: It's   the {{or}} of\ta \u00e9tat \U0001f600.\n\n"
        'Does the sentence answer the question? Reply with "Yes" or "No" alone.',
        ("Yes", "No"),
    ),
}


def one(template, row, label="label"):
    (found,) = rendered(template, [row], label)
    return found


def made(jinja, choices=("Yes", "No"), **more):
    return TextTemplate("t", jinja, choices, **more)


@pytest.mark.parametrize("template", load_templates(TEMPLATES), ids=lambda template: template.name)
def test_the_shipped_templates_byte_for_byte(template):
    shown = one(template, ROW)
    assert (shown.prompt, shown.answers) == EXPECTED[template.name]


@pytest.mark.parametrize(
    "jinja",
    [
        ANSWER,
        "\n  {{text}}  \n\n|||\n {{answer_choices[label]}} \n",
        "{% if text %}\n  {{text | upper}}\n{% else %}\nnone\n{% endif %}\n ||| {{answer_choices[label]}}",
        "{{text}}\n{% for c in answer_choices %}\n- {{c}}\n{% endfor %}\n||| {{answer_choices[label]}}",
        "{%- set a = text | length %} {{a}} {{text[:3]}} ||| {% if label == 0 %}aye{% else %}nay{% endif %}",
    ],
)
def test_jinja_alone_writes_the_same(jinja):
    """promptsource renders with jinja's own settings, and strips what stands on either side of the bar."""
    shown = one(made(jinja), {"text": "a <b>\n", "label": 1})
    for k in range(2):
        text = jinja2.Environment().from_string(jinja).render(text="a <b>\n", label=k, answer_choices=["Yes", "No"])
        assert [shown.prompt, shown.answers[k]] == [part.strip() for part in text.split("|||")]


def test_the_truth_is_not_to_be_seen():
    """The same row with another label has the same texts."""
    assert one(made(ANSWER), {"text": "a", "label": 0}) == one(made(ANSWER), {"text": "a", "label": 1})
    gold = made("{{text}} ||| {{answer_choices[gold]}}")
    assert one(gold, {"text": "a", "gold": 0}, "gold") == one(gold, {"text": "a", "gold": 1}, "gold")
    assert isinstance(one(made("{{text}} {{label}}", None), {"text": "a", "label": 1}), NotShown)
    leak = made(ANSWER, "{% if label %}Yes ||| No{% else %}No ||| Yes{% endif %}")
    assert "'label' is undefined" in str(one(leak, {"text": "a", "label": 1}))


def test_without_a_bar_the_choice_is_the_answer():
    assert one(made("{{text}}"), {"text": "a"}) == Shown("a", ("Yes", "No"), ("Yes", "No"))
    assert one(made("{{text}}", None), {"text": "a"}) == Shown("a", (), ())


def test_choices_of_the_row():
    template = made("{{text}} ||| {{answer_choices[label]}}", "{{b}} ||| {{c}}")
    rows = [
        {"text": "a", "b": " x||| ", "c": "y"},
        {"text": "a", "b": "x", "c": " x"},
        {"text": "a", "b": "", "c": "y"},
    ]
    first, second, third = rendered(template, rows, "label")
    assert first.answers == ("x|||", "y"), "a bar of the data separates nothing"
    assert "equal answer_choices" in str(second)
    assert "empty" in str(third)
    assert "has 1 answer_choices" in str(one(made(ANSWER, "{{text}}"), {"text": "a"}))
    assert (
        len(
            one(
                made("{{text}}", "{% for x in b %}{{x}}{{ '|||' if not loop.last }}{% endfor %}", use=("prompts",)),
                {"text": "a", "b": [1, 2, 3]},
            ).answers
        )
        == 3
    )


def test_a_condition_leaves_a_row_out():
    template = made("{% if text %}" + ANSWER + "{% endif %}")
    assert [type(found) for found in rendered(template, [{"text": ""}, {"text": "a"}], None)] == [type(None), Shown]


@pytest.mark.parametrize(
    ("jinja", "row", "match"),
    [
        ("{{text}} {{answer_choices[label]}} ||| x", {"text": "a"}, "writes the choice into the prompt"),
        ("{{text}} ||| x", {"text": "a"}, "writes one answer, 'x', for different choices"),
        ("{{text}} ||| a ||| {{label}}", {"text": "a"}, r"writes \|\|\| 2 times"),
        ("{% if label %}{{text}} ||| a{% endif %}", {"text": "a"}, "no prompt, or no answer"),
        (ANSWER, {"text": ""}, "no prompt, or no answer"),
        (ANSWER, {"text": None}, "a value that it writes is null"),
        (ANSWER, {}, "'text' is undefined"),
        ("{{text.x}} ||| {{label}}", {"text": "a"}, "has no attribute 'x'"),
        ("{{text.__class__.__mro__}} ||| {{label}}", {"text": "a"}, "unsafe"),
        ("{% include 'x' %}{{text}}", {"text": "a"}, "no loader"),
    ],
)
def test_what_is_not_shown(jinja, row, match):
    import re

    problem = one(made(jinja), row)
    assert isinstance(problem, NotShown)
    assert re.search(match, str(problem)), problem


def test_one_bad_row_among_good_ones():
    found = rendered(made(ANSWER), [{"text": "a"}, {"text": None}, {"text": "c"}], None)
    assert [type(one) for one in found] == [Shown, NotShown, Shown]
    assert found[2].prompt == "c"


def test_a_bomb_is_cut_off():
    with pytest.raises(Exceeded):
        one(
            made("{{text}}{% for i in range(10**5) %}{% for j in range(10**5) %}{% endfor %}{% endfor %}"),
            {"text": "a"},
        )
    assert one(made(ANSWER), {"text": "a"}).prompt == "a"
