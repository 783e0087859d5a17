"""``fireact view``: the page of the report, served while runs go on; new episodes come as they are written.

    GET /           the page, with the report of the evaluations that are complete
    POST /updates   {"seen": ...} -> how far each run is and what is new since (``watch``)

Invariant: nothing is written, and the server keeps nothing of who looks. No key is needed on loopback, where only requests
that name this machine are answered, so that no web page can reach it by a name of its own; beyond loopback, the key
of ``fireact serve`` is asked for, as a bearer token or as the password that a browser asks for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, DataError, missing_extra
from fireact.reporting.data import ReportData
from fireact.reporting.html import live
from fireact.reporting.run import assemble, comparable
from fireact.reporting.runs import FILE, GATHERED, Run, read_runs
from fireact.reporting.watch import look, watched
from fireact.reporting.wording import encodable
from fireact.serving.server import KEY, LOOPBACK, bound, key_for
from fireact.store import MANIFEST, read_config, read_manifest

MAX_BODY = 1_000_000
"""Bytes of a request for updates."""
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def application(paths: Sequence[Path], *, key: str | None = None) -> Any:
    """The ASGI application. Raises DataError where a path holds no run, ConfigError when the extra is missing."""
    try:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise missing_extra("starlette", "serve") from error

    watched(paths)  # a wrong path is said at once

    def refused(request: Request) -> Response | None:
        if key is None and request.url.hostname not in LOOPBACK:
            return Response("This server answers to the names of this machine alone.", 403)
        if key is not None and not _permitted(request.headers.get("authorization", ""), key):
            asking = {"WWW-Authenticate": 'Basic realm="fireact view", charset="UTF-8"'}
            return Response(f"The key in {KEY} is needed, as the password.", 401, asking)
        return None

    async def page(request: Request) -> Response:
        return refused(request) or HTMLResponse(await asyncio.to_thread(_page, paths), headers=HEADERS)

    async def updates(request: Request) -> Response:
        no = refused(request)
        if no is not None:
            return no
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                return JSONResponse({"error": f"the request is longer than {MAX_BODY} bytes"}, 413)
        found = await asyncio.to_thread(lambda: look(watched(paths), _seen(bytes(body))))
        return Response(
            encodable(json.dumps(found, ensure_ascii=False)), media_type="application/json", headers=HEADERS
        )

    return Starlette(routes=[Route("/", page), Route("/updates", updates, methods=["POST"])])


def view(paths: Sequence[Path], *, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve the page of some runs until a signal ends it; ``started`` is given its address.

    Raises ConfigError when the port is taken, or when others can reach the host and there is no key.
    """
    key = key_for(host)
    app = application(paths, key=None if host in LOOPBACK else key)
    import uvicorn

    listening = bound(host, port)
    started(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/")
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything in flight is finished
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])


def _permitted(header: str, key: str) -> bool:
    """Whether an Authorization header holds the key: as a bearer token, or as the password of any user."""
    scheme, _, sent = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            sent = base64.b64decode(sent.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    return scheme.lower() in ("basic", "bearer") and hmac.compare_digest(sent.strip().encode(), key.encode())


def _seen(body: bytes) -> Mapping[str, Any]:
    """What a request says was seen; whatever else it holds counts as nothing seen."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    seen = value.get("seen") if isinstance(value, dict) else None
    return seen if isinstance(seen, dict) else {}


def _page(paths: Sequence[Path]) -> str:
    runs = watched(paths)
    complete = [run for path in paths for run in _complete(path)]
    report, said = _report(complete)
    done = {run.path.resolve() for run in complete}
    page = live(
        report,
        title=f"FireAct: {', '.join(path.name for path in paths)}",
        runs={run.name: run.path for run in runs},
        complete=[run.name for run in runs if run.path.resolve() in done],
        said=said,
    )
    return encodable(page)


def _complete(path: Path) -> Iterator[Run]:
    """The complete runs of a path: as ``report`` reads it, or where it is not complete itself those that lie in it."""
    try:
        yield from list(read_runs([str(path)]))
    except DataError:
        for run in watched([path]):
            if (run.path / MANIFEST).exists():
                with contextlib.suppress(DataError):
                    yield Run(run.path, read_config(run.path), read_manifest(run.path))


def _report(complete: Sequence[Run]) -> tuple[ReportData | None, str]:
    """The report of the runs that are complete, and why it is not of all of them; without an evaluation there is none."""
    if not any(run.verb in (*GATHERED, "eval", FILE) for run in complete):
        return None, ""
    try:
        return assemble(complete), ""
    except (ConfigError, DataError) as error:
        said = str(error)
    try:
        return assemble(comparable(complete)), f"The report leaves out what does not compare with its first run: {said}"
    except (ConfigError, DataError):
        return None, f"There is no report: {said}"
