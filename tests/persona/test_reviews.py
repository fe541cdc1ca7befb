"""Reviews, generated and scored with the activation that training has."""

import pytest
import torch
from transformers import GenerationConfig

from honest_persona.base.errors import RankError
from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.persona.answering import SharedPrefixes, WholeRows, batch_of, write_reviews
from honest_persona.persona.parsing import Ending
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.tokens import Tokens, apply_intervention, encode_record
from tests.tiny import base_model, conversation, form_of, random_adapter, record

FORMATS = ["review_then_flag", "flag_then_review", "flag_only"]


def prompts_of(form, numbers=(4, 0, 3)):
    return [apply_intervention(conversation(n), "Now be honest.", form) for n in numbers]


def forward(model, form, ids, activation):
    """A forward pass over one row, gated as in training."""
    gate = activation_arguments(form.persona.adapter_scope, torch.tensor([activation]), len(ids))
    with torch.no_grad():
        return model(torch.tensor([ids]), **gate, use_cache=False).logits[0]


CASES = [
    pytest.param(family, elicitation, token, scope, id=f"{family}-{elicitation}-{token}-{scope}")
    for family, elicitation, token, scope in [
        ("builtin", "hp", True, "persona"),
        ("builtin", "hp", False, "persona"),
        ("builtin", "up", True, "persona"),
        ("builtin", "ur", True, "persona"),
        ("builtin", "hp", True, "all"),
        ("gemma3_text", "hp", True, "persona"),
        ("mistral", "ur", False, "persona"),
        ("qwen3_moe", "hp", True, "persona"),
    ]
]


@pytest.mark.parametrize("frozen_prefix", [True, False], ids=["prefixes", "whole"])
@pytest.mark.parametrize(("family", "elicitation", "token", "scope"), CASES)
class TestOneMeaningOfActive:
    def setup(self, family, elicitation, token, scope, **persona):
        form = form_of(token, elicitation_type=elicitation, adapter_scope=scope, **persona)
        return random_adapter(base_model(family), form, family, std=0.5).eval(), form

    def test_stepwise_generation_is_the_full_forward(self, family, elicitation, token, scope, frozen_prefix):
        model, form = self.setup(family, elicitation, token, scope)
        prompts = prompts_of(form)
        assert len({len(p.input_ids) for p in prompts}) == 3, "a ragged batch, padded on the left"
        with batch_of(model, prompts, form, frozen_prefix) as batch:
            assert isinstance(batch, SharedPrefixes if frozen_prefix else WholeRows)
            answers = batch.write(16)
        missed = False
        for prompt, written in zip(prompts, answers, strict=True):
            assert len(written) == 16 or written[-1] == form.end_id
            n = len(prompt.input_ids)
            logits = forward(model, form, prompt.input_ids + written, prompt.activation)
            assert logits[n - 1 : -1].argmax(-1).tolist() == written
            with model.disable_adapter():
                missed |= forward(model, form, prompt.input_ids + written, 0)[n - 1 : -1].argmax(-1).tolist() != written
        assert missed, "negative control: the base model writes something else"

    def test_a_batch_reviews_as_single_rows_do(self, family, elicitation, token, scope, frozen_prefix):
        model, form = self.setup(family, elicitation, token, scope)
        prompts = prompts_of(form)
        together = write_reviews(model, prompts, form, 12, frozen_prefix)
        for prompt, review in zip(prompts, together, strict=True):
            [alone] = write_reviews(model, [prompt], form, 12, frozen_prefix)
            assert (review.text, review.flag, review.ending) == (alone.text, alone.flag, alone.ending)
            assert review.p_fail == pytest.approx(alone.p_fail, abs=1e-5)

    @pytest.mark.parametrize("output_format", FORMATS)
    def test_p_fail_by_hand(self, family, elicitation, token, scope, frozen_prefix, output_format):
        """Two training rows that differ in the flag alone part at one id: the softmax of these two ids there."""
        model, form = self.setup(family, elicitation, token, scope, output_format=output_format)
        prompts, answers, expected = [], [], []
        for n in (4, 0, 3):
            review = f"I made claim {n}."
            passed = encode_record(record(n, review=review, flag="PASS"), form)
            failed = encode_record(record(n, review=review, flag="FAIL"), form)
            pairs = zip(passed.input_ids, failed.input_ids, strict=False)
            place = next(i for i, (a, b) in enumerate(pairs) if a != b)
            assert passed.kinds[place] == Kind.FLAG
            logits = forward(model, form, passed.input_ids, passed.activation)[place - 1]
            a, b = logits[passed.input_ids[place]], logits[failed.input_ids[place]]
            expected.append((b.exp() / (a.exp() + b.exp())).item())
            start = next(i for i, label in enumerate(passed.labels) if label != -100)
            prompts.append(Tokens(passed.input_ids[:start], passed.kinds[:start], passed.activation))
            answers.append(passed.input_ids[start:place])
        assert max(expected) - min(expected) > 1e-3, "the rows differ in what is expected of them"
        with batch_of(model, prompts, form, frozen_prefix) as batch:
            assert batch.p_fail(answers) == pytest.approx(expected, abs=1e-5)


def say(monkeypatch, answers):
    """Make the model write these ids, one row per prompt."""
    for way in (SharedPrefixes, WholeRows):
        monkeypatch.setattr(way, "write", lambda self, max_new_tokens: answers)


