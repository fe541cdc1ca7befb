"""Answers of a model behind an endpoint."""

from collections.abc import Sequence

from honest_persona.base.errors import UserError
from honest_persona.generation.connection import RETRIES, Connection, speaks_of, text_of
from honest_persona.generation.sampling import Answer, Done, How, Prompt


class Endpoint:
    """A model by its name at a server. It cannot go on with a beginning: servers differ in what they make of one."""

    begins = False

    def __init__(self, url: str, model: str, retries: int = RETRIES) -> None:
        """Raises UserError as `Connection` does."""
        self.connection = Connection(url, model, retries=retries)
        self.name = f"{model} at {url}"
        self._one_by_one = False

    def sample(self, prompts: Sequence[Prompt], how: How, done: Done) -> None:
        """Raises UserError as `Connection.complete` does, and where the server refuses a request."""
        assert not any(prompt.begun for prompt in prompts)
        self.connection.each(prompts, lambda prompt: self._answers(prompt, how), done)

    def _answers(self, prompt: Prompt, how: How) -> list[Answer]:
        """A server that ignores or refuses `n` is asked once for each answer."""
        from openai import BadRequestError

        answers: list[Answer] = []
        if not self._one_by_one:
            try:
                answers = self._request(prompt, how, how.n, how.seed)
            except BadRequestError as error:
                if how.n == 1 or not speaks_of(error, "n"):
                    raise UserError(self.connection.refusal(error)) from error
                self._one_by_one = True
        while len(answers) < how.n:
            try:
                answers += self._request(prompt, how, 1, how.seed + len(answers))[:1]
            except BadRequestError as error:
                raise UserError(self.connection.refusal(error)) from error
        return answers[: how.n]

    def _request(self, prompt: Prompt, how: How, n: int, seed: int) -> list[Answer]:
        settings = {"max_tokens": how.max_new_tokens, "temperature": how.temperature, "seed": seed}
        choices = self.connection.complete(prompt.messages, settings | ({"n": n} if n > 1 else {}))
        return self.connection.told(
            lambda: [Answer(text_of(choice), choice.finish_reason != "length") for choice in choices]
        )
