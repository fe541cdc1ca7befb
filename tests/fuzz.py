"""Odd values, mutations of sound input, and the loop that counts what became of them; Hypothesis draws the same ones
each time."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from honest_persona.data.load import Loaded
from honest_persona.data.rejections import remedy_for

NAN = float("nan")
NESTED: list = []
for _ in range(60):
    NESTED = [NESTED]
TEXTS = [
    "",
    " \n",
    "x",
    "A",
    "B",
    "C",
    "PASS",
    "AMBIGUOUS",
    "all",
    "null",
    "\ud800",
    "a\0b",
    "好\u2028\x85\x7f🙂",
    "y" * 5000,
]
TEXTS += [
    "<|im_end|>",
    "<split-personality-token>",
    "[/b] \\[b]",
    "~nobody",
    "*a",
    "&a",
    "- x",
    "a: b",
    "%",
    "#",
    "\t",
    "1e5",
]
VALUES = [None, True, False, 0, 1, -1, 2.5, 10**30, 10**4200, NAN, float("inf"), [], {}, NESTED]
VALUES += [["x", "x"], [1], [None], ["all"], {"a": NAN}, {"a": {"b": "c"}}, {"\ud800": 1}, {"": []}]
ODD = st.sampled_from([*TEXTS, *VALUES]).map(copy.deepcopy)


def fuzz(n: int, strategy: st.SearchStrategy, check: Callable[[Any], list[str]]) -> Counter:
    """Runs `check` on n examples; it tells what became of each. The suite's time limit stops what hangs."""
    counts: Counter = Counter()

    @settings(max_examples=n, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(example):
        counts.update(["examples", *check(example)])

    run()
    print(f"\n{dict(counts)}")
    assert counts["examples"] >= n
    return counts


def read_from(loaded: Loaded, path: Path, read: int | None, intact: set[str]) -> list[str]:
    """Checks what is promised of all that is read; tells what became of the rows beside the intact ones."""
    assert read in (None, loaded.read), "nothing is passed over"
    assert loaded.read == len(loaded.records) + len(loaded.rejections)
    assert intact <= {record.id for record in loaded.records}, "a bad row stops no other"
    for rejection in loaded.rejections:
        assert rejection.file.startswith(str(path))
        assert rejection.place
        assert remedy_for(rejection.reason).endswith(".")
        assert "{detail}" not in remedy_for(rejection.reason)
    "\n".join(f"{r.file}: {r.place}: {r.reason}: {r.said}" for r in loaded.rejections).encode()
    reasons = ["rejected: " + rejection.reason.partition(":")[0] for rejection in loaded.rejections]
    return [*reasons, *["rejected"] * len(reasons), *["kept"] * (len(loaded.records) - len(intact))]


def places(value: Any, here: tuple = ()) -> list[tuple]:
    """The paths of all values inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in inside for path in [(*here, key), *places(item, (*here, key))]]


@st.composite
def mutated(draw, sound: Any) -> Any:
    """A copy with one to three values replaced, removed, renamed or put beside another key."""
    value = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        if not (found := places(value)):
            break
        *path, key = draw(st.sampled_from(found))
        owner = value
        for part in path:
            owner = owner[part]
        how = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add"]))
        if how == "replace" or isinstance(owner, list):
            owner[key] = draw(ODD)
        elif how == "add":
            owner[draw(st.sampled_from(TEXTS))] = draw(ODD)
        else:
            item = owner.pop(key)
            if how == "rename":
                owner[draw(st.sampled_from(TEXTS))] = item
    return value


@st.composite
def damaged(draw, raw: bytes) -> bytes:
    """Bytes cut off, put in, encoded otherwise, or a key given twice."""
    place = draw(st.integers(0, len(raw)))
    put_in = draw(
        st.sampled_from([b"\xff", b"\0", b"{", b'"', b"\\ud800", b"\n\n", b"\r", b"9" * 5000, b"[" * 100_000])
    )
    keys = [
        key
        for key in ("id", "review", "data", "inferences", "S", "messages", "role", "seed")
        if f'"{key}": ' in raw.decode()
    ]
    key = f'"{draw(st.sampled_from(keys or ["?"]))}": '.encode()
    return draw(
        st.sampled_from(
            [
                raw[:place],
                raw[:place] + put_in + raw[place:],
                b"\xef\xbb\xbf" + raw,
                raw.decode().encode("utf-16"),
                raw.replace(key, key + b"1, " + key, 1),
                raw.replace(b"\n", b"\r\n"),
                b"",
            ]
        )
    )


@st.composite
def written(draw, sound: Any) -> bytes:
    """The mutated value as JSON, one in four damaged as bytes too."""
    raw = json.dumps(draw(mutated(sound))).encode()
    return draw(damaged(raw)) if draw(st.integers(0, 3)) == 3 else raw
