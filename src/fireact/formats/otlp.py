"""Spans of OpenTelemetry: OTLP in JSON, as a collector's file exporter writes it, or spans as Phoenix exports them.

A model's call is read by the GenAI conventions (``gen_ai.input.messages``), those of OpenInference
(``llm.input_messages.0.message.role``) or those of OpenLLMetry (``gen_ai.prompt.0.role``). Invariant: the spans of one
trace may stand in any rows, so a file is read whole; a span without the words of its call is reported. The results of
a trace's last calls are read from the spans of the tools. ``spans`` writes what is read here with its facts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fireact.formats.chats import read_facts
from fireact.formats.model_calls import (
    ModelCall,
    as_messages,
    parse_if_json,
    parse_time,
    read_conversations,
    read_count,
)
from fireact.formats.source import Damage, SourceFile
from fireact.formats.spans import FACTS
from fireact.types import Trajectory, Usage
from fireact.wire.file_messages import content_text, read_file_messages
from fireact.wire.text_calls import format_answer

_MODEL_OPERATIONS = ("chat", "text_completion", "generate_content")
_AGENT_OPERATION = "invoke_agent"


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows are exports of spans, or spans with attributes of a model's call."""
    return bool(rows) and all(isinstance(row, Mapping) and _is_export(row) for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The episodes of a file: the agent's own conversation of each trace, with the scores that annotate its spans."""
    reading = _TraceReader(source)
    calls = list(source.build_each(reading.read_row))
    traces = {call.trace for call in calls}
    calls += [call for call in reading.agent_calls if call.trace not in traces]
    if not calls:
        source.report_unreadable(1, "none of its spans is a model's call")
    calls = list(reading.add_last_results(calls))
    conversations = read_conversations(source, calls, describe=lambda trace: {"error": reading.errors.get(trace, "")})
    return map(reading.with_facts, conversations)


@dataclass(slots=True)
class _TraceReader:
    """Reads the spans of each row. ``agent_calls`` are runs of agents, which count where a trace has no model's call.

    ``errors`` are those of traces, ``facts`` those of episodes that FireAct wrote, and ``results`` those of tool calls
    by trace and id.
    """

    source: SourceFile
    agent_calls: list[ModelCall] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    results: dict[tuple[str, str], str] = field(default_factory=dict)

    def read_row(self, number: int, row: Any) -> Iterator[ModelCall]:
        """The models' calls among the spans of a row; a span of another shape is unreadable by itself."""
        for span in _list_spans(row):
            yield from self.source.attempt(number, partial(self._read_span, number, span)) or ()

    def _read_span(self, number: int, span: Mapping[str, Any]) -> list[ModelCall]:
        if not _parent_id(span):
            self.errors[_trace_id(span)] = _error(span)
        attributes, trace = read_attributes(span.get("attributes")), _trace_id(span)
        if FACTS in attributes:
            self.facts[trace] = json.loads(attributes[FACTS])
        if "gen_ai.tool.call.result" in attributes:
            result = content_text(attributes["gen_ai.tool.call.result"])
            self.results[trace, str(attributes.get("gen_ai.tool.call.id"))] = result
        is_agent = attributes.get("gen_ai.operation.name") == _AGENT_OPERATION
        call = _read_call(self.source, number, span, is_optional=is_agent)
        if is_agent:
            self.agent_calls += [call] if call is not None else []
            return []
        return [call] if call is not None else []

    def add_last_results(self, calls: Sequence[ModelCall]) -> Iterator[ModelCall]:
        """The calls; the last of each trace has the results of its tools, which no later prompt repeats."""
        last_calls = {call.trace: call for call in sorted(calls, key=lambda call: call.start)}
        for call in calls:
            found = self._results_of(call) if call is last_calls[call.trace] else []
            yield replace(call, reply=[*call.reply, *found]) if found else call

    def _results_of(self, call: ModelCall) -> list[dict[str, Any]]:
        messages, _ = read_file_messages(call.reply)
        ids = [tool_call.id for message in messages for tool_call in message.calls]
        return [
            {"role": "tool", "tool_call_id": id, "content": self.results[call.trace, id]}
            for id in ids
            if (call.trace, id) in self.results
        ]

    def with_facts(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory as FireAct knew it, where it wrote the trace."""
        facts = self.facts.get(str(trajectory.meta.get("trace")))
        if facts is None:
            return trajectory
        meta = {name: trajectory.meta[name] for name in ("system", "tools") if name in trajectory.meta}
        return read_facts(facts, trajectory.example.question, trajectory.steps, meta)


def _is_export(row: Mapping[str, Any]) -> bool:
    if isinstance(row.get("resourceSpans", row.get("resource_spans")), list):
        return True
    spans = _list_spans(row)
    return bool(spans) and all("attributes" in span and ("name" in span or "context" in span) for span in spans)


def _list_spans(row: Any) -> list[Mapping[str, Any]]:
    """The spans of an export, of a page of Phoenix's spans, or of a row that is one span."""
    if not isinstance(row, Mapping):
        return []
    if isinstance(row.get("data"), list):
        return [span for span in row["data"] if isinstance(span, Mapping)]
    groups = row.get("resourceSpans", row.get("resource_spans"))
    if not isinstance(groups, list):
        return [row]
    scopes = [scope for group in groups for scope in _children(group, "scopeSpans", "scope_spans")]
    return [span for scope in scopes for span in _children(scope, "spans")]


def _children(value: Any, *keys: str) -> list[Any]:
    """The list under a key; the value itself where it is of another shape, which is then no span either."""
    if not isinstance(value, Mapping):
        return [value]
    items: Any = next((value[key] for key in keys if value.get(key) is not None), [])
    return items if isinstance(items, list) else [items]


def _read_call(source: SourceFile, number: int, span: Mapping[str, Any], *, is_optional: bool) -> ModelCall | None:
    """The call of a span; None for a span of another kind, and with a report for one without words."""
    attributes = read_attributes(span.get("attributes"))
    call = _read_openinference(attributes) or _read_genai(attributes, span)
    if call is None:
        return None
    prompt, reply, system, tools = call
    if not (prompt and reply):
        if is_optional:
            return None
        detail = f"span {span.get('name')!r} holds no words: let the instrumentation capture message content"
        source.notice(Damage("call-without-content", number, detail))
        return None
    usage, details = attributes.get("gen_ai.usage", {}), attributes.get("llm.token_count", {})
    return ModelCall(
        prompt=prompt,
        reply=reply,
        row=number,
        trace=_trace_id(span),
        system=system,
        tools=tools,
        model=str(next((attributes[name] for name in _MODEL_NAMES if attributes.get(name)), "")),
        start=parse_time(span.get("startTimeUnixNano", span.get("start_time"))),
        end=parse_time(span.get("endTimeUnixNano", span.get("end_time"))),
        usage=Usage(
            1,
            read_count(usage, "input_tokens", "prompt_tokens") or read_count(details, "prompt"),
            read_count(usage, "cache_read.input_tokens", "cache_read_input_tokens")
            or read_count(details, "prompt_details.cache_read"),
            read_count(usage, "output_tokens", "completion_tokens") or read_count(details, "completion"),
            None,
        ),
        error=_error(span),
        scores=_scores(span),
    )


_MODEL_NAMES = ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name")


def _read_openinference(attributes: Mapping[str, Any]) -> tuple[list[Any], list[Any], str, Any] | None:
    if attributes.get("openinference.span.kind") != "LLM":
        return None
    prompt = [_openinference_message(item) for item in _indexed(attributes, "llm.input_messages")]
    reply = [_openinference_message(item) for item in _indexed(attributes, "llm.output_messages")]
    tools = [parse_if_json(item.get("tool.json_schema")) for item in _indexed(attributes, "llm.tools")]
    prompt = prompt or as_messages(attributes.get("input.value"), "user")
    reply = reply or as_messages(attributes.get("output.value"), "assistant")
    return prompt, reply, "", tools


def _openinference_message(item: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name.removeprefix("message."): value for name, value in item.items()}
    blocks = [block.get("message_content.text", block) for block in _indexed(fields, "contents")]
    calls = [
        {
            "id": call.get("tool_call.id"),
            "name": call.get("tool_call.function.name"),
            "arguments": call.get("tool_call.function.arguments"),
        }
        for call in _indexed(fields, "tool_calls")
    ]
    if not calls and fields.get("function_call_name"):
        calls = [{"name": fields["function_call_name"], "arguments": fields.get("function_call_arguments_json")}]
    return {
        "role": fields.get("role"),
        "content": fields.get("content", blocks or None),
        "tool_calls": calls,
        "tool_call_id": fields.get("tool_call_id"),
        "name": fields.get("name"),
    }


def _read_genai(attributes: Mapping[str, Any], span: Mapping[str, Any]) -> tuple[list[Any], list[Any], str, Any] | None:
    operation = attributes.get("gen_ai.operation.name") or attributes.get("llm.request.type")
    if operation not in (*_MODEL_OPERATIONS, _AGENT_OPERATION) and "gen_ai.prompt.0.role" not in attributes:
        return None
    events = [event for event in span.get("events") or [] if isinstance(event, Mapping)]
    details = [read_attributes(event.get("attributes")) for event in events]
    merged: dict[str, Any] = {**attributes}
    for event in details:  # some put the words into an event of the span
        merged |= event
    prompt = as_messages(merged.get("gen_ai.input.messages"), "user")
    reply = as_messages(merged.get("gen_ai.output.messages"), "assistant")
    system = _join_parts(merged.get("gen_ai.system_instructions"))
    tools = parse_if_json(merged.get("gen_ai.tool.definitions")) or ()
    if not prompt:
        prompt = [_openllmetry_message(item) for item in _indexed(attributes, "gen_ai.prompt")]
        reply = [_openllmetry_message(item) for item in _indexed(attributes, "gen_ai.completion")]
        tools = [
            {**item, "parameters": parse_if_json(item.get("parameters"))}
            for item in _indexed(attributes, "llm.request.functions")
        ]
    return prompt, reply, system, tools


def _join_parts(value: Any) -> str:
    parts = parse_if_json(value)
    texts = [part.get("content", part.get("text", "")) if isinstance(part, Mapping) else part for part in parts or []]
    return content_text(parts) if isinstance(parts, str) else "\n\n".join(map(format_answer, filter(None, texts)))


def _openllmetry_message(item: Mapping[str, Any]) -> dict[str, Any]:
    calls = [{**call} for call in _indexed(item, "tool_calls")]
    content = parse_if_json(item.get("content"))
    return {
        "role": item.get("role", "assistant"),
        "content": content if isinstance(content, list) else item.get("content"),
        "tool_calls": calls,
        "tool_call_id": item.get("tool_call_id"),
    }


def read_attributes(attributes: Any) -> dict[str, Any]:
    """The attributes of a span by name: those of OTLP's typed values, or of nested or flat objects.

    Names are flat (``llm.token_count.prompt``). The attributes below a name stand under it too, as an object.
    """
    flat: dict[str, Any] = {}
    if isinstance(attributes, list):
        for item in (item for item in attributes if isinstance(item, Mapping)):
            flat[str(item.get("key"))] = _otlp_value(item.get("value"))
    elif isinstance(attributes, Mapping):
        _flatten(attributes, "", flat)
    for prefix in ("gen_ai.usage", "llm.token_count"):
        inner = {
            name.removeprefix(f"{prefix}."): value for name, value in flat.items() if name.startswith(f"{prefix}.")
        }
        if inner:
            flat[prefix] = {name: int(value) if str(value).isdigit() else value for name, value in inner.items()}
    return flat


def _flatten(value: Any, name: str, flat: dict[str, Any]) -> None:
    """Put the leaves of nested objects under dotted names; a list of objects counts from 0."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            _flatten(item, f"{name}.{key}" if name else str(key), flat)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        flat[name] = value
        for index, item in enumerate(value):
            _flatten(item, f"{name}.{index}", flat)
    else:
        flat[name] = value


def _otlp_value(value: Any) -> Any:
    if not isinstance(value, Mapping) or not value:
        return value
    kind, inner = next(iter(value.items()))
    if kind in ("arrayValue", "array_value"):
        return [_otlp_value(item) for item in (inner or {}).get("values") or []]
    if kind in ("kvlistValue", "kvlist_value"):
        items = [item for item in (inner or {}).get("values") or [] if isinstance(item, Mapping)]
        return {str(item.get("key")): _otlp_value(item.get("value")) for item in items}
    is_number = kind in ("intValue", "int_value") and re.fullmatch(r"-?\d{1,30}", str(inner))
    return int(inner) if is_number else inner


def _indexed(attributes: Mapping[str, Any], prefix: str) -> list[dict[str, Any]]:
    """The attributes ``PREFIX.N.NAME`` as a list of objects, in the order of N."""
    items: dict[int, dict[str, Any]] = {}
    for name, value in attributes.items():
        if name.startswith(f"{prefix}."):
            number, _, key = name[len(prefix) + 1 :].partition(".")
            if number.isdigit() and key:
                items.setdefault(int(number), {})[key] = value
    return [items[number] for number in sorted(items)]


def _trace_id(span: Mapping[str, Any]) -> str:
    context = span.get("context")
    inner = context.get("trace_id") if isinstance(context, Mapping) else span.get("context.trace_id")
    return str(span.get("traceId") or span.get("trace_id") or inner or "")


def _parent_id(span: Mapping[str, Any]) -> str:
    return str(span.get("parentSpanId") or span.get("parent_id") or span.get("parent_span_id") or "")


def _error(span: Mapping[str, Any]) -> str:
    status = span.get("status", {})
    if isinstance(status, Mapping) and status.get("code") in (2, "STATUS_CODE_ERROR", "ERROR"):
        return str(status.get("message") or "the span ended in an error")
    return str(span.get("status_message") or "the span ended in an error") if span.get("status_code") == "ERROR" else ""


def _scores(span: Mapping[str, Any]) -> dict[str, float]:
    """The scores of evaluations: events by the GenAI conventions, annotations of Phoenix."""
    scores: dict[str, float] = {}
    for event in span.get("events") or []:
        attributes = read_attributes(event.get("attributes")) if isinstance(event, Mapping) else {}
        value = attributes.get("gen_ai.evaluation.score.value")
        if isinstance(value, int | float):
            scores[str(attributes.get("gen_ai.evaluation.name") or "score")] = float(value)
    for annotation in span.get("annotations") or []:
        result = annotation.get("result") if isinstance(annotation, Mapping) else None
        if isinstance(result, Mapping) and isinstance(result.get("score"), int | float):
            scores[str(annotation.get("name") or "score")] = float(result["score"])
    return scores
