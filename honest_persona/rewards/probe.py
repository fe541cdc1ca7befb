"""`probe:DIR`: 1 - P(FAIL) of a probe that `python -m honest_persona probe` fitted.

Its own base model is read, frozen: a policy cannot move the states that grade its answers. Where `Reading.policy` is
given, the policy's own states are read, on which the probe was not fitted.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from honest_persona.base.errors import UserError
from honest_persona.base.number_format import NumberFormat
from honest_persona.data.conversation import checked_conversation
from honest_persona.data.feedback import Feedback
from honest_persona.modeling.adapters.tuning import Model
from honest_persona.modeling.load import load_base, load_tokenizer
from honest_persona.probes.answers import score_answers
from honest_persona.probes.features import Position
from honest_persona.probes.probe import WEIGHTS_FILE, Probe
from honest_persona.prompts.tokens import TokenFormat
from honest_persona.rewards.reward import Conversation, Given, Reading, Row


class ProbeReward:
    """A probe's folder. Raises UserError: as `Probe.load`, or a probe of another prompt format than its model's."""

    def __init__(self, what: str, reading: Reading) -> None:
        if not what:
            raise UserError("reward 'probe' needs one: probe:FOLDER, an --output of `python -m honest_persona probe`")
        self.name, self.reading = f"probe:{what}", reading
        self.folder = Path(what)
        self.probe = Probe.load(self.folder)
        self.asked = reading.policy or self.probe.base_model
        self.form = TokenFormat.of(load_tokenizer(self.asked), self.probe.persona)
        self.probe.check_format(self.form)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the numbers, beside the name."""
        weights = hashlib.sha256((self.folder / WEIGHTS_FILE).read_bytes()).hexdigest()[:16]
        return {"probe": weights, "model": self.asked, "dtype": self.number_format.name}

    @cached_property
    def number_format(self) -> NumberFormat:
        return self.reading.number_format

    @cached_property
    def model(self) -> Model:
        if self.reading.live is not None:
            return self.reading.live  # type: ignore[no-any-return]
        loaded: Any = load_base(self.asked, None, self.number_format.dtype).eval()
        if self.reading.policy is None:
            self.probe.check_model(loaded)
        return loaded.to("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> Given:
        """None for an empty answer, and for an answer that is none of the template's choices."""
        answers = {}
        for i, (messages, row) in enumerate(zip(conversations, rows, strict=True)):
            if messages and messages[-1]["content"].strip():
                answers[i] = self._answer(messages, row, i)
        p_fail = score_answers(
            self.probe, self.model, self.form, list(answers.values()), batch_size=self.reading.batch_size
        )
        given = {i: 1 - p for i, p in zip(answers, p_fail.tolist(), strict=True) if p == p}
        return [given.get(i) for i in range(len(conversations))]

    def _answer(self, messages: Conversation, row: Row, index: int) -> Feedback:
        """Raises UserError: what is no conversation with an answer, with its place."""
        try:
            found = checked_conversation(list(messages), row.get("tools"))
        except UserError as error:
            raise UserError(f"reward {self.name}: conversation {index}: {error}") from error
        *prompt, answer = found.messages
        about = row.get("about")
        if self.probe.site.position == Position.CHOICE and not about:
            raise UserError(
                f"reward {self.name}: conversation {index}: this probe compares the two answers of a template; its row "
                "must name them: about: {choices: [...]}"
            )
        name = str(index)
        return Feedback(
            id=name,
            kind="response",
            prompt_id=name,
            topic="",
            prompt=tuple(map(dict, prompt)),
            answers=(dict(answer),),
            tools=None if found.tools is None else tuple(map(dict, found.tools)),
            about=dict(about) if about else None,
        )
