"""What every server of this process needs: a socket, a key, a guard against strangers, and a thread to run on.

Invariant: a server without a key answers to the names of this machine alone, and to no page of another site, so that no
web page can act through the user's browser. Keys are compared in constant time. Heads of requests have bounds, in bytes
and in time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from html import escape
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from fireact.base.redact import guard_secret
from fireact.errors import ConfigError, ProviderError, missing_extra_error

KEY = "FIREACT_API_KEY"
"""The variable that holds the key of the servers."""
GRACE = 30
"""Seconds that requests in flight get to finish when a server is stopped."""
HEAD_SECONDS = 30.0
"""How long a client may take for the head of a request."""
IDLE_SECONDS = 75
"""How long a connection may be idle: longer than clients keep theirs, or a request may meet the end of it."""
MAX_HEAD = 256 * 1024
"""Most bytes of a head."""


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


def bounded_http(seconds: float = HEAD_SECONDS) -> type[asyncio.Protocol]:
    """The class of uvicorn's HTTP connections, which closes a connection whose next head is too long or late."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    return type("BoundedHTTP", (_BoundedHeads, AutoHTTPProtocol), {"head_seconds": seconds})


class _BoundedHeads(asyncio.Protocol):
    """What is added to a connection of uvicorn, which has no bounds for heads with httptools."""

    head_seconds: float
    transport: Any
    cycle: Any  # the request under way, or the last one
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watch_head(0)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    @property
    def _awaits_head(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def _watch_head(self, received: int) -> None:
        if not self._awaits_head:
            self._stop_timer()
            self._head_bytes = 0
            return
        self._head_bytes += received
        if self._head_bytes > MAX_HEAD:
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n")
            self.transport.close()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.head_seconds, self._end_late_head)

    def _end_late_head(self) -> None:
        self._timer = None
        if self._awaits_head:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def socket_address(host: str, listening: socket.socket) -> str:
    """The base of the URLs of a socket that listens on a host."""
    return f"http://{host_and_port(host, listening.getsockname()[1])}"


class RunningServer:
    """A server on a thread; ``url`` is its address and ``names`` are the models that it serves.

    ``stop()``, the end of a ``with`` statement, or the end of the process ends it; requests in flight get ``grace``
    seconds to finish. ``wait()`` blocks until then. ``options`` are those of uvicorn. Raises ConfigError without it.
    """

    def __init__(
        self, app: Any, listening: socket.socket, *, url: str, names: Sequence[str] = (), grace: int = GRACE,
        **options: Any,
    ) -> None:  # fmt: skip
        try:
            import uvicorn
        except ImportError as error:
            raise missing_extra_error("uvicorn", "serve") from error
        self.url, self.names = url, tuple(names)
        self.on_stop = ExitStack()
        logging.getLogger("uvicorn.error").addFilter(_is_worth_logging)
        defaults: dict[str, Any] = {
            "http": bounded_http(), "log_level": "warning", "lifespan": "off", "timeout_keep_alive": IDLE_SECONDS,
        }  # fmt: skip
        fixed: dict[str, Any] = {"access_log": False, "ws": "none", "proxy_headers": False}
        config = uvicorn.Config(app, timeout_graceful_shutdown=grace, **{**defaults, **options, **fixed})
        self._server = uvicorn.Server(config)
        self._ended = threading.Event()  # a thread whose join() is interrupted passes for ended in Python 3.11
        threading.Thread(target=self._run, args=(listening,), name="fireact-server", daemon=True).start()
        while not self._server.started and self.is_running:
            time.sleep(0.01)
        if not self._server.started:
            raise ProviderError(f"the server at {url} did not start. Try again, or with another --port.")

    def _run(self, listening: socket.socket) -> None:
        try:
            self._server.run(sockets=[listening])
        finally:
            self._ended.set()

    @property
    def is_running(self) -> bool:
        """Whether it still answers."""
        return not self._ended.is_set()

    def stop(self) -> None:
        """End the server; requests in flight are finished first. Ctrl-C meanwhile cuts them off."""
        self._server.should_exit = True
        try:
            self._join()
        except KeyboardInterrupt:
            self._server.force_exit = True
            self._join()
            raise
        finally:
            self.on_stop.close()

    def _join(self) -> None:
        while not self._ended.wait(0.1):  # a signal that another thread got interrupts no wait without an end
            pass

    def wait(self) -> None:
        """Block until the server is stopped, by another thread or by Ctrl-C."""
        try:
            self._join()
        except KeyboardInterrupt:
            self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.is_running else "stopped"
        return f"<Server at {self.url}: {', '.join([state, *self.names])}>"

    def _repr_html_(self) -> str:
        link = f'<a href="{escape(self.url)}">{escape(self.url)}</a>' if self.is_running else "stopped"
        return f"<p><code>{escape(repr(self))}</code> {link}</p>"


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Whether uvicorn shall log a record; a request that a shutdown cut off is no fault to trace."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
