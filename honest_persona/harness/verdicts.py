"""What may be claimed of a model whose responses were compared with the base model's."""

from collections.abc import Sequence

from honest_persona.base.words import AdapterScope
from honest_persona.harness.responses import Comparison

MERGED = "merged"
"""The compared model's name where the adapter's weights are added to the base model's."""
_CHANCE = "A difference within two standard errors may be chance, and is no proof that nothing changed."


def verdict(found: Sequence[Comparison], scope: AdapterScope) -> str:
    """What may be claimed of one model: "unchanged" only where every response is equal."""
    model, tasks = found[0].model, [c for c in found if not c.tasks]
    n, changed, called = (sum(getattr(c, name) for c in tasks) for name in ("n", "n_changed", "n_called"))
    unchanged = f"{model}: unchanged: all responses to {n} documents are the base model's, bit for bit."
    said = f"{model}: changed: {changed} of {n} documents have a response that is not the base model's."
    if scope == "response" and model != MERGED:
        return " ".join([said if changed else unchanged, *_where_it_acts(tasks)])
    if not changed:
        return unchanged
    if model == MERGED and scope == "response":
        return f"{said} Merged weights act on the prompt's tokens too, on which the adapter was not trained. {_CHANCE}"
    if scope == "all":
        return f"{said} That is expected: with adapter_scope all the adapter acts on every token. {_CHANCE}"
    return (
        f"{said} {called} of them hold the tokens that call the adapter, so that it acts. In the other "
        f"{changed - called} it should have been off: if there are any, do not rely on its gate."
    )


def _where_it_acts(tasks: Sequence[Comparison]) -> list[str]:
    """Sentences on an adapter that acts from the beginning of an answer on: which documents have none."""
    silent = [c for c in tasks if c.n_uncalled]
    astray = sum(c.n_changed - c.n_called for c in tasks)
    if not silent:
        return [f"The adapter acts on the answer, as in training. {_CHANCE}"]
    names = ", ".join(c.task for c in silent)
    said = [
        f"The adapter acts on the answer, as in training, but {sum(c.n_uncalled for c in silent)} documents show no "
        f"beginning of an answer, and there it is off ({names}): text without a turn in it, or a longer prompt than "
        f"the model takes. {_CHANCE}"
    ]
    if astray:
        said.append(f"{astray} of these are changed nevertheless: do not rely on its gate.")
    return said
