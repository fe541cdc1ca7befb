"""How answers are written and measured: the values that travel together from a run's config to each batch."""

from dataclasses import dataclass

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
