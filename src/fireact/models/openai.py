"""``openai:MODEL[@BASE_URL]``: any endpoint that speaks OpenAI's chat completions, by the official client.

The key comes from the environment and is kept by the client alone. Faults that may pass (429, 5xx, a cut connection, a
time-out, a reply that is not JSON) are tried again with growing pauses, or after as long as the server says; those that
would end every episode (no key, no such model, a refused request) stop the run. A parameter that a model refuses
(``stop``, ``temperature``, ``max_tokens``, ``seed``) is left out or renamed from then on. Stop strings are kept to here,
whatever the server does with them.

Requests go through the client's ``post``, as they are: its typed method walks every message of a prompt at each request,
which took half of the time of many threads in one process. Replies are read here, totally.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import tenacity

from fireact.errors import ConfigError, ProviderError
from fireact.models.keys import key_of, variable_of
from fireact.models.limits import Endpoint, RateLimit, letters_in
from fireact.models.prices import Price, price_of
from fireact.models.stops import before, held_back
from fireact.types import Action, Completion, Message, Tool, Usage

DEFAULT_URL = "https://api.openai.com/v1"
TRIES = 6
LONGEST_WAIT = 120.0
_OF_THE_PROMPT = ("context_length_exceeded", "content_filter", "content_policy_violation")
"""Codes of refusals that are about one prompt, not about the model or the key."""
_OPTIONAL = ("stop", "temperature", "seed", "max_tokens")


class OpenAIModel:
    """An LM at an endpoint. Raises ConfigError when its key is not in the environment."""

    def __init__(
        self, model: str, base_url: str, *, endpoint: Endpoint | None = None, pause: float = 0.5, key: str | None = None
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
            api_key=key or key_of(base_url),
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
        heard: Callable[[str], None] | None = None,
    ) -> Completion:
        """Complete a chat; ``heard`` is given the text piece by piece as it comes.

        Raises ProviderError when tries are used up, ConfigError when the endpoint refuses for good.
        """
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
        send = _whole if heard is None else _Listener(stop, heard)
        reply = self._patiently(request, send, expected=letters_in(messages, tools) // 4 + (max_tokens or 256) // 4)
        return self._completion(reply, stop, time.perf_counter() - started)

    def close(self) -> None:
        """Wake up whoever waits to try again, and let them give up."""
        self._closed.set()

    def _patiently(self, request: dict[str, Any], send: _Send, *, expected: int) -> _Reply:
        """The reply, tried again after faults that may pass."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda fault: isinstance(fault, _PassingError)),
            stop=tenacity.stop_after_attempt(TRIES),
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(self._once, request, send, expected)
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

    def _once(self, request: dict[str, Any], send: _Send, expected: int) -> _Reply:
        entry = self._limit.enter(expected)
        try:
            reply = self._adapted(request, send)
        except (openai.APIConnectionError, httpx2.HTTPError, ValueError, RecursionError) as error:
            raise _PassingError(_plain(error)) from error
        except openai.APIStatusError as error:
            self._reached = True
            raise self._judged(error) from error
        self._reached = True
        if reply.counted:
            self._limit.settle(entry, reply.total_tokens)
        return reply

    def _adapted(self, request: dict[str, Any], send: _Send) -> _Reply:
        """Send a request without what the model has refused; what it refuses now is remembered."""
        while True:
            names = {name: self._refused.get(name, name) for name in request}
            sent = {new: request[name] for name, new in names.items() if new is not None}
            try:
                return send(self._client, sent)
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
        advice = {
            401: f" Set {variable_of(self._url)} to a valid key.",
            404: " Check the model's name and the address.",
        }
        return ConfigError(said + advice.get(error.status_code, ""))

    def _completion(self, reply: _Reply, stop: Sequence[str], seconds: float) -> Completion:
        text = before(reply.text, stop)
        usage = Usage(1, reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens)
        return Completion(
            text=text,
            usage=Usage(*_counts(usage), self.price.cost(usage)) if reply.counted else Usage(1, 0, 0, 0, None),
            finish="length" if reply.finish == "length" and text == reply.text else "stop",
            seconds=seconds,
            calls=reply.calls,
        )


def _counts(usage: Usage) -> tuple[int, int, int, int]:
    return usage.calls, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens


