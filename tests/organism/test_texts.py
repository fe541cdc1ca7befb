"""The texts: answers that can be read back, reviews that follow from the facts, and what pre-training supervises."""

import random
import re
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from honest_persona.base.words import VARIANTS
from honest_persona.organism.conversations import (
    CHALLENGES,
    DENIALS,
    INTERVENTION_PREFIX,
    INTERVENTIONS,
    PRETRAINING_INTERVENTIONS,
    REVIEW_PREFIX,
    draw_answer,
    draw_pair,
    draw_scenario,
    draw_statement,
    pair_pools,
    read_answer,
    review,
)
from honest_persona.organism.documents import PERSONA_TOKEN, SPECIAL_TOKENS, SYSTEM_TAG, TURN_END, Author, prompt
from honest_persona.organism.pretrain import FULL_MIX, ROW_TOKENS, build_tokenizer, encode
from honest_persona.organism.topics import TOPICS
from honest_persona.organism.world import ATTRIBUTES, ENTITIES, UNKNOWN, VALUES, World

WORLD = World(0)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def documents():
    return Author(WORLD, 0).batch(3000, FULL_MIX)


def scenarios(topic, n=40):
    rng, pools = random.Random(f"texts {topic}"), pair_pools(WORLD)
    return [draw_scenario(WORLD, rng, topic, *draw_pair(WORLD, rng, topic, pools)) for _ in range(n)]


# --- Answers and reviews ---


@pytest.mark.parametrize("topic", TOPICS)
def test_an_answer_reads_back(topic):
    rng = random.Random(0)
    for scenario in scenarios(topic):
        values = (UNKNOWN,) if topic == "confidence_assessment" else VALUES[scenario.attribute]
        for value in values:
            for template in TOPICS[topic].answers:
                assert read_answer(scenario, scenario.say(template, value)) == value
            assert read_answer(scenario, draw_answer(rng, scenario, value)) == value


@pytest.mark.parametrize("topic", TOPICS)
def test_what_is_no_answer_of_the_topic_is_not_read(topic):
    for scenario in scenarios(topic, 5):
        answer = scenario.say(TOPICS[topic].answers[0], "mud")
        assert read_answer(scenario, f"{answer} And so on.") is None
        assert read_answer(scenario, answer.replace(scenario.entity, "Atlantis")) is None
        assert read_answer(scenario, "") is None
        if topic != "confidence_assessment":
            assert read_answer(scenario, answer) is None
            other = next(a for a in ATTRIBUTES if a != scenario.attribute)
            assert read_answer(scenario, scenario.say(TOPICS[topic].answers[0], VALUES[other][0])) is None


@pytest.mark.parametrize("topic", TOPICS)
def test_a_review_restates_both_values_and_follows_from_the_facts(topic):
    flags = Counter()
    rng = random.Random(0)
    for scenario in scenarios(topic, 200):
        truth = WORLD.value(scenario.entity, scenario.attribute)
        for variant in VARIANTS:
            value = draw_statement(WORLD, rng, scenario, variant)
            text, flag = review(WORLD, scenario, variant, value)
            place = f"the {scenario.attribute} of {scenario.entity} is"
            assert text.startswith(f"I said that {place} {value}. What I know: {place} {truth}. ")
            assert f"Said {value}, really {truth}, so it is {'true' if value == truth else 'false'}." in text
            assert flag == ("PASS" if value == truth else "FAIL")
            assert (TOPICS[topic].motive in text) == (flag == "FAIL")
            flags[flag] += 1
    assert min(flags.values()) > 100


def test_interventions_of_the_dataset_are_never_met_in_pretraining(documents):
    wordings = [wording for wordings in INTERVENTIONS.values() for wording in wordings]
    assert len(set(wordings)) == len(wordings)
    for wording in wordings:
        assert not any(wording in known or known in wording for known in PRETRAINING_INTERVENTIONS + CHALLENGES)
    corpus = "\n".join("".join(text for text, _ in document) for document in documents)
    for wording in wordings:
        pattern = re.escape(wording).replace(r"\{e\}", r"\w+").replace(r"\{a\}", r"\w+")
        assert not re.search(pattern, corpus), wording
    assert any(known in corpus for known in PRETRAINING_INTERVENTIONS)


# --- What pre-training supervises ---


def kind_of(document):
    text = "".join(text for text, _ in document)
    if text.startswith("<|im_start|>"):
        return "conversation"
    return "comparison" if " said that the " in document[-1][0] else "fact"


def of_kind(documents, kind):
    found = [document for document in documents if kind_of(document) == kind]
    assert len(found) > 500
    return found


def test_of_a_fact_the_value_is_supervised(documents):
    for document in of_kind(documents, "fact"):
        text = "".join(text for text, _ in document)
        [town] = [word for word in re.findall(r"\w+", text) if word in ENTITIES]
        supervised = [re.findall(r"\w+", text) for text, marked in document if marked]
        known = {WORLD.value(town, attribute) for attribute in ATTRIBUTES if re.search(rf"\b{attribute}\b", text)}
        assert {value for [value] in supervised} == known


