"""Reviews in slots are those of batches; what prompts share is run once, wherever batches are cut."""

import pytest
import torch

from honest_persona.modeling.adapters.tuning import gate_of
from honest_persona.modeling.prefix.cache import PrefixCache
from honest_persona.modeling.prefix.packed_attention import packed_attention
from honest_persona.persona import continuing, in_turn
from honest_persona.persona.answering import write_reviews
from honest_persona.persona.decoding.prefixes import joined, row_of
from honest_persona.persona.in_turn import each_review
from tests.persona.test_answering import prompts_of, run
from tests.tiny import base_model, form_of, random_adapter

NUMBERS = (0, 0, 0, 1, 1, 4, 4, 4, 4, 3)


def set_up(family="builtin", **persona):
    form = form_of(**persona)
    return random_adapter(base_model(family), form, family, std=0.5).eval(), prompts_of(form, NUMBERS), form


def reviews(model, prompts, form, batch_size, n_tokens=24, *how):
    batches = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
    pairs = list(each_review(model, iter(batches), form, len(prompts), batch_size, n_tokens, *how))
    assert sorted(place for place, _ in pairs) == list(range(len(prompts)))
    return [review for _, review in sorted(pairs, key=lambda pair: pair[0])], [place for place, _ in pairs]


def assert_same(found, expected):
    assert [(r.text, r.flag, r.ending) for r in found] == [(r.text, r.flag, r.ending) for r in expected]
    assert [r.p_fail for r in found] == pytest.approx([r.p_fail for r in expected], abs=1e-6)


@pytest.fixture
def prefixes(monkeypatch):
    """Transcripts per call of `run_prefix`."""
    calls, run_prefix = [], continuing.run_prefix

    def counted(model, input_ids, *args, **kwargs):
        calls.append(len(input_ids))
        return run_prefix(model, input_ids, *args, **kwargs)

    monkeypatch.setattr(continuing, "run_prefix", counted)
    return calls


def ended_early(model, prompts, form, n_tokens=24):
    """Let something that many reviews write be the end of the turn."""
    written, _, _ = run(model, prompts, form, False, n_tokens)
    places = {t: {row.index(t) for row in written if t in row} for row in written for t in row}
    form.__dict__["end_id"] = max(places, key=lambda t: (len(places[t]), t))


@pytest.mark.parametrize("output_format", ["review_then_flag", "flag_then_review"])
@pytest.mark.parametrize(("family", "scope"), [("builtin", "persona"), ("builtin", "all"), ("mistral", "persona")])
def test_reviews(family, scope, output_format):
    model, prompts, form = set_up(family, adapter_scope=scope, output_format=output_format)
    ended_early(model, prompts, form)
    expected = write_reviews(model, prompts, form, 24, frozen_prefix=False)
    assert len({r.ending for r in expected}) == 2 or len({len(r.text) for r in expected}) > 3
    for batch_size in (1, 3, 10):
        found, order = reviews(model, prompts, form, batch_size)
        assert_same(found, expected)
        assert (order != sorted(order)) or batch_size == 1, "as they end"


@pytest.mark.parametrize("cached", [False, True])
def test_a_transcript_is_run_once_wherever_batches_are_cut(prefixes, cached):
    model, prompts, form = set_up()
    expected = write_reviews(model, prompts, form, 8, frozen_prefix=False)
    for batch_size in (1, 2, 3, 10):
        prefixes.clear()
        cache = PrefixCache("ram", 2**24, "this model") if cached else None
        found, _ = reviews(model, prompts, form, batch_size, 8, True, cache)
        assert_same(found, expected)
        assert sum(prefixes) == 4, batch_size
        if cache:
            prefixes.clear()
            assert_same(reviews(model, prompts, form, batch_size, 8, True, cache)[0], expected)
            assert not prefixes, "the next heavy log runs none"


def test_batches_where_ranks_must_keep_step(monkeypatch):
    """With sharded weights, a cache that ranks ask together, or a model that slots do not suit."""
    model, prompts, form = set_up()
    expected = write_reviews(model, prompts, form, 8)
    written = []
    monkeypatch.setattr(in_turn, "write_reviews", lambda *args: written.append(len(args[1])) or write_reviews(*args))
    together = PrefixCache("ram", 2**24, "this model", agree=lambda here: here)
    assert together.together
    assert_same(reviews(model, prompts, form, 4, 8, True, together)[0], expected)
    assert written == [4, 4, 2]
    monkeypatch.setattr(in_turn, "in_slots", lambda _: False)
    assert reviews(model, prompts, form, 4, 8)[1] == list(range(10))
    assert written == [4, 4, 2] * 2
    assert_same(reviews(model, prompts, form, 4, 8, False)[0], expected)
    assert written == [4, 4, 2] * 3


@pytest.mark.parametrize("family", ["builtin", "mistral"])
def test_a_heavy_log_of_a_training_without_padding_writes_in_slots(family, monkeypatch):
    model, prompts, form = set_up(family)
    ended_early(model, prompts, form)
    expected = write_reviews(model, prompts, form, 24, frozen_prefix=False)
    monkeypatch.setattr(in_turn, "write_reviews", None)
    with packed_attention(model):
        assert_same(reviews(model, prompts, form, 3)[0], expected)


def test_prompts_are_asked_for_as_they_are_needed():
    model, prompts, form = set_up()
    asked = []

    def batches():
        for i in range(0, 10, 2):
            asked.append(i)
            yield prompts[i : i + 2]

    found = each_review(model, batches(), form, 10, 2, 8)
    next(found)
    assert asked == [0]
    assert gate_of(model) is None, "meanwhile the adapter is not gated"
    found.close()
    assert gate_of(model)
    head = model.get_base_model().get_output_embeddings()
    assert not head._forward_hooks
    assert not head._forward_pre_hooks


def test_prefixes_apart_and_together():
    model, prompts, form = set_up()
    whole = continuing.OnPrefixes(model, prompts, form)
    n = len(whole.prefix.mask)
    rows = [row_of(whole.prefix, i) for i in range(n)]
    assert [row.mask.shape[1] for row in rows] == whole.prefix.mask.sum(1).tolist(), "without padding"
    again = joined([rows[0], joined(rows[1:])])
    assert torch.equal(again.mask, whole.prefix.mask)
    shown = whole.prefix.mask[:, None, :, None].bool()
    for layer, expected in zip(again.layers, whole.prefix.layers, strict=True):
        for a, b in zip(layer, expected, strict=True):
            assert torch.equal(a * shown, b * shown)
