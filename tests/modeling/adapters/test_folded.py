"""Folded LoRA: PEFT's numbers with fewer products, PEFT's own way where it must be, and PEFT's files."""

import gc
import weakref
from collections import Counter

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear
from torch.utils._python_dispatch import TorchDispatchMode

from honest_persona.modeling.adapters.folded import FoldedLinear, fold, forgetting, keeping, step_weights
from honest_persona.modeling.adapters.tuning import adapter_off, ungated
from tests.tiny import FAMILIES, SEVEN, base_model, form_of, random_adapter

IDS = torch.randint(5, 90, (3, 20), generator=torch.Generator().manual_seed(0))
STEPS = 50


class Products(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts["product" if "mm" in name else name] += 1
        return func(*args, **kwargs or {})


def as_pefts(model):
    """The same adapter with PEFT's own forward calls."""
    for layer in model.modules():
        if isinstance(layer, FoldedLinear):
            layer.__class__ = Linear
    return model


def adapted(family="builtin", dtype=torch.float32):
    return random_adapter(base_model(family, dtype), form_of(), family).train()


def passed(model, ids=IDS):
    """Logits of a forward call, and the gradients that belong to them."""
    with ungated(model):
        logits = model(ids).logits
        logits.square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def assert_same(one, other, tolerance=1e-5):
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=tolerance)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        assert (grad - other[1][name]).norm() <= tolerance * other[1][name].norm(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_are_pefts(family):
    # in float64 nothing but another formula would show; the products of a mixture's experts know no float64
    dtype, tolerance = (torch.float32, 1e-5) if family in ("qwen3_moe", "gpt_oss") else (torch.float64, 1e-11)
    model = adapted(family).to(dtype)
    assert any(isinstance(layer, FoldedLinear) for layer in model.modules())
    assert_same(passed(model), passed(as_pefts(adapted(family).to(dtype))), tolerance)


def test_checkpointed_layers_compute_the_same_again():
    model = adapted()
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    assert_same(passed(model), passed(as_pefts(adapted())))


def test_fewer_products_and_no_kernel_over_whole_outputs():
    counts = []
    for model in (adapted(), as_pefts(adapted())):
        with ungated(model), Products() as forward:
            loss = model(IDS, logits_to_keep=1).logits.sum()
        with Products() as backward:
            loss.backward()
        counts.append((forward.counts, backward.counts))
    (forward, backward), (pefts, pefts_backward) = counts
    layers = 2
    # base and B of seven layers; A of q, k, v together, of gate and up together
    assert pefts["product"] - forward["product"] == layers * (2 + 1)
    assert pefts["mul"] - forward["mul"] == layers * 7
    assert pefts["add"] - forward["add"] == layers * 7
    # the gradients of A and of A's input, too; the first q, k and v have no input that needs a gradient
    assert pefts_backward["product"] - backward["product"] == layers * 2 * (2 + 1) - 2
    assert pefts_backward["add"] - backward["add"] >= layers * 7


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"lora_bias": True}, {"use_dora": True}])
def test_other_kinds_go_pefts_way(settings):
    def made():
        torch.manual_seed(0)
        config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=list(SEVEN), init_lora_weights=False, **settings)
        return get_peft_model(base_model(), config).train()

    model, pefts = made(), made()
    fold(model)
    outputs = []
    for one in (model, pefts):
        torch.manual_seed(1)
        outputs.append(one(IDS).logits)
    assert torch.equal(*outputs)
    if "lora_dropout" in settings:
        torch.testing.assert_close(model.eval()(IDS).logits, pefts.eval()(IDS).logits)
        with Products() as folded:
            model(IDS)
        with Products() as plain:
            pefts(IDS)
        assert folded.counts["product"] < plain.counts["product"], "without dropout the call is folded"


def test_trained_bases_and_adapters_of_another_precision_go_module_by_module():
    model, pefts = adapted(), as_pefts(adapted())
    for one in (model, pefts):
        one.get_submodule("base_model.model.model.layers.0.self_attn.q_proj.base_layer").requires_grad_()
    assert_same(passed(model), passed(pefts))
    assert_same(passed(adapted(dtype=torch.bfloat16)), passed(as_pefts(adapted(dtype=torch.bfloat16))), 3e-2)


