"""Which variable of the environment holds the key of an address.

Invariant: a key goes only to the hosts that its variable stands for; OPENAI_API_KEY, which every compatible endpoint is
used with, to all that are not in the table. Keys are read here and kept by the client alone. A dry run needs none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import urlsplit

from fireact.errors import ConfigError

OTHERS = {
    "anthropic.com": "ANTHROPIC_API_KEY",
    "azure.com": "AZURE_OPENAI_API_KEY",
    "fireworks.ai": "FIREWORKS_API_KEY",
    "googleapis.com": "GEMINI_API_KEY",
    "together.ai": "TOGETHER_API_KEY",
    "together.xyz": "TOGETHER_API_KEY",
}
"""The variable, by the domain of the host."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NONE = "none"
"""What stands for a key where none is needed."""
_NEEDED = ContextVar("needed", default=True)


@contextmanager
def unasked() -> Iterator[None]:
    """Within it models and tools are built of which nothing will be asked, as a dry run does: without their keys."""
    token = _NEEDED.set(False)
    try:
        yield
    finally:
        _NEEDED.reset(token)


def variable_of(url: str) -> str:
    """The variable that holds the key of an address."""
    host = f".{urlsplit(url).hostname or ''}"
    return next((name for domain, name in OTHERS.items() if host.endswith(f".{domain}")), "OPENAI_API_KEY")


def key_of(url: str, variable: str = "") -> str:
    """The key of an address; "none" where none is set on loopback or in a dry run. Raises ConfigError elsewhere."""
    variable = variable or variable_of(url)
    key = os.environ.get(variable)
    if key:
        return key
    if urlsplit(url).hostname in LOOPBACK or not _NEEDED.get():
        return NONE
    raise ConfigError(f"{url} needs a key, and {variable} is not set. Set it in the environment; it is never stored.")
