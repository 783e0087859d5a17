"""``openai:MODEL[@BASE_URL,...]``: endpoints that speak OpenAI's chat completions, by the official client.

The key comes from the environment, and only the client keeps it. Transient errors (429, 5xx, a cut connection, a
time-out, a reply that is not JSON) are retried with backoff, or after the wait that the server names. Errors that would
end every episode (no key, no credit, no such model) stop the run; a prompt that is refused ends its own (PromptError,
or a completion that is ``refused``). What an endpoint refuses of a request is left out (``adaptation``). What a reply
holds besides text and calls rides along, and is sent back. Stop strings are applied here, whatever the server does.

Requests use the client's plain ``post``: its typed method walks every message of a prompt at each request, which took
half of the time of many threads in one process. Replies are parsed here, and malformed parts count as absent.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
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
    limit_reply,
    parse_retry_after,
    show_address,
)
from fireact.base.keys import key_variable, read_key, refuse_key_in_address
from fireact.base.names import split_model_spec, split_urls
from fireact.base.redact import guard_secret, redact
from fireact.errors import ConfigError, PromptError, ProviderError
from fireact.models.adaptation import Adaptation
from fireact.models.limits import Endpoint, count_prompt_chars, make_rate
from fireact.models.prices import TokenPrice, find_price
from fireact.models.refusals import Refusal, read_refusal
from fireact.models.replicas import ReplicatedLM
from fireact.models.reply_fields import add_extra, read_extra, refusal_of_reply
from fireact.models.stops import cut_at_stop, held_back_length
from fireact.types import Call, Completion, OnDelta, Usage
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import WireReply, WireRequest, number_calls
from fireact.wire.fields import replace_surrogates
from fireact.wire.schemas import normalise_schemas, tool_schema
from fireact.wire.sse import iterate_events

DEFAULT_URL = "https://api.openai.com/v1"
_PROBE_SECONDS = 5.0
_CONNECT_SECONDS = 10.0
"""The longest time that an address may take to accept a connection: a machine that is gone never does."""


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
        self._limit = make_rate(endpoint, base_url)
        self.adaptation = Adaptation(self.name)
        self._reached = False
        self._closed = threading.Event()
        timeout = httpx2.Timeout(endpoint.timeout, connect=min(endpoint.timeout, _CONNECT_SECONDS))
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=guard_secret(key) if key else read_key(base_url),
            timeout=timeout,
            http_client=openai.DefaultHttpxClient(
                timeout=timeout, event_hooks={"response": [limit_reply(self.name, max_bytes)]}
            ),
            max_retries=0,  # our own retries respect the rate limit and the end of the run
        )
        weakref.finalize(self, self._client.close)  # connections end with their owner

    def complete(self, call: Call) -> Completion:
        """Complete a call; ``call.on_delta`` gets each chunk of the text as it arrives.

        Raises ProviderError after the last retry, ConfigError for an error that a retry cannot mend.
        """
        started = time.perf_counter()
        retry = Retry(pause=self._pause, sleep=self._sleep)
        try:
            return retry.run(self.name, lambda: self.attempt(call, started=started))
        except ProviderError as error:
            raise self.explain(error) from None

    def attempt(self, call: Call, *, started: float) -> Completion:
        """Try a call once; its seconds count from ``started``. Raises TransientError where a retry may mend it."""
        streams = call.on_delta is not None and not call.tools
        numbered = zip(number_calls(call.messages), call.messages, strict=True)
        request = CHAT_COMPLETIONS.write_request(
            WireRequest(
                model=self._model,
                messages=tuple(add_extra(wire, message.extra) if message.extra else wire for wire, message in numbered),
                tools=tuple(normalise_schemas([tool_schema(tool) for tool in call.tools])),
                stop=tuple(call.stop)[:4],  # the API refuses more; the text is cut at all of them here anyway
                max_tokens=call.max_tokens,
                temperature=call.temperature or 0.0,
                seed=call.seed,
                stream=streams,
                stream_usage=streams,
            )
        )
        send = _StreamSender(call.stop, call.on_delta) if streams and call.on_delta else _send_whole
        expected_tokens = count_prompt_chars(call.messages, call.tools) // 4 + (call.max_tokens or 256) // 4
        reply = self._send_once(request, send, expected_tokens)
        return self._completion(reply, call.stop, time.perf_counter() - started)

    def close(self) -> None:
        """Wake up the threads that wait for a retry, and make them give up."""
        self._closed.set()

    @property
    def address(self) -> str:
        """The base URL, for messages."""
        return show_address(self._url)

    def is_reachable(self) -> bool:
        """Whether the endpoint answers a request for its models, in whatever way."""
        try:
            self._client.get("/models", cast_to=httpx2.Response, options={"timeout": _PROBE_SECONDS})
        except openai.APIStatusError as error:
            return error.status_code < 500
        except (openai.APIError, httpx2.HTTPError):
            return False
        return True

    def explain(self, error: ProviderError) -> Exception:
        """The error of the last retry; a ConfigError where no request ever reached the address."""
        fault = error.__cause__
        if fault is not None and isinstance(fault.__cause__, openai.APIConnectionError) and not self._reached:
            return ConfigError(f"{self.address} cannot be reached ({fault}). Check the address, and that it runs.")
        return error

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ProviderError("the run is over")

    def _send_once(self, request: dict[str, Any], send: _Send, expected: int) -> WireReply:
        entry = self._limit.enter(expected)
        try:
            reply = self._send_adapted(request, send)
        except (openai.APIConnectionError, httpx2.HTTPError, ValueError, RecursionError) as error:
            if isinstance(error.__cause__, ProviderError):
                raise error.__cause__ from None  # a reply that is too long: to the client, a lost connection
            raise TransientError(_describe_error(error)) from error
        self._reached = True
        if reply.usage is not None:
            self._limit.settle(entry, reply.total_tokens)
        return reply

    def _send_adapted(self, request: dict[str, Any], send: _Send) -> WireReply:
        """Send a request as the endpoint takes it, again after each refusal that leaves something to change."""
        while True:
            sent = self.adaptation.apply(request)
            try:
                return send(self._client, sent)
            except openai.APIStatusError as error:
                refusal, headers = read_refusal(error.status_code, error.response.content), error.response.headers
            except _ErrorReplyError as error:
                refusal, headers = error.refusal, httpx2.Headers()
            self._reached = True
            if not self.adaptation.learn(refusal, sent):
                raise self._refusal_error(refusal, headers)

    def _refusal_error(self, refusal: Refusal, headers: Mapping[str, str]) -> Exception:
        """The error of a refusal, as wide as its cause."""
        status = refusal.status or "with an error"
        text = f"{self.name} at {show_address(self._url)} answered {status}: {refusal.text}"
        if refusal.is_about_prompt:
            return PromptError(text)
        if refusal.is_transient:
            return TransientError(text, retry_after=parse_retry_after(headers))
        advice = {
            401: f" Set {key_variable(self._url)} to a valid key.",
            404: " Check the model's name and the address.",
        }
        return ConfigError(text + advice.get(refusal.status, ""))

    def _completion(self, reply: WireReply, stop: Sequence[str], seconds: float) -> Completion:
        text, usage = cut_at_stop(reply.plain_text, stop), reply.usage
        extra, refusal = read_extra(reply), refusal_of_reply(reply)
        was_cut = reply.finish == "length" and text == reply.plain_text
        return Completion(
            text=refusal or text,
            usage=Usage(1, cost=None) if usage is None else replace(usage, cost=self.price.cost(usage)),
            finish="refused" if refusal else "length" if was_cut else "stop",
            seconds=seconds,
            calls=() if refusal else tuple(call.action for call in reply.calls),
            reasoning=reply.reasoning,
            extra=extra,
        )


_Send = Callable[[openai.OpenAI, dict[str, Any]], WireReply]
"""Sends a request unchanged and reads the reply; raises ValueError, or the client's own errors, where there is none."""


