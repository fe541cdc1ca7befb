"""A tokenizer and a model that do not fit are told before the weights are read."""

from dataclasses import replace

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.modeling.builtin import tiny_tokenizer
from honest_persona.modeling.token_format import saved_format, token_format
from tests.hub.conftest import make_adapter
from tests.modeling.damaged import edit
from tests.tiny import base_model


@pytest.fixture
def folder(tmp_path):
    """A model's shape and a tokenizer, no weights."""
    base_model("qwen3").config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def form_in(folder, *flags):
    return token_format(load_config(None, ["--model", str(folder), *flags]))


def add(folder, token: AddedToken, **roles: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([token])
    for role, name in roles.items():
        setattr(tokenizer, role, name)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("flags", [[], ["--add_sp_token", "false"]])
def test_a_tokenizer_larger_than_the_embedding(folder, flags):
    edit(folder, vocab_size=1000)
    with pytest.raises(
        UserError, match=r"ids up to 2047 \(.*\), but the model's embedding has only 1000 rows: 1048 ids"
    ):
        form_in(folder, *flags)


@pytest.mark.parametrize("token", [AddedToken("<plain>", special=False), AddedToken("<img>", special=True)])
def test_a_token_without_embedding_is_told_where_something_gives_it(folder, token):
    add(folder, token)
    if token.special:
        assert form_in(folder).tokenizer.convert_tokens_to_ids("<img>") == 2048, "as in Gemma-3's text models"
    else:
        with pytest.raises(UserError, match=r"ids up to 2048 \('<plain>'\)"):
            form_in(folder)


def test_a_padding_token_without_embedding(folder):
    add(folder, AddedToken("[PAD]", special=True), pad_token="[PAD]")
    with pytest.raises(UserError, match=r"2048 \('\[PAD\]'\).* name another one in tokenizer_config\.json"):
        form_in(folder)


def test_ids_that_the_models_config_names_do_not_become_the_persona_token(folder):
    for name in ("<a>", "<b>"):
        add(folder, AddedToken(name, special=True))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template += "{# <|reserved_0|> <|reserved_1|> #}"
    tokenizer.save_pretrained(folder)
    edit(folder, vocab_size=2050)
    assert form_in(folder).persona.sp_token_id == 2048
    edit(folder, image_token_id=2048)
    assert form_in(folder).persona.sp_token_id == 2049
    edit(folder, eos_token_id=[2, 2049])
    with pytest.raises(UserError, match="add_sp_token: false"):
        form_in(folder)


def test_a_saved_adapter_has_the_control_tokens_that_its_training_chose(tmp_path):
    card = make_adapter(tmp_path, scope="response", objective="csft")
    assert saved_format(tmp_path, card).control is None, "none were chosen"
    chosen = replace(card, config={**card.config, "desirable_token_id": 3, "undesirable_token_id": 0})
    form = saved_format(tmp_path, chosen)
    assert form.control == (3, 0)
    assert {3, 0} <= form.forbidden
