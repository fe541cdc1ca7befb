"""Batches: every row once, steps that no layout changes, budgets kept, ranks in step, little padding."""

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from honest_persona.config.load import load_config
from honest_persona.config.persona import Persona
from honest_persona.prompts.collator import PersonaCollator, SplitCollator
from honest_persona.prompts.persona_token import reserved_ids
from honest_persona.prompts.prepare import prepare
from honest_persona.prompts.rows import training_rows
from honest_persona.prompts.tokens import IGNORED, TokenFormat, apply_intervention, encode_record
from honest_persona.training.batching import sampler
from honest_persona.training.batching.lengths import SUFFIX_COST, Lengths
from honest_persona.training.batching.sampler import PersonaBatches, RowsWithBlanks, fill
from tests.tiny import form_of, record


def lengths_of(groups, order=None):
    """Lengths of groups (prefix length, suffix lengths), their rows in the order given."""
    rows = [(prefix, suffix, number) for number, (prefix, suffixes) in enumerate(groups) for suffix in suffixes]
    return Lengths(*map(np.array, zip(*(rows[i] for i in order or range(len(rows))), strict=True)))


@st.composite
def some_lengths(draw, most_rows=5):
    """Up to 25 transcripts with 1 to `most_rows` rows each, mixed up."""
    suffixes = st.lists(st.integers(1, 40), min_size=1, max_size=most_rows)
    groups = draw(st.lists(st.tuples(st.integers(1, 90), suffixes), min_size=1, max_size=25))
    return lengths_of(groups, draw(st.permutations(range(sum(len(rows) for _, rows in groups)))))


def realistic(n_transcripts=600, seed=0):
    """As ragged as real data: a log-normal prefix, one to four suffixes."""
    rng = np.random.default_rng(seed)
    prefix = rng.lognormal(6.7, 0.7, n_transcripts).clip(50, 3500).astype(int)
    return lengths_of([(p, rng.integers(140, 400, rng.integers(1, 5))) for p in prefix])


def batches_of(lengths, batch_size=8, world=1, rank=0, seed=42, epochs=2, **layout):
    if not {"tokens_per_batch", "micro_batch"} & layout.keys():
        layout["tokens_per_batch"] = 200
    return PersonaBatches(lengths, batch_size, world=world, rank=rank, seed=seed, epochs=epochs, **layout)


def yielded(batches, epoch=0):
    batches.set_epoch(epoch)
    return list(batches)


def tokens_of(lengths, rows, packed=False):
    """What a micro-batch runs, padded to one length or not: each transcript's prefix once, and the suffixes."""
    rows = [i if i >= 0 else ~i for i in rows]
    if packed:
        return sum({lengths.transcript[i]: lengths.prefix[i] for i in rows}.values()), sum(lengths.suffix[rows])
    n_transcripts = len({lengths.transcript[i] for i in rows})
    return n_transcripts * max(lengths.prefix[rows]), len(rows) * max(lengths.suffix[rows])


_SIZES = [*({"tokens_per_batch": n} for n in (1, 150, 10**6)), {"micro_batch": 1}, {"micro_batch": 2}]
LAYOUTS = st.sampled_from([{**size, "packed": packed} for size in _SIZES for packed in (False, True)])


