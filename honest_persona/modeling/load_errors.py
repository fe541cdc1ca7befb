"""Why a model, its config or its tokenizer cannot be loaded, and what helps: one place for every caller.

    with told("tokenizer", model, revision):
        AutoTokenizer.from_pretrained(...)

What transformers, tokenizers, safetensors and the Hub raise becomes a UserError with the cause and the remedy.
"""

import difflib
import pickle
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx2
import torch
import transformers
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

import honest_persona
from honest_persona.base.errors import UserError

Part = Literal["model", "config", "tokenizer", "quantization", "GGUF"]

_NO_ROOM = re.compile(r"out of memory|can't allocate memory|DefaultCPUAllocator", re.IGNORECASE)
_ATTENTION = re.compile(r"attn_implementation|(flash|flex)[ _-]?att|attention implementation|`kernels`", re.IGNORECASE)
_PACKAGE = Path(honest_persona.__file__).parent
_TOKENIZER_KIND = re.compile(
    r"untagged enum (\w+?)(?:Untagged|Wrapper)?\b|Unknown tokenizer version|Error parsing line"
)


@contextmanager
def told(part: Part, model: str, revision: str | None = None, attention: str | None = None) -> Iterator[None]:
    """Inside, whatever the libraries raise becomes a UserError that says what `model` lacks.

    What this package's own code raises there stays as it is: a fault of ours is not a damaged model.

    Args:
        attention: the attention kernel that was asked for.
    """
    try:
        yield
    except UserError:
        raise
    # the tokenizers library raises Exception itself, and transformers raises all kinds of errors for odd content
    except Exception as error:
        if _is_own(error):
            raise
        raise UserError(f"model: {_reason(part, model, revision, attention, error)}") from error


def _is_own(error: Exception) -> bool:
    """Whether code of this package raised the error, or called a function in a way that the function does not take."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).is_relative_to(_PACKAGE)


def _reason(part: Part, model: str, revision: str | None, attention: str | None, error: Exception) -> str:
    text = str(error).strip()
    return (
        hub_reason(model, revision, error)
        or _of_its_kind(part, model, error, text)
        or _of_the_machine(part, model, attention, error, text)
        or _of_the_files(part, model, error, text)
    )


def hub_reason(name: str, revision: str | None, error: Exception, what: str = "model") -> str | None:
    """Why the Hub does not give what `name` stands for, and what helps; None for errors of another kind.

    Args:
        what: what the name stands for.
    """
    chain = list(_chain(error))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in chain)

    if has(GatedRepoError):
        return f"{name!r} is a gated {what}: {_access(name)}"
    if has(RevisionNotFoundError):
        return f"{name!r} has no branch, tag or commit {revision!r}; check the revision (model_revision of a model)"
    neither = f"{name!r} is neither a folder here nor a{'n' if what[0] in 'aeiou' else ''} {what} of the Hub"
    if has(RepositoryNotFoundError):
        private = "" if get_token() else "; a private one needs HF_TOKEN in env.json"
        return f"{neither}{_like(name)}; check the spelling{private}"
    if has(HFValidationError):
        return f"{neither} (user/name){_like(name)}"
    refusals = {e.response.status_code for e in chain if isinstance(e, HfHubHTTPError)}
    if 401 in refusals:
        token = "does not take HF_TOKEN of env.json" if get_token() else "asks for a token: put HF_TOKEN into env.json"
        return f"the Hub does not give {name!r}: it {token}, or the name is misspelled"
    if 403 in refusals:
        return f"the Hub does not give {name!r} to this machine: {_access(name)}"
    if has(OfflineModeIsEnabled) or (constants.HF_HUB_OFFLINE and has(LocalEntryNotFoundError)):
        return (
            f"{name!r} is neither a folder here nor in the cache of the Hub ({constants.HF_HUB_CACHE}), and the Hub is "
            f"not asked, because HF_HUB_OFFLINE is set{_like(name)}. Check the name, or download the {what} first"
        )
    if has(LocalEntryNotFoundError, httpx2.HTTPError, ConnectionError, TimeoutError):
        first = next((e for e in chain if isinstance(e, httpx2.HTTPError | OSError) and e is not error), error)
        return (
            f"{name!r} is no folder here, and the Hub ({constants.ENDPOINT}) does not answer as it should: "
            f"{_brief(first)}. Check the network, or name the folder of a {what} that was downloaded elsewhere"
        )
    return None


def _access(model: str) -> str:
    if get_token():
        return (
            f"the account of the token in use (HF_TOKEN) has no access yet. Accept its terms at "
            f"{constants.ENDPOINT}/{model}, and check that the token may read gated repositories"
        )
    return f"accept its terms at {constants.ENDPOINT}/{model}, and put HF_TOKEN into env.json"


def _like(model: str) -> str:
    """Folders that the name may have meant."""
    if "://" in model:
        return f"; write {'/'.join(model.rstrip('/').split('/')[3:5])} without the address"
    path = Path(model).expanduser()
    if path.is_file():
        return f"; it is a file: name its folder, {path.parent}"
    parent = path.parent
    if not parent.is_dir() or path.exists():
        return ""
    near = difflib.get_close_matches(path.name, sorted(p.name for p in parent.iterdir() if p.is_dir()), n=1)
    return f"; there is a folder {parent / near[0]}" if near else ""


def _of_the_machine(part: Part, model: str, attention: str | None, error: Exception, text: str) -> str | None:
    """A package, a GPU or memory is lacking."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or _NO_ROOM.search(text):
        return (
            f"{model!r} does not fit into memory: {_brief(error)}. Take a smaller model, load_in_4bit: true, or "
            "ZeRO-3 over several GPUs (deepspeed: ds_configs/zero3.json)"
        )
    if attention is not None and (attention.casefold() in text.casefold() or _ATTENTION.search(text)):
        return (
            f"the model of {model!r} cannot be loaded with attn_implementation: {attention} ({_brief(error)}). "
            "Leave attn_implementation out, or take sdpa or eager"
        )
    if part == "quantization":
        package = "Install the package that is named, or take" if isinstance(error, ImportError) else "Take"
        return (
            f"{model!r} is quantized in a way that cannot be loaded here: {_brief(error)}. {package} the original "
            "model, without quantization_config"
        )
    if isinstance(error, ImportError) or "pip install" in text:
        return f"the {part} of {model!r} needs a package that is not installed: {_brief(error)}"
    return None


