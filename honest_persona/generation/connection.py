"""A connection to a model behind an endpoint that speaks OpenAI's API: vLLM, llama.cpp, Ollama, a provider.

    connection = Connection("http://localhost:8000/v1", "my-model")
    completion = connection.complete(messages, {"max_tokens": 64, "temperature": 0})

The key comes from the environment or env.json, never from the command line. A server of one's own needs none.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from honest_persona.base.console import one_line, tell
from honest_persona.base.environment import is_secret_value, redact
from honest_persona.base.errors import UserError
from honest_persona.base.versions import check_versions
from honest_persona.data.messages import Message

T = TypeVar("T")
R = TypeVar("R")

REQUESTS = 8
"""Requests that are under way together."""
RETRIES = 8
"""Of a request that meets a limit of the server or a broken connection; the waits between them grow to 8 s each."""
_TIMEOUT_S = 120.0
_KEYS = {"openrouter.ai": "OPENROUTER_KEY"}
"""The variable of the key by host; OPENAI_API_KEY for all others."""
_NEWER = {"max_tokens": "max_completion_tokens"}
"""What a setting is called by servers that refuse it."""


class TooLongError(UserError):
    """A question that is longer than the model's context."""


class Connection:
    """A model by its name at a server, and what is said when it does not answer."""

    def __init__(
        self,
        url: str,
        model: str,
        place: str = "--endpoint",
        place_of_model: str = "--endpoint_model",
        retries: int = RETRIES,
    ) -> None:
        """
        Args:
            place: where the user gave the address, for messages.

        Raises:
            UserError: the URL is none, or the package `openai` is missing.
        """
        host = _host(url, place)
        check_versions("generate")
        from openai import OpenAI

        # not of a host whose name only ends so: notopenrouter.ai is somebody else's
        of_host = (name for known, name in _KEYS.items() if f".{host}".endswith(f".{known}"))
        self.variable = next(of_host, "OPENAI_API_KEY")
        self.url, self.model = url, model
        self._place, self._place_of_model = place, place_of_model
        self.client = OpenAI(
            # the client refuses to be made without a key
            api_key=os.environ.get(self.variable) or "none",
            base_url=url,
            timeout=_TIMEOUT_S,
            max_retries=retries,
        )
        self._refused: set[tuple[str, Any]] = set()
        """Settings with values that the server has refused."""

    def each(self, asked: Sequence[T], ask: Callable[[T], R], done: Callable[[T, R], None]) -> None:
        """Call `done` with what `ask` returns for each; several are asked together, so they end in any order.

        Raises:
            UserError: the endpoint is out of reach; and what `ask` or `done` raises, after `done` was called for all
                that had been asked and answered by then.
        """
        self.told(self._reach)
        with ThreadPoolExecutor(REQUESTS) as pool:
            waiting = {pool.submit(ask, one): one for one in asked}
            try:
                for finished in as_completed(list(waiting)):
                    done(waiting.pop(finished), finished.result())
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    tell("waiting for the answers that are under way; Ctrl-C again ends at once")
                pool.shutdown(cancel_futures=True)
                for other, one in waiting.items():  # answers that were paid for are kept
                    if not other.cancelled() and other.exception() is None:
                        done(one, other.result())
                raise

    def _reach(self) -> None:
        """One request without retries: a wrong address is told at once, and a server's other answers later."""
        import openai

        with suppress(openai.APIStatusError, openai.APIResponseValidationError):
            self.client.with_options(max_retries=0).models.list()

    def complete(
        self,
        messages: Sequence[Message],
        settings: Mapping[str, Any],
        optional: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    ) -> list[Any]:
        """The choices of a chat completion.

        Args:
            settings: of the request, as the API names them.
            optional: those of them that the server may refuse, with the values that are tried next; then they are left
                out. What was refused is not tried again.

        Raises:
            TooLongError: the messages do not fit into the model's context.
            UserError: the endpoint is out of reach, refuses the key, does not have the model, limits the rate for too
                long, or answers with something else.
            openai.BadRequestError: any other request that the server refuses.
        """
        from openai import BadRequestError

        while True:
            sent = self._sent(settings, optional)
            try:
                choices = self.told(partial(self._choices, messages, sent))
                break
            except BadRequestError as error:
                if _is_too_long(error):
                    raise TooLongError(self.refusal(error)) from error
                refused = [name for name in (*optional, *_NEWER) if name in sent and speaks_of(error, name)]
                if not refused:
                    raise
                self._refused.add((refused[0], sent[refused[0]]))
        if not choices:
            raise UserError(f"{self._place}: {self.url} gave a completion without choices; is it a chat model's?")
        return choices

    def _sent(self, settings: Mapping[str, Any], optional: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """The settings without what the server has refused."""
        sent = {}
        for name, wanted in settings.items():
            values = [value for value in (wanted, *optional.get(name, ())) if (name, value) not in self._refused]
            if values:
                sent[name] = values[0]
            elif name in _NEWER:
                sent[_NEWER[name]] = wanted
        return sent

    def _choices(self, messages: Sequence[Message], settings: Mapping[str, Any]) -> list[Any]:
        create: Any = self.client.chat.completions.create
        return list(create(model=self.model, messages=list(messages), **settings).choices or [])

    def told(self, ask: Callable[[], R]) -> R:
        """What `ask` returns; errors of the client but a bad request become one that names the remedy."""
        import openai

        try:
            return ask()
        except (openai.BadRequestError, UserError):
            raise
        except openai.APIConnectionError as error:  # a timeout, too
            reason = one_line(error.__cause__ or error)
            raise UserError(
                f"{self._place}: {self.url} is out of reach ({reason}); is the server running, and is this its "
                "address? The same command goes on from there"
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            what = "refuses the key in" if os.environ.get(self.variable) else "wants a key; set"
            raise UserError(
                f"{self._place}: {self.url} {what} {self.variable} (environment or env.json): {_message(error)}"
            ) from error
        except openai.NotFoundError as error:
            raise UserError(
                f"{self._place_of_model}: {self.url} has no model {self.model!r}, or the address lacks its end (/v1): "
                f"{_message(error)}"
            ) from error
        except openai.RateLimitError as error:
            raise UserError(
                f"{self._place}: {self.url} still limits the rate after {self.client.max_retries} retries: "
                f"{_message(error)}. The same command goes on from there later"
            ) from error
        except openai.APIStatusError as error:
            raise UserError(self.refusal(error)) from error
        except (openai.APIError, AttributeError, TypeError, ValueError) as error:
            # the client passes on answers of any shape
            raise UserError(
                f"{self._place}: {self.url} does not answer as OpenAI's API does ({one_line(error)[:80]}); give the "
                "address that ends with /v1"
            ) from error

    def refusal(self, error: Any) -> str:
        return f"{self._place}: {self.url} answers with status {error.status_code}: {_message(error)}"


def text_of(choice: Any) -> str:
    """What the model wrote; a refusal where it wrote nothing else. Raises TypeError: that is no text."""
    text = choice.message.content or choice.message.refusal or ""
    if not isinstance(text, str):
        raise TypeError(f"the content of an answer is no text: {text!r}")
    return text.encode("utf-8", "replace").decode()  # half a character can stand in no file


def speaks_of(error: Any, name: str) -> bool:
    """Whether a bad request is one because of this setting."""
    return error.param == name or re.search(rf"\b{name}\b", str(error.message)) is not None


def _is_too_long(error: Any) -> bool:
    """As OpenAI, vLLM and llama.cpp say it."""
    return "context_length" in str(error.code) or re.search("context (length|size)", str(error.message)) is not None


def _host(url: str, place: str) -> str:
    """The host of an address. Raises UserError: it is no address, or holds more than a place."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:  # brackets of IPv6 that do not close, a port beyond all ports
        whole = False
    if not whole or not parts.hostname:
        raise UserError(f"{place}: {one_line(redact(url))} is no address such as http://localhost:8000/v1")
    if parts.username is not None or parts.query or parts.fragment or is_secret_value(url):
        raise UserError(
            f"{place}: the address at {parts.hostname} has more than host and path. It is written beside the "
            "answers, so no key may stand in it; a key is OPENAI_API_KEY in the environment or env.json"
        )
    return parts.hostname


def _message(error: Any) -> str:
    return one_line(redact(str(error.message)))[:200]
