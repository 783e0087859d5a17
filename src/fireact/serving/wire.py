"""The requests that the server can answer, whatever their dialect.

Invariant: a request that cannot be served exactly is refused with the field and the allowed values, or the fields that
it is answered without are named; a lenient reading refuses none. This module knows nothing of models or of HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fireact.errors import FormatError
from fireact.render.requests import client_tools, student_messages
from fireact.types import Message, TokenLogprob
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import Dialect, ToolChoice, WireRequest
from fireact.wire.schemas import ClientTool, schema_name


@dataclass(frozen=True, slots=True)
class StudentRequest:
    """The request of a client.

    ``json_schema`` is the schema of a text that must be JSON. ``top_logprobs`` is how many likely tokens to report for
    each token; None reports nothing. ``ignored`` are the fields that the request is answered without.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ClientTool, ...]
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    json_schema: Mapping[str, Any] | None
    stop: tuple[str, ...]
    max_tokens: int | None
    temperature: float
    top_p: float | None
    seed: int
    stream: bool
    stream_usage: bool
    top_logprobs: int | None
    ignored: tuple[str, ...]
    allowed_tools: tuple[str, ...] | None = None
    """The tools that may be called, where these are not all."""
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The body as the client sent it."""


COLDEST = 1e-3
"""Below this temperature sampling gives the most likely token anyway, and its arithmetic overflows."""
MAX_STOPS = 64
"""Stop strings of a request; each is looked for after each token."""
MAX_STOP_CHARS = 1000
"""Characters of a stop string; each beginning of it is looked for."""
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "functions": ([],), "function_call": ("none", "auto"), "logprobs": (False,),
    "top_logprobs": (0,), "presence_penalty": (0, 0.0), "frequency_penalty": (0, 0.0), "top_k": (0, -1),
    "min_p": (0, 0.0), "repetition_penalty": (1, 1.0), "logit_bias": ({},), "modalities": (["text"],),
    "background": (False,), "mcp_servers": ([],), "truncation": ("disabled",), "thinking": ({"type": "disabled"},),
    "context_management": ([], {}),
}  # fmt: skip
"""Fields that would change the answer and are not supported, with the values that have no effect."""
_NAMED = frozenset(("context_management", "thinking", "truncation"))
"""Such fields that a request is answered without, since common clients always send them; a header names them."""
_WITHOUT_EFFECT = frozenset(
    (
        "user", "metadata", "store", "service_tier", "stream_options", "prompt_cache_key", "prompt_cache_retention",
        "safety_identifier", "reasoning_effort", "reasoning", "verbosity", "text", "include", "output_config",
        "client_metadata", "cache_control", "inference_geo", "moderation", "prompt_cache_options",
        "input", "instructions", "messages", "system", "tools",
    )
)  # fmt: skip
"""Fields that concern the provider's books or a model's hidden reasoning, and content that is read already."""


def read_request(
    body: bytes,
    dialect: Dialect = CHAT_COMPLETIONS,
    *,
    lenient: bool = False,
    resolve: Callable[[Any], Any] = lambda data: data,
) -> StudentRequest:
    """Parse the body of a request; ``resolve`` puts in what it refers to.

    Raises FormatError naming the field that is wrong.
    """
    try:
        data = json.loads(body)
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FormatError("the body holds half a surrogate pair, which is no Unicode") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the body is not JSON: {error}") from error
    request = dialect.read_request(resolve(data))
    if request.damage:
        raise FormatError(str(request.damage[0]))
    if not request.messages:
        raise FormatError("messages must be a list with at least one message")
    if request.extra.get("n") not in (None, 1):
        raise FormatError(f"n must be 1, and is {request.extra['n']!r}: a reply has one answer")
    extra = dict(request.extra)
    top_logprobs = _read_logprobs(extra, request.stream)
    allowed = _read_allowed_tools(request, extra)
    left_out: list[str] = []
    tools = client_tools(request, left_out=left_out if lenient else None)
    ignored = (*_find_unserved(extra, lenient=lenient), *(f"tools: {name}" for name in left_out))
    temperature = request.temperature or 0.0
    _require_range(temperature, "temperature", low=0, high=2)
    _require_range(request.max_tokens, "max_tokens", low=1, high=1_000_000)
    _require_range(request.seed, "seed", low=-(2**63), high=2**63)
    _require_range(request.top_p, "top_p", low=0, high=1)
    if len(request.stop) > MAX_STOPS:
        raise FormatError(f"stop has {len(request.stop)} strings; it may have {MAX_STOPS}")
    if any(len(string) > MAX_STOP_CHARS for string in request.stop):
        raise FormatError(f"stop has a string of more than {MAX_STOP_CHARS} characters. Give the beginning of it.")
    return StudentRequest(
        model=request.model,
        messages=tuple(student_messages(request.messages)),
        tools=tools,
        tool_choice=_read_tool_choice(request if allowed is None else replace(request, tool_choice=allowed[0]), tools),
        allowed_tools=None if allowed is None else allowed[1],
        parallel_tool_calls=request.parallel_tool_calls is not False,
        json_schema=_read_json_schema(request),
        stop=request.stop,
        max_tokens=request.max_tokens,
        temperature=float(temperature) if temperature >= COLDEST else 0.0,
        top_p=request.top_p,
        seed=request.seed or 0,
        stream=request.stream,
        stream_usage=request.stream_usage,
        top_logprobs=top_logprobs,
        ignored=ignored,
        body=data,
    )


def _read_allowed_tools(request: WireRequest, extra: dict[str, Any]) -> tuple[ToolChoice, tuple[str, ...]] | None:
    """The choice among some of the tools (``allowed_tools``), and their names, taken out of ``extra``; else None."""
    value = extra.get("tool_choice")
    if request.tool_choice is not None or not isinstance(value, Mapping) or value.get("type") != "allowed_tools":
        return None
    inner = value.get("allowed_tools", value)  # chat completions nests what Responses does not
    tools = inner.get("tools") if isinstance(inner, Mapping) else None
    names = tuple(schema_name(tool) for tool in tools) if isinstance(tools, list) else ()
    if not names or not all(names) or inner.get("mode", "auto") not in ("auto", "required"):
        raise FormatError(f"tool_choice is {repr(value)[:200]}; it must name tools, with the mode auto or required")
    del extra["tool_choice"]
    return ToolChoice("required" if inner.get("mode") == "required" else "auto"), names


def _read_tool_choice(request: WireRequest, tools: Sequence[ClientTool]) -> ToolChoice:
    names = [tool.name for tool in tools]
    choice = request.tool_choice or ToolChoice("auto")
    if choice.mode == "tool" and choice.name not in names:
        raise FormatError(f"tool_choice names {choice.name!r}; tools has {', '.join(names) or 'nothing'}")
    if choice.mode == "required" and not names:
        raise FormatError("tool_choice is 'required', and tools has nothing. Send tools, or leave it out")
    return choice


def _read_json_schema(request: WireRequest) -> Mapping[str, Any] | None:
    response_format = request.response_format
    if response_format is None or response_format.kind == "text":
        return None
    return {"type": "object"} if response_format.schema is None else response_format.schema


def _read_logprobs(extra: dict[str, Any], stream: bool) -> int | None:
    """How many likely tokens to report for each token, taken out of ``extra``; None reports nothing."""
    if extra.get("logprobs") is not True:
        return None
    if stream:
        raise FormatError("logprobs is true, which a stream cannot have here. Leave stream or logprobs out")
    del extra["logprobs"]
    count = extra.pop("top_logprobs", 0)
    if type(count) is not int:
        raise FormatError(f"top_logprobs is {count!r}; it must be a whole number")
    _require_range(count, "top_logprobs", low=0, high=20)
    return count


def write_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Log probabilities as they ride along with a reply in chat completions."""

    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    content = [
        {**entry(item.token, item.logprob), "top_logprobs": [entry(*other) for other in item.top]} for item in logprobs
    ]
    return {"choices": [{"logprobs": {"content": content, "refusal": None}}]}


def _find_unserved(extra: Mapping[str, Any], *, lenient: bool) -> tuple[str, ...]:
    """The fields that are ignored. Raises FormatError for one that must not be, unless the reading is lenient."""
    unserved = [
        name
        for name, value in extra.items()
        if name not in _WITHOUT_EFFECT and value is not None and value not in _HARMLESS.get(name, ())
    ]
    refused = [name for name in unserved if name not in _NAMED]
    if refused and not lenient:
        raise FormatError(
            f"{refused[0]} is {repr(extra[refused[0]])[:200]}, which this endpoint cannot do. Leave it out, or serve "
            "with --lenient, which ignores it."
        )
    return tuple(unserved)


def _require_range(value: float | None, name: str, *, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise FormatError(f"{name} is {value!r}; it must be from {low:g} to {high:g}")
