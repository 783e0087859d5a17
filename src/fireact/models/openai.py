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
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from fireact.base.http import (
    MAX_BYTES,
    Retry,
    TransientError,
    is_transient,
    limit_reply,
    parse_retry_after,
    show_address,
)
from fireact.base.keys import key_variable, read_key
from fireact.base.names import split_model_spec
from fireact.errors import ConfigError, ProviderError
from fireact.models.limits import Endpoint, RateLimit, count_prompt_chars
from fireact.models.prices import TokenPrice, find_price
from fireact.models.stops import cut_at_stop, held_back_length
from fireact.types import Call, Completion, OnDelta, Usage
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import WireReply, WireRequest, number_calls
from fireact.wire.schemas import normalise_schemas, tool_schema

DEFAULT_URL = "https://api.openai.com/v1"
_PROMPT_ERRORS = ("context_length_exceeded", "content_filter", "content_policy_violation")
"""Error codes that concern one prompt, not the model or the key."""
_OPTIONAL = ("stop", "temperature", "seed", "max_tokens")


class OpenAIModel:
    """An LM at an endpoint. Raises ConfigError when its key is not in the environment."""

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        endpoint: Endpoint | None = None,
        pause: float = 0.5,
        key: str | None = None,
        max_bytes: int = MAX_BYTES,
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
            http_client=openai.DefaultHttpxClient(
                timeout=endpoint.timeout, event_hooks={"response": [limit_reply(self.name, max_bytes)]}
            ),
            max_retries=0,  # our own retries respect the rate limit and the end of the run
        )
        weakref.finalize(self, self._client.close)  # connections end with their owner

    def complete(self, call: Call) -> Completion:
        """Complete a call; ``call.on_delta`` gets each chunk of the text as it arrives.

        Raises ProviderError after the last retry, ConfigError for an error that a retry cannot mend.
        """
        request = CHAT_COMPLETIONS.write_request(
            WireRequest(
                model=self._model,
                messages=tuple(number_calls(call.messages)),
                tools=tuple(normalise_schemas([tool_schema(tool) for tool in call.tools])),
                stop=tuple(call.stop)[:4],  # the API refuses more; the text is cut at all of them here anyway
                max_tokens=call.max_tokens,
                temperature=call.temperature or 0.0,
                seed=call.seed,
            )
        )
        started = time.perf_counter()
        send = _send_whole if call.on_delta is None or call.tools else _StreamSender(call.stop, call.on_delta)
        expected_tokens = count_prompt_chars(call.messages, call.tools) // 4 + (call.max_tokens or 256) // 4
        reply = self._send_with_retries(request, send, expected=expected_tokens)
        return self._completion(reply, call.stop, time.perf_counter() - started)

    def close(self) -> None:
        """Wake up the threads that wait for a retry, and make them give up."""
        self._closed.set()

    def _send_with_retries(self, request: dict[str, Any], send: _Send, *, expected: int) -> WireReply:
        """Send a request, with retries after transient errors, and return its reply."""
        retry = Retry(pause=self._pause, sleep=self._sleep)
        try:
            return retry.run(self.name, lambda: self._send_once(request, send, expected))
        except ProviderError as error:
            fault = error.__cause__
            if fault is not None and isinstance(fault.__cause__, openai.APIConnectionError) and not self._reached:
                raise ConfigError(
                    f"{show_address(self._url)} cannot be reached ({fault}). Check the address, and that it runs."
                ) from None
            raise

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ProviderError("the run is over")

    def _send_once(self, request: dict[str, Any], send: _Send, expected: int) -> WireReply:
        entry = self._limit.enter(expected)
        try:
            reply = self._send_supported(request, send)
        except (openai.APIConnectionError, httpx2.HTTPError, ValueError, RecursionError) as error:
            if isinstance(error.__cause__, ProviderError):
                raise error.__cause__ from None  # a reply that is too long: to the client, a lost connection
            raise TransientError(_describe_error(error)) from error
        except openai.APIStatusError as error:
            self._reached = True
            raise self._classify_error(error) from error
        self._reached = True
        if reply.usage is not None:
            self._limit.settle(entry, reply.total_tokens)
        return reply

    def _send_supported(self, request: dict[str, Any], send: _Send) -> WireReply:
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
        error_text = f"{self.name} at {show_address(self._url)} answered {error.status_code}: {error.message}"
        if is_transient(error.status_code) and error.code != "insufficient_quota":
            return TransientError(error_text, retry_after=parse_retry_after(error.response.headers))
        if error.code in _PROMPT_ERRORS or "maximum context length" in error.message:
            return ProviderError(error_text)  # ends only this episode, as others may be shorter
        advice = {
            401: f" Set {key_variable(self._url)} to a valid key.",
            404: " Check the model's name and the address.",
        }
        return ConfigError(error_text + advice.get(error.status_code, ""))

    def _completion(self, reply: WireReply, stop: Sequence[str], seconds: float) -> Completion:
        text, usage = cut_at_stop(reply.plain_text, stop), reply.usage
        return Completion(
            text=text,
            usage=Usage(1, cost=None) if usage is None else replace(usage, cost=self.price.cost(usage)),
            finish="length" if reply.finish == "length" and text == reply.plain_text else "stop",
            seconds=seconds,
            calls=tuple(call.action for call in reply.calls),
        )


