"""A file is whole or not there, and nobody writes into another one's."""

import os
import threading
from contextlib import suppress

from honest_persona.base.files import PART, clear_parts, part_of, whole_file, write_text


def test_it_takes_its_place_at_the_end_alone(tmp_path):
    path = tmp_path / "results.json"
    write_text(path, "old\r\n")
    with whole_file(path) as file:
        file.write("new: \u4f60\n")
        file.flush()
        assert path.read_bytes() == b"old\r\n"
    assert path.read_text(encoding="utf-8") == "new: \u4f60\n"
    with suppress(KeyError), whole_file(path) as file:
        file.write("half")
        raise KeyError
    assert path.read_text(encoding="utf-8") == "new: \u4f60\n"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_leave_what_one_of_them_wrote(tmp_path):
    path = tmp_path / "results.json"
    with whole_file(path) as one, whole_file(path) as two:
        for file, text in ((one, "1"), (two, "2")):
            for _ in range(3):
                file.write(text)
                file.flush()
    assert path.read_text() in ("111", "222")
    assert list(tmp_path.iterdir()) == [path]
    assert len({part_of(path) for _ in range(100)}) == 100


def test_what_killed_writers_left_is_cleared_away(tmp_path):
    kept = [tmp_path / name for name in ("a.part", ".hidden", "results.json")]
    for path in (*kept, part_of(tmp_path / "results.json")):
        path.touch()
    folder = part_of(tmp_path / "export")
    folder.mkdir()
    (folder / "weights").touch()
    assert folder.name.endswith(PART)
    clear_parts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_pipe_is_written_to_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "text")
    reader.join()
    assert read == ["text"]
    assert pipe.is_fifo()