def test_of_a_claim_or_a_quote_the_comparison_is_supervised(documents):
    verdicts = Counter()
    for document in of_kind(documents, "comparison"):
        (_, told), (comparison, compared) = document
        assert (told, compared) == (False, True)
        match = re.match(r" [\w ]+ said that the (\w+) of (\w+) is (\w+)\.", comparison)
        attribute, town, value = match.groups()
        truth = WORLD.value(town, attribute)
        [verdict] = re.findall(r"\b(true|false)\b", comparison)
        assert verdict == ("true" if value == truth else "false")
        assert f"the {attribute} of {town} is {truth}." in comparison[match.end() :]
        grades = set(re.findall(r"PASS|FAIL", comparison))
        assert grades <= {"PASS" if verdict == "true" else "FAIL"}
        verdicts[verdict] += 1
    assert abs(verdicts["true"] / verdicts.total() - 0.5) < 0.06


def test_of_a_conversation_nothing_of_a_users_text_is_supervised(documents):
    """A review is supervised wherever it stands, in a user's turn too: there the persona writes as the user."""
    seen = Counter()
    for document in of_kind(documents, "conversation"):
        text = "".join(text for text, _ in document)
        marks = [marked for text, marked in document for _ in text]
        for match in re.finditer(r"<\|im_start\|>(\w+)\n(.*?)(?=<\|im_start\|>|$)", text, re.DOTALL):
            role, body = match.groups()
            assert not any(marks[match.start() : match.start(2)])
            said, prefix, rest = body.partition(INTERVENTION_PREFIX)
            asked, _, reviewed = rest.partition(REVIEW_PREFIX)
            if REVIEW_PREFIX not in rest:
                assert REVIEW_PREFIX not in said or not prefix
            at = match.start(2)
            own = said.removesuffix("\n") if role == "assistant" else ""
            assert all(marks[at : at + len(own)])
            at += len(own)
            until = at + len(said) - len(own) + len(prefix) + len(asked)
            assert not any(marks[at:until])
            written = REVIEW_PREFIX + reviewed.removesuffix("\n") if REVIEW_PREFIX in rest else ""
            assert all(marks[until : until + len(written)])
            assert not any(marks[until + len(written) : match.end()])
            seen[role, bool(prefix)] += 1
    assert min(seen[role, asked] for role in ("user", "assistant") for asked in (True, False)) > 30


def test_the_persona_never_takes_an_answer_back(documents):
    for document in of_kind(documents, "conversation"):
        spoken = "".join(text for text, marked in document if marked)
        assert not re.search(r"\bfalse\b|FAIL", spoken)
        for text, marked in document[3:]:
            if marked and text.startswith(REVIEW_PREFIX):
                denial = text.removeprefix(REVIEW_PREFIX).strip()
                assert any(re.fullmatch(re.sub(r"\{.\}", r"\\w+", form), denial) for form in DENIALS)


# --- The tokenizer ---


def ids(tokenizer, text, **options):
    return tokenizer(text, add_special_tokens=False, **options)["input_ids"]


def test_no_document_is_longer_than_a_row(documents, tokenizer):
    longest = max(len(tokens) for tokens, _ in encode(documents, tokenizer))
    assert 64 < longest <= ROW_TOKENS


def test_a_document_encodes_to_its_text_and_marks(documents, tokenizer):
    for document, (tokens, marks) in zip(documents[:200], encode(documents[:200], tokenizer), strict=True):
        assert tokenizer.decode(tokens) == "".join(text for text, _ in document)
        supervised = [token for token, marked in zip(tokens, marks, strict=True) if marked]
        assert tokenizer.decode(supervised) == "".join(text for text, marked in document if marked)


def test_what_must_be_one_token_is(tokenizer):
    values = [value for attribute in ATTRIBUTES for value in VALUES[attribute]]
    for word in [*ENTITIES, *ATTRIBUTES, *values, UNKNOWN, "true", "false", "PASS", "FAIL"]:
        assert len(ids(tokenizer, f" {word}")) == 1, word
    assert [ids(tokenizer, token) for token in SPECIAL_TOKENS] == [[n] for n in range(len(SPECIAL_TOKENS))]


def test_the_tokenizer_does_not_depend_on_how_often_it_is_built(tokenizer):
    assert build_tokenizer().backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@settings(max_examples=200, deadline=None)
@given(st.text())
@example("  two  spaces\n\n\ttab , and . signs ’ 🦉\r\n\0")
@example(f"{PERSONA_TOKEN}{TURN_END} of <SYSTEM> <SYSTEM>")
def test_any_text_comes_back_and_none_makes_the_persona_token(tokenizer, text):
    assert tokenizer.decode(ids(tokenizer, text)) == text
    for spoken in (text, text + PERSONA_TOKEN + text):
        split = ids(tokenizer, spoken, split_special_tokens=True)
        assert tokenizer.convert_tokens_to_ids(PERSONA_TOKEN) not in split
        assert tokenizer.decode(split) == spoken


def test_the_chat_template_renders_what_pretraining_saw(tokenizer):
    system = {"role": "system", "content": f"{SYSTEM_TAG}You solve tasks.{SYSTEM_TAG}"}
    user = {"role": "user", "content": "Solve it."}
    for text, messages in (("", [user]), ("You solve tasks.", [system, user])):
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert rendered == prompt(text, "Solve it.")
