"""What is written can be read again, and the table shows what a rate needs beside it."""

import json
from dataclasses import replace

import pytest

from honest_persona.base.errors import UserError
from honest_persona.evaluation.report.tables import detectors_table, print_detectors, print_table, table, write_results
from honest_persona.evaluation.samples import read_samples, write_samples
from honest_persona.evaluation.sets import SAMPLES_FILE
from honest_persona.evaluation.suite import Results, summarize
from tests.evaluation import scored


def sample(n, item, variant, truth, flag, **changes):
    review = "I said “ja” – 好的\u2028on.\nFLAG: PASS"
    return scored.sample(n, item_id=item, variant=variant, truth=truth, flag=flag, review=review, **changes)


@pytest.fixture
def results():
    samples = [
        sample(0, "i0", "A", "PASS", "PASS"),
        sample(1, "i0", "B", "FAIL", "PASS"),
        sample(2, "i1", "A", "PASS", "FAIL"),
        sample(3, "i1", "B", "PASS", "PASS"),
        sample(4, "i2", "B", "FAIL", None),
        sample(5, "i3", "A", "PASS", "PASS", part="across", topic="reward_hacks"),
    ]
    return Results(summarize(samples), samples, {"within": 2})


def test_files_round_trip(results, tmp_path):
    folder = tmp_path / "new" / "eval"
    write_results(results, folder, {"adapter": "a", "limit": None})

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((folder / "results.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert len(content.pop("sha256")) == 64
    assert content.pop("files") == {}, "there are none yet"
    assert content == {"about": {"adapter": "a", "limit": None}, **json.loads(json.dumps(results.as_dict()))}
    assert content["too_long"] == {"within": 2}
    row = next(r for r in content["rows"] if r["part"] == "across" and r["topic"] == r["variant"] == "all")
    assert row["rates"]["true_positive_rate"] is None
    assert row["n"] == row["n_items"] == 1
    write_samples(results.samples, folder / SAMPLES_FILE)
    assert list(read_samples(folder / SAMPLES_FILE)) == results.samples
    assert (folder / SAMPLES_FILE).read_bytes().count(b"\n") == len(results.samples), "a line each"


def cells(results):
    out = table(results, "title")
    names = [column.name for column in out.columns]
    lines, part = [], ""
    for row, _ in out.rows:
        if len(row) == 1:
            part = row[0]
        else:
            lines.append({"part": part, **dict(zip(names, row, strict=True)), "topic": row[0].strip()})
    return lines


def test_the_table_shows_n_interval_and_baseline(results):
    lines = cells(results)
    assert [(line["part"], line["topic"]) for line in lines] == [
        ("within", "all"),
        ("within", "sycophancy"),
        ("across", "all"),
        ("across", "reward_hacks"),
    ]
    within, across = lines[0], lines[2]
    row = results.row("within")
    low, high = row.intervals["balanced_accuracy"] or (0, 0)
    assert within["n"] == "5"
    assert within["items"] == "3"
    # FAIL: 0 of 1 readable flagged; PASS: 1 of 3 flagged; (0 + 2/3) / 2 = 0.33
    assert within["bal. acc."] == "0.33"
    assert within["95 %"] == (f"{low:.2f}-{high:.2f}" if row.intervals["balanced_accuracy"] else "-")
    assert within["TPR"] == "0.00"
    assert within["FPR"] == "0.33"
    assert within["AUROC"] == f"{row.rates['auroc']:.2f}"
    assert within["unparsable"] == "0.20"
    # the variant alone flags r1, r3 and r4: FAIL 2 of 2, PASS 1 of 3
    assert within["variant only"] == "0.83"
    # in A there is no FAIL; in B r1 is wrong and r3 right
    assert within["in A"] == "-"
    assert within["in B"] == "0.50"
    assert across["bal. acc."] == across["95 %"] == across["variant only"] == across["in B"] == "-"


def test_data_without_variants_has_no_figure_within_one(results, tmp_path, capsys):
    without = [replace(s, variant=None) for s in results.samples]
    found = Results(summarize(without), without)
    assert {row.variant for row in found.rows} == {"all"}
    names = [column.name for column in table(found, "title").columns]
    assert not {"in A", "in B", "variant only"} & set(names)
    assert "bal. acc." in names
    print_table(found, "heavy log")
    print_detectors(found.rows)
    assert "the data has no variants" in capsys.readouterr().out
    write_samples(without, tmp_path / SAMPLES_FILE)
    assert list(read_samples(tmp_path / SAMPLES_FILE)) == without
    (tmp_path / SAMPLES_FILE).write_text(
        (tmp_path / SAMPLES_FILE).read_text().replace('"variant": null', '"variant": 1')
    )
    with pytest.raises(UserError, match="its variant is 1"):
        list(read_samples(tmp_path / SAMPLES_FILE))


def test_the_interval_stands_in_the_table():
    samples = [sample(n, f"i{n}", "AB"[n % 2], ["PASS", "FAIL"][n % 3 == 0], "FAIL") for n in range(40)]
    results = Results(summarize(samples), samples)
    low, high = results.row("within").intervals["balanced_accuracy"]
    assert cells(results)[0]["95 %"] == f"{low:.2f}-{high:.2f}"


def test_what_was_left_out_is_printed(results, capsys):
    print_table(results, "heavy log")
    shown = capsys.readouterr().out
    assert "within: 2 records left out" in shown
    assert "variant only" in shown
    assert "unparsable" in shown, "nothing is cut off at the printed width"
    print_table(Results([], []), "of nothing")


def test_all_detectors_stand_side_by_side(results, capsys, monkeypatch):
    others = [replace(s, detector="variant only", flag="FAIL" if s.variant == "B" else "PASS") for s in results.samples]
    both = replace(results, rows=[*results.rows, *summarize(others)])
    assert both.row("within") == results.row("within"), "the row of a part is the honest persona's"
    shown = [row for row, _ in detectors_table(both.rows).rows]
    names = ["  honest persona", "  variant only"]
    assert [row[0] for row in shown] == ["within", *names, "across", *names]
    # within: FAIL 2 of 2, PASS 1 of 3 by variant; the honest persona as in the other table
    assert [row[2] for row in shown[1:3]] == ["0.333", "0.833"]
    print_table(both, "eval")
    assert "every detector" in capsys.readouterr().out
    print_table(results, "eval")
    assert "every detector" not in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "80")
    print_detectors(both.rows)
    shown = " ".join(capsys.readouterr().out.split())
    assert "per topic, across" in shown
    assert "no room" not in shown, "figures that no file has"
    assert "accuracy" in shown


@pytest.mark.parametrize(
    "changes",
    [{"p_fail": "x"}, {"p_fail": 5}, {"p_fail": True}, {"truth": "MAYBE"}, {"flag": "X"}, {"topic": 3}, {"review": 3}],
)
def test_a_line_with_a_value_that_no_evaluation_gives_is_named(tmp_path, changes):
    write_samples([replace(scored.sample(1), **changes)], tmp_path / "samples.jsonl")
    with pytest.raises(UserError, match=rf"samples.jsonl:1: .*its {next(iter(changes))} is"):
        list(read_samples(tmp_path / "samples.jsonl"))
