"""Two result files: matched, refused where they do not belong together, and compared with their pairing in use."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from honest_persona.base.errors import UserError
from honest_persona.base.words import WITHIN
from honest_persona.evaluation.answers.samples import TRAINED, sample_of, write_answers_file
from honest_persona.evaluation.compare import compare, comparison_table, print_comparison, read_samples
from honest_persona.evaluation.sets import ANSWERS_FILE
from honest_persona.statistics.metrics import METRICS, Place, shown
from tests.evaluation.scored import sample, samples
from tests.prompts.test_feedback import feedback


@pytest.fixture
def folder(tmp_path):
    """`folder(name, samples)` writes them as eval.py does, and gives the folder."""

    def write(name, chosen):
        path = tmp_path / name
        path.mkdir()
        lines = [json.dumps(asdict(s), ensure_ascii=False) + "\n" for s in chosen]
        (path / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
        return path

    return write


def pair(folder, **changes):
    a = samples(np.random.default_rng(0), **changes)
    return a, samples(np.random.default_rng(0), second=True, **changes)


def test_figures_are_scikit_learns(folder):
    a, b = pair(folder)
    found = compare(folder("a", a), folder("b", b)).row("within").differences
    truth = [s.truth for s in a]

    def both(metric, *args, **kwargs):
        return [metric(truth, [s.flag for s in side], *args, **kwargs) for side in (a, b)]

    failed = [t == "FAIL" for t in truth]
    expected = {
        "accuracy": both(accuracy_score),
        "balanced_accuracy": both(balanced_accuracy_score),
        "true_positive_rate": both(recall_score, pos_label="FAIL"),
        "false_positive_rate": [1 - r for r in both(recall_score, pos_label="PASS")],
        "auroc": [roc_auc_score(failed, [s.p_fail for s in side]) for side in (a, b)],
        "unparsable_frac": [0, 0],
    }
    assert set(found) == {m.name for m in shown(Place.COMPARED)} == set(expected)
    for name, (of_a, of_b) in expected.items():
        assert (found[name].a, found[name].b) == pytest.approx((of_a, of_b), abs=1e-12), name
        assert found[name].difference == pytest.approx(of_b - of_a, abs=1e-12), name
        low, high = found[name].interval
        assert low <= found[name].difference <= high, name


def test_it_is_paired_signed_and_seeded(folder):
    a, b = pair(folder, k=100)
    paths = folder("a", a), folder("b", b)
    there, back = compare(*paths), compare(*paths[::-1])
    for row, other in zip(there.rows, back.rows, strict=True):
        for name, d in row.differences.items():
            mirrored = other.differences[name]
            assert mirrored.difference == (None if d.difference is None else -d.difference)
            if d.interval:
                assert mirrored.interval == pytest.approx((-d.interval[1], -d.interval[0]), abs=1e-9)
    assert compare(*paths) == there
    assert compare(*paths, seed=1) != there
    # the order of the lines does not matter, nor which file has more of them
    shuffled = folder("c", list(np.random.default_rng(0).permutation(np.array(b, dtype=object))))
    again = compare(paths[0], shuffled).row("within").differences["auroc"]
    assert again.interval == pytest.approx(there.row("within").differences["auroc"].interval, abs=1e-9)


def test_a_better_detector_is_found_and_the_same_one_is_not(folder):
    a, b = pair(folder, k=300)
    paths = folder("a", a), folder("b", b)
    auroc = compare(*paths).row("within").differences["auroc"]
    assert auroc.resolved
    assert auroc.difference > 0
    same = compare(paths[0], paths[0]).row("within").differences["auroc"]
    assert same.difference == 0
    assert not same.resolved
    assert same.interval[0] < 0 < same.interval[1], "equal on 300 items is not equal for ever"


def test_matched_by_part_and_record(folder):
    a = [sample(0), sample(1, truth="FAIL"), sample(0, part="across"), sample(2)]
    b = [sample(2, part="across"), sample(1, truth="FAIL", flag="FAIL"), sample(0), sample(3), sample(4)]
    found = compare(folder("a", a), folder("b", b))
    assert (found.matched, found.only_a, found.only_b) == (2, 2, 3)
    assert [(r.part, r.topic, r.variant, r.n) for r in found.rows] == [
        ("within", "all", "all", 2),
        ("within", "all", "A", 2),
        ("within", "sycophancy", "all", 2),
        ("within", "sycophancy", "A", 2),
    ]
    tpr = found.row("within").differences["true_positive_rate"]
    assert (tpr.a, tpr.b, tpr.difference, tpr.interval, tpr.n) == (0, 1, 1, None, 1)


def test_rows_of_parts_topics_and_variants_and_of_their_unions(folder):
    def all_of(second):
        within, across = (
            samples(np.random.default_rng(i), part=part, second=second) for i, part in enumerate(("within", "across"))
        )
        return across + within

    found = compare(folder("a", all_of(False)), folder("b", all_of(True)))
    assert [r.part for r in found.rows] == ["all"] * 9 + ["within"] * 9 + ["across"] * 9
    assert [(r.topic, r.variant) for r in found.rows[:4]] == [
        ("all", "all"),
        ("all", "A"),
        ("all", "B"),
        ("reward_hacks", "all"),
    ]
    assert found.row("all").n == found.row("within").n + found.row("across").n == found.matched
    assert found.row("within").n == sum(found.row("within", t).n for t in ("sycophancy", "reward_hacks"))
    assert found.row("within").n_clusters == 40


def test_refused_where_nothing_matches(folder):
    a, b = folder("a", [sample(0), sample(1)]), folder("b", [sample(0, part="across")])
    with pytest.raises(UserError, match=r"no record in common \(2 and 1 records.*parts within and across"):
        compare(a, b)
    with pytest.raises(UserError, match="no record in common"):
        compare(a, folder("c", []))


@pytest.mark.parametrize(
    ("name", "value"), [("truth", "FAIL"), ("topic", "other"), ("variant", "B"), ("cluster", "other")]
)
def test_refused_where_the_data_differ(folder, name, value):
    a, b = folder("a", [sample(0), sample(1)]), folder("b", [sample(0), sample(1, **{name: value})])
    with pytest.raises(UserError, match=f"record 'r1' of part 'within' has the {name} .* and '{value}' in"):
        compare(a, b)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "samples.jsonl:2: not a line that eval.py writes"),
        ("[]", "samples.jsonl:2: not a line that eval.py writes"),
        ("{}", "no 'record_id'"),
        (json.dumps(asdict(sample(0))), "record 'r0' of part 'within' is there twice"),
        (json.dumps({**asdict(sample(1)), "truth": "MAYBE"}), "truth 'MAYBE'"),
        (json.dumps({**asdict(sample(1)), "p_fail": 2}), "p_fail 2"),
    ],
)
def test_bad_lines_are_located(folder, line, message):
    path = folder("a", [sample(0)])
    with (path / "samples.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message):
        read_samples(path)


def test_files_folders_and_runs_are_found(folder, tmp_path):
    path = folder("eval", [sample(0, review="one\u2028line")])
    assert read_samples(path) == read_samples(path / "samples.jsonl") == read_samples(tmp_path)
    with pytest.raises(UserError, match=r"no samples\.jsonl and no answers\.jsonl there"):
        read_samples(tmp_path / "nothing")


def test_a_detector_without_scores_has_no_auroc(folder, tmp_path):
    a, b = pair(folder)
    left, right = folder("a", a), folder("b", b)
    lines = [json.loads(line) for line in (right / "samples.jsonl").read_text().splitlines()]
    (right / "samples.jsonl").write_text("".join(json.dumps({**line, "p_fail": None}) + "\n" for line in lines))
    found = compare(left, right).row("within").differences
    assert found["auroc"].difference is found["auroc"].interval is None
    assert found["accuracy"].interval is not None


def test_the_table_shows_what_json_holds(folder, capsys):
    a, b = pair(folder)
    found = compare(folder("a", a), folder("b", b[:-3]))
    content = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert (content["matched"], content["only_a"], content["only_b"]) == (len(a) - 3, 3, 0)
    heading, *cells = [row for row, _ in comparison_table(found).rows]
    assert heading == ("within",)
    whole = content["rows"][0]["differences"]
    assert [c[0].strip() for c in cells[: len(whole)]] == [METRICS[name].label for name in whole]
    for name, line in zip(whole, cells, strict=False):
        d = whole[name]
        low, high = d["interval"]
        assert line[3:7] == (f"{d['a']:.3f}", f"{d['b']:.3f}", f"{d['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}")
        assert line[7] == ("" if low <= 0 <= high else "*")
    print_comparison(found)
    shown = capsys.readouterr().out
    assert f"{len(a) - 3} records matched; only in A: 3, only in B: 0" in shown
    assert "…" not in shown, "nothing is cut off"


def test_pairs_and_labels_are_compared_by_the_answers_to_their_prompts(tmp_path):
    """Their rows have other ids and other answers, and so no likelihood in common."""

    def evaluation(name, kind, truths):
        rows = [feedback(i, kind, id=f"{kind} {i}", prompt_id=f"p{i}") for i in range(4)]
        samples = [
            sample_of(row, WITHIN, TRAINED, truthful=truth, well_formed=True, chosen_nll=1.0, chosen_tokens=2)
            for row, truth in zip(rows, truths, strict=True)
        ]
        write_answers_file(samples, tmp_path / name / ANSWERS_FILE)
        return tmp_path / name

    a = evaluation("pairs", "pair", [True, False, False, False])
    b = evaluation("labels", "label", [True, True, True, False])
    found = compare(a, b)
    assert (found.matched, found.only_a, found.only_b) == (4, 4, 4)
    truthful = found.row(WITHIN).differences["truthful"]
    assert (truthful.a, truthful.b, truthful.n) == (0.25, 0.75, 4)
    assert found.row(WITHIN).differences["chosen_nll"].difference is None
    same = compare(a, a).row(WITHIN).differences
    assert (same["chosen_nll"].n, same["truthful"].n, same["chosen_nll"].a) == (4, 4, 0.5)
