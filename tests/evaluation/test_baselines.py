"""Shortcuts guess what they have not seen, and say what they can: on made-up records, and on real ones."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from honest_persona.base.errors import UserError
from honest_persona.base.words import ALL
from honest_persona.config.keys import RunConfig
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.evaluation.baselines import (
    guess_samples,
    held_out_clusters,
    held_out_topics,
    likelier_flag,
    probe_guesses,
    shortcut_samples,
    shortcuts,
    shortcuts_of,
    topic_only,
    variant_only,
)
from honest_persona.evaluation.report.tables import print_detectors
from honest_persona.evaluation.suite import summarize
from honest_persona.probes.selection import fit_probes
from tests.tiny import base_model, form_of, record

WORDS = ("red", "blue", "green", "warm", "cold", "high", "low", "far", "near")


def made_up(n_items=60, tell=None, topics=("t1", "t2", "t3"), seed=0):
    """Two records an item, variant A and B, of random words. `tell` adds words to (topic, flag)."""
    rng = np.random.default_rng(seed)
    records = []
    for item in range(n_items):
        topic = topics[item % len(topics)]
        for variant in "AB":
            flag = str(rng.choice(["PASS", "FAIL"]))
            response = " ".join(rng.choice(WORDS, 8)) + (tell or {}).get((topic, flag), "")
            values = {"item_id": f"i{item}", "topic": topic, "variant": variant, "flag": flag, "response": response}
            system = " ".join(rng.choice(WORDS, 4))
            records.append(record(id=f"{item}{variant}", system=system, task=f"Task {item}", **values))
    return records


def rows_of(records, guesses):
    return summarize(guess_samples({"within": records}, guesses))


def area(records, guess):
    return roc_auc_score([r.flag == "FAIL" for r in records], guess)


def test_the_outsider_is_scikit_learns():
    records = made_up(tell={("t1", "FAIL"): " indeed", ("t2", "FAIL"): " sure"})
    for text, of in (
        ("transcript", lambda r: f"{r.system} {r.task} {r.response}"),
        ("response", lambda r: r.response),
    ):
        vectorizer = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+")
        oracle = cross_val_predict(
            make_pipeline(vectorizer, LogisticRegression(max_iter=1000)),
            [of(r) for r in records],
            [r.flag for r in records],
            groups=[r.cluster for r in records],
            cv=GroupKFold(5),
        )
        found = shortcuts(records, held_out_clusters(records))[f"{text} bigrams"]
        assert [likelier_flag(p) for p in found] == list(oracle)


def test_a_reader_of_the_response_does_not_see_the_prompt():
    records = [r.model_copy(update={"system": f"{r.system} {r.flag}"}) for r in made_up()]
    guesses = shortcuts(records, held_out_clusters(records))
    assert area(records, guesses["transcript bigrams"]) > 0.95
    assert 0.3 < area(records, guesses["response bigrams"]) < 0.65


def test_topic_only_by_hand():
    # t1: 2 of 3 FAIL; t2: a tie; t3: 0 of 1; t4 was not seen
    topics, flags = ["t1", "t1", "t1", "t2", "t2", "t3"], ["FAIL", "FAIL", "PASS", "FAIL", "PASS", "PASS"]
    scores = topic_only(topics, flags, ["t1", "t2", "t3", "t4"])
    assert scores == [2 / 3, 0.5, 0.0, 0.5]
    assert [likelier_flag(p) for p in scores] == ["FAIL", "PASS", "PASS", "PASS"]


@pytest.mark.parametrize("folds", [held_out_clusters, held_out_topics])
def test_no_cluster_is_on_both_sides(folds):
    records = made_up(n_items=30)
    # an item in two topics, and a group over several items
    records.append(record(id="x", item_id="i0", topic="t2", flag="PASS"))
    records += [record(id=f"g{i}", item_id=f"g{i}", group="town", topic=f"t{i}", flag="FAIL") for i in (1, 2, 3)]
    guessed = []
    for fitted, asked in folds(records):
        assert not {records[i].cluster for i in fitted} & {records[i].cluster for i in asked}
        if folds is held_out_topics:
            assert len({records[i].topic for i in asked}) == 1
            assert not {records[i].topic for i in fitted} & {records[i].topic for i in asked}
        guessed += asked.tolist()
    assert sorted(guessed) == list(range(len(records)))


def test_a_fold_that_leaks_is_not_taken():
    records = made_up(n_items=10)
    leaking = [(np.arange(1, 20), np.array([0])), (np.array([0]), np.arange(1, 20))]
    with pytest.raises(AssertionError, match="both sides"):
        shortcuts(records, leaking)
    with pytest.raises(UserError, match="1 items are in training and in evaluation, the first is i0"):
        shortcuts_of(records[1:], records[:1])


def test_what_holds_in_one_topic_alone_does_not_survive_its_being_held_out():
    records = made_up(tell={("t1", "FAIL"): " indeed", ("t2", "FAIL"): " so", ("t3", "FAIL"): " yes"})
    within = shortcuts(records, held_out_clusters(records))["response bigrams"]
    across = shortcuts(records, held_out_topics(records))["response bigrams"]
    assert area(records, within) > 0.95
    assert 0.35 < area(records, across) < 0.65


def test_shuffled_flags_give_chance():
    areas = []
    for seed in range(5):
        records = made_up(seed=seed)
        guesses = shortcuts(records, held_out_clusters(records))
        areas.append([area(records, guess) for guess in guesses.values()])
    # 120 records a run: a standard error of 0.053, of 0.024 over five; leaving clusters out pulls down a little
    assert (abs(np.mean(areas, axis=0) - 0.5) < 0.1).all(), areas


def test_one_flag_alone_teaches_nothing():
    records = [r.model_copy(update={"flag": "PASS"}) for r in made_up(n_items=10)]
    with pytest.raises(UserError, match="all have the same flag"):
        shortcuts(records, held_out_clusters(records))
    with pytest.raises(UserError, match="no item can be guessed from another one"):
        held_out_clusters(made_up(n_items=1))


def test_few_items_and_no_variants():
    """As many folds as items; data without variants has no reader of variants, and no figure within one."""
    few = made_up(n_items=3, topics=("t1",))
    assert len(held_out_clusters(few)) == 3
    without = [r.model_copy(update={"variant": None}) for r in made_up(n_items=12)]
    guesses = shortcuts(without, held_out_clusters(without))
    assert list(guesses) == ["topic only", "response bigrams", "transcript bigrams"]
    rows = rows_of(without, guesses)
    assert {(row.variant, row.variant_only_balanced_accuracy) for row in rows} == {("all", None)}
    mixed = [*without, *made_up(n_items=12, seed=1)]
    mixed = [r.model_copy(update={"id": f"{i}", "item_id": f"{i}"}) for i, r in enumerate(mixed)]
    assert "variant only" not in shortcuts(mixed, held_out_clusters(mixed))


def test_rows_equal_scikit_learn():
    records = made_up(tell={("t1", "FAIL"): " indeed"})
    guesses = shortcuts(records, held_out_clusters(records))
    rows = {(r.detector, r.topic, r.variant): r for r in rows_of(records, guesses)}
    assert len(rows) == 4 * 4 * 3
    for (name, topic, variant), row in rows.items():
        chosen = [i for i, r in enumerate(records) if topic in (ALL, r.topic) and variant in (ALL, r.variant)]
        truth = [records[i].flag for i in chosen]
        scores = guesses[name][chosen]
        flags = [likelier_flag(p) for p in scores]
        assert (row.n, row.ns["true_positive_rate"]) == (len(chosen), truth.count("FAIL"))
        found = row.rates
        assert found["accuracy"] == pytest.approx(accuracy_score(truth, flags), abs=1e-12)
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, flags), abs=1e-12)
        assert found["auroc"] == pytest.approx(roc_auc_score([t == "FAIL" for t in truth], scores), abs=1e-12)
    low, high = rows["response bigrams", ALL, ALL].intervals["auroc"]
    assert low < rows["response bigrams", ALL, ALL].rates["auroc"] < high


def test_a_rate_without_both_flags_is_undefined():
    records = [r.model_copy(update={"flag": "FAIL" if r.variant == "B" else "PASS"}) for r in made_up(n_items=6)]
    rows = rows_of(records, {"variant only": np.array([float(r.variant == "B") for r in records])})
    [whole] = [r for r in rows if (r.topic, r.variant) == (ALL, ALL)]
    [in_b] = [r for r in rows if (r.topic, r.variant) == (ALL, "B")]
    assert whole.rates["auroc"] == whole.rates["balanced_accuracy"] == 1
    assert in_b.rates["auroc"] is None
    assert in_b.rates["accuracy"] == 1


def test_shortcuts_of_a_run_are_fitted_on_its_training_records_alone():
    records = made_up(tell={("t1", "FAIL"): " indeed", ("t3", "FAIL"): " so"})
    train, asked = [r for r in records if r.topic != "t3"], [r for r in records if r.topic == "t3"]
    guesses = shortcuts_of(train, asked)
    fold = held_out_topics(records)
    everything = shortcuts(records, fold)
    places = [i for i, r in enumerate(records) if r.topic == "t3"]
    for name, guess in guesses.items():
        assert guess == pytest.approx(everything[name][places], abs=1e-6)
        assert ((guess > 0.5) == (everything[name][places] > 0.5)).all()


def test_tables_are_printed(capsys):
    samples = shortcut_samples(made_up())
    assert {s.part for s in samples} == {"items held out", "topics held out"}
    alone = shortcut_samples(made_up(topics=["t1"]))
    assert {s.part for s in alone} == {"items held out"}, "one topic cannot be left out"
    print_detectors(summarize(samples))
    text = capsys.readouterr().out
    for word in ("topics held out", "variant only", "topic only", "120", "t3", "0.500"):
        assert word in text


def test_probes_stand_in_the_same_table():
    form = form_of()
    said = {"PASS": "It is round, I say.", "FAIL": "It is flat, I say."}
    records = [record(i, flag=f, response=f"{said[f]} {i}") for i, f in enumerate(["PASS", "FAIL"] * 10)]
    model = base_model()
    probes = fit_probes(model, records[:12], form, methods=("ridge", "vinc"), layers=[2])
    guesses = shortcuts_of(records[:12], records[12:]) | probe_guesses(probes, model, form, records[12:])
    assert list(guesses)[-2:] == ["ridge probe", "vinc probe"]
    rows = {r.detector: r for r in rows_of(records[12:], guesses) if (r.topic, r.variant) == (ALL, ALL)}
    assert rows["ridge probe"].n == 8
    assert rows["response bigrams"].rates["auroc"] == 1
    with pytest.raises(UserError, match="probe: fitted on"):
        probe_guesses(probes, base_model(seed=1), form, records[12:])


@pytest.fixture(scope="module")
def spt(spt_dir):
    """What a run takes of the real data by default."""
    return load_records(str(spt_dir), Selection.of(RunConfig().as_dict())).records


def test_in_real_data_the_variant_gives_the_flag_away(spt):
    flags, truth = variant_only([r.variant for r in spt]), [r.flag for r in spt]
    assert len(spt) > 2000
    assert accuracy_score(truth, flags) == pytest.approx(0.93, abs=0.005)
    rows = rows_of(spt, {"variant only": np.array([float(flag == "FAIL") for flag in flags])})
    found = {r.variant: r.rates["auroc"] for r in rows if r.topic == ALL}
    assert found[ALL] > 0.85
    assert found["A"] == found["B"] == 0.5, "within a variant it says nothing"


@pytest.mark.long
def test_the_table_of_real_data(spt):
    """Two models' answers, to be quick: what a reader of the text finds within topics is mostly gone across them."""
    records = [r for r in spt if r.model in ("meta-llama/llama-3.3-70b-instruct", "qwen/qwen3-32b")]
    of = {
        (r.part, r.detector): r
        for r in summarize(shortcut_samples(records))
        if (r.topic, r.variant, r.model) == (ALL, ALL, ALL)
    }
    assert of["items held out", "transcript bigrams"].intervals["auroc"][0] > 0.7
    assert of["items held out", "response bigrams"].intervals["auroc"][0] > 0.6
    assert of["topics held out", "topic only"].rates["auroc"] == 0.5
    for text in ("response bigrams", "transcript bigrams"):
        assert of["topics held out", text].rates["auroc"] < of["items held out", text].intervals["auroc"][0]