def test_layers_that_are_called_with_other_inputs():
    model, pefts = adapted(), as_pefts(adapted())
    x, y = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for one in (model, pefts):
        attention = one.get_submodule("base_model.model.model.layers.0.self_attn")
        with ungated(one):
            found.append([layer(given) for given in (x, y, x) for layer in (attention.q_proj, attention.k_proj)])
            found[-1] += [attention.v_proj(x), attention.q_proj(y), attention.k_proj(x), attention.v_proj(y)]
    torch.testing.assert_close(found[0], found[1])


def test_an_output_is_for_its_own_input_alone():
    model = adapted()
    attention = model.get_submodule("base_model.model.model.layers.0.self_attn")
    x = torch.randn(3, 64)
    with ungated(model):
        attention.q_proj(x)
        with adapter_off(model):
            assert torch.equal(attention.k_proj(x), attention.k_proj.base_layer(x))


def test_a_call_that_ends_with_an_error_leaves_nothing_behind():
    model = adapted()
    attention = model.get_submodule("base_model.model.model.layers.1.self_attn")
    group, inputs = attention.q_proj.group, []
    attention.q_proj.register_forward_pre_hook(lambda _, given: inputs.append(weakref.ref(given[0])))
    fails = attention.v_proj.register_forward_pre_hook(lambda *_: 1 / 0)

    def failing():
        with pytest.raises(ZeroDivisionError), forgetting(model), ungated(model):
            model(IDS)

    failing()
    gc.collect()
    assert inputs[0]() is None, "with all that led to it"
    fails.remove()
    result = passed(model)
    assert attention.q_proj.group is group, "the layers still share one product"
    assert_same(result, passed(as_pefts(adapted())))


def test_the_gate_is_pefts():
    gate = {"alora_offsets": [4, 5, 6]}
    model, pefts = adapted(), as_pefts(adapted())
    assert torch.equal(model(IDS, **gate).logits, pefts(IDS, **gate).logits)


def test_weights_are_joined_once_a_step():
    model = adapted()
    kept = step_weights(model)
    assert len(kept) == 1

    @torch.no_grad()
    def change(one):
        for p in one.parameters():
            p.mul_(1.5 if p.requires_grad else 1)

    def cats(keeps):
        with ungated(model), Products() as seen, keeping(kept if keeps else []):
            model(IDS).logits.sum().backward()
        return seen.counts["cat"]

    once = cats(False)
    assert cats(False) == once
    assert cats(True) == once
    assert cats(True) == once - 4, "q, k, v and gate, up of two layers"
    change(model)
    assert cats(True) == once - 4
    for one in kept:
        one.clear()
    model.zero_grad()
    with keeping(kept):
        now = passed(model)
    pefts = as_pefts(adapted())
    change(pefts)
    assert_same(now, passed(pefts))


def test_what_is_computed_without_gradient_is_not_kept():
    model = adapted()
    kept = step_weights(model)
    with keeping(kept):
        with torch.no_grad(), ungated(model):
            model(IDS)
        assert_same(passed(model), passed(as_pefts(adapted())))


def test_the_file_is_a_plain_adapters(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(base_model(), tmp_path)
    assert {type(layer) for layer in loaded.modules() if isinstance(layer, Linear)} == {Linear}
    assert torch.equal(loaded(IDS, alora_offsets=[4] * 3).logits, model(IDS, alora_offsets=[4] * 3).logits)


def test_fifty_steps_have_pefts_losses():
    curves = []
    for model in (adapted("qwen3"), as_pefts(adapted("qwen3"))):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        losses = []
        for step in range(STEPS):
            for one in step_weights(model):
                one.clear()
            ids = torch.randint(5, 90, (2, 12), generator=torch.Generator().manual_seed(step))
            with ungated(model), keeping(step_weights(model)):
                for row in ids:
                    loss = model(row[None], labels=row[None]).loss / 2
                    loss.backward()
                    losses.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
        curves.append(torch.tensor(losses))
    assert ((curves[0] - curves[1]) / curves[1]).abs().max() < 1e-5
    assert len(set(curves[0].tolist())) == 2 * STEPS
