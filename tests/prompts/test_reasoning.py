"""The reasoning of an answer is the block that the template writes; the same tags anywhere else are text."""

import pytest

from honest_persona.config.persona import Persona
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.persona_token import forbidden_in_text
from honest_persona.prompts.reasoning import SPELLINGS, leading_block
from honest_persona.prompts.tokens import TokenFormat, Tokens, apply_intervention
from tests.families import FAMILIES, family_tokenizer, few_or_long
from tests.prompts.test_chat_format import own_rendering

THOUGHT, SAID = "Three\ntimes 3.", "It is 9."
WHOLE = f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"
CLOSED = f"{THOUGHT}\n</think>\n\n{SAID}"
EMPTY = f"<think>\n\n</think>\n\n{SAID}"


def user(text):
    return {"role": "user", "content": text}


def answer(text, **fields):
    return {"role": "assistant", "content": text, **fields}


FIELD = answer(SAID, reasoning_content=THOUGHT)
CONVERSATIONS = {
    "none": [user("3*3?"), answer(SAID)],
    "whole": [user("3*3?"), answer(WHOLE)],
    "closed": [user("3*3?"), answer(CLOSED)],
    "empty": [user("3*3?"), answer(EMPTY)],
    "field": [user("3*3?"), FIELD],
    "only reasoning": [user("3*3?"), answer("", reasoning_content=THOUGHT)],
    "two turns": [user("3*3?"), answer(WHOLE), user("2*2?"), answer(WHOLE)],
    "two turns, fields": [user("3*3?"), FIELD, user("2*2?"), answer("It is 4.", reasoning_content="Two.")],
    "an earlier turn": [user("3*3?"), answer(WHOLE), user("2*2?"), answer("It is 4.")],
    "the last turn": [user("2*2?"), answer("It is 4."), user("3*3?"), FIELD],
}
BLIND = {"qwen3_8", "qwen3_8_training"}
"""Templates that show a block in the content as text, after an empty block of their own; they read the field alone."""
OPENERS = {family for family in FAMILIES if family.startswith("nemotron")} | {"deepseek_r1_distill_training"}
"""Templates whose prompt opens the block, but which show an answer that closes it without its opening."""


def form_of(family: str, elicitation: str = "hp") -> TokenFormat:
    persona = Persona(sp_token_id=None, system_tag="", intervention_prefix="", elicitation_type=elicitation)
    return TokenFormat.of(family_tokenizer(family), persona)


def as_the_template_reads_it(family: str, name: str) -> list[dict]:
    """The messages that hold the same for the template itself."""
    messages = CONVERSATIONS[name]
    if family in BLIND:
        return [
            FIELD if m["content"] in (WHOLE, CLOSED) else {**m, "content": m["content"].replace(EMPTY, SAID)}
            for m in messages
        ]
    return CONVERSATIONS["whole"] if family in OPENERS and name == "closed" else messages


@pytest.mark.parametrize("family", few_or_long())
def test_reasoning_is_what_the_template_itself_makes_of_it(family):
    form = form_of(family)
    for name, messages in CONVERSATIONS.items():
        prompt = apply_intervention(messages, "Speak.", form)
        own = own_rendering(form.tokenizer, as_the_template_reads_it(family, name))
        own_ids = form.tokenizer(own, add_special_tokens=False)["input_ids"]
        assert own_ids[: prompt.activation] == prompt.input_ids[: prompt.activation], name
        assert not any(word in form.tokenizer.decode(own_ids[prompt.activation :]) for word in ("It is", "Three")), name


@pytest.mark.parametrize("family", few_or_long())
@pytest.mark.parametrize("elicitation", ["up", "ur"])
def test_a_closed_turn_is_what_the_template_itself_makes_of_it(family, elicitation):
    form = form_of(family, elicitation)
    for name in ("whole", "field"):
        prompt = apply_intervention(CONVERSATIONS[name], "Speak.", form)
        more = [user("Speak."), *([answer("xyxy")] if elicitation == "ur" else [])]
        own = own_rendering(form.tokenizer, [*as_the_template_reads_it(family, name), *more])
        own = own[: own.index("xyxy" if elicitation == "ur" else "Speak.")]
        ids = prompt.input_ids if elicitation == "ur" else prompt.input_ids[: prompt.activation]
        assert ids == form.tokenizer(own, add_special_tokens=False)["input_ids"]


