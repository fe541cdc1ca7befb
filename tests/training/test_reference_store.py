"""Kept log-probabilities: found by content, never those of another model, and whole or refused."""

import numpy as np
import pytest

from honest_persona.base.errors import UserError
from honest_persona.training.reference_store import LogProbStore

ROWS = [([1, 2, 3], [4, 5]), ([1, 2], [3, 4, 5]), ([7], [8])]


@pytest.fixture
def store(tmp_path):
    return LogProbStore(tmp_path / "store", "model", "float32")


def values(n: int) -> np.ndarray:
    return -np.arange(n, dtype=np.float32) / 7


def filled(store, rows=ROWS):
    store.add({store.key(*row): values(len(row[1])) for row in rows})
    return store


def test_values_come_back_bit_for_bit(store):
    found = filled(store).read()
    assert len(found) == len(ROWS)
    for prompt, answer in ROWS:
        np.testing.assert_array_equal(found[store.key(prompt, answer)], values(len(answer)))
        assert found[store.key(prompt, answer)].dtype == np.float32


def test_reordered_and_extended_rows_hit(store):
    filled(store)
    filled(store, [([9], [9, 9])])
    found = store.read()
    assert all(store.key(*row) in found for row in reversed(ROWS))
    assert store.key([9], [9, 9]) in found


@pytest.mark.parametrize(
    "changed",
    [{"model": "model with one other weight"}, {"number_format": "bfloat16"}],
)
def test_another_model_or_format_hits_nothing(store, changed):
    other = LogProbStore(**{**vars(store), **changed})
    found = filled(store).read()
    assert not any(other.key(*row) in found for row in ROWS)
    assert LogProbStore.of("a", "float32").folder != LogProbStore.of("b", "float32").folder


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [([1, 2, 3, 4], [5]), ([1, 2, 3], [4, 5, 0]), ([1, 2, 3], [4]), ([12, 3], [4, 5]), ([1, 2, 3, 256 * 4], [5])],
)
def test_another_boundary_or_end_misses(store, prompt, answer):
    assert store.key(prompt, answer) not in filled(store).read()


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b[:20], lambda b: b"", lambda b: b[:-1] + b"\x7f"])
def test_a_torn_or_altered_file_is_refused(store, damage):
    (path,) = filled(store).folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"reference_logprobs: .*not whole, or was altered.*delete the file"):
        store.read()


def test_nothing_is_left_where_the_writer_fails(store, monkeypatch):
    def broken(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("honest_persona.training.reference_store.save_file", broken)
    with pytest.raises(OSError, match="no space"):
        filled(store)
    assert list(store.folder.iterdir()) == []