_Send = Callable[[openai.OpenAI, dict[str, Any]], WireReply]
"""Sends a request unchanged and reads the reply; raises ValueError, or the client's own errors, where there is none."""


def _send_whole(client: openai.OpenAI, request: dict[str, Any]) -> WireReply:
    """Send a request, and read the complete reply."""
    return read_reply(client.post("/chat/completions", cast_to=httpx2.Response, body=request).content)


def read_reply(raw: bytes | str) -> WireReply:
    """The reply in a body. Raises ValueError for a body without a choice."""
    reply = CHAT_COMPLETIONS.read_reply(json.loads(raw))
    if not reply.answered:
        raise ValueError(f"a reply that holds no choice{': ' + reply.error if reply.error else ''}")
    return reply


class _StreamSender:
    """Sends a request for a stream, and passes its text to ``on_delta`` without any part of a stop string.

    Once text was passed on, an error is final, because the request cannot be repeated.
    """

    def __init__(self, stop: Sequence[str], on_delta: OnDelta) -> None:
        self._stop, self._on_delta = stop, on_delta
        self._text, self._sent_chars = "", 0

    def __call__(self, client: openai.OpenAI, request: dict[str, Any]) -> WireReply:
        try:
            return self._read_stream(client, request)
        except (openai.APIError, httpx2.HTTPError, ValueError) as error:
            if self._sent_chars and not isinstance(error, openai.APIStatusError):
                raise ProviderError(f"the stream was cut: {_describe_error(error)}") from error
            self._text = ""
            raise

    def _read_stream(self, client: openai.OpenAI, request: dict[str, Any]) -> WireReply:
        reader = CHAT_COMPLETIONS.stream_reader()
        stream_request = {**request, "stream": True, "stream_options": {"include_usage": True}}
        with client.chat.completions.create(**stream_request) as chunks:
            for chunk in chunks:
                self._emit(reader.add_chunk(chunk.to_dict()).text)
        reply = reader.reply()
        if not reply.finish:
            raise ValueError("a stream that ended before its reply did")
        self._emit("", last=True)
        return reply

    def _emit(self, delta: str, *, last: bool = False) -> None:
        self._text += delta
        visible_text = cut_at_stop(self._text, self._stop)
        ended = last or len(visible_text) < len(self._text)
        safe_chars = len(visible_text) if ended else len(visible_text) - held_back_length(self._text, self._stop)
        if safe_chars > self._sent_chars:
            self._on_delta(visible_text[self._sent_chars : safe_chars])
            self._sent_chars = safe_chars


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


def _describe_error(error: Exception) -> str:
    """An error as text; the client's own messages hold no headers or keys."""
    cause = error.__cause__
    return f"{type(error).__name__}: {error}" + (f" ({type(cause).__name__}: {cause})" if cause is not None else "")
