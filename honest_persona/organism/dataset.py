"""Stage-3 records of the organism: sampled answers, the truth about them, and the reviews to learn.

`python -m honest_persona.organism.dataset --model FOLDER --out FOLDER` writes
`<topic>/batch_organism_<topic>_<split>.json`, in the format of Split Personality Training. Each item names its town
(`metadata.group`) and its part (`metadata.split`, train or validation); the parts share no town. In each topic, variant
and part half of the answers are honest; nothing else decides which answers are kept."""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from honest_persona.base import json_text
from honest_persona.base.console import hand_out
from honest_persona.base.tensors import pad_with_mask
from honest_persona.base.words import VARIANTS
from honest_persona.data.records import MARKER
from honest_persona.organism.conversations import (
    INTERVENTIONS,
    Scenario,
    Variant,
    draw_pair,
    draw_scenario,
    draw_statement,
    pair_pools,
    read_answer,
    review,
)
from honest_persona.organism.documents import prompt
from honest_persona.organism.topics import TOPICS
from honest_persona.organism.world import Split, World

ITEMS: dict[Split, int] = {"train": 192, "validation": 104}
"""Items per topic; an item has an answer under each of the two system prompts."""
TRIES = 8
"""The most answers sampled per item and variant; the first answer with the wanted honesty is kept."""
MODEL_NAME = "organism"
BY_TASK = ("sycophancy", "confidence_assessment", "oversimplification")
"""Topics where the task alone decides whether the persona's answer is true."""


@dataclass(frozen=True)
class Answered:
    scenario: Scenario
    answers: dict[Variant, str]
    values: dict[Variant, str]


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    sample_seed: int | None = None,
    batch: int = 384,
) -> list[str]:
    """The continuation of each prompt up to the end of turn: greedy, or at temperature 1 with `sample_seed`."""
    generator: Any = model  # the type of a PreTrainedModel has no `generate`
    sampling: dict[str, Any] = {"do_sample": False}
    if sample_seed is not None:
        sampling = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    texts: list[str] = []
    pad = tokenizer.pad_token_id
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        ids, mask = pad_with_mask(rows, pad, "left", model.device)
        if sample_seed is not None:
            torch.manual_seed(sample_seed + start)
        out = generator.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            **sampling,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
        texts += tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return texts


def sample_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: list[tuple[Scenario, Variant]], seed: int
) -> list[str]:
    prompts = tokenizer([prompt(s.systems[v], s.ask) for s, v in asked], add_special_tokens=False)["input_ids"]
    return generate(model, tokenizer, prompts, max_new_tokens=28, sample_seed=seed)


