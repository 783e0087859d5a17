"""An agent's requests as the messages of its student, and a student's text as the reply to one.

Invariant: the server and the training of recorded agents build messages by ``student_messages`` alone, so a served
request has the ids of the same request in training. Nothing is added to a request: no instructions, no finish action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fireact.errors import FormatError
from fireact.types import Message, Role
from fireact.wire.dialect import WireMessage, part_text
from fireact.wire.reasoning import wrap_reasoning
from fireact.wire.roles import ROLES


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
        content = wrap_reasoning(message.reasoning, content)
    if not all(call.name for call in message.calls):
        raise FormatError(f"messages[{index}] has a tool call without a name")
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
