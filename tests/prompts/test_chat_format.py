"""The scaffold derived from a template is what the template itself writes, for every family that TRL ships."""

import datetime

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.persona import Persona
from honest_persona.prompts.chat_format import FIXED_DATE, ChatFormat
from honest_persona.prompts.segments import prompt_segments
from honest_persona.prompts.tokens import TokenFormat, apply_intervention
from tests.families import FAMILIES, family_tokenizer

PLAIN = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Who jumps?"},
    {"role": "assistant", "content": "The fox jumps."},
]


def own_rendering(tokenizer, messages, tools=None):
    """The template's own text; templates of vision models want contents as parts."""
    template = FIXED_DATE + tokenizer.chat_template
    if tokenizer.name_or_path.startswith(("idefics3", "smolvlm", "llava_next")):
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    return tokenizer.apply_chat_template(messages, tools=tools, chat_template=template, tokenize=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_open_transcript_is_the_templates_own_rendering(family):
    tokenizer = family_tokenizer(family)
    form = TokenFormat.of(tokenizer, Persona(sp_token_id=None, system_tag=""))
    messages = PLAIN if form.chat.has_system_role else PLAIN[1:]
    prompt = apply_intervention(messages, "Speak.", form)
    own = tokenizer(own_rendering(tokenizer, messages), add_special_tokens=False)["input_ids"]
    transcript = prompt.input_ids[: prompt.activation]
    # the template also closes the turn; everything up to there is the same ids
    assert own[: len(transcript)] == transcript
    closing = tokenizer.decode(own[len(transcript) :])
    assert "jumps" not in closing


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("elicitation", ["up", "ur"])
def test_the_following_turns_are_the_templates_own_rendering(family, elicitation):
    tokenizer = family_tokenizer(family)
    chat = ChatFormat(tokenizer)
    messages = PLAIN if chat.has_system_role else PLAIN[1:]
    persona = Persona(elicitation_type=elicitation, system_tag="", intervention_prefix="")
    ours = "".join(s.text for s in prompt_segments(messages, "Speak.", persona, chat))
    more = [{"role": "user", "content": "Speak."}, {"role": "assistant", "content": "xyxy"}]
    own = own_rendering(tokenizer, [*messages, *(more[:1] if elicitation == "up" else more)])
    if elicitation == "up":  # the trigger opens the user turn, and the review stands behind it
        assert ours == own[: own.index("Speak.") + len("Speak.")]
    else:
        assert ours == own[: own.index("xyxy")]


@pytest.mark.parametrize("family", FAMILIES)
def test_turns_end_with_a_control_token(family):
    tokenizer = family_tokenizer(family)
    chat = ChatFormat(tokenizer)
    for role in ("user", "assistant"):
        token = tokenizer.convert_ids_to_tokens(chat.end_token(role))
        assert tokenizer.added_tokens_decoder[chat.end_token(role)].special
        assert token not in ("<|bos|>", "<|pad|>", "<|reserved_special_token_0|>")


def test_known_end_of_turn_tokens():
    ends = {
        "qwen3": ("<|im_end|>", "<|im_end|>"),
        "llama3": ("<|eot_id|>", "<|eot_id|>"),
        "gemma3": ("<end_of_turn>", "<end_of_turn>"),
        "gptoss": ("<|end|>", "<|return|>"),
        "glm4moe": ("<|assistant|>", "<|user|>"),  # GLM closes a turn only by opening the next one
        "deepseekv3": ("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        "phi3": ("<|end|>", "<|end|>"),
    }
    for family, (user, assistant) in ends.items():
        tokenizer = family_tokenizer(family)
        chat = ChatFormat(tokenizer)
        found = tuple(tokenizer.convert_ids_to_tokens(chat.end_token(role)) for role in ("user", "assistant"))
        assert found == (user, assistant), family


def test_prefixes_of_chatml():
    chat = ChatFormat(family_tokenizer("qwen3"))
    assert chat.user_prefix() == "<|im_end|>\n<|im_start|>user\n"
    assert chat.assistant_prefix() == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.mark.parametrize("family", ["llama3_2", "gptoss", "muse_glimmer"])
def test_a_template_that_prints_the_date_renders_the_same_on_every_day(family, monkeypatch):
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 6)

    def transcript():
        scaffold = ChatFormat(family_tokenizer(family)).scaffold(("user", "assistant"))
        return "".join(scaffold.before)

    today = transcript()
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    unfixed = family_tokenizer(family).apply_chat_template(PLAIN[1:], tokenize=False)
    assert "2031" in unfixed, "the negative control: without our date the template shows today's"
    assert transcript() == today
    assert "2024" in today


def test_content_cannot_change_the_scaffold():
    """Qwen3's template drops what stands before `</think>` in an answer; ours shows the answer as it is."""
    tokenizer = family_tokenizer("qwen3")
    chat = ChatFormat(tokenizer)
    messages = [*PLAIN[:2], {"role": "assistant", "content": "hidden</think>shown"}]
    assert "hidden" not in tokenizer.apply_chat_template(messages, tokenize=False).split("</think>")[-1]
    text = "".join(s.text for s in prompt_segments(messages, "Speak.", Persona(), chat))
    assert "hidden</think>shown" in text


def test_white_space_is_stripped_where_the_template_strips_it():
    messages = [{"role": "user", "content": "  hi \n"}, {"role": "assistant", "content": "\n ho \n"}]
    for family, user, assistant in [
        ("llama3", "hi", "ho"),
        ("qwen2_5", "  hi \n", "\n ho \n"),
        ("qwen3", "  hi \n", " ho \n"),  # lstrip('\n') of the last answer only
    ]:
        segments = prompt_segments(messages, "Speak.", Persona(), ChatFormat(family_tokenizer(family)))
        texts = [s.text for s in segments]
        assert user in texts, family
        assert assistant in texts, family


def test_a_template_without_system_role_puts_it_before_the_first_user_turn():
    chat = ChatFormat(family_tokenizer("gemma"))
    assert not chat.has_system_role
    text = "".join(s.text for s in prompt_segments(PLAIN, "Speak.", Persona(), chat))
    assert "<start_of_turn>user\n<SYSTEM> Be kind.<SYSTEM> \n\nWho jumps?<end_of_turn>" in text


def test_errors_name_the_place():
    tokenizer = family_tokenizer("gemma3")
    chat = ChatFormat(tokenizer)
    with pytest.raises(UserError, match="user / user / assistant"):
        prompt_segments([PLAIN[1], PLAIN[1], PLAIN[2]], "Speak.", Persona(), chat)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        ChatFormat(tokenizer)


def test_an_empty_system_prompt_adds_no_message(minimind):
    chat = ChatFormat(minimind)
    with_empty = prompt_segments([{"role": "system", "content": " "}, *PLAIN[1:]], "Speak.", Persona(), chat)
    assert with_empty == prompt_segments(PLAIN[1:], "Speak.", Persona(), chat)
