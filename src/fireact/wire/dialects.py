"""The dialects, by name and by path."""

from __future__ import annotations

from collections.abc import Mapping

from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import Dialect
from fireact.wire.messages import MESSAGES
from fireact.wire.responses import RESPONSES

DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (CHAT_COMPLETIONS, RESPONSES, MESSAGES)}
"""Each dialect by its name."""


def find_dialect(path: str) -> Dialect | None:
    """The dialect of the requests that are posted to a path, whatever base it lies under; None for other paths."""
    return next((dialect for dialect in DIALECTS.values() if path.endswith(dialect.path)), None)
