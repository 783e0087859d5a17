"""Server-sent events: the data of each event in a text, and an event as bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fireact.wire.dialect import Dialect, WireReply

END = "[DONE]"
"""The data of the event that ends a stream of chat completions."""


def split_events(text: str) -> Iterator[str]:
    """The data of each server-sent event in a text."""
    data: list[str] = []
    for line in [*text.replace("\r\n", "\n").split("\n"), ""]:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def write_event(data: Mapping[str, Any] | str, *, with_type: bool = False) -> bytes:
    """One server-sent event; ``with_type`` writes the ``type`` of its data as its name."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    name = f"event: {data['type']}\n" if with_type and isinstance(data, Mapping) else ""
    return f"{name}data: {text}\n\n".encode("utf-8", "replace")  # a model may write half a surrogate pair


def read_stream(dialect: Dialect, text: str) -> WireReply:
    """The reply that the events of a whole text add up to."""
    reader = dialect.stream_reader()
    for data in split_events(text):
        reader.add(data)
    return reader.reply()
