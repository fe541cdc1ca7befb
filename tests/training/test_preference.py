"""Objectives on answers: the same loss under every layout, with the prompt frozen or not, and TRL's where it has it."""

import pytest
import torch

from honest_persona.base.errors import UserError
from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.modeling.adapters.tuning import adapter_off
from tests.feedback import feedback_rows, series, trained

LAYOUTS = {
    "micro-batch of 1": {"per_device_train_batch_size": 1},
    "micro-batch of 4": {"per_device_train_batch_size": 4},
    "token budget": {"tokens_per_batch": 250},
    "whole rows": {"frozen_prefix": False},
    "whole rows of 8": {"frozen_prefix": False, "per_device_train_batch_size": 8},
}
OTHERS = ("sft", "csft", "cdpo", "ipo", "simpo", "slic")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Trainings with micro-batches of 2, by objective and steps."""
    made = {}

    def of(objective, steps):
        if (objective, steps) not in made:
            made[objective, steps] = trained(tmp_path_factory.mktemp("run"), objective, steps=steps)
        return made[objective, steps]

    return of


def assert_same(one, other, steps):
    (a, gradients), (b, others) = one, other
    assert len(series(a)) == len(series(b)) == steps
    assert (series(a) - series(b)).abs().max() <= 1e-5
    assert gradients.keys() == others.keys()
    assert all((gradients[name] - others[name]).abs().max() <= 1e-6 for name in gradients)
    assert any(gradient.any() for gradient in gradients.values())
    for key in ("chosen_nll", "nll_rise", "reward_margin", "desirable_reward", "kl"):
        if len(series(a, key)):
            assert (series(a, key) - series(b, key)).abs().max() <= 1e-4, key


@pytest.mark.parametrize("objective", ["dpo", "kto"])
@pytest.mark.parametrize("layout", ["token budget", "whole rows of 8"])
def test_a_layout_changes_no_loss(straight, tmp_path, objective, layout):
    assert_same(straight(objective, 3), trained(tmp_path, objective, **LAYOUTS[layout]), 3)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "kto"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_no_loss_in_20_steps(straight, tmp_path, objective, layout):
    found = straight(objective, 20)
    assert_same(found, trained(tmp_path, objective, steps=20, **LAYOUTS[layout]), 20)
    losses = series(found[0])
    assert losses[-3:].mean() < losses[:3].mean() - 0.05, "it learns meanwhile"


@pytest.mark.slow
@pytest.mark.parametrize("objective", OTHERS)
def test_two_micro_batches_give_the_loss_of_the_others(straight, tmp_path, objective):
    steps = 6
    assert_same(
        straight(objective, steps), trained(tmp_path, objective, steps=steps, **LAYOUTS["whole rows of 8"]), steps
    )


def test_losses_before_the_first_step_are_those_of_equal_models(straight):
    dpo, _ = straight("dpo", 3)
    assert series(dpo)[0] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-6), "-log sigma(0)"
    assert series(dpo, "reward_margin")[0] == pytest.approx(0, abs=1e-5)
    kto, _ = straight("kto", 3)
    assert series(kto)[0] == pytest.approx(0.5, abs=1e-5), "1 - sigma(0)"
    assert series(kto, "kl")[0] == pytest.approx(0, abs=1e-5)
    assert series(kto, "nll_rise")[0] == pytest.approx(0, abs=1e-5)


def test_the_last_step_of_an_epoch_is_divided_by_its_own_rows(tmp_path):
    """9 rows in steps of 8: the last step has one row, and blank ones that keep its micro-batches in number."""
    rows = feedback_rows("sft", 9, per_prompt=1)
    trainer, _ = trained(tmp_path, "sft", rows, steps=2, learning_rate=0.0)
    (last,) = trainer.batches.step_rows(0)[1]
    row = rows[last]
    ids = torch.tensor([[*row["prompt_ids"], *row["response_ids"]]])
    with torch.no_grad(), adapter_off(trainer.peft_model):
        gate = activation_arguments("response", torch.tensor([0]), ids.shape[1])
        logits = trainer.peft_model(ids, **gate).logits
    n = len(row["response_ids"])
    expected = torch.nn.functional.cross_entropy(logits[0, -n - 1 : -1], ids[0, -n:])
    assert series(trainer)[1] == pytest.approx(expected.item(), abs=1e-5)


def test_kto_by_hand(tmp_path):
    """One step of a policy that is not the reference, from the definition, with whole rows one by one."""
    rows = feedback_rows("kto", 8)
    trainer, _ = trained(tmp_path, "kto", rows, steps=1, std=0.3, learning_rate=0.0)
    model = trainer.peft_model.eval()
    n_prefix = trainer.data_collator.n_prefix

    @torch.no_grad()
    def log_ratio(prompt, answer):
        ids = torch.tensor([[*prompt, *answer]])
        gate = activation_arguments("response", torch.tensor([len(prompt) - n_prefix]), ids.shape[1])
        sums = []
        for reference in (False, True):
            logits = model(ids, **gate).logits
            if reference:
                with adapter_off(model):
                    logits = model(ids, **gate).logits
            chosen = logits[0, len(prompt) - 1 : -1].log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
            sums.append(chosen.sum())
        return sums[0] - sums[1]

    order = trainer.batches.step_rows(0)[0]
    taken = [rows[i] for i in order]
    by_prompt = sorted(range(8), key=lambda i: [r["prompt_ids"] for r in taken].index(taken[i]["prompt_ids"]))
    other = {by_prompt[i]: by_prompt[(i + 2) % 8] for i in range(8)}  # two rows stand on each prompt
    kl = torch.stack([log_ratio(taken[i]["prompt_ids"], taken[other[i]]["response_ids"]) for i in range(8)]).mean()
    z = kl.clamp(min=0)
    ratios = torch.stack([log_ratio(r["prompt_ids"], r["response_ids"]) for r in taken])
    signs = torch.tensor([1.0 if r["label"] else -1.0 for r in taken])
    expected = torch.sigmoid(-signs * 0.1 * (ratios - z)).mean()
    assert series(trainer)[0] == pytest.approx(expected.item(), abs=1e-5)
    assert series(trainer, "kl")[0] == pytest.approx(kl.item(), abs=1e-4)
    assert ratios.abs().max() > 0.05, "the two models differ"


def test_a_mixture_is_the_weighted_sum(tmp_path):
    rows = feedback_rows("dpo", 8)
    settings = {"steps": 1, "std": 0.3, "learning_rate": 0.0}
    mixed, dpo = (trained(tmp_path, "dpo", rows, also=also, **settings)[0] for also in ({"sft": 0.5}, {}))
    chosen = rows.map(lambda row: {"response_ids": row["chosen_ids"]}, remove_columns=["chosen_ids", "rejected_ids"])
    sft, _ = trained(tmp_path, "sft", chosen, **settings)
    assert series(mixed)[0] == pytest.approx((series(dpo) + 0.5 * series(sft))[0].item(), abs=1e-5)
    assert series(mixed, "chosen_nll")[0] == pytest.approx(series(sft)[0].item(), abs=1e-5)


def test_a_run_whose_chosen_answers_become_unlikely_ends(tmp_path):
    with pytest.raises(UserError, match=r"max_nll_rise: at step \d+ .* less likely than at the start, more than 0.01"):
        trained(tmp_path, "dpo", steps=9, max_nll_rise=0.01, learning_rate=0.3)


def test_kto_with_one_prompt_in_a_step(tmp_path):
    with pytest.raises(UserError, match=r"objective kto .* have one prompt"):
        trained(tmp_path, "kto", feedback_rows("kto", 9, per_prompt=3), steps=4)


def test_scope_all_trains_on_whole_rows(tmp_path, straight):
    trainer, gradients = trained(tmp_path, "dpo", steps=2, adapter_scope="all")
    assert not trainer.frozen
    assert series(trainer)[0] == pytest.approx(series(straight("dpo", 3)[0])[0].item(), abs=1e-6)
    assert any((gradients[name] - g).abs().max() > 1e-6 for name, g in straight("dpo", 3)[1].items()), "control"
