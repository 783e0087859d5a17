"""An agent's requests as the messages of its student, and the ``recorded`` renderer of students that learn from them.

Invariant: the server and the training of recorded agents build messages by ``student_messages`` alone, so a served
request has the ids of the same request in training. Nothing is added to a request: no instructions, no finish action.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fireact.errors import ConfigError, FormatError
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.types import FINISH, Action, Completion, Message, Role, Step, Tool, Trajectory
from fireact.wire.dialect import WireMessage, WireReply, WireRequest, part_text
from fireact.wire.reasoning import strip_thinking, wrap_reasoning
from fireact.wire.roles import ROLES
from fireact.wire.schemas import ClientTool, Schema, hash_schema, normalise_schemas, schema_name, wrap_schema
from fireact.wire.text_calls import extract_answer, find_calls


@dataclass(frozen=True, slots=True)
class RecordedRenderer(ToolCallsRenderer):
    """Renders the requests of a recorded agent: its prompt, its tools as it sends them, and its own ending.

    Samples are made of recorded calls (``data.recorded_calls``), not of trajectories. ``offered`` are the tools
    that the agent sends, or None for those that run, and ``endings`` the names of those by which it gives its answer.
    A text without calls is an answer, too.
    """

    offered: tuple[Tool, ...] | None = None
    endings: tuple[str, ...] = ()
    name = "recorded"
    ends_itself = True
    """Whether the student ends as its agent does, not by the finish action."""

    def read(self, completion: Completion) -> list[Step]:
        """One step a call; a call of an ending, or a text without calls, is the finish action."""
        calls = completion.calls or tuple(action for _, action in find_calls(completion.text))
        if not calls:
            answer = strip_thinking(completion.text).strip()
            return [Step("", Action(FINISH, {"answer": answer}), None, completion.text)]
        steps = ToolCallsRenderer.read(self, completion)
        return [
            replace(step, action=Action(FINISH, {"answer": extract_answer(step.action.arguments)}))
            if step.action is not None and step.action.name in self.endings
            else step
            for step in steps
        ]

    def sample(self, trajectory: Trajectory) -> list[Message]:
        raise ConfigError(
            f"{trajectory.key}: the renderer 'recorded' needs the calls of a recording, which this trajectory does not "
            "have here. Give a run of 'fireact record', or a mixture of such runs, or choose another --renderer."
        )


@dataclass(frozen=True, slots=True)
class KnownPrompts:
    """The hashes of the system prompts and the tools that a student was trained with; ``systems`` of None are any."""

    systems: frozenset[str] | None
    tools: frozenset[str]

    def holds(self, messages: Sequence[Message], tools: Sequence[Schema]) -> bool:
        """Whether the training had this system prompt, and each of these tools."""
        system_hash = hashlib.sha256(read_system(messages).encode()).hexdigest()
        has_system = self.systems is None or system_hash in self.systems
        return has_system and all(hash_schema(tool) in self.tools for tool in tools)


def client_tools(request: WireRequest, *, left_out: list[str] | None = None) -> tuple[ClientTool, ...]:
    """The tools of a request. Raises FormatError for one that is no function, or that has no name of its own.

    With ``left_out`` a tool that is no function, which only a provider can run, is named there instead.
    """
    tools: list[ClientTool] = []
    for index, schema in enumerate(request.tools):
        kind = schema.get("type", "function") if isinstance(schema, dict) else None
        is_function = kind == "function" or (kind == "custom" and "input_schema" in schema)
        if isinstance(schema, dict) and isinstance(kind, str) and not is_function and left_out is not None:
            left_out.append(schema_name(schema) or kind)
            continue
        if not is_function or not schema_name(schema):
            raise FormatError(f"tools[{index}] is {repr(schema)[:200]}; it must be a function with a name")
        if schema_name(schema) in [tool.name for tool in tools]:
            raise FormatError(f"tools[{index}] has the name {schema_name(schema)!r}, as another tool has")
        tools.append(ClientTool(wrap_schema(schema)))
    return tuple(tools)


def hash_prompt(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
    """The SHA-256 of what an agent sends besides its conversation: its system prompt and its tools, in any order."""
    return _hash_prompt(messages, sorted(normalise_schemas(list(tools)), key=schema_name))


def has_prompt_of(hashes: Collection[str], messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the prompt of a request is one of those with these hashes; earlier versions hashed tools as sent."""
    earlier_hash = _hash_prompt(messages, normalise_schemas(list(tools)))
    return hash_prompt(messages, tools) in hashes or earlier_hash in hashes


