"""The table of docs/templates.md: what the chat templates that TRL ships show.

python -m tests.templates_table              # prints the page
python -m tests.templates_table qwen3 gptoss # rows of these templates
"""

import copy
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import product

from jinja2 import TemplateError

from honest_persona.base.errors import UserError
from honest_persona.prompts.tokens import TokenFormat, apply_intervention
from tests.families import FAMILIES
from tests.prompts import test_agents as agents
from tests.prompts import test_reasoning as reasoning
from tests.prompts.test_chat_format import PLAIN, own_rendering

HEAD = """# Chat templates

What the chat templates that TRL ships show of a conversation, as the honest persona sees it. This page is made by
`python -m tests.templates_table > docs/templates.md`, with small tokenizers that have the control tokens of each
template; `make long` tests that it is so.

- system: a place for a system prompt; without one the system prompt stands at the start of the first user turn
- turns: conversations of several turns
- reasoning: what becomes of the reasoning of the reviewed answer. *block*: shown, whether given as text in the answer's
  own spelling or as `reasoning_content`; *field*: shown where it is given as `reasoning_content`; *left out*: the
  template knows such blocks and drops them, and so does the honest persona; -: the template knows none, and a block in
  the answer is text like all else
- tools, calls, results: a place for the tools that could be called, for calls (*one*: of one answer) and for what they
  gave; where there is none, an error names the template, and training can write all three as text
  (`tools_as_text: true`)
- equal: conversations whose ids are those of `tokenizer.apply_chat_template`, of those that the template can show

On purpose two answers are read otherwise than by the template itself. `qwen3_8` reads reasoning from
`reasoning_content` alone and shows a block in the text behind an empty block of its own; here this block is the
reasoning. The prompts of `nemotron_3_*` and `deepseek_r1_distill_training` open the block; an answer that then only
closes the block is shown with the opening. The same tags anywhere else, in a question, a result, a schema or later in
the answer, are text.

| template | system | turns | reasoning | tools | calls | results | equal |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def shown(form: TokenFormat, messages: Sequence[dict], tools=None) -> str | None:
    """The transcript as the honest persona sees it; None where the template cannot show it."""
    try:
        prompt = apply_intervention(messages, "Speak.", form, tools)
    except UserError:
        return None
    return form.tokenizer.decode(prompt.input_ids[: prompt.activation])


def reasoning_of(family: str, form: TokenFormat) -> str:
    field = shown(form, reasoning.CONVERSATIONS["field"])
    block = "Three" in str(field)
    template = form.tokenizer.chat_template
    owned = [spelling for spelling in reasoning.SPELLINGS if spelling.is_owned_by(template)]
    if not owned:
        return "field" if block else "-"
    spelling = owned[0]
    gap = "" if spelling.opening.endswith(("\n", ">")) and spelling.opening != "<think>" else "\n"
    text = f"{spelling.opening}{gap}{reasoning.THOUGHT}{gap}{spelling.closing}{reasoning.SAID}"
    as_text = "Three" in str(shown(form, [reasoning.user("3*3?"), reasoning.answer(text)]))
    return "block" if as_text else "field" if block else "left out"


def equal_of(family: str, form: TokenFormat) -> str:
    wanted = [(m, reasoning.as_the_template_reads_it(family, n), None) for n, m in reasoning.CONVERSATIONS.items()]
    wanted += [(messages, messages, tools) for messages, tools in (*agents.CONVERSATIONS.values(), agents.PARALLEL)]
    n = equal = 0
    for messages, same, tools in wanted:
        ours = shown(form, messages, tools)
        if ours is not None:
            n += 1
            equal += any(own.startswith(ours) for own in own_renderings(form, same, tools))
    return f"{equal} of {n}"


def own_renderings(form: TokenFormat, messages: Sequence[dict], tools) -> Iterator[str]:
    """By the template itself, in the forms that templates take calls in."""
    for as_text, null in product((False, True), (False, True)):
        told = copy.deepcopy(list(messages))
        for message in told:
            for call in message.get("tool_calls", ()):
                if as_text:
                    call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
                if null and not message["content"]:
                    message["content"] = None
        with suppress(TypeError, TemplateError):  # this is not the form that the template takes
            yield own_rendering(form.tokenizer, told, tools)


def row(family: str) -> str:
    form = reasoning.form_of(family)
    user, answer = PLAIN[1:]
    result = [user, agents.result("12 C", "weather"), answer]
    has = [
        form.chat.has_system_role,
        shown(form, [user, answer, user, answer]) is not None,
        shown(form, *agents.CONVERSATIONS["tools without a system prompt"]) is not None,
        shown(form, agents.CONVERSATIONS["a call"][0]) is not None,
        shown(form, agents.CONVERSATIONS["a result"][0]) is not None or shown(form, result) is not None,
    ]
    system, turns, tools, calls, results = ("yes" if it else "-" for it in has)
    single = calls == "yes" and shown(form, agents.PARALLEL[0]) is None and results == "yes"
    cells = [family, system, turns, reasoning_of(family, form), tools, "one" if single else calls, results]
    return f"| {' | '.join([*cells, equal_of(family, form)])} |"


def main() -> None:
    families = sys.argv[1:] or FAMILIES
    print((HEAD if not sys.argv[1:] else "") + "\n".join(map(row, families)))


if __name__ == "__main__":
    main()
