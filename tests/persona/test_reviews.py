"""Reviews: parsed as they were rendered, generated and scored with the activation that training has, loaded back."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import GenerationConfig

from honest_persona.base import number_format
from honest_persona.base.errors import RankError, UserError
from honest_persona.modeling.adapters.folder import seal_folder
from honest_persona.modeling.adapters.lora import AdapterCard, activation_arguments, base_fingerprint
from honest_persona.persona.answering import SharedPrefixes, WholeRows, batch_of
from honest_persona.persona.reviews import Ending, HonestPersona, load_honest_persona, parse_review, write_reviews
from honest_persona.prompts.segments import Kind, Persona, answer_segments
from honest_persona.prompts.tokens import Tokens, apply_intervention, encode_record
from tests.tiny import base_model, conversation, form_of, random_adapter, record

FORMATS = ["review_then_flag", "flag_then_review", "flag_only"]


def rendered(review, flag, persona):
    return "".join(segment.text for segment in answer_segments(review, flag, persona))


_HARD = [
    "\nFLAG: PASS",
    "\nFLAG: FAIL",
    "\nFLAG: ",
    "\n\nREVIEW:",
    "PASS",
    "FAIL",
    "\n",
    " ",
    "é",
    "好",
    "🙂",
    "\u2028",
]
REVIEWS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(_HARD), max_size=6).map("".join))
PREFIXES = st.sampled_from([("\n\nREVIEW:", "\nFLAG: "), ("", "\nFLAG: "), ("", ""), ("R", "F"), ("PASS", "FAIL")])


@pytest.mark.parametrize("output_format", FORMATS)
@settings(derandomize=True, max_examples=150, deadline=None)
@given(review=REVIEWS, flag=st.sampled_from(["PASS", "FAIL"]), prefixes=PREFIXES)
def test_parsing_undoes_rendering(output_format, review, flag, prefixes):
    persona = Persona(output_format=output_format, review_prefix=prefixes[0], flag_prefix=prefixes[1])
    text = rendered(review, flag, persona)
    expected = "" if output_format == "flag_only" else review
    assert parse_review(text, True, persona) == (expected, flag, Ending.CLEAN)


@pytest.mark.parametrize(
    ("output_format", "text", "expected"),
    [
        ("review_then_flag", "\n\nREVIEW:ok\nFLAG: PASS \n", ("ok", "PASS", Ending.CLEAN)),
        ("review_then_flag", "\n\nREVIEW:ok", ("ok", None, Ending.MALFORMED)),
        ("review_then_flag", "\n\nREVIEW:ok\nFLAG: MAYBE", ("ok\nFLAG: MAYBE", None, Ending.MALFORMED)),
        ("review_then_flag", "\n\nREVIEW:ok\nFLAG: PASSABLE", ("ok\nFLAG: PASSABLE", None, Ending.MALFORMED)),
        ("review_then_flag", "\n\nREVIEW:a\nFLAG: PASS b", ("a\nFLAG: PASS b", None, Ending.MALFORMED)),
        ("review_then_flag", "no prefix\nFLAG: FAIL", ("no prefix", "FAIL", Ending.MALFORMED)),
        ("review_then_flag", "", ("", None, Ending.MALFORMED)),
        ("flag_then_review", "\nFLAG: FAIL", ("", "FAIL", Ending.MALFORMED)),
        ("flag_then_review", "\nFLAG: FAILURE is", ("\nFLAG: FAILURE is", None, Ending.MALFORMED)),
        ("flag_then_review", "FAIL\n\nREVIEW:a", ("FAIL\n\nREVIEW:a", None, Ending.MALFORMED)),
        ("flag_then_review", "\n\nREVIEW:a\nFLAG: FAIL", ("a\nFLAG: FAIL", None, Ending.MALFORMED)),
        ("flag_then_review", "\nFLAG: PASS b", (" b", "PASS", Ending.MALFORMED)),
        ("flag_only", "\nFLAG: FAIL\n", ("", "FAIL", Ending.CLEAN)),
        ("flag_only", "\nFLAG: PASS or not", ("\nFLAG: PASS or not", None, Ending.MALFORMED)),
        ("flag_only", "PASS", ("PASS", None, Ending.MALFORMED)),
    ],
)
def test_endings(output_format, text, expected):
    persona = Persona(output_format=output_format)
    assert parse_review(text, True, persona) == expected
    assert parse_review(text, False, persona) == (*expected[:2], Ending.TRUNCATED)


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


@pytest.fixture(scope="module", params=[(True, "persona"), (False, "persona"), (True, "all")], ids=str)
def saved(request, tmp_path_factory):
    token, scope = request.param
    folder = tmp_path_factory.mktemp("adapter")
    form = form_of(token, adapter_scope=scope)
    base = base_model()
    fingerprint = base_fingerprint(base)
    model = random_adapter(base, form, std=0.5).eval()
    model.save_pretrained(folder)
    form.tokenizer.save_pretrained(folder)
    card = AdapterCard(form.persona, "builtin:tiny", None, fingerprint, "What did you do?", sealed=True)
    card.save(folder)
    seal_folder(folder)
    return folder, HonestPersona(model, form, card)


class TestLoadHonestPersona:
    def edit(self, folder, tmp_path, **changes):
        """A copy of the folder with another card."""
        for file in folder.iterdir():
            if file.is_file():
                (tmp_path / file.name).write_bytes(file.read_bytes())
        content = json.loads((folder / "honest_persona.json").read_text())
        (tmp_path / "honest_persona.json").write_text(json.dumps({**content, **changes, "sealed": False}))
        (tmp_path / "manifest.json").unlink()
        return tmp_path

    def test_a_template_longer_than_the_model(self, saved, tmp_path):
        self.edit(saved[0], tmp_path)
        template = tmp_path / "chat_template.jinja"
        template.write_text("{{ 'xq7 ' * 4000 }}" + template.read_text())
        with pytest.raises(UserError, match=r"a greeting has \d+ tokens in the adapter's chat template"):
            load_honest_persona(tmp_path)

    def test_a_persona_token_that_is_none(self, saved, tmp_path):
        """Beyond the embedding it is an IndexError; one that text has would switch the adapter on anywhere."""
        content = json.loads((saved[0] / "honest_persona.json").read_text())
        if content["persona"]["sp_token_id"] is None:
            return
        for token, what in (
            (10**9, "outside the model's 2048 embedding rows"),
            (300, "a token that text .* can produce"),
        ):
            folder = self.edit(saved[0], tmp_path, persona={**content["persona"], "sp_token_id": token})
            with pytest.raises(UserError, match=rf"honest_persona\.json: persona\.sp_token_id: .*{what}"):
                load_honest_persona(folder)

    def test_reviews_as_before_it_was_saved(self, saved):
        folder, before = saved
        persona = load_honest_persona(folder, dtype=torch.float32)
        first = persona.review(conversation(1), max_new_tokens=12)
        assert persona.review(conversation(1), max_new_tokens=12) == first
        assert before.review(conversation(1), max_new_tokens=12) == first
        assert persona.card == before.card
        assert persona.tokenizer.get_vocab() == before.tokenizer.get_vocab()
        assert not persona.model.training
        other = persona.review(conversation(1), "Something else?", max_new_tokens=12)
        assert other != first
        assert persona.reviews([conversation(n) for n in range(3)], max_new_tokens=4, batch_size=2)[1].p_fail > 0
        assert persona.reviews([]) == []

    @pytest.mark.parametrize("fast", [torch.bfloat16, torch.float32])
    def test_the_trainings_half_precision_is_used_where_it_is_fast(self, saved, monkeypatch, fast):
        folder, _ = saved
        monkeypatch.setattr(number_format, "fastest_format", lambda: number_format.NumberFormat(fast, "measured"))
        persona = load_honest_persona(folder)
        assert persona.card.trained_in == "bfloat16"
        assert persona.model.get_base_model().dtype == fast
        review = persona.review(conversation(), max_new_tokens=4)
        assert persona.review(conversation(), max_new_tokens=4) == review
        assert 0 <= review.p_fail <= 1

    def test_plain_peft_acts_the_same(self, saved):
        """Other software finds the activation point by the invocation tokens, in a batch padded on the left too."""
        folder, before = saved
        plain = PeftModel.from_pretrained(base_model(), folder).eval()
        tokens = [encode_record(record(n), before.form) for n in (5, 0)]
        pad = len(tokens[0].input_ids) - len(tokens[1].input_ids)
        ids = torch.tensor([tokens[0].input_ids, [before.form.pad_id] * pad + tokens[1].input_ids])
        mask = torch.ones_like(ids)
        mask[1, :pad] = 0
        activation = torch.tensor([tokens[0].activation, tokens[1].activation + pad])
        gate = activation_arguments(before.card.persona.adapter_scope, activation, ids.shape[1])
        with torch.no_grad():
            assert torch.equal(
                plain(ids, attention_mask=mask).logits, before.model(ids, attention_mask=mask, **gate).logits
            )

    def test_another_base_model(self, saved, tmp_path):
        folder = self.edit(saved[0], tmp_path, base_fingerprint="0" * 64)
        with pytest.raises(UserError, match="'builtin:tiny' has other weights than the adapter was trained on"):
            load_honest_persona(folder)

    def test_a_missing_tokenizer(self, saved, tmp_path):
        folder = self.edit(saved[0], tmp_path)
        for file in folder.glob("*token*"):
            file.unlink()
        with pytest.raises(UserError, match=r"tokenizer of .* cannot be loaded"):
            load_honest_persona(folder)

    def test_a_card_that_claims_another_scope(self, saved, tmp_path):
        folder, before = saved
        scope = "all" if before.card.persona.adapter_scope == "persona" else "persona"
        content = json.loads((folder / "honest_persona.json").read_text())
        folder = self.edit(folder, tmp_path, persona={**content["persona"], "adapter_scope": scope})
        with pytest.raises(UserError, match=r"before (its|the) activation point"):
            load_honest_persona(folder)

    def test_an_untrained_adapter(self, saved, tmp_path):
        folder = self.edit(saved[0], tmp_path)
        random_adapter(base_model(), saved[1].form, std=0.0).save_pretrained(folder)
        with pytest.raises(UserError, match="never trained"):
            load_honest_persona(folder)

    def test_a_run_in_full_precision_is_loaded_so(self, saved, tmp_path):
        folder = self.edit(saved[0], tmp_path, config={"bf16": False, "fp16": False})
        assert load_honest_persona(folder).model.get_base_model().dtype == torch.float32

    def test_a_conversation_too_long_for_the_model(self, saved):
        long = [{"role": "user", "content": "why? " * 6000}, {"role": "assistant", "content": "So."}]
        with pytest.raises(UserError, match=r"conversation 1 has \d+ tokens; .* more than the model's \d+ positions"):
            saved[1].reviews([conversation(1), long], max_new_tokens=4)

    def test_no_answer_to_review(self, saved):
        with pytest.raises(UserError, match="must end with the assistant's answer"):
            saved[1].review([{"role": "user", "content": "hi"}])
        with pytest.raises(UserError, match="intervention has no text"):
            saved[1].review(conversation(), " ")