def _of_its_kind(part: Part, model: str, error: Exception, text: str) -> str | None:
    """It is a model of another kind, or for another version of transformers."""
    version = transformers.__version__
    if "trust_remote_code" in text:
        return (
            f"the {part} of {model!r} comes with code of its own (auto_map), and this package never runs such code. "
            "Take a model whose architecture transformers has, or a copy without auto_map"
        )
    if unknown := re.search(r"has model type `(.*?)` but Transformers does not recognize", text):
        return (
            f"{model!r} has the model_type {unknown[1]!r}, which transformers {version} does not know. Install a newer "
            "transformers (pip install -U transformers), or correct model_type in config.json"
        )
    if "Should have a `model_type` key" in text:
        return f"config.json of {model!r} is absent or names no model_type; take a whole copy{_gguf(model)}"
    if "Unrecognized configuration class" in text or ("no attribute 'vocab_size'" in text and part == "config"):
        kind = re.search(r"\.configuration_(\w+)\.|'(\w+?)Config'", text)
        return (
            f"{model!r} ({next(filter(None, kind.groups())) if kind else 'its kind'}) is no causal language model (one "
            f"that writes text, token after token) of transformers {version}; take a chat model"
        )
    return None


def _of_the_files(part: Part, model: str, error: Exception, text: str) -> str:
    """The files are damaged, absent, or of another version."""
    version = transformers.__version__
    if part == "GGUF":
        return (
            f"{model!r} cannot be converted: {_brief(error)}. transformers {version} does not read every GGUF file: "
            "take the model's repository with safetensors, or a newer transformers"
        )
    if isinstance(error, pickle.UnpicklingError):
        return (
            f"the weights of {model!r} are a pickle that holds more than weights, which could run code. Take a model "
            "with safetensors"
        )
    if "does not appear to have" in text or "no file named" in text:
        return f"{model!r} lacks a file: {_brief(error)}. Take a whole copy{_gguf(model)}"
    if part == "tokenizer" and (kind := _TOKENIZER_KIND.search(text)):
        what = f"of an unknown kind of {kind[1].lower()}" if kind[1] else f"not readable ({_brief(error)})"
        return (
            f"the tokenizer of {model!r} is {what}: its file was written by a newer version of tokenizers, or is "
            "damaged. Install a newer transformers and tokenizers, or download the file again"
        )
    if part == "tokenizer":
        reason = "it has none that can be read" if "backend tokenizer" in text else _brief(error)
        return (
            f"the tokenizer of {model!r} cannot be loaded: {reason}. A file of it (tokenizer.json, "
            "tokenizer_config.json, chat_template.jinja) is absent, damaged or of another version; download it again"
        )
    if "size mismatch" in text or "ignore_mismatched_sizes" in text:
        return (
            f"the weights of {model!r} have other shapes than its config.json says: files of two models are mixed, or "
            "config.json was changed. Take a whole copy"
        )
    if isinstance(error, SafetensorError | EOFError) or "PytorchStreamReader" in text:
        return f"the weights of {model!r} are damaged: {_brief(error)}. Download them again"
    return (
        f"the {part} of {model!r} cannot be loaded: {_brief(error)}. A value of its config.json is not one that "
        f"transformers {version} takes, or a file of it is damaged; take a whole copy, or install a newer transformers"
    )


def _gguf(model: str) -> str:
    """What to do where the name speaks of the format of llama.cpp: the repo may hold files of it alone."""
    if "gguf" not in model.lower() or Path(model).exists():
        return ""
    return (
        f". If it holds files in GGUF alone, download one (`hf download {model} FILE.gguf --local-dir .`) and name it: "
        "`model: FILE.gguf`"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _brief(error: BaseException) -> str:
    """The error's first line, and the second where the first one announces it alone."""
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    text = ": ".join(lines[: 2 if lines and "alidation error" in lines[0] else 1])
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__} {text}".strip()
