"""Every form of file gives the same records, and one bad row is located while the others are read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from honest_persona.base.errors import UserError
from honest_persona.data.load import load_records
from honest_persona.data.rejections import remedy_for
from honest_persona.data.selection import Selection
from tests.data.sources.made import FORMS, as_csv, as_jsonl
from tests.data.sources.test_parsing import ROW

ROWS = [
    ROW | {"id": f"r{n}", "task": f'Is "it" – so, {n};\n\tindeed?', "turns": None, "tags": ["x", "y"]} for n in range(5)
]
for row in ROWS:
    del row["item_id"]


def load(path):
    return load_records(str(path), Selection())


def told(path):
    loaded = load(path)
    assert all(remedy_for(rejection.reason) for rejection in loaded.rejections)
    return [record.id for record in loaded.records], [(r.place, r.reason) for r in loaded.rejections]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_records(name, tmp_path):
    FORMS["rows.jsonl"](tmp_path / "plain.jsonl", ROWS)
    wanted = load(tmp_path / "plain.jsonl").records
    FORMS[name](tmp_path / name, ROWS)
    loaded = load(tmp_path / name)
    assert (loaded.rejections, loaded.read) == ([], 5)
    assert [(r.id, r.task, r.tags, r.group) for r in loaded.records] == [
        (r.id, r.task, r.tags, r.group) for r in wanted
    ]


@pytest.mark.parametrize("name", FORMS)
def test_one_bad_row_among_good_ones(name, tmp_path):
    rows = [*ROWS[:2], ROWS[2] | {"flag": "MAYBE"}, *ROWS[3:]]
    FORMS[name](tmp_path / name, rows)
    kept, rejected = told(tmp_path / name)
    assert kept == ["r0", "r1", "r3", "r4"]
    ((place, reason),) = rejected
    assert reason == "unknown_flag"
    assert place.endswith(", flag")
    assert place[0] in "lr["


JSON = [json.dumps(row).encode() for row in ROWS]
BAD = {
    "cp1252.jsonl": ('{"task": "schön"}'.encode("cp1252"), "line 2, column 14", "not_utf8:cp1252"),
    "latin1.jsonl": (b'{"task": "a \x81 b"}', "line 2, column 13", "not_utf8:iso-8859-1"),
    "gbk.jsonl": ('{"task": "你好世界"}'.encode("gbk"), "line 2, column 11", "unknown_encoding"),
    "damaged.jsonl": ('{"task": "好 '.encode() + b'\xff"}', "line 2, column 13", "damaged_text:UTF-8"),
    "comma.json": (b'{"id" 1}', "line 3, column 7", "malformed_json"),
    "cp1252.json": (b'{"task": "sch\xf6n"}', "line 3, column 14", "not_utf8:cp1252"),
    "deep.json": (b"{" + b"[" * 200_000, "line 3, column 2", "malformed_json"),
    "deep.jsonl": (b'{"a": ' + b"[" * 200_000, "line 2, nested too deep", "malformed_json"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_rows_are_named(name, tmp_path):
    row, place, reason = BAD[name]
    rows = [JSON[0], row, JSON[1]]
    (tmp_path / name).write_bytes(b"\n".join(rows) if "jsonl" in name else b"[\n" + b",\n".join(rows) + b"\n]")
    assert told(tmp_path / name) == (["r0", "r1"], [(place, reason)])


def test_what_follows_damage_in_an_array_without_lines_is_one_rejection(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[" + JSON[0] + b", {oops}, " + JSON[1] + b"]")
    assert told(tmp_path / "a.json") == (["r0"], [(f"line 1, column {len(JSON[0]) + 5}", "malformed_json")])
    (tmp_path / "cut.json").write_bytes(b"[" + JSON[0] + b", " + JSON[1])
    kept, rejected = told(tmp_path / "cut.json")
    assert (kept, [reason for _, reason in rejected]) == (["r0", "r1"], ["malformed_json"])


def test_rows_of_a_table_that_are_no_rows(tmp_path):
    good, header = as_csv(ROWS[:2]), as_csv(ROWS[:1]).split("\r\n")[0]
    for name, middle, place, reason in [
        ("few", "a,b\r\n", "line 6", "wrong_number_of_cells"),
        ("many", as_csv(ROWS[2:3]).split("\r\n", 1)[1].rstrip() + ",x\r\n", "lines 6 to 7", "wrong_number_of_cells"),
        ("open", 'a,"b" c\r\n', "line 6", "malformed_csv"),
        ("cp1252", "schön,b\r\n", "line 6", "not_utf8:cp1252"),
    ]:
        path = tmp_path / f"{name}.csv"
        after = as_csv(ROWS[3:4]).split("\r\n", 1)[1]
        path.write_bytes(good.encode() + middle.encode("cp1252" if name == "cp1252" else "utf-8") + after.encode())
        assert told(path) == (["r0", "r1", "r3"], [(place, reason)])
    path = tmp_path / "never_closed.csv"
    path.write_text(good + 'a,"b\r\n' + good, newline="")
    assert told(path)[0] == ["r0", "r1"]
    assert told(path)[1][0] == ("lines 6 to 8", "malformed_csv")
    path = tmp_path / "twice.csv"
    path.write_text(good.replace(header, header.replace("group", "review")), newline="")
    assert told(path) == ([], [(f"lines {n} to {n + 1}", "repeated_key:review") for n in (2, 4)])


def test_a_null_character_and_a_long_text_in_a_table_are_text(tmp_path):
    for review in ("a\0b", "long" * 50_000):
        (tmp_path / "n.csv").write_text(as_csv([ROWS[0] | {"review": review}]), newline="")
        assert load(tmp_path / "n.csv").records[0].review == review


def test_lines_of_files_put_together_and_a_number_without_end(tmp_path):
    (tmp_path / "cat.jsonl").write_bytes(b"".join(b"\xef\xbb\xbf" + row + b"\n" for row in JSON[:2]))
    assert told(tmp_path / "cat.jsonl") == (["r0", "r1"], [])
    (tmp_path / "long.jsonl").write_bytes(JSON[0][:-1] + b', "score": ' + b"9" * 5000 + b"}")
    assert told(tmp_path / "long.jsonl") == (["r0"], [])


def test_a_damaged_value_of_parquet_rejects_its_row_alone(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    texts = pa.array([row["review"].encode() if n != 1 else b"\xff\xfe" for n, row in enumerate(ROWS)], pa.binary())
    damaged = pa.StringArray.from_buffers(len(ROWS), *texts.buffers()[1:])
    pq.write_table(table.set_column(table.schema.get_field_index("review"), "review", damaged), tmp_path / "d.parquet")
    assert told(tmp_path / "d.parquet") == (["r0", "r2", "r3", "r4"], [("row 1", "unreadable_row")])


def test_nulls_that_arrow_adds_inside_objects_are_none(tmp_path):
    given = [{"at": "door"}, {"to": "gate"}]
    calls = [{"tool_calls": [{"function": {"name": "go", "arguments": arguments}}]} for arguments in given]
    rows = [row | {"answer_fields": fields} for row, fields in zip(ROWS, calls, strict=False)]
    FORMS["rows.parquet"](tmp_path / "t.parquet", rows)
    found = [
        record.answer_fields["tool_calls"][0]["function"]["arguments"]
        for record in load(tmp_path / "t.parquet").records
    ]
    assert found == given


def test_the_index_that_pandas_adds_is_no_column(tmp_path):
    FORMS["rows.parquet"](tmp_path / "t.parquet", [row | {"__index_level_0__": 3, "score": 1} for row in ROWS])
    assert load(tmp_path / "t.parquet").ignored == {"score": 5}


def test_files_that_are_not_what_their_ending_says(tmp_path):
    FORMS["rows.parquet"](tmp_path / "p.parquet", ROWS)
    whole = (tmp_path / "p.parquet").read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    for name, content, message in [
        ("a.parquet", pointer, "git lfs pull"),
        ("a.jsonl", pointer, "git lfs pull"),
        ("a.parquet", b"", "empty_file.*Remove the file, or write its rows"),
        ("a.csv", b"", "empty_file"),
        ("a.parquet", JSON[0], "no readable Parquet file"),
        ("a.csv", whole, "This is a Parquet file, whatever its ending says"),
        ("a.csv", b"PK\x03\x04 sheet", "zip archive"),
        ("a.json", b"<!DOCTYPE html><html>", "web page"),
        ("a.jsonl.gz", JSON[0], "no readable gzip file"),
        ("a.zip", b"PK\x03\x04", "unpack it and give the folder"),
        ("a.xlsx", b"PK\x03\x04", "save the sheet as CSV UTF-8"),
        ("a.txt", JSON[0], r"a \.txt file, which is not read: give a \.jsonl"),
        ("a", JSON[0], "a file without an ending"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as refused:
            load(tmp_path / name)
        assert "\n" not in str(refused.value)
        (tmp_path / name).unlink()
    (tmp_path / "cut.parquet").write_bytes(whole[:-9])
    assert told(tmp_path / "cut.parquet") == ([], [("whole file", "damaged_file:Parquet file")])
    FORMS["rows.jsonl.gz"](tmp_path / "cut.jsonl.gz", ROWS)
    (tmp_path / "cut.jsonl.gz").write_bytes((tmp_path / "cut.jsonl.gz").read_bytes()[:-9])
    assert told(tmp_path / "cut.jsonl.gz")[1][-1] == ("after the last row", "damaged_file:gzip file")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(whole)
    (folder / "b.parquet").write_bytes(pointer)
    assert told(folder) == ([row["id"] for row in ROWS], [("whole file", "git_lfs_pointer")])


def test_jsonl_is_not_held_as_a_whole(tmp_path):
    """The reader gives a row before it reads the next."""
    from honest_persona.data.sources.jsonl import jsonl_rows

    path = tmp_path / "r.jsonl"
    path.write_text(as_jsonl(ROWS))
    rows = jsonl_rows(path)
    assert next(rows)[0]["id"] == "r0"
    rows.close()


@pytest.mark.parametrize("name", ["one.json", "one.jsonl"])
def test_one_conversation_with_as_many_tools_as_messages_is_no_table(name, tmp_path):
    messages = [{"role": "user", "content": "Is it safe?"}, {"role": "assistant", "content": "Yes."}]
    (tmp_path / name).write_text(json.dumps({"messages": messages, "tools": [{}, {}]}))
    (rejection,) = load(tmp_path / name).rejections
    assert rejection.place.startswith("line 1")
