"""Counting, sharding over ranks, and what an evaluation must put back. Reviews come from a stub where they can."""

import gc
import tracemalloc
from types import SimpleNamespace

import pytest
import torch

from honest_persona.evaluation import shares, suite
from honest_persona.evaluation.samples import read_samples
from honest_persona.evaluation.sets import SAMPLES_FILE, NewSet
from honest_persona.evaluation.settings import EvalSettings
from honest_persona.evaluation.suite import Results, evaluate_records
from honest_persona.modeling.adapters.lora import activation_arguments
from honest_persona.persona.batches import batches, place_of
from honest_persona.persona.parsing import Ending, Review
from honest_persona.prompts.tokens import TokenFormat, apply_intervention, encode_record, prompt_of
from tests.evaluation.ranks import Ranks
from tests.tiny import base_model, by_batches, form_of, random_adapter, record


def flag_of(said):
    return Review(f"review of {said}", said, 0.75, Ending.CLEAN if said else Ending.MALFORMED)


@pytest.fixture
def form():
    return form_of()


@pytest.fixture
def model(form):
    return random_adapter(base_model(), form)


@pytest.fixture
def flags(monkeypatch, form):
    """`flags[record] = PASS | FAIL | None` is what the stub says of that record; `flags.batches` what it was given."""
    said = SimpleNamespace(by_prompt={}, batches=[])

    def stub(_, prompts, *_args):
        said.batches.append([tuple(p.input_ids) for p in prompts])
        return [flag_of(said.by_prompt[tuple(p.input_ids)]) for p in prompts]

    def will_say(chosen, flag):
        prompt = apply_intervention(chosen.messages(), chosen.intervention, form)
        said.by_prompt[tuple(prompt.input_ids)] = flag
        return chosen

    monkeypatch.setattr(suite, "each_review", by_batches(stub))
    said.will_say = will_say
    return said


def make(flags, n, topic, variant, truth, flag, item):
    """A record with a prompt of its own, and what the stub says of it."""
    chosen = record(n, topic=topic, variant=variant, flag=truth, item_id=item, system=f"You are number {n}.")
    return flags.will_say(chosen, flag)


def test_rows_and_counts(flags, form, model):
    within = [
        # sycophancy: one FAIL in A of four records; reward_hacks: one record in all, so averages of topics are wrong
        make(flags, 0, "sycophancy", "A", "PASS", "PASS", "i0"),
        make(flags, 1, "sycophancy", "A", "FAIL", "FAIL", "i1"),
        make(flags, 2, "sycophancy", "B", "FAIL", "PASS", "i0"),
        make(flags, 3, "sycophancy", "B", "FAIL", None, "i0"),
        make(flags, 4, "reward_hacks", "B", "PASS", "FAIL", "i2"),
    ]
    across = [make(flags, 5, "influence_seeking", "A", "PASS", "PASS", "i3")]
    results = evaluate_records(model, {"across": across, "within": within}, form, EvalSettings(2, 4))
    keys = [(r.part, r.topic, r.variant) for r in results.rows]
    assert keys == [
        *[("within", "all", v) for v in ("all", "A", "B")],
        *[("within", "reward_hacks", v) for v in ("all", "B")],
        *[("within", "sycophancy", v) for v in ("all", "A", "B")],
        *[("across", "all", v) for v in ("all", "A")],
        *[("across", "influence_seeking", v) for v in ("all", "A")],
    ]
    whole = results.row("within")
    assert (whole.n, whole.n_items) == (5, 3)
    assert whole.counts == {
        "fail_flagged": 1,
        "fail_passed": 1,
        "pass_flagged": 1,
        "pass_passed": 1,
        "unparsable": 1,
    }
    for total in (r for r in results.rows if r.topic == "all" and r.variant == "all"):
        parts = [r for r in results.rows if r.part == total.part and r.topic != "all" and r.variant != "all"]
        assert total.n == sum(r.n for r in parts)
        assert total.counts == {k: sum(r.counts[k] for r in parts) for k in total.counts}, "sums of counts"
    # FAIL 1 of 2, PASS 1 of 2; the mean of the topics' accuracies (2/3 and 0) would be 1/3
    assert whole.rates["balanced_accuracy"] == 0.5
    assert whole.rates["accuracy"] == 0.5
    assert whole.rates["unparsable_frac"] == 0.2
    # the variant alone: FAIL r2 r3 of three, PASS r0 of two; its unparsable ones do not exist
    assert whole.variant_only_balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    in_a = results.row("within", variant="A")
    assert (in_a.n, in_a.n_items, in_a.rates["balanced_accuracy"]) == (2, 2, 1.0)
    assert in_a.variant_only_balanced_accuracy == 0.5, "within a variant the variant says nothing"
    lone = results.row("within", "reward_hacks")
    assert lone.rates["true_positive_rate"] is None
    assert lone.rates["balanced_accuracy"] is None
    assert set(lone.intervals.values()) == {None}, "one item has no interval"
    same_item = results.row("within", "sycophancy", "B")
    assert (same_item.n, same_item.n_items) == (2, 1)
    assert set(same_item.intervals.values()) == {None}, "clustered by item"
    assert results.too_long == {}

    assert [s.record_id for s in results.samples] == [f"r{n}" for n in (5, 0, 1, 2, 3, 4)], "in the order given"
    by_id = {s.record_id: s for s in results.samples}
    assert [by_id[f"r{n}"].flag for n in range(5)] == ["PASS", "FAIL", "PASS", None, "FAIL"]
    assert (by_id["r1"].part, by_id["r1"].truth, by_id["r1"].ending) == ("within", "FAIL", "clean")
    assert (by_id["r3"].ending, by_id["r3"].review) == ("malformed", "review of None")
    assert by_id["r1"].reference_review == within[1].review
    assert sum(len(b) for b in flags.batches) == 6
    assert max(len(b) for b in flags.batches) == 2

    scalars = results.scalars()
    assert scalars["within/all/balanced_accuracy"] == 0.5
    assert scalars["within/all/n"] == 5
    assert scalars["within/all/variant_A/balanced_accuracy"] == 1.0
    assert scalars["within/sycophancy/variant_B/true_positive_rate"] == 0.0
    assert "within/reward_hacks/true_positive_rate" not in scalars, "undefined rates are left out"
    assert all(isinstance(v, int | float) for v in scalars.values())


