"""Calls of tools and their results as plain text, for chat templates that have no place for tools.

    messages = tools_as_text(messages, tools)

The tools stand behind the system prompt, a call at the end of the answer that makes it, and a result in a turn of the
user. It is ordinary text: nothing marks it as a control sequence, and a user can write the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from honest_persona.base import json_text
from honest_persona.data.messages import Message


def tools_as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[Message]:
    """The conversation with roles system, user and assistant alone; one without tools as it is."""
    shown: list[Message] = []
    if tools:
        system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
        listed = "\n".join(json_text.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
        shown.append(Message(role="system", content=f"{system}\n\nTools:\n{listed}".lstrip("\n")))
        messages = messages[1:] if system or (messages and messages[0]["role"] == "system") else messages
    called: dict[str, str] = {}
    is_after_result = False
    for message in messages:
        if message["role"] == "tool":
            name = message.get("name") or called.get(message.get("tool_call_id", ""), "")
            text = f"Result{f' of {name}' if name else ''}: {message['content']}"
            if is_after_result:  # results of one turn's calls: many templates refuse two turns of the user in a row
                shown[-1] = Message(role="user", content=f"{shown[-1]['content']}\n{text}")
            else:
                shown.append(Message(role="user", content=text))
            is_after_result = True
            continue
        is_after_result = False
        calls = message.get("tool_calls") or []
        for call in calls:
            if "id" in call:
                called[call["id"]] = call["function"]["name"]
        said = [message["content"]] if message["content"].strip() or not calls else []
        content = "\n".join([*said, *(_call(call) for call in calls)])
        shown.append({**{key: value for key, value in message.items() if key != "tool_calls"}, "content": content})  # type: ignore[typeddict-item]
    return shown


def _call(call: Mapping[str, Any]) -> str:
    arguments = json_text.dumps(call["function"]["arguments"], ensure_ascii=False)
    return f"Call: {call['function']['name']}({arguments})"
