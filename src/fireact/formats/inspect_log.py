"""inspect_ai's logs in JSON (``log_format="json"``): one document with the samples of an evaluation.

Invariant: every sample is an episode, failed ones too; a scorer's C and I are 1 and 0 under the scorer's name, and
what ``react()`` submitted is the answer, whatever was said beside it. The binary
``.eval`` logs are not read: ``inspect log convert --to json`` makes JSON of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fireact.formats.source import Source, imported
from fireact.render.messages import schemas, steps_from_messages
from fireact.types import FINISH, Action, Step, Trajectory, Usage

_ATTACHMENT = "attachment://"
_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the document is an evaluation with samples."""
    return len(rows) == 1 and isinstance(rows[0], dict) and {"eval", "samples", "status"} <= rows[0].keys()


def read(source: Source) -> Iterator[Trajectory]:
    """The samples of a log."""
    return source.each(lambda number, row: [_read(row["eval"], sample) for sample in row["samples"]])


def _read(evaluation: Mapping[str, Any], sample: Mapping[str, Any]) -> Trajectory:
    sample = {**sample, "events": _attached(sample.get("events") or [], sample.get("attachments") or {})}
    question, system, steps = steps_from_messages(sample["messages"])
    submission = _submission(sample)
    steps = steps if submission is None else _submitted(steps, submission)
    finisher = "" if submission is None else submission["tool_calls"][0].get("function")
    target = sample.get("target") or ""
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
        scores=dict(_scores(sample.get("scores") or {})),
        usage=_usage(sample),
        seconds=float(sample.get("total_time") or 0.0),
        error=str(message) if message else None,
        about=sample.get("metadata") or {},
        meta={"system": system, "tools": [tool for tool in _tools(sample) if tool["function"]["name"] != finisher]},
    )


def _scores(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Each scorer's value under its name; of a scorer with several values, each under both names."""
    for name, score in scores.items():
        value = score.get("value")
        parts = {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}
        for key, part in parts.items():
            number = _VALUES.get(part) if isinstance(part, str) else part
            if isinstance(number, int | float):
                yield key, float(number)


def _submission(sample: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The last message as the model wrote it, with the call that submits: ``react()`` takes that out of what it leaves."""
    said = {_output(event).get("id"): _output(event) for event in sample["events"] if event.get("event") == "model"}
    last = sample["messages"][-1] if sample["messages"] else {}
    wrote = said.get(last.get("id")) if last.get("role") == "assistant" and not last.get("tool_calls") else None
    calls = (wrote or {}).get("tool_calls") or []
    return wrote if len(calls) == 1 and len(calls[0].get("arguments") or {}) == 1 else None


def _submitted(steps: Sequence[Step], wrote: Mapping[str, Any]) -> tuple[Step, ...]:
    _, _, (turn,) = steps_from_messages([wrote])
    answer = next(iter(wrote["tool_calls"][0]["arguments"].values()))
    return (*steps[:-1], replace(turn, action=Action(FINISH, {"answer": str(answer)})))


def _output(event: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = (event.get("output") or {}).get("choices") or [{}]
    return choices[0].get("message") or {}


def _attached(value: Any, attachments: Mapping[str, str]) -> Any:
    """A value with the long texts that the log keeps apart in their places."""
    if isinstance(value, str):
        return attachments.get(value.removeprefix(_ATTACHMENT), value) if value.startswith(_ATTACHMENT) else value
    if isinstance(value, Mapping):
        return {key: _attached(item, attachments) for key, item in value.items()}
    return [_attached(item, attachments) for item in value] if isinstance(value, list) else value


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
