"""The base model and its tokenizer, from the Hub, a folder or the package.

Code that comes with a model or tokenizer is never run, and no prompt offers to run it: every load says
`trust_remote_code=False`, and pickled weights are read without their code.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import set_tqdm_hook

from honest_persona.base.errors import UserError
from honest_persona.base.machine import use_own_cores
from honest_persona.base.number_format import fastest_format
from honest_persona.base.progress import shows_bars, shows_progress
from honest_persona.modeling.builtin import TINY, source_of, tiny_config, tiny_model, tiny_tokenizer

_BAD_FILES = (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError)
"""What transformers raises for files that are missing, are no JSON, or have odd content."""


def get_model(
    model: str,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model, without adapter, and its tokenizer.

    Args:
        dtype: None takes bfloat16 or float32, whichever is faster on this machine (`number_format.fastest_format`).

    Raises:
        UserError: there is no such model, or it is no chat model that generates text.
    """
    dtype = dtype or fastest_format().dtype
    return load_base(model, revision, dtype, attn_implementation), load_tokenizer(model, revision)


def load_tokenizer(model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Raises UserError: no such model, or it brings no tokenizer."""
    source = source_of(model)
    if source == TINY:
        return tiny_tokenizer()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    # the tokenizers library raises Exception itself, and transformers raises all kinds of errors for odd content
    except Exception as error:
        raise _not_loaded("tokenizer", model, error) from error
    tokenizer.name_or_path = model  # the same on every machine, unlike the folder of a shipped model
    return tokenizer


def load_base(
    model: str, revision: str | None = None, dtype: torch.dtype = torch.bfloat16, attn_implementation: str | None = None
) -> PreTrainedModel:
    """Under ZeRO-3 the weights are sharded as they are read. Raises UserError: no such model, or not a causal LM.

    From here on torch uses no more threads than this process has cores (`machine.use_own_cores`).
    """
    use_own_cores()
    choose_kernels()
    source = source_of(model)
    if source == TINY:
        tiny: Any = tiny_model()
        return tiny.to(dtype)
    if attn_implementation is None:
        _check_no_kernel(model, load_model_config(model, revision))
    try:
        auto: Any = AutoModelForCausalLM  # its types do not know `output_loading_info`
        with _bar_of_long_loads():
            base, info = auto.from_pretrained(
                source,
                revision=revision,
                dtype=dtype,
                attn_implementation=attn_implementation,
                output_loading_info=True,
                trust_remote_code=False,
                weights_only=True,
            )
    # ImportError: a missing attention package; TypeError and the like: a config with odd values
    except (*_BAD_FILES, ImportError, SafetensorError, pickle.UnpicklingError) as error:
        raise _not_loaded("model", model, error) from error
    if missing := sorted(info["missing_keys"]):  # transformers would fill them with random numbers
        raise UserError(
            f"model: the files of {model!r} lack {len(missing)} weights, the first is {missing[0]}; "
            "download the model again, or check that it is a causal language model"
        )
    base.config.name_or_path = model
    return base


@contextmanager
def _bar_of_long_loads() -> Iterator[None]:
    """Shows transformers' own bar of a load only where progress is shown, and only for loads that take a while."""

    def bar(make: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return make(
            *args, **{**kwargs, "disable": not (shows_progress() and shows_bars()), "delay": 1.0, "leave": False}
        )

    before = set_tqdm_hook(bar)
    try:
        yield
    finally:
        set_tqdm_hook(before)


def choose_kernels() -> None:
    """Set torch's kernels for the whole process, before a model is loaded. No effect on a CPU."""
    # cuDNN plans its attention for every new shape, and every micro-batch of ragged rows has a new shape. Planning took
    # 0.45 s of the host's time in a training step of 1.7 s, and the GPU waited for half of it (Llama-3-8B's shape,
    # H200). The kernels that torch takes instead do not plan.
    torch.backends.cuda.enable_cudnn_sdp(False)


def load_model_config(model: str, revision: str | None = None) -> PreTrainedConfig:
    """The model's shape; no weights are loaded. Raises UserError: no such model, or not a language model."""
    source = source_of(model)
    if source == TINY:
        return tiny_config()
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        config.get_text_config().vocab_size  # noqa: B018
    except _BAD_FILES as error:  # AttributeError: not a language model
        raise _not_loaded("config", model, error) from error
    return config


def load_skeleton(model: str, revision: str | None = None) -> PreTrainedModel:
    """The model's layers without their weights. Raises UserError: no such model, or not a causal LM."""
    config = load_model_config(model, revision)
    auto: Any = AutoModelForCausalLM  # its types do not know `attn_implementation`
    try:
        with torch.device("meta"):  # eager: the config's own kernel may be one that is not installed
            return auto.from_config(config, attn_implementation="eager", trust_remote_code=False)
    except (*_BAD_FILES, ImportError, RuntimeError) as error:
        raise _not_loaded("model", model, error) from error


def _check_no_kernel(model: str, config: PreTrainedConfig) -> None:
    """Raises UserError: the model's own config asks for an attention kernel of the Hub, which is code, too."""
    kernel = config._attn_implementation or ""
    if "/" in kernel:
        raise UserError(
            f"model: the config of {model!r} asks for the attention kernel {kernel!r}, which is code of its own. If "
            f"you trust that code, name it: attn_implementation: {kernel}; else take attn_implementation: sdpa"
        )


def _not_loaded(part: str, model: str, error: Exception) -> UserError:
    first_line = str(error).strip().partition("\n")[0].rstrip(".")
    if "trust_remote_code" in str(error):
        return UserError(
            f"model: the {part} of {model!r} comes with code of its own (auto_map), and this package never runs such "
            "code. Take a model whose architecture transformers has, or a copy without auto_map"
        )
    if isinstance(error, pickle.UnpicklingError):
        return UserError(
            f"model: the weights of {model!r} are a pickle that holds more than weights, which could run code. Take a "
            "model with safetensors"
        )
    return UserError(
        f"model: the {part} of {model!r} cannot be loaded: {first_line}. "
        "Check the name (a Hub id or a folder), model_revision, and HF_TOKEN in env.json for a gated model"
    )
