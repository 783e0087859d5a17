"""What every server of this process needs: a socket, a key, and a guard against strangers.

Invariant: a server without a key answers to the names of this machine alone, and to no page of another site, so that no
web page can act through the user's browser. Keys are compared in constant time. This module runs no server.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from fireact.base.redact import guard_secret
from fireact.errors import ConfigError

KEY = "FIREACT_API_KEY"
"""The variable that holds the key of the servers."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def required_key(host: str) -> str | None:
    """The key that clients must send, from the environment. Raises ConfigError beyond loopback without one."""
    key = os.environ.get(KEY, "").strip() or None
    if not is_loopback(host) and key is None:
        raise ConfigError(
            f"{host} can be reached from other machines. Set {KEY} to a secret that clients must send, or leave out "
            "--host."
        )
    return None if key is None else guard_secret(key)


def find_stranger(headers: Mapping[str, str], *, check_host: bool = True) -> str:
    """Why a request without a key is not of this machine, by its headers in lower case; empty where it is.

    A web page reaches a server here by its own host name (DNS rebinding) or by a request to another site, in which the
    browser names the page's origin. Programs send no origin.
    """
    if check_host and not _is_local_address(f"//{headers.get('host', '')}"):
        return "this endpoint answers to the names of this machine alone"
    origin = headers.get("origin")
    is_foreign = headers.get("sec-fetch-site") == "cross-site" if origin is None else not _is_local_address(origin)
    if is_foreign:
        return "this endpoint answers to no page of another site"
    return ""


def _is_local_address(address: str) -> bool:
    try:
        return is_loopback(urlsplit(address).hostname or "")
    except ValueError:
        return False


def has_key(headers: Mapping[str, str], key: str) -> bool:
    """Whether a request holds the key: as a bearer token, in ``x-api-key``, or as the password of any user."""
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    if not scheme:
        scheme, sent = "bearer", headers.get("x-api-key", "")  # Anthropic's clients
    # Headers are read as Latin-1, and most clients send UTF-8.
    sent_bytes = sent.strip().encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            sent_bytes = base64.b64decode(sent_bytes, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    return scheme.lower() in ("basic", "bearer") and hmac.compare_digest(sent_bytes, key.encode())


def is_json(headers: Mapping[str, str]) -> bool:
    """Whether the body of a request is JSON by its type. A page can send other types elsewhere without asking."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def host_and_port(host: str, port: int) -> str:
    """Host and port in the form of a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises ConfigError when the port cannot be used."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"the port is {port}; it must be from 0 (a free one) to 65535.")
    # Named as TCP, or asyncio leaves Nagle's algorithm on and each reply waits for an acknowledgement.
    listening = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # clients may connect as soon as they know the address
    except OSError as error:
        listening.close()
        reason = error.strerror or error
        raise ConfigError(f"cannot listen on {host_and_port(host, port)}: {reason}. Give another --port.") from error
    return listening