def test_too_long_records_are_counted_and_left_out(flags, form, model):
    records = [make(flags, n, "sycophancy", "A", "PASS", "PASS", f"i{n}") for n in range(4)]
    lengths = [len(apply_intervention(r.messages(), r.intervention, form).input_ids) for r in records]
    longest = max(lengths)
    assert lengths.count(longest) == 1
    parts = {"within": records, "across": records[:2]}

    def left_out(seq_len):
        results = evaluate_records(model, parts, form, EvalSettings(8, 10, seq_len))
        assert len(results.samples) + sum(results.too_long.values()) == 6
        return results.too_long

    assert left_out(None) == {}
    assert left_out(longest + 10) == {}
    assert left_out(longest + 9) == {"within": 1}
    assert left_out(10) == {"within": 4, "across": 2}


@pytest.mark.parametrize("parts", [{}, {"within": []}, {"within": [], "across": []}])
def test_nothing_to_evaluate(flags, form, model, parts):
    results = evaluate_records(model, parts, form, EvalSettings(4, 4))
    assert results == Results([], [], {})
    assert results.scalars() == {}
    assert flags.batches == []


class TestWhatIsPutBack:
    def states(self, model):
        return (
            torch.get_rng_state().tolist(),
            [m.training for m in model.modules()],
            [getattr(m, "gradient_checkpointing", None) for m in model.modules()],
            [p.requires_grad for p in model.parameters()],
            [p.grad for p in model.parameters()],
        )

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("checkpointed", [True, False])
    def test_states(self, form, model, monkeypatch, training, checkpointed):
        model.train(training)
        model.get_base_model().model.layers[0].mlp.eval()  # a module that has a mode of its own
        if checkpointed:
            model.activation_checkpointing_enable()
        seen = []

        def stub(model, prompts, *_):
            seen.append(any(m.training or getattr(m, "gradient_checkpointing", False) for m in model.modules()))
            torch.rand(3)
            return [flag_of("PASS")] * len(prompts)

        monkeypatch.setattr(suite, "each_review", by_batches(stub))
        torch.manual_seed(7)
        before = self.states(model)
        evaluate_records(model, {"within": [record(0)]}, form, EvalSettings(4, 4))
        assert seen == [False], "eval mode, without checkpointing"
        assert self.states(model) == before

        def fail(*_):
            torch.rand(3)
            raise RuntimeError("out of memory")

        monkeypatch.setattr(suite, "each_review", by_batches(fail))
        with pytest.raises(RuntimeError, match="out of memory"):
            evaluate_records(model, {"within": [record(0)]}, form, EvalSettings(4, 4))
        assert self.states(model) == before

    @pytest.mark.parametrize("checkpointed", [True, False])
    def test_training_goes_on_bit_equal(self, form, checkpointed):
        """Two steps with dropout, with and without a real evaluation between them."""
        row = encode_record(record(1), form)
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        gate = activation_arguments("persona", torch.tensor([row.activation]), len(row.input_ids))

        def losses(evaluated):
            model = random_adapter(base_model(), form).train()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.2
            for layer in model.get_base_model().model.layers:
                layer.self_attn.attention_dropout = 0.2
            if checkpointed:
                model.activation_checkpointing_enable()
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
            torch.manual_seed(0)
            out = []
            for step in range(3):
                loss = model(ids, labels=labels, **gate, use_cache=False).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                out.append(loss.item())
                if evaluated and step == 0:
                    results = evaluate_records(
                        model, {"within": [record(n) for n in range(3)]}, form, EvalSettings(2, 3)
                    )
                    assert results.row("within").n == 3
            return out

        plain = losses(False)
        assert losses(True) == plain
        assert len(set(plain)) == 3


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 5, 8])
def test_sharding(monkeypatch, form, model, n, world, batch_size, tmp_path):
    """Every record is reviewed, every rank runs equally many batches, and every rank has the whole result."""
    records = [record(i, system=f"You are number {i % 3}.") for i in range(n)]
    number = {tuple(prompt_of(r, form).input_ids): i for i, r in enumerate(records)}
    ranks = Ranks(world)
    given = {rank: [] for rank in range(world)}

    def stub(_, chosen, *_args):
        assert 0 < len(chosen) <= batch_size
        given[ranks.local.rank].append([number[tuple(p.input_ids)] for p in chosen])
        said = [f"{number[tuple(p.input_ids)]} by {ranks.local.rank}" for p in chosen]
        return [Review(text, "PASS", 0.25, Ending.CLEAN) for text in said]

    monkeypatch.setattr(suite, "each_review", by_batches(stub))
    ranks.patch(monkeypatch, suite, shares)
    new = NewSet("", tmp_path)
    results = ranks.run(
        lambda: evaluate_records(model, {"within": records}, form, EvalSettings(batch_size, 4), into=new)
    )
    assert all(result == results[0] for result in results)
    assert [s.record_id for s in results[0].samples] == [r.id for r in records], "in the order given"
    places = [place_of(prompt_of(r, form)) for r in records]
    assert [given[rank] for rank in range(world)] == batches(places, batch_size, world)
    sizes = {rank: [len(batch) for batch in chosen] for rank, chosen in given.items()}
    assert all(size == sizes[0] for size in sizes.values()), "the same batches on every rank"
    assert len(sizes[0]) == -(-n // (world * batch_size))
    assert sum(sizes[0]) * world < n + world, "no more copies than it takes"
    assert {i for chosen in given.values() for batch in chosen for i in batch} == set(range(n))
    written = {s.record_id: s.review for s in read_samples(tmp_path / SAMPLES_FILE)}
    assert len(written) == n, "rank 0 wrote each once"
    for i, r in enumerate(records):
        first = min(rank for rank in range(world) if any(i in batch for batch in given[rank]))
        assert written[r.id] == f"{i} by {first}", "of a copy, the first rank's review counts"


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_give_what_one_gives(monkeypatch, flags, form, model, world):
    truths = ["PASS", "FAIL", "FAIL", "PASS", "FAIL"]
    records = [make(flags, n, "sycophancy", "AB"[n % 2], truths[n], truths[-n], f"i{n // 2}") for n in range(5)]
    alone = evaluate_records(model, {"within": records}, form, EvalSettings(2, 4))
    ranks = Ranks(world)
    ranks.patch(monkeypatch, suite, shares)
    assert ranks.run(lambda: evaluate_records(model, {"within": records}, form, EvalSettings(2, 4))) == [alone] * world


def test_samples_go_to_a_file_as_they_come(flags, form, model, tmp_path, monkeypatch):
    records = [make(flags, n, "sycophancy", "AB"[n % 2], "PASS", "PASS", f"i{n}") for n in range(5)]
    new = NewSet("", tmp_path / "eval")
    file = new.folder / SAMPLES_FILE
    whole = evaluate_records(model, {"within": records}, form, EvalSettings(2, 4))
    lean = evaluate_records(model, {"within": records}, form, EvalSettings(2, 4), into=new)
    assert lean.rows == whole.rows
    assert lean.samples == [s.without_texts() for s in whole.samples]
    assert {s.review for s in lean.samples} == {""}
    by_id = {s.record_id: s for s in read_samples(file)}
    for sample in whole.samples:
        read = by_id[sample.record_id]
        shown = [(kind, list(texts)) for kind, texts in read.prompt]
        assert (read.review, shown) == (sample.review, [(k, list(t)) for k, t in sample.prompt])
    first = by_id["r0"]
    assert "".join(text for kind, texts in first.prompt if kind == "SYSTEM" for text in texts).count("0") == 1
    assert [kind for kind, _ in first.prompt][-2:] == ["PERSONA_TOKEN", "INTERVENTION"]
    before = file.read_bytes()

    # stopped on its way, an evaluation leaves the whole file of the one before, and nothing of its own
    said = list(records)

    def fail_late(_, prompts, *args):
        if len(said) <= 3:
            raise RuntimeError("out of memory")
        said.pop()
        return [flag_of("FAIL")] * len(prompts)

    monkeypatch.setattr(suite, "each_review", by_batches(fail_late))
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate_records(model, {"within": records}, form, EvalSettings(2, 4), into=new)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]

    # so does one that is told to stop, after the batch at hand
    monkeypatch.setattr(suite, "each_review", by_batches(lambda _, prompts, *args: [flag_of("PASS")] * len(prompts)))
    answers = iter([False, True])
    with pytest.raises(suite.Stopped):
        evaluate_records(model, {"within": records}, form, EvalSettings(2, 4), into=new, stop=lambda: next(answers))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("settings", [EvalSettings(2, 4), EvalSettings(3, 4, seq_len=4096)], ids=str)
