"""Conversations with tools: the template's own ids, and no text of a call, a result or a schema becomes control."""

import json
import random

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.persona import Persona
from honest_persona.prompts import rendering, scaffold
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.persona_token import forbidden_in_text, reserved_ids
from honest_persona.prompts.tokens import TokenFormat, Tokens, apply_intervention
from tests.families import FAMILIES, family_tokenizer, few_or_long
from tests.prompts.test_chat_format import own_rendering


def user(text):
    return {"role": "user", "content": text}


def answer(text, *calls, **fields):
    return {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {}), **fields}


def call(name, arguments, number=1):
    return {"type": "function", "id": f"call0000{number}", "function": {"name": name, "arguments": arguments}}


def result(text, name, number=1):
    return {"role": "tool", "content": text, "name": name, "tool_call_id": f"call0000{number}"}


def tool(name, description, **parameters):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


POINT = {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}}, "required": ["lat"]}
PROPERTIES = {
    "place": {"type": "string", "description": 'Where, as in "Oslo"'},
    "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
    "at": POINT,
    "type": {"type": "array", "items": {"type": "string"}},
    "days": {"type": "integer", "description": "How many", "minimum": 1},
}
WEATHER = tool("weather", "The weather.\nBe brief.", type="object", properties=PROPERTIES, required=["place", "at"])
FILES = tool("files.search", "Finds files", type="object", properties={})
OSLO = call("weather", {"place": "Oslo"})
ODD = "é \"quoted\" 'x' \\ back\nnew\ttab \x01 \x7f 🙂 好 \u2028 <b> & /"
NESTED = {"z": {"b": [1, 2.5, {"c": None}], "a": True}, "n": -3, "zero": 0, "B": "x", "k": [], "e": "", "f": 1e-7}

CONVERSATIONS = {
    "tools": ([{"role": "system", "content": "Be kind."}, user("Rain?"), answer("No.")], [WEATHER, FILES]),
    "tools without a system prompt": ([user("Rain?"), answer("No.")], [WEATHER, FILES]),
    "a call": ([user("Rain?"), answer("", OSLO)], [WEATHER]),
    "a call beside a text": ([user("Rain?"), answer("I look.", OSLO)], [WEATHER]),
    "a result": ([user("Rain?"), answer("", OSLO), result("12 C", "weather"), answer("No.")], [WEATHER]),
    "two rounds": (
        [
            user("Rain?"),
            answer("I look.", OSLO),
            result("12 C", "weather"),
            answer("", call("files.search", {}, 2)),
            result("none", "files.search", 2),
            answer("No."),
        ],
        [WEATHER, FILES],
    ),
    "ends with a call": (
        [user("Rain?"), answer("", OSLO), result("12 C", "weather"), answer("More.", call("files.search", {}, 2))],
        [FILES, WEATHER],
    ),
    "no arguments": ([user("Time?"), answer("", call("now", {}))], None),
    "nested arguments": ([user("Rain?"), answer("", call("f", NESTED))], None),
    "odd texts": ([user("Rain?"), answer("", call("f", {"q": ODD})), result(ODD, "f"), answer(ODD)], None),
    "odd names": ([user("Rain?"), answer("", call("my f/2", {"zä 'k'": 1, "a.b": "x", "A": 2}))], None),
    "reasoning": (
        [
            user("Rain?"),
            answer("", OSLO, reasoning_content="I must look."),
            result("12 C", "weather"),
            answer("No.", reasoning_content="So not."),
        ],
        [WEATHER],
    ),
    "reasoning in a call": ([user("Rain?"), answer("", OSLO, reasoning_content="I must look.")], [WEATHER]),
    "no ids": (
        [user("Rain?"), answer("", {"type": "function", "function": {"name": "f", "arguments": {"q": "x"}}})],
        None,
    ),
}
PARALLEL = (
    [
        user("Rain?"),
        answer("", OSLO, call("weather", {"place": "Rome"}, 2)),
        result("12 C", "weather"),
        result("20 C", "weather", 2),
        answer("No."),
    ],
    [WEATHER],
)
SINGLE = ("gptoss", "llama3_1", "llama3_2")
"""Templates that show one call of an answer alone."""
CALLERS = [
    family
    for family in FAMILIES
    if family.startswith(("diffusion", "gemma4", "glm", "gpt", "lfm2_", "llama3_1", "llama3_2", "muse", "nemo", "qwen"))
    and not family.startswith(("qwen2_5_vl", "lfm2_training"))
]
"""The families with a place for tools, calls and results."""


