"""Reward models: TRL's loss, the same under every layout, resumed, and read by `model:DIR` as they were trained."""

import copy
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForSequenceClassification, LoraModel
from transformers import AutoConfig, AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from honest_persona.base.errors import UserError
from honest_persona.experiments.evaluate_any import evaluate
from honest_persona.hub.push import push
from honest_persona.modeling.adapters import reward_model
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.reward_model import check_classifies, load_reward_model
from honest_persona.modeling.adapters.tuning import HEAD
from honest_persona.modeling.base_model import base_of
from honest_persona.modeling.load import load_base, load_model_config
from honest_persona.objectives.preferred import bradley_terry
from honest_persona.persona.product import load_honest_persona
from honest_persona.prompts.feedback import closing_tokens, conversation_tokens
from honest_persona.rewards.kinds import reward_from
from honest_persona.rewards.reward import Reading
from honest_persona.training.continued import check_continued
from honest_persona.training.reference import reference_identity
from tests.feedback import config_of, feedback_rows, series, trained
from tests.tiny import base_model, form_of


def rows_with_margins(n=16):
    rows = feedback_rows("reward", n).to_list()
    return Dataset.from_list([{**row, "margin": i % 3 / 2 or None} for i, row in enumerate(rows)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of 3 steps with its checkpoints, centred and with margins."""
    folder = tmp_path_factory.mktemp("run")
    run = trained(folder, "reward", rows_with_margins(), std=0.3, save_steps=1, center_rewards_coefficient=0.01)
    run[0].card = replace(run[0].card, config={"objective": "reward"})
    run[0].save_model()
    return folder, *run


@pytest.mark.parametrize("size", [1, 4, 8])
def test_micro_batches_change_no_loss(made, tmp_path, size):
    _, one, gradients = made
    rows = rows_with_margins()
    settings = {"center_rewards_coefficient": 0.01, "per_device_train_batch_size": size}
    other, others = trained(tmp_path, "reward", rows, std=0.3, **settings)
    assert (series(one) - series(other)).abs().max() <= 1e-5
    assert all((gradients[name] - others[name]).abs().max() <= 1e-6 for name in gradients)
    for key in ("reward_margin", "reward_accuracy", "chosen_reward"):
        assert (series(one, key) - series(other, key)).abs().max() <= 1e-5


def test_one_step_has_trls_loss(tmp_path):
    """The same trunk and head, and the batch of TRL's own collator."""
    form, rows = form_of(token=False, adapter_scope="all"), rows_with_margins(8)
    ours, _ = trained(tmp_path / "ours", "reward", rows, 4, 0.3, learning_rate=0.05, center_rewards_coefficient=0.03)
    ours.model.eval()
    batch = ours.data_collator(list(rows))
    ours._n_pairs = torch.tensor(len(rows))
    loss = ours.compute_loss(ours.model, batch)
    trunk = copy.deepcopy(ours.policy).merge_and_unload()
    config = copy.deepcopy(trunk.config)
    config.num_labels, config.pad_token_id = 1, form.pad_id
    classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.model.load_state_dict(trunk.model.state_dict())
    classifier.score.load_state_dict(ours.head.state_dict())
    tokenizer = copy.deepcopy(form.tokenizer)
    text = Dataset.from_list([{"chosen_ids": [1, 2], "rejected_ids": [3, 4]}])
    args = RewardConfig(
        str(tmp_path / "trl"), use_cpu=True, bf16=False, report_to="none", center_rewards_coefficient=0.03
    )
    trls = RewardTrainer(classifier, args=args, processing_class=tokenizer, train_dataset=text)
    closing = closing_tokens(form)
    whole = [
        {f"{which}_ids": [*row["prompt_ids"], *row[f"{which}_ids"], *closing] for which in ("chosen", "rejected")}
        | {"margin": row["margin"] or 0.0}
        for row in rows
    ]
    theirs = trls.compute_loss(classifier.eval(), DataCollatorForPreference(form.pad_id)(whole))
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert abs(loss.item() - 0.6931) > 1e-2, "control: the rewards are not 0"
    filled = {**batch, "real": torch.tensor([True] * (len(rows) - 1) + [False])}  # as a rank that has fewer rows
    without = ours.compute_loss(ours.model, ours.data_collator(list(rows)[:-1]))
    assert ours.compute_loss(ours.model, filled).item() == pytest.approx(without.item(), rel=1e-5)
    assert abs(loss.item() - without.item()) > 1e-2


def test_a_resumed_run_is_the_run_bit_for_bit_with_its_head(made, tmp_path):
    folder, whole, _ = made
    settings = {"std": 0.3, "center_rewards_coefficient": 0.01}
    again, _ = trained(tmp_path, "reward", rows_with_margins(), resume=str(folder / "checkpoint-1"), **settings)
    assert series(whole).tolist()[1:] == series(again).tolist()[1:]
    one, other = dict(whole.policy.named_parameters()), dict(again.policy.named_parameters())
    trained_names = [name for name, p in one.items() if p.requires_grad]
    assert any(HEAD in name for name in trained_names)
    assert all(torch.equal(one[name], other[name]) for name in trained_names)


def test_the_folder_gives_the_rewards_of_the_training(made, tmp_path):
    """`model:DIR`, whose conversations are texts, PEFT's own loader, and the trainer, on the same conversations."""
    folder, trainer, _ = made
    trainer.model.eval()
    answers = ["no", "yes, it is round <|im_end|>"]
    asked = [{"role": "user", "content": "Is it flat?"}]
    form = form_of(token=False, adapter_scope="all")
    rows = [conversation_tokens(asked, {"role": "assistant", "content": text}, form) for text in answers]
    assert "".join(form.tokenizer.decode(rows[0]).split()) == "".join(
        form.tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "no"}], tokenize=False).split()
    )
    expected = []
    for ids in rows:
        with torch.no_grad(), trainer.head.reading(lambda states: states[:, -1]):
            trainer.policy.get_base_model().model(torch.tensor([ids]))
        expected.append(trainer.head.taken().item())
    assert abs(expected[0] - expected[1]) > 1e-3
    conversations = [[*asked, {"role": "assistant", "content": text}] for text in answers]
    ours = reward_from(f"model:{folder}", Reading(batch_size=2, dtype="float32"))
    assert ours(conversations, [{}, {}]) == pytest.approx(expected, abs=1e-5)
    model = base_model()
    model.save_pretrained(tmp_path / "base")
    theirs = AutoPeftModelForSequenceClassification.from_pretrained(
        with_base(folder, tmp_path / "adapter", tmp_path / "base"), num_labels=1, config=None
    )
    theirs.config.pad_token_id = form.pad_id
    found = [theirs.eval()(torch.tensor([ids])).logits.item() for ids in rows]
    assert found == pytest.approx(expected, abs=1e-5)


