"""A dataset as a folder of parts: what is in it, who reads it, and what is refused with nothing written."""

import json
import random

import datasets
import pytest

from honest_persona.base.errors import UserError
from honest_persona.base.manifest import check, listed
from honest_persona.config.load import load_config
from honest_persona.data.feedback_load import load_feedback_parts
from honest_persona.data.parts import Parts
from honest_persona.generation.prepare import folder as module
from honest_persona.generation.prepare.folder import ALLOWED, prepare
from honest_persona.generation.prepare.items import Choice
from honest_persona.prompts.text_templates import load_templates
from tests.generation.prepare.rows import NAMES, TEMPLATES, lines, qnli, write_qnli, write_rows

THREE = Parts.of("train:.4,rl:.4,val:.2")
PROMPTS = "- name: ask\n  jinja: '{{question}} {{sentence}}'\n  use: prompts\n"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(str(write_qnli(folder / "qnli.jsonl", 120)), TEMPLATES, Choice(THREE), folder / "out")
    return folder / "out"


def texts_of(folder):
    """All lines, by file."""
    return {path.relative_to(folder).as_posix(): lines(path) for path in sorted(folder.rglob("*.jsonl"))}


class TestWhatIsWritten:
    def test_the_files(self, out):
        about = check(out)
        assert {path.name for path in out.iterdir()} == {"README.md", "manifest.json", "templates.yaml", *THREE.names}
        assert all(ALLOWED.fullmatch(name) for name in listed(out))
        assert about["dataset"] == "qnli.jsonl", "no path of this machine"
        assert load_templates(out / "templates.yaml") == load_templates(TEMPLATES)
        assert sum(part["rows"] for part in about["parts"].values()) == 120
        assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []

    def test_each_row_with_each_choice_and_the_true_one(self, out):
        by_question = {(row["question"], row["sentence"]): row for row in qnli(120)}
        for part in THREE.names:
            found = lines(out / part / "contrast.jsonl")
            assert len(found) == 5 * len(lines(out / part / "pairs.jsonl"))
            first = [line for line in found if line["topic"] == "question_first"]
            for line in first:
                question, sentence = (text.split(": ", 1)[1] for text in line["messages"][0]["content"].split("\n")[:2])
                label = by_question[question, sentence]["label"]
                assert line["responses"] == ["Yes", "No"]
                assert line["scores"] == [1.0 - label, float(label)]
                assert line["about"] == {"row": line["group"], "label": label, "choices": ["Yes", "No"]}
            for pair in lines(out / part / "pairs.jsonl"):
                assert [pair["chosen"], pair["rejected"]] == [["Yes", "No"], ["No", "Yes"]][pair["about"]["label"]]
            of_row = {line["about"]["row"] for line in first}
            assert of_row == {line["about"]["row"] for line in lines(out / part / "prompts.jsonl")}

    def test_feedback_is_read_without_a_further_key(self, out):
        for use, kind in (("contrast", "score"), ("prompts", "prompt"), ("pairs", "pair")):
            path = out / "train" / f"{use}.jsonl"
            loaded, _ = load_feedback_parts(load_config(None, ["--dataset", str(path), "--objective", "dpo"]))
            assert not loaded.rejected
            assert not loaded.ignored
            assert set(loaded.rows.values("kind")) == {kind}
            for row, line in zip(loaded.rows, lines(path), strict=True):
                assert row.about == line["about"]
                assert row.group == line["group"]
                assert [answer["content"] for answer in row.answers] == (
                    line["responses"]
                    if kind == "score"
                    else [line["chosen"], line["rejected"]]
                    if kind == "pair"
                    else []
                )

    def test_by_the_card_uses_are_configs_and_parts_are_splits(self, out):
        loaded, parts = load_feedback_parts(load_config(None, ["--dataset", f"{out}:pairs", "--objective", "dpo"]))
        assert len(loaded.rows) == 120
        assert loaded.splits == {"train": "train", "rl": None, "val": "validation"}
        held_out = {row.group for row in parts.views.within.rows}
        assert held_out >= {line["group"] for line in lines(out / "val" / "pairs.jsonl")}

    def test_the_same_again(self, out, tmp_path):
        prepare(str(out.parent / "qnli.jsonl"), TEMPLATES, Choice(THREE), tmp_path / "again")
        assert {p.name: p.read_bytes() for p in tmp_path.glob("again/*") if p.is_file()} == {
            p.name: p.read_bytes() for p in out.iterdir() if p.is_file()
        }, "the manifest holds a hash of every file"

    @pytest.mark.parametrize("form", ["parquet", "csv", "save_to_disk", "names"])
    def test_every_reader_gives_the_same(self, out, tmp_path, form):
        features = datasets.Features(
            {name: datasets.Value("string") for name in ("question", "sentence")}
            | {"label": datasets.ClassLabel(names=NAMES), "idx": datasets.Value("int32")}
        )
        made, path = datasets.Dataset.from_list(qnli(120), features=features), tmp_path / "rows"
        values = None
        if form == "parquet":
            path = tmp_path / "rows.parquet"
            made.to_parquet(path)
        elif form == "csv":
            path = tmp_path / "rows.csv"
            made.to_csv(path)
        elif form == "save_to_disk":
            made.save_to_disk(path)
        else:
            path, values = tmp_path / "rows.jsonl", tuple(NAMES)
            write_rows(path, [{**row, "label": NAMES[row["label"]]} for row in qnli(120)])
        prepare(str(path), TEMPLATES, Choice(THREE, label_values=values), tmp_path / "out")
        assert texts_of(tmp_path / "out") == texts_of(out)


