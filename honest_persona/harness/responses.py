"""Two models' responses to the same lm-eval tasks, compared document by document."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from honest_persona.base.console import Column, Table, show, sign
from honest_persona.base.grouping import grouped

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
    n_uncalled: int = 0
    """Documents without these tokens, where they are asked about (`compare`)."""
    tasks: tuple[str, ...] = ()
    """The tasks of a group, whose documents are counted together; empty for a task."""


def compare(
    model: str, base: Results, compared: Results, calls_adapter: Callable[[str], bool], must_call: bool = False
) -> list[Comparison]:
    """The comparison of each task, then of each group whose tasks lm-eval averages.

    Args:
        model: the name of the compared model.
        calls_adapter: whether a text holds the tokens that call the adapter.
        must_call: ask this about all documents and count those without the tokens, not about changed ones alone.
    """
    tasks = {task: _compare_task(model, task, base, compared, calls_adapter, must_call) for task in base["samples"]}
    groups = [
        _compare_group(model, group, [tasks[name] for name in _leaves(group, base)], base, compared)
        for group, figures in base.get("groups", {}).items()
        if any("," in key for key in figures)
    ]
    return [*tasks.values(), *groups]


def _leaves(group: str, results: Results) -> list[str]:
    """The names of a group's tasks, those of groups in it among them."""
    subtasks = results["group_subtasks"]
    return [leaf for name in subtasks[group] for leaf in (_leaves(name, results) if subtasks.get(name) else [name])]


def _compare_group(
    model: str, group: str, members: Sequence[Comparison], base: Results, compared: Results
) -> Comparison:
    names = tuple(member.task for member in members)
    a, b = ([document for name in names for document in of["samples"][name]] for of in (base, compared))
    before, after = base["groups"][group], compared["groups"][group]
    metrics = []
    for key in before:
        name, comma, reading = key.partition(",")
        if comma and not name.endswith("_stderr"):
            sides = ([d for d in side if d["filter"] == reading and name in d] for side in (a, b))
            metrics.append(_metric(key, before, after, *sides))
    differences = [m.max_difference_nats for m in members if m.max_difference_nats is not None]
    return Comparison(
        model=model,
        task=group,
        n=sum(m.n for m in members),
        n_changed=sum(m.n_changed for m in members),
        n_called=sum(m.n_called for m in members),
        max_difference_nats=max(differences, default=None),
        metrics=metrics,
        n_uncalled=sum(m.n_uncalled for m in members),
        tasks=names,
    )


def _compare_task(
    model: str, task: str, base: Results, compared: Results, calls_adapter: Callable[[str], bool], must_call: bool
) -> Comparison:
    # lm-eval lists each document once per filter; a filter is a way of reading the responses
    a, b = (grouped(of["samples"][task], lambda document: document["filter"]) for of in (base, compared))
    every_a, every_b = next(iter(a.values())), next(iter(b.values()))  # every filter has the same responses
    is_changed = [x["resps"] != y["resps"] for x, y in zip(every_a, every_b, strict=True)]
    called = [
        any(map(calls_adapter, _texts(document))) if changed or must_call else None
        for document, changed in zip(every_b, is_changed, strict=True)
    ]
    pairs = zip(_log_likelihoods(every_a), _log_likelihoods(every_b), strict=True)
    return Comparison(
        model=model,
        task=task,
        n=len(every_a),
        n_changed=sum(is_changed),
        n_called=sum(bool(calls) and changed for calls, changed in zip(called, is_changed, strict=True)),
        max_difference_nats=max((abs(y - x) for x, y in pairs), default=None),
        metrics=[
            _metric(f"{name},{key}", base["results"][task], compared["results"][task], a[key], b[key])
            for key, documents in a.items()
            for name in documents[0]["metrics"]
        ],
        n_uncalled=called.count(False) if must_call else 0,
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


def print_table(found: Sequence[Comparison], title: str) -> None:
    """A line per task, metric and compared model; a group that is averaged stands in the place of its tasks."""
    shown = [c for c in found if not any(_stands_for(other, c) for other in found)]
    tasks = list(dict.fromkeys(c.task for c in shown))
    lines = [(tasks.index(c.task), i, c, m) for c in shown for i, m in enumerate(c.metrics)]
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
    for _, _, c, m in sorted(lines, key=lambda line: line[:2]):
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


def _stands_for(group: Comparison, c: Comparison) -> bool:
    """Whether the group's line says what is said of a task, or of a group in it."""
    return group.model == c.model and (c.task in group.tasks or (set(c.tasks) < set(group.tasks) and bool(c.tasks)))


def _plus_minus(value: float, stderr: float | None, form: str = ".3f") -> str:
    return f"{value:{form}}" + (f" {sign('±', '+-')} {stderr:.3f}" if stderr is not None else "")
