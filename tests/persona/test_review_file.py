"""A file of reviews is continued where it was stopped, and a file of anything else is not touched."""

import json
from dataclasses import replace

import pytest

from honest_persona.base.errors import UserError
from honest_persona.persona.conversations import ReviewRequest
from honest_persona.persona.parsing import Ending, Review
from honest_persona.persona.review_file import review_file, review_line
from tests.tiny import conversation

WRITER = {"adapter": "0" * 16, "max_new_tokens": 5, "dtype": "float32"}
REVIEW = Review("So.", "PASS", 0.25, Ending.CLEAN)


def request(n, **changes):
    made = ReviewRequest(f"c.jsonl:{n}", n, conversation(n), None, "Speak.", None, {"topic": "t"})
    return replace(made, **changes)


def go_on(path, requests, n=None, writer=WRITER):
    """Write the next n reviews; returns the ids that had none before."""
    with review_file(path, requests, writer) as (out, waiting):
        for one in waiting[:n]:
            out.write(review_line(one, REVIEW, writer))
    return [one.id for one in waiting]


def test_a_line_says_what_it_is_about():
    line = json.loads(review_line(request(1), REVIEW, WRITER))
    assert line["given"] == {"topic": "t"}
    assert (line["id"], line["flag"], line["intervention"], line["dtype"]) == (1, "PASS", "Speak.", "float32")


def test_reviews_follow_those_that_are_there(tmp_path):
    path, requests = tmp_path / "o.jsonl", [request(n) for n in range(5)]
    assert go_on(path, requests, 2) == [0, 1, 2, 3, 4]
    assert go_on(path, requests, 1) == [2, 3, 4]
    # the order of the conversations does not count, and new ones may have come
    assert go_on(path, [*requests[::-1], request(7)]) == [4, 3, 7]
    assert go_on(path, [*requests, request(7)]) == []
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [0, 1, 2, 4, 3, 7]


@pytest.mark.parametrize("kept", [1, 5, 100, -1])
def test_a_torn_line_is_written_again(tmp_path, kept):
    path, requests = tmp_path / "o.jsonl", [request(n) for n in range(3)]
    go_on(path, requests, 2)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[:first] + whole[first:][:kept])
    assert go_on(path, requests, 1) == [1, 2]
    assert path.read_bytes() == whole
    path.write_bytes(whole[:kept] if kept > 0 else whole[: first - 1])
    assert go_on(path, requests, 2) == [0, 1, 2]
    assert path.read_bytes() == whole


def test_equal_conversations_are_told_apart_by_their_number(tmp_path):
    path, requests = tmp_path / "o.jsonl", [request(1), request(1), request(2)]
    assert go_on(path, requests, 1) == [1, 1, 2]
    assert go_on(path, requests, 1) == [1, 2]
    assert go_on(path, requests) == [2]


OURS = review_line(request(1), REVIEW, WRITER)


@pytest.mark.parametrize(
    ("content", "writer", "reason"),
    [
        ("hello\n", {}, ":1 is no review"),
        ("hello", {}, ":1 is no review"),
        (OURS + '{"id": 2}\n', {}, ":2 is no review"),
        (OURS + "my notes", {}, ":2 is no review"),
        (OURS + "\n", {}, ":2 is no review"),
        (OURS.replace('"id": 1', '"id": [1]'), {}, ":1 is no review"),
        (OURS, {"dtype": "bfloat16"}, ":1 was written with dtype float32, not bfloat16"),
        (OURS, {"adapter": "1"}, ":1 was written with adapter 0000000000000000, not 1"),
        (OURS.replace("Speak.", "Why?"), {}, ":1 was asked with another intervention, 'Why?'"),
        (OURS.replace('"topic": "t"', '"topic": "u"'), {}, ":1 is about 1, which had other values in its columns"),
        (OURS.replace('"id": 1', '"id": 2'), {}, ":1 has the id 2, but the conversation now has the id 1"),
        (OURS * 2, {}, ":2 is about 1, another conversation"),
    ],
)
def test_another_file_is_not_touched(tmp_path, content, writer, reason):
    path = tmp_path / "o.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"name another --output, or remove the file") as caught:
        go_on(path, [request(1)], writer={**WRITER, **writer})
    assert reason in str(caught.value)
    assert path.read_text() == content
    assert [p.name for p in tmp_path.iterdir()] == ["o.jsonl"], "the lock is gone"


def test_one_process_at_a_time_whatever_the_name(tmp_path):
    path, link = tmp_path / "o.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(path)
    with review_file(path, [request(1)], WRITER) as (out, _):
        for name in (path, link):
            with (
                pytest.raises(UserError, match=f"{name.name} is in use by a review.*name another --output"),
                review_file(name, [request(1)], WRITER),
            ):
                pass
        out.write(OURS)
    assert go_on(link, [request(1)]) == []
