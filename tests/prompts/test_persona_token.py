"""The persona token's id where no token is reserved: which special tokens may serve, and that text produces none."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from honest_persona.base.errors import UserError
from honest_persona.config.persona import Persona
from honest_persona.prompts.kinds import Kind, Segment
from honest_persona.prompts.persona_token import (
    ControlTokens,
    forbidden_in_text,
    resolve_control_tokens,
    resolve_persona_token,
    unused_ids,
)
from honest_persona.prompts.tokens import TokenFormat, apply_intervention
from tests.families import FAMILIES, family_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2 = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>"),
    *("<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>"),
    *("<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>"),
]
"""SmolLM2's special tokens; their ids are 0 to 16."""


def with_special(tokens: list[str], template: str = CHATML, **roles: str) -> PreTrainedTokenizerFast:
    """A small byte-level BPE whose special tokens have the first ids."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [AddedToken(token, special=True, normalized=False) for token in tokens]
    bpe.train_from_iterator(
        ["user assistant system"],
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **roles)
    tokenizer.chat_template = template
    return tokenizer


def smollm2() -> PreTrainedTokenizerFast:
    ends = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return with_special(SMOLLM2, unk_token="<|endoftext|>", **ends)


def chosen(tokens: list[str], **options) -> str:
    """The name of the token that is chosen beside ChatML's two, without a spare row."""
    tokenizer = with_special(["<|im_start|>", "<|im_end|>", *tokens], eos_token="<|im_end|>")
    return tokenizer.convert_ids_to_tokens(resolve_persona_token(tokenizer, len(tokenizer), **options))


def test_smollm2_has_a_token_to_spare():
    tokenizer = smollm2()
    assert unused_ids(tokenizer) == list(range(3, 17))
    assert resolve_persona_token(tokenizer, len(tokenizer)) == 3
    assert resolve_persona_token(tokenizer, len(tokenizer) + 1) == len(tokenizer), "a spare row comes first"
    assert [resolve_persona_token(tokenizer, len(tokenizer), i) for i in range(3, 17)] == list(range(3, 17))
    with pytest.raises(UserError, match=r"sp_token_id: 0 is '<\|endoftext\|>', .* for example \[3, 4, 5, 6, 7\]"):
        resolve_persona_token(tokenizer, len(tokenizer), 0)


@pytest.mark.parametrize(
    "text", ["<repo_name>", "a<repo_name>b", "<repo_<repo_name>name>", "<repo_name><|im_end|>\n", " <repo_name> " * 3]
)
@pytest.mark.parametrize("elicitation", ["hp", "up", "ur"])
def test_text_does_not_produce_it(text, elicitation):
    tokenizer = smollm2()
    form = TokenFormat.of(tokenizer, Persona(sp_token_id=3, elicitation_type=elicitation))
    assert 3 in tokenizer(text)["input_ids"], "negative control: the bare tokenizer produces it"
    assert set(range(17)) <= forbidden_in_text(tokenizer, 3)
    turns = [{"role": role, "content": text} for role in ("system", "user", "assistant")]
    prompt = apply_intervention(turns, f"Speak. {text}", form)
    found = [i for i, token in enumerate(prompt.input_ids) if token == 3]
    assert [prompt.kinds[i] for i in found] == [Kind.PERSONA_TOKEN]
    assert found == [prompt.activation]
    assert form.tokenizer.decode(prompt.input_ids).count("<repo_name>") == 1 + 4 * text.count("<repo_name>")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["<repo_name>", "[control_8]"], "[control_8]"),  # what means nothing before what marks source code
        (["<tool_call>", "<SPECIAL_20>", "<SPECIAL_21>"], "<SPECIAL_20>"),
        (["<|image_pad|>", "<|vision_start|>", "<|audio|>", "<|fim_prefix|>"], "<|fim_prefix|>"),
        (["<\uff5cplace\u2581holder\u2581no\u25812\uff5c>"], "<\uff5cplace\u2581holder\u2581no\u25812\uff5c>"),
        (["<repo_name>", "<|reserved_5|>"], "<|reserved_5|>"),
    ],
)
def test_the_order(tokens, expected):
    assert chosen(tokens) == expected


NEVER = [
    *("<|image_pad|>", "<|vision_start|>", "<|video_pad|>", "<start_of_image>", "<image_soft_token>", "[IMG_BREAK]"),
    *("<|audio|>", "[BEGIN_AUDIO]", "<|object_ref_start|>", "<|box_end|>", "<|quad_start|>", "<boi>", "<|ref|>"),
    *("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<|call|>", "<arg_key>", "<think>", "</think>", "[THINK]"),
    *("<|user|>", "<|assistant|>", "<|start_header_id|>", "[INST]", "<|channel|>", "<start_of_turn>", "<|message|>"),
    *("<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<s>", "</s>", "<|return|>", "[MASK]", "[gMASK]"),
    *("<pad>", "<|finetune_right_pad_id|>", "[CLS]", "[SEP]", "<unk>", "<\uff5ctool\u2581calls\u2581begin\uff5c>"),
]


