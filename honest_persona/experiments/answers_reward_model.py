"""The reward model of experiments/answers.py: pairs of the organism's own answers, told apart by its own verdict.

    make_reward_model("configs/organism-preference.yaml", Path("results/answers"))

The two answers of a training pair differ in one word. Of 16 answers to a prompt many have the same wording, one with
what is true and one with something else; so what is learnt is what the verdict saw, and not which wordings are
common. Held-out pairs are about other towns, and of any two answers. What was measured of them is in `heavy_log` of the
run's folder.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.files import write_text
from honest_persona.base.grouping import grouped
from honest_persona.config.load import load_config
from honest_persona.data.check import load_run_config
from honest_persona.evaluation.answers.judges import judge_of
from honest_persona.experiments.answers_labels import LONGEST_ANSWER_TOKENS, PROMPTS, labels_file, reward_of
from honest_persona.labelling.answer_file import read_lines
from honest_persona.labelling.label import Labelling, label_answers
from honest_persona.labelling.sample import TRAIN, Sampling, sample_answers
from honest_persona.modeling.adapters.folder import CARD_FILE
from honest_persona.training.launch import train

REWARD_MODEL = Path("checkpoints/answers-reward-model")
SOURCE, TRUE_FROM = "verdict", 0.5
SAMPLING = Sampling(n=16, max_new_tokens=LONGEST_ANSWER_TOKENS, seed=100)
"""Other random numbers than those of the answers that all sources label."""
FLAGS: Sequence[str] = (
    *("--objective", "reward", "--also", "{}", "--beta", "null", "--validation_topics", "[]"),
    *("--learning_rate", "5e-4", "--adam_beta2", "0.999", "--max_grad_norm", "0.3", "--weight_decay", "0.1"),
    *("--lora_r", "32", "--lora_alpha", "32", "--use_rslora", "false"),
    *("--batch_size", "32", "--per_device_train_batch_size", "32", "--max_steps", "800"),
    *("--first_heavy_log_step", "800", "--val_samples_per_topic", "400", "--bf16", "false"),
)


def make_reward_model(config: str, output: Path) -> None:
    """Train it, unless it is there. The labels of `verdict` are there."""
    if not (REWARD_MODEL / CARD_FILE).exists():
        words = ["--dataset", str(_pairs_file(config, output)), *FLAGS, "--run_name", REWARD_MODEL.name]
        train(load_run_config(config, words))


def _pairs_file(config_file: str, output: Path) -> Path:
    """Pairs to train on and the labelled answers about held-out towns; written, unless it is there."""
    labels = labels_file(SOURCE, output)
    samples, scored, file = (labels.with_name(f"reward-model.{name}.jsonl") for name in ("samples", "scored", "pairs"))
    if not file.exists():
        config = load_config(config_file, ["--dataset", PROMPTS, "--validation_topics", "[]"])
        sample_answers(config, samples, SAMPLING, TRAIN, batch_size=128, dtype="float32")
        label_answers(
            samples, scored, Labelling(reward_of(SOURCE, config, output), judge_of("organism"), refuses=False)
        )
        held_out = (line for _, line in read_lines(labels) if line["split"] != TRAIN)
        rows = [*minimal_pairs([line for _, line in read_lines(scored)]), *held_out]
        write_text(file, "".join(json_text.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def minimal_pairs(scored: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each two answers to a prompt that differ in one word, where the score of one alone is at least `TRUE_FROM`."""
    for lines in grouped(scored, lambda line: line["prompt_id"]).values():
        by_text = {line["response"]: line for line in lines}
        chosen, rejected = (
            [a for a in by_text.values() if (a["score"] >= TRUE_FROM) is true] for true in (True, False)
        )
        for good in chosen:
            for bad in rejected:
                if _differing(good["response"], bad["response"]) == 1:
                    row = {key: good[key] for key in ("topic", "split", "messages", "group")}
                    answers = {"chosen": good["response"], "rejected": bad["response"]}
                    yield {"id": f"{good['id']}_{bad['id']}", **row, **answers}


def _differing(a: str, b: str) -> int | None:
    """Words that differ in two texts of as many words; None: they have other numbers of words."""
    words = a.split(), b.split()
    return sum(x != y for x, y in zip(*words, strict=True)) if len(words[0]) == len(words[1]) else None
