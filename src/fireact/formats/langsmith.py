"""Runs of LangSmith: what ``Client.list_runs`` and the bulk export give, one run a row or a JSON array of them.

Invariant: the runs of one trace may stand in any order, so a file is read whole. Model calls make up the episode; the
trace's other runs give its scores (feedback) and its error.
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

_MODEL_RUNS = ("llm", "chat_model")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows are runs."""
    return bool(rows) and all(isinstance(row, Mapping) and {"run_type", "inputs"} <= row.keys() for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The episodes of the traces of a file; a trace without a run of a model is read from its root's messages."""
    roots: dict[str, ModelCall] = {}
    facts: dict[str, dict[str, Any]] = {}
    calls = list(source.build_each(lambda number, row: _read_run(number, row, roots, facts)))
    called = {call.trace for call in calls}
    calls += [call for trace, call in roots.items() if trace not in called]
    return read_conversations(source, calls, describe=lambda trace: facts.get(trace, {}))


def _read_run(
    number: int, row: Mapping[str, Any], roots: dict[str, ModelCall], facts: dict[str, dict[str, Any]]
) -> list[ModelCall]:
    """The call of a run of a model, else none; what a run says of its trace is added to ``roots`` and ``facts``."""
    calls = [_read_call(number, row)] if row["run_type"] in _MODEL_RUNS else []
    about = facts.setdefault(_trace_id(row), {"scores": {}, "error": ""})
    about["scores"] |= _feedback(row)
    if not row.get("parent_run_id"):
        roots[_trace_id(row)] = _read_root(number, row)
        about["error"] = str(row.get("error") or "")
    return calls


def _read_call(number: int, row: Mapping[str, Any]) -> ModelCall:
    inputs, outputs, extra = (parse_if_json(row.get(key)) or {} for key in ("inputs", "outputs", "extra"))
    settings, metadata = extra.get("invocation_params") or {}, extra.get("metadata") or {}
    reply = as_reply(outputs)
    return ModelCall(
        prompt=as_messages(inputs, "user"),
        reply=reply,
        row=number,
        trace=_trace_id(row),
        tools=settings.get("tools") or settings.get("functions") or inputs.get("tools") or (),
        model=str(metadata.get("ls_model_name") or settings.get("model") or settings.get("model_name") or ""),
        start=parse_time(row.get("start_time")),
        end=parse_time(row.get("end_time")),
        usage=_usage(row, outputs),
        error=str(row.get("error") or ""),
    )


def _read_root(number: int, row: Mapping[str, Any]) -> ModelCall:
    """A run without runs of a model below it, say of an export of roots: its output may hold the whole conversation."""
    outputs = as_messages(parse_if_json(row.get("outputs")), "assistant")
    inputs = as_messages(parse_if_json(row.get("inputs")), "user")
    prompt, reply = (outputs[:-1], outputs[-1:]) if len(outputs) > 1 else (inputs, outputs)
    return ModelCall(
        prompt=prompt, reply=reply, row=number, trace=_trace_id(row), start=parse_time(row.get("start_time")),
        end=parse_time(row.get("end_time")), error=str(row.get("error") or ""), usage=_usage(row, {}),
    )  # fmt: skip


def _usage(row: Mapping[str, Any], outputs: Mapping[str, Any]) -> Usage:
    counts = [
        (outputs.get("llm_output") or {}).get("token_usage"), outputs.get("usage_metadata"), outputs.get("usage"), row,
    ]  # fmt: skip
    counts = [count for count in counts if isinstance(count, Mapping)]
    prompt, completion = (
        next((found for count in counts if (found := read_count(count, *names))), 0)
        for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    )
    cost = row.get("total_cost")
    return Usage(1, prompt, 0, completion, float(cost) if isinstance(cost, int | float) else None)


def _feedback(row: Mapping[str, Any]) -> dict[str, float]:
    """The mean of each kind of feedback."""
    stats = row.get("feedback_stats")
    means = (
        {name: value.get("avg") for name, value in stats.items() if isinstance(value, Mapping)}
        if isinstance(stats, Mapping)
        else {}
    )
    return {name: float(mean) for name, mean in means.items() if isinstance(mean, int | float)}


def _trace_id(row: Mapping[str, Any]) -> str:
    return str(row.get("trace_id") or row.get("id") or "")
