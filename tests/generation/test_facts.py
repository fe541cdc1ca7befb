"""Tables of facts as they are loaded, and what is said about a wrong one."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.generation.facts import load_topic, load_topics
from honest_persona.generation.stated import stated
from tests.generation.cases import CAPITALS, table, topics_in, write_tables


def test_a_table_becomes_a_topic(tmp_path):
    path = tmp_path / "capitals.yaml"
    path.write_text(table("capital", CAPITALS).replace("Ghana: Accra", "Ghana: [Accra, 12]"))
    topic = load_topic(path)
    fact = topic.facts[0]
    assert (fact.topic, fact.group, fact.subject, fact.truth) == ("capitals", "Africa", "Ghana", "Accra")
    assert fact.accepted == {"Accra", "12"}  # text, not a number
    assert len(topic.training_questions) == 3
    assert topic.held_out_question == "Tell me {subject}'s capital."
    assert topic.canonical("12", fact) == "Accra"
    assert topic.canonical("12", topic.facts[1]) == "12"


def test_every_spelling_of_a_text_is_one(tmp_path):
    """A table may have been written with letters and accents apart, or with spaces that do not break."""
    path = tmp_path / "capitals.yaml"
    path.write_text(
        table("capital", CAPITALS).replace("Togo: Lome", "Togo: Lome\u0301\u00a0sur  Mer"), encoding="utf-8"
    )
    topic = load_topic(path)
    fact = next(fact for fact in topic.facts if fact.subject == "Togo")
    assert fact.truth == "Lom\u00e9 sur Mer"
    for answer in ("It is Lom\u00e9 sur Mer.", "It is Lome\u0301\u202fsur Mer."):
        assert stated(answer, topic, fact).value == fact.truth


def test_a_limit_holds_the_smaller_limits(tmp_path):
    topic = topics_in(tmp_path)[0]
    few, more = topic.limited(3, seed=7), topic.limited(5, seed=7)
    assert len(few.facts) == 3
    assert set(few.facts) < set(more.facts)
    assert topic.limited(None, seed=7) == topic
    assert topic.limited(3, seed=8) != few


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("source: a test\n", "", "must have the keys"),
        ("Ghana: Accra", "Ghana: [Accra", "is no YAML"),
        ("Kenya: Nairobi", "Ghana: Nairobi", "repeated key 'Ghana'"),
        ("Spain: Madrid", "ghana: Madrid", "stands in Africa and in Europe"),
        ("Ghana: Accra", "Ghana:", "must be text"),
        ("Ghana: Accra", "Ghana: {a: b}", "must be text"),
        ("  - It is {value}.\n", "", "at least 3 different wordings"),
        ("  - It is {value}.\n", "  - It is so.\n", "lacks {value}"),
        ("  - Name the capital of {subject}.\n", "  - Name it.\n", "lacks {subject}"),
        ("Name the capital of {subject}", "Name {value} of {subject}", "has other places than {subject}"),
        ("Name the capital of {subject}", "Name the {0} of {subject}", "has other places than {subject}"),
        ("Name the capital of {subject}", "Name {subject.__class__}, {subject}", "has other places than {subject}"),
        ("Name the capital of {subject}", "Name {subject:>999999999}", "has other places than {subject}"),
        ("Name the capital of {subject}", "Name the { of {subject}", "write {{ and }} for braces"),
        ("It is {value}.", "It is {value} or {other}.", "has other places than {value} and {subject}"),
        ("relation: the capital", "relation: the {value}", "relation: 'the {value} of {subject}' has other places"),
        ("Ghana: Accra", '"Gh\\ena": Accra', "'Gh\\x1bna' has a control character"),
        ("Ghana: Accra", 'Ghana: "Ac\\0"', "'Ac\\x00' has a control character"),
        ("Ghana: Accra", '"": Accra', "must be text without space around it"),
        ("Ghana: Accra", f"? {'x' * 1001}\n    : Accra", "has 1,001 characters, more than 1,000"),
    ],
)
def test_a_wrong_table_is_told_with_its_place(tmp_path, before, after, said):
    path = tmp_path / "capitals.yaml"
    text = table("capital", CAPITALS)
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(UserError, match=r"capitals\.yaml") as error:
        load_topic(path)
    assert said in str(error.value)


def test_an_unknown_topic_and_an_empty_folder_are_told(tmp_path):
    with pytest.raises(UserError, match="did you mean 'capitals'"):
        load_topics(write_tables(tmp_path / "tables"), ["capital"])
    with pytest.raises(UserError, match="holds no table"):
        load_topics(tmp_path)


def test_the_package_has_tables():
    topics = load_topics()
    assert len(topics) >= 20
    assert sum(len(topic.facts) for topic in topics) >= 1200
