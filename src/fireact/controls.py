"""Control characters in the text of models, tools and files: a terminal takes them for orders, XML for an error."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def without_controls(text: str) -> str:
    """The text without control characters but line breaks and tabs."""
    return _CONTROL.sub("", text)


def with_controls_escaped(json: str) -> str:
    """JSON with those of its control characters as escapes that JSON itself lets stand."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", json)
