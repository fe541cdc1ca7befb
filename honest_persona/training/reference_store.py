"""The reference's log-probabilities, kept for later steps and runs: found again answer by answer.

    store = LogProbStore.of(fingerprint, "float32")
    known = store.read()                                     # {key: (tokens,) float32}
    store.add({store.key(prompt_ids, answer_ids): values})   # one file more

A key names prompt, answer, model and number format. So reordered or extended data find all that was computed before,
and another model finds nothing. Files are written whole or not at all; a torn one is refused.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from honest_persona.base.errors import UserError
from honest_persona.base.files import moved_into
from honest_persona.modeling.gguf.cache import cache_folder

_KEY_BYTES = 32


@dataclass(frozen=True)
class LogProbStore:
    """The log-probabilities under one model in one number format."""

    folder: Path
    model: str
    """Fingerprint of all weights that the log-probabilities depend on."""
    number_format: str

    @classmethod
    def of(cls, model: str, number_format: str) -> "LogProbStore":
        """In the user's cache."""
        name = hashlib.sha256(f"{model} {number_format}".encode()).hexdigest()
        return cls(cache_folder() / "reference_logprobs" / name[:32], model, number_format)

    def key(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> bytes:
        """SHA-256 of prompt, a zero byte, answer, model and number format. Ids are written as decimal numbers, so that
        no other prompt and answer give the same bytes."""
        prompt, answer = (",".join(map(str, ids)) for ids in (prompt_ids, answer_ids))
        return hashlib.sha256(f"{prompt}\0{answer}\0{self.model}\0{self.number_format}".encode()).digest()

    def read(self) -> dict[bytes, np.ndarray]:
        """All that is kept: log-probabilities of an answer's tokens in nats, float32, by key.

        Raises:
            UserError: a file is torn or altered.
        """
        found: dict[bytes, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                found |= self._of(path)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                raise UserError(
                    f"reference_logprobs: {path} is not whole, or was altered ({error}); delete the file, and its "
                    "answers are computed again"
                ) from error
        return found

    def add(self, new: Mapping[bytes, np.ndarray]) -> None:
        """Write one more file. Raises OSError: it cannot be written."""
        if not new:
            return
        values = np.concatenate([np.asarray(row, np.float32) for row in new.values()])
        tensors: dict[str, np.ndarray] = {
            "keys": np.frombuffer(b"".join(new), np.uint8).reshape(-1, _KEY_BYTES),
            "lengths": np.array([len(row) for row in new.values()], np.int64),
            "values": values,
        }
        content = _content(tensors)
        self.folder.mkdir(parents=True, exist_ok=True)
        with moved_into(self.folder / f"{content[:32]}.safetensors") as part:
            save_file(tensors, part, {"content": content})

    def _of(self, path: Path) -> dict[bytes, np.ndarray]:
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in ("keys", "lengths", "values")}
            if (file.metadata() or {}).get("content") != _content(tensors):
                raise ValueError("its numbers are not those that were written")
        rows = np.split(tensors["values"], tensors["lengths"].cumsum()[:-1])
        return dict(zip(map(bytes, tensors["keys"]), rows, strict=True))


def _content(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in ("keys", "lengths", "values"):
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
