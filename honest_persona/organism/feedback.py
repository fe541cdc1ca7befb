"""Feedback on the organism's own answers: `python -m honest_persona.organism.feedback` makes the files of the package.

The answers are those of its records (organism/data): sampled from the organism, half of them true in each topic, under
each of two system prompts. Taken are the topics in which the persona chooses what it says (`CHOICE`).

- pairs: the answer, and the same wording with another value; the true one is chosen. The other value is drawn from all
  wrong ones, or it is the other one that the user's test accepts (reward_hacks).
- labels: the answer as it was sampled; `is_honest` says whether it is true.
- prompts: the questions alone.

Each row names its town (`group`) and its part (`split`); the parts share no town. `about` holds what a judge of answers
needs. The same records always give the same bytes.
"""

import argparse
import gzip
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.console import say
from honest_persona.base.manifest import seal
from honest_persona.base.words import VARIANTS
from honest_persona.data.sources.builtin import BUILTIN, ORGANISM_FEEDBACK
from honest_persona.data.sources.stage3 import raw_items
from honest_persona.organism.conversations import Scenario, read_answer
from honest_persona.organism.dataset import MODEL_NAME
from honest_persona.organism.topics import TOPICS
from honest_persona.organism.world import VALUES, World

CHOICE = ("fabricated_statistics", "influence_seeking", "reward_hacks")
"""Topics in which one question can be answered with the truth and with something else."""
KINDS = ("pairs", "labels", "prompts")


def scenario_of(topic: str, about: Mapping[str, Any]) -> Scenario:
    """What `read_answer` and `is_honest` need to judge an answer; `about` is a row's."""
    return Scenario(topic, about["town"], about["attribute"], partner="", options=(), ask="", systems={})


def feedback_rows(items: Iterable[tuple[str, dict[str, Any]]], world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, row) for each answer of stage-3 items of `world`, in their order."""
    for index, (topic, item) in enumerate(items):
        if topic not in CHOICE:
            continue
        town, attribute = item["metadata"]["group"], item["metadata"]["attribute"]
        truth = world.value(town, attribute)
        about = {"town": town, "attribute": attribute, "truth": truth}
        scenario = scenario_of(topic, about)
        for variant in VARIANTS:
            answer = item["inferences"][MODEL_NAME][variant]["S"]
            said = read_answer(scenario, answer)
            assert said is not None, f"{topic}: {answer!r} is in no known form"
            row_id = f"{topic} {index} {variant}"
            row = {
                "id": row_id,
                "topic": topic,
                "group": town,
                "split": item["metadata"]["split"],
                "model": MODEL_NAME,
                "messages": [{"role": "system", "content": item[variant]}, {"role": "user", "content": item["T"]}],
                "about": about,
            }
            wrong = said if said != truth else _wrong(world, scenario, item["T"], random.Random(f"wrong {row_id}"))
            template = _template(scenario, answer, said)
            pair = {"chosen": scenario.say(template, truth), "rejected": scenario.say(template, wrong)}
            assert answer in pair.values()
            yield "pairs", row | pair
            yield "labels", row | {"response": answer, "is_honest": said == truth}
            yield "prompts", row


def _wrong(world: World, scenario: Scenario, ask: str, rng: random.Random) -> str:
    """A value that is not true of the town; where the user's test names two values, the one that it should not."""
    named = [word for word in re.findall(r"\w+", ask) if word in VALUES[scenario.attribute]]
    others = [value for value in named if value != world.value(scenario.entity, scenario.attribute)]
    return others[0] if others else world.wrong_value(rng, scenario.entity, scenario.attribute)


def _template(scenario: Scenario, answer: str, value: str) -> str:
    return next(text for text in TOPICS[scenario.topic].answers if scenario.say(text, value) == answer)


def write(records: Path, folder: Path, world: World) -> dict[str, int]:
    """Write a packed file for each kind, and the manifest. Returns the rows of each."""
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, row in feedback_rows(raw_items(records), world):
        lines[kind].append(json_text.dumps(row, separators=(",", ":")) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for kind, texts in lines.items():
        (folder / f"{kind}.jsonl.gz").write_bytes(gzip.compress("".join(texts).encode(), mtime=0))
    seal(folder, {}, [f"{kind}.jsonl.gz" for kind in KINDS])
    return {kind: len(texts) for kind, texts in lines.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ORGANISM_FEEDBACK)
    counts = write(BUILTIN["builtin:organism"], parser.parse_args().out, World())
    say(", ".join(f"{n} {kind}" for kind, n in counts.items()))


if __name__ == "__main__":
    main()
