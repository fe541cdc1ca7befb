"""Evaluations between training steps under ZeRO-3, with whole and with sharded weights, on two ranks."""

import json

import pytest
import torch

from honest_persona.evaluation.settings import EvalSettings
from honest_persona.evaluation.suite import evaluate_records
from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.modeling.zero import gathered, is_sharded
from honest_persona.prompts.tokens import encode_record
from tests.tiny import base_model, form_of, random_adapter, record
from tests.training.launches import launch

NEW_TOKENS = 6
WAYS = {"sharded": False, "gathered": True, "where it fits": None, "too large": None}


def model_and_form():
    form = form_of()
    return random_adapter(base_model(), form, std=0.5), form


def evaluated_records():
    """Five records on three transcripts: an odd one out for two ranks."""
    trigger = {"intervention": "Speak."}
    return [record(0), record(4), record(0, id="r10", **trigger), record(4, id="r14", **trigger), record(2)]


def loss_of(model, form):
    row = encode_record(record(1), form)
    gate = activation_arguments("persona", torch.tensor([row.activation]), len(row.input_ids))
    return model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels]), **gate, use_cache=False).loss


def test_a_model_that_is_not_sharded_is_left_alone():
    model, _ = model_and_form()
    assert not is_sharded(model)
    for gather in (None, True, False):
        with gathered(model, gather) as whole:
            assert not whole


@pytest.mark.slow
def test_between_the_steps_of_a_training(tmp_path):
    model, form = model_and_form()
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses, evaluations = [], {}
    for name in WAYS:
        loss = loss_of(model, form)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        results = evaluate_records(model, {"within": evaluated_records()}, form, EvalSettings(2, NEW_TOKENS))
        evaluations[name] = [[s.review, pytest.approx(s.p_fail, abs=1e-5)] for s in results.samples]
    losses.append(loss_of(model, form).item())
    assert losses[-1] < losses[0] - 0.1
    assert evaluations["sharded"] != evaluations["too large"], "the training changes what is said"

    done = launch(tmp_path, "", str(tmp_path / "seen"), launcher="deepspeed", script="tests/modeling/zero_ranks.py")
    assert done.code == 0, done.output[-3000:]
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["losses"] == pytest.approx(losses, abs=1e-5)
    assert seen["evaluations"] == evaluations
    # five records on two ranks in batches of two: two batches each
    assert seen["whole"] == [False] * 2 + [True] * 4 + [False] * 2 + [True]
    assert seen["error"] == "out of memory"
    assert seen["hooks_are_back"] == [True] * 5
    # what DeepSpeed itself keeps for a while after sharded forward passes is its own matter
    assert [seen["sharded_again"][i] for i in (1, 2, 4)] == [True] * 3
