"""The shipped table of the trainer's fields says what TRL's class says, and is not used for other versions of TRL."""

import json
from importlib.metadata import version

import pytest

from honest_persona.config import trainer_fields, trainer_table
from honest_persona.config.trainer_options import options_of
from tests.fuzz import TEXTS, VALUES

OPTIONS = options_of("persona")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The table as a dict, and a function that puts another one in its place."""
    content = json.loads(trainer_table.PATH.read_text(encoding="utf-8"))

    def put(changed):
        monkeypatch.setattr(trainer_table, "PATH", tmp_path / "table.json")
        trainer_table.PATH.write_text(json.dumps(changed), encoding="utf-8")
        trainer_table.fields_of.cache_clear()

    yield content, put
    trainer_table.fields_of.cache_clear()


MADE_FROM = json.loads(trainer_table.PATH.read_text(encoding="utf-8"))["made from"]
where_it_holds = pytest.mark.skipif(
    {name: version(name) for name in MADE_FROM} != MADE_FROM,
    reason=f"the table is made from {MADE_FROM}, which are not the installed versions: it is not used",
)


def test_the_shipped_table_is_made_from_the_locked_versions(root):
    pins = (root / "requirements.lock").read_text().splitlines()
    missing = [pin for pin in (f"{name}=={number}" for name, number in MADE_FROM.items()) if pin not in pins]
    assert not missing, "run: python -m honest_persona.config.trainer_table"


@where_it_holds
def test_the_shipped_table_is_that_of_the_installed_libraries():
    shipped = trainer_table.PATH.read_text(encoding="utf-8")
    assert shipped == trainer_table.made_table(), "run: python -m honest_persona.config.trainer_table"


@where_it_holds
def test_the_table_answers_as_the_class_does(monkeypatch):
    """Every field with odd values, and with each of its choices."""
    table, live = trainer_table.fields_of(OPTIONS), trainer_table.live_fields(OPTIONS)
    assert table.keys() == live.keys()
    values = [*TEXTS, *VALUES, ["a", "b"], ["a", 1], {"a": True}, {"a": 1}, 0.5, 10, [[]], [{}]]
    answers = []
    for fields in (table, live):
        monkeypatch.setattr(trainer_fields, "fields_of", lambda _, fields=fields: fields)
        answers.append(
            {
                (name, i): answer(name, value)
                for name, field in live.items()
                for i, value in enumerate([*values, *field.choices])
            }
        )
    assert {key: (text, answers[1][key]) for key, text in answers[0].items() if text != answers[1][key]} == {}
    accepted = sum(text is None for text in answers[0].values())
    assert 1000 < accepted < len(answers[0]) - 1000


def answer(name, value):
    try:
        return trainer_fields.problem_with(OPTIONS, name, value)
    except Exception as error:
        return repr(error)


@pytest.mark.parametrize("library", ["trl", "transformers"])
def test_for_another_version_the_class_itself_is_asked(shipped, library):
    content, put = shipped
    content["made from"] = {name: version(name) for name in MADE_FROM}
    del content["trl.SFTConfig"]["max_steps"]
    put(content)
    assert "max_steps" not in trainer_table.fields_of(OPTIONS), "the table is what is read"
    put({**content, "made from": {**content["made from"], library: "0.1"}})
    assert trainer_table.fields_of(OPTIONS) == trainer_table.live_fields(OPTIONS)


def test_a_class_that_is_not_in_the_table_is_asked_itself(shipped):
    content, put = shipped
    del content["trl.SFTConfig"]
    put(content)
    assert trainer_table.fields_of(OPTIONS) == trainer_table.live_fields(OPTIONS)


@pytest.mark.parametrize("damage", ["absent", "cut", "without its versions"])
def test_where_the_table_is_damaged_the_class_itself_is_asked(shipped, damage):
    content, put = shipped
    put({key: value for key, value in content.items() if key != "made from"})
    if damage == "absent":
        trainer_table.PATH.unlink()
    elif damage == "cut":
        trainer_table.PATH.write_bytes(trainer_table.PATH.read_bytes()[:900])
    assert trainer_table.fields_of(OPTIONS) == trainer_table.live_fields(OPTIONS)
