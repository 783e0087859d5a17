"""Traces of MLflow: ``Trace.to_json()``, and rows of ``search_traces`` with ``spans`` and ``assessments``.

Invariant: spans of the types CHAT_MODEL and LLM are the model's calls. Assessments that are a number, or yes or no, are
scores; an expectation ``expected_response`` is the gold answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.model_calls import (
    ModelCall,
    as_messages,
    as_reply,
    parse_if_json,
    parse_time,
    read_conversations,
    read_count,
)
from fireact.formats.source import SourceFile
from fireact.types import Trajectory, Usage
from fireact.wire.fields import as_mapping
from fireact.wire.file_messages import content_text
from fireact.wire.text_calls import format_answer

_MODEL_SPANS = ("CHAT_MODEL", "LLM")
_VALUES = {"yes": 1.0, "no": 0.0, True: 1.0, False: 0.0}


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows are traces."""
    return bool(rows) and all(isinstance(row, Mapping) and _find_spans(row) is not None for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The episodes of a file, one a trace."""
    return source.build_each(lambda number, row: _read_trace(source, number, row))


def _read_trace(source: SourceFile, number: int, row: Mapping[str, Any]) -> Iterator[Trajectory]:
    calls = [call for span in _find_spans(row) or [] if (call := _read_call(number, span)) is not None]
    if not calls:
        raise ValueError("the trace holds no span of a model's call with its messages")
    facts = _describe(row)
    return read_conversations(source, calls, describe=lambda trace: facts)


def _find_spans(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    data = row.get("data") if "info" in row else row
    spans = parse_if_json(data.get("spans")) if isinstance(data, Mapping) else None
    if not isinstance(spans, list) or not all(isinstance(span, Mapping) and "attributes" in span for span in spans):
        return None
    is_ours = any("mlflow.spanType" in as_mapping(span["attributes"]) for span in spans)
    return spans if is_ours else None


def _read_call(number: int, span: Mapping[str, Any]) -> ModelCall | None:
    attributes = {name: parse_if_json(_unquote(value)) for name, value in as_mapping(span["attributes"]).items()}
    if attributes.get("mlflow.spanType") not in _MODEL_SPANS:
        return None
    inputs = attributes.get("mlflow.spanInputs")
    fields = inputs if isinstance(inputs, Mapping) else {}
    prompt = as_messages(inputs, "user")
    reply = as_reply(attributes.get("mlflow.spanOutputs"))
    if not prompt or not reply:
        return None
    usage = attributes.get("mlflow.chat.tokenUsage")
    return ModelCall(
        prompt=prompt,
        reply=reply,
        row=number,
        trace=str(attributes.get("mlflow.traceRequestId") or span.get("trace_id") or ""),
        system=content_text(fields.get("system")),
        tools=attributes.get("mlflow.chat.tools") or fields.get("tools") or (),
        model=str(attributes.get("mlflow.llm.model") or attributes.get("model") or ""),
        start=parse_time(span.get("start_time_unix_nano", span.get("start_time"))),
        end=parse_time(span.get("end_time_unix_nano", span.get("end_time"))),
        usage=Usage(1, read_count(usage, "input_tokens"), 0, read_count(usage, "output_tokens"), None),
    )


def _unquote(value: Any) -> Any:
    """The text of an attribute, which MLflow writes as JSON."""
    if isinstance(value, str) and value[:1] == '"' == value[-1:] and len(value) > 1:
        return parse_if_json(f"[{value}]")[0]
    return value


def _describe(row: Mapping[str, Any]) -> dict[str, Any]:
    """The scores, the gold answer and the error of a trace."""
    info = row.get("info") if isinstance(row.get("info"), Mapping) else row
    assert isinstance(info, Mapping)
    scores: dict[str, float] = {}
    answer = ""
    for assessment in parse_if_json(info.get("assessments")) or []:
        name = str(assessment.get("assessment_name") or assessment.get("name") or "score")
        value = (assessment.get("feedback") or {}).get("value")
        expected = (assessment.get("expectation") or {}).get("value")
        if isinstance(value, str | bool) and value in _VALUES:
            scores[name] = _VALUES[value]
        elif isinstance(value, int | float):
            scores[name] = float(value)
        if expected is not None and name in ("expected_response", "expected_answer"):
            answer = format_answer(expected)
    is_error = info.get("state", info.get("status")) in ("ERROR", "TraceState.ERROR")
    return {"scores": scores, "answer": answer, "error": "the trace ended in an error" if is_error else ""}