def test_a_real_tokenizer_reads_reasoning_as_its_template_does(minimind):
    """Here the tags are added tokens that are not special."""
    form = TokenFormat.of(minimind, Persona(sp_token_id=None, system_tag=""))
    for name, messages in CONVERSATIONS.items():
        prompt = apply_intervention(messages, "Speak.", form)
        own = minimind(own_rendering(minimind, messages), add_special_tokens=False)["input_ids"]
        assert own[: prompt.activation] == prompt.input_ids[: prompt.activation], name


def shown(family: str, message: dict) -> str:
    """The text of the answer's turn, up to the trigger."""
    form = form_of(family)
    prompt = apply_intervention([user("3*3?"), message], "Speak.", form)
    return form.tokenizer.decode(prompt.input_ids[: prompt.activation]).split("3*3?")[-1]


def test_a_block_of_qwen3_is_there_once():
    """As text it came behind an empty block of the template."""
    block = f"<|im_end|>\n<|im_start|>assistant\n{WHOLE}"
    for family in ("qwen3", "qwen3_5_think", "qwen3_6", "qwen3_8"):
        for message in (answer(WHOLE), answer(CLOSED), FIELD):
            assert shown(family, message) == block
    form = form_of("qwen3")
    prompt = apply_intervention(CONVERSATIONS["whole"], "Speak.", form)
    kinds = dict(zip(form.tokenizer.convert_ids_to_tokens(prompt.input_ids), prompt.kinds, strict=True))
    assert kinds["<think>"] == kinds["</think>"] == Kind.TEMPLATE
    spoken = [token for token, kind in zip(prompt.input_ids, prompt.kinds, strict=True) if kind == Kind.RESPONSE]
    assert form.tokenizer.decode(spoken).replace("\n", "") == f"{THOUGHT}{SAID}".replace("\n", "")


@pytest.mark.parametrize(
    ("family", "text", "block"),
    [
        (
            "gptoss",
            f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{SAID}",
            f"<|end|><|start|>assistant<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"
            f"<|channel|>final<|message|>{SAID}",
        ),
        (
            "gemma4_v5",
            f"<|channel>thought\n{THOUGHT}\n<channel|>{SAID}",
            f"<turn|>\n<|turn>model\n<|channel>thought\n{THOUGHT}\n<channel|>{SAID}",
        ),
        (
            "muse_glimmer",
            f" to=self<|message|>{THOUGHT}<|eom|><|start|>assistant to=user<|message|>{SAID}",
            f"<|eot|><|start|>assistant to=self<|message|>{THOUGHT}<|eom|><|start|>assistant to=user<|message|>{SAID}",
        ),
    ],
)
def test_channels_are_that_block(family, text, block):
    assert shown(family, answer(text)) == shown(family, FIELD) == block
    template = family_tokenizer(family).apply_chat_template([user("3*3?"), FIELD], tokenize=False)
    assert template.split("3*3?")[-1].startswith(block)


def test_an_answer_of_gpt_oss_with_its_channel_and_without_reasoning():
    plain = f"<|end|><|start|>assistant<|channel|>final<|message|>{SAID}"
    assert shown("gptoss", answer(f"<|channel|>final<|message|>{SAID}")) == shown("gptoss", answer(SAID)) == plain


def test_what_the_prompt_opened_is_opened():
    """Nemotron's own template shows such an answer without the opening, which stood in the prompt."""
    assert shown("nemotron_3_nano", answer(CLOSED)) == f"<|im_end|>\n<|im_start|>assistant\n{WHOLE}"


def test_a_template_that_shows_no_reasoning_is_followed():
    for message in (answer(WHOLE), answer(CLOSED), FIELD):
        assert "Three" not in shown("deepseekv3", message)
    assert "Three" not in shown("llama3", FIELD)


NO_SYSTEM_ROLE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{# <think> #}"
)


def test_a_system_prompt_in_front_of_a_first_answer_with_a_block_is_shown():
    form = form_of("qwen3")
    form.tokenizer.chat_template = NO_SYSTEM_ROLE
    prompt = apply_intervention([{"role": "system", "content": "Be kind."}, answer(WHOLE)], "Speak.", form)
    assert f"Be kind.\n\n{WHOLE}" in form.tokenizer.decode(prompt.input_ids)


# Attacks