def form_of(family: str, elicitation: str = "hp", token: bool = False) -> TokenFormat:
    tokenizer = family_tokenizer(family)
    settings = {"elicitation_type": elicitation, "sp_token_id": reserved_ids(tokenizer)[0] if token else None}
    return TokenFormat.of(tokenizer, Persona(system_tag="", intervention_prefix="", **settings))


def check(form: TokenFormat, messages, tools) -> str:
    """What the template itself writes behind the transcript, after a check that all up to there is the same."""
    prompt = apply_intervention(messages, "Speak.", form, tools)
    own = form.tokenizer(own_rendering(form.tokenizer, messages, tools), add_special_tokens=False)["input_ids"]
    assert own[: prompt.activation] == prompt.input_ids[: prompt.activation]
    return form.tokenizer.decode(own[prompt.activation :])


@pytest.mark.parametrize("family", few_or_long(CALLERS))
def test_the_ids_are_the_templates_own(family):
    form = form_of(family)
    plain = check(form, *CONVERSATIONS["a result"])
    for name, (messages, tools) in CONVERSATIONS.items():
        closing = check(form, messages, tools)
        calls = messages[-1].get("tool_calls")
        assert closing == plain or (calls and closing in ("<|call|>", "<|tool_response>", "<|observation|>", plain)), (
            name
        )
    if not family.startswith(SINGLE):
        check(form, *PARALLEL)


@pytest.mark.parametrize("family", few_or_long(CALLERS))
@pytest.mark.parametrize("elicitation", ["up", "ur"])
def test_the_turns_that_follow_are_the_templates_own(family, elicitation):
    form = form_of(family, elicitation)
    for name in ("a result", "two rounds"):
        messages, tools = CONVERSATIONS[name]
        prompt = apply_intervention(messages, "Speak.", form, tools)
        more = [user("Speak."), *([answer("xyxy")] if elicitation == "ur" else [])]
        own = own_rendering(form.tokenizer, [*messages, *more], tools)
        own = own[: own.index("xyxy" if elicitation == "ur" else "Speak.")]
        ids = prompt.input_ids if elicitation == "ur" else prompt.input_ids[: prompt.activation]
        assert ids == form.tokenizer(own, add_special_tokens=False)["input_ids"], name


def test_a_real_tokenizer_shows_tools_as_its_template_does(minimind):
    form = TokenFormat.of(minimind, Persona(sp_token_id=None, system_tag=""))
    for messages, tools in [*CONVERSATIONS.values(), PARALLEL]:
        assert check(form, messages, tools) == "<|im_end|>\n"


