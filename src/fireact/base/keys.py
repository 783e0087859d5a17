"""Finds the environment variable that holds the key of an address.

Invariant: a key goes only to the hosts of its variable. Hosts that are not in the table get OPENAI_API_KEY, which every
compatible endpoint uses. Keys are read here, and only the client keeps them; ``redact`` keeps them out of all texts. A
dry run needs none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import parse_qsl, urlsplit

from fireact.base.listening import is_loopback
from fireact.base.redact import guard_secret
from fireact.errors import ConfigError

KEY_VARIABLES = {
    "anthropic.com": "ANTHROPIC_API_KEY",
    "azure.com": "AZURE_OPENAI_API_KEY",
    "fireworks.ai": "FIREWORKS_API_KEY",
    "googleapis.com": "GEMINI_API_KEY",
    "together.ai": "TOGETHER_API_KEY",
    "together.xyz": "TOGETHER_API_KEY",
}
"""The variable, by the domain of the host."""
NO_KEY = "none"
"""The placeholder for a key where none is needed."""
_NEEDED = ContextVar("needed", default=True)


@contextmanager
def without_keys() -> Iterator[None]:
    """Build models and tools without their keys in this context, as a dry run does: it never calls them."""
    token = _NEEDED.set(False)
    try:
        yield
    finally:
        _NEEDED.reset(token)


def key_variable(url: str) -> str:
    """The variable that holds the key of an address."""
    host = f".{urlsplit(url).hostname or ''}"
    return next((name for domain, name in KEY_VARIABLES.items() if host.endswith(f".{domain}")), "OPENAI_API_KEY")


def is_known_host(url: str) -> bool:
    """Whether the host of an address is this machine's, OpenAI's, or one in the table."""
    host = urlsplit(url).hostname or ""
    return is_loopback(host) or any(f".{host}".endswith(f".{domain}") for domain in ("openai.com", *KEY_VARIABLES))


def refuse_key_in_address(url: str) -> None:
    """Raise ConfigError for an endpoint's address with a password or a query, which would be stored with the settings.

    Azure's ``api-version`` may stand there.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError("the address of an endpoint holds a name or password; give the key by the environment alone.")
    fields = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "api-version"]
    if fields or parts.fragment:
        names = ", ".join(name for name, value in fields if value) or "words"  # a bare word may be the key
        raise ConfigError(
            f"the address of an endpoint holds {names} behind its path, which would be stored. "
            "Only api-version may stand there; give the key by the environment alone."
        )


def read_key(url: str, variable: str = "") -> str:
    """The key of an address; "none" where none is set on loopback or in a dry run. Raises ConfigError elsewhere."""
    variable = variable or key_variable(url)
    key = os.environ.get(variable)
    if key:
        return guard_secret(key)
    if is_loopback(urlsplit(url).hostname or "") or not _NEEDED.get():
        return NO_KEY
    raise ConfigError(f"{url} needs a key, and {variable} is not set. Set it in the environment; it is never stored.")
