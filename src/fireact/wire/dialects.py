"""The dialects, by name and by path, and the paths of requests, which clients and their base URLs write differently.

Invariant: the proxy and the server read a path alike, so that a base URL that works for one works for the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import Dialect
from fireact.wire.messages import MESSAGES
from fireact.wire.responses import RESPONSES

DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (CHAT_COMPLETIONS, RESPONSES, MESSAGES)}
"""Each dialect by its name."""


_EPISODE = re.compile(r"/e/([^/]{1,200})(/.*)")
_BARE_PATHS = ("/chat/", "/responses", "/messages", "/embeddings", "/models", "/conversations", "/completions")
"""Paths of clients whose base URL lacks /v1."""
_MESSAGES = re.compile(rf"(?:\A|/v1){MESSAGES.path}(?=/|\Z)")
"""Directly under the base: chat completions, threads and others have messages of their own."""


def split_episode(path: str) -> tuple[str | None, str]:
    """The quoted episode that a path names, or None, and the path without it."""
    match = _EPISODE.fullmatch(path)
    return (match[1], match[2]) if match else (None, path)


def normalise_path(path: str) -> str:
    """A path with /v1 once, also of a client whose base URL lacks it or which adds it a second time."""
    path = path.replace("/v1/v1/", "/v1/", 1)
    return f"/v1{path}" if path.startswith(_BARE_PATHS) else path


def find_dialect(path: str) -> Dialect | None:
    """The dialect of the requests that are posted to a path, whatever base it lies under; None for other paths."""
    path = split_episode(path)[1].rstrip("/")
    dialect = find_owner(path)
    return dialect if dialect is not None and path.endswith(dialect.path) else None


def find_owner(path: str) -> Dialect | None:
    """The dialect that a path belongs to, such as that of a response by its id; None for paths of several dialects."""
    if _MESSAGES.search(path):
        return MESSAGES
    return next((dialect for dialect in (RESPONSES, CHAT_COMPLETIONS) if f"{dialect.path}/" in f"{path}/"), None)