class _ErrorReplyError(Exception):
    """A reply of status 200 that holds an error."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


def _send_whole(client: openai.OpenAI, request: dict[str, Any]) -> WireReply:
    """Send a request, and read the complete reply."""
    return read_reply(client.post("/chat/completions", cast_to=httpx2.Response, body=request).content)


def read_reply(raw: bytes | str) -> WireReply:
    """The reply in a body. Raises ValueError for a body without a choice."""
    return _check_reply(CHAT_COMPLETIONS.read_reply(replace_surrogates(json.loads(raw))))


def _check_reply(reply: WireReply) -> WireReply:
    if reply.error:
        raise _ErrorReplyError(read_refusal(0, reply.error))
    if not reply.answered:
        raise ValueError("a reply that holds no choice")
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
        except (openai.APIError, httpx2.HTTPError, ValueError, _ErrorReplyError) as error:
            if self._sent_chars and not isinstance(error, openai.APIStatusError):
                raise ProviderError(f"the stream was cut: {_describe_error(error)}") from error
            self._text = ""
            raise

    def _read_stream(self, client: openai.OpenAI, request: dict[str, Any]) -> WireReply:
        reader = CHAT_COMPLETIONS.stream_reader()
        with client.chat.completions.with_streaming_response.create(**request) as response:
            if "json" in response.headers.get("content-type", ""):  # an endpoint that does not stream
                reply = read_reply(response.read())
                self._emit(reply.plain_text, last=True)
                return reply
            for data in iterate_events(response.iter_bytes()):
                self._emit(reader.add(data).text)
        reply = _check_reply(reader.reply())
        if not reply.complete:
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


def from_name(name: str, *, slots: int = 16, endpoint: Endpoint | None = None) -> OpenAIModel | ReplicatedLM:
    """The LM behind ``openai:MODEL``, ``openai:MODEL@BASE_URL`` or, for replicas, ``openai:MODEL@URL1,URL2``."""
    _, model, text = split_model_spec(f"openai:{name}")
    if not model:
        raise ConfigError("openai: needs a model, such as openai:gpt-4o or openai:qwen@http://localhost:8000/v1.")
    urls = [*split_urls(text), *(() if endpoint is None else endpoint.replicas)]
    urls = [url.rstrip("/") for url in urls or [os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL]]
    for url in urls:
        refuse_key_in_address(url)
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ConfigError(
                f"{show_address(url)!r} is no address of an endpoint. Give one such as http://localhost:8000/v1."
            )
    if repeated := [url for url in urls if urls.count(url) > 1]:
        raise ConfigError(f"{show_address(repeated[0])} is there twice. Name each replica once.")
    models = [OpenAIModel(model, url, endpoint=endpoint) for url in urls]
    return models[0] if len(models) == 1 else ReplicatedLM(models)


def _describe_error(error: Exception) -> str:
    """An error as text; a broken status or header line may repeat a key."""
    cause = error.__cause__
    cause_text = f" ({type(cause).__name__}: {cause})" if cause is not None else ""
    return str(redact(f"{type(error).__name__}: {error}{cause_text}"))
