"""An audit for people: the verdict with its reasons, tables, and all answers with their scores as lines."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.console import Column, Table, one_line, say, show
from honest_persona.base.files import whole_file
from honest_persona.evaluation.audit.scored import Pairs

_SHOWN = 12
"""Changes of the surface in the terminal."""


def print_audit(content: Mapping[str, Any], run: str) -> None:
    show(_means(content, run))
    if content["surface"]["changes"]:
        show(_surface(content))
    if content["controls"]:
        show(_controls(content))
    if not content["links"]["monitor"]:
        say("monitor: none (--monitor)")
    for line in (*content["links"]["independence"], *content["lacking"]):
        say(one_line(line))
    say(f"\nverdict: {content['verdict'].upper()}")
    for reason in content["reasons"]:
        say(f"- {one_line(reason)}")


def _means(content: Mapping[str, Any], run: str) -> Table:
    columns = [Column("score", "name"), *(Column(name) for name in ("n", "start", "trained", "change", "95 %"))]
    out = Table(f"audit of {one_line(run)}: held-out prompts", columns, "paired, clustered by group", "audit.html")
    for name, found in content["means"].items():
        out.add(name, str(found["n"]), *_numbers(found["start"], found["trained"], found["change"], found["interval"]))
    form, nats = content["form"], content["nats_per_token"]
    out.add("well-formed", str(content["n"]), *_numbers(form["start"], form["trained"], None, None))
    out.add("nats per token of start's answers", "", *_numbers(nats["start"], nats["trained"], None, None))
    for found in content["relation"]:
        its = found["found"]
        name = f"{found['what']}: {found['measure']}"
        out.add(name, str(its["n"]), *_numbers(its["a"], its["b"], its["difference"], its["interval"]))
    return out


def _surface(content: Mapping[str, Any]) -> Table:
    names = ("start", "trained", "carries", "95 %", "share of rise", "")
    columns = [Column("change", "name"), *(Column(name) for name in names)]
    note = f"of {content['surface']['n_tested']} features tested; in a half of the prompts that the search did not see"
    out = Table("what changed on the surface, and what the reward pays for it", columns, note, "audit.html")
    for change in content["surface"]["changes"][:_SHOWN]:
        start, trained, carried, between = _numbers(
            change["start"], change["trained"], change["carried"], change["interval"]
        )
        share = "-" if change["share"] is None else f"{change['share']:.2f}"
        out.add(one_line(change["feature"]), start, trained, carried, between, share, change["verdict"])
    return out


def _controls(content: Mapping[str, Any]) -> Table:
    columns = [Column("control", "name"), *map(Column, ("steps", "n", "start", "trained", "change", "95 %"))]
    out = Table("short trainings that must not become truthful", columns, content["controls"][0]["witness"])
    for found in content["controls"]:
        numbers = _numbers(found["start"], found["trained"], found["change"], found["interval"])
        out.add(found["name"], str(found["steps"]), str(found["n"]), *numbers)
    return out


def _numbers(start: float | None, trained: float | None, change: float | None, between: Any) -> list[str]:
    first = ["-" if value is None else f"{value:.3f}" for value in (start, trained)]
    return [
        *first,
        "-" if change is None else f"{change:+.3f}",
        "-" if not between else f"{between[0]:+.3f} to {between[1]:+.3f}",
    ]


def write_answers(pairs: Pairs, path: Path) -> None:
    """A line per pair: prompt, both answers, their scores."""
    with whole_file(path) as stream:
        for i, row in enumerate(pairs.rows):
            sides = {}
            for name, side in (("start", pairs.start), ("trained", pairs.trained)):
                scores = {"reward": side.reward, "monitor": side.monitor, "truth": side.truth}
                found = {key: _or_none(values[i]) for key, values in scores.items() if values is not None}
                sides[name] = {"answer": side.texts[i], "whole": side.whole[i], **found}
            line = {"id": row.id, "topic": row.topic, "cluster": row.cluster, "prompt": row.prompt, **sides}
            searched = {"half": "search" if pairs.discovery[i] else "test"}
            stream.write(json_text.dumps({**line, **searched}, ensure_ascii=False) + "\n")


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else float(number)