def drawn(rng: random.Random, depth: int = 0):
    """Some JSON."""
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [drawn(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 7:
        return {drawn_text(rng): drawn(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [None, rng.random() < 0.5, rng.randrange(-9, 9), round(rng.uniform(-9, 9), 3), drawn_text(rng), ""][kind]


def drawn_text(rng: random.Random) -> str:
    words = ["Oslo", "naïve", "a b", '"', "\\", "'", "\n", "🙂", "x.y", "{", "}", "[", "<b>", "12", "\t", "None"]
    return "q" + "".join(rng.choices(words, k=rng.randrange(1, 4))) + "q"


@pytest.mark.parametrize("family", few_or_long(CALLERS))
def test_the_ids_are_the_templates_own_for_drawn_json(family):
    form = form_of(family)
    for seed in range(6):
        rng = random.Random(seed)
        arguments = {drawn_text(rng): drawn(rng) for _ in range(rng.randrange(4))}
        name = f"f{seed}"
        turns = [user("Rain?"), answer("", call(name, arguments)), result(drawn_text(rng), name), answer("No.")]
        properties = {f"p{i}": {"type": "string", "description": drawn_text(rng)} for i in range(rng.randrange(3))}
        tools = [tool(name, drawn_text(rng), type="object", properties=properties, required=list(properties)[:1])]
        check(form, turns, tools)


def test_kinds_of_a_call_and_its_result():
    form = form_of("qwen3")
    prompt = apply_intervention(*CONVERSATIONS["a result"][:1], "Speak.", form, [WEATHER])

    def text(kind):
        return form.tokenizer.decode([i for i, k in zip(prompt.input_ids, prompt.kinds, strict=True) if k == kind])

    assert text(Kind.RESPONSE) == "weatherplaceOsloNo."
    assert text(Kind.USER) == "Rain?12 C"
    assert "The weather.\\nBe brief." in text(Kind.SYSTEM), "escaped as in the template's JSON"


def test_the_answer_that_is_a_call_is_shown_to_its_end():
    ends = {
        "qwen3": '{"name": "weather", "arguments": {"place": "Oslo"}}\n</tool_call>',
        "llama3_1": '{"name": "weather", "parameters": {"place": "Oslo"}}',
        "gptoss": '<|channel|>commentary json<|message|>{"place": "Oslo"}',
        "gemma4_v5": '<|tool_call>call:weather{place:<|"|>Oslo<|"|>}<tool_call|>',
        "glm4moe": "<arg_value>Oslo</arg_value>\n</tool_call>",
        "lfm2_2_5": "<|tool_call_start|>[weather(place='Oslo')]<|tool_call_end|>",
    }
    for family, end in ends.items():
        form = form_of(family)
        prompt = apply_intervention(*CONVERSATIONS["a call"][:1], "Speak.", form, [WEATHER])
        assert form.tokenizer.decode(prompt.input_ids[: prompt.activation]).endswith(end), family


def test_arguments_that_are_the_json_of_an_object():
    as_text = call("weather", json.dumps({"place": "Oslo"}))
    for family in ("qwen3", "gemma4_v5", "muse_glimmer"):
        form = form_of(family)
        given = apply_intervention([user("Rain?"), answer("", as_text)], "Speak.", form)
        assert given == apply_intervention([user("Rain?"), answer("", OSLO)], "Speak.", form)


def test_a_template_that_wants_the_json_of_arguments():
    with_text = [user("Rain?"), answer("", call("weather", '{"place": "Oslo"}'))]
    form = form_of("deepseekv3")
    prompt = apply_intervention([user("Rain?"), answer("", OSLO)], "Speak.", form)
    own = form.tokenizer(own_rendering(form.tokenizer, with_text, None), add_special_tokens=False)["input_ids"]
    assert own[: prompt.activation] == prompt.input_ids[: prompt.activation]


def test_a_template_that_wants_null_as_the_content_of_a_call():
    """Its own rendering cannot be compared: transformers takes a content of null out of the message."""
    form = form_of("deepseek_r1_distill")
    prompt = apply_intervention([user("Rain?"), answer("", OSLO)], "Speak.", form)
    shown = form.tokenizer.decode(prompt.input_ids[: prompt.activation])
    assert shown.endswith('weather\n```json\n{"place": "Oslo"}\n```')


def test_the_template_for_tools_is_taken_where_a_tokenizer_has_one():
    form = form_of("llama3")
    form.tokenizer.chat_template = {
        "default": family_tokenizer("llama3").chat_template,
        "tool_use": family_tokenizer("llama3_1").chat_template,
    }
    messages, tools = CONVERSATIONS["a result"]
    prompt = apply_intervention(messages, "Speak.", form, tools)
    own = form.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert own.startswith(form.tokenizer.decode(prompt.input_ids[: prompt.activation]))
    with pytest.raises(UserError, match="no place for calls"):
        apply_intervention(CONVERSATIONS["a call"][0], "Speak.", form)


MISTRAL = """{{- bos_token }}{% for m in messages %}{% if m.role == 'user' %}
{%- if loop.first %}{{- '[AVAILABLE_TOOLS] ' + tools|tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
{{- '[INST] ' + m.content + '[/INST]' }}{% elif m.tool_calls %}{{- '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}
{%- if c.id|length != 9 %}{{ raise_exception('Tool call IDs should have length 9!') }}{% endif %}
{{- (c.function|tojson)[:-1] + ', "id": "' + c.id + '"}' }}{{- ', ' if not loop.last }}{% endfor %}
{{- ']' + eos_token }}
{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] {"content": ' + m.content|string + ', "call_id": "' }}
{{- m.tool_call_id + '"}[/TOOL_RESULTS]' }}{% else %}{{- ' ' + m.content|trim + eos_token }}{% endif %}{% endfor %}"""


def test_a_template_that_shows_ids_and_asks_for_their_length():
    form = form_of("llama3")
    form.tokenizer.chat_template = MISTRAL
    for messages, tools in (CONVERSATIONS["a result"], CONVERSATIONS["a call"], PARALLEL):
        assert check(form, messages, tools) == "<|eos|>"
    apply_intervention(*conversation_of("q", "longer than nine")[:1], "I", form, [WEATHER])


@pytest.mark.parametrize(
    ("family", "messages", "tools", "said"),
    [
        ("gemma3", *CONVERSATIONS["tools"], "has no place for tools"),
        ("idefics3", *CONVERSATIONS["tools"], "has no place for tools"),
        ("deepseekv3", *CONVERSATIONS["a result"], "has no place for tools"),
        ("lfm2", *CONVERSATIONS["a call"], "has no place for calls of tools"),
        ("phi3", CONVERSATIONS["a call"][0], None, "has no place for calls of tools"),
        ("phi3", [user("Rain?"), result("12 C", "weather"), answer("No.")], None, "no place for the results of tools"),
        ("gptoss", *PARALLEL, "no place for calls of tools, or shows one of several calls alone"),
        ("llama3_1", *PARALLEL, r"single tool-calls at once"),
        ("cohere", *CONVERSATIONS["a result"], r"cannot show the turns .*with calls / tool / assistant and tools"),
    ],
)
def test_what_a_template_has_no_place_for_is_an_error(family, messages, tools, said):
    with pytest.raises(UserError, match=rf"the chat template of '{family}' .*{said}.*; write tools, calls and results"):
        apply_intervention(messages, "Speak.", form_of(family), tools)


def test_what_is_left_out_of_the_reviewed_answer_is_said_once(capsys):
    form = form_of("llama3_1")
    for _ in range(2):
        apply_intervention(*CONVERSATIONS["a call beside a text"][:1], "Speak.", form, [WEATHER])
    apply_intervention(*CONVERSATIONS["two rounds"][:1], "Speak.", form, [WEATHER])
    assert capsys.readouterr().err == (
        "note: the chat template of llama3_1 does not show the text beside a call in this place; the honest persona "
        "does not see it\n"
    )


# Attacks


def control_of(tokens: Tokens, form: TokenFormat) -> list[int]:
    control = forbidden_in_text(form.tokenizer, form.persona.sp_token_id)
    return [token for token in tokens.input_ids if token in control]


def conversation_of(text: str, name: str) -> tuple[list[dict], list[dict]]:
    """A conversation that has the text in each place of a text, and the name in each place of a name."""
    spec = {
        "type": "string",
        "description": text,
        "enum": [text],
        "default": text,
        name: text,
        f"{name}2": {name: text},
    }
    schema = tool(name, text, type="object", properties={name: spec, "ok": {"type": text}}, required=[name])
    schema["function"][name] = text
    arguments = {name: text, "list": [text, {name: text}], f"{name}2": {f"{name}3": text}}
    messages = [
        user(text),
        answer("", {"type": "function", "id": name, "function": {"name": name, "arguments": arguments}}),
        {"role": "tool", "content": text, "name": name, "tool_call_id": name},
        answer(text),
    ]
    return messages, [schema]


@pytest.mark.parametrize("family", few_or_long(CALLERS))
@pytest.mark.parametrize("elicitation", ["hp", pytest.param("ur", marks=pytest.mark.long)])
def test_no_text_of_tools_becomes_control(family, elicitation):
    form = form_of(family, elicitation, token=True)
    words = [form.tokenizer.convert_ids_to_tokens(token) for token in sorted(form.forbidden)]
    honest_messages, honest_tools = conversation_of("q", "q")
    honest = control_of(apply_intervention(honest_messages, "I", form, honest_tools), form)
    bare = {word.strip("<>|/[]｜") for word in words} - {""} | {"think", "/think", "tool_call"}
    attacks = [("".join(words), "q"), ("q", "".join(words)), *((w, "q") for w in words), *(("q", w) for w in bare)]
    taken_in = 0
    for text, name in attacks:
        messages, tools = conversation_of(f"x{text}x", name)
        prompt = apply_intervention(messages, "I", form, tools)
        assert control_of(prompt, form) == honest, (text, name)
        taken_in += bool(set(form.tokenizer(f"{text}{name}")["input_ids"]) & form.forbidden)
    assert taken_in >= len(words), "negative control: the bare tokenizer is taken in"


# Speed


def test_conversations_of_one_shape_share_a_rendering(monkeypatch):
    renderings = []
    monkeypatch.setattr(scaffold, "render", lambda *args: renderings.append(1) or rendering.render(*args))
    scaffold.scaffold_of.cache_clear()
    form = form_of("qwen3")
    shapes = list(CONVERSATIONS)[:10]
    for n in range(200):
        messages, tools = CONVERSATIONS[shapes[n % 10]]
        told = json.loads(json.dumps([messages, tools]).replace("Oslo", f"Oslo {n}").replace("12 C", f"{n} C"))
        apply_intervention(told[0], "Speak.", form, told[1])
    assert len(renderings) <= 2 * 5 * len(shapes), "an answer that is a call needs the scaffold of a plain answer too"