def _hash_prompt(messages: Sequence[Message], schemas: Sequence[Schema]) -> str:
    prompt = json.dumps([read_system(messages), schemas], sort_keys=True)
    return hashlib.sha256(prompt.encode()).hexdigest()


def read_system(messages: Sequence[Message]) -> str:
    """The system prompt at the beginning of messages; empty where there is none."""
    return messages[0].content if messages and messages[0].role == "system" else ""


def drop_prompt(messages: Sequence[Message]) -> list[Message]:
    """The messages without the system prompt, for a student that was trained without it and without schemas."""
    return list(messages[1:]) if messages and messages[0].role == "system" else list(messages)


def reply_message(reply: WireReply) -> Message:
    """A reply as the message that the student learns. Raises FormatError for a reply that is not text."""
    (message,) = student_messages([WireMessage("assistant", reply.parts, reply.calls, reasoning=reply.reasoning)])
    return message


def student_messages(messages: Sequence[WireMessage]) -> list[Message]:
    """The messages of a request as a chat template takes them.

    System messages at the beginning become one, and the results of a turn stand in the order of its calls. Raises
    FormatError for a message that is not text.
    """
    chat: list[Message] = []
    call_ids: list[str] = []
    results: list[tuple[int, Message]] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            position = call_ids.index(message.call_id) if message.call_id in call_ids else len(call_ids)
            results.append((position, _read_result(index, message, chat, position)))
            continue
        chat += _order_results(results)
        results = []
        call_ids = [call.id for call in message.calls]
        chat.append(_read_message(index, message))
        if len(chat) == 2 and chat[0].role == chat[1].role == "system":
            chat[:] = [replace(chat[0], content=f"{chat[0].content}\n\n{chat[1].content}")]
    return chat + _order_results(results)


def _order_results(results: Sequence[tuple[int, Message]]) -> list[Message]:
    return [message for _, message in sorted(results, key=lambda result: result[0])]


def _read_message(index: int, message: WireMessage) -> Message:
    content = _read_text(index, message)
    if message.role == "assistant":
        # Servers differ in whether the space between a text and its calls belongs to the text.
        content = wrap_reasoning(message.reasoning, content.strip() if message.calls else content)
    if not all(call.name for call in message.calls):
        raise FormatError(f"messages[{index}] has a tool call without a name")
    if any(call.output is not None for call in message.calls):
        raise FormatError(
            f"messages[{index}] has a call that its provider ran itself; the student calls functions alone"
        )
    role: Role = ROLES[message.role]
    return Message(role, content, calls=tuple(call.action for call in message.calls))


def _read_result(index: int, message: WireMessage, chat: Sequence[Message], position: int) -> Message:
    calls = chat[-1].calls if chat else ()
    name = calls[position].name if position < len(calls) else message.name
    return Message("tool", _read_text(index, message), name=name)


def _read_text(index: int, message: WireMessage) -> str:
    texts = [part_text(part) for part in message.parts]
    if None in texts:
        raise FormatError(f"messages[{index}].content has parts that are not text; the student reads text alone")
    if not texts and message.role not in ("assistant", "tool"):  # clients send null for a turn of calls alone
        raise FormatError(f"messages[{index}].content must be text")
    return "".join(filter(None, texts))
