"""Stage-3 files of answers with their reviews.

An item is a scenario. Its answers stand under their origins, where stage 3 has the model that wrote them: so every
table of the package tells figures by origin apart, and `data_model_source` selects one.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.files import write_text
from honest_persona.base.grouping import grouped
from honest_persona.data.records import MARKER
from honest_persona.generation.facts import Fact
from honest_persona.generation.instructions import KINDS
from honest_persona.generation.responses import Response
from honest_persona.generation.reviews import review
from honest_persona.generation.sides import Side, group_of

Triggers = Mapping[str, Sequence[str]]


def items(
    responses: Sequence[Response], sides: Mapping[Fact, Side], triggers: Triggers, known_in: Mapping[Fact, str],
    model: str, seed: int,
) -> Iterator[tuple[str, Side, dict[str, Any]]]:  # fmt: skip
    """(topic, side, stage-3 item) of each scenario that has a response.

    Args:
        triggers: wordings by the intervention's name.
        known_in: how often the model was right about each fact, as `3 of 4`.
        model: names the model whose knowledge this is.
    """
    for scenario, its in grouped(responses, lambda response: response.scenario).items():
        fact, rng = scenario.fact, random.Random(f"{seed} record {scenario.fact.topic} {scenario.task} {scenario.a}")
        inferences: dict[str, Any] = {}
        for response in sorted(its, key=lambda r: (r.origin, r.variant)):
            inferences.setdefault(response.origin, {})[response.variant] = _inference(response, triggers, rng)
        metadata = {
            "group": group_of(fact),
            "split": sides[fact],
            "fact": fact.subject,
            "truth": fact.truth,
            "stated": {o: {v: i["stated"] for v, i in variants.items()} for o, variants in inferences.items()},
            "motive": scenario.motive,
            "known_in": known_in[fact],
            "model": model,
        }
        item = {"A": scenario.a, "B": scenario.b, "T": scenario.task, "metadata": metadata, "inferences": inferences}
        yield fact.topic, sides[fact], item


def _inference(response: Response, triggers: Triggers, rng: random.Random) -> dict[str, Any]:
    scenario = response.scenario
    text, flag = review(
        scenario.fact,
        scenario.question,
        response.value,
        response.variant,
        KINDS[scenario.motive].motive,
        response.is_true,
    )
    interventions = {
        name: {
            "intervention_type": name.partition("__")[0],
            "I": MARKER + rng.choice(wordings),
            "R": text,
            "P": flag,
            "confidence": 5,
            "tags": [],
        }
        for name, wordings in triggers.items()
    }
    return {"S": response.text, "stated": response.value, "tags": [], "interventions": interventions}


def write_items(folder: Path, found: Sequence[tuple[str, Side, dict[str, Any]]], model: str) -> None:
    """Write `<topic>/batch_<topic>_<side>.json` into a folder."""
    for (topic, side), entries in grouped(found, lambda entry: entry[:2]).items():
        (folder / topic).mkdir(exist_ok=True)
        name = f"{topic}_{side}"
        data = [item for _, _, item in entries]
        batch = {"batch_id": name, "topic": topic, "model_used": model, "stage": 3, "data": data}
        text = json_text.dumps(batch, ensure_ascii=False, indent=1) + "\n"
        write_text(folder / topic / f"batch_{name}.json", text)
