"""How records are reviewed: the values that travel together from a run's config to each batch of reviews."""

from dataclasses import dataclass

from honest_persona.modeling.prefix.cache import PrefixCache


@dataclass(frozen=True)
class EvalSettings:
    """The same for every part and every detector of an evaluation."""

    batch_size: int
    """Conversations per batch on each rank."""
    max_new_tokens: int
    """The longest review."""
    seq_len: int | None = None
    """The longest prompt plus review in tokens; records that are longer are left out, and counted."""
    frozen_prefix: bool = True
    """Run each transcript of a batch once, where the model allows it."""
    gather: bool | None = None
    """Whether weights that ZeRO-3 shards are gathered for the evaluation; None gathers where they fit (zero.py)."""
    prefix_cache: PrefixCache | None = None
    """Keeps transcripts' keys and values for the next evaluation of the same records."""
