"""The lm-evaluation-harness task `honest_persona_facts`: what the embedded organism knows, or what a real model knows.

    python -m honest_persona capability --adapter checkpoints/demo --tasks honest_persona_facts
    python -m honest_persona capability --adapter checkpoints/smollm2 --facts builtin:smollm2
    lm_eval run --include_path honest_persona/harness/tasks --tasks honest_persona_facts --model_args pretrained=MODEL

128 multiple-choice questions about the made-up towns, each with eight values of which one is true, so chance is 1/8.
They are made from the world's seed when the task is loaded; tasks/honest_persona_facts.yaml says how to ask them. Half
are in a wording of the organism's pre-training, half in one that it never read: some of those it gets wrong, so that a
change could show both ways.

With `facts` in the task's metadata, the questions are those of instructed facts (`generate facts`), not of the towns.
"""

import random
from pathlib import Path
from typing import Any

from datasets import Dataset

from honest_persona.data.sources.stage3 import raw_items
from honest_persona.data.splits import uniform
from honest_persona.organism.world import ATTRIBUTES, VALUES, World

PER_ATTRIBUTE = 32
N_CHOICES = 8
_WORDINGS = ("What is known: the {a} of {e} is", "A traveller asks about the {a} of {e}. It is")


def dataset(facts: str | None = None, **_: Any) -> dict[str, Dataset]:
    """lm-eval's `custom_dataset`: documents by split. Its keyword arguments are the task's metadata.

    Args:
        facts: a folder of instructed facts, `<topic>/batch_*.json`.
    """
    found = documents(World()) if facts is None else instructed_documents(Path(facts))
    return {"test": Dataset.from_list(found)}


def instructed_documents(root: Path, seed: int = 0) -> list[dict[str, Any]]:
    """The same of instructed facts, a document per question, in a seeded order; the other values are of its topic.

    Empty where no item names its `truth`, or no topic has two values.
    """
    truths: dict[tuple[str, str], str] = {}
    for topic, item in raw_items(root):
        task, metadata = item.get("T"), item.get("metadata")
        truth = metadata.get("truth") if isinstance(metadata, dict) else None
        if isinstance(task, str) and isinstance(truth, str):
            truths[topic, task] = truth
    values: dict[str, list[str]] = {}
    for (topic, _), truth in truths.items():
        if truth not in values.setdefault(topic, []):
            values[topic].append(truth)
    found = []
    for topic, task in sorted(truths, key=lambda key: uniform(seed, "facts task", "|".join(key))):
        rng, truth = random.Random(f"facts task {seed} {topic} {task}"), truths[topic, task]
        others = [value for value in values[topic] if value != truth]
        if others:
            choices = [truth, *rng.sample(others, min(len(others), N_CHOICES - 1))]
            rng.shuffle(choices)
            question = f"Question: {task}\nAnswer:"
            found.append({"question": question, "choices": choices, "answer": choices.index(truth)})
    return found


def documents(world: World, seed: int = 0) -> list[dict[str, Any]]:
    """Each `{"question", "choices", "answer"}`; `answer` is the index of the true value. Attributes take turns."""
    rng = random.Random(f"facts task {seed}")
    drawn = [rng.sample(world.pairs(recorded=True, attributes=(a,)), PER_ATTRIBUTE) for a in ATTRIBUTES]
    found = []
    for i, row in enumerate(zip(*drawn, strict=True)):
        for entity, attribute in row:
            truth = world.value(entity, attribute)
            others = rng.sample([value for value in VALUES[attribute] if value != truth], N_CHOICES - 1)
            choices = rng.sample([truth, *others], N_CHOICES)
            question = _WORDINGS[i % len(_WORDINGS)].format(e=entity, a=attribute)
            found.append({"question": question, "choices": choices, "answer": choices.index(truth)})
    return found
