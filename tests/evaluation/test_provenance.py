"""The command as it is written into results.json and onto the page."""

import pytest

from honest_persona.evaluation.provenance import MADE, command, provenance
from tests.test_cli_measure import card_of
from tests.tiny import form_of


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/home/me/eval.py", "--topics", "[a, b]"], "python eval.py --topics '[a, b]'"),
        (["/x/site-packages/honest_persona/__main__.py", "sweep"], "python -m honest_persona sweep"),
        ([""], None),
        (["-c"], None),
    ],
)
def test_the_command_can_be_given_again(argv, expected):
    assert command(argv) == expected


def test_no_key_comes_out(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "not-to-be-seen")
    said = command(["eval.py", "--adapter", "not-to-be-seen", "hf_" + "a" * 34])
    assert said == "python eval.py --adapter *** ***"


def test_an_evaluation_says_with_what_it_was_made():
    form = form_of()
    found = provenance(card_of(form, base_fingerprint="0123456789abcdef", base_revision="v1"))
    assert tuple(found) == MADE
    assert (found["base_revision"], found["base_fingerprint"]) == ("v1", "0123456789ab")
    assert found["date"].endswith(" UTC")
