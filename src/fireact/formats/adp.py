"""The Agent Data Protocol (arXiv 2510.24702): ``content`` of actions and observations, each with its class.

Invariant: an API action is a call of its function, a code action a call of its language, and a message action words;
the observation after them is their result. An observation of the user is a message of the user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import find_id
from fireact.formats.source import Damage, SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import Trajectory
from fireact.wire.schemas import normalise_schemas

_CLASSES = ("api_action", "code_action", "message_action", "text_observation", "web_observation")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows hold content of the protocol's classes."""
    return bool(rows) and all(isinstance(row, Mapping) and _is_trajectory(row) for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The trajectories of a file."""
    return source.build_each(lambda number, row: [_read_row(source, number, row)])


def _is_trajectory(row: Mapping[str, Any]) -> bool:
    content = row.get("content")
    return isinstance(content, list) and bool(content) and _class_name(content[0]) in _CLASSES


def _class_name(item: Any) -> str:
    name = item.get("class_", item.get("class", item.get("type"))) if isinstance(item, Mapping) else ""
    return str(name)


def _read_row(source: SourceFile, number: int, row: Mapping[str, Any]) -> Trajectory:
    messages: list[dict[str, Any]] = []
    for item in row["content"]:
        message = _read_item(item, follows_call=bool(messages) and "tool_calls" in messages[-1])
        if message is None:
            source.notice(Damage("unknown-block", number, f"content of the class {_class_name(item)!r} is left out"))
        else:
            messages.append(message)
    details = row.get("details") if isinstance(row.get("details"), Mapping) else {}
    assert isinstance(details, Mapping)
    question, system, steps = steps_from_messages(messages, report=source.reporter(number))
    scores = {name: details.get(name, row.get(name)) for name in ("reward", "score", "resolved")}
    return import_trajectory(
        question,
        steps,
        task=source.name,
        id=find_id(row, "id", "example_id", "task_id"),
        model=str(details.get("model") or ""),
        scores={name: float(value) for name, value in scores.items() if isinstance(value, bool | int | float)},
        meta={"system": str(details.get("system") or system), "tools": normalise_schemas(details.get("tools"))},
    )


def _read_item(item: Mapping[str, Any], *, follows_call: bool) -> dict[str, Any] | None:
    """A message; the description of an action is its thought."""
    kind = _class_name(item)
    thought = str(item.get("description") or "")
    if kind == "api_action":
        call = {"name": item.get("function"), "arguments": item.get("kwargs") or {}}
        return {"role": "assistant", "content": thought, "tool_calls": [call]}
    if kind == "code_action":
        call = {"name": str(item.get("language") or "code"), "arguments": {"code": item.get("content")}}
        return {"role": "assistant", "content": thought, "tool_calls": [call]}
    if kind == "message_action":
        words = "\n\n".join(filter(None, (thought, str(item.get("content") or ""))))
        return {"role": "assistant", "content": words}
    if kind == "text_observation":
        is_result = item.get("source") != "user" and follows_call
        return {"role": "tool" if is_result else "user", "content": item.get("content")}
    if kind == "web_observation":
        text = next((item[key] for key in ("axtree", "html") if item.get(key)), "")
        return {"role": "tool" if follows_call else "user", "content": text}
    return None