@dataclass(frozen=True, slots=True)
class _Reply:
    """What a reply holds, whatever else there is in it."""

    text: str
    finish: str
    calls: tuple[Action, ...]
    counted: bool
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_tokens: int


_Send = Callable[[openai.OpenAI, dict[str, Any]], _Reply]
"""Sends a request as it is and reads the reply; ValueError, or a fault of the client, where there is none."""


def _whole(client: openai.OpenAI, request: dict[str, Any]) -> _Reply:
    """Send a request, and read the reply once it is there."""
    return read_reply(client.post("/chat/completions", cast_to=httpx2.Response, body=request).content)


def read_reply(raw: bytes | str) -> _Reply:
    """The first choice of a reply and its usage. Raises ValueError for whatever holds none; what is odd counts as absent."""
    data = json.loads(raw)
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise ValueError("a reply that holds no choice")
    return _reply(
        _text(message.get("content")), choice.get("finish_reason"), message.get("tool_calls"), data.get("usage")
    )


def _reply(text: str, finish: Any, calls: Any, usage: Any) -> _Reply:
    counts = usage if isinstance(usage, dict) else {}
    details = counts.get("prompt_tokens_details")
    read, written = _count(counts, "prompt_tokens"), _count(counts, "completion_tokens")
    return _Reply(
        text=text,
        finish=str(finish),
        calls=tuple(_action(call) for call in calls if isinstance(call, dict)) if isinstance(calls, list) else (),
        counted=bool(counts),
        prompt_tokens=read,
        cached_tokens=_count(details, "cached_tokens") if isinstance(details, dict) else 0,
        completion_tokens=written,
        total_tokens=_count(counts, "total_tokens") or read + written,
    )


def _text(content: Any) -> str:
    """The words of a message; some endpoints give them in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _count(counts: Mapping[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) and value > 0 else 0


class _Listener:
    """Sends a request for a stream, and hands on its words as they come: no beginning of a stop string among them.

    Once words were handed on, a fault does not pass: the request cannot be made again.
    """

    def __init__(self, stop: Sequence[str], heard: Callable[[str], None]) -> None:
        self._stop, self._heard = stop, heard
        self._text, self._told = "", 0

    def __call__(self, client: openai.OpenAI, request: dict[str, Any]) -> _Reply:
        try:
            return self._listen(client, request)
        except (openai.APIError, httpx2.HTTPError, ValueError) as error:
            if self._told and not isinstance(error, openai.APIStatusError):
                raise ProviderError(f"the stream was cut: {_plain(error)}") from error
            self._text = ""
            raise

    def _listen(self, client: openai.OpenAI, request: dict[str, Any]) -> _Reply:
        finish, usage = "", None
        asked = {**request, "stream": True, "stream_options": {"include_usage": True}}
        with client.chat.completions.create(**asked) as chunks:
            for chunk in chunks:
                usage = chunk.usage.to_dict() if chunk.usage is not None else usage
                for choice in chunk.choices[:1]:
                    finish = choice.finish_reason or finish
                    self._tell(choice.delta.content or "")
        if not finish:
            raise ValueError("a stream that ended before its reply did")
        self._tell("", last=True)
        return _reply(self._text, finish, None, usage)

    def _tell(self, piece: str, *, last: bool = False) -> None:
        self._text += piece
        cut = before(self._text, self._stop)
        ended = last or len(cut) < len(self._text)
        sure = len(cut) if ended else len(cut) - held_back(self._text, self._stop)
        if sure > self._told:
            self._heard(cut[self._told : sure])
            self._told = sure


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
    if "@" in url.partition("//")[2].partition("/")[0]:
        raise ConfigError("the address of an endpoint holds a name or password; give the key by the environment alone.")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError(f"{url!r} is no address of an endpoint. Give one such as http://localhost:8000/v1.")
    return OpenAIModel(model, url, endpoint=endpoint)


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


def _action(call: Mapping[str, Any]) -> Action:
    """A native call, whatever it holds: arguments that are no JSON object become the input."""
    found = call.get("function") or call.get("custom")
    function = found if isinstance(found, dict) else {}
    raw = function.get("arguments") or function.get("input") or "{}"
    try:
        arguments = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        arguments = raw if isinstance(raw, dict) else None
    name = str(function.get("name") or "")
    return Action(name, arguments if isinstance(arguments, dict) else {"input": str(raw)})


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
