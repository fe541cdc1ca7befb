"""A chat template that does not end, or grows without measure, costs a child its life and this process an error."""

import os
import time
from copy import deepcopy

import pytest

from honest_persona.base.errors import UserError
from honest_persona.modeling.builtin import tiny_tokenizer
from honest_persona.prompts import rendering
from honest_persona.prompts.chat_format import ChatFormat
from honest_persona.prompts.rendering import Exceeded, Refused, render

BOMBS = {
    "3 GiB": "{% set x = 'a' * (3 * 1024**3) %}",
    "1 GB shown": "{{ 'a' * 10**9 }}",
    "1 GB by a filter": "{{ 'a' | center(10**9) }}",
    "1 GB by a format": "{{ '%1000000000d' % 1 }}",
    "1 GB by a method": "{{ 'a'.ljust(10**9) }}",
    "doubled": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a long list": "{{ ([0] * 10**9) | length }}",
    "an endless loop": "{% for i in range(10**5) %}{% for j in range(10**5) %}{% endfor %}{% endfor %}",
    "an endless power": "{{ (7 ** (10**8)) % 10 }}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "much text": "{% for i in range(10**5) %}{{ 'a' * 100 }}{% endfor %}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_cut_off(name):
    start = time.monotonic()
    with pytest.raises(Exceeded):
        render(BOMBS[name], {})
    assert time.monotonic() - start < 60, "a second of processor time, on however busy a machine"
    assert render("{{ a }}", {"a": 1}) == "1", "the next one is rendered"


@pytest.mark.parametrize("where", ["", "{% if messages | length == 3 %}"])
def test_a_tokenizer_with_one_is_named(where):
    bomb = where + BOMBS["3 GiB"] + ("{% endif %}" if where else "")
    chat = ChatFormat(_with_template(bomb + tiny_tokenizer().chat_template))
    with pytest.raises(UserError, match=r"the chat template of 'someone/model' was cut off: it takes more than memory"):
        chat.user_prefix()


def _with_template(template: str):
    tokenizer = deepcopy(tiny_tokenizer())
    tokenizer.chat_template, tokenizer.name_or_path = template, "someone/model"
    return tokenizer


def test_a_template_beyond_all_measure():
    with pytest.raises(UserError, match=r"chat template of 'someone/model' has \d+ characters"):
        ChatFormat(_with_template("{# " + "a" * 2**21 + " #}")).user_prefix()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% for i in range(10**6) %}{% endfor %}", "Range too big"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ 'a' * 10**30 }}", "OverflowError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% set n = namespace() %}{% set n.__class__ = 1 %}", "Error"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ('{{ "\\ud800" }}', "lone surrogates"),
        ("{{ raise_exception('a\\n\\x1b[31merror: b') }}", r"a\\n\\x1b\[31merror: b"),
    ],
)
def test_what_a_template_refuses_is_said(template, reason):
    with pytest.raises(Refused, match=reason):
        render(template, {"messages": []})
    with pytest.raises(UserError, match=r"'someone/model' cannot show the turns user / assistant .*check the order"):
        ChatFormat(_with_template(template)).scaffold(["user", "assistant"])


def test_a_template_is_cut_off_once_not_once_for_every_conversation():
    chat = ChatFormat(_with_template("{% if messages[1] %}" + BOMBS["an endless loop"] + "{% endif %}"))
    start = time.process_time() + sum(os.times()[2:4])
    for n in range(2, 30):
        with pytest.raises(UserError, match="was cut off: it takes more than 1 s of processor time"):
            chat.scaffold(["user", "assistant"] * n)
    assert time.process_time() + sum(os.times()[2:4]) - start < 10


@pytest.mark.slow
def test_a_template_that_is_always_slow_ends():
    slow = "{% for i in range(90) %}{% for j in range(10**5) %}{% endfor %}{% endfor %}"
    rendering._end()
    with pytest.raises(Exceeded, match="in each of"):
        [render(slow, {}) for _ in range(20)]


def test_what_is_drawn_at_random_is_the_same_each_time_and_in_each_process():
    drawn = render("{{ range(10**5) | random }} {{ lipsum() }}", {})
    rendering._end()
    assert render("{{ range(10**5) | random }} {{ lipsum() }}", {}) == drawn


@pytest.mark.parametrize("encoding", ["utf-16", "cp037"])
def test_a_console_of_any_encoding_changes_nothing(monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    rendering._end()
    try:
        assert render("\u00e9\n{{ a }}", {"a": 1}) == "\u00e9\n1"
    finally:
        rendering._end()


def test_one_child_renders_all_and_one_that_was_ended_is_replaced():
    render("a", {})
    child = rendering._child
    assert child is not None
    assert render("b", {}) == "b"
    assert rendering._child is child
    child.process.kill()
    child.process.wait()
    with pytest.raises(Exceeded):
        render("c", {})
    assert render("c", {}) == "c"


def test_a_forked_process_has_a_child_of_its_own():
    render("a", {})
    child = rendering._child
    assert child is not None
    child.owner = os.getppid()  # as it looks to a process that was forked
    assert render("b", {}) == "b"
    assert rendering._child is not child
    child.end()