@given(some_lengths(), st.sampled_from([1, 2, 4]), LAYOUTS, st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_row_once_and_ranks_in_step(lengths, world, layout, drop_last):
    n = len(lengths.prefix)
    if drop_last and n < 8:
        return
    ranks = [batches_of(lengths, world=world, rank=rank, drop_last=drop_last, **layout) for rank in range(world)]
    accumulation = ranks[0].accumulation
    for epoch in range(2):
        per_rank = [yielded(batches, epoch) for batches in ranks]
        n_steps = n // 8 if drop_last else -(-n // 8)
        assert {len(micro_batches) for micro_batches in per_rank} == {len(ranks[0])} == {n_steps * accumulation}
        assert all(micro_batch for micro_batches in per_rank for micro_batch in micro_batches)
        seen = Counter(i for micro_batches in per_rank for rows in micro_batches for i in rows)
        real = {i for i in seen if i >= 0}
        assert all(seen[i] == 1 for i in real)
        assert len(real) == (n_steps * 8 if drop_last else n)
        last = [rows for micro_batches in per_rank for rows in micro_batches[-accumulation:]]
        blanks = seen.total() - len(real)
        assert blanks == sum(i < 0 for rows in last for i in rows), "blanks stand in the last step only"
        n_last = sum(i >= 0 for rows in last for i in rows)
        assert blanks == max(0, accumulation * world - n_last), "and only where it has too few rows"
        assert {~i for rows in last for i in rows if i < 0} <= {i for rows in last for i in rows if i >= 0}


@given(some_lengths(), st.integers(0, 3))
@settings(deadline=None, max_examples=15)
def test_no_layout_changes_which_rows_make_a_step(lengths, seed):
    expected = [sorted(rows) for rows in batches_of(lengths, seed=seed).step_rows(1)]
    assert all(len(rows) == 8 for rows in expected[:-1])
    for world in (1, 2, 4):
        for size in (
            {"tokens_per_batch": 60},
            {"tokens_per_batch": 400},
            {"tokens_per_batch": 400, "packed": True},
            {"micro_batch": 1},
            {"micro_batch": 2},
        ):
            ranks = [batches_of(lengths, world=world, rank=rank, seed=seed, **size) for rank in range(world)]
            n = ranks[0].accumulation
            per_rank = [yielded(batches, 1) for batches in ranks]
            steps = [
                sorted(i for micro_batches in per_rank for rows in micro_batches[at : at + n] for i in rows if i >= 0)
                for at in range(0, len(ranks[0]), n)
            ]
            assert steps == expected


def test_the_order_is_a_seeded_shuffle():
    lengths = realistic(100)
    first = batches_of(lengths)
    assert yielded(first, 0) == yielded(batches_of(lengths), 0)
    assert yielded(first, 1) == yielded(batches_of(lengths), 1), "set_epoch alone decides, not what ran before"
    assert first.step_rows(0) != first.step_rows(1)
    assert first.step_rows(0) != batches_of(lengths, seed=43).step_rows(0)
    assert batches_of(lengths, seed=1).step_rows(1) != batches_of(lengths, seed=2).step_rows(0)
    with pytest.raises(AssertionError, match="epoch 2 was not planned: there are 2"):
        yielded(first, 2)


def test_transcripts_stay_together_in_steps():
    # 3 + 3 rows leave room for 2: the 4 are put off, and the next that fits is taken. Then 4 + 1 leave room for 3: none
    # that is whole fits, so the 20 are cut; they are more than a step anyway.
    sizes = [3, 3, 4, 2, 1, 20]
    starts = np.cumsum([0, *sizes]).tolist()
    groups = [list(range(start, end)) for start, end in pairwise(starts)]
    a, b, c, d, e, f = groups
    assert fill(groups, 8) == [a + b + d, c + e + f[:3], f[3:11], f[11:19], f[19:]]


@given(some_lengths(most_rows=4))
@settings(deadline=None, max_examples=60)
def test_a_transcript_is_cut_between_steps_only_where_nothing_whole_fits(lengths):
    left = Counter(lengths.transcript.tolist())
    for rows in batches_of(lengths).step_rows(0)[:-1]:
        taken = Counter(lengths.transcript[rows].tolist())
        cut = [t for t, n in taken.items() if n < left[t]]
        left -= taken
        assert len(cut) <= 1
        for t in cut:
            assert all(n > taken[t] for other, n in left.items() if other != t), "a whole one would have fitted"


@given(some_lengths(), st.integers(1, 400), st.sampled_from([1, 2]), st.booleans())
@settings(deadline=None, max_examples=80)
def test_the_budget_is_kept_wherever_rows_allow_it(lengths, budget, world, packed):
    batches = batches_of(lengths, world=world, tokens_per_batch=budget, packed=packed)
    for epoch in range(2):
        for step in batches.steps(epoch):
            for batch in (batch for ranks in step for batch in ranks):
                prefixes, suffixes = tokens_of(lengths, batch.rows, packed)
                assert batch.tokens == prefixes + suffixes
                assert batch.cost == prefixes + SUFFIX_COST * suffixes
                assert batch.tokens <= budget or len(batch.rows) == 1
    totals = lengths.prefix + lengths.suffix
    plan = batches.plan()
    assert plan.rows_over_budget == (totals > budget).sum()
    assert plan.largest_tokens <= max(budget, totals.max())


@given(some_lengths(), st.integers(40, 600), st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=80)
def test_transcripts_are_split_only_where_they_must(lengths, budget, world):
    """Where a step has as many transcripts as micro-batches, and each fits into one."""
    batches = batches_of(lengths, world=world, tokens_per_batch=budget)
    n_bins = batches.accumulation * world
    for step in batches.steps(0):
        parts = [{int(lengths.transcript[i]) for i in batch.rows if i >= 0} for ranks in step for batch in ranks]
        rows = [i for ranks in step for batch in ranks for i in batch.rows if i >= 0]
        groups = {t: [i for i in rows if lengths.transcript[i] == t] for t in set().union(*parts)}
        if len(groups) >= n_bins and all(sum(tokens_of(lengths, group)) <= budget for group in groups.values()):
            assert max(Counter(t for part in parts for t in part).values()) == 1


def all_cuts(lengths, rows, budget, packed):
    """By hand: (transcripts split, cost) of the best cut for each number of micro-batches."""
    order = sorted(rows, key=lambda i: (lengths.prefix[i], lengths.transcript[i], lengths.suffix[i]))
    best = {}
    for n_bins in range(1, len(order) + 1):
        for inner in combinations(range(1, len(order)), n_bins - 1):
            parts = [order[a:b] for a, b in pairwise([0, *inner, len(order)])]
            if all(len(part) == 1 or sum(tokens_of(lengths, part, packed)) <= budget for part in parts):
                splits = sum(lengths.transcript[a[-1]] == lengths.transcript[b[0]] for a, b in pairwise(parts))
                cost = sum(p + SUFFIX_COST * s for p, s in (tokens_of(lengths, part, packed) for part in parts))
                best[n_bins] = min(best.get(n_bins, (np.inf, 0)), (splits, cost))
    return best


@given(some_lengths(most_rows=3), st.integers(1, 300), st.booleans())
@settings(deadline=None, max_examples=40)
def test_the_layout_is_the_best_of_all_cuts(lengths, budget, packed):
    batches = batches_of(lengths, batch_size=6, epochs=1, tokens_per_batch=budget, packed=packed)
    steps = batches.step_rows(0)
    best = [all_cuts(lengths, rows, budget, packed) for rows in steps]
    fewest = [min((splits, n_bins) for n_bins, (splits, _) in cuts.items())[1] for cuts in best]
    assert batches.accumulation == max(fewest), "no fewer micro-batches keep the budget in every step"
    for step, rows, cuts in zip(batches.steps(0), steps, best, strict=True):
        parts = [batch for (batch,) in step if batch.rows[0] >= 0]
        assert sorted(i for part in parts for i in part.rows) == sorted(rows)
        assert sum(part.cost for part in parts) == cuts[len(parts)][1]
        assert len(parts) == min(batches.accumulation, len(rows))


def test_sorted_batches_have_less_padding():
    lengths = realistic()
    transcript, prefix, suffix = lengths.transcript, lengths.prefix, lengths.suffix
    for micro_batch in (2, 4):
        batches = batches_of(lengths, batch_size=16, epochs=1, micro_batch=micro_batch)
        steps = batches.step_rows(0)
        chunks = [rows[i : i + micro_batch] for rows in steps for i in range(0, len(rows), micro_batch)]
        run = sum(sum(tokens_of(lengths, chunk)) for chunk in chunks)
        needed = sum(sum({transcript[i]: prefix[i] for i in c}.values()) + suffix[c].sum() for c in chunks)
        assert batches.plan().padding_frac < 0.75 * (1 - needed / run)
    full, half = (batches_of(lengths, batch_size=16, tokens_per_batch=n).plan() for n in (12288, 6144))
    assert half.padding_frac < full.padding_frac


def test_without_padding():
    """Fewer micro-batches for the same budget, as even as can be; blanks alone count as padding."""
    lengths = realistic()
    padded, packed = (batches_of(lengths, batch_size=16, tokens_per_batch=6144, packed=how) for how in (False, True))
    assert packed.plan().padding_frac < 0.005 < padded.plan().padding_frac
    assert packed.accumulation < padded.accumulation
    assert packed.step_rows(0) == padded.step_rows(0)
    for step in packed.steps(0):
        tokens = [batch.tokens for ranks in step for batch in ranks if batch.rows[0] >= 0]
        costs = [batch.cost for ranks in step for batch in ranks if batch.rows[0] >= 0]
        assert max(tokens) <= 6144 or len(costs) < packed.accumulation
        # no cut between transcripts could be more than the longest row away from even
        longest = max(lengths.prefix + SUFFIX_COST * 4 * 400)
        assert max(costs) - min(costs) <= 2 * longest


def test_ranks_have_equal_work(monkeypatch):
    lengths = realistic()
    batches = batches_of(lengths, batch_size=16, world=2, tokens_per_batch=6144)
    steps = [step for epoch in range(2) for step in batches.steps(epoch)]
    work = np.array([[[batch.cost for batch in ranks] for ranks in step] for step in steps])  # step, micro-step, rank
    assert (np.diff(work.max(2), axis=1) <= 0).all(), "the costly ones first"
    assert (work.min(2)[:, :-1] >= work.max(2)[:, 1:]).all(), "those of like cost side by side"
    totals = work.sum((0, 1))
    assert totals.max() / totals.min() < 1.02
    waiting = batches.plan().waiting_frac
    assert waiting == pytest.approx(1 - work.mean() / work.max(2).mean())
    assert waiting < 0.1
    monkeypatch.setattr(sampler, "EVEN", ())
    assert waiting < 0.8 * batches.plan().waiting_frac, "negative control: least padding alone leaves ranks waiting"


def test_plan_by_hand():
    # One step of 4 rows in 2 micro-batches: [0, 1] on one transcript of 10, then 20 and 24.
    lengths = lengths_of([(10, [3, 5]), (20, [4]), (24, [4])])
    batches = batches_of(lengths, batch_size=4, epochs=1, tokens_per_batch=56)
    assert sorted(map(sorted, yielded(batches))) == [[0, 1], [2, 3]]
    plan = batches.plan()
    assert plan.accumulation == 2
    assert plan.represented_tokens == 13 + 15 + 24 + 28
    assert plan.computed_tokens == (10 + 3 + 5) + (20 + 24 + 4 + 4)
    assert plan.padding_tokens == (5 - 3) + (24 - 20)  # 10 + 2 x 5 and 2 x 24 + 2 x 4 tokens are run
    assert plan.padding_frac == 6 / (70 + 6)
    assert plan.largest_tokens == 56
    # the ranks of two run them at once: 10 + 3 x 10 = 40 and 48 + 3 x 8 = 72 units
    pair = batches_of(lengths, batch_size=4, epochs=1, world=2, tokens_per_batch=56).plan()
    assert pair.accumulation == 1
    assert pair.waiting_frac == pytest.approx(1 - (40 + 72) / (2 * 72))
    assert "2 per rank and step, at most 56 tokens each; of 80 tokens 70 are run" in plan.line()
    assert "exceed" not in plan.line()
    assert "2 rows exceed the budget" in batches_of(lengths, batch_size=4, tokens_per_batch=20).plan().line()


def test_blanks_are_prompts_of_rows_in_the_step():
    form = form_of()
    records = [record(n) for n in range(5)]
    rows = training_rows((r.id, encode_record(r, form)) for r in records)
    ranks = [batches_of(Lengths.split(rows), 4, world=2, rank=rank, micro_batch=1) for rank in range(2)]
    lasts = [yielded(batches)[-2:] for batches in ranks]
    shown = sorted(i for last in lasts for batch in last for i in batch)
    (real,) = (i for i in shown if i >= 0)
    assert shown == [~real] * 3 + [real], "a last step of one row, and two micro-batches on each of two ranks"
    dataset = RowsWithBlanks(rows, ranks[0])
    assert len(dataset) == 5
    assert dataset[real] == rows[real]
    blank = dataset[~real]
    prompt = apply_intervention(records[real].messages(), records[real].intervention, form)
    assert blank["input_ids"] == prompt.input_ids
    assert blank["labels"] == [IGNORED] * len(prompt.input_ids)
    for collator in (PersonaCollator, SplitCollator):
        batch = collator(form.pad_id, form.persona.sp_token_id)([blank])
        assert (batch["labels"] == IGNORED).all()
        assert batch["input_ids"].numel() > 0


def test_whole_rows_make_the_same_steps():
    form = form_of()
    records = [record(n // 2, id=f"r{n}", review=f"Review {n}.") for n in range(20)]
    rows = training_rows((r.id, encode_record(r, form)) for r in records)
    split, whole = Lengths.split(rows), Lengths.whole(rows)
    assert split.transcript.tolist() == [n // 2 for n in range(20)]
    assert (split.prefix + split.suffix).tolist() == whole.suffix.tolist() == [len(row["input_ids"]) for row in rows]
    for epoch in range(2):
        assert batches_of(split).step_rows(epoch) == batches_of(whole).step_rows(epoch)
    for step in batches_of(whole, micro_batch=2).steps(0):
        longest = [max(whole.suffix[batch.rows]) for ranks in step for batch in ranks]
        assert longest == sorted(longest, reverse=True)


def test_batches_that_cannot_be_laid_out():
    lengths = realistic(5)
    with pytest.raises(ValueError, match=r"batch_size: 9 rows do not divide into 2 rank\(s\) x 1"):
        batches_of(lengths, batch_size=9, world=2)
    with pytest.raises(ValueError, match=r"batch_size: 8 rows do not divide into 2 rank\(s\) x 3"):
        batches_of(lengths, world=2, micro_batch=3)
    with pytest.raises(ValueError, match=r"row\(s\) do not make a step of 400; lower it"):
        batches_of(lengths, batch_size=400, drop_last=True)
    with pytest.raises(AssertionError, match="give one of"):
        batches_of(lengths, micro_batch=2, tokens_per_batch=10)


@pytest.mark.parametrize("world", [1, 2])
def test_accelerate_hands_the_batches_on_as_they_are(world):
    """As transformers' Trainer prepares them, and where it resumes within an epoch."""
    lengths = realistic(20)
    for rank in range(world):
        batches = batches_of(lengths, world=world, rank=rank, tokens_per_batch=4096)
        dataset = RowsWithBlanks(range(len(lengths.prefix)), batches)
        loader = prepare_data_loader(
            DataLoader(dataset, batch_sampler=batches, collate_fn=list), num_processes=world, process_index=rank
        )
        if world > 1:
            assert loader.batch_sampler.batch_sampler is batches
            assert len(loader) < len(batches), "negative control: accelerate would share them out once more"
            loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0  # what the Trainer does
        assert len(loader) == len(batches)
        for epoch in (1, 0, 1):
            expected = yielded(batches_of(lengths, world=world, rank=rank, tokens_per_batch=4096), epoch)
            loader.set_epoch(epoch)
            assert list(loader) == expected
            batches.set_epoch(1 - epoch)
            resumed = skip_first_batches(loader, 3)
            resumed.set_epoch(epoch)
            assert list(resumed) == expected[3:]


@pytest.mark.slow
def test_real_data_have_little_padding(spt_dir, minimind):
    """The recommended budget on the default selection, batches of 16, on one rank and on two."""
    config = load_config(None, ["--dataset", str(spt_dir), "--model", "builtin:tiny", "--seq_len", "4096"])
    form = TokenFormat.of(minimind, Persona(sp_token_id=reserved_ids(minimind)[0]))
    lengths = Lengths.split(prepare(config, form).rows)
    n = len(lengths.prefix)
    assert n > 2000
    for world in (1, 2):
        ranks = [batches_of(lengths, 16, world=world, rank=rank, tokens_per_batch=6144) for rank in range(world)]
        plan = ranks[0].plan()
        assert plan.padding_frac < 0.1
        assert plan.padding_tokens < 0.1 * plan.computed_tokens
        assert plan.rows_over_budget == 0
        assert plan.represented_tokens > 1.3 * plan.computed_tokens, "shared prefixes"
        assert plan.waiting_frac < 0.08
        assert sorted(i for batches in ranks for rows in yielded(batches, 1) for i in rows if i >= 0) == list(range(n))
