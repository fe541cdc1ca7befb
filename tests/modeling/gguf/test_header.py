"""What is wrong with a GGUF file is told from its header, before its weights are read."""

import re

import numpy as np
import pytest
from gguf import MODEL_ARCH_NAMES, GGUFEndian, GGUFReader, RopeScalingType

from honest_persona.base import versions
from honest_persona.base.errors import UserError
from honest_persona.modeling.gguf import header
from honest_persona.modeling.gguf.header import architectures, read_header
from tests.modeling.damaged import POINTER
from tests.modeling.gguf.written import set_value, write_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("made") / "tiny.gguf")


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_header(path, "my/model.gguf")
    message = str(caught.value)
    assert message.startswith("model: 'my/model.gguf' ")
    assert len(message) < 500
    assert "\n" not in message
    return message


def test_a_whole_file(whole):
    found = read_header(whole, "m")
    assert found.architecture == "llama"
    assert found.about == {"model": "Tiny", "licence": "mit"}
    weights = 2 * 300 * 64 + 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64) + 64
    assert found.unread == []
    assert found.n_weights == weights  # embedding, output; per layer q, o, k, v, MLP, norms; last norm


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is no GGUF file: it is empty"),
        (b"<html>not found</html>", "it begins with b'<htm', not with b'GGUF'. Download it again"),
        (b"GGML" + bytes(60), "it begins with b'GGML'"),
        (POINTER.encode(), "is a pointer of Git LFS, not the file itself. Run `git lfs pull`"),
        (b"GGUF", "is cut off or damaged"),
        (b"GGUF" + (99).to_bytes(4, "little") + bytes(16), "newer than gguf 0."),
    ],
)
def test_no_gguf_file(tmp_path, content, expected):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    assert expected in refusal(path)


def test_a_file_that_cannot_be_read(tmp_path):
    assert "cannot be read: Is a directory" in refusal(tmp_path)


def test_a_file_cut_off_anywhere(whole, tmp_path):
    raw, path = whole.read_bytes(), tmp_path / "cut.gguf"
    last = max(GGUFReader(whole).tensors, key=lambda tensor: tensor.data_offset)
    end = int(last.data_offset + last.n_bytes)  # behind it there is only padding
    for length in [5, 8, 16, 23, 24, 60, *np.linspace(100, end - 1, 12, dtype=int)]:
        path.write_bytes(raw[:length])
        assert "is cut off or damaged, or newer than gguf" in refusal(path), length
    path.write_bytes(raw[:end])
    read_header(path, "m")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"architecture": "granitehybrid"},
            r"has the architecture 'granitehybrid', which cannot be read .* llama, .* repository with safetensors",
        ),
        ({"architecture": "t5"}, r"the architecture 't5', which cannot be read"),
        ({"add": set_value("general.architecture", None)}, r"names no architecture"),
        ({"add": set_value("general.type", "adapter")}, r"holds no model, but a part of one .*'adapter'"),
        ({"add": lambda w: w.add_uint16("split.count", 3)}, r"one of 3 parts .*`llama-gguf-split --merge`"),
        ({"tokenizer": False}, r"holds no tokenizer \(tokenizer\.ggml\.tokens\)"),
        ({"template": False}, r"holds no chat template .* base model.* \(-Instruct, -Chat, -it\)"),
        ({"without": ""}, r"holds no weights, but a vocabulary alone"),
        (
            {"add": lambda w: w.add_rope_scaling_type(RopeScalingType.YARN)},
            r"scales its positions \(yarn\), which transformers does",
        ),
    ],
)
def test_a_file_that_is_no_chat_model_here(tmp_path, options, expected):
    assert re.search(expected, refusal(write_gguf(tmp_path / "x.gguf", **options)))


@pytest.mark.parametrize("name", ["rope_factors_long.weight", "rope_freqs.weight"])
def test_positions_that_are_scaled_in_a_way_that_is_not_read(tmp_path, name):
    def add(writer):
        writer.add_tensor(name, np.ones(8, dtype=np.float32))

    path = write_gguf(tmp_path / "x.gguf", architecture="qwen2", add=add)
    assert f"scales its positions ({name}), which transformers does not read" in refusal(path)


def test_a_format_of_weights_that_is_not_read(whole, tmp_path, monkeypatch):
    def dequantize(data, kind):
        raise NotImplementedError

    monkeypatch.setattr("gguf.dequantize", dequantize)
    assert "holds weights in the format F32, which gguf 0." in refusal(whole)


def test_the_other_byte_order(whole, tmp_path):
    path = write_gguf(tmp_path / "x.gguf", endianess=GGUFEndian.BIG)
    assert "is written for machines with the other byte order" in refusal(path)


def test_values_that_transformers_does_not_read(tmp_path):
    def add(writer):
        writer.add_sliding_window(2047)
        writer.add_key_length(16)

    path = write_gguf(tmp_path / "x.gguf", add=add)
    assert read_header(path, "m").unread == ["llama.attention.sliding_window"]


def test_a_missing_package(whole, monkeypatch):
    monkeypatch.setattr(header, "find_spec", lambda _: None)
    assert refusal(whole).endswith("is not installed. Run: pip install 'honest-persona[gguf]'")


def test_an_old_package(whole, monkeypatch):
    monkeypatch.setattr(versions, "requires", lambda _: ["gguf>=0.19,<1; extra == 'gguf'"])
    read_header(whole, "m")  # negative control: the one that is installed
    monkeypatch.setattr(versions, "version", lambda _: "0.10.0")
    with pytest.raises(UserError, match=r"gguf 0\.10\.0 is installed(.|\n)*pip install 'gguf>=0\.19,<1'"):
        read_header(whole, "m")


def test_architectures_have_the_names_of_gguf():
    assert {"llama", "qwen2moe", "gpt-oss", "lfm2"} <= set(architectures())
    assert not {"general", "tokenizer", "t5", "deci"} & set(architectures())
    # transformers' own name: in GGUF such a model is a llama
    assert set(architectures()) - set(MODEL_ARCH_NAMES.values()) == {"mistral"}
