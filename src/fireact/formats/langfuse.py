"""Observations of Langfuse: the API's answers, the export of traces with their observations, and blob-storage exports.

A row is an observation, a trace with ``observations`` and ``scores``, or a page of these under ``data``; names are in
camel case (API) or snake case (exports). Invariant: the observations of a trace may stand in any rows, so a file is
read whole. Generations make up the episode; scores of a trace and of its observations are its scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fireact.base.redact import excerpt
from fireact.formats.model_calls import (
    ModelCall,
    as_messages,
    as_reply,
    parse_if_json,
    parse_time,
    read_conversations,
    read_count,
)
from fireact.formats.source import Damage, SourceFile
from fireact.types import Trajectory, Usage

_KINDS = ("GENERATION", "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL")
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows are observations, traces with observations, or pages of these."""
    return bool(rows) and all(isinstance(row, Mapping) and all(map(_is_ours, _list_items(row))) for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The episodes of the traces of a file."""
    facts: dict[str, dict[str, Any]] = {}
    calls = list(source.build_each(lambda number, row: _read_items(source, number, row, facts)))
    if not calls:
        source.report_unreadable(1, "it holds no observation of the type GENERATION with messages")
    return read_conversations(source, calls, describe=lambda trace: facts.get(trace, {}))


def _read_items(source: SourceFile, number: int, row: Any, facts: dict[str, dict[str, Any]]) -> Iterator[ModelCall]:
    """The calls of a row; what it says of its traces is added to ``facts``."""
    for item in _list_items(row):
        trace_id = str(item.get("trace_id") or item.get("id") or "")
        about = facts.setdefault(trace_id, {"scores": {}, "error": ""})
        about["scores"] |= _scores(source, number, item)
        for value in item.get("observations") or [item]:
            yield from source.attempt(number, partial(_read_observation, source, number, value, trace_id, about)) or ()


def _read_observation(
    source: SourceFile, number: int, value: Any, trace_id: str, about: dict[str, Any]
) -> list[ModelCall]:
    """The call of an observation, where it is one; its error is the trace's where nothing is above it."""
    observation = _snake(value)
    calls = _read_call(source, number, observation, trace_id) if observation.get("type") == "GENERATION" else []
    if not observation.get("parent_observation_id") and observation.get("level") == "ERROR":
        about["error"] = str(observation.get("status_message") or "the trace ended in an error")
    return calls


def _list_items(row: Any) -> list[dict[str, Any]]:
    items = row["data"] if isinstance(row, Mapping) and isinstance(row.get("data"), list) else [row]
    return [_snake(item) if isinstance(item, Mapping) else {} for item in items]


def _is_ours(item: Mapping[str, Any]) -> bool:
    if isinstance(item.get("observations"), list):
        return bool({"input", "timestamp"} & item.keys())
    return item.get("type") in _KINDS and "trace_id" in item and "start_time" in item


def _snake(item: Mapping[str, Any]) -> dict[str, Any]:
    """An object with its own names in snake case; what stands under them is left alone."""
    return {_WORD.sub("_", str(name)).lower(): value for name, value in item.items()}


def _read_call(source: SourceFile, number: int, observation: Mapping[str, Any], trace_id: str) -> list[ModelCall]:
    asked, reply = parse_if_json(observation.get("input")), as_reply(observation.get("output"))
    prompt = as_messages(asked, "user")
    if not prompt or not reply:
        source.notice(Damage("call-without-content", number, f"generation {observation.get('name')!r} holds no words"))
        return []
    fields = asked if isinstance(asked, Mapping) else {}
    settings = parse_if_json(observation.get("model_parameters"))
    tools = fields.get("tools") or (settings.get("tools") if isinstance(settings, Mapping) else None) or ()
    counts = [observation.get("usage_details"), observation.get("usage")]
    prompt_tokens, cached, output = (
        next((count for usage in counts if (count := read_count(parse_if_json(usage), *names))), 0)
        for names in (
            ("input", "prompt_tokens", "promptTokens", "input_tokens"),
            ("input_cached_tokens", "cache_read_input_tokens"),
            ("output", "completion_tokens", "completionTokens", "output_tokens"),
        )
    )
    cost = observation.get("total_cost", observation.get("calculated_total_cost"))
    is_error = observation.get("level") == "ERROR"
    return [
        ModelCall(
            prompt=prompt,
            reply=reply,
            row=number,
            trace=trace_id,
            tools=parse_if_json(tools),
            model=str(observation.get("model") or observation.get("provided_model_name") or ""),
            start=parse_time(observation.get("start_time")),
            end=parse_time(observation.get("end_time")),
            usage=Usage(1, prompt_tokens, cached, output, float(cost) if isinstance(cost, int | float) else None),
            error=str(observation.get("status_message") or "the call failed") if is_error else "",
        )
    ]


def _scores(source: SourceFile, number: int, item: Mapping[str, Any]) -> dict[str, float]:
    """The scores that are numbers; others are reported."""
    scores: dict[str, float] = {}
    for score in [_snake(score) for score in item.get("scores") or [] if isinstance(score, Mapping)]:
        name, value = str(score.get("name")), score.get("value")
        if isinstance(value, int | float):
            scores[name] = float(value)
        else:
            category = score.get("string_value") or value
            source.notice(Damage("unread-score", number, f"the score {name!r} is {excerpt(repr(category), 60)}"))
    return scores