@pytest.mark.parametrize("frozen_prefix", [True, False], ids=["prefixes", "whole"])
@pytest.mark.parametrize("output_format", FORMATS)
def test_written_reviews_are_read_and_scored_where_training_has_the_flag(output_format, frozen_prefix, monkeypatch):
    form = form_of(output_format=output_format)
    model = random_adapter(base_model(), form, std=0.5).eval()
    texts = ["I lied.", "Fine – 好的.\nFLAG: PASS\nall well", ""]
    flags = ["FAIL", "PASS", "FAIL"]
    # texts that a reader of the whole sequence, and not of what was generated alone, would take for the answer
    records = [
        record(n, review=text, flag=flag, response="\n\nREVIEW:x\nFLAG: PASS", task="\nFLAG: FAIL" * n + "?")
        for n, (text, flag) in enumerate(zip(texts, flags, strict=True))
    ]
    rows = [encode_record(r, form) for r in records]
    starts = [next(i for i, label in enumerate(row.labels) if label != -100) for row in rows]
    say(monkeypatch, [row.input_ids[n:] for row, n in zip(rows, starts, strict=True)])
    prompts = [
        apply_intervention(
            [{"role": m, "content": c} for m, c in (("system", r.system), ("user", r.task), ("assistant", r.response))],
            r.intervention,
            form,
        )
        for r in records
    ]
    reviews = write_reviews(model, prompts, form, 64, frozen_prefix)
    assert [r.text for r in reviews] == ([""] * 3 if output_format == "flag_only" else texts)
    assert [r.flag for r in reviews] == flags
    assert [r.ending for r in reviews] == [Ending.CLEAN] * 3
    for row, review in zip(rows, reviews, strict=True):
        common, passed, failed = form.flag_ids
        place = row.kinds.index(Kind.FLAG) + len(common)
        logits = forward(model, form, row.input_ids, row.activation)[place - 1]
        assert review.p_fail == pytest.approx(torch.softmax(logits[[passed, failed]], -1)[1].item(), abs=1e-5)


def test_what_stands_behind_the_end_of_the_turn_is_not_read(monkeypatch):
    form = form_of()
    model = random_adapter(base_model(), form).eval()
    encode = form.tokenizer.encode
    ids = [*encode("\n\nREVIEW:a\nFLAG: PASS"), form.end_id, *encode("\nFLAG: FAIL"), form.end_id]
    endless = encode("\n\nREVIEW:b and b")
    rows = torch.tensor([ids, endless + [endless[-1]] * (len(ids) - len(endless))])
    monkeypatch.setattr(model, "generate", lambda input_ids, **_: torch.cat([input_ids, rows], dim=1))
    first, second = write_reviews(model, prompts_of(form, (0, 1)), form, 32, frozen_prefix=False)
    assert (first.text, first.flag, first.ending) == ("a", "PASS", Ending.CLEAN)
    assert (second.flag, second.ending) == (None, Ending.TRUNCATED)
    assert second.text.startswith("b and b")


@pytest.mark.parametrize("frozen_prefix", [True, False], ids=["prefixes", "whole"])
def test_the_models_own_generation_config_stays_out_of_it(frozen_prefix):
    """Chat models ship sampling settings and penalties; a call's own config takes over what it leaves open."""
    form = form_of()
    model = random_adapter(base_model(), form, std=0.5).eval()
    prompts = prompts_of(form)
    plain = write_reviews(model, prompts, form, 16, frozen_prefix)
    shipped = model.get_base_model().generation_config
    shipped.update(repetition_penalty=9.0, no_repeat_ngram_size=1, temperature=0.1, do_sample=True, top_k=3)
    before = shipped.to_dict()
    assert write_reviews(model, prompts, form, 16, frozen_prefix) == plain
    assert model.get_base_model().generation_config is shipped
    assert shipped.to_dict() == before
    config = GenerationConfig(max_new_tokens=16, do_sample=False, eos_token_id=form.end_id, pad_token_id=form.pad_id)
    with torch.no_grad():
        ids = model.generate(torch.tensor([prompts[0].input_ids]), generation_config=config)
    text = form.tokenizer.decode(ids[0, len(prompts[0].input_ids) :])
    assert text != plain[0].text, "negative control: these settings do change what is written"


@pytest.mark.parametrize("frozen_prefix", [True, False], ids=["prefixes", "whole"])
@pytest.mark.parametrize("broken", ["everything", "one token that is not asked about", "a flag"])
def test_logits_that_are_not_finite_are_no_review(broken, frozen_prefix):
    form = form_of()
    model = random_adapter(base_model(), form, std=0.5).eval()
    prompts = prompts_of(form)
    assert all(0 <= review.p_fail <= 1 for review in write_reviews(model, prompts, form, 3, frozen_prefix))
    rows = {"everything": slice(None), "one token that is not asked about": 7, "a flag": form.flag_ids[2]}[broken]
    with torch.no_grad():
        model.get_base_model().lm_head.weight[rows] = float("nan")
    with pytest.raises(RankError, match=r"logits are not finite numbers, so there is neither a review nor P\(FAIL\)"):
        write_reviews(model, prompts, form, 3, frozen_prefix)
    with batch_of(model, prompts, form, frozen_prefix) as batch, pytest.raises(RankError, match="are not finite"):
        batch.write(2) if "not asked" in broken else batch.p_fail([form.flag_ids[0]] * len(prompts))
