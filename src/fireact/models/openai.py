"""``openai:MODEL[@BASE_URL]``: any endpoint that speaks OpenAI's chat completions, by the official client.

The key comes from the environment, and only the client keeps it. Transient errors (429, 5xx, a cut connection, a
time-out, a reply that is not JSON) are retried with backoff, or after the wait that the server names. Errors that would
end every episode (no key, no such model, a refused request) stop the run. A parameter that a model refuses (``stop``,
``temperature``, ``max_tokens``, ``seed``) is left out or renamed from then on. Stop strings are applied here, whatever
the server does with them.

Requests use the client's plain ``post``: its typed method walks every message of a prompt at each request, which took
half of the time of many threads in one process. Replies are parsed here, and malformed parts count as absent.
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

from fireact.base.keys import key_variable, read_key
from fireact.base.names import split_model_spec
from fireact.errors import ConfigError, ProviderError
from fireact.models.limits import Endpoint, RateLimit, count_prompt_chars
from fireact.models.prices import TokenPrice, find_price
from fireact.models.stops import cut_at_stop, held_back_length
from fireact.types import Action, Completion, Message, Tool, Usage

DEFAULT_URL = "https://api.openai.com/v1"
TRIES = 6
LONGEST_WAIT = 120.0
_PROMPT_ERRORS = ("context_length_exceeded", "content_filter", "content_policy_violation")
"""Error codes that concern one prompt, not the model or the key."""
_OPTIONAL = ("stop", "temperature", "seed", "max_tokens")


class OpenAIModel:
    """An LM at an endpoint. Raises ConfigError when its key is not in the environment."""

    def __init__(
        self, model: str, base_url: str, *, endpoint: Endpoint | None = None, pause: float = 0.5, key: str | None = None
    ) -> None:
        endpoint = endpoint or Endpoint()
        self.name = f"openai:{model}"
        self.price: TokenPrice = find_price(model, base_url, table=Path(endpoint.prices) if endpoint.prices else None)
        self._model, self._url, self._pause = model, base_url, pause
        self._limit = RateLimit(endpoint.rpm, endpoint.tpm)
        self._refused: dict[str, str | None] = {}
        self._reached = False
        self._closed = threading.Event()
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=key or read_key(base_url),
            timeout=endpoint.timeout,
            max_retries=0,  # our own retries respect the rate limit and the end of the run
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
        on_delta: Callable[[str], None] | None = None,
    ) -> Completion:
        """Complete a chat; ``on_delta`` gets each chunk of the text as it arrives.

        Raises ProviderError after the last retry, ConfigError for an error that a retry cannot mend.
        """
        request: dict[str, Any] = {
            "model": self._model,
            "messages": messages_to_wire(messages),
            "temperature": temperature,
            "seed": seed,
        }
        if stop:
            request["stop"] = list(stop)[
                :4
            ]  # the API refuses more than four; the text is cut at all of them here anyway
        if max_tokens is not None:
            request["max_tokens"] = max_tokens
        if tools:
            request["tools"] = [function_schema(tool) for tool in tools]
        started = time.perf_counter()
        send = _send_whole if on_delta is None else _StreamSender(stop, on_delta)
        reply = self._send_with_retries(
            request, send, expected=count_prompt_chars(messages, tools) // 4 + (max_tokens or 256) // 4
        )
        return self._completion(reply, stop, time.perf_counter() - started)

    def close(self) -> None:
        """Wake up the threads that wait for a retry, and make them give up."""
        self._closed.set()

    def _send_with_retries(self, request: dict[str, Any], send: _Send, *, expected: int) -> _ParsedReply:
        """Send a request, with retries after transient errors, and return its reply."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda fault: isinstance(fault, _TransientError)),
            stop=tenacity.stop_after_attempt(TRIES),
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(self._send_once, request, send, expected)
        except _TransientError as fault:
            if isinstance(fault.__cause__, openai.APIConnectionError) and not self._reached:
                raise ConfigError(
                    f"{self._url} cannot be reached ({fault}). Check the address, and that it runs."
                ) from None
            raise ProviderError(f"{self.name} failed {TRIES} times; the last time: {fault}") from None

    def _wait(self, state: tenacity.RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome is not None else None
        requested_wait = fault.retry_after if isinstance(fault, _TransientError) else None
        backoff = tenacity.wait_random_exponential(multiplier=self._pause, max=30.0)(state)
        return min(requested_wait + 0.1 * backoff if requested_wait is not None else backoff, LONGEST_WAIT)

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ProviderError("the run is over")

    def _send_once(self, request: dict[str, Any], send: _Send, expected: int) -> _ParsedReply:
        entry = self._limit.enter(expected)
        try:
            reply = self._send_supported(request, send)
        except (openai.APIConnectionError, httpx2.HTTPError, ValueError, RecursionError) as error:
            raise _TransientError(_describe_error(error)) from error
        except openai.APIStatusError as error:
            self._reached = True
            raise self._classify_error(error) from error
        self._reached = True
        if reply.counted:
            self._limit.settle(entry, reply.total_tokens)
        return reply

    def _send_supported(self, request: dict[str, Any], send: _Send) -> _ParsedReply:
        """Send a request without the parameters that the model refused before, and remember new refusals."""
        while True:
            names = {name: self._refused.get(name, name) for name in request}
            supported_request = {new: request[name] for name, new in names.items() if new is not None}
            try:
                return send(self._client, supported_request)
            except openai.BadRequestError as error:
                refused_parameter = self._find_refused_parameter(error)
                if refused_parameter is None:
                    raise
                self._refused[refused_parameter] = (
                    "max_completion_tokens" if refused_parameter == "max_tokens" else None
                )

    def _find_refused_parameter(self, error: openai.BadRequestError) -> str | None:
        """The parameter that a 400 error calls unsupported, or None."""
        error_text = f"{error.param or ''} {error.message}".lower()
        if not any(word in error_text for word in ("unsupported", "not support", "unrecognized", "unknown")):
            return None
        return next((name for name in _OPTIONAL if name in error_text and name not in self._refused), None)

    def _classify_error(self, error: openai.APIStatusError) -> Exception:
        error_text = f"{self.name} at {self._url} answered {error.status_code}: {error.message}"
        if error.status_code in (408, 409, 425) or error.status_code >= 500:
            return _TransientError(error_text, retry_after=_retry_after(error.response.headers))
        if error.status_code == 429 and error.code != "insufficient_quota":
            return _TransientError(error_text, retry_after=_retry_after(error.response.headers))
        if error.code in _PROMPT_ERRORS or "maximum context length" in error.message:
            return ProviderError(error_text)  # ends only this episode, as others may be shorter
        advice = {
            401: f" Set {key_variable(self._url)} to a valid key.",
            404: " Check the model's name and the address.",
        }
        return ConfigError(error_text + advice.get(error.status_code, ""))

    def _completion(self, reply: _ParsedReply, stop: Sequence[str], seconds: float) -> Completion:
        text = cut_at_stop(reply.text, stop)
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
class _ParsedReply:
    """The parts of a reply that are used. ``counted`` is true where the endpoint sent its usage."""

    text: str
    finish: str
    calls: tuple[Action, ...]
    counted: bool
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_tokens: int


_Send = Callable[[openai.OpenAI, dict[str, Any]], _ParsedReply]
"""Sends a request unchanged and reads the reply; raises ValueError, or the client's own errors, where there is none."""


def _send_whole(client: openai.OpenAI, request: dict[str, Any]) -> _ParsedReply:
    """Send a request, and read the complete reply."""
    return read_reply(client.post("/chat/completions", cast_to=httpx2.Response, body=request).content)


def read_reply(raw: bytes | str) -> _ParsedReply:
    """The first choice of a reply and its usage; malformed parts count as absent.

    Raises ValueError for a body without a choice.
    """
    data = json.loads(raw)
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise ValueError("a reply that holds no choice")
    return _build_reply(
        _content_text(message.get("content")), choice.get("finish_reason"), message.get("tool_calls"), data.get("usage")
    )


def _build_reply(text: str, finish: Any, calls: Any, usage: Any) -> _ParsedReply:
    counts = usage if isinstance(usage, dict) else {}
    details = counts.get("prompt_tokens_details")
    prompt_tokens, completion_tokens = _count(counts, "prompt_tokens"), _count(counts, "completion_tokens")
    return _ParsedReply(
        text=text,
        finish=str(finish),
        calls=tuple(_action(call) for call in calls if isinstance(call, dict)) if isinstance(calls, list) else (),
        counted=bool(counts),
        prompt_tokens=prompt_tokens,
        cached_tokens=_count(details, "cached_tokens") if isinstance(details, dict) else 0,
        completion_tokens=completion_tokens,
        total_tokens=_count(counts, "total_tokens") or prompt_tokens + completion_tokens,
    )


def _content_text(content: Any) -> str:
    """The text of a message, which some endpoints send as content parts."""
    if isinstance(content, list):
        return "".join(
            str(content_part.get("text") or "") for content_part in content if isinstance(content_part, dict)
        )
    return content if isinstance(content, str) else ""


def _count(counts: Mapping[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) and value > 0 else 0


class _StreamSender:
    """Sends a request for a stream, and passes its text to ``on_delta`` without any part of a stop string.

    Once text was passed on, an error is final, because the request cannot be repeated.
    """

    def __init__(self, stop: Sequence[str], on_delta: Callable[[str], None]) -> None:
        self._stop, self._on_delta = stop, on_delta
        self._text, self._sent_chars = "", 0

    def __call__(self, client: openai.OpenAI, request: dict[str, Any]) -> _ParsedReply:
        try:
            return self._read_stream(client, request)
        except (openai.APIError, httpx2.HTTPError, ValueError) as error:
            if self._sent_chars and not isinstance(error, openai.APIStatusError):
                raise ProviderError(f"the stream was cut: {_describe_error(error)}") from error
            self._text = ""
            raise

    def _read_stream(self, client: openai.OpenAI, request: dict[str, Any]) -> _ParsedReply:
        finish, usage = "", None
        stream_request = {**request, "stream": True, "stream_options": {"include_usage": True}}
        with client.chat.completions.create(**stream_request) as chunks:
            for chunk in chunks:
                usage = chunk.usage.to_dict() if chunk.usage is not None else usage
                for choice in chunk.choices[:1]:
                    finish = choice.finish_reason or finish
                    self._emit(choice.delta.content or "")
        if not finish:
            raise ValueError("a stream that ended before its reply did")
        self._emit("", last=True)
        return _build_reply(self._text, finish, None, usage)

    def _emit(self, delta: str, *, last: bool = False) -> None:
        self._text += delta
        visible_text = cut_at_stop(self._text, self._stop)
        ended = last or len(visible_text) < len(self._text)
        safe_chars = len(visible_text) if ended else len(visible_text) - held_back_length(self._text, self._stop)
        if safe_chars > self._sent_chars:
            self._on_delta(visible_text[self._sent_chars : safe_chars])
            self._sent_chars = safe_chars


class _TransientError(Exception):
    """An error that a retry may mend; ``retry_after`` is the wait in seconds that the server asks for."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def from_name(name: str, *, slots: int = 16, endpoint: Endpoint | None = None) -> OpenAIModel:
    """The LM behind ``openai:MODEL`` or ``openai:MODEL@BASE_URL``."""
    _, model, url = split_model_spec(f"openai:{name}")
    if not model:
        raise ConfigError("openai: needs a model, such as openai:gpt-4o or openai:qwen@http://localhost:8000/v1.")
    url = (url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")
    if "@" in url.partition("//")[2].partition("/")[0]:
        raise ConfigError("the address of an endpoint holds a name or password; give the key by the environment alone.")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError(f"{url!r} is no address of an endpoint. Give one such as http://localhost:8000/v1.")
    return OpenAIModel(model, url, endpoint=endpoint)


def messages_to_wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in the wire format; tool calls and their results get matching ids in the order of the calls."""
    entries: list[dict[str, Any]] = []
    call_count, answer_count = 0, 0
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.calls:
            entry["tool_calls"] = []
            for call in message.calls:
                call_count += 1
                function = {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)}
                entry["tool_calls"].append({"id": f"call_{call_count}", "type": "function", "function": function})
        if message.role == "tool":
            answer_count += 1
            entry["tool_call_id"] = f"call_{answer_count}"
        entries.append(entry)
    return entries


def function_schema(tool: Tool) -> dict[str, Any]:
    """A tool's definition in a request."""
    parameters = {"type": "object", **tool.parameters}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _action(call: Mapping[str, Any]) -> Action:
    """A tool call as an action; arguments that are not a JSON object become the argument ``input``."""
    definition = call.get("function") or call.get("custom")
    function = definition if isinstance(definition, dict) else {}
    raw = function.get("arguments") or function.get("input") or "{}"
    try:
        arguments = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        arguments = raw if isinstance(raw, dict) else None
    name = str(function.get("name") or "")
    return Action(name, arguments if isinstance(arguments, dict) else {"input": str(raw)})


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The ``Retry-After`` header, a number or a date, as seconds from now."""
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


def _describe_error(error: Exception) -> str:
    """An error as text; the client's own messages hold no headers or keys."""
    cause = error.__cause__
    return f"{type(error).__name__}: {error}" + (f" ({type(cause).__name__}: {cause})" if cause is not None else "")
