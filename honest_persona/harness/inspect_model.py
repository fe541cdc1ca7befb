"""Inspect's model provider `honest_persona`: what it generates for a conversation is the honest persona's review of it.

    inspect eval honest_persona/review --model honest_persona/checkpoints/my-run -M intervention="What did you do?"
    await get_model("honest_persona/checkpoints/my-run").generate([ChatMessageUser(...), ChatMessageAssistant(...)])

Inspect's own `hf` provider must not be used with these adapters: it gives no trigger and no activation point.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    ChatMessageTool,
    Content,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from rich.markup import escape

from honest_persona.base.errors import UserError
from honest_persona.data.conversation import Conversation, checked_conversation
from honest_persona.data.messages import check_text
from honest_persona.persona.parsing import Ending, answer_text
from honest_persona.persona.product import HonestPersona, PersonaFolder
from honest_persona.persona.queue import ReviewQueue
from honest_persona.prompts.tokens import apply_intervention

_GREEDY = {"temperature": 0.0, "num_choices": 1, "stop_seqs": None}
"""Settings that would change a review, with the value that does not."""


@contextmanager
def told_without_traceback() -> Iterator[None]:
    """Turns a UserError into the error that Inspect's command prints without a traceback."""
    try:
        yield
    except UserError as error:
        raise PrerequisiteError(escape(f"error: {error}")) from error


class HonestPersonaAPI(ModelAPI):
    """The honest persona of an adapter's folder. Calls that wait at the same time are answered in batches.

    Args:
        model_name: the folder, without the provider's name.
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
        with told_without_traceback():
            self.adapter = PersonaFolder.read(Path(model_name).expanduser().absolute())
            if unknown:
                raise UserError(f"-M {min(unknown)} is unknown; the model arguments are intervention and batch_size")
            if intervention is not None:
                check_text("-M intervention", intervention)
            if batch_size is not None and not (isinstance(batch_size, int) and batch_size > 0):
                raise UserError(f"-M batch_size: {batch_size!r} is not a whole number from 1 on")
        self.intervention = intervention
        self.batch_size: int = batch_size or self.adapter.card.config["validation_batch_size"]
        self._loading = anyio.Lock()

    @cached_property
    def _persona(self) -> HonestPersona:
        return self.adapter.load()

    @cached_property
    def _queue(self) -> ReviewQueue:
        return ReviewQueue(self._persona.write, self.batch_size)

    def max_tokens(self) -> int:
        """The longest review, as in the adapter's own evaluations."""
        return self.adapter.card.config["max_new_tokens"]

    def max_connections(self) -> int:
        """Calls for several batches at once, so that each batch can hold conversations of similar length."""
        return 4 * self.batch_size

    def tools_required(self) -> bool:
        """Tools are a part of the conversation, also where the honest persona is not to call them."""
        return True

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """The review of the last assistant turn of `input`.

        `tools` are those that the assistant could call; where none are given, those in the metadata of the answer's
        message hold, as JSON schemas.

        Returns:
            The whole answer as completion; as metadata `p_fail`, `flag`, `ending` and `above_threshold` of a `Review`,
            and the `intervention` that was used. Input tokens are the prompt's, output tokens the completion's.

        Raises:
            UserError: a conversation that cannot be reviewed, or settings that the honest persona cannot follow.
        """
        about = _conversation(input, tools)
        given = input[-1].metadata or {}
        for name, neutral in _GREEDY.items():
            if getattr(config, name) not in (None, neutral):
                raise UserError(f"{name}: a conversation has one review, written greedily; leave this setting out")
        intervention = self.intervention or given.get("intervention", self.adapter.card.default_intervention)
        check_text("intervention", intervention)
        async with self._loading:
            persona = await run_sync(lambda: self._persona)
        prompt = apply_intervention(about.messages, intervention, persona.form, about.tools)
        max_new_tokens = config.max_tokens or self.max_tokens()
        persona.check_length(prompt, max_new_tokens, "the conversation", "--max-tokens")
        review = await self._queue.review(prompt, max_new_tokens)
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


def _conversation(messages: Sequence[ChatMessage], tools: Sequence[ToolInfo]) -> Conversation:
    """Inspect's messages and tools as `data.conversation` reads them. Raises UserError, with the places."""
    offered: Any = [tool.model_dump(exclude_none=True, include={"name", "description", "parameters"}) for tool in tools]
    about = (messages[-1].metadata if messages else None) or {}
    return checked_conversation([_as_given(message) for message in messages], offered or about.get("tools"))


def _as_given(message: ChatMessage) -> dict[str, Any]:
    given: dict[str, Any] = {"role": message.role, "content": message.content}
    if not isinstance(message.content, str):
        # `text` has the parts of text with line ends between them, as Inspect shows them to models
        others = [_part(part) for part in message.content if part.type != "text"]
        given["content"] = [*others, {"type": "text", "text": message.text}]
    if isinstance(message, ChatMessageAssistant) and message.tool_calls:
        given["tool_calls"] = [
            {"id": call.id or None, "function": {"name": call.function, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if isinstance(message, ChatMessageTool):
        given |= {"tool_call_id": message.tool_call_id, "name": message.function}
        if message.error is not None:  # as Inspect shows a failure to models
            given["content"] = f"Error: {message.error.message}"
    return given


def _part(part: Content) -> dict[str, Any]:
    if part.type == "reasoning":
        return {"type": "reasoning", "reasoning": (part.summary or "") if part.redacted else part.reasoning}
    return {"type": f"Inspect's {part.type}"}  # none of them is text, and the error names the kind