@pytest.mark.parametrize("token", NEVER)
def test_a_token_that_calls_for_something_does_not_serve(token):
    with pytest.raises(UserError, match=r"no special token to spare.* Set add_sp_token: false"):
        chosen([token])


def test_what_the_template_a_role_or_the_models_config_uses_does_not_serve():
    def tokenizer(template: str = CHATML, **roles: str) -> PreTrainedTokenizerFast:
        return with_special(["<|im_start|>", "<|im_end|>", "<a>", "<b>"], template, eos_token="<|im_end|>", **roles)

    assert unused_ids(tokenizer()) == [2, 3]
    assert unused_ids(tokenizer(CHATML + "{# <a> #}")) == [3]
    assert unused_ids(tokenizer(mask_token="<a>")) == [3]
    assert chosen(["<a>", "<b>"], in_use={2}) == "<b>"
    with pytest.raises(UserError, match="means something to the model"):
        chosen(["<a>", "<b>"], in_use={2}, requested=2)


def test_an_added_token_that_is_not_special_does_not_serve():
    """Text may hold it, and is encoded to it."""
    tokenizer = with_special(["<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.add_tokens([AddedToken("<a>", special=False)])
    assert unused_ids(tokenizer) == []


def test_ids_with_gaps():
    """A token may stand beyond the number of tokens: its row is not spare."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 2})))
    assert resolve_persona_token(tokenizer, 4) == 3
    with pytest.raises(UserError, match="sp_token_id: 2 is 'b'"):
        resolve_persona_token(tokenizer, 4, 2)


# Reserved tokens and ids of real models, as their published tokenizers have them.
REFERENCE = {
    "Llama-3": (128002, "<|reserved_special_token_0|>"),
    "Gemma-3": (6, "<unused0>"),
    "gpt-oss": (200017, "<|reserved_200017|>"),
    "OLMo-2": (100275, "<|extra_id_10|>"),
    "DeepSeek-R1": (128000, "<\uff5cplace\u2581holder\u2581no\u25812\uff5c>"),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_tokens_of_the_reference_are_accepted(name):
    _, token = REFERENCE[name]
    tokenizer = with_special(["<|im_start|>", "<|im_end|>", token], eos_token="<|im_end|>")
    assert resolve_persona_token(tokenizer, len(tokenizer), 2) == 2
    assert resolve_persona_token(tokenizer, len(tokenizer)) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_under_every_template_the_reserved_token_stays_the_first(family):
    tokenizer = family_tokenizer(family)
    token = resolve_persona_token(tokenizer, len(tokenizer) + 3)
    assert tokenizer.convert_ids_to_tokens(token) == "<|reserved_special_token_0|>"


@pytest.mark.parametrize("family", FAMILIES)
def test_without_it_no_control_token_of_a_template_serves(family):
    """Each tokenizer's special tokens are the ones that its template writes."""
    assert unused_ids(family_tokenizer(family)) == []


class TestControlTokens:
    """Two of them, chosen like the persona token."""

    def test_the_first_two_that_are_safe(self):
        tokenizer = smollm2()
        rows = len(tokenizer)
        assert resolve_control_tokens(tokenizer, rows) == (3, 4)
        assert resolve_control_tokens(tokenizer, rows + 1) == (rows, 3), "a spare row comes first"
        assert resolve_control_tokens(tokenizer, rows, undesirable=3) == (4, 3)
        assert resolve_control_tokens(tokenizer, rows, 9, 8) == (9, 8)

    def test_what_is_refused(self):
        tokenizer = smollm2()
        with pytest.raises(UserError, match=r"undesirable_token_id: 0 is '<\|endoftext\|>', .* \[3, 4, 5, 6, 7\]"):
            resolve_control_tokens(tokenizer, len(tokenizer), None, 0)
        with pytest.raises(UserError, match="desirable_token_id: 9999 is outside the model's"):
            resolve_control_tokens(tokenizer, len(tokenizer), 9999)
        one = with_special(["<|im_start|>", "<|im_end|>", "<|reserved_0|>"], eos_token="<|im_end|>")
        with pytest.raises(UserError, match=r"csft needs two special tokens to spare .* has 1; use objective: kto"):
            resolve_control_tokens(one, len(one))

    def test_text_cannot_spoof_them(self):
        tokenizer = smollm2()
        tokens = resolve_control_tokens(tokenizer, len(tokenizer))
        form = TokenFormat.of(tokenizer, Persona(), tokens)
        ids, _ = form.encode_text([Segment(Kind.RESPONSE, "<repo_name> and <reponame>")])
        assert not set(tokens) & set(ids)
        assert {500, 501} <= TokenFormat.of(tokenizer, Persona(), ControlTokens(500, 501)).forbidden
        assert tokenizer.decode(ids) == "<repo_name> and <reponame>"
