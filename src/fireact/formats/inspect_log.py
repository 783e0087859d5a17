"""inspect_ai's logs in JSON (``log_format="json"``): one document with the samples of an evaluation.

Invariant: every sample is an episode, failed ones too. A scorer's C and I are 1 and 0 under the scorer's name, and the
submission of ``react()`` is the answer. Binary ``.eval`` logs are not read: ``inspect log convert --to json`` converts
them to JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import FINISH, Action, Step, Trajectory, Usage
from fireact.wire.schemas import normalise_schemas, schema_name

_ATTACHMENT = "attachment://"
_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the document is an evaluation with samples."""
    return len(rows) == 1 and isinstance(rows[0], dict) and {"eval", "samples", "status"} <= rows[0].keys()


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The samples of a log."""
    return source.build_each(
        lambda number, row: [_read_sample(source, row["eval"], sample) for sample in row["samples"]]
    )


def _read_sample(source: SourceFile, evaluation: Mapping[str, Any], sample: Mapping[str, Any]) -> Trajectory:
    sample = {**sample, "events": _resolve_attachments(sample.get("events") or [], sample.get("attachments") or {})}
    question, system, steps = steps_from_messages(sample["messages"], report=source.reporter(1))
    submission = _find_submission(sample)
    steps = steps if submission is None else _with_submission(steps, submission)
    finisher = "" if submission is None else submission["tool_calls"][0].get("function")
    target = sample.get("target") or ""
    error = sample.get("error")
    message = error.get("message") if isinstance(error, Mapping) else error
    return import_trajectory(
        question,
        steps,
        task=str(evaluation["task"]),
        id=str(sample["id"]),
        answer=str(target[0] if isinstance(target, list) and target else target),
        model=str(evaluation.get("model") or ""),
        seed=int(sample.get("epoch") or 1) - 1,
        stop="error" if message else None,
        scores=dict(_scores(sample.get("scores") or {})),
        usage=_usage(sample),
        seconds=float(sample.get("total_time") or 0.0),
        error=str(message) if message else None,
        about=sample.get("metadata") or {},
        meta={
            "system": system,
            "tools": [tool for tool in _tool_schemas(sample) if schema_name(tool) != finisher],
        },
    )


def _scores(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Each scorer's value under its name; several values of one scorer as SCORER/NAME."""
    for name, score in scores.items():
        value = score.get("value")
        parts = (
            {f"{name}/{key}": part_value for key, part_value in value.items()}
            if isinstance(value, Mapping)
            else {name: value}
        )
        for key, part_value in parts.items():
            number = _VALUES.get(part_value) if isinstance(part_value, str) else part_value
            if isinstance(number, int | float):
                yield key, float(number)


def _find_submission(sample: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The model's last message with the call that submits, which ``react()`` removes from ``messages``."""
    outputs = {_output(event).get("id"): _output(event) for event in sample["events"] if event.get("event") == "model"}
    last = sample["messages"][-1] if sample["messages"] else {}
    submitted = outputs.get(last.get("id")) if last.get("role") == "assistant" and not last.get("tool_calls") else None
    calls = (submitted or {}).get("tool_calls") or []
    return submitted if len(calls) == 1 and len(calls[0].get("arguments") or {}) == 1 else None


def _with_submission(steps: Sequence[Step], submitted: Mapping[str, Any]) -> tuple[Step, ...]:
    _, _, (turn,) = steps_from_messages([submitted])
    answer = next(iter(submitted["tool_calls"][0]["arguments"].values()))
    return (*steps[:-1], replace(turn, action=Action(FINISH, {"answer": str(answer)})))


def _output(event: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = (event.get("output") or {}).get("choices") or [{}]
    return choices[0].get("message") or {}


def _resolve_attachments(value: Any, attachments: Mapping[str, str]) -> Any:
    """A value with the log's attachments put back in their places."""
    if isinstance(value, str):
        return attachments.get(value.removeprefix(_ATTACHMENT), value) if value.startswith(_ATTACHMENT) else value
    if isinstance(value, Mapping):
        return {key: _resolve_attachments(item, attachments) for key, item in value.items()}
    return [_resolve_attachments(item, attachments) for item in value] if isinstance(value, list) else value


def _usage(sample: Mapping[str, Any]) -> Usage:
    usages = list((sample.get("model_usage") or {}).values())
    return Usage(
        calls=sum(message.get("role") == "assistant" for message in sample["messages"]),
        prompt_tokens=sum(int(usage.get("input_tokens") or 0) for usage in usages),
        completion_tokens=sum(int(usage.get("output_tokens") or 0) for usage in usages),
        cost=None,
    )


def _tool_schemas(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    offered = [event.get("tools") for event in sample.get("events") or [] if event.get("event") == "model"]
    return normalise_schemas(next((tools for tools in offered if tools), []))
