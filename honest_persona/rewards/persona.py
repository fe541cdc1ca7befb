"""`persona:DIR`: 1 - P(FAIL), as an honest persona judges the answer after it has written its review.

It is asked in the wording at which its threshold was calibrated, otherwise in its default one.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from honest_persona.base.errors import UserError
from honest_persona.base.number_format import NumberFormat, format_of
from honest_persona.base.progress import Progress
from honest_persona.data.conversation import checked_conversation
from honest_persona.modeling.adapters.folder import identity_of
from honest_persona.modeling.adapters.published import resolve
from honest_persona.modeling.modes import evaluating
from honest_persona.persona.batches import batches, place_of
from honest_persona.persona.product import HonestPersona, PersonaFolder
from honest_persona.prompts.tokens import Tokens, apply_intervention
from honest_persona.rewards.reward import Conversation, Given, Reading, Row


class PersonaReward:
    """An adapter's folder, or `user/name` on the Hub. Raises UserError: as `PersonaFolder.read`."""

    def __init__(self, what: str, reading: Reading) -> None:
        if not what:
            raise UserError("reward 'persona' needs an honest persona: persona:FOLDER, or persona:user/name")
        self.name, self.reading = f"persona:{what}", reading
        self.folder = PersonaFolder.read(resolve(what))
        threshold = self.folder.card.threshold
        self.wording = threshold["intervention"] if threshold else self.folder.card.default_intervention

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the numbers, beside the name."""
        return {
            "adapter": identity_of(self.folder.folder),
            "model": self.reading.policy or self.folder.card.base_model,
            "dtype": self.number_format.name,
            "max_new_tokens": self.reading.max_new_tokens,
        }

    @cached_property
    def number_format(self) -> NumberFormat:
        return format_of(self.reading.dtype, self.folder.card.trained_in)

    @cached_property
    def persona(self) -> HonestPersona:
        return self.folder.load(self.number_format.dtype, model=self.reading.policy)

    def __call__(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> Given:
        """None for an answer that is too long for the model together with a review."""
        given_rows = enumerate(zip(conversations, rows, strict=True))
        prompts = {i: prompt for i, (messages, row) in given_rows if (prompt := self._prompt(messages, row, i))}
        order, given = list(prompts), dict[int, float]()
        with evaluating(self.persona.model), Progress(self.name, len(order), "answers") as progress:
            for batch in batches([place_of(prompts[i]) for i in order], self.reading.batch_size, 1)[0]:
                reviews = self.persona.write([prompts[order[i]] for i in batch], self.reading.max_new_tokens)
                given |= {order[i]: 1 - review.p_fail for i, review in zip(batch, reviews, strict=True)}
                progress.advance(len(batch))
        return [given.get(i) for i in range(len(conversations))]

    def _prompt(self, messages: Conversation, row: Row, index: int) -> Tokens | None:
        """Raises UserError: what is no conversation with an answer, with its place."""
        try:
            found = checked_conversation(list(messages), row.get("tools"))
            prompt = apply_intervention(found.messages, self.wording, self.folder.form, found.tools)
        except UserError as error:
            raise UserError(f"reward {self.name}: conversation {index}: {error}") from error
        positions = self.folder.positions
        fits = positions is None or len(prompt.input_ids) + self.reading.max_new_tokens <= positions
        return prompt if fits else None
