"""Is the main persona unchanged? Greedy answers with the adapter loaded and idle, beside those of the base model.

Nothing in these conversations calls the adapter. In scope `persona` it is then idle, and each answer must be the base
model's, letter for letter. In scope `all` it acts on every token, unless it is switched off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from honest_persona.data.messages import Message
from honest_persona.data.records import Record
from honest_persona.data.splits import uniform
from honest_persona.modeling.adapters.tuning import adapter_off
from honest_persona.modeling.modes import evaluating
from honest_persona.organism.dataset import generate
from honest_persona.persona.product import HonestPersona
from honest_persona.prompts.tokens import open_answer

MAX_NEW_TOKENS = 24


@dataclass(frozen=True)
class Unchanged:
    n: int
    """Prompts: system prompts with their questions."""
    n_changed: int
    max_new_tokens: int
    first: tuple[str, str] | None
    """The base model's answer and the other one, where they differ for the first time."""

    def __str__(self) -> str:
        if not self.n_changed:
            return f"all {self.n} greedy answers with the adapter idle are the base model's, letter for letter"
        return f"{self.n_changed} of {self.n} greedy answers with the adapter loaded are not the base model's"


def compare_answers(persona: HonestPersona, records: Sequence[Record], n: int, seed: int, batch_size: int) -> Unchanged:
    """Answer up to `n` of the records' prompts twice, with the adapter idle and switched off; seeded choice."""
    form: Any = persona.form
    by_prompt = {(r.system, r.task): r for r in sorted(records, key=lambda r: uniform(seed, "unchanged", r.id))}
    chosen = list(by_prompt.values())[:n]
    answer: Message = {"role": "assistant", "content": ""}
    prompts = [open_answer([*record.messages()[:-1], answer], form) for record in chosen]

    def answers() -> list[str]:
        model: Any = persona.model
        return generate(model, form.tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS, batch=batch_size)

    with evaluating(persona.model):
        idle = answers()
        with adapter_off(persona.model):
            base = answers()
    changed = [pair for pair in zip(base, idle, strict=True) if pair[0] != pair[1]]
    return Unchanged(len(prompts), len(changed), MAX_NEW_TOKENS, next(iter(changed), None))
