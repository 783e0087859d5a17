"""``fireact view``: serves the page of the report while runs are in progress; new episodes appear as they are written.

    GET /           the page, with a report of the complete evaluations
    POST /updates   {"seen": ...} -> the state of each run and its new episodes (``watch``)

Invariant: nothing is written, and the server keeps no state of its readers. On loopback no key is needed, and only
requests to a name of this machine are answered, so that no web page can reach the server under a name of its own.
Beyond loopback the server asks for the key of ``fireact serve``, as a bearer token or as a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fireact.base.commands import GATHERING
from fireact.base.listening import (
    KEY,
    RunningServer,
    bind_socket,
    find_stranger,
    has_key,
    is_loopback,
    required_key,
    socket_address,
)
from fireact.base.run_directory import MANIFEST, read_config, read_manifest, trajectory_file
from fireact.errors import ConfigError, DataError, missing_extra_error
from fireact.reporting.assembly import assemble_report, select_comparable
from fireact.reporting.html import render_live_page
from fireact.reporting.report_data import ReportData
from fireact.reporting.runs import FILE, ReportedRun, read_runs
from fireact.reporting.watch import WatchedRun, find_watched_runs, read_updates
from fireact.reporting.wording import make_encodable

MAX_BODY = 1_000_000
"""Most bytes in a request for updates."""
MAX_REPORTED = 30_000_000
"""Most bytes of episodes that the page reports on as it is opened; reading more would take seconds."""
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def view_application(paths: Sequence[Path], *, key: str | None = None) -> Any:
    """The ASGI application. Raises DataError if a path holds no run, and ConfigError if the extra is missing."""
    try:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise missing_extra_error("starlette", "serve") from error

    find_watched_runs(paths)  # a wrong path raises at once

    def refuse(request: Request) -> Response | None:
        if key is None and (reason := find_stranger(request.headers)):
            return Response(f"{reason}.", 403)
        if key is not None and not has_key(request.headers, key):
            challenge = {"WWW-Authenticate": 'Basic realm="fireact view", charset="UTF-8"'}
            return Response(f"The key in {KEY} is needed, as the password.", 401, challenge)
        return None

    async def page(request: Request) -> Response:
        return refuse(request) or HTMLResponse(await asyncio.to_thread(_render_page, paths), headers=HEADERS)

    async def updates(request: Request) -> Response:
        refusal = refuse(request)
        if refusal is not None:
            return refusal
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return JSONResponse({"error": f"the request is longer than {MAX_BODY} bytes"}, 413)
        update = await asyncio.to_thread(lambda: read_updates(find_watched_runs(paths), _parse_marks(bytes(body))))
        return Response(
            make_encodable(json.dumps(update, ensure_ascii=False)), media_type="application/json", headers=HEADERS
        )

    return Starlette(routes=[Route("/", page), Route("/updates", updates, methods=["POST"])])


def start_view(paths: Sequence[Path], *, host: str, port: int) -> RunningServer:
    """Serve the page of some runs. Raises DataError for a path that holds no run.

    Raises ConfigError when the port is taken, or when others can reach the host and there is no key.
    """
    key = required_key(host)
    app = view_application(paths, key=None if is_loopback(host) else key)
    listening = bind_socket(host, port)
    return RunningServer(app, listening, url=f"{socket_address(host, listening)}/")


def _parse_marks(body: bytes) -> Mapping[str, Any]:
    """The marks of the last look, from a request; an odd request counts as a first look."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    marks = value.get("seen") if isinstance(value, dict) else None
    return marks if isinstance(marks, dict) else {}


def _render_page(paths: Sequence[Path]) -> str:
    runs = find_watched_runs(paths)
    report, notice, size = None, "", sum(map(_count_bytes, runs))
    if size > MAX_REPORTED:
        notice = f"The runs hold {size / 1e6:,.0f} MB of episodes; 'fireact report' writes a report of so many."
        done = {run.path.resolve() for run in runs if run.path.is_file() or (run.path / MANIFEST).exists()}
    else:
        complete = [run for path in paths for run in _complete_runs(path)]
        report, notice = _assemble_report(complete)
        done = {run.path.resolve() for run in complete}
    page = render_live_page(
        report,
        title=f"FireAct: {', '.join(path.name for path in paths)}",
        runs={run.name: run.path for run in runs},
        complete=[run.name for run in runs if run.path.resolve() in done],
        notice=notice,
    )
    return make_encodable(page)


def _complete_runs(path: Path) -> Iterator[ReportedRun]:
    """The complete runs of a path: as ``report`` reads it; if it is incomplete, the complete runs inside it."""
    try:
        yield from list(read_runs([str(path)]))
    except DataError:
        for run in find_watched_runs([path]):
            if (run.path / MANIFEST).exists():
                with contextlib.suppress(DataError):
                    yield ReportedRun(run.path, read_config(run.path), read_manifest(run.path))


def _count_bytes(run: WatchedRun) -> int:
    """How long the file of a run's episodes is."""
    file = trajectory_file(run.path)
    return file.stat().st_size if file.is_file() else 0


def _assemble_report(complete: Sequence[ReportedRun]) -> tuple[ReportData | None, str]:
    """The report of the complete runs (None without episodes), and a notice if it lacks some of them."""
    if not any(run.verb in (*GATHERING, "eval", FILE) for run in complete):
        return None, ""
    try:
        return assemble_report(complete), ""
    except (ConfigError, DataError) as error:
        reason = str(error)
    try:
        notice = f"The report leaves out runs that are not comparable with the first: {reason}"
        return assemble_report(select_comparable(complete)), notice
    except (ConfigError, DataError):
        return None, f"There is no report: {reason}"