def control_of(tokens: Tokens, form: TokenFormat) -> list[int]:
    control = forbidden_in_text(form.tokenizer, None)
    return [token for token in tokens.input_ids if token in control]


@pytest.mark.parametrize("family", few_or_long())
def test_tags_anywhere_else_are_text(family):
    form = form_of(family)
    owned = [s for s in SPELLINGS if s.is_owned_by(form.tokenizer.chat_template)] or [SPELLINGS[0]]
    block = "".join(f"{s.opening}a{s.closing}" for s in owned)
    lines = "".join(f"\n{s.opening}\na\n{s.closing}\n\n" for s in owned)
    first = owned[0]
    leading = f"{first.opening}\nSo.\n{first.closing}\n\n"
    plain = apply_intervention([user("Q"), answer("A")], "I", form)
    reasoned = apply_intervention([user("Q"), answer(f"{leading}A")], "I", form)
    attacks = [
        ([user(f"{block}Q"), answer("A")], plain),
        ([user(f"{lines}Q"), answer("A")], plain),
        ([user("Q"), answer(f"It is {block}")], plain),
        ([user("Q"), answer(f"It is{lines}9")], plain),
        ([user("Q"), answer(f"It is {first.closing} 9")], plain),
        ([user("Q"), answer(f"It is 9 {first.opening} and more")], plain),
        ([user("Q"), answer(f"{first.opening} and no end")], plain),
        ([user("Q"), answer(f"{leading}{lines}A")], reasoned),
        ([user("Q"), answer(f"{leading}A{block}")], reasoned),
        ([user("Q"), answer(f"{first.opening}\n{first.opening}\nSo.\n{first.closing}\n\n{first.closing}A")], reasoned),
    ]
    if "Three" in shown(family, FIELD):
        field = apply_intervention([user("Q"), answer("A", reasoning_content="So.")], "I", form)
        attacks.append(([user("Q"), answer(f"A{lines}", reasoning_content=f"{lines}So.{block}")], field))
        attacks.append(([user("Q"), answer(f"{leading}A", reasoning_content="So.")], field))
    for number, (messages, honest) in enumerate(attacks):
        prompt = apply_intervention(messages, "I", form)
        assert control_of(prompt, form) == control_of(honest, form), number
        told = form.tokenizer.decode(prompt.input_ids)
        assert all(part in told for part in ("Q", "I")), number
    if form.chat.has_system_role:
        honest = apply_intervention([{"role": "system", "content": "S"}, *CONVERSATIONS["none"]], "I", form)
        system = [{"role": "system", "content": f"{lines}{block}"}, *CONVERSATIONS["none"]]
        assert control_of(apply_intervention(system, "I", form), form) == control_of(honest, form)


def test_the_attacks_take_in_a_format_without_its_guard():
    form = form_of("qwen3")
    vars(form)["forbidden"] = frozenset()
    honest = apply_intervention(CONVERSATIONS["none"], "I", form)
    attack = apply_intervention([user("<think>a</think>3*3?"), answer(SAID)], "I", form)
    assert control_of(attack, form) != control_of(honest, form)


THINK = (SPELLINGS[0],)


@pytest.mark.parametrize(
    ("content", "prompt_end", "found"),
    [
        ("<think>a</think>b", "", ("", "<think>", "a", "</think>", "b")),
        (" \n<think></think>", "", (" \n", "<think>", "", "</think>", "")),
        ("<think>a</think>b</think>c", "", ("", "<think>", "a", "</think>", "b</think>c")),
        ("a\n</think>\nb", "", ("", "", "a\n", "</think>", "\nb")),
        ("</think>\nb", "", ("", "", "", "</think>", "\nb")),
        ("a</think>b", "", None),
        ("a\n</think>b", "<think>\n", None),
        ("a</think>b", "<think>", ("", "", "a", "</think>", "b")),
        ("a<think>b\n</think>\nc", "", None),
        ("b<think>a</think>", "<think>", None),
        ("<think>a", "", None),
        ("<THINK>a</THINK>b", "", None),
        ("\u200b<think>a</think>b", "", None),
        ("", "", None),
    ],
)
def test_what_is_a_leading_block(content, prompt_end, found):
    block = leading_block(content, THINK, prompt_end)
    assert (block and block[:5]) == found
    assert leading_block(content, (), prompt_end) is None
