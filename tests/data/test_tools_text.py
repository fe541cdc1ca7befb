"""Calls of tools as text: everything that was said stays, in its order, in turns that every template can show."""

import copy

from honest_persona.data.tools_text import tools_as_text

USER, ANSWER = {"role": "user", "content": "Is it locked?"}, {"role": "assistant", "content": "It is."}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def call(identity, at):
    return {"type": "function", "id": identity, "function": {"name": "look", "arguments": {"at": at}}}


def result(identity, text):
    return {"role": "tool", "content": text, "tool_call_id": identity}


def test_calls_and_results_and_tools():
    asked = {"role": "assistant", "content": "I look.", "tool_calls": [call("1", "door"), call("2", "gärt")]}
    messages = [USER, asked, result("1", "open"), result("2", "shut"), ANSWER | {"reasoning_content": "Hm."}]
    given = copy.deepcopy(messages)
    assert tools_as_text(messages, [TOOL]) == [
        {"role": "system", "content": 'Tools:\n{"name": "look", "parameters": {"type": "object"}}'},
        USER,
        {"role": "assistant", "content": 'I look.\nCall: look({"at": "door"})\nCall: look({"at": "gärt"})'},
        {"role": "user", "content": "Result of look: open\nResult of look: shut"},
        ANSWER | {"reasoning_content": "Hm."},
    ]
    assert messages == given


def test_with_a_system_prompt_and_an_answer_that_only_calls():
    system = {"role": "system", "content": "Be kind."}
    shown = tools_as_text([system, USER, {"role": "assistant", "content": "", "tool_calls": [call("1", "x")]}], [TOOL])
    assert shown[0]["content"].startswith("Be kind.\n\nTools:\n")
    assert shown[2]["content"] == 'Call: look({"at": "x"})'
    assert tools_as_text([USER, ANSWER, {"role": "tool", "content": "late", "name": "look"}])[2] == {
        "role": "user",
        "content": "Result of look: late",
    }


def test_a_conversation_without_tools_stays():
    messages = [{"role": "system", "content": "S"}, USER, {"role": "assistant", "content": ""}, USER, ANSWER]
    assert tools_as_text(messages) == messages == tools_as_text(messages, [])
