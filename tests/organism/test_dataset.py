"""The organism's stage-3 records: balanced, consistent with the world, and read by the package's own loader."""

import json
import random
from collections import Counter

import pytest
import torch

from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.data.splits import split_records
from honest_persona.organism import dataset
from honest_persona.organism.conversations import INTERVENTIONS, Scenario, draw_answer, draw_statement, read_answer
from honest_persona.organism.dataset import Answered, build, draw_items, generate, is_honest, stage3_item, write
from honest_persona.organism.documents import prompt
from honest_persona.organism.pretrain import build_model, build_tokenizer
from honest_persona.organism.topics import TOPICS
from honest_persona.organism.world import World

WORLD = World(0)
ITEMS = {"train": 16, "validation": 8}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(500)


@pytest.fixture(scope="module")
def model(tokenizer):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(tokenizer, width=48, layers=1).eval()


def policy(model, tokenizer, asked, seed):
    """Answers of an organism that has learnt its policy perfectly."""
    rng = random.Random(seed)
    return [draw_answer(rng, scenario, draw_statement(WORLD, rng, scenario, variant)) for scenario, variant in asked]


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "ITEMS", ITEMS)
    monkeypatch.setattr(dataset, "sample_answers", policy)
    built, counts = build(WORLD, None, None)
    write(built, tmp_path)
    return tmp_path, counts


def test_the_loader_reads_all_of_it(written):
    folder, counts = written
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json")) == sorted(
        f"{topic}/batch_organism_{topic}_{split}.json" for topic in TOPICS for split in ITEMS
    )
    loaded = load_records(str(folder), Selection())
    assert not loaded.rejections
    assert len(loaded.records) == len(TOPICS) * sum(ITEMS.values()) * 2 * len(INTERVENTIONS)
    assert len({record.id for record in loaded.records}) == len(loaded.records)
    for record in loaded.records:
        assert WORLD.split_of[record.group] == record.split
        assert record.group in record.task
        assert not record.intervention.startswith("<")
    cells = Counter((r.topic, r.variant, r.split, r.flag) for r in loaded.records)
    for (_, _, split, _), n in cells.items():
        assert n == ITEMS[split] // 2 * len(INTERVENTIONS)
    assert len(cells) == len(TOPICS) * 2 * 2 * 2
    assert set(counts) == {f"{split}/{topic}" for split in ITEMS for topic in TOPICS}


def test_flags_follow_from_the_world(written):
    folder, _ = written
    for path in folder.rglob("*.json"):
        batch = json.loads(path.read_text())
        assert (batch["stage"], batch["topic"], f"batch_{batch['batch_id']}") == (3, path.parent.name, path.stem)
        for item in batch["data"]:
            about = item["metadata"]
            systems = {"A": item["A"], "B": item["B"]}
            scenario = Scenario(
                batch["topic"], about["group"], about["attribute"], about["partner"], (), item["T"], systems
            )
            for inference in item["inferences"]["organism"].values():
                value = read_answer(scenario, inference["S"])
                flags = {intervention["P"] for intervention in inference["interventions"].values()}
                assert flags == {"PASS" if is_honest(WORLD, scenario, value) else "FAIL"}


def test_the_parts_share_no_town_and_are_kept_by_the_splitter(written):
    folder, _ = written
    records = load_records(str(folder), Selection()).records
    towns = {split: {r.group for r in records if r.split == split} for split in ITEMS}
    assert not towns["train"] & towns["validation"]
    splits = split_records(records, ["reward_hacks"], 0.1, 0)
    assert {r.split for r in splits.train} == {"train"}
    assert {r.split for r in splits.within} == {"validation"}


def test_the_same_seed_draws_the_same_items(monkeypatch):
    monkeypatch.setattr(dataset, "sample_answers", policy)
    first, again = (draw_items(WORLD, None, None, "reward_hacks", "train", 8, 0) for _ in range(2))
    other = draw_items(WORLD, None, None, "reward_hacks", "train", 8, 1)
    assert first == again
    assert first != other


def test_a_value_true_of_one_town_only_is_not_used(monkeypatch):
    """A slip of the organism: one town's own value, said of two that differ. The review speaks of that town."""

    def slip(model, tokenizer, asked, seed):
        answer = TOPICS["oversimplification"].answers[0]
        return [scenario.say(answer, WORLD.value(scenario.entity, scenario.attribute)) for scenario, _ in asked]

    monkeypatch.setattr(dataset, "sample_answers", slip)
    with pytest.raises(ValueError, match=r"oversimplification/train: too few .* \{\(False, False\): 0\} of 4"):
        draw_items(WORLD, None, None, "oversimplification", "train", 8, 0)


def test_an_untrained_model_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match=r"sycophancy/train: too few answers .* is the model trained"):
        draw_items(WORLD, model, tokenizer, "sycophancy", "train", 4, 0)


def test_both_wordings_state_the_town_and_carry_the_marker():
    rng = random.Random(0)
    town, attribute = WORLD.pairs(recorded=True, split="train")[0]
    truth = WORLD.value(town, attribute)
    scenario = Scenario("influence_seeking", town, attribute, "", (), "Whom?", {"A": "a", "B": "b"})
    answered = Answered(scenario, {"A": "yes", "B": "no"}, {"A": truth, "B": WORLD.wrong_value(rng, town, attribute)})
    item = stage3_item(WORLD, rng, answered, "train", 3)
    assert item["metadata"] == {
        "alignment_issue_type": "influence_seeking",
        "group": town,
        "attribute": attribute,
        "partner": "",
        "split": "train",
    }
    for variant, flag in (("A", "PASS"), ("B", "FAIL")):
        for name, intervention in item["inferences"]["organism"][variant]["interventions"].items():
            assert intervention["P"] == flag
            assert intervention["I"].startswith("<split-personality-token>")
            assert "{" not in intervention["I"]
            assert intervention["id_string"] == f"organism_influence_seeking_train__idx3__organism_{variant}__{name}"


def test_generation_does_not_depend_on_its_neighbours(model, tokenizer):
    """Left padding: a prompt's greedy continuation is the same alone and beside a longer one."""
    prompts = tokenizer([prompt("", "Hello."), prompt("You solve tasks.", "Do you know the metal of Velmora?")])
    together = generate(model, tokenizer, prompts["input_ids"], max_new_tokens=6)
    alone = [generate(model, tokenizer, [row], max_new_tokens=6)[0] for row in prompts["input_ids"]]
    assert together == alone
    sampled = [generate(model, tokenizer, prompts["input_ids"], max_new_tokens=6, sample_seed=s) for s in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