def test_a_record_is_encoded_once(form, model, tmp_path, monkeypatch, settings):
    encode, encoded = TokenFormat.encode, []
    monkeypatch.setattr(TokenFormat, "encode", lambda *args: encoded.append(args) or encode(*args))
    new, parts = NewSet("", tmp_path), {"within": [record(n) for n in range(5)]}
    results = evaluate_records(model, parts, form, settings, into=new)
    assert len(encoded) == len(results.samples) == 5


def test_memory_grows_by_the_prompts_ids_alone(flags, form, model, tmp_path, monkeypatch):
    """A record leaves 5 bytes per token of its prompt and some hundred; its line in the file is far longer."""
    monkeypatch.setattr(suite, "summarize", lambda *_: [])
    monkeypatch.setattr(suite, "each_review", by_batches(lambda _, prompts, *args: [flag_of("PASS")] * len(prompts)))
    peaks = {}
    for n in (20, 40):
        records = [record(i, response=f"{i:03} " * 1000, item_id=f"i{i % 10}") for i in range(n)]
        evaluate_records(model, {"within": records[:6]}, form, EvalSettings(2, 4), into=NewSet("", tmp_path / "warm"))
        gc.collect()
        tracemalloc.start()
        evaluate_records(model, {"within": records}, form, EvalSettings(2, 4), into=NewSet("", tmp_path))
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    per_record = (peaks[40] - peaks[20]) / 20
    length = (tmp_path / SAMPLES_FILE).stat().st_size / 40
    n_tokens = sum(len(prompt_of(r, form).input_ids) for r in records[20:]) / 20
    assert length > 12_500
    assert per_record < 5 * n_tokens + 4_000 < 8 * n_tokens, (peaks, n_tokens)


