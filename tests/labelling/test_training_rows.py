"""Files of pairs and of labels train as the scored answers do, and TRL reads them."""

import json
import random

import pytest
from trl.data_utils import apply_chat_template, is_conversational

from honest_persona.base.errors import UserError
from honest_persona.data.feedback_load import load_feedback_parts
from honest_persona.labelling.gate import gate_of_labels, in_words
from honest_persona.labelling.training_rows import TrainingFiles
from honest_persona.modeling.builtin import tiny_tokenizer
from tests.labelling.test_sample import config_of, lines_of

GATE = '{"verdict": "not asked", "why": "a test"}\n'


@pytest.fixture
def scored(tmp_path):
    """Three answers to each of 20 prompts in three topics; the data names the part of half of the prompts."""
    rng = random.Random(3)
    path = tmp_path / "scored.jsonl"
    lines = []
    for i in range(60):
        prompt = i // 3
        system = [{"role": "system", "content": "Be brief."}] if prompt % 2 else []
        line = {
            "id": f"a{i}",
            "prompt_id": f"p{prompt}",
            "topic": "abc"[prompt % 3],
            "messages": [*system, {"role": "user", "content": f"Is door {prompt} open?"}],
            "response": f"Answer {i}." if i != 7 else " ",
            "score": round(rng.random(), 1),
            "model": "builtin:tiny",
            "group": f"g{prompt // 2}",
            "about": {"n": i},
        }
        lines.append(line if prompt < 10 else line | {"split": "train" if prompt % 4 < 2 else "validation"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "scored.jsonl.gate.json").write_text(GATE)
    return path


def views(dataset, flags, objective):
    return load_feedback_parts(config_of(dataset, *flags, objective=objective))[1].views


def facts(row):
    dumped = row.model_dump()
    return {name: dumped[name] for name in dumped if name != "split"}


@pytest.mark.parametrize(
    ("objective", "own"),
    [
        ("dpo", ()),
        ("dpo", ("--pairing", "closest", "--min_margin", "0.2")),
        ("dpo", ("--pairing", "random", "--seed", "5")),
        ("kto", ()),
        ("kto", ("--label_threshold", "0.7", "--keep_desirable", "0.5")),
    ],
)
def test_a_training_gets_the_same_rows_from_the_file(scored, objective, own, capsys):
    flags = ("--validation_topics", "[c]", "--val_item_frac", "0.4", *own)
    kind = "pairs" if objective == "dpo" else "labels"
    path = scored.with_name("rows.jsonl")
    TrainingFiles(**{kind: path}).write(scored, config_of(scored, *flags, objective=objective))
    wanted, found = views(scored, flags, objective), views(path, flags, objective)
    for part in ("train", "within", "across"):
        rows = getattr(wanted, part).rows
        assert [facts(row) for row in getattr(found, part).rows] == [facts(row) for row in rows]
        assert rows
    assert "empty_response: 1" in capsys.readouterr().out
    assert in_words(gate_of_labels(str(path))) == in_words(json.loads(GATE)), "the copy is the new file's"


def test_trl_reads_the_rows(scored):
    files = TrainingFiles(scored.with_name("pairs.jsonl"), scored.with_name("labels.jsonl"))
    files.write(scored, config_of(scored))
    for path, sides in ((files.pairs, ("chosen", "rejected")), (files.labels, ("completion",))):
        for line in lines_of(path):
            assert is_conversational(line)
            shown = apply_chat_template(line, tiny_tokenizer())
            assert f"door {line['prompt_id'][1:]} open" in shown["prompt"]
            assert all(line[side][0]["content"] in shown[side] for side in sides)
    pair = lines_of(files.pairs)[0]
    assert set(pair) == {
        "id",
        "prompt_id",
        "topic",
        "split",
        "prompt",
        "chosen",
        "rejected",
        "margin",
        "group",
        "model",
        "about",
    }
    assert pair["margin"] > 0
    assert {line["label"] for line in lines_of(files.labels)} == {True, False}


def test_the_next_command_writes_its_file_anew(scored):
    files = TrainingFiles(pairs=scored.with_name("pairs.jsonl"))
    files.write(scored, config_of(scored))
    first = files.pairs.read_bytes()
    files.check([scored])
    files.write(scored, config_of(scored, "--min_margin", "0.6"))
    assert 0 < len(files.pairs.read_bytes()) < len(first)
    with pytest.raises(UserError, match=r"--pairs: .*gives none \(scores or margin differ"):
        files.write(scored, config_of(scored, "--min_margin", "7"))


def test_what_cannot_be_written(scored, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    for files, said in [
        (TrainingFiles(pairs=scored), "--pairs: .* is another file of this command"),
        (TrainingFiles(pairs, pairs), "--labels: .* is another file of this command"),
        (TrainingFiles(labels=tmp_path / "no" / "labels.jsonl"), "--labels: .* in a folder that does not exist"),
        (TrainingFiles(labels=tmp_path), "--labels: .* holds something else than labels"),
    ]:
        with pytest.raises(UserError, match=said):
            files.check([scored])
    for text in ("notes\n", '{"prompt": "a", "label": true}\n', "5\n"):
        pairs.write_text(text)
        with pytest.raises(
            UserError, match=r"--pairs: .* holds something else than pairs; name another file, or remove"
        ):
            TrainingFiles(pairs).check([scored])
        assert pairs.read_text() == text
