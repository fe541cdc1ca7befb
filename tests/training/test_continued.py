"""The adapter that a run continues or compares with: refused before a model is loaded, where the two do not fit."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from honest_persona.base.errors import UserError
from honest_persona.base.manifest import MANIFEST
from honest_persona.config.keys import RunConfig
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.training.continued import check_continued
from honest_persona.training.reference import reference_identity
from tests.feedback import config_of, trained
from tests.tiny import form_of

FORM = form_of(token=False, adapter_scope="response")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """An adapter that was trained on answers."""
    folder = tmp_path_factory.mktemp("answers")
    trained(folder, "sft", steps=1)[0].save_model()
    return folder


@pytest.fixture
def reviews(answers, tmp_path):
    """The same weights, as an adapter that writes reviews."""
    folder = tmp_path / "reviews"
    shutil.copytree(answers, folder)
    (folder / MANIFEST).unlink()
    card = AdapterCard.load(answers)
    persona = card.persona.model_copy(update={"adapter_scope": "persona"})
    replace(card, persona=persona, sealed=False).save(folder)
    return folder


@pytest.mark.parametrize("objective", ["dpo", "sft", "simpo"])
def test_an_adapter_of_reviews_is_not_trained_on_answers(reviews, objective):
    config = config_of(objective, 1, adapter=str(reviews))
    with pytest.raises(UserError, match=rf"adapter: .*trained on reviews .*objective {objective} trains answers; name"):
        check_continued(config, FORM)


def test_an_adapter_of_answers_writes_no_reviews(answers):
    with pytest.raises(UserError, match=r"adapter: .*trained on answers .*objective persona trains reviews"):
        check_continued(RunConfig(adapter=str(answers)), FORM)


def test_an_adapter_that_goes_on(answers):
    check_continued(config_of("dpo", 1, adapter=str(answers)), FORM)
    check_continued(config_of("dpo", 1), FORM)
    with pytest.raises(UserError, match=r"trained with other settings of adapter_scope; give this run the same"):
        check_continued(config_of("dpo", 1, adapter=str(answers)), form_of(token=False, adapter_scope="all"))


class TestReference:
    def test_its_weights_are_part_of_the_run(self, answers, tmp_path):
        of = reference_identity(config_of("dpo", 1, reference=str(answers)), FORM)
        assert of == reference_identity(config_of("dpo", 1, adapter=str(answers)), FORM), "start, of a continued one"
        assert reference_identity(config_of("dpo", 1, adapter=str(answers), reference="base"), FORM) == {}
        assert len(of) == 1

    def test_one_of_reviews(self, reviews):
        with pytest.raises(UserError, match=r"reference: .*trained on reviews"):
            reference_identity(config_of("dpo", 1, reference=str(reviews)), FORM)

    def test_one_that_acts_on_other_tokens(self, answers):
        with pytest.raises(UserError, match=r"reference: .* has scope response, this run all.*set adapter_scope"):
            reference_identity(config_of("dpo", 1, reference=str(answers)), form_of(token=False, adapter_scope="all"))

    def test_one_of_another_tokenizer(self, answers):
        other = SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: {"a": 0}), persona=FORM.persona)
        with pytest.raises(UserError, match=r"reference: .*another tokenizer than that of 'builtin:"):
            reference_identity(config_of("dpo", 1, reference=str(answers)), other)

    def test_none_there(self, tmp_path):
        with pytest.raises(UserError, match=r"reference: .* is not the folder of an adapter; use start, base"):
            reference_identity(config_of("dpo", 1, reference=str(tmp_path)), FORM)
