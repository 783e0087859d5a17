"""``openai:MODEL[@BASE_URL]``: any endpoint that speaks OpenAI's chat completions, by the official client.

The key comes from the environment and is kept by the client alone. Faults that may pass (429, 5xx, a cut connection, a
time-out, a reply that is not JSON) are tried again with growing pauses, or after as long as the server says; those that
would end every episode (no key, no such model, a refused request) stop the run. A parameter that a model refuses
(``stop``, ``temperature``, ``max_tokens``, ``seed``) is left out or renamed from then on. Stop strings are kept to here,
whatever the server does with them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import tenacity

from fireact.errors import ConfigError, ProviderError
from fireact.models.limits import Endpoint, RateLimit, letters_in
from fireact.models.prices import Price, price_of
from fireact.types import Action, Completion, Message, Tool, Usage

DEFAULT_URL = "https://api.openai.com/v1"
KEYS = {"anthropic.com": "ANTHROPIC_API_KEY", "googleapis.com": "GEMINI_API_KEY"}
"""The variable with the key, by the end of the host's name; OPENAI_API_KEY for all others."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TRIES = 6
LONGEST_WAIT = 120.0
_OF_THE_PROMPT = ("context_length_exceeded", "content_filter", "content_policy_violation")
"""Codes of refusals that are about one prompt, not about the model or the key."""
_OPTIONAL = ("stop", "temperature", "seed", "max_tokens")


