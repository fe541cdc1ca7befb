"""Two models' responses to the same lm-eval tasks, compared document by document."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from honest_persona.base.console import Column, Table, show, sign
from honest_persona.base.grouping import grouped
from honest_persona.base.words import AdapterScope

Results = Mapping[str, Any]
"""What `lm_eval.simple_evaluate` returns."""

Document = Mapping[str, Any]
"""One of its samples: a document with its requests, the responses, and its score in each metric."""


@dataclass(frozen=True)
class Metric:
    """One metric of a task, for the base model and for the model compared with it."""

    name: str
    """As lm-eval calls it; its filter behind a comma, where it has one."""
    base: float
    base_stderr: float | None
    compared: float
    compared_stderr: float | None
    difference: float
    """compared - base"""
    paired_stderr: float | None
    """Of `difference`, from the differences per document; None for a metric that is no mean over documents."""


@dataclass(frozen=True)
class Comparison:
    """One task's responses: the base model's, and those of the model named here."""

    model: str
    task: str
    n: int
    """Documents."""
    n_changed: int
    """Documents with a response that is not exactly the base model's."""
    n_called: int
    """Changed documents whose text holds the tokens that call the adapter."""
    max_difference_nats: float | None
    """The largest change of a log-likelihood; None for a task that generates text."""
    metrics: list[Metric]


def compare(model: str, base: Results, compared: Results, calls_adapter: Callable[[str], bool]) -> list[Comparison]:
    """The comparison of each task.

    Args:
        model: the name of the compared model.
        calls_adapter: whether a text holds the tokens that call the adapter; asked about changed documents alone.
    """
    return [_compare_task(model, task, base, compared, calls_adapter) for task in base["samples"]]


def _compare_task(
    model: str, task: str, base: Results, compared: Results, calls_adapter: Callable[[str], bool]
) -> Comparison:
    # lm-eval lists each document once per filter; a filter is a way of reading the responses
    a, b = (grouped(of["samples"][task], lambda document: document["filter"]) for of in (base, compared))
    every_a, every_b = next(iter(a.values())), next(iter(b.values()))  # every filter has the same responses
    changed = [x for x, y in zip(every_a, every_b, strict=True) if x["resps"] != y["resps"]]
    pairs = zip(_log_likelihoods(every_a), _log_likelihoods(every_b), strict=True)
    return Comparison(
        model=model,
        task=task,
        n=len(every_a),
        n_changed=len(changed),
        n_called=sum(any(map(calls_adapter, _texts(document))) for document in changed),
        max_difference_nats=max((abs(y - x) for x, y in pairs), default=None),
        metrics=[
            _metric(f"{name},{key}", base["results"][task], compared["results"][task], a[key], b[key])
            for key, documents in a.items()
            for name in documents[0]["metrics"]
        ],
    )


def _log_likelihoods(documents: Iterable[Document]) -> list[float]:
    """A response is (log-likelihood, whether greedy), a log-likelihood, or a text."""
    responses = [response for document in documents for request in document["resps"] for response in request]
    numbers = [response[0] if isinstance(response, tuple) else response for response in responses]
    return [number for number in numbers if isinstance(number, float)]


def _texts(document: Document) -> list[str]:
    """What the model read for each request: context and continuation."""
    return ["".join(part for part in request if isinstance(part, str)) for request in document["arguments"]]


def _metric(key: str, base: Results, compared: Results, a: Sequence[Document], b: Sequence[Document]) -> Metric:
    """`key`: the metric's name and its filter, as they stand in lm-eval's results of the task."""
    name, _, reading = key.partition(",")
    scores = [[document[name] for document in side] for side in (a, b)]
    stderr = None
    if len(a) > 1 and _is_mean(base[key], scores[0]) and _is_mean(compared[key], scores[1]):
        stderr = statistics.stdev(y - x for x, y in zip(*scores, strict=True)) / math.sqrt(len(a))
    return Metric(
        name=name if reading == "none" else key,
        base=base[key],
        base_stderr=_number(base[f"{name}_stderr,{reading}"]),
        compared=compared[key],
        compared_stderr=_number(compared[f"{name}_stderr,{reading}"]),
        difference=compared[key] - base[key],
        paired_stderr=stderr,
    )


def _is_mean(value: float, scores: Sequence[Any]) -> bool:
    return all(isinstance(s, int | float) for s in scores) and math.isclose(value, statistics.fmean(scores))


def _number(value: Any) -> float | None:
    """lm-eval writes N/A where it has no standard error."""
    return value if isinstance(value, float) else None


def verdict(found: Sequence[Comparison], scope: AdapterScope) -> str:
    """What may be claimed of one model: "unchanged" only where every response is equal."""
    model = found[0].model
    n, changed, called = (sum(getattr(c, name) for c in found) for name in ("n", "n_changed", "n_called"))
    if not changed:
        return f"{model}: unchanged: all responses to {n} documents are the base model's, bit for bit."
    said = f"{model}: changed: {changed} of {n} documents have a response that is not the base model's."
    if scope == "all":
        return (
            f"{said} That is expected: with adapter_scope all the adapter acts on every token. A difference within two "
            "standard errors may be chance, and is no proof that nothing changed."
        )
    return (
        f"{said} {called} of them hold the tokens that call the adapter, so that it acts. In the other "
        f"{changed - called} it should have been off: if there are any, do not rely on its gate."
    )


def print_table(found: Sequence[Comparison], title: str) -> None:
    """A line per compared model, task and metric."""
    out = Table(
        title,
        [
            Column("task", "name"),
            Column("metric", "name"),
            Column("compared", "name"),
            Column("n"),
            Column("base"),
            Column("its score"),
            Column("difference"),
            Column("same responses", tier=1),
            Column("largest change (nats)", tier=2),
        ],
        "± standard error; that of the difference is paired by document. It is 0 where no document's score changed: "
        "then fewer than 3/n of all documents' scores change (95 %)",
        "the JSON file",
    )
    for c in found:
        for m in c.metrics:
            out.add(
                c.task,
                m.name,
                c.model,
                str(c.n),
                _plus_minus(m.base, m.base_stderr),
                _plus_minus(m.compared, m.compared_stderr),
                _plus_minus(m.difference, m.paired_stderr, "+.3f"),
                f"{c.n - c.n_changed}/{c.n}",
                "-" if c.max_difference_nats is None else f"{c.max_difference_nats:.3g}",
            )
    show(out)


def _plus_minus(value: float, stderr: float | None, form: str = ".3f") -> str:
    return f"{value:{form}}" + (f" {sign('±', '+-')} {stderr:.3f}" if stderr is not None else "")