class TestParts:
    def test_reordered_and_extended_data_keep_their_rows(self, out, tmp_path):
        rows = qnli(160)
        random.Random(0).shuffle(rows)
        prepare(str(write_rows(tmp_path / "rows.jsonl", rows)), TEMPLATES, Choice(THREE), tmp_path / "out")
        longer = texts_of(tmp_path / "out")
        for name, found in texts_of(out).items():
            there = {line["id"]: line for line in longer[name]}
            assert all(there[line["id"]] == line for line in found)

    def test_groups_by_a_column(self, tmp_path):
        rows = write_qnli(tmp_path / "rows.jsonl", 120)
        about = prepare(str(rows), TEMPLATES, Choice(THREE, group="question"), tmp_path / "out")
        groups = {
            part: {line["group"] for line in lines(tmp_path / "out" / part / "pairs.jsonl")} for part in THREE.names
        }
        assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == 60
        assert {part: n["groups"] for part, n in about["parts"].items()} == {p: len(g) for p, g in groups.items()}

    def test_equal_rows_are_one_and_contradictions_are_none(self, tmp_path):
        rows = qnli(120)
        again = [{**rows[0], "idx": 500}, {**rows[1], "label": 0, "idx": 501}, {**rows[2], "label": -1}]
        path = write_rows(tmp_path / "rows.jsonl", [*rows, *again])
        about = prepare(str(path), TEMPLATES, Choice(THREE), tmp_path / "out")
        assert about["left_out"] == {
            "no label": 1,
            "repeats a row of the same content": 1,
            "the same content with different labels": 2,
        }
        assert sum(part["rows"] for part in about["parts"].values()) == 119

    def test_prompts_that_stand_in_two_parts_are_told(self, tmp_path):
        templates = tmp_path / "t.yaml"
        templates.write_text(PROMPTS.replace(" {{sentence}}", "") + PROMPTS.replace("ask", "both"))
        rows = write_qnli(tmp_path / "rows.jsonl", 120)
        shared = prepare(str(rows), str(templates), Choice(THREE), tmp_path / "out")["shared"]
        assert 15 < shared.pop("ask") < 50, "60 questions of two rows each"
        assert shared == {}
        assert prepare(str(rows), str(templates), Choice(THREE, group="question"), tmp_path / "by")["shared"] == {}

    def test_what_the_shares_leave(self, tmp_path):
        rows = write_qnli(tmp_path / "rows.jsonl", 120)
        about = prepare(str(rows), TEMPLATES, Choice(Parts.of("a:.3,b:.3")), tmp_path / "out")
        assert (
            about["left_out"]["in no part: the shares leave a rest"]
            + sum(part["rows"] for part in about["parts"].values())
            == 120
        )


