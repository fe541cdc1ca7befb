"""Inspect's model provider `honest_persona`: what it generates for a conversation is the honest persona's review of it.

    inspect eval honest_persona/review --model honest_persona/checkpoints/my-run -M intervention="What did you do?"
    await get_model("honest_persona/checkpoints/my-run").generate([ChatMessageUser(...), ChatMessageAssistant(...)])

Inspect's own `hf` provider must not be used with these adapters: it gives no trigger and no activation point.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anyio
from anyio.to_thread import run_sync
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from rich.markup import escape

from honest_persona.base.errors import UserError
from honest_persona.evaluation.suite import batches, place_of
from honest_persona.modeling.adapters.lora import AdapterCard
from honest_persona.persona.conversations import text_problems
from honest_persona.persona.reviews import Ending, HonestPersona, Review, load_honest_persona, write_reviews
from honest_persona.prompts.segments import Persona, answer_segments
from honest_persona.prompts.tokens import Tokens, apply_intervention

_GATHER_S = 0.1
"""A batch is made up when no further call has come for so long."""

_GREEDY = {"temperature": 0.0, "num_choices": 1, "stop_seqs": None}
"""Settings that would change a review, with the value that does not."""


@contextmanager
def told_without_traceback() -> Iterator[None]:
    """A UserError inside becomes the error that Inspect's command prints alone."""
    try:
        yield
    except UserError as error:
        raise PrerequisiteError(escape(f"error: {error}")) from error


@dataclass(eq=False)
class _Call:
    """A conversation that waits for its review."""

    prompt: Tokens
    max_new_tokens: int
    place: tuple[int, str, int, str]
    review: Review | None = None


