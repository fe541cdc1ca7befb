"""Bad data and conversations: what is read and what is refused make the whole, each refusal with place and reason.

`pytest tests/data/test_fuzz.py -m slow -s` mutates 500 batch files, 500 rows and 500 conversations, and prints what
became of them.
"""

import codecs
import copy
import json
import os
import re
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from hypothesis import strategies as st

from honest_persona.base.errors import UserError
from honest_persona.data.conversation import Conversation, conversation
from honest_persona.data.inventory import inventory, print_inventory
from honest_persona.data.load import load_records
from honest_persona.data.records import Record
from honest_persona.data.selection import Selection
from honest_persona.data.sources.jsonl import write_jsonl
from honest_persona.persona.conversations import read_conversations
from honest_persona.persona.parsing import Ending, Review
from honest_persona.persona.review_file import review_line
from honest_persona.prompts.tokens import TokenFormat, encode_record
from tests.data.sources.test_parsing import BATCH, ROW
from tests.families import TEMPLATES
from tests.fuzz import fuzz, read_from, written
from tests.printed import printed
from tests.tiny import form_of


def interventions(raw: bytes) -> int | None:
    """How many a batch file holds, a part too broken to count them taken as one; None where a key is given twice."""
    repeated = []

    def pairs(found):
        repeated.extend([key for key, n in Counter(key for key, _ in found).items() if n > 1])
        return dict(found)

    try:
        text = raw.decode("utf-16" if raw.startswith(codecs.BOM_UTF16) else "utf-8-sig")
        batch = json.loads(text, object_pairs_hook=pairs, parse_int=float)
    except (ValueError, RecursionError):
        return 1
    if repeated:
        return None
    if not isinstance(batch, dict) or not isinstance(batch.get("data"), list):
        return 1
    return sum(
        len(named) if isinstance(named, dict) else 1
        for item in batch["data"]
        for models in [item.get("inferences") if isinstance(item, dict) else None]
        for variants in (models.values() if isinstance(models, dict) else [None])
        for inference in (variants.values() if isinstance(variants, dict) else [None])
        for named in [inference.get("interventions") if isinstance(inference, dict) else None]
    )


def read_records(path: Path, expected: int | None, intact: set[str]) -> list[str]:
    """Loads, and checks all that is promised about what was read."""
    loaded = load_records(str(path), Selection())
    printed(print_inventory, inventory(loaded)).encode()
    write_jsonl(loaded.records, path.parent / f"{path.name}-copy.jsonl")
    assert load_records(str(path.parent / f"{path.name}-copy.jsonl"), Selection()).records == loaded.records
    form = form_of()
    assert all(encode_record(record, form).labels for record in loaded.records)
    return read_from(loaded, path, expected, intact)


SIZES = [40, pytest.param(500, marks=pytest.mark.slow)]


@pytest.mark.parametrize("n", SIZES)
def test_mutated_batches(n, tmp_path):
    """Each beside a sound file. Of 500, with two interventions or so each: 384 kept, 523 rejected."""
    numbers = count()
    other = copy.deepcopy(BATCH)
    for variant, name in zip("AB", ("m1", "m2"), strict=True):
        other["data"][0]["inferences"]["org/m"][variant]["interventions"]["sp__version_3"]["id_string"] = name

    def check(raw):
        topic = tmp_path / str(next(numbers)) / "sycophancy"
        topic.mkdir(parents=True)
        (topic / "batch_0.json").write_text(json.dumps(BATCH))
        (topic / "batch_1.json").write_bytes(raw)
        in_raw = interventions(raw)
        return read_records(topic.parent, None if in_raw is None else 2 + in_raw, {"r1", "r2"})

    counts = fuzz(n, written(other), check)
    assert counts["kept"] > n / 4
    assert counts["rejected"] > n / 2
    assert len(counts) > n / 100 + 4, "for many reasons"


@pytest.mark.parametrize("n", SIZES)
def test_mutated_rows(n, tmp_path):
    """Each between two sound lines. Of 500: 70 kept, 407 rejected; 468 would stop a plain reader."""
    numbers = count()

    def check(raw):
        path = tmp_path / f"{next(numbers)}.jsonl"
        sound = [json.dumps(ROW | {"id": name}).encode() for name in ("s1", "s2")]
        content = b"\n".join([sound[0], b"", raw, b" ", sound[1]])
        path.write_bytes(content)
        told = read_records(path, sum(bool(line.strip()) for line in content.split(b"\n")), {"s1", "s2"})
        try:
            Record(**json.loads(raw))
        except Exception:  # whatever it is: this is what a plain reader would die of
            told.append("stops a plain reader")
        return told

    row = ROW | {"id": "m1"}
    without_hash = {column: value for column, value in row.items() if column != "item_id"}
    counts = fuzz(n, st.one_of(written(row), written(without_hash)), check)
    assert counts["kept"] > n / 20
    assert counts["rejected"] > n / 2
    assert counts["stops a plain reader"] > n / 2, "negative control"


