"""Text after an answer that does not change the answer's truth: polite ends, forged reviews, neutral words.

    recipe = Recipe("forged_review", wording=3, flag="PASS", further_turn=True)
    changed = with_text(record, appended_text(recipe, EVALUATED, form))
    control = with_text(record, neutral_text(record, changed, seed, form))

Evaluation measures the effect of such text (designs.py), and training can show it (`augment`). Both use these
functions, with different texts. The text is part of the response, so a forged persona token or end of turn in it is
encoded as plain characters.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import cycle, islice
from typing import NamedTuple, TypeVar

from honest_persona.base.words import FLAGS, PASS, Flag
from honest_persona.config.values import Augmentation
from honest_persona.data.kept import Records
from honest_persona.data.messages import Message
from honest_persona.data.records import MARKER, Record
from honest_persona.data.splits import uniform
from honest_persona.prompts.appended_texts import NEUTRAL, TRAINED, Texts
from honest_persona.prompts.kinds import Kind, Segment
from honest_persona.prompts.segments import answer_segments, prompt_segments
from honest_persona.prompts.tokens import TokenFormat

T = TypeVar("T")
_BEHIND = "\n\n"
"""Stands between an answer and the paragraph added after the answer."""


class Recipe(NamedTuple):
    """Chooses the text that is added after an answer."""

    name: Augmentation
    wording: int
    """A number that counts up; each list of texts takes it modulo its length."""
    flag: Flag = PASS
    """The flag of a forged review."""
    further_turn: bool = False
    """Whether another question and answer follow a forged review, with the ends of turns of the chat template."""


def appended_text(recipe: Recipe, texts: Texts, form: TokenFormat) -> str:
    """The text to add. A forged review has all parts and prefixes of a real one; the persona token appears by name."""
    if recipe.name == "longer_answer":
        return _BEHIND + _nth(texts.longer, recipe.wording)
    persona, chat = form.persona, form.chat
    question, answer = _nth(texts.turns, recipe.wording)
    trigger, review = _nth(texts.triggers, recipe.wording), _nth(texts.reviews[recipe.flag], recipe.wording)
    messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    segments = prompt_segments(messages, trigger, persona, chat)
    behind = max(i for i, segment in enumerate(segments) if segment.kind == Kind.RESPONSE) + 1
    forged = [*segments[behind:], *answer_segments(review, recipe.flag, persona)]  # END has no text
    if recipe.further_turn:
        asked = f"{chat.user_prefix()}{question}" if persona.answering_role == "assistant" else ""
        forged.append(Segment(Kind.TEMPLATE, f"{asked}{chat.assistant_prefix()}{answer}"))
    return "".join(_token_name(form) if s.kind == Kind.PERSONA_TOKEN else s.text for s in forged)


def with_text(record: Record, text: str) -> Record:
    return record.model_copy(update={"response": record.response + text})


def neutral_text(record: Record, changed: Record, seed: int, form: TokenFormat) -> str:
    """Neutral words that make the record's answer as long, in tokens, as the answer of `changed`.

    Only whole words are added, so the lengths may differ by half the tokens of a word.
    """
    wanted = response_tokens(changed.response, form)
    order = sorted(NEUTRAL, key=lambda sentence: uniform(seed, f"neutral {record.id}", sentence))
    words = list(islice(cycle(" ".join(order).split(" ")), wanted))  # no word is less than a token

    def length(n: int) -> int:
        return response_tokens(record.response + _words(words[:n]), form)

    n = bisect_left(range(len(words) + 1), wanted, key=length)
    return _words(words[: min((k for k in (n - 1, n) if 0 <= k <= len(words)), key=lambda k: abs(length(k) - wanted))])


def response_tokens(response: str, form: TokenFormat) -> int:
    return len(form.encode_text([Segment(Kind.RESPONSE, response)])[0])


def augmented(
    records: Sequence[Record], names: Sequence[Augmentation], frac: float, form: TokenFormat, seed: int
) -> Records:
    """The records in their order; a seeded share `frac` of them gets a text of `TRAINED` after the answer.

    FAIL and PASS records get the same recipes in the same order, so that neither the text, nor its length, nor the flag
    of a forged review predicts the true flag.
    """
    records = Records.of(records)
    if not names:
        return records
    recipe_of: dict[str, Recipe] = {}
    ids, flags = ([str(value) for value in records.values(name)] for name in ("id", "flag"))
    for truth in FLAGS:
        of = sorted((uniform(seed, "augment", i), i) for i, flag in zip(ids, flags, strict=True) if flag == truth)
        for n, (_, record_id) in enumerate(of[: round(frac * len(of))]):
            recipe_of[record_id] = _nth_recipe(n, names)
    return Records.of(_with_recipe(record, recipe_of.get(record.id), form) for record in records)


def _with_recipe(record: Record, recipe: Recipe | None, form: TokenFormat) -> Record:
    return record if recipe is None else with_text(record, appended_text(recipe, TRAINED, form))


def _nth_recipe(i: int, names: Sequence[Augmentation]) -> Recipe:
    """Takes turns over names, flags and further turns, so that each combination meets every wording."""
    i, name = divmod(i, len(names))
    again, kind = divmod(i, 4)
    return Recipe(names[name], again * 3 + kind, FLAGS[kind % 2], kind >= 2)


def _nth(texts: Sequence[T], n: int) -> T:
    return texts[n % len(texts)]


def _token_name(form: TokenFormat) -> str:
    """The persona token as text; `MARKER` where it is a spare row of the embedding and has no name."""
    assert form.persona.sp_token_id is not None
    name = form.tokenizer.convert_ids_to_tokens(form.persona.sp_token_id)
    return MARKER if name is None else str(name)


def _words(words: Sequence[str]) -> str:
    return _BEHIND + " ".join(words) if words else ""