def test_equal_prompts_of_parts_are_reviewed_once(flags, form, model, tmp_path):
    records = [make(flags, n, "sycophancy", "AB"[n % 2], "PASS", "FAIL" if n else "PASS", f"i{n}") for n in range(3)]
    benign = [r.model_copy(update={"id": f"{r.id}-benign"}) for r in records[:2]]
    parts = {"within": records, "within: benign": benign}
    results = evaluate_records(model, parts, form, EvalSettings(2, 4), into=NewSet("", tmp_path))
    assert sum(map(len, flags.batches)) == 3
    assert [(s.part, s.record_id, s.flag) for s in results.samples] == [
        ("within", "r0", "PASS"),
        ("within", "r1", "FAIL"),
        ("within", "r2", "FAIL"),
        ("within: benign", "r0-benign", "PASS"),
        ("within: benign", "r1-benign", "FAIL"),
    ]
    assert len(list(read_samples(tmp_path / SAMPLES_FILE))) == 5
    assert results.row("within: benign").n == 2


def test_results_in_any_order(monkeypatch):
    """Ranks gather as often as they have batches, whatever order their results come in."""
    places, ranks, closed = [(0, "", n, "") for n in range(7)], Ranks(2), []
    ranks.patch(monkeypatch, shares)

    def backwards(mine):
        counted = [i for batch in mine for i in batch]
        try:
            for n in reversed(range(len(counted))):
                yield n, f"{counted[n]}"
        finally:
            closed.append(True)

    def gathered():
        return list(shares.on_all_ranks(places, 2, backwards))

    first, second = ranks.run(gathered)
    assert first == second
    assert len(first) == 2
    assert {i: said for some in first for i, said in some.items()} == {i: str(i) for i in range(7)}
    assert closed == [True] * 2
