"""Control characters in the text of models, tools and files: a terminal obeys them, and XML forbids them."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def strip_controls(text: str) -> str:
    """The text without control characters; line feeds and tabs stay."""
    return _CONTROL.sub("", text)


def escape_controls(json: str) -> str:
    """JSON text with the control characters that JSON allows unescaped written as escapes."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", json)
