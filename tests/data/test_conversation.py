"""Conversations of many forms become one form; what cannot be used is named with its place."""

import copy
import json

import pytest

from honest_persona.base.errors import UserError
from honest_persona.data.conversation import Conversation, checked_conversation, conversation, unused_keys

USER, ANSWER = {"role": "user", "content": "Is it 9?"}, {"role": "assistant", "content": "It is."}
CALL = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": {"a": 4, "b": 5}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
AGENT = [
    USER,
    {"role": "assistant", "content": "", "reasoning_content": "I add.", "tool_calls": [CALL]},
    {"role": "tool", "content": "9", "tool_call_id": "c1"},
    ANSWER,
]


def answer(**changes):
    return [USER, {"role": "assistant", **changes}]


def calls(*given):
    return answer(content=None, tool_calls=list(given))


SAME_FORM = {
    "as it is": ({"messages": AGENT}, AGENT),
    "keys that say nothing": (
        {"messages": [{**USER, "weight": 1, "tool_calls": None, "name": "Bo"}, {**ANSWER, "audio": None}], "id": 3},
        [USER, ANSWER],
    ),
    "developer": (
        {"messages": [{"role": "developer", "content": "S"}, ANSWER]},
        [{"role": "system", "content": "S"}, ANSWER],
    ),
    "two system messages": (
        {"messages": [{"role": "system", "content": "S"}, {"role": "developer", "content": "T"}, ANSWER]},
        [{"role": "system", "content": "S\n\nT"}, ANSWER],
    ),
    "a system prompt beside them": (
        {"messages": [ANSWER], "system": "S"},
        [{"role": "system", "content": "S"}, ANSWER],
    ),
    "parts of text": (
        {"messages": [{**USER, "content": ["Is ", {"type": "input_text", "text": "it 9?"}]}, ANSWER]},
        [USER, ANSWER],
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Is it 9?"}, {"from": "gpt", "value": "It is."}]},
        [USER, ANSWER],
    ),
    "ShareGPT's calls": (
        {
            "conversations": [
                {"from": "human", "value": "Is it 9?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 4}}'},
                {"from": "observation", "value": "9"},
                {"from": "gpt", "value": "It is."},
            ]
        },
        [
            USER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 4}}}],
            },
            {"role": "tool", "content": "9"},
            ANSWER,
        ],
    ),
    "arguments as JSON": (
        {"messages": calls({**CALL, "function": {"name": "add", "arguments": '{"a": 4, "b": 5}'}})},
        answer(content="", tool_calls=[CALL]),
    ),
    "a call without wrapper": (
        {"messages": calls({"id": "c1", "name": "add", "args": {"a": 4, "b": 5}, "type": "tool_call"})},
        answer(content="", tool_calls=[CALL]),
    ),
    "no arguments": (
        {"messages": calls({"function": {"name": "now", "arguments": ""}})},
        answer(content="", tool_calls=[{"type": "function", "function": {"name": "now", "arguments": {}}}]),
    ),
    "function_call of old": (
        {
            "messages": [
                *answer(content=None, function_call={"name": "now", "arguments": "{}"}),
                {"role": "function", "name": "now", "content": "12:00"},
                ANSWER,
            ]
        },
        [
            *answer(content="", tool_calls=[{"type": "function", "function": {"name": "now", "arguments": {}}}]),
            {"role": "tool", "content": "12:00", "name": "now"},
            ANSWER,
        ],
    ),
    "Anthropic's parts": (
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "I add.", "signature": "x"},
                        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 4, "b": 5}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "9"}]},
                        {"type": "text", "text": "Well?"},
                    ],
                },
                ANSWER,
            ]
        },
        [*AGENT[:3], {"role": "user", "content": "Well?"}, ANSWER],
    ),
    "reasoning": (
        {"messages": answer(content="9", reasoning="I add.")},
        answer(content="9", reasoning_content="I add."),
    ),
    "reasoning told twice": (
        {"messages": answer(content="9", reasoning="I add.", reasoning_content="I add.", thinking="")},
        answer(content="9", reasoning_content="I add."),
    ),
    "a refusal": ({"messages": answer(content=None, refusal="No.")}, answer(content="No.")),
    "a question and its answer": (
        {"question": "Is it 9?", "answer": "It is.", "system": "S"},
        [{"role": "system", "content": "S"}, USER, ANSWER],
    ),
    "a prompt and its completion": ({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}, [USER, ANSWER] * 2),
    "texts that look like lists": (
        {"prompt": "[]", "response": "[]"},
        [{"role": "user", "content": "[]"}, {"role": "assistant", "content": "[]"}],
    ),
    "messages as Python writes them": ({"messages": str([USER, ANSWER])}, [USER, ANSWER]),
    "messages as JSON": ({"messages": json.dumps([USER, ANSWER])}, [USER, ANSWER]),
}


