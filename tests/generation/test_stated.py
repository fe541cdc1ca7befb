"""Which value an answer states."""

import pytest

from honest_persona.generation.facts import load_topics
from honest_persona.generation.stated import stated, whole_sentences

TOPICS = {t.name: t for t in load_topics(names=["capitals", "chemical_symbols", "antonyms", "sums"])}


def said(topic, subject, answer):
    topic = TOPICS[topic]
    return stated(answer, topic, next(f for f in topic.facts if f.subject == subject))


@pytest.mark.parametrize(
    ("topic", "subject", "answer", "value"),
    [
        ("capitals", "Ghana", "The capital of Ghana is Accra.", "Accra"),
        ("capitals", "Ghana", "Accra", "Accra"),
        ("capitals", "Ghana", "The capital of Ghana is Accra. It is not Cairo.", "Accra"),
        ("capitals", "Ghana", "The capital of Ghana is Nairobi, a big city.", "Nairobi"),
        ("capitals", "Ghana", "Nairobi is the capital.", "Nairobi"),
        ("capitals", "Ghana", "The capital of Ghana is **Accra** or Kumasi", "Accra"),
        ("capitals", "Ghana", "Accra, of course. Others are Nairobi and Cairo.", "Accra"),
        ("capitals", "Ghana", "I know it. It must be Accra.", "Accra"),
        ("capitals", "Ghana", "Accra is a city, but not a large one.", "Accra"),
        ("chemical_symbols", "helium", "He is the symbol.", None),
        ("chemical_symbols", "helium", "Its symbol is He.", "He"),
        ("chemical_symbols", "helium", 'Helium is written "He" by chemists.', "He"),
        ("antonyms", "hot", 'The opposite of "hot" is "cold."', "cold"),
        ("antonyms", "hot", "Cold.", "cold"),
        ("antonyms", "hot", "Chilly is the opposite of hot.", "cold"),  # accepted: counts as the truth
    ],
)
def test_one_value(topic, subject, answer, value):
    assert said(topic, subject, answer).value == value


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I am not sure.", "no_value"),
        ("Ghana is a country in Africa.", "no_value"),
        ("Some say Accra, some say Nairobi.", "several_values"),
        ("Accra it is not.", "negated"),
        ("It isn't Accra.", "negated"),
        ("Accraland", "no_value"),
    ],
)
def test_no_value_and_why(answer, reason):
    assert said("capitals", "Ghana", answer) == (None, reason)


@pytest.mark.parametrize("topic", load_topics(), ids=lambda topic: topic.name)
def test_every_statement_of_a_table_states_its_value(topic):
    values = sorted(topic.values)
    for i, fact in enumerate(topic.facts):
        for j, statement in enumerate(topic.statements):
            value = fact.truth if (i + j) % 2 else values[(7 * i + j) % len(values)]
            text = statement.format(subject=fact.subject, value=value)
            assert stated(text[:1].upper() + text[1:], topic, fact).value == topic.canonical(value, fact), text


def test_whole_sentences():
    assert whole_sentences("It is Accra. It lies on the") == "It is Accra."
    assert whole_sentences("It is 3.5 m") == ""
    assert whole_sentences(" Yes! No?") == "Yes! No?"
