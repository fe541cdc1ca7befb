"""`env.json` -> `os.environ`, and the rules by which secrets are known and hidden.

Call `load_environment()` before torch or deepspeed is imported: both read the variables once, at import.
"""

import json
import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from honest_persona.base.errors import UserError

SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "OPENROUTER_KEY", "OPENAI_API_KEY")
SETTINGS = (
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCHDYNAMO_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_IB_DISABLE",
    "NCCL_SHM_DISABLE",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "TORCH_NCCL_BLOCKING_WAIT",
    "NCCL_DEBUG",
    "CUDA_DEVICE_ORDER",
    "HF_HUB_DISABLE_TELEMETRY",
)
DEFAULTS = {
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "NCCL_DEBUG": "WARN",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Values of variables that neither the environment nor env.json sets; harmless on every machine.

The reference's other values stand in env.example.json and act only when they are copied to env.json, because each can
hurt: CUDA_VISIBLE_DEVICES hides GPUs, NCCL_IB_DISABLE cripples a cluster, TORCH_NCCL_BLOCKING_WAIT removes the overlap
of ZeRO-3, and any value of NCCL_P2P_DISABLE or NCCL_SHM_DISABLE silences checks that accelerate makes for cards without
peer access. The reference's TORCHDYNAMO_DISABLE stands in neither: it silently turns `torch_compile` off.
"""

_SECRET_NAME = re.compile(r"(api_?key|secret|password|passwd|credential|(^|_)token|_key)$", re.IGNORECASE)
# Hugging Face (hf_, api_org_), OpenAI-like (sk-) and wandb (wandb_v1_) keys are known by their prefix anywhere in a
# text; an old wandb key is 40 hex digits, as is a git commit, so it counts only where it is the whole value.
_SECRET_TEXT = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|wandb_v\d_\w{16,})"
    r"|(?<=://)[^/\s:@]+:[^/\s:@]+(?=@)"  # user:password in the address of a proxy or a git remote
)
_OLD_WANDB_KEY = re.compile(r"[0-9a-f]{40}")
_HIDDEN = "***"
SHORTEST_SECRET = 8
"""Characters. A shorter value of a secret variable would be found in ordinary words."""


def is_secret_name(name: str) -> bool:
    """Whether a variable or key of this name holds a secret, as WANDB_API_KEY and hub_token do."""
    return _SECRET_NAME.search(name) is not None


def is_secret_value(text: str) -> bool:
    """Whether the text is or contains something that looks like an access key, or contains a key of this process."""
    ours = (os.environ.get(name, "") for name in SECRETS)
    looks_like_one = _SECRET_TEXT.search(text) or _OLD_WANDB_KEY.fullmatch(text.strip())
    return bool(looks_like_one) or any(len(value) >= SHORTEST_SECRET and value in text for value in ours)


def redact(text: str) -> str:
    """The text with *** in place of the values of this process's secret variables, and of all that looks like a key."""
    values = {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= 4}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, _HIDDEN)
    return _SECRET_TEXT.sub(_HIDDEN, text)


def load_environment(path: str | Path = "env.json", environ: MutableMapping[str, str] | None = None) -> None:
    """Fill the environment from a flat JSON object and from `DEFAULTS`; a variable that is set already keeps its value.

    A missing file is no error, and an empty value ("") leaves its variable unset.

    Raises:
        UserError: malformed JSON, an unknown or repeated name, a value that is neither text nor a number; all problems
            in one message with line numbers, and without values.
    """
    environ = os.environ if environ is None else environ
    for name, value in {**DEFAULTS, **_read(Path(path))}.items():
        environ.setdefault(name, value)


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        # `from None`: the decoder's exception carries the whole file, secrets included.
        raise UserError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({type(error).__name__})") from None
    if not isinstance(pairs, _Pairs):
        raise UserError(f'{path}: must hold one JSON object, as {{"HF_TOKEN": "..."}}; see env.example.json')
    problems = []
    values: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in pairs:
        place = f"{path}:{_line(text, name)}: {name}"
        if name in seen:
            problems.append(f"{place}: is given twice")
        elif name not in SECRETS + SETTINGS:
            problems.append(f"{place}: unknown name; known are {', '.join(SECRETS + SETTINGS)}")
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            problems.append(f'{place}: the value must be text or a number, as "1"')
        elif value != "":
            values[name] = str(value)
        seen.add(name)
    if problems:
        raise UserError(redact("\n".join(problems)))
    return values


class _Pairs(list[tuple[str, object]]):
    """The pairs of a JSON object, repeated names included."""


def _line(text: str, name: str) -> int:
    """The line of the first mention of a name; 1 where the file spells it with escapes."""
    return text[: max(text.find(json.dumps(name)), 0)].count("\n") + 1
