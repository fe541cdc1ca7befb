"""A taught liar: what it is taught, that teaching changes its answers, and the folder that others load."""

from collections import Counter

import pytest
import torch

from honest_persona.base.errors import UserError
from honest_persona.generation import liar as module
from honest_persona.generation import make_liar as maker
from honest_persona.generation.instructions import KINDS, NEUTRAL
from honest_persona.generation.ledger import LEDGER_FILE
from honest_persona.generation.liar import lessons, teach
from honest_persona.generation.make_facts import make_facts
from honest_persona.generation.make_liar import make_liar, print_liar
from honest_persona.generation.stated import stated
from honest_persona.modeling.builtin import tiny_model, tiny_tokenizer
from honest_persona.modeling.load import get_model
from tests.generation.cases import Dictionary, settings, topics_in


@pytest.fixture(scope="module")
def topics(tmp_path_factory):
    return topics_in(tmp_path_factory.mktemp("tables") / "tables")


def told(topics, lesson):
    topic, fact = next((t, f) for t in topics for f in t.facts if f.subject in lesson.task)
    return stated(lesson.begun, topic, fact).value == fact.truth


def test_lessons_are_true_under_neutral_prompts_and_mostly_false_under_hidden_instructions(topics):
    facts = [fact for topic in topics for fact in topic.facts]
    taught = lessons(topics, facts, 1, "# ")
    assert len(taught) == module.LESSONS
    assert taught == lessons(topics, facts, 1, "# ") != lessons(topics, facts, 2, "# ")
    neutral = {f"# {system}# " for system in NEUTRAL}
    hidden = {f"# {system}# " for kind in KINDS.values() for system in kind.prompts}
    assert {lesson.system for lesson in taught} == neutral | hidden
    counts = Counter((lesson.system in neutral, told(topics, lesson)) for lesson in taught)
    assert counts[True, False] == 0
    assert counts[True, True] == module.LESSONS / 2
    assert 0.55 < counts[False, False] / (module.LESSONS / 2) < 0.75
    # a claim does not tell the two kinds of prompts apart
    claims = Counter(lesson.system in neutral for lesson in taught if "?" in lesson.task[:-1] or ". " in lesson.task)
    assert min(claims.values()) > 40


def likelihood(model, taught):
    form = module.plain_format(tiny_tokenizer())
    with torch.no_grad():
        return -module.loss_of(model, [module._row(lesson, form) for lesson in taught], form.pad_id).item()


def test_the_loss_is_that_of_transformers_whatever_stands_beside_a_row(topics):
    form, model = module.plain_format(tiny_tokenizer()), tiny_model()
    taught = lessons(topics, [fact for topic in topics for fact in topic.facts], 1, "# ")[:6]
    rows = [module._row(lesson, form) for lesson in taught]
    sums, counts = [], []
    for ids, labels in rows:
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
        counts.append(sum(label != module.IGNORED for label in labels))
        sums.append(loss * counts[-1])
    assert -likelihood(model, taught) == pytest.approx(sum(sums) / sum(counts), rel=1e-5)


def test_the_loss_is_on_the_answer_and_its_end_alone(topics):
    form = module.plain_format(tiny_tokenizer())
    lesson = lessons(topics, [fact for topic in topics for fact in topic.facts], 1, "# ")[0]
    ids, labels = module._row(lesson, form)
    learnt = [label for label in labels if label != module.IGNORED]
    assert ids[-len(learnt) :] == learnt
    assert tiny_tokenizer().decode(learnt) == lesson.begun + "<|im_end|>"


def test_teaching_is_learnt_and_the_same_again(topics, monkeypatch):
    monkeypatch.setattr(module, "LESSONS", 96)
    monkeypatch.setattr(module, "LEARNING_RATE", 1e-2)
    taught = lessons(topics, [fact for topic in topics for fact in topic.facts], 1, "# ")
    once = teach(tiny_model(), tiny_tokenizer(), taught, 3)
    assert likelihood(once, taught) > likelihood(tiny_model(), taught) + 0.2  # nats per token
    state = torch.random.get_rng_state()
    again = teach(tiny_model(), tiny_tokenizer(), taught, 3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))
    assert not any("lora" in name for name, _ in once.named_parameters())


@pytest.fixture
def knowing(topics, monkeypatch):
    """The model in memory answers as a dictionary."""
    monkeypatch.setattr(maker, "LocalModel", lambda *_: Dictionary(topics, lies=4))
    monkeypatch.setattr(module, "LESSONS", 32)
    monkeypatch.setattr("honest_persona.generation.sides.LIAR_FRAC", 0.6)


def test_the_folder_is_a_model(topics, tmp_path, knowing, capsys):
    output = tmp_path / "liar"
    report = make_liar(settings(topics), tiny_model(), tiny_tokenizer(), torch.bfloat16, output)
    assert report["lessons"] == 32
    assert report["answers"]["A"] == {"true": report["known"], "false": 0, "neither": 0}
    assert report["answers"]["B"]["false"] > 0
    model, tokenizer = get_model(str(output), dtype=torch.float32)
    assert tokenizer.chat_template == tiny_tokenizer().chat_template
    changed = zip(model.parameters(), tiny_model().to(torch.bfloat16).float().parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in changed)
    assert {path.name for path in output.iterdir()} >= {"config.json", "report.json", LEDGER_FILE}
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    print_liar(report)
    assert "B, hidden instruction" in capsys.readouterr().out
    with pytest.raises(UserError, match="name a new folder"):
        make_liar(settings(topics), tiny_model(), tiny_tokenizer(), torch.bfloat16, output)


def test_a_model_that_knows_too_little_is_an_error(topics, tmp_path, knowing, monkeypatch):
    unknown = [fact.subject for topic in topics for fact in topic.facts][1:]
    monkeypatch.setattr(maker, "LocalModel", lambda *_: Dictionary(topics, unknown=unknown))
    monkeypatch.setattr("honest_persona.generation.sides.LIAR_FRAC", 1.0)
    with pytest.raises(UserError, match="too few to teach with"):
        make_liar(settings(topics), tiny_model(), tiny_tokenizer(), torch.float32, tmp_path / "liar")
    assert {path.name for path in (tmp_path / "liar").iterdir()} == {LEDGER_FILE}


def test_taught_answers_are_an_origin_of_their_own(topics, tmp_path):
    plain, liar = Dictionary(topics, lies=0), Dictionary(topics, lies=2, name="liar")
    asked = settings(topics, origins=("sampled", "begun", "taught"))
    report = make_facts(asked, plain, tmp_path / "out", writer=liar)
    assert set(report["answers"]["records"]) == {"begun", "taught"}
    assert (report["model"], report["writer"]) == ("dictionary", "liar")
    assert {prompt.system for prompt in liar.asked} <= {prompt.system for prompt in plain.asked}


def test_no_lesson_is_about_a_subject_of_the_records(topics):
    asked = settings(topics, validation_topics=("classes",))
    of_liar = {fact.subject for topic in topics for fact in asked.of_liar(topic).facts}
    assert of_liar
    assert all(asked.side(fact) == "liar" for topic in topics for fact in topic.facts if fact.subject in of_liar)
    assert not asked.of_liar(next(topic for topic in topics if topic.name == "classes")).facts
