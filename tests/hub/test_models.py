"""A base model of the Hub: what is told where the Hub does not give it."""

import pytest
from huggingface_hub.errors import GatedRepoError

import honest_persona.modeling.load as load
from honest_persona.base.errors import UserError
from honest_persona.modeling.builtin import tiny_tokenizer
from tests.hub.loopback import RESET
from tests.tiny import base_model


@pytest.fixture
def model(hub, tmp_path):
    """On the Hub, as `user/model`."""
    base_model("qwen3").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    hub.create("user/model", **{path.name: path.read_bytes() for path in tmp_path.iterdir()})
    return "user/model"


def test_it_is_loaded(hub, model):
    assert load.load_model_config(model).model_type == "qwen3"
    assert load.load_tokenizer(model).chat_template == tiny_tokenizer().chat_template


LOADERS = ("load_model_config", "load_tokenizer", "load_base")


@pytest.mark.parametrize("name", LOADERS)
def test_no_such_model_or_revision(model, name):
    with pytest.raises(
        UserError, match=r"'user/modle' is neither a folder here nor a model of the Hub; check the spell"
    ):
        getattr(load, name)("user/modle")
    with pytest.raises(UserError, match=r"'user/model' has no branch, tag or commit 'v9'; check .*model_revision"):
        getattr(load, name)(model, "v9")


def test_without_a_token_or_with_a_wrong_one(model, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(UserError, match=r"does not take HF_TOKEN of env\.json, or the name is misspelled"):
        load.load_model_config(model)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"asks for a token: put HF_TOKEN into env\.json, or the name is misspelled"):
        load.load_model_config(model)


@pytest.mark.parametrize("name", LOADERS)
def test_a_hub_that_is_not_well(hub, model, name):
    hub.fail(".*", RESET)
    with pytest.raises(UserError, match=r"the Hub \(http.*\) does not answer as it should: .*Check the network"):
        getattr(load, name)(model)


@pytest.mark.parametrize("token", [True, False])
def test_a_gated_model(hub, model, monkeypatch, token):
    if not token:
        monkeypatch.delenv("HF_TOKEN")
    response = type("Response", (), {"status_code": 403, "headers": {}, "request": None, "text": ""})()

    def fail(*_, **__):
        raise OSError("You are trying to access a gated repo.") from GatedRepoError("gated", response=response)

    monkeypatch.setattr(load.AutoConfig, "from_pretrained", fail)
    remedy = "the account of the token in use" if token else r"accept its terms at .*/user/model, and put HF_TOKEN"
    with pytest.raises(UserError, match=rf"'user/model' is a gated model: {remedy}"):
        load.load_model_config(model)
