"""Episodes as spans of OpenTelemetry by its GenAI conventions, as OTLP's JSON: what tracing tools take.

    invoke_agent                   the episode: its usage, its scores as events, its facts in ``fireact.episode``
      chat MODEL                   each turn: all messages before it, and the turn itself
      execute_tool NAME            each call and its result

Invariant: ids depend on the episode alone. Nothing records when a step took place, so an episode ends when it is
written, began as many seconds earlier as it took, and its inner spans follow each other by a microsecond.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fireact.formats.chats import chat_messages, episode_facts, tools_of
from fireact.types import Trajectory
from fireact.wire.schemas import FINISH_NAMES

FACTS = "fireact.episode"
"""The attribute of the agent's span with what the conventions have no name for, as JSON."""
_INTERNAL, _CLIENT, _ERROR = 1, 3, 2
_STEP = 1000
"""Nanoseconds from the start of one inner span to that of the next."""


def export_spans(trajectory: Trajectory, *, now: float | None = None) -> dict[str, Any]:
    """One export (``resourceSpans``) with the spans of an episode, which end at the time ``now``."""
    end = round((time.time() if now is None else now) * 1e9)
    seed = f"{trajectory.key}/{trajectory.model}"
    builder = _SpanBuilder(_hex_id(seed, 32), seed, max(0, end - round(trajectory.seconds * 1e9)), end, trajectory)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes({"service.name": "fireact"})},
                "scopeSpans": [{"scope": {"name": "fireact"}, "spans": builder.build()}],
            }
        ]
    }


class _SpanBuilder:
    """Builds the spans of one episode; the first is the agent's, the parent of all others."""

    def __init__(self, trace: str, seed: str, start: int, end: int, trajectory: Trajectory) -> None:
        self._trace, self._seed, self._start, self._end = trace, seed, start, end
        self._trajectory = trajectory
        self._spans: list[dict[str, Any]] = []

    def build(self) -> list[dict[str, Any]]:
        trajectory = self._trajectory
        self._add(f"invoke_agent {trajectory.method}", _INTERNAL, self._agent_attributes(), self._end)
        self._spans[0]["events"] = [self._score_event(name, value) for name, value in trajectory.scores.items()]
        if trajectory.error is not None:
            self._spans[0]["status"] = {"code": _ERROR, "message": trajectory.error}
        messages = [message for message in chat_messages(trajectory) if message["role"] != "system"]
        results = {message["tool_call_id"]: message for message in messages if message["role"] == "tool"}
        last = max((index for index, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        for index, message in enumerate(messages[: last + 1]):
            if message["role"] == "assistant":
                self._add(
                    f"chat {trajectory.model}".strip(), _CLIENT, self._chat_attributes(messages[:index], message),
                    self._end if index == last else None,
                )  # fmt: skip
                for call in message.get("tool_calls") or ():
                    self._add_tool(call, results.get(call["id"]))
        return self._spans

    def _add(self, name: str, kind: int, attributes: Mapping[str, Any], end: int | None = None) -> None:
        number = len(self._spans)
        start = min(self._start + _STEP * number, self._end)
        span = {
            "traceId": self._trace,
            "spanId": _hex_id(f"{self._seed}/{number}", 16),
            "name": name,
            "kind": kind,
            "startTimeUnixNano": str(start),
            "endTimeUnixNano": str(min(start + _STEP, self._end) if end is None else end),
            "attributes": _attributes(attributes),
        }
        self._spans.append(span | ({"parentSpanId": self._spans[0]["spanId"]} if number else {}))

    def _add_tool(self, call: Mapping[str, Any], result: Mapping[str, Any] | None) -> None:
        function = call["function"]
        if function["name"] in FINISH_NAMES and result is None:
            return
        attributes = {
            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": function["name"],
            "gen_ai.tool.call.id": call["id"], "gen_ai.tool.call.arguments": function["arguments"],
            **({} if result is None else {"gen_ai.tool.call.result": result["content"] or ""}),
        }  # fmt: skip
        self._add(f"execute_tool {function['name']}", _INTERNAL, attributes)

    def _agent_attributes(self) -> dict[str, Any]:
        usage = self._trajectory.usage
        return {
            **self._shared_attributes("invoke_agent"),
            "gen_ai.agent.name": self._trajectory.method,
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            FACTS: json.dumps(episode_facts(self._trajectory), ensure_ascii=False),
        }

    def _chat_attributes(self, prompt: Sequence[Mapping[str, Any]], reply: Mapping[str, Any]) -> dict[str, Any]:
        system, tools = self._trajectory.meta.get("system"), tools_of(self._trajectory)
        definitions = [{"type": "function", **tool.get("function", tool)} for tool in tools]
        reason = "tool_call" if reply.get("tool_calls") else "stop"
        return {
            **self._shared_attributes("chat"),
            "gen_ai.input.messages": _to_json([_parts_message(message) for message in prompt]),
            "gen_ai.output.messages": _to_json([{**_parts_message(reply), "finish_reason": reason}]),
            **({"gen_ai.system_instructions": _to_json([_text_part(str(system))])} if system else {}),
            **({"gen_ai.tool.definitions": _to_json(definitions)} if definitions else {}),
        }

    def _shared_attributes(self, operation: str) -> dict[str, Any]:
        model = {"gen_ai.request.model": self._trajectory.model} if self._trajectory.model else {}
        conversation = {"gen_ai.conversation.id": self._seed}
        return {"gen_ai.operation.name": operation, "gen_ai.provider.name": "fireact", **model, **conversation}

    def _score_event(self, name: str, value: float) -> dict[str, Any]:
        attributes = {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": float(value)}
        when = str(self._end)
        return {"name": "gen_ai.evaluation.result", "timeUnixNano": when, "attributes": _attributes(attributes)}


def _parts_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A chat message in the parts of the conventions."""
    if message["role"] == "tool":
        part = {"type": "tool_call_response", "id": message["tool_call_id"], "response": message["content"] or ""}
        return {"role": "tool", "parts": [part]}
    parts: list[dict[str, Any]] = []
    if reasoning := message.get("reasoning_content"):
        parts.append({"type": "reasoning", "content": reasoning})
    if message.get("content"):
        parts.append(_text_part(message["content"]))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = json.loads(function["arguments"])
        parts.append({"type": "tool_call", "id": call["id"], "name": function["name"], "arguments": arguments})
    return {"role": message["role"], "parts": parts}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Attributes as OTLP's typed values."""
    return [{"key": name, "value": _typed_value(value)} for name, value in values.items()]


def _typed_value(value: str | int | float) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"doubleValue": value}


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _hex_id(text: str, length: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