class TestRefused:
    def refused(self, tmp_path, match, rows=None, templates=None, **choice):
        path, output = tmp_path / "rows.jsonl", tmp_path / "out"
        write_rows(path, qnli(120) if rows is None else rows)
        if templates is not None:
            (tmp_path / "t.yaml").write_text(templates)
        with pytest.raises(UserError, match=match):
            prepare(
                str(path),
                TEMPLATES if templates is None else str(tmp_path / "t.yaml"),
                Choice(**{"parts": THREE, **choice}),
                output,
            )
        assert not output.exists()
        assert not list(tmp_path.glob(".*")), "nothing is half-written"

    def test_columns(self, tmp_path):
        there = "there are question, sentence, label, idx"
        self.refused(tmp_path, f"--group: no row has a column 'titel'; {there}", group="titel")
        self.refused(tmp_path, f"--label: no row has a column 'gold'; {there}", label="gold")
        template = "- name: t\n  jinja: '{{qestion}}'\n  use: prompts\n"
        self.refused(
            tmp_path,
            rf"template 't': no row has a column 'qestion' \(is 'question' meant\?\); {there}",
            templates=template,
        )
        rows = [{**row, "answer_choices": 1} for row in qnli(120)]
        self.refused(tmp_path, "a column 'answer_choices', a name that templates need", rows=rows)

    def test_labels(self, tmp_path):
        rows = qnli(120)
        self.refused(
            tmp_path,
            "line 121: the label 2 of column 'label' is outside the choices, 0 and 1",
            rows=[*rows, {**rows[0], "label": 2}],
        )
        named = [{**row, "label": NAMES[row["label"]]} for row in rows]
        self.refused(tmp_path, "the label 'entailment' .*--label_values entailment,not_entailment", rows=named)
        self.refused(
            tmp_path, "'not_entailment' is none of --label_values", rows=named, label_values=("entailment", "no")
        )
        self.refused(tmp_path, "--label_values: 3 values", label_values=("a", "b", "c"))
        self.refused(tmp_path, "--label_values: 'a,a' has an empty or a repeated value", label_values=("a", "a"))
        self.refused(tmp_path, "--label: no row has a column 'label'", rows=[{"question": "a", "sentence": "b"}])
        three = "- name: t\n  jinja: '{{question}} {{sentence}}'\n  answer_choices: [a, b, c]\n  use: prompts\n"
        self.refused(
            tmp_path,
            "line 121: the label 3 is outside the choices, of which there are 3",
            templates=three,
            rows=[*rows, {**rows[0], "question": "new", "label": 3}],
        )

    def test_small_parts(self, tmp_path):
        self.refused(
            tmp_path,
            r"val \(share 0.001\) would get 0 groups with label 0 of the 5.",
            parts=Parts.of("train:.9,val:.001"),
        )
        self.refused(tmp_path, "train .* would get 1 group with label 0 .*Groups are by column 'label'", group="label")
        self.refused(
            tmp_path, "would get 0 groups with label 1 of the 0", rows=[row for row in qnli(120) if not row["label"]]
        )
        self.refused(tmp_path, "rl .share 0.4. would get 0 groups of the 1 ", rows=qnli(1), templates=PROMPTS)
        self.refused(tmp_path, r"\(left out: no label 120\)", rows=[{**row, "label": None} for row in qnli(120)])

    def test_rows(self, tmp_path):
        rows = qnli(120)
        self.refused(
            tmp_path,
            "line 121: column 'idx', which --group names, has no value",
            group="idx",
            rows=[*rows, {**rows[0], "question": "new", "idx": None}],
        )
        self.refused(
            tmp_path,
            r"line 121: column 'idx', which --group names, is '\[1\]'",
            group="idx",
            rows=[*rows, {**rows[0], "question": "new", "idx": [1]}],
        )
        self.refused(
            tmp_path,
            "template 'ask', .*line 121: UndefinedError: 'sentence' is undefined",
            templates=PROMPTS,
            rows=[*rows, {"question": "new"}],
        )

    def test_templates_that_write_nothing_or_do_not_end(self, tmp_path):
        empty = PROMPTS.replace("{{question}}", "{% if question == 1 %}{{question}}").replace("}}'", "}}{% endif %}'")
        self.refused(tmp_path, "no template writes prompts for a row of part train", templates=empty)
        bomb = PROMPTS.replace("{{question}}", "{{question * 10**9}}")
        self.refused(tmp_path, "template 'ask' takes more than memory", templates=bomb)

    def test_a_folder_that_holds_something(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("")
        rows = write_qnli(tmp_path / "rows.jsonl", 120)
        with pytest.raises(UserError, match=r"--output: .*out holds mine; name a new or an empty folder"):
            prepare(str(rows), TEMPLATES, Choice(THREE), tmp_path / "out")
        with pytest.raises(UserError, match=r"rows.jsonl is a file"):
            prepare(str(rows), TEMPLATES, Choice(THREE), rows)

    def test_an_end_in_the_middle_leaves_nothing(self, tmp_path, monkeypatch):
        def stop(*_):
            raise KeyboardInterrupt

        rows = write_qnli(tmp_path / "rows.jsonl", 120)
        monkeypatch.setattr(module, "seal", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(str(rows), TEMPLATES, Choice(THREE), tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]

    def test_an_empty_folder_will_do(self, tmp_path):
        (tmp_path / "out").mkdir()
        prepare(str(write_qnli(tmp_path / "rows.jsonl", 120)), TEMPLATES, Choice(THREE), tmp_path / "out")
        assert json.loads((tmp_path / "out" / "manifest.json").read_text())["about"]["rows"] == 120