@pytest.mark.parametrize("name", SAME_FORM)
def test_what_people_have_becomes_one_form(name):
    line, expected = SAME_FORM[name]
    before = copy.deepcopy(line)
    found = conversation(line)
    assert found == Conversation(expected, None)
    assert line == before
    assert conversation({"messages": found.messages}) == found, "the one form is itself understood"


@pytest.mark.parametrize(
    "given",
    [
        {"tools": [TOOL]},
        {"tools": [TOOL["function"]]},
        {"tools": [{**TOOL["function"], "type": "function"}]},
        {"functions": [TOOL["function"]]},
        {"tools": json.dumps([TOOL])},
        {"tools": [{"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}]},
    ],
)
def test_tools_of_every_form(given):
    assert conversation({"messages": AGENT, **given}) == Conversation(AGENT, [TOOL])


@pytest.mark.parametrize("none", [None, [], "[]"])
def test_no_tools(none):
    assert conversation({"messages": AGENT, "tools": none}) == Conversation(AGENT, None)


BAD = [
    ({}, "messages: is missing"),
    ({"prompt": "x"}, "messages: is missing"),
    ({"prompt": "x", "output": " "}, "output: is empty"),
    ({"prompt": [], "completion": [], "system": "S"}, "prompt: is empty, as completion is"),
    ({"prompt": "x", "completion": [{"role": "critic"}]}, "completion[0].role: 'critic' is unknown"),
    ({"messages": []}, "messages: is empty"),
    ({"messages": "hello"}, "messages: is text that is no valid JSON"),
    ({"messages": {"role": "user"}}, "messages: is an object, but must be a list"),
    ({"messages": ["Yes!"]}, "messages[0]: is text, but must be an object with role and content"),
    ({"messages": [{"content": "x"}]}, "messages[0].role: null is unknown; use system, user, assistant, tool"),
    ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role: 'critic' is unknown"),
    ({"conversations": [{"from": "critic", "value": "x"}]}, "conversations[0].from: 'critic' is unknown"),
    ({"messages": answer()}, "messages[1].content: is missing"),
    ({"messages": answer(content=3)}, "messages[1].content: is a number, but must be text"),
    ({"messages": answer(content="\n")}, "messages[1].content: is empty"),
    ({"messages": answer(content="\ud800")}, "messages[1].content: holds lone surrogates"),
    ({"messages": [ANSWER, USER]}, "messages[1].role: the last message must be the assistant's answer"),
    ({"messages": AGENT[:3]}, "messages[2].role: the last message must be the assistant's answer"),
    ({"messages": [USER, {"role": "system", "content": "x"}, ANSWER]}, "messages[1].role: a system message can only"),
    (
        {"messages": [{"role": "system", "content": "x"}, ANSWER], "system": "y"},
        "system: messages[0] is a system message",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER]},
        "messages[0].content[0]: holds 'image_url', but the honest persona reads text alone",
    ),
    ({"messages": [{**USER, "images": ["x.png"]}, ANSWER]}, "messages[0].images: holds images"),
    ({"messages": [{**USER, "tool_calls": [CALL]}, ANSWER]}, "messages[0].tool_calls: only an assistant's message"),
    ({"messages": calls("add")}, "messages[1].tool_calls[0]: is text, but must be an object"),
    ({"messages": calls({"type": "custom", "custom": {}})}, "messages[1].tool_calls[0].type: is 'custom'"),
    ({"messages": calls({"function": {"arguments": {}}})}, "messages[1].tool_calls[0].function.name: is missing"),
    (
        {"messages": calls({"function": {"name": "add", "arguments": '{"a": 4'}})},
        "messages[1].tool_calls[0].function.arguments: is text that is no valid JSON (character 8",
    ),
    (
        {"messages": calls({"function": {"name": "add", "arguments": "[4]"}})},
        "messages[1].tool_calls[0].function.arguments: is a list, but must be an object",
    ),
    (
        {"messages": calls({"function": {"name": "add", "arguments": '{"a": 1, "a": 2}'}})},
        "messages[1].tool_calls[0].function.arguments: repeated key 'a'",
    ),
    (
        {"messages": calls({"function": {"name": "add", "arguments": {"a": [float("inf")]}}})},
        "messages[1].tool_calls[0].function.arguments.a[0]: is inf, which is no number in JSON",
    ),
    (
        {"messages": answer(content="9", reasoning="I add.", thinking="I guess.")},
        "messages[1]: reasoning and thinking have different texts",
    ),
    (
        {"messages": answer(content=[{"type": "tool_use", "name": "add"}, {"type": "text", "text": "Then."}])},
        "messages[1].content[1]: is text after a call",
    ),
    (
        {"messages": calls({"function": {"name": "add", "arguments": '{"a": ' + "[" * 101 + "]" * 101 + "}"}})},
        "messages[1].tool_calls[0].function.arguments: is nested more than 100 levels deep",
    ),
    ({"messages": [USER, ANSWER], "tools": "add"}, "tools: is text that is no valid JSON"),
    (
        {"messages": [USER, ANSWER], "tools": [{"type": "computer_use", "name": "c"}]},
        "tools[0].type: is 'computer_use'",
    ),
    ({"messages": [USER, ANSWER], "tools": [{"description": "Adds."}]}, "tools[0].name: is missing"),
    ({"messages": [{**USER, "from": "gpt"}, ANSWER]}, "messages[0].from: says assistant, but role says user"),
]


@pytest.mark.parametrize(("line", "problem"), BAD)
def test_what_cannot_be_used_is_located(line, problem):
    found = conversation(line)
    assert not isinstance(found, Conversation)
    (only,) = map(str, found)
    assert only.startswith(problem)


def test_keys_that_are_not_read_are_named():
    turns = [
        {"role": "user", "from": "Ann", "content": "Why?", "name": "Ann", "reasoning_content": "Hm.", "tool_calls": []},
        {"role": "assistant", "from": "gpt", "content": "So.", "reasoning_content": "Hm.", "name": "Bob", "weight": 0},
        {"role": "tool", "content": "1", "name": "look", "tool_call_id": "c", "thinking": "?"},
    ]
    assert [sorted(unused_keys({"messages": [turn]})) for turn in turns] == [
        ["from", "name", "reasoning_content"],
        ["name", "weight"],
        ["thinking"],
    ]
    assert unused_keys({"prompt": turns[:1], "response": "So."}) == {"from", "name", "reasoning_content"}


def test_a_callers_messages_have_all_problems_in_one_error():
    with pytest.raises(UserError, match=r"messages\[0\].content: is missing.*\nmessages\[1\].role: 'critic'"):
        checked_conversation([{"role": "user"}, {"role": "critic", "content": "x"}])
    with pytest.raises(UserError, match="messages: is text, but must be a list"):
        checked_conversation("Hello.")
    assert checked_conversation(tuple(AGENT), (TOOL,)) == Conversation(AGENT, [TOOL])


def test_a_text_beside_an_empty_one_is_not_lost():
    answer = {"role": "assistant", "content": "It is 9."}
    found = checked_conversation([{"role": "user", "content": "", "value": "What is 3 x 3?"}, answer])
    assert found.messages[0]["content"] == "What is 3 x 3?"
    with pytest.raises(UserError, match=r"messages\[0\]: content and value have different texts"):
        checked_conversation([{"role": "user", "content": "What?", "value": "Why?"}, answer])
