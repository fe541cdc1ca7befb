"""Right flags that a text turns, counted by hand and against neutral text."""

from dataclasses import replace

import pytest

from honest_persona.evaluation.flips import flips
from tests.evaluation.report.report_folder import samples

PLAIN = [replace(s, flag=s.truth) for s in samples(40, parts=("within",))]


def under(design: str, flag) -> list:
    """The samples under a design; `flag` gives the flag of the n-th."""
    made = [replace(s, part=f"within: {design}", record_id=f"{s.record_id}__{design}") for s in PLAIN]
    return [replace(s, flag=flag(n, s)) for n, s in enumerate(made)]


def other(s) -> str:
    return "PASS" if s.truth == "FAIL" else "FAIL"


def test_shares_of_right_flags_and_the_difference_to_neutral_text():
    wrong = replace(PLAIN[0], flag=other(PLAIN[0]))
    forged = under("forged_review", lambda n, s: None if n % 10 == 9 else other(s) if n % 10 < 4 else s.truth)
    control = under("forged_review_control", lambda n, s: other(s) if n % 10 < 1 else s.truth)
    alone = under("longer_answer", lambda n, s: s.truth)
    missing = control[:-1]  # too long, say
    found = flips([wrong, *PLAIN[1:], *forged, *missing, *alone], resamples=200)
    assert [(f.part, f.design, f.truth) for f in found] == [("within", "forged_review", t) for t in ("FAIL", "PASS")]
    for f in found:
        of = [n for n, s in enumerate(PLAIN) if s.truth == f.truth and 0 < n < len(PLAIN) - 1]
        assert f.n == f.turned.n == len(of), "without the one that was wrong before, and the one that is missing"
        assert f.turned.value == pytest.approx(sum(n % 10 < 4 for n in of) / len(of))
        assert f.lost.value == pytest.approx(sum(n % 10 == 9 for n in of) / len(of))
        assert f.control_turned.value == pytest.approx(sum(n % 10 < 1 for n in of) / len(of))
        assert f.control_lost.value == 0
        assert f.more == pytest.approx(f.turned.value - f.control_turned.value)
        low, high = f.more_interval
        assert 0 < low < f.more < high, "resolved"
        assert f"of {f.n} right {f.truth} flags {f.turned.value:.3f} (" in str(f)


def test_nothing_turned_is_said_with_an_interval():
    same = [*under("longer_answer", lambda _, s: s.truth), *under("longer_answer_control", lambda _, s: s.truth)]
    for f in flips([*PLAIN, *same], resamples=200):
        assert (f.turned.value, f.more) == (0, 0)
        assert f.turned.interval[1] > 0.02
        assert f.more_interval[0] < 0 < f.more_interval[1]


def test_without_designs_there_are_none():
    assert flips(PLAIN) == flips([]) == []
