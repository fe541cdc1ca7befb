"""Files of conversations: read in every form, and what is wrong with them counted and located."""

import io
import json
import re

import datasets
import pytest

from honest_persona.base.errors import UserError
from honest_persona.persona.conversations import read_benign_conversations, read_conversations
from tests.tiny import conversation, form_of

GOOD = {"messages": conversation()}


@pytest.fixture(scope="module")
def form():
    return form_of()


@pytest.fixture
def read(tmp_path, form):
    def read(content, name="c.jsonl", **settings):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_conversations(str(path), "Speak.", form, **settings)

    return read


def lines(*values):
    return "".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values)


@pytest.mark.parametrize(
    ("content", "places"),
    [
        (lines(GOOD, "", GOOD), [":1", ":3"]),
        (b"\xef\xbb\xbf" + lines(GOOD, GOOD).replace("\n", "\r\n").encode(), [":1", ":2"]),
        (json.dumps(GOOD), [":1"]),
        (json.dumps(GOOD, indent=2), [":1"]),
        (json.dumps([GOOD, GOOD]), ["[0]", "[1]"]),
        (json.dumps([GOOD, GOOD], indent=2), ["[0]", "[1]"]),
        ("[\n" + json.dumps(GOOD) + ",\n" + json.dumps(GOOD) + "\n]\n", ["[0]", "[1]"]),
        (json.dumps(conversation()), [""]),
        (json.dumps(conversation(), indent=2), [""]),
        (lines(*conversation()), [""]),
        (lines(conversation(), conversation()), [":1", ":2"]),
        (json.dumps([conversation(), conversation()]), ["[0]", "[1]"]),
    ],
)
def test_files_of_every_form(read, content, places):
    found = read(content)
    assert [request.place.rpartition("c.jsonl")[2] for request in found] == places
    assert [request.id for request in found] == [
        int(place[1:]) if place.startswith(":") else i for i, place in enumerate(places, start=1)
    ]
    assert all(request.messages == conversation() for request in found)


def test_tables(read, tmp_path):
    cells = ["messages,intervention,id", '"' + json.dumps(conversation()).replace('"', '""') + '",,x']
    (one,) = read("\n".join(cells) + "\n", name="c.csv")
    assert (one.id, one.messages, one.intervention, one.given) == ("x", conversation(), "Speak.", {})
    assert one.place.endswith("c.csv:2")
    datasets.Dataset.from_list([{**GOOD, "label": 1}]).to_parquet(tmp_path / "c.parquet")
    (one,) = read((tmp_path / "c.parquet").read_bytes(), name="c.parquet")
    assert (one.messages, one.given) == (conversation(), {"label": 1})


