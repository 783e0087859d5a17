"""inspect_ai's logs in JSON (``log_format="json"``): one document with the samples of an evaluation.

Invariant: every sample is an episode, failed ones too; a scorer's C and I are 1 and 0 under the scorer's name. The binary
``.eval`` logs are not read: ``inspect log convert --to json`` makes JSON of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.source import Source, imported
from fireact.render.messages import schemas, steps_from_messages
from fireact.types import Trajectory, Usage

_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the document is an evaluation with samples."""
    return len(rows) == 1 and isinstance(rows[0], dict) and {"eval", "samples", "status"} <= rows[0].keys()


def read(source: Source) -> Iterator[Trajectory]:
    """The samples of a log."""
    return source.each(lambda number, row: [_read(row["eval"], sample) for sample in row["samples"]])


def _read(evaluation: Mapping[str, Any], sample: Mapping[str, Any]) -> Trajectory:
    question, system, steps = steps_from_messages(sample["messages"])
    target = sample.get("target") or ""
    scores = {name: _value(score) for name, score in (sample.get("scores") or {}).items()}
    error = sample.get("error")
    message = error.get("message") if isinstance(error, Mapping) else error
    return imported(
        question,
        steps,
        task=str(evaluation["task"]),
        id=str(sample["id"]),
        answer=str(target[0] if isinstance(target, list) and target else target),
        model=str(evaluation.get("model") or ""),
        seed=int(sample.get("epoch") or 1) - 1,
        stop="error" if message else None,
        scores={name: value for name, value in scores.items() if value is not None},
        usage=_usage(sample),
        seconds=float(sample.get("total_time") or 0.0),
        error=str(message) if message else None,
        about=sample.get("metadata") or {},
        meta={"system": system, "tools": _tools(sample)},
    )


def _value(score: Mapping[str, Any]) -> float | None:
    value = score.get("value")
    if isinstance(value, str):
        return _VALUES.get(value)
    return float(value) if isinstance(value, int | float) else None


def _usage(sample: Mapping[str, Any]) -> Usage:
    told = list((sample.get("model_usage") or {}).values())
    return Usage(
        calls=sum(message.get("role") == "assistant" for message in sample["messages"]),
        prompt_tokens=sum(int(usage.get("input_tokens") or 0) for usage in told),
        completion_tokens=sum(int(usage.get("output_tokens") or 0) for usage in told),
        cost=None,
    )


def _tools(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    offered = [event.get("tools") for event in sample.get("events") or [] if event.get("event") == "model"]
    return schemas(next((tools for tools in offered if tools), []))