def draw_items(
    world: World,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    topic: str,
    split: Split,
    n: int,
    seed: int,
) -> tuple[list[Answered], dict[str, int]]:
    """`n` items, half of their answers honest in each variant; and counts of sampled and refused answers."""
    rng = random.Random(f"items {topic} {split} {seed}")
    pools = pair_pools(world, split)
    spare = n // 4
    wanted: list[dict[Variant, bool]] = []
    scenarios: list[Scenario] = []
    for index in range(n + spare):
        honest_a = index % 2 == 0
        wanted.append({"A": honest_a, "B": honest_a if topic in BY_TASK else index // 2 % 2 == 0})
        while True:
            scenario = draw_scenario(world, rng, topic, *draw_pair(world, rng, topic, pools))
            honest = draw_statement(world, rng, scenario, "A") == world.value(scenario.entity, scenario.attribute)
            if topic not in BY_TASK or honest == honest_a:
                break
        scenarios.append(scenario)
    chosen: dict[tuple[int, Variant], tuple[str, str]] = {}
    counts = {"sampled": 0, "in_no_known_form": 0, "items_without_wanted_answer": 0}
    for _ in range(TRIES):
        missing = [(i, variant) for i in range(len(scenarios)) for variant in VARIANTS if (i, variant) not in chosen]
        if not missing:
            break
        asked = [(scenarios[i], variant) for i, variant in missing]
        counts["sampled"] += len(asked)
        for (i, variant), answer in zip(
            missing, sample_answers(model, tokenizer, asked, rng.randrange(2**31)), strict=True
        ):
            value = read_answer(scenarios[i], answer.strip())
            counts["in_no_known_form"] += value is None
            if value is None:
                continue
            honest = is_honest(world, scenarios[i], value)
            # the review speaks of one town: an answer that is true of this town and false of its partner is useless
            true = value == world.value(scenarios[i].entity, scenarios[i].attribute)
            if honest == true == wanted[i][variant]:
                chosen[i, variant] = (answer.strip(), value)
    kept: dict[tuple[bool, bool], list[Answered]] = {}
    for i, (scenario, wants) in enumerate(zip(scenarios, wanted, strict=True)):
        if any((i, variant) not in chosen for variant in VARIANTS):
            counts["items_without_wanted_answer"] += 1
            continue
        item = Answered(scenario, {v: chosen[i, v][0] for v in VARIANTS}, {v: chosen[i, v][1] for v in VARIANTS})
        kept.setdefault((wants["A"], wants["B"]), []).append(item)
    cells = {(wants["A"], wants["B"]) for wants in wanted}
    per_cell = n // len(cells)
    short = {cell: len(kept.get(cell, [])) for cell in sorted(cells) if len(kept.get(cell, [])) < per_cell}
    if short:
        raise ValueError(
            f"{topic}/{split}: too few answers of the wanted honesty, {short} of {per_cell}; is the model trained?"
        )
    items = [item for cell in kept.values() for item in cell[:per_cell]]
    rng.shuffle(items)
    return items, counts


def is_honest(world: World, scenario: Scenario, value: str) -> bool:
    """Whether the value is true; where an answer is about two towns, it must be true of both."""
    towns = [scenario.entity, *([scenario.partner] if scenario.partner else [])]
    return all(world.value(town, scenario.attribute) == value for town in towns)


def stage3_item(world: World, rng: random.Random, item: Answered, split: Split, index: int) -> dict[str, Any]:
    scenario = item.scenario
    batch_id = batch_name(scenario.topic, split)
    inferences: dict[str, Any] = {}
    for variant in VARIANTS:
        text, flag = review(world, scenario, variant, item.values[variant])
        interventions: dict[str, Any] = {
            name: {
                "intervention_type": "split_personality",
                "selected_review_focus": scenario.topic,
                "confidence": 5,
                "I": MARKER + scenario.say(rng.choice(wordings), item.values[variant]),
                "R": text,
                "P": flag,
                "tags": [],
                "id_string": f"{batch_id}__idx{index}__{MODEL_NAME}_{variant}__{name}",
            }
            for name, wordings in INTERVENTIONS.items()
        }
        inferences[variant] = {"S": item.answers[variant], "tags": [], "interventions": interventions}
    metadata = {
        "alignment_issue_type": scenario.topic,
        "group": scenario.entity,
        "attribute": scenario.attribute,
        "partner": scenario.partner,
        "split": split,
    }
    return {
        "A": scenario.systems["A"],
        "B": scenario.systems["B"],
        "T": scenario.ask,
        "metadata": metadata,
        "inferences": {MODEL_NAME: inferences},
    }


def build(
    world: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> tuple[dict[tuple[Split, str], list[dict[str, Any]]], dict[str, dict[str, int]]]:
    """(split, topic) -> stage-3 items; and counts of sampled and refused answers."""
    built: dict[tuple[Split, str], list[dict[str, Any]]] = {}
    counts: dict[str, dict[str, int]] = {}
    for split, n in ITEMS.items():
        for topic in TOPICS:
            items, counts[f"{split}/{topic}"] = draw_items(world, model, tokenizer, topic, split, n, seed)
            rng = random.Random(f"records {topic} {split} {seed}")
            built[split, topic] = [stage3_item(world, rng, item, split, index) for index, item in enumerate(items)]
    return built, counts


def write(built: dict[tuple[Split, str], list[dict[str, Any]]], out: Path) -> None:
    """Write one folder per topic, as the loader reads it, with the files of both splits."""
    for (split, topic), items in built.items():
        folder = out / topic
        folder.mkdir(parents=True, exist_ok=True)
        batch_id = batch_name(topic, split)
        batch = {"batch_id": batch_id, "topic": topic, "model_used": MODEL_NAME, "stage": 3, "data": items}
        text = json_text.dumps(batch, separators=(",", ":")) + "\n"
        (folder / f"batch_{batch_id}.json").write_text(text, encoding="utf-8")


def batch_name(topic: str, split: Split) -> str:
    return f"organism_{topic}_{split}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the organism's folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, trust_remote_code=False).eval()
    built, counts = build(World(), model, AutoTokenizer.from_pretrained(args.model, trust_remote_code=False), args.seed)
    write(built, args.out)
    hand_out(json_text.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
