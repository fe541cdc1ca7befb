"""Answers of a model behind an endpoint that speaks OpenAI's API: vLLM, llama.cpp, Ollama, a provider.

The key comes from the environment or env.json, never from the command line. A server of one's own needs none.
"""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from honest_persona.base.console import one_line, tell
from honest_persona.base.environment import redact
from honest_persona.base.errors import UserError
from honest_persona.base.versions import check_versions
from honest_persona.generation.sampling import Answer, Done, How, Prompt

T = TypeVar("T")

REQUESTS = 8
"""Requests that are under way together."""
RETRIES = 8
"""Of a request that meets a limit of the server or a broken connection; the waits between them grow to 8 s each."""
_TIMEOUT_S = 120.0
_KEYS = {"openrouter.ai": "OPENROUTER_KEY"}
"""The variable of the key by host; OPENAI_API_KEY for all others."""


class Endpoint:
    """A model by its name at a server. It cannot go on with a beginning: servers differ in what they make of one."""

    begins = False

    def __init__(self, url: str, model: str, retries: int = RETRIES) -> None:
        """
        Raises:
            UserError: the URL is none, or the package `openai` is missing.
        """
        host = _host(url)
        check_versions("generate")
        from openai import OpenAI

        # not of a host whose name only ends so: notopenrouter.ai is somebody else's
        of_host = (name for known, name in _KEYS.items() if f".{host}".endswith(f".{known}"))
        self.variable = next(of_host, "OPENAI_API_KEY")
        self.url, self.model, self.name = url, model, f"{model} at {url}"
        self.client = OpenAI(
            # the client refuses to be made without a key
            api_key=os.environ.get(self.variable) or "none",
            base_url=url,
            timeout=_TIMEOUT_S,
            max_retries=retries,
        )
        self._one_by_one = False

    def sample(self, prompts: Sequence[Prompt], how: How, done: Done) -> None:
        """
        Raises:
            UserError: the endpoint is out of reach, refuses the key, does not have the model, limits the rate for too
                long, or answers with something else.
        """
        assert not any(prompt.begun for prompt in prompts)
        self._told(self._reach)
        with ThreadPoolExecutor(REQUESTS) as pool:
            asked = {pool.submit(self._answers, prompt, how): prompt for prompt in prompts}
            try:
                for finished in as_completed(list(asked)):
                    done(asked.pop(finished), finished.result())
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    tell("waiting for the answers that are under way; Ctrl-C again ends at once")
                pool.shutdown(cancel_futures=True)
                for other, prompt in asked.items():  # answers that were paid for are kept
                    if not other.cancelled() and other.exception() is None:
                        done(prompt, other.result())
                raise

    def _reach(self) -> None:
        """One request without retries: a wrong address is told at once, and a server's other answers later."""
        import openai

        with suppress(openai.APIStatusError, openai.APIResponseValidationError):
            self.client.with_options(max_retries=0).models.list()

    def _answers(self, prompt: Prompt, how: How) -> list[Answer]:
        """A server that ignores or refuses `n` is asked once for each answer."""
        from openai import BadRequestError

        answers: list[Answer] = []
        if not self._one_by_one:
            try:
                answers = self._told(self._request, prompt, how, how.n, how.seed)
            except BadRequestError as error:
                if how.n == 1 or not _speaks_of_n(error):
                    raise UserError(self._refused(error)) from error
                self._one_by_one = True
        while len(answers) < how.n:
            try:
                answers += self._told(self._request, prompt, how, 1, how.seed + len(answers))[:1]
            except BadRequestError as error:
                raise UserError(self._refused(error)) from error
        return answers[: how.n]

    def _request(self, prompt: Prompt, how: How, n: int, seed: int) -> list[Answer]:
        several = {"n": n} if n > 1 else {}
        request: Any = self.client.chat.completions.create
        completion = request(
            model=self.model,
            messages=prompt.messages,
            max_tokens=how.max_new_tokens,
            temperature=how.temperature,
            seed=seed,
            **several,
        )
        choices = completion.choices or []
        answers = [Answer(_text_of(choice.message), choice.finish_reason != "length") for choice in choices]
        if not answers:
            raise UserError(f"--endpoint: {self.url} gave a completion without choices; is it a chat model's?")
        return answers

    def _told(self, ask: Callable[..., T], *args: Any) -> T:
        """What `ask` returns; errors of the client but a bad request become one that names the remedy."""
        import openai

        try:
            return ask(*args)
        except (openai.BadRequestError, UserError):
            raise
        except openai.APIConnectionError as error:  # a timeout, too
            reason = one_line(error.__cause__ or error)
            raise UserError(
                f"--endpoint: {self.url} is out of reach ({reason}); is the server running, and is this its address? "
                "The same command goes on from there"
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            what = "refuses the key in" if os.environ.get(self.variable) else "wants a key; set"
            raise UserError(
                f"--endpoint: {self.url} {what} {self.variable} (environment or env.json): {_message(error)}"
            ) from error
        except openai.NotFoundError as error:
            raise UserError(
                f"--endpoint_model: {self.url} has no model {self.model!r}, or the address lacks its end (/v1): "
                f"{_message(error)}"
            ) from error
        except openai.RateLimitError as error:
            raise UserError(
                f"--endpoint: {self.url} still limits the rate after {RETRIES} retries: {_message(error)}. The same "
                "command goes on from there later"
            ) from error
        except openai.APIStatusError as error:
            raise UserError(self._refused(error)) from error
        except (openai.APIError, AttributeError, TypeError, ValueError) as error:
            # the client passes on answers of any shape
            raise UserError(
                f"--endpoint: {self.url} does not answer as OpenAI's API does ({one_line(error)[:80]}); give the "
                "address that ends with /v1"
            ) from error

    def _refused(self, error: Any) -> str:
        return f"--endpoint: {self.url} answers with status {error.status_code}: {_message(error)}"


def _host(url: str) -> str:
    """The host of an address. Raises UserError: it is no address, or holds more than a place."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:  # brackets of IPv6 that do not close, a port beyond all ports
        whole = False
    if not whole or not parts.hostname:
        raise UserError(f"--endpoint: {one_line(redact(url))} is no address such as http://localhost:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise UserError(
            f"--endpoint: the address at {parts.hostname} has more than host and path. It is written beside the "
            "answers, so no key may stand in it; a key is OPENAI_API_KEY in the environment or env.json"
        )
    return parts.hostname


def _text_of(message: Any) -> str:
    text = message.content or message.refusal or ""
    if not isinstance(text, str):
        raise TypeError(f"the content of an answer is no text: {text!r}")
    return text.encode("utf-8", "replace").decode()  # half a character can stand in no file


def _message(error: Any) -> str:
    return one_line(redact(str(error.message)))[:200]


def _speaks_of_n(error: Any) -> bool:
    """Whether a bad request is one because of `n`."""
    return error.param == "n" or re.search(r"\bn\b", str(error.message)) is not None