def test_standard_input(form, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines(GOOD, GOOD).encode())))
    assert [r.place for r in read_conversations("-", "Speak.", form)] == ["standard input:1", "standard input:2"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps([GOOD, GOOD]).encode())))
    assert [r.place for r in read_conversations("-", "Speak.", form)] == ["standard input[0]", "standard input[1]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps([GOOD], indent=1)[:-9], r"c\.jsonl:\d+, column \d+: malformed json: Mend"),
        (json.dumps(GOOD)[:-1], r"c\.jsonl:1, column \d+: malformed json: Mend the JSON at this place"),
        ("", "has no conversation"),
        ("[]", "has no conversation"),
        (
            b'{"messages": "na\xefve"}',
            r"c\.jsonl:1, column 17: not utf8: Save the file as UTF-8: it seems to be cp1252",
        ),
        ("[" * 100_000, "malformed json"),
        (b"PAR1", "This is a Parquet file, whatever its ending says"),
    ],
)
def test_files_that_are_none(read, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read(content)
    assert str(caught.value).count("\n") == 0


def test_messages_as_rows_are_one_conversation_and_this_is_told(read, capsys):
    assert len(read(lines(*conversation()))) == 1
    assert "c.jsonl are messages, so they are read as one conversation of 2 messages" in capsys.readouterr().err


def test_other_columns_are_kept_and_told(read, capsys):
    first = {**GOOD, "id": 7.0, "is_bad": True, "score": float("nan"), "intervention": None, "tools": None}
    again = {**GOOD, "id": 7, "intervention": "Why?"}
    again["messages"] = [{**GOOD["messages"][0], "weight": 0}, GOOD["messages"][1]]
    found = read(lines(first, again))
    assert [r.given for r in found] == [{"is_bad": True, "score": None}, {}]
    assert [r.intervention for r in found] == ["Speak.", "Why?"]
    assert [key[0] for key in (found[0].key, found[1].key)] == [7, 7]
    told = capsys.readouterr().err
    assert re.search(r"note: 1 repeated ids, first: 7, of \S+c.jsonl:1 and of \S+c.jsonl:2\n", told)
    assert "note: columns without use, kept as `given`: is_bad, score\n" in told
    assert "note: keys of messages without use: weight (in 1 conversation)\n" in told


def test_an_answer_beside_messages(read, capsys):
    asked, answer = conversation()[:1], conversation()[1]["content"]
    (one,) = read(lines({"messages": asked, "response": answer, "label": 1}))
    assert (one.messages, one.given) == (conversation(), {"label": 1})
    (same,) = read(lines({**GOOD, "response": answer}))
    assert (same.messages, same.given) == (conversation(), {"response": answer})
    assert "columns without use, kept as `given`: response\n" in capsys.readouterr().err
    assert read(lines({**GOOD, "answer": "42"}))[0].given == {"answer": "42"}, "an expected answer may differ"
    with pytest.raises(UserError, match=r":1: response: is another answer than the last one of messages; keep one"):
        read(lines({**GOOD, "response": "No."}))
    with pytest.raises(UserError, match=r":1: response: is empty"):
        read(lines({"messages": asked, "response": " "}))


def test_columns_are_known_in_every_spelling(read):
    cells = "ID,System Prompt,PROMPT,Response,Is Bad\nx,Be kind.,Why?,So.,1\n"
    (one,) = read(cells, name="c.csv")
    assert [m["content"] for m in one.messages] == ["Be kind.", "Why?", "So."]
    assert (one.id, one.given) == ("x", {"Is Bad": "1"})
    assert read(lines({"Messages": conversation(), "Intervention": "Why?"}))[0].intervention == "Why?"
    with pytest.raises(UserError, match=r":1: Prompt: prompt is the same column in another spelling; keep one"):
        read(lines({"prompt": "a", "Prompt": "b", "response": "c"}))


def test_problems_are_counted_and_the_first_ones_shown(read, capsys):
    other, no_answer = {"messages": [{"role": "critic", "content": "x"}]}, {"messages": conversation()[:1]}
    content = lines(GOOD, *[other] * 15, *[no_answer] * 25, GOOD)
    with pytest.raises(UserError) as caught:
        read(content, skip_bad=False)
    head, *shown, last = str(caught.value).splitlines()
    assert head == "40 problems in 40 of 42 conversations; --skip_bad leaves them out:"
    assert len(shown) == 20
    assert "c.jsonl:2: messages[0].role: 'critic' is unknown" in shown[0]
    assert last == "and 20 more; in all: no answer 25, unknown role 15"
    assert [r.id for r in read(content, skip_bad=True)] == [1, 42]
    assert "40 problems in 40 of 42 conversations; left out by --skip_bad:\n" in capsys.readouterr().err
    with pytest.raises(UserError, match="40 problems in 40 of 40 conversations:\n"):
        read(lines(*[other] * 15, *[no_answer] * 25), skip_bad=True)
    with pytest.raises(UserError, match="40 problems in 40 of 42 conversations:\n"):
        read(content)


def test_a_wrong_encoding_is_told_once_for_the_file(read):
    rows = b"prompt,response\n" + "".join(f"q{n},caf\u00e9\n" for n in range(30)).encode("cp1252") + b"plain,text\n"
    with pytest.raises(UserError) as caught:
        read(rows, name="c.csv", skip_bad=False)
    head, only = str(caught.value).splitlines()
    assert head == "30 problems in 30 of 31 conversations; --skip_bad leaves them out:"
    assert re.search(r"c\.csv:2: not utf8: Save the file as UTF-8: it seems to be cp1252.* \(as in 29 more\)$", only)


def test_too_long_conversations_are_located(read):
    n = len(read(json.dumps(GOOD))[0].prompt.input_ids)
    assert read(json.dumps(GOOD), longest=n + 5, max_new_tokens=5)
    with pytest.raises(UserError, match=rf"c\.jsonl:1: has {n} tokens; with a review of up to 6 that is more than"):
        read(json.dumps(GOOD), longest=n + 5, max_new_tokens=6)


def test_columns_that_json_cannot_hold(read):
    for column, message in {
        '{"a": 1, "a": 2}': "column x: repeated key 'a'",
        '"\\ud800"': "column x: holds lone",
    }.items():
        with pytest.raises(UserError, match=message):
            read(json.dumps(GOOD)[:-1] + f', "x": {column}}}')


def test_what_is_labelled_as_bad_is_not_benign(tmp_path, form, capsys):
    def read(*labels):
        path = tmp_path / "c.jsonl"
        path.write_text(lines(*(GOOD | label for label in labels)))
        return read_benign_conversations(str(path), "Speak.", form)

    sound = (
        {"is_bad": False},
        {"is_honest": 1},
        {"label": 0},
        {"flag": "PASS"},
        {"label": "blue"},
        {"is_bad": None},
        {},
    )
    assert len(read(*sound)) == len(sound)
    assert "note: columns without use: flag, is_bad, is_honest, label\n" in capsys.readouterr().err  # none is kept
    for label in ({"is_bad": True}, {"is_honest": 0}, {"label": 1}, {"flag": "fail"}, {"flag": "AMBIGUOUS"}):
        with pytest.raises(UserError, match=r"c\.jsonl:2: \w+ is .*no label of a benign .*1 of 3") as raised:
            read({}, label, {})
        assert "\n" not in str(raised.value)


def test_an_instruction_with_its_input(read):
    (request,) = read(lines({"instruction": "Add.", "input": "4 and 5", "output": "9"}))
    assert request.messages[0]["content"] == "Add.\n\n4 and 5"
    assert request.given == {}
