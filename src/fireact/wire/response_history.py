"""What earlier responses hold, so that a request of the Responses API that only names them is read whole.

    previous_response_id     the input and the output of that response come first
    conversation             so do those of all responses of that conversation
    item_reference           stands for an item of an earlier response

Invariant: only what was added is known; ids that are not are returned, and never guessed. So a conversation whose
beginning was not added is not known, either. An item that comes again and again, as in a growing input, is held once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fireact.wire.dialect import WireReply
from fireact.wire.fields import to_json
from fireact.wire.responses import RESPONSES

Items = tuple[Mapping[str, Any], ...]


class ResponseHistory:
    """The items of each response and each conversation so far."""

    def __init__(self) -> None:
        self._items_by_source: dict[str, Items] = {}
        self._items_by_id: dict[str, Mapping[str, Any]] = {}
        self._unique_items: dict[str, Mapping[str, Any]] = {}

    def resolve(self, request: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """The request with all items in its input, and the ids in it that are not known."""
        previous_id = request.get("previous_response_id")
        ids = [id for id in (previous_id, find_conversation_id(request)) if isinstance(id, str) and id]
        earlier = [item for id in ids for item in self._items_by_source.get(id, ())]
        unknown_ids = [id for id in ids if id not in self._items_by_source]
        new_items = _list_input(request)
        items = [self._find_referenced(item, unknown_ids) for item in new_items]
        if not ids and items == new_items:
            return request, tuple(unknown_ids)
        return {**request, "input": [*earlier, *items]}, tuple(unknown_ids)

    def add(self, request: Mapping[str, Any], reply: WireReply) -> None:
        """Hold the items of a resolved request and of its reply, under the ids of the response and its conversation."""
        body = RESPONSES.write_reply(reply, model="")
        output = body.get("output")
        items = self._unify([*_list_input(request), *(output if isinstance(output, list) else ())])
        ids = [body.get("id") if request.get("store") is not False else None, find_conversation_id(request)]
        for id in ids:
            if isinstance(id, str) and id:
                self._items_by_source[id] = items
        self._items_by_id |= {item["id"]: item for item in items if isinstance(item.get("id"), str)}

    def add_conversation_items(self, id: str, items: Iterable[Any]) -> None:
        """Begin a conversation with items, or add them to it."""
        new_items = self._unify(items)
        self._items_by_source[id] = (*self._items_by_source.get(id, ()), *new_items)
        self._items_by_id |= {item["id"]: item for item in new_items if isinstance(item.get("id"), str)}

    def _find_referenced(self, item: Any, unknown_ids: list[str]) -> Any:
        """The item that a reference names; any other item as it is."""
        if not isinstance(item, Mapping) or item.get("type") != "item_reference":
            return item
        id = str(item.get("id"))
        if id not in self._items_by_id:
            unknown_ids.append(id)
        return self._items_by_id.get(id, item)

    def _unify(self, items: Iterable[Any]) -> Items:
        return tuple(self._find_equal(item) for item in items if isinstance(item, Mapping))

    def _find_equal(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """An equal item that is held already, or else this one; what JSON cannot hold is equal to nothing."""
        text = to_json(item)
        return self._unique_items.setdefault(text, item) if text.startswith("{") else item


def _list_input(request: Mapping[str, Any]) -> list[Any]:
    """The input as items; a text is the message of a user."""
    value = request.get("input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    return list(value) if isinstance(value, list) else []


def find_conversation_id(request: Mapping[str, Any]) -> Any:
    """The id of the conversation that a request names; None where it names none."""
    conversation = request.get("conversation")
    return conversation.get("id") if isinstance(conversation, Mapping) else conversation
