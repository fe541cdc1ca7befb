"""A file of templates: what is read, written again and refused."""

import random

import pytest

from honest_persona.base.errors import UserError
from honest_persona.prompts.text_templates import (
    USES,
    TextTemplate,
    dump_templates,
    load_templates,
    parse_templates,
)
from tests.generation.prepare.rows import TEMPLATES

GOOD = "- name: a\n  jinja: '{{text}} ||| {{answer_choices[label]}}'\n  answer_choices: Yes ||| No\n"


def test_the_shipped_file():
    templates = load_templates(TEMPLATES)
    assert [template.use for template in templates] == [("contrast",)] * 5 + [("prompts", "pairs")]
    assert {name for template in templates for name in template.columns()} == {"question", "sentence", "label"}
    assert templates[2].fixed == ("True", "False"), "words, and not truth values of YAML"
    assert parse_templates(dump_templates(templates), "again") == templates


def test_all_choices_are_text():
    (template,) = parse_templates(GOOD.replace("Yes ||| No", "[yes, 1]"), "f")
    assert template.fixed == ("yes", "1")
    assert parse_templates(GOOD, "f")[0].fixed == ("Yes", "No")
    assert (
        parse_templates(GOOD.replace("Yes |||", "'{{a}}' |||").replace("'{{a}}' ||| No", "'{{a}} ||| No'"), "f")[
            0
        ].fixed
        is None
    )


def test_a_file_of_promptsource():
    text = """
dataset: glue
subset: qnli
templates:
  50c3108c-b23c-4691-97be-72438606c840: !Template
    answer_choices: yes ||| no
    id: 50c3108c-b23c-4691-97be-72438606c840
    jinja: '{{sentence}}

      Is that the answer to "{{question}}"?

      |||

      {{answer_choices[label]}}'
    metadata: !TemplateMetadata
      choices_in_prompt: false
      metrics:
      - Accuracy
    name: based only on
    reference: ''
"""
    (template,) = parse_templates(text, "f")
    assert template.name == "based only on"
    assert template.jinja == '{{sentence}}\nIs that the answer to "{{question}}"?\n|||\n{{answer_choices[label]}}'
    assert template.use == USES


def test_what_is_written_is_read_again_as_it_was():
    rng = random.Random(0)
    pieces = [
        "{{a}}",
        "|||",
        "\n",
        "\n\n",
        " ",
        "  ",
        "\t",
        "\r",
        ":",
        "#",
        "- ",
        "'",
        '"',
        "\\",
        "\u00e9",
        "\u2028",
        "\x85",
    ]
    pieces += [
        "\U0001f600",
        "null",
        "~",
        "yes",
        "1e5",
        "%",
        "&a",
        "*a",
        "!t",
        ">",
        "|",
        "\ufeff",
        "{% if a %}",
        "{% endif %}",
    ]

    def text(n):
        return "".join(rng.choices(pieces, k=n))

    for n in range(300):
        choices = rng.choice(
            [None, ("Yes", "No"), ("null", "~"), (text(3) + "x", text(3) + "y"), "a ||| b", "{{a}}|||b"]
        )
        template = TextTemplate(
            f"t{n}", "{{a}}" + text(8), choices, rng.choice([USES, ("prompts",), ("contrast", "pairs")])
        )
        again = parse_unchecked(dump_templates([template]))
        assert again == template


def parse_unchecked(text):
    """The template of a file, whose jinja need not be sound."""
    from honest_persona.prompts import text_templates as module

    return module._template(module.yaml.load(text, module._Loader)[0])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "holds no list of templates"),
        ("templates: 3", "holds no list of templates"),
        ("- 3", "template 1: is no mapping"),
        ("- name: a\n  jinja: x\n  name: b", "f:1: not valid YAML: repeated key 'name'"),
        ("- name: a\n   jinja: x", "f:2: not valid YAML"),
        ("- name: !!python/object:os.system a", "not valid YAML"),
        ("- &a\n  b: 1\n- *a", "template 1: has no key b"),
        ("- jinja: '{{text}}'", "template 1: name is missing"),
        ("- name: all\n  jinja: '{{text}}'", "name: give it one printable line"),
        ("- name: a", "template 1 'a': jinja is missing"),
        (GOOD + GOOD, "2 templates have the name 'a'"),
        (GOOD.replace("{{text}}", "text"), "'a': names no column"),
        (GOOD.replace("{{text}}", "{{text}"), "'a': is no template that can be rendered: TemplateSyntaxError"),
        (GOOD.replace("Yes ||| No", "Yes"), r"has 1 answer_choices \('Yes'\), and a pair needs two"),
        (GOOD.replace("Yes ||| No", "[Yes, No, Maybe]"), "has 3 answer_choices .*and a pair needs two"),
        (GOOD.replace("Yes ||| No", "Yes ||| Yes"), "has equal answer_choices"),
        (GOOD.replace("Yes ||| No", "'Yes ||| '"), "has an empty one among its answer_choices"),
        (GOOD.replace("Yes ||| No", "{a: b}"), "answer_choices is neither a list"),
        (GOOD.replace("  answer_choices: Yes ||| No\n", ""), "'a': has no answer_choices, and contrast needs two"),
        (GOOD + "  use: probes\n", "use: 'probes' is not known; write one or more of contrast, prompts, pairs"),
        (GOOD + "  use: []\n", r"use: \[\] is not known"),
    ],
)
def test_what_is_refused(text, match):
    with pytest.raises(UserError, match=match):
        parse_templates(text, "f")


def test_all_problems_are_told_at_once():
    with pytest.raises(UserError) as caught:
        parse_templates(GOOD.replace("{{text}}", "text") + "- nam: b\n", "f")
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_templates(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_templates(tmp_path / "a.yaml")


def test_without_two_choices_a_template_is_for_prompts():
    (one,) = parse_templates("- name: a\n  jinja: '{{text}}'\n  use: prompts\n", "f")
    assert one.choices is None
    (three,) = parse_templates(GOOD.replace("Yes ||| No", "[a, b, c]") + "  use: prompts\n", "f")
    assert three.fixed == ("a", "b", "c")
