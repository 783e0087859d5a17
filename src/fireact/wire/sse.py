"""Server-sent events: the data of each event in a text, and an event as bytes."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fireact.wire.dialect import Dialect, WireReply

END = "[DONE]"
"""The data of the event that ends a stream of chat completions."""


def split_events(text: str) -> Iterator[str]:
    """The data of each server-sent event in a text."""
    return iterate_events([text.encode("utf-8", "replace")])


def iterate_events(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of each server-sent event in the bytes of a stream, each as soon as it is complete."""
    data: list[str] = []
    for line in _iterate_lines(codecs.iterdecode(chunks, "utf-8", "replace")):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


def _iterate_lines(texts: Iterable[str]) -> Iterator[str]:
    """The lines of a stream. Only line feeds end them, since JSON may hold other separators as they are."""
    begun: list[str] = []
    for text in texts:
        *ended, tail = text.split("\n")
        for line in ended:
            yield "".join([*begun, line]).removesuffix("\r")
            begun = []
        begun.append(tail)
    yield "".join(begun).removesuffix("\r")


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
