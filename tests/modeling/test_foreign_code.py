"""Code that comes with a model, a tokenizer or an adapter is never run, and nobody is asked whether it should be."""

import ast
import io
import json
import os
from pathlib import Path

import pytest
import torch

from honest_persona.base.errors import UserError
from honest_persona.modeling import load
from honest_persona.modeling.builtin import tiny_tokenizer
from tests.tiny import base_model

_CODE = """
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
open({canary!r}, "w").close()
class OwnTokenizer(PreTrainedTokenizerFast): ...
class OwnConfig(Qwen3Config): model_type = "own"
class OwnModel(Qwen3ForCausalLM): config_class = OwnConfig
"""
_MODEL = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
_TOKENIZER = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "ran"


@pytest.fixture
def folder(tmp_path, canary, monkeypatch):
    """A model and its tokenizer, beside code; whoever asks is told yes."""
    made = tmp_path / "model"
    base_model("qwen3").save_pretrained(made)
    tiny_tokenizer().save_pretrained(made)
    for name in ("own.py", "custom_generate/generate.py"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(_CODE.format(canary=str(canary)))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    return made


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", ["load_base", "load_model_config", "load_tokenizer"])
def test_code_of_its_own(folder, canary, capfd, name):
    edit(folder / "config.json", auto_map=_MODEL | _TOKENIZER, model_type="own", architectures=["OwnModel"])
    edit(folder / "tokenizer_config.json", auto_map=_TOKENIZER, tokenizer_class="OwnTokenizer")
    with pytest.raises(UserError, match=r"comes with code of its own \(auto_map\), and this package never runs such"):
        getattr(load, name)(str(folder))
    assert not canary.exists()
    assert "[y/N]" not in capfd.readouterr().out, "nobody is asked"


def test_the_payload_works(folder, canary):
    """The negative control: with trust it runs."""
    edit(folder / "config.json", auto_map=_MODEL, model_type="own")
    load.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert canary.exists()


def test_a_custom_generate_function_beside_a_sound_model(folder, canary):
    load.load_base(str(folder))
    assert not canary.exists()


def test_pickled_weights(folder, canary):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle that holds more than weights"):
        load.load_base(str(folder))
    assert not canary.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert canary.exists(), "negative control"


def test_an_attention_kernel_that_the_models_own_config_asks_for(folder):
    edit(folder / "config.json", attn_implementation="someone/kernel")
    with pytest.raises(UserError, match=r"asks for the attention kernel 'someone/kernel', which is code"):
        load.load_base(str(folder))
    assert load.load_base(str(folder), attn_implementation="eager").config._attn_implementation == "eager"


_RUN_NOTHING = ("PeftModel", "LoraConfig")
"""PEFT's own: they read weights and settings, and know no code of others."""


def test_every_load_says_so(root):
    """Also one that is written tomorrow: no `Auto....from_pretrained` of the package may leave the answer open."""
    found = 0
    for path in (root / "honest_persona").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "from_pretrained" and ast.unparse(node.func.value) not in _RUN_NOTHING:
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
                found += 1
    assert found >= 5