class OpenAIModel:
    """An LM at an endpoint. Raises ConfigError when its key is not in the environment."""

    def __init__(
        self, model: str, base_url: str, *, endpoint: Endpoint | None = None, slots: int = 16, pause: float = 0.5
    ) -> None:
        endpoint = endpoint or Endpoint()
        self.name = f"openai:{model}"
        self.price: Price = price_of(model, base_url, table=Path(endpoint.prices) if endpoint.prices else None)
        self._model, self._url, self._pause = model, base_url, pause
        self._limit = RateLimit(endpoint.rpm, endpoint.tpm)
        self._refused: dict[str, str | None] = {}
        self._reached = False
        self._closed = threading.Event()
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=_key(base_url),
            timeout=endpoint.timeout,
            max_retries=0,  # ours know the budget of waiting and when the run is over
        )

    def complete(
        self,
        messages: Sequence[Message],
        *,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        tools: Sequence[Tool] = (),
    ) -> Completion:
        """Complete a chat. Raises ProviderError when tries are used up, ConfigError when the endpoint refuses for good."""
        request: dict[str, Any] = {
            "model": self._model,
            "messages": wire(messages),
            "temperature": temperature,
            "seed": seed,
        }
        if stop:
            request["stop"] = list(stop)[:4]  # more than four are refused; ours are cut here anyway
        if max_tokens is not None:
            request["max_tokens"] = max_tokens
        if tools:
            request["tools"] = [schema(tool) for tool in tools]
        started = time.perf_counter()
        reply = self._patiently(request, expected=letters_in(messages, tools) // 4 + (max_tokens or 256) // 4)
        return self._completion(reply, stop, time.perf_counter() - started)

    def close(self) -> None:
        """Wake up whoever waits to try again, and let them give up."""
        self._closed.set()

    def _patiently(self, request: dict[str, Any], *, expected: int) -> Any:
        """The reply, tried again after faults that may pass."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda fault: isinstance(fault, _PassingError)),
            stop=tenacity.stop_after_attempt(TRIES),
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(self._once, request, expected)
        except _PassingError as fault:
            if isinstance(fault.__cause__, openai.APIConnectionError) and not self._reached:
                raise ConfigError(
                    f"{self._url} cannot be reached ({fault}). Check the address, and that it runs."
                ) from None
            raise ProviderError(f"{self.name} failed {TRIES} times; the last time: {fault}") from None

    def _wait(self, state: tenacity.RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome is not None else None
        asked = fault.after if isinstance(fault, _PassingError) else None
        grown = tenacity.wait_random_exponential(multiplier=self._pause, max=30.0)(state)
        return min(asked + 0.1 * grown if asked is not None else grown, LONGEST_WAIT)

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ProviderError("the run is over")

    def _once(self, request: dict[str, Any], expected: int) -> Any:
        entry = self._limit.enter(expected)
        try:
            reply = self._adapted(request)
        except (openai.APIConnectionError, openai.APIResponseValidationError, ValueError) as error:
            raise _PassingError(_plain(error)) from error
        except openai.APIStatusError as error:
            self._reached = True
            raise self._judged(error) from error
        self._reached = True
        if isinstance(reply, str) or not getattr(reply, "choices", None) or reply.choices[0].message is None:
            raise _PassingError("a reply that holds no choice")
        if reply.usage is not None:
            self._limit.settle(entry, reply.usage.total_tokens)
        return reply

    def _adapted(self, request: dict[str, Any]) -> Any:
        """Send a request without what the model has refused; what it refuses now is remembered."""
        while True:
            names = {name: self._refused.get(name, name) for name in request}
            sent = {new: request[name] for name, new in names.items() if new is not None}
            try:
                return self._client.chat.completions.create(**sent)
            except openai.BadRequestError as error:
                refused = self._refusal(error)
                if refused is None:
                    raise
                self._refused[refused] = "max_completion_tokens" if refused == "max_tokens" else None

    def _refusal(self, error: openai.BadRequestError) -> str | None:
        """The parameter that a 400 names as not supported."""
        said = f"{error.param or ''} {error.message}".lower()
        if not any(word in said for word in ("unsupported", "not support", "unrecognized", "unknown")):
            return None
        return next((name for name in _OPTIONAL if name in said and name not in self._refused), None)

    def _judged(self, error: openai.APIStatusError) -> Exception:
        said = f"{self.name} at {self._url} answered {error.status_code}: {error.message}"
        if error.status_code in (408, 409, 425) or error.status_code >= 500:
            return _PassingError(said, after=_after(error.response.headers))
        if error.status_code == 429 and error.code != "insufficient_quota":
            return _PassingError(said, after=_after(error.response.headers))
        if error.code in _OF_THE_PROMPT or "maximum context length" in error.message:
            return ProviderError(said)  # of this episode alone: the others may be shorter
        advice = {401: f" Set {_variable(self._url)} to a valid key.", 404: " Check the model's name and the address."}
        return ConfigError(said + advice.get(error.status_code, ""))

    def _completion(self, reply: Any, stop: Sequence[str], seconds: float) -> Completion:
        choice = reply.choices[0]
        text = choice.message.content or ""
        ends = [at for string in stop if (at := text.find(string)) >= 0]
        return Completion(
            text=text[: min(ends)] if ends else text,
            usage=self._usage(reply.usage),
            finish="length" if choice.finish_reason == "length" and not ends else "stop",
            seconds=seconds,
            calls=tuple(_action(call) for call in choice.message.tool_calls or ()),
        )

    def _usage(self, counted: Any) -> Usage:
        if counted is None:
            return Usage(1, 0, 0, 0, None)
        details = getattr(counted, "prompt_tokens_details", None)
        cached = getattr(details, "cached_tokens", None) or 0
        usage = Usage(1, counted.prompt_tokens or 0, cached, counted.completion_tokens or 0)
        return Usage(1, usage.prompt_tokens, cached, usage.completion_tokens, self.price.cost(usage))


class _PassingError(Exception):
    """A fault that may pass; ``after`` is how many seconds the server asks to wait."""

    def __init__(self, said: str, *, after: float | None = None) -> None:
        super().__init__(said)
        self.after = after


def from_name(name: str, *, slots: int = 16, endpoint: Endpoint | None = None) -> OpenAIModel:
    """The LM behind ``openai:MODEL`` or ``openai:MODEL@BASE_URL``."""
    model, _, url = name.partition("@")
    if not model:
        raise ConfigError("openai: needs a model, such as openai:gpt-4o or openai:qwen@http://localhost:8000/v1.")
    url = (url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError(f"{url!r} is no address of an endpoint. Give one such as http://localhost:8000/v1.")
    return OpenAIModel(model, url, endpoint=endpoint, slots=slots)


def wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the wire has them; calls and what they returned are tied by ids in the order of calling."""
    sent: list[dict[str, Any]] = []
    made, answered = 0, 0
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.calls:
            entry["tool_calls"] = []
            for call in message.calls:
                made += 1
                function = {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)}
                entry["tool_calls"].append({"id": f"call_{made}", "type": "function", "function": function})
        if message.role == "tool":
            answered += 1
            entry["tool_call_id"] = f"call_{answered}"
        sent.append(entry)
    return sent


def schema(tool: Tool) -> dict[str, Any]:
    """A tool as it is offered."""
    parameters = {"type": "object", **tool.parameters}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _action(call: Any) -> Action:
    """A native call, whatever it holds: arguments that are no JSON object become the input."""
    function = getattr(call, "function", None) or getattr(call, "custom", None)
    raw = getattr(function, "arguments", None) or getattr(function, "input", None) or "{}"
    try:
        arguments = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        arguments = None
    return Action(str(getattr(function, "name", "")), arguments if isinstance(arguments, dict) else {"input": str(raw)})


def _variable(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return next((name for end, name in KEYS.items() if host.endswith(end)), "OPENAI_API_KEY")


def _key(url: str) -> str:
    variable = _variable(url)
    key = os.environ.get(variable)
    if key:
        return key
    if urlsplit(url).hostname in LOOPBACK:
        return "none"
    raise ConfigError(f"{url} needs a key, and {variable} is not set. Set it in the environment; it is never stored.")


def _after(headers: Mapping[str, str]) -> float | None:
    """What ``Retry-After`` asks for, in seconds; it may be a number or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _plain(error: Exception) -> str:
    """An error in words; the client's own say nothing of headers or keys."""
    cause = error.__cause__
    return f"{type(error).__name__}: {error}" + (f" ({type(cause).__name__}: {cause})" if cause is not None else "")