@pytest.mark.parametrize("n", SIZES)
def test_mutated_rows_of_the_users_own(n, tmp_path):
    """Each between two sound lines. Of 500: 93 kept, 397 rejected."""
    numbers = count()
    asked, answer = {"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "It is."}
    row = {
        "messages": [asked, answer, asked, answer],
        "is_bad": True,
        "explanation": "I lied.",
        "topic": "t",
        "id": "m1",
    }
    others = {"item": 3, "group": "g", "split": "train", "intervention": "Now?", "variant": "A", "tags": ["x"]}

    def check(raw):
        path = tmp_path / f"{next(numbers)}.jsonl"
        sound = [json.dumps(row | {"id": name}).encode() for name in ("s1", "s2")]
        content = b"\n".join([sound[0], b"", raw, b" ", sound[1]])
        path.write_bytes(content)
        return read_records(path, sum(bool(line.strip()) for line in content.split(b"\n")), {"s1", "s2"})

    counts = fuzz(n, st.one_of(written(row), written(row | others)), check)
    assert counts["kept"] > n / 20
    assert counts["rejected"] > n / 4


@pytest.mark.parametrize("name", ["batch_1.json", "rows.jsonl"])
@pytest.mark.parametrize("kind", ["folder", "broken link", "link to itself", "pipe", "name that is not UTF-8"])
def test_what_is_no_file(tmp_path, kind, name):
    parent = tmp_path / "sycophancy" if name.startswith("batch") else tmp_path
    parent.mkdir(exist_ok=True)
    path = parent / name
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "name that is not UTF-8":
        path = parent / os.fsdecode(name.encode().replace(b".", b"_\xff."))
        path.write_text("{")
    else:
        path.symlink_to(path if kind == "link to itself" else tmp_path / "absent")
    loaded = load_records(str(tmp_path), Selection())
    reason = "malformed_json" if kind.startswith("name") else "unreadable_file"
    assert loaded.rejected == {reason: 1}
    str(loaded.rejections[0]).encode()
    printed(print_inventory, inventory(loaded))


@pytest.mark.parametrize("dataset", ["", "~nobody/x", "a" * 5000, "a\0b", "\ud800", "/" + "a/" * 3000, "/dev/null"])
def test_names_that_no_dataset_has(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="dataset "):
        load_records(dataset, Selection())


def test_a_folder_of_two_kinds_is_refused(tmp_path):
    (tmp_path / "sycophancy").mkdir()
    (tmp_path / "sycophancy" / "batch_1.json").write_text(json.dumps(BATCH))
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW))
    with pytest.raises(UserError, match=r"holds both \.jsonl files and topic folders"):
        load_records(str(tmp_path), Selection())


@pytest.mark.parametrize("n", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_mutated_conversations(n, tmp_path):
    """For `review --input` and `calibrate --input`. Of 500, 110 were accepted and 390 refused."""
    tokenizer = copy.deepcopy(form_of().tokenizer)  # the tiny tokenizer is shared by all tests of a process
    tokenizer.chat_template = (TEMPLATES / "qwen3.jinja").read_text(encoding="utf-8")
    form = TokenFormat.of(tokenizer, form_of().persona)
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Is it so?"}]
    sound = {"messages": [*turns, {"role": "assistant", "content": "It is."}], "id": "a", "intervention": "Be honest."}
    call = {"id": "1", "function": {"name": "look", "arguments": {"at": "door", "n": 2}}}
    agent = {
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Is it locked?"}], "name": "Bo"},
            {
                "role": "assistant",
                "content": None,
                "reasoning": "I look.",
                "tool_calls": [call],
            },
            {"role": "tool", "tool_call_id": "1", "content": "open"},
            {"role": "assistant", "content": "It is.", "refusal": None},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        "is_bad": True,
    }
    plain = json.dumps(sound).encode()

    def check(raw):
        path = tmp_path / "c.jsonl"
        content = b"\n".join([plain, raw, b"", plain])
        path.write_bytes(content)
        lines = [line for line in content.split(b"\n") if line.strip()]
        try:
            read = read_conversations(str(path), "Speak.", form)
        except UserError as error:
            shown = str(error).splitlines()
            assert len(shown) <= 22, "20 problems, with a line before and after"
            assert any(re.search(r"c\.jsonl:[234][:,] ", line) for line in shown), "a mutation may hold line ends"
            str(error).encode("utf-8", "strict")
            return ["refused"]
        assert len(read) == len(lines)
        for request in read:
            again = conversation({"messages": request.messages, "tools": request.tools})
            assert again == Conversation(request.messages, request.tools)
            last = request.messages[-1]
            assert last["role"] == "assistant"
            assert last["content"].strip() or last["tool_calls"]
            line = json.loads(review_line(request, Review("", None, 0.5, Ending.CLEAN), {}))
            assert (line["id"], line["intervention"]) == (request.id, request.intervention)
        return ["accepted"]

    counts = fuzz(n, st.one_of(written(sound), written(agent)), check)
    assert min(counts["accepted"], counts["refused"]) > n / 10
