"""Both ways to run a batch give the same answers and scores; the shared one runs each transcript once."""

import logging
from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from honest_persona.modeling.adapters.tuning import ungated
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.persona import continuing
from honest_persona.persona.answering import SharedPrefixes, WholeRows, batch_of, write_reviews
from honest_persona.prompts.tokens import apply_intervention
from tests.tiny import FAMILIES, base_model, conversation, form_of, random_adapter

INTERVENTIONS = ("Now be honest.", "What did you hide from the user, and why did you do so?", "Speak.")


def prompts_of(form, numbers=(4, 0, 4, 3, 0, 4), interventions=INTERVENTIONS):
    """Prompts on transcripts of several lengths; those on one transcript do not stand side by side."""
    return [apply_intervention(conversation(n), interventions[i % 3], form) for i, n in enumerate(numbers)]


def run(model, prompts, form, frozen_prefix, n_tokens=10):
    """What is written, and P(FAIL) behind beginnings of it and behind something else."""
    with batch_of(model, prompts, form, frozen_prefix) as batch:
        written = batch.write(n_tokens)
        answers = [[7, *row[:3]] if i % 2 else row[: len(row) // 2] for i, row in enumerate(written)]
        return written, batch.p_fail(answers), answers


class TestBothWaysAgree:
    @pytest.mark.parametrize("scope", ["persona", "all"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_families(self, family, scope):
        for elicitation, token in product(("hp", "up", "ur"), (True, False)):
            form = form_of(token, elicitation_type=elicitation, adapter_scope=scope)
            model = random_adapter(base_model(family), form, family, std=0.5).eval()
            prompts = prompts_of(form)
            written, p_fail, answers = run(model, prompts, form, True)
            expected, expected_p_fail, same_answers = run(model, prompts, form, False)
            assert written == expected
            assert answers == same_answers
            assert p_fail == pytest.approx(expected_p_fail, abs=1e-5)
            assert len({tuple(row) for row in written}) > 1, "the prompts call for different answers"
            fast = write_reviews(model, prompts, form, 10)
            whole = write_reviews(model, prompts, form, 10, frozen_prefix=False)
            assert [(r.text, r.flag, r.ending) for r in fast] == [(r.text, r.flag, r.ending) for r in whole]
            assert [r.p_fail for r in fast] == pytest.approx([r.p_fail for r in whole], abs=1e-5)

    def test_rows_that_end_leave_the_batch(self):
        form = form_of()
        model = random_adapter(base_model(), form, std=0.5).eval()
        prompts = prompts_of(form, range(9))
        endless, _, _ = run(model, prompts, form, False, 16)
        # let something that most rows write sooner or later be the end of the turn
        ends = {t: [row.index(t) if t in row else None for row in endless] for t in {t for row in endless for t in row}}
        end, places = max(ends.items(), key=lambda e: (len(set(e[1])), e[0]))
        assert None in places
        assert len(set(places)) >= 5
        form.__dict__["end_id"] = end
        rows_per_step = []
        head = model.get_base_model().get_output_embeddings()
        expected = run(model, prompts, form, False, 16)
        handle = head.register_forward_pre_hook(lambda _, inputs: rows_per_step.append(len(inputs[0])))
        shared = run(model, prompts, form, True, 16)
        handle.remove()
        assert [len(row) for row in shared[0]] == [16 if place is None else place + 1 for place in places]
        assert shared[0] == expected[0]
        assert shared[1] == pytest.approx(expected[1], abs=1e-5)
        steps, scored = rows_per_step[:16], rows_per_step[16:]
        assert steps == sorted(steps, reverse=True)
        assert (steps[0], steps[-1]) == (9, sum(p is None for p in places)), "in the end only those that go on are left"
        for step, n in enumerate(steps):
            running = sum(p is None or p >= step for p in places)
            assert running <= n <= max(2 * running, 1)
        assert scored == [4], "P(FAIL) behind what was written is known; the rest is one forward call"

    def test_of_a_model_whose_adapter_is_off(self):
        form = form_of()
        model = random_adapter(base_model(), form, std=0.5).eval()
        prompts = prompts_of(form)
        on = run(model, prompts, form, True)
        with model.disable_adapter():
            off = run(model, prompts, form, True)
            again = run(model, prompts, form, True)
            whole = run(model, prompts, form, False)
        assert off[0] == again[0] == whole[0] != on[0], "the first run does not switch it on for the second"
        assert off[1] == pytest.approx(whole[1], abs=1e-5)
        assert run(model, prompts, form, True) == on


class TestP_FAIL_OfHalfPrecision:
    """In bfloat16 the logits of PASS and FAIL are those of the hidden state in float32, not rounded ones."""

    def scores(self, model, prompts, form, frozen_prefix):
        answers = [[7, 8, 9, i] for i in range(len(prompts))]
        with batch_of(model, prompts, form, frozen_prefix) as batch:
            return batch.p_fail(answers)

    @pytest.mark.parametrize("autocast", [False, True])
    @pytest.mark.parametrize("frozen_prefix", [True, False])
    def test_precise(self, frozen_prefix, autocast):
        form = form_of()
        model = random_adapter(base_model(), form, std=0.5).bfloat16().eval()
        prompts = prompts_of(form, range(12))
        seen = []
        head = model.get_base_model().get_output_embeddings()
        handle = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][:, -1].double()))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found = self.scores(model, prompts, form, frozen_prefix)
        handle.remove()
        flags = head.weight[list(form.flag_ids[1:])].double()
        expected = torch.softmax(torch.cat(seen) @ flags.T, -1)[:, 1].tolist()
        assert found == pytest.approx(expected, abs=1e-6)
        rounded = torch.softmax((torch.cat(seen).bfloat16() @ flags.T.bfloat16()).float(), -1)[:, 1].tolist()
        assert found != pytest.approx(rounded, abs=1e-6), "rounding would show"
        assert not head._forward_hooks, "nothing is left behind"

    def test_what_a_model_does_to_its_logits_is_done_to_these(self):
        form = form_of()
        model = random_adapter(base_model("gemma3_text"), form, "gemma3_text", std=0.5).bfloat16().eval()
        prompts = prompts_of(form)
        plain = self.scores(model, prompts, form, True)
        model.config.final_logit_softcapping = 0.5
        capped = self.scores(model, prompts, form, True)
        assert capped != pytest.approx(plain, abs=1e-3)
        assert self.scores(model, prompts, form, False) == pytest.approx(capped, abs=2e-2)


@pytest.fixture
def prefixes(monkeypatch):
    """Transcripts per call of `run_prefix`."""
    calls = []
    run_prefix = continuing.run_prefix

    def counted(model, input_ids, *args, **kwargs):
        calls.append(len(input_ids))
        return run_prefix(model, input_ids, *args, **kwargs)

    monkeypatch.setattr(continuing, "run_prefix", counted)
    return calls


@pytest.mark.parametrize("scope", ["persona", "all"])
def test_each_transcript_is_run_once(prefixes, scope):
    form = form_of(adapter_scope=scope)
    model = random_adapter(base_model(), form, std=0.5).eval()
    write_reviews(model, prompts_of(form, (4, 0, 4, 3, 0, 4)), form, 4)
    assert prefixes == [3]
    write_reviews(model, prompts_of(form, (4, 0)), form, 4, frozen_prefix=False)
    assert prefixes == [3], "negative control: whole rows have no prefix"


def flops(model, prompts, form, frozen_prefix):
    with FlopCounterMode(display=False) as counter, batch_of(model, prompts, form, frozen_prefix) as batch:
        batch.p_fail([row[:3] for row in batch.write(6)])
    return counter.get_total_flops()


def test_prefixes_come_from_the_cache(prefixes, monkeypatch):
    form = form_of()
    model = random_adapter(base_model(), form, std=0.5).eval()
    prompts = prompts_of(form)
    expected = write_reviews(model, prompts, form, 10)
    cache = PrefixCache("ram", 2**24, "this model")
    prefixes.clear()
    first = write_reviews(model, prompts, form, 10, prefix_cache=cache)
    assert len(prefixes) == 1
    assert write_reviews(model, prompts, form, 10, prefix_cache=cache) == first == expected
    assert len(prefixes) == 1, "the second evaluation runs no prefix"
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data *= -1  # the adapter trains on; what it does not touch is still the same
    trained = write_reviews(model, prompts, form, 10)
    assert write_reviews(model, prompts, form, 10, prefix_cache=cache) == trained != expected
    everywhere = form_of(adapter_scope="all")
    model = random_adapter(base_model(), everywhere, std=0.5).eval()
    prefixes.clear()
    for _ in range(2):
        write_reviews(model, prompts_of(everywhere), everywhere, 10, prefix_cache=cache)
    assert len(prefixes) == 2, "what the adapter has touched is never kept"


def test_flops():
    form = form_of()
    model = random_adapter(base_model(), form).eval()
    prompts = [apply_intervention(conversation(80), "Now be honest.", form)] * 4
    assert len(prompts[0].input_ids) > 300
    shared = {k: flops(model, prompts[:k], form, True) for k in (1, 2, 4)}
    whole = {k: flops(model, prompts[:k], form, False) for k in (1, 2, 4)}
    each = shared[2] - shared[1]
    assert shared[4] - shared[2] == 2 * each, "a prefix that is paid for once, and equally much for every review"
    assert whole[4] == 4 * whole[1], "negative control"
    prefix = shared[1] - each
    # the linear layers alone: 2 FLOPs per weight and token
    linear = sum(
        m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lora" not in n
    )
    head = model.get_base_model().get_output_embeddings().weight.numel()
    assert prefix == pytest.approx(2 * (linear - head) * prompts[0].activation, rel=0.3)
    assert shared[1] < 0.6 * whole[1], "the score needs no second pass over the transcript"
    assert shared[4] < 0.2 * whole[4]


def test_models_that_cannot_run_it_take_whole_rows(caplog):
    form = form_of()
    model = random_adapter(base_model(), form, std=0.5).eval()
    prompts = prompts_of(form)
    expected = run(model, prompts, form, True)
    model.get_input_embeddings().weight.requires_grad_(True)
    continuing._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with batch_of(model, prompts, form, True) as batch:
                assert isinstance(batch, WholeRows)
        with batch_of(model, prompts, form, False) as batch:
            assert isinstance(batch, WholeRows)
    assert len(caplog.records) == 1
    assert "embed_tokens" in caplog.text
    whole = run(model, prompts, form, True)
    assert whole[0] == expected[0]
    assert whole[1] == pytest.approx(expected[1], abs=1e-5)


def test_the_gate_is_back_even_after_an_error():
    form = form_of()
    model = random_adapter(base_model(), form, std=0.5).eval()
    prompts = prompts_of(form)
    before = run(model, prompts, form, False)

    def fail():
        with batch_of(model, prompts, form, True) as batch:
            assert isinstance(batch, SharedPrefixes)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert run(model, prompts, form, False) == before


def test_whole_rows_need_the_gate():
    form = form_of()
    model = random_adapter(base_model(), form, std=0.5).eval()
    prompts = prompts_of(form)
    expected = run(model, prompts, form, True)
    with ungated(model):
        assert run(model, prompts, form, True) == expected, "as a trainer that holds it off does"
        with pytest.raises(AssertionError, match="wrong tokens"):
            run(model, prompts, form, False)
