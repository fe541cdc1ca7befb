"""Rows in an Arrow table are the rows that were encoded, in a few bytes a token, in memory and in a file."""

import pickle

import pytest

from honest_persona.base.tensors import ids_key
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.rows import row_names, training_row, training_rows
from honest_persona.prompts.tokens import Tokens, encode_record
from honest_persona.training.batching.lengths import Lengths
from tests.tiny import form_of, record

FORM = form_of()
RECORDS = [record(n // 2, id=f"r{n} é", review=f"Review {n}.") for n in range(600)]
ENCODED = [(r.id, encode_record(r, FORM)) for r in RECORDS[:40]] * 15


@pytest.fixture(scope="module", params=["memory", "file"])
def rows(request):
    return training_rows(iter(ENCODED), 2**30 if request.param == "memory" else 0)


def test_each_row_is_what_was_encoded(rows):
    assert len(rows) == len(ENCODED) == 600
    for i in (0, 1, 39, 255, 256, 599):
        assert rows[i] == training_row(*ENCODED[i])
    assert list(rows.select(range(3))) == [rows[i] for i in range(3)]
    assert rows[7]["labels"] == ENCODED[7][1].labels


def test_a_token_takes_five_bytes(rows):
    tokens = sum(len(t.input_ids) for _, t in ENCODED)
    named = sum(len(f"{name}{t.prefix_key}".encode()) + 3 * 4 + 2 * 4 for name, t in ENCODED)  # ends and starts
    assert rows.data.nbytes <= 5 * tokens + named + 200


def test_lengths_are_counted_without_the_rows(rows):
    lengths = Lengths.split(rows)
    numbers = {}
    assert lengths.transcript.tolist() == [numbers.setdefault(t.prefix_key, len(numbers)) for _, t in ENCODED]
    assert lengths.prefix.tolist() == [t.activation for _, t in ENCODED]
    assert lengths.suffix.tolist() == [len(t.input_ids) - t.activation for _, t in ENCODED]
    assert {values.dtype.name for values in lengths} == {"int64"}


def test_a_run_is_known_by_its_rows(rows):
    named = [f"{name} {ids_key(t.input_ids)} {ids_key([int(k) for k in t.kinds])}" for name, t in ENCODED]
    assert list(row_names(rows)) == named


def test_workers_of_a_data_loader_get_the_rows(rows):
    assert pickle.loads(pickle.dumps(rows))[5] == rows[5]


def test_no_rows():
    assert len(training_rows([])) == 0
    assert list(row_names(training_rows([]))) == []


def test_largest_ids_and_kinds():
    tokens = Tokens([0, 2**31 - 1], [Kind.PAD, Kind.END], 1)
    assert training_rows([("r", tokens)])[0]["input_ids"] == [0, 2**31 - 1]
    with pytest.raises(OverflowError):
        training_rows([("r", Tokens([2**31], [Kind.END], 0))])