class HonestPersonaAPI(ModelAPI):
    """The honest persona of an adapter's folder. Calls that wait at the same time are answered in batches.

    Args:
        model_name: the folder; Inspect has taken the provider's name off.
        intervention: the trigger's text for every conversation. Where it is not given, the one in the metadata of the
            answer's message holds (`ChatMessageAssistant(content=..., metadata={"intervention": ...})`), and else the
            adapter's default one.
        batch_size: conversations at once; as in training where it is not given.

    Raises:
        PrerequisiteError: no adapter in the folder, or a wrong argument. The base model is loaded by the first call.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        intervention: str | None = None,
        batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, config=config or GenerateConfig())
        self.folder = Path(model_name).expanduser().absolute()
        with told_without_traceback():
            self.card = AdapterCard.load(self.folder)
            if unknown:
                raise UserError(f"-M {min(unknown)} is unknown; the model arguments are intervention and batch_size")
            if intervention is not None:
                _check_text("-M intervention", intervention)
            if batch_size is not None and not (isinstance(batch_size, int) and batch_size > 0):
                raise UserError(f"-M batch_size: {batch_size!r} is not a whole number from 1 on")
        self.intervention = intervention
        self.batch_size: int = batch_size or self.card.config["validation_batch_size"]
        self._waiting: list[_Call] = []
        self._loading = anyio.Lock()
        self._batch_done: anyio.Event | None = None  # there is one while a batch runs

    @cached_property
    def _persona(self) -> HonestPersona:
        return load_honest_persona(self.folder)

    def max_tokens(self) -> int:
        """Of a review, as in the adapter's own evaluations."""
        return self.card.config["max_new_tokens"]

    def max_connections(self) -> int:
        """Several batches, so that each can be of conversations alike in length."""
        return 4 * self.batch_size

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """The review of the last assistant turn of `input`.

        Returns:
            The whole answer as completion; as metadata `p_fail`, `flag`, `ending` and `above_threshold` of a `Review`,
            and the `intervention` that was used. Input tokens are the prompt's, output tokens the completion's.

        Raises:
            UserError: a conversation that cannot be reviewed, or settings that the honest persona cannot follow.
        """
        messages = _plain(input, tools)
        for name, neutral in _GREEDY.items():
            if getattr(config, name) not in (None, neutral):
                raise UserError(f"{name}: a conversation has one review, written greedily; leave this setting out")
        about = (input[-1].metadata if input else None) or {}
        intervention = self.intervention or about.get("intervention", self.card.default_intervention)
        _check_text("intervention", intervention)
        async with self._loading:
            persona = await run_sync(lambda: self._persona)
        prompt = apply_intervention(messages, intervention, persona.form)
        call = _Call(prompt, config.max_tokens or self.max_tokens(), place_of(prompt))
        self._check_length(call)
        review = await self._review(call)
        said = answer_text(review, persona.card.persona)
        n_in, n_out = len(prompt.input_ids), len(persona.tokenizer(said, add_special_tokens=False)["input_ids"])
        message = ChatMessageAssistant(content=said, model=self.model_name, source="generate")
        cut = review.ending == Ending.TRUNCATED
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason="max_tokens" if cut else "stop")],
            usage=ModelUsage(input_tokens=n_in, output_tokens=n_out, total_tokens=n_in + n_out),
            metadata={
                "p_fail": review.p_fail,
                "flag": review.flag,
                "ending": str(review.ending),
                "above_threshold": persona.decided(review, intervention).above_threshold,
                "intervention": intervention,
            },
        )

    async def _review(self, call: _Call) -> Review:
        """Whoever finds the model free runs the next batch of all calls that wait, its own among them or not."""
        self._waiting.append(call)
        try:
            while call.review is None:
                if self._batch_done is not None:
                    await self._batch_done.wait()
                    continue
                self._batch_done = anyio.Event()
                try:
                    await self._run_batch(call.max_new_tokens)
                finally:
                    self._batch_done.set()
                    self._batch_done = None
        finally:
            self._waiting.remove(call)
        return call.review

    async def _run_batch(self, max_new_tokens: int) -> None:
        """Chosen as the evaluation suite does: where all of a task's calls wait, its batches are those of eval.py."""
        n_before = 0
        while len(self._waiting) > n_before:
            n_before = len(self._waiting)
            await anyio.sleep(_GATHER_S)
        calls = [c for c in self._waiting if c.review is None and c.max_new_tokens == max_new_tokens]
        first, *_ = batches([call.place for call in calls], self.batch_size, world=1)[0]
        chosen = [calls[i] for i in first]
        prompts, persona = [call.prompt for call in chosen], self._persona
        reviews = await run_sync(write_reviews, persona.model, prompts, persona.form, max_new_tokens)
        for call, review in zip(chosen, reviews, strict=True):
            call.review = review

    def _check_length(self, call: _Call) -> None:
        n, positions = len(call.prompt.input_ids), self._persona.model.config.get_text_config().max_position_embeddings
        if n + call.max_new_tokens > positions:
            raise UserError(
                f"the conversation has {n} tokens; with a review of up to {call.max_new_tokens} that is more than the "
                f"model's {positions} positions. Shorten it, or lower --max-tokens"
            )


def _check_text(place: str, value: Any) -> None:
    if problems := list(text_problems(place, value)):
        raise UserError(problems[0])


def answer_text(review: Review, persona: Persona) -> str:
    """Review and flag, as they were written but for white space around them."""
    if review.flag is None:
        return review.text.strip()
    return "".join(s.text for s in answer_segments(review.text, review.flag, persona)).strip()


def _plain(messages: Sequence[ChatMessage], tools: Sequence[ToolInfo]) -> list[dict[str, str]]:
    if tools:
        raise UserError("the honest persona uses no tools; take them out of the task")
    for i, message in enumerate(messages):
        if message.role == "tool" or (isinstance(message, ChatMessageAssistant) and message.tool_calls):
            raise UserError(f"message {i}: holds a tool call or its result; write it as text, or leave it out")
        kinds = set() if isinstance(message.content, str) else {part.type for part in message.content} - {"text"}
        if kinds:
            raise UserError(f"message {i}: holds {min(kinds)}, but the honest persona reads text alone; leave it out")
    return [{"role": message.role, "content": message.text} for message in messages]
