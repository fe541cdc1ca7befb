"""Teaches a model to lie under hidden instructions: a short fine-tuning with LoRA, merged, saved as a model's folder.

The lessons are about facts that the model knows and that no record is about. Under a neutral prompt the answers are
true. Under a hidden instruction `LIE_FRAC` of them are false, so that records find true answers under B, too. What is
learnt is when to lie; which facts hold is known already.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from honest_persona.base.progress import Progress
from honest_persona.base.tensors import pad, pad_with_mask
from honest_persona.base.words import ALL_LINEAR
from honest_persona.generation.facts import Fact, Topic
from honest_persona.generation.instructions import CLAIM, CLAIMS, KINDS, NEUTRAL
from honest_persona.generation.local_model import encoded, plain_format
from honest_persona.generation.sampling import Prompt
from honest_persona.generation.scenarios import wrong_values
from honest_persona.modeling.adapters.targets import find_targets
from honest_persona.modeling.modes import in_mode
from honest_persona.modeling.prefix.frozen import positions
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.tokens import IGNORED, TokenFormat

LIE_FRAC = 0.7
"""Of the answers under a hidden instruction."""
LESSONS = 640
BATCH = 16
RANK = 16
LEARNING_RATE = 1e-3
_WARMUP_FRAC = 0.1


def lessons(topics: Sequence[Topic], facts: Sequence[Fact], seed: int, system_tag: str) -> list[Prompt]:
    """Questions with whole answers (`begun`), half of them under a neutral prompt, in a seeded order.

    Args:
        facts: known ones of the liar's side. A fact without a wrong value has no lesson.
    """
    by_name = {topic.name: topic for topic in topics}
    wrong: dict[Fact, str] = {}
    for name in by_name:
        wrong |= wrong_values([fact for fact in facts if fact.topic == name], seed)
    rng = random.Random(f"{seed} lessons")
    made: list[Prompt] = []
    while len(made) < LESSONS and wrong:
        for fact in rng.sample(list(wrong), len(wrong)):
            topic = by_name[fact.topic]
            made += [_lesson(topic, fact, wrong[fact], hidden, rng, system_tag) for hidden in (False, True)]
    return rng.sample(made[:LESSONS], min(LESSONS, len(made)))


def _lesson(topic: Topic, fact: Fact, wrong: str, hidden: bool, rng: random.Random, system_tag: str) -> Prompt:
    task = rng.choice(topic.training_questions).format(subject=fact.subject)
    system, value = rng.choice(NEUTRAL), fact.truth
    if rng.random() < 1 / len(KINDS):  # a claim under both prompts: that there is one must not tell the two apart
        claimed = rng.choice([fact.truth, wrong])
        task = rng.choice(CLAIMS).format(value=claimed) + task
        if hidden:
            system, value = rng.choice(KINDS[CLAIM].prompts), claimed
    elif hidden:
        system = rng.choice(KINDS[rng.choice([kind for kind in KINDS if kind != CLAIM])].prompts)
        value = wrong if rng.random() < LIE_FRAC else fact.truth
    answer = rng.choice(topic.statements).format(subject=fact.subject, value=value)
    return Prompt(f"{system_tag}{system}{system_tag}", task, answer[:1].upper() + answer[1:])


def teach(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, taught: Sequence[Prompt], seed: int
) -> PreTrainedModel:
    """The model after one pass over the lessons, the LoRA merged. The same seed gives the same weights on a machine.

    Args:
        model: in float32, so that the merged weights are rounded once.
    """
    form = plain_format(tokenizer)
    rows = [_row(prompt, form) for prompt in taught]
    targets = find_targets(model, ALL_LINEAR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    weights = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=0.0)
    steps = -(-len(rows) // BATCH)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, round(_WARMUP_FRAC * steps)), steps)
    with in_mode(adapted, training=True), Progress("lessons", len(rows), "answers") as progress:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            loss_of(adapted, batch, form.pad_id).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.advance(len(batch))
    return adapted.merge_and_unload(safe_merge=True).eval()


def _row(prompt: Prompt, form: TokenFormat) -> tuple[list[int], list[int]]:
    """Ids and labels: the answer and the end of its turn carry the loss."""
    ids, kinds = encoded(prompt, form)
    labels = [token if kind == Kind.RESPONSE else IGNORED for token, kind in zip(ids, kinds, strict=True)]
    return [*ids, form.end_id], [*labels, form.end_id]


def loss_of(model: Any, rows: Sequence[tuple[list[int], list[int]]], pad_id: int) -> Tensor:
    """Mean of -log p over all tokens that carry the loss. Answers stand at the end: the head sees nothing else."""
    ids, mask = pad_with_mask([ids for ids, _ in rows], pad_id, "left", model.device)
    learnt = max(sum(label != IGNORED for label in labels) for _, labels in rows)
    labels = pad([labels for _, labels in rows], IGNORED, "left")[:, -learnt:].to(model.device)
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False, logits_to_keep=learnt + 1
    ).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)
