"""inspect_ai's logs in JSON (``log_format="json"``): one document with the samples of an evaluation.

Invariant: every sample is an episode, failed ones too. A scorer's C and I are 1 and 0 under the scorer's name, and the
submission of ``react()`` is the answer. Samples that FireAct writes differ in id or epoch. Binary ``.eval`` logs are
not read: ``inspect log convert --to json`` converts them to JSON. ``write_sample`` and ``wrap_samples`` write such a
document, which ``inspect view`` opens.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fireact.formats.chats import chat_messages, episode_facts, read_facts, tools_of
from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import FINISH, Action, Step, Trajectory, Usage
from fireact.wire.schemas import normalise_schemas, schema_name

_ATTACHMENT = "attachment://"
_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}


LISTED_NAME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}[:-]\d{2}[:-]\d{2}.*\.json")
"""The names under which ``inspect view`` lists a log in JSON."""
FACTS = "fireact"
"""The key of a sample's metadata under which FireAct keeps what the format has no place for."""


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
    messages = [_with_weight(message) for message in sample["messages"]]
    question, system, steps = steps_from_messages(messages, report=source.reporter(1))
    if facts := (sample.get("metadata") or {}).get(FACTS):
        return read_facts(facts, question, steps, {"system": system, "tools": normalise_schemas(facts.get("tools"))})
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


def _with_weight(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message with the weight that FireAct keeps in its metadata."""
    weight = (message.get("metadata") or {}).get("weight")
    return message if weight is None else {**message, "weight": weight}


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


def write_sample(trajectory: Trajectory) -> dict[str, Any]:
    """An episode as a sample of a log: its messages, its scores, and its facts in the metadata.

    The facts have the id of its example, which repeats across tasks and methods.
    """
    example, usage = trajectory.example, trajectory.usage
    answer = trajectory.answer or ""
    tokens = {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_tokens_cache_read": usage.cached_tokens,
    }
    return {
        "id": f"{trajectory.task}/{example.id}/{trajectory.method}",
        "epoch": trajectory.seed + 1,
        "input": example.question,
        "target": example.answer,
        "messages": [_write_message(message) for message in chat_messages(trajectory)],
        "output": {
            "model": trajectory.model,
            "choices": [{"message": {"role": "assistant", "content": answer}, "stop_reason": "stop"}] if answer else [],
        },
        "scores": {
            name: {"value": value, "answer": answer, "explanation": f"ended by {trajectory.stop}"}
            for name, value in trajectory.scores.items()
        },
        "metadata": {**example.meta, FACTS: {**episode_facts(trajectory), "tools": tools_of(trajectory)}},
        "model_usage": {trajectory.model: tokens},
        "total_time": trajectory.seconds,
        **({} if trajectory.error is None else {"error": _error(trajectory.error)}),
    }


def wrap_samples(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The document of a log around its samples; each scorer's mean is among the results."""
    facts = [sample["metadata"][FACTS] for sample in samples]
    tasks, models = (list(dict.fromkeys(str(fact[name]) for fact in facts)) for name in ("task", "model"))
    if len(models) > 1:
        samples = [
            {**sample, "id": f"{sample['id']}/{fact['model']}"} for sample, fact in zip(samples, facts, strict=True)
        ]
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    ids = list(dict.fromkeys(sample["id"] for sample in samples))
    names = list(dict.fromkeys(name for sample in samples for name in sample["scores"]))
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "created": created,
            "task": ", ".join(tasks),
            "dataset": {"name": ", ".join(tasks), "samples": len(ids), "sample_ids": ids, "shuffled": False},
            "model": ", ".join(models) or "unknown",
            "config": {"epochs": max(int(sample["epoch"]) for sample in samples)},
        },
        "results": {
            "total_samples": len(samples),
            "completed_samples": sum("error" not in sample for sample in samples),
            "scores": [_summarise_scorer(name, samples) for name in names],
        },
        "samples": list(samples),
    }


def _summarise_scorer(name: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [sample["scores"][name]["value"] for sample in samples if name in sample["scores"]]
    mean = sum(values) / len(values)
    counts = {"scored_samples": len(values), "unscored_samples": len(samples) - len(values)}
    return {"name": name, "scorer": name, **counts, "metrics": {"mean": {"name": "mean", "value": mean}}}


def _write_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A chat message in inspect_ai's form: reasoning as a block, calls with their arguments as objects."""
    role, content = message["role"], message.get("content") or ""
    if role == "tool":
        return {
            "role": role, "content": content, "tool_call_id": message["tool_call_id"], "function": message["name"],
        }  # fmt: skip
    if reasoning := message.get("reasoning_content"):
        content = [{"type": "reasoning", "reasoning": reasoning}, {"type": "text", "text": content}]
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": call["function"]["name"],
            "arguments": json.loads(call["function"]["arguments"]),
        }
        for call in message.get("tool_calls") or ()
    ]
    return {
        "role": role,
        "content": content,
        **({"tool_calls": calls} if calls else {}),
        **({"metadata": {"weight": message["weight"]}} if "weight" in message else {}),
    }


def _error(message: str) -> dict[str, str]:
    return {"message": message, "traceback": message, "traceback_ansi": message}