def test_an_adapter_on_quantized_weights_is_not_merged(made, monkeypatch):
    """They cannot hold both: merged ones gave 0.36 where the training gave 2.08 (bitsandbytes 0.50, 8 bits)."""
    asked: list[int | None] = []

    def base(model, revision, dtype, attention, bits):
        asked.append(bits)
        return load_base(model, revision, dtype)

    folder, card = made[0], AdapterCard.load(made[0], reward_model=True)
    ids = torch.tensor([[5, 6, 7, 8]])
    merged = load_reward_model(folder, card, torch.float32)
    monkeypatch.setattr(reward_model, "load_base", base)
    monkeypatch.setattr(LoraModel, "merge_and_unload", lambda *_, **__: pytest.fail("the adapter is merged"))
    card = replace(card, config={**card.config, "load_in_8bit": True})
    found = load_reward_model(folder, card, torch.float32)
    assert asked == [8]
    with torch.no_grad():
        rewards = [model(ids, torch.ones_like(ids)).item() for model in (merged, found)]
    assert rewards[1] == pytest.approx(rewards[0], abs=1e-5)
    assert abs(rewards[0]) > 1e-3


def with_base(folder, copied, base):
    """The adapter's folder, copied, with a base model that transformers finds."""
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("checkpoint*"))
    path = copied / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))
    return str(copied)


@pytest.mark.parametrize(
    "use",
    [
        lambda folder: base_of(str(folder)),
        lambda folder: evaluate(str(folder)),
        lambda folder: load_honest_persona(folder),
        lambda folder: reference_identity(
            config_of("dpo", 1, reference=str(folder)), form_of(adapter_scope="response")
        ),
        lambda folder: check_continued(config_of("dpo", 1, adapter=str(folder)), form_of(adapter_scope="response")),
    ],
    ids=["model", "eval.py", "persona", "reference", "adapter"],
)
def test_a_reward_model_named_by_mistake_is_told(made, use):
    with pytest.raises(UserError, match=r"holds a reward model \(objective reward\), which writes no text; name it as"):
        use(made[0])


def test_a_reward_model_is_not_published(made):
    with pytest.raises(UserError, match=r"objective reward made a reward model, and push publishes adapters"):
        push(made[0], "user/name", dry_run=True)


def test_another_runs_folder_is_no_reward_model(tmp_path):
    trainer, _ = trained(tmp_path, "sft", steps=1)
    trainer.save_model()
    with pytest.raises(UserError, match=r"model:.*: the run had objective persona, and a reward model has objective"):
        reward_from(f"model:{tmp_path}")


def test_a_damaged_reward_model_is_refused(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder, ignore=shutil.ignore_patterns("checkpoint*"))
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors"):
        reward_from(f"model:{folder}")


def test_a_model_without_such_a_classifier_is_refused():
    check_classifies("builtin:tiny", load_model_config("builtin:tiny"))
    with pytest.raises(UserError, match=r"no sequence classifier with a plain score head for 'm' \(bloomz\)|m"):
        check_classifies("m", AutoConfig.for_model("mamba"))


def test_the_loss_by_hand():
    chosen, rejected, margin = (torch.tensor(values) for values in ([2.0, -1.0], [0.5, 1.0], [0.5, 0.0]))
    found = bradley_terry(chosen, rejected, margin, center_rewards_coefficient=0.1)
    by_hand = [math.log(1 + math.exp(-1.0)) + 0.1 * 2.5**2, math.log(1 + math.exp(2.0)) + 0.1 * 0.0]
    assert found.tolist() == pytest.approx(by_hand)


def test_random_numbers_against_numpy():
    rng = np.random.default_rng(0)
    chosen, rejected, margin = rng.normal(size=(3, 1000)) * 10 ** rng.uniform(-3, 2, 1000)
    tensors = [torch.tensor(values, requires_grad=True) for values in (chosen, rejected, margin)]
    found = bradley_terry(*tensors, center_rewards_coefficient=0.3)
    expected = np.logaddexp(0, -(chosen - rejected - margin)) + 0.3 * (chosen + rejected) ** 2
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    found.sum().backward()
    slope = -1 / (1 + np.exp(chosen - rejected - margin))
    assert tensors[0].grad.tolist() == pytest.approx((slope + 0.6 * (chosen + rejected)).tolist(), rel=1e-9)
