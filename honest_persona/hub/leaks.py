"""A search for secrets in the files to upload: access keys, and the values of this machine's secrets.

check_secrets(Path("staged"), env_files=[Path("env.json")])
"""

import html
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from honest_persona.base import json_text
from honest_persona.base.environment import SHORTEST_SECRET, is_secret_name, is_secret_value
from honest_persona.base.errors import UserError

_SECRETS = {
    "a Hugging Face token": re.compile(r"(?<![A-Za-z0-9])(?:hf_|api_org_)[A-Za-z0-9]{16,}"),
    "a wandb key": re.compile(
        r"(?i)(?:wandb|key|token|secret|password)\w*[\"']?\s*[:=]\s*[\"']?[0-9a-f]{40}(?:[0-9a-f]{46})?(?![0-9a-z])"
        r"|(?<![a-z0-9])wandb_v\d_\w{16,}"
    ),
    "an AWS access key": re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


OF_ADAPTER = "the adapter's folder (the README is made from the other files)"


def check_secrets(folder: Path, env_files: Iterable[Path] = (), source: str = OF_ADAPTER) -> None:
    """Search every file of `folder` for access keys and for the values of this machine's secrets.

    Args:
        env_files: env.json files whose secrets are looked for, beside those of the process's environment.
        source: where a secret is to be removed, for the message.

    Raises:
        UserError: a secret was found; the message names file and kind, never the value.
    """
    values = {name: value for name, value in _secrets_here(env_files) if len(value) >= SHORTEST_SECRET}
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        text = _text_of(path)
        kinds = [kind for kind, pattern in _SECRETS.items() if pattern.search(text)]
        kinds += [f"the value of {name}" for name, value in values.items() if value in text]
        if not kinds and is_secret_value(text):
            kinds = ["something like an access key"]
        found += [f"{path.relative_to(folder).as_posix()}: {kind}" for kind in kinds]
    if found:
        raise UserError(
            "these files would publish a secret:\n" + "\n".join(found) + f"\nNothing was uploaded. Remove it from "
            f"{source}; if it was ever shared, revoke it"
        )


def _secrets_here(env_files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if is_secret_name(name):
            yield name, value
    for path in env_files:
        if path.is_file():
            # like load_environment, for any folder and without its checks: unknown names count too
            try:
                content = json_text.loads(path.read_text(encoding="utf-8-sig"))
            except ValueError:
                raise UserError(f"{path}: not valid JSON, so its secrets cannot be looked for; mend it") from None
            for name, value in content.items() if isinstance(content, dict) else ():
                if is_secret_name(name):
                    yield name, str(value)


def _text_of(path: Path) -> str:
    """A file's text; for weights, the metadata."""
    if path.suffix != ".safetensors":
        text = path.read_bytes().decode("utf-8", errors="replace")
        # as it is shown too: model_card.py escapes text of the data, and a key has its marks in the same places
        return f"{text}\n{html.unescape(text).replace(chr(92), '')}" if path.suffix == ".md" else text
    try:
        with safe_open(path, "pt") as file:
            return json_text.dumps(file.metadata())
    except SafetensorError as error:
        raise UserError(f"{path.name} is no whole safetensors file: {error}; save the adapter again") from error
