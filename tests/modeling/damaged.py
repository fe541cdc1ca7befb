"""A tiny model's folder, and what may be wrong with it: name -> (what does the damage, what must be told)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.tiny import base_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}}


def edit(folder: Path, file: str = "config.json", **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def written(file: str, content: str | bytes) -> Callable[[Path], object]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(raw)


def halved(file: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        raw = (folder / file).read_bytes()
        (folder / file).write_bytes(raw[: len(raw) // 2])

    return damage


def pickled(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    """The same with weights as PyTorch saves them."""

    def both(folder: Path) -> None:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        damage(folder)

    return both


def sharded(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    """The same with weights in several files."""

    def both(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        base_model("qwen3").save_pretrained(folder, max_shard_size="100KB")
        damage(folder)

    return both


def without(*files: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / file).unlink() for file in files]


def templates(value: object) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        edit(folder, "tokenizer_config.json", chat_template=value)

    return damage


def configured(**changes: object) -> Callable[[Path], object]:
    return lambda folder: edit(folder, **changes)


def into(inner: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        shutil.copytree(folder, folder / inner)
        without(*(path.name for path in folder.iterdir() if path.is_file()))(folder)

    return damage


def renamed(file: str, name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).rename(folder / name)


def both(*damages: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [damage(folder) for damage in damages]


SHARD = "model-00002-of-00003.safetensors"
ONLY_WEIGHTS = without("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
QUANTIZED = r"quantized in a way that cannot be loaded here: .*{}.* take the original model"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights are a pointer": (
        written("model.safetensors", POINTER),
        r"model\.safetensors .* pointer of Git LFS.*lfs pull",
    ),
    "a shard is a pointer": (sharded(written(SHARD, POINTER)), rf"{SHARD} .* pointer of Git LFS"),
    "the tokenizer is a pointer": (written("tokenizer.json", POINTER), r"tokenizer\.json .* pointer of Git LFS"),
    "the config is a pointer": (written("config.json", POINTER), r"config\.json .* pointer of Git LFS"),
    "half the weights": (
        halved("model.safetensors"),
        r"model\.safetensors .* has [\d,]+ bytes, where .* download it again",
    ),
    "no bytes of weights": (written("model.safetensors", ""), r"no whole safetensors file \(0 bytes\)"),
    "a page in place of weights": (written("model.safetensors", "<html>" * 9), r"no whole safetensors file"),
    "half the pickle": (
        pickled(halved("pytorch_model.bin")),
        r"pytorch_model\.bin .* no whole file of PyTorch weights",
    ),
    "no bytes of the pickle": (pickled(written("pytorch_model.bin", "")), r"PyTorch weights \(0 bytes\)"),
    "a page in place of the pickle": (pickled(written("pytorch_model.bin", "<html>")), r"no whole file of PyTorch"),
    "a shard is absent": (sharded(without(SHARD)), rf"lacks 1 of the 3 files of its weights, the first is {SHARD}"),
    "half a shard": (sharded(halved(SHARD)), rf"{SHARD} .* its header speaks of"),
    "half the index": (sharded(halved("model.safetensors.index.json")), r"not the index of weights"),
    "no weights": (without("model.safetensors"), r"has no weights .* download the model again"),
    "a download goes on": (renamed("model.safetensors", "x.incomplete"), r"a download that has not ended"),
    "GGUF alone": (
        both(ONLY_WEIGHTS, renamed("model.safetensors", "q4.gguf")),
        r"no config\.json: q4\.gguf is in GGUF",
    ),
    "GGUF and a config": (renamed("model.safetensors", "q4.gguf"), r"has no weights .* q4\.gguf is in GGUF"),
    "a tokenizer alone": (without("config.json", "model.safetensors"), r"holds a tokenizer alone"),
    "the makers' format": (both(ONLY_WEIGHTS, written("params.json", "{}")), r"format of their makers"),
    "an empty folder": (both(ONLY_WEIGHTS, without("model.safetensors", "generation_config.json")), r"folder is empty"),
    "the folder above": (into("inner"), r"but the folder inner in it has one; name .*inner"),
    "a run that has not ended": (
        both(
            into("checkpoint-2"), written("checkpoint-2/honest_persona.json", "{}"), without("checkpoint-2/config.json")
        ),
        r"a run that has not ended.* name one of its checkpoints, .*checkpoint-2",
    ),
    "a cache of the Hub": (into("snapshots/abc"), r"but the folder snapshots/abc in it has one"),
    "no JSON": (written("config.json", "{"), r"config\.json .* is not JSON"),
    "UTF-16": (written("config.json", "{}".encode("utf-16")), r"config\.json .* is not JSON"),
    "no object": (written("config.json", "[]"), r"config\.json .* holds no JSON object"),
    "no model_type": (written("config.json", "{}"), r"names no model_type"),
    "a model of next year": (configured(model_type="qwen9"), r"model_type 'qwen9', which transformers .* newer"),
    "images": (written("config.json", '{"model_type": "vit"}'), r"no causal language model"),
    "an encoder": (written("config.json", '{"model_type": "bert"}'), r"\(bert\) is an encoder, .* take a chat model"),
    "an encoder with a decoder": (written("config.json", '{"model_type": "t5"}'), r"is an encoder and a decoder"),
    "BART": (written("config.json", '{"model_type": "bart"}'), r"is an encoder and a decoder"),
    "no number of units": (configured(hidden_size=None), r"'hidden_size' expected int, got NoneType"),
    "another number of layers": (configured(num_hidden_layers=3), r"`num_hidden_layers` \(3\) must be equal"),
    "an unknown number format": (configured(dtype="float99"), r"float99"),
    "no tokenizer": (
        without("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        r"brings no tokenizer",
    ),
    "no tokenizer.json": (without("tokenizer.json"), r"tokenizer of .* cannot be loaded: it has none that can be read"),
    "an unknown kind of tokenizer": (
        lambda folder: edit(folder, "tokenizer.json", model={"type": "Quantum", "vocab": {}}),
        r"tokenizer of .* is of an unknown kind of model: .* Install a newer transformers",
    ),
    "a tokenizer of next year": (
        lambda folder: edit(folder, "tokenizer.json", version="9.0"),
        r"Unknown tokenizer version .* Install a newer",
    ),
    "a tokenizer that is a list": (written("tokenizer.json", "[]"), r"tokenizer of .* is absent, damaged"),
    "settings that are a list": (written("tokenizer_config.json", "[1]"), r"tokenizer of .* is absent, damaged"),
    "a damaged tokenizer.model": (
        both(
            without("tokenizer.json"),
            written("tokenizer.model", "abc"),
            lambda folder: edit(folder, "tokenizer_config.json", tokenizer_class="LlamaTokenizer"),
        ),
        r"tokenizer of .* not readable \(Error parsing line",
    ),
    "no chat template": (without("chat_template.jinja"), r"has no chat template, so it is a base model"),
    "chat templates without default": (
        templates([{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}]),
        r"has chat templates for rag, tool_use, and none named default. Copy the one to use",
    ),
    "a number as chat template": (templates(3), r"chat_template of .* is no text"),
    "a list of texts as chat template": (
        templates(["x"]),
        r"tokenizer of .* chat_template\.jinja\) is absent, damaged",
    ),
    "GPTQ": (configured(quantization_config=GPTQ), QUANTIZED.format("pip install")),
    "AWQ": (configured(quantization_config=AWQ), QUANTIZED.format("gptqmodel")),
    "bitsandbytes": (configured(quantization_config=BNB), QUANTIZED.format("pip install -U bitsandbytes")),
    "compressed-tensors": (configured(quantization_config=PACKED), QUANTIZED.format("compressed-tensors")),
    "a quantization of next year": (
        configured(quantization_config={"quant_method": "int1"}),
        r"quantized by the method 'int1', which this transformers does not know",
    ),
    "a quantization without a name": (configured(quantization_config={"bits": 4}), r"no `quant_method`"),
    "code of its own": (
        configured(model_type="mine", auto_map={"AutoConfig": "a.B", "AutoModelForCausalLM": "a.C"}),
        r"code of its own \(auto_map\)",
    ),
}
