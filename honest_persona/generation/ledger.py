"""What was sampled, a line per prompt, so that a killed command loses nothing but the batch that it was at.

Lines are found by their content: model, prompt and settings. So a command with other settings finds what it shares with
the earlier one, and samples the rest.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.progress import Progress
from honest_persona.generation.sampling import Answer, How, Prompt, Sampler

LEDGER_FILE = "ledger.jsonl"
_TORN = b'{"by": '
"""How a line begins that a killed process has left unfinished."""
_Key = tuple[Any, ...]


class Ledger:
    """Answers by model, prompt and settings."""

    def __init__(self, found: dict[_Key, list[Answer]], file: TextIO) -> None:
        self._found, self._file = found, file

    def answers(self, sampler: Sampler, prompts: Sequence[Prompt], how: How, what: str) -> dict[Prompt, list[Answer]]:
        """`how.n` answers to each prompt; those that the ledger lacks are sampled now, and written down.

        Args:
            what: names the work in its progress.
        """
        asked = dict.fromkeys(prompts)
        waiting = [p for p in asked if len(self._found.get(_key(sampler.name, p, how), ())) < how.n]
        with Progress(what, len(asked), "prompts", done=len(asked) - len(waiting), delay_s=1.0) as progress:

            def done(prompt: Prompt, answers: list[Answer]) -> None:
                key = _key(sampler.name, prompt, how)
                self._found[key] = answers
                line = dict(zip(_FIELDS, key, strict=True)) | {"answers": answers}
                self._file.write(json_text.dumps(line, ensure_ascii=False) + "\n")
                self._file.flush()
                progress.advance()

            if waiting:
                sampler.sample(waiting, how, done)
        return {prompt: self._found[_key(sampler.name, prompt, how)][: how.n] for prompt in asked}


_FIELDS = ("by", "system", "task", "begun", "max_new_tokens", "temperature", "seed")


def _key(by: str, prompt: Prompt, how: How) -> _Key:
    return (by, prompt.system, prompt.task, prompt.begun, how.max_new_tokens, how.temperature, how.seed)


@contextmanager
def opened(path: Path) -> Iterator[Ledger]:
    """The ledger in a file, which is made where there is none, and not kept empty. A torn last line is removed.

    Raises:
        UserError: the file holds something else.
    """
    found: dict[_Key, list[Answer]] = {}
    whole_bytes = 0
    if path.exists():
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                if not raw.endswith(b"\n") and (_TORN.startswith(raw) or raw.startswith(_TORN)):
                    break
                key, answers = _read(raw, f"{path}:{number}")
                found[key] = answers
                whole_bytes += len(raw)
        with path.open("ab") as file:
            file.truncate(whole_bytes)
    try:
        with path.open("a", encoding="utf-8", newline="\n") as out:
            yield Ledger(found, out)
    finally:
        if not path.stat().st_size:
            path.unlink()


def _read(raw: bytes, place: str) -> tuple[_Key, list[Answer]]:
    try:
        line = json_text.loads(raw)
        answers = [Answer(text, ended) for text, ended in line["answers"]]
        key = tuple(line[name] for name in _FIELDS)
        sound = all(type(answer.text) is str and type(answer.ended) is bool for answer in answers)
        hash(key)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(f"{place} is no line of sampled answers; remove the line, or name another --output")
    return key, answers
