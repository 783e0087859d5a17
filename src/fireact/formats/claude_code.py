"""Sessions of Claude Code: the JSON Lines below ``~/.claude/projects``, one file a session.

Each line is a message, or one block of a message that several lines with one id share; lines form a tree, whose last
branch is read. Invariant: what the tool wrote for itself (summaries, snapshots, notices) is no message. Lines of
sub-agents (``isSidechain``) are left out and counted; a file of theirs alone is an episode. The log holds neither the
system prompt nor the tools' schemas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fireact.formats.model_calls import parse_time, read_count
from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import Trajectory, Usage

_COMMANDS = (
    "<command-name>",
    "<command-message>",
    "<local-command-stdout>",
    "<local-command-caveat>",
    "Caveat: The messages",
)


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows are lines of a session, some with a message and its place in the tree."""
    lines = [row for row in rows if isinstance(row, Mapping) and "type" in row]
    has_session = any("sessionId" in row and "parentUuid" in row and "message" in row for row in lines)
    return has_session and len(lines) == len(rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The sessions of a file, in the order in which they begin."""
    sessions: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for number, row in source.rows():
        if isinstance(row, Mapping) and isinstance(row.get("message"), Mapping) and row.get("uuid"):
            sessions.setdefault(str(row.get("sessionId") or ""), []).append((number, row))
        elif not isinstance(row, Mapping):
            source.report_unreadable(number, f"a line is an object, not {type(row).__name__}")
    for session, lines in sessions.items():
        trajectory = source.attempt(lines[0][0], partial(_read_session, source, session, lines))
        if trajectory is not None:
            yield trajectory


def _read_session(source: SourceFile, session: str, lines: Sequence[tuple[int, Mapping[str, Any]]]) -> Trajectory:
    main_lines = [(number, line) for number, line in lines if not line.get("isSidechain")] or list(lines)
    branch = _last_branch([line for _, line in main_lines])
    question, system, steps = steps_from_messages(_join_blocks(branch), report=source.reporter(main_lines[0][0]))
    replies = {
        line["message"].get("id") or line["uuid"]: line["message"] for line in branch if line["type"] == "assistant"
    }
    usages = [message.get("usage") for message in replies.values()]
    new_tokens, cache_writes, cached, output = (
        sum(read_count(usage, f"{name}_tokens") for usage in usages)
        for name in ("input", "cache_creation_input", "cache_read_input", "output")
    )
    times = [time for line in branch if (time := parse_time(line.get("timestamp")))]
    return import_trajectory(
        question,
        steps,
        task=source.name,
        model=next((str(message["model"]) for message in replies.values() if message.get("model")), ""),
        usage=Usage(
            calls=len(replies),
            prompt_tokens=new_tokens + cache_writes + cached,
            cached_tokens=cached,
            completion_tokens=output,
            cost=None,
        ),
        seconds=round(max(times) - min(times), 3) if times else 0.0,
        meta={"system": system, "session": session, "lines_aside": len(lines) - len(branch)},
    )


def _last_branch(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines from the root to the last one; a parent that is not among them ends the walk."""
    by_id = {line["uuid"]: line for line in lines}
    branch: list[Mapping[str, Any]] = []
    line: Mapping[str, Any] | None = lines[-1]
    while line is not None and line["uuid"] in by_id:
        branch.append(by_id.pop(line["uuid"]))
        line = by_id.get(line.get("parentUuid") or line.get("logicalParentUuid"))
    return branch[::-1]


def _join_blocks(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of lines: the lines of one reply are one message, and notices are none."""
    messages: list[dict[str, Any]] = []
    last_id = ""
    for line in lines:
        message = line["message"]
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        if line.get("isMeta") or (isinstance(content, str) and content.lstrip().startswith(_COMMANDS)):
            continue
        message_id = str(message.get("id") or "")
        if message_id and message_id == last_id:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": message.get("role", line["type"]), "content": list(blocks)})
        last_id = message_id
    return messages
