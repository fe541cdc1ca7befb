"""A model that cannot be loaded is told with its cause and a remedy, before its weights are read."""

import re
import shutil

import pytest
import torch

import honest_persona.modeling.load as load
from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.modeling.builtin import tiny_tokenizer
from honest_persona.modeling.load_errors import told
from honest_persona.modeling.token_format import token_format
from tests.modeling.damaged import DAMAGE, edit, pickled, sharded
from tests.tiny import base_model


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    base_model("qwen3").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(_made, tmp_path):
    return shutil.copytree(_made, tmp_path / "model")


def read(folder):
    """What a run asks of a model before it reads the data."""
    load.check_loadable(str(folder))
    return token_format(load_config(None, ["--model", str(folder)]))


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_wrong_with_a_folder(folder, name, monkeypatch):
    damage, expected = DAMAGE[name]
    read(folder)  # negative control: it is sound
    damage(folder)
    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights are read"))
    with pytest.raises(UserError, match=expected) as caught:
        read(folder)
    message = str(caught.value)
    assert message.startswith("model: ")
    assert str(folder) in message
    assert "HF_TOKEN" not in message, "no folder needs one"
    assert len(message) < 500
    assert "\n" not in message


@pytest.mark.parametrize("kind", [pickled, sharded], ids=["a pickle", "several files"])
def test_whole_weights_of_other_kinds_are_taken(folder, kind):
    kind(lambda _: None)(folder)
    read(folder)
    found = load.load_base(str(folder), dtype=torch.float32).state_dict()
    assert all(torch.equal(weight, found[name]) for name, weight in base_model("qwen3").state_dict().items())


def test_weights_of_another_shape(folder):
    edit(folder, hidden_size=64)
    with pytest.raises(UserError, match=r"weights of .* have other shapes than its config\.json says"):
        load.load_base(str(folder))


def test_what_only_shows_when_the_model_is_made(folder):
    edit(folder, num_attention_heads=0)
    with pytest.raises(UserError, match=r"model of .* cannot be loaded: .* A value of its config\.json"):
        load.load_base(str(folder))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("./nowhere", "'./nowhere' is neither a folder here nor a model of the Hub (user/name)"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "write Qwen/Qwen3-8B without the address"),
        ("a/b/c", "neither a folder here nor a model of the Hub (user/name)"),
        ("nobody/has-this-model", "nor in the cache of the Hub"),
    ],
)
def test_a_name_of_no_model(model, expected):
    with pytest.raises(UserError, match=re.escape(expected)):
        read(model)


def test_a_mistyped_folder_and_a_file(folder, tmp_path):
    with pytest.raises(UserError, match=rf"there is a folder {re.escape(str(folder))}"):
        read(f"{tmp_path}/modle")
    with pytest.raises(UserError, match=rf"it is a file: name its folder, {re.escape(str(folder))}"):
        read(folder / "config.json")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            r"does not fit into memory: CUDA",
        ),
        (MemoryError(), r"does not fit into memory: MemoryError"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), r"does not fit into memory"),
        (
            ImportError("FlashAttention2 has been toggled on, but it cannot be used"),
            r"attn_implementation: flash.* Leave",
        ),
        (ImportError("`kernels` is not installed"), r"attn_implementation: flash"),
        (ValueError("must be divisible by num_attention_heads"), r"A value of its config\.json is not one that"),
        (ImportError("this needs `pip install timm`"), r"needs a package that is not installed: this needs"),
        (ImportError(), r"needs a package that is not installed: ImportError"),
        (KeyError("magic"), r"cannot be loaded: KeyError 'magic'"),
    ],
)
def test_other_reasons(error, expected):
    with pytest.raises(UserError, match=expected), told("model", "some/model", attention="flash_attention_2"):
        raise error


def test_a_users_error_stays_as_it_is():
    with pytest.raises(UserError, match=r"^as it is$"), told("model", "some/model"):
        raise UserError("as it is")


def test_a_fault_of_this_package_is_not_told_as_a_damaged_model(folder, monkeypatch):
    load.load_base(str(folder))
    monkeypatch.setattr(load, "auto_class", lambda: None)
    with pytest.raises(TypeError, match="takes 0 positional arguments"):
        load.load_base(str(folder))


def test_a_repo_that_may_hold_gguf_alone(tmp_path):
    error = OSError("user/m-GGUF does not appear to have a file named config.json.")
    expected = "download one (`hf download user/m-GGUF FILE.gguf --local-dir .`) and name it: `model: FILE.gguf`"
    with pytest.raises(UserError, match=re.escape(expected)), told("config", "user/m-GGUF"):
        raise error
    (tmp_path / "m-gguf").mkdir()
    with pytest.raises(UserError, match=r"Take a whole copy$"), told("config", str(tmp_path / "m-gguf")):
        raise error
