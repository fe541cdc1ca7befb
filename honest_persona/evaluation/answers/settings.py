"""How answers are written and measured: the values that travel together from a run's config to each batch."""

from dataclasses import dataclass
from typing import Any

from honest_persona.evaluation.answers.judgement import Judge
from honest_persona.evaluation.settings import EvalSettings


@dataclass(frozen=True)
class AnswerSettings(EvalSettings):
    """As of reviews; `batch_size` counts prompts, `max_new_tokens` is the longest answer."""

    temperature: float = 1.0
    """0 takes the likeliest token."""
    seed: int = 0
    """Of the random numbers. An answer gets numbers of its own, by the seed and its prompt's ids."""
    against_base: bool = True
    """Whether margins are differences to the base model's; False takes the model's own log-probabilities alone."""
    with_base: bool = False
    """Whether the base model, without the adapter, is measured too, with the same random numbers."""

    def about(self, judge: Judge | None) -> dict[str, Any]:
        """For `about` in results.json: how answers were written, and what their figures are taken against."""
        return {
            "judge": None if judge is None else judge.name,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "margin_against": "the base model" if self.against_base else "nothing: log-probabilities alone",
        }
