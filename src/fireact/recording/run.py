"""The verb ``record``: ``calls.jsonl`` while an agent's calls pass through, ``trajectories.jsonl`` as episodes end.

Invariant: a call is on disk before its client has seen the end of the reply, and the trajectories follow from the calls
alone: so a proxy may be killed at any moment, ``conclude`` (``fireact resume``) makes of its calls what it would have
made, and recording goes on in the same directory. Scores given meanwhile stand while their episode does not change.
"""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.collection import tally
from fireact.errors import ConfigError, DataError, ProviderError, missing_extra
from fireact.models.prices import Price, price_of
from fireact.progress import SILENT, Progress
from fireact.recording.conversations import Book, Call
from fireact.recording.proxy import Upstream, application, base_url, is_loopback
from fireact.recording.trajectories import FINISHES, trajectory
from fireact.recording.wire import messages_of
from fireact.store import MANIFEST, TRAJECTORIES, RunDir, absolute, read_trajectories
from fireact.types import Trajectory

CALLS = "calls.jsonl"
FREE = ("host", "port", "idle", "timeout", "concurrency", "max_body", "prices")
"""Settings that do not change what is recorded."""
GRACE = 30
"""Seconds that calls in flight are given when the proxy ends."""


@dataclass(frozen=True, slots=True)
class RecordConfig:
    """Settings of ``record``.

    ``finish`` names the tools by which the agent gives its answer. An episode without a call for ``idle`` seconds is
    written, and written again if it goes on. ``timeout`` is in seconds without a byte from the upstream, ``max_body`` in
    bytes of a request, ``concurrency`` the calls that are under way at a time (more wait their turn).
    """

    upstream: str
    task: str = "recorded"
    finish: Sequence[str] = FINISHES
    host: str = "127.0.0.1"
    port: int = 8100
    idle: float = 30.0
    timeout: float = 600.0
    concurrency: int = 256
    max_body: int = 64_000_000
    prices: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "upstream", base_url(self.upstream))
        if self.prices is not None:
            object.__setattr__(self, "prices", absolute(self.prices))
        if not self.task or not self.finish:
            raise ConfigError("record needs a name for --task and at least one --finish.")
        if min(self.timeout, self.idle, self.concurrency, self.max_body) <= 0:
            raise ConfigError("--timeout, --idle, --concurrency and --max-body must be more than 0.")

    def price(self) -> Callable[[str], Price]:
        """The price of a model at the upstream, looked up once."""
        table = Path(self.prices) if self.prices else None
        return functools.cache(lambda model: price_of(model, self.upstream, table=table))


class Recording:
    """The log and the trajectories of a run directory that is held; takes calls from the proxy's thread alone."""

    def __init__(self, config: RecordConfig, path: Path, progress: Progress = SILENT) -> None:
        self._config, self._path, self._progress = config, path, progress
        self._price = config.price()
        self._finished = frozenset(config.finish)
        self._changed: dict[str, float] = {}
        self.book = Book()
        jsonl.cut_torn_tail(path / TRAJECTORIES)
        jsonl.cut_torn_tail(path / CALLS)
        self.calls = 0
        for call in read_calls(path / CALLS):
            self._add(call)
        self._changed.clear()
        file = path / TRAJECTORIES
        self._written = {one.example.id for one in read_trajectories(file)} if file.exists() else set()
        self._log = jsonl.Appender(path / CALLS)

    def episode(self, request: Mapping[str, Any]) -> str:
        return self.book.place(messages_of(request))

    def take(self, call: Call) -> None:
        self._log.append(asdict(call))
        self._add(call)

    def note(self, line: str) -> None:
        self._progress.say(line)

    def _add(self, call: Call) -> None:
        turn = self.book.add(call)
        self.calls += 1
        over = turn.reply is not None and any(one.name in self._finished for one in turn.reply.calls)
        self._changed[turn.episode] = 0.0 if over else time.monotonic()

    def write_ended(self) -> None:
        """Write the episodes that have given their answer by a call, or have been idle."""
        now = time.monotonic()
        over = [episode for episode, at in self._changed.items() if now - at > self._config.idle]
        if over:
            self._write(over)

    def write_all(self) -> None:
        """Write every episode, as the calls have it."""
        self._write(list(self.book.turns))

    def close(self) -> None:
        self._log.close()

    def _write(self, episodes: Sequence[str]) -> None:
        for episode in episodes:
            self._changed.pop(episode, None)
        fresh = {episode: self._trajectory(episode) for episode in episodes}
        file = self._path / TRAJECTORIES
        if self._written.isdisjoint(fresh):
            with jsonl.Appender(file) as appender:
                for one in fresh.values():
                    appender.append(one.to_dict())
        else:
            jsonl.write(file, (one.to_dict() for one in merged(read_trajectories(file), fresh)))
        self._written |= set(fresh)

    def _trajectory(self, episode: str) -> Trajectory:
        config = self._config
        return trajectory(self.book.turns[episode], task=config.task, finishes=config.finish, price=self._price)


def merged(before: Iterable[Trajectory], fresh: Mapping[str, Trajectory]) -> Iterator[Trajectory]:
    """What is there, with fresh episodes in the place of their old selves, then the new ones; scores that hold are kept."""
    seen = set()
    for old in before:
        new = fresh.get(old.example.id)
        seen.add(old.example.id)
        if new is None:
            yield old
        elif new.steps == old.steps and new.stop == old.stop:
            yield replace(new, scores=old.scores, example=old.example)
        else:
            yield new
    yield from (one for episode, one in fresh.items() if episode not in seen)


def read_calls(file: Path) -> Iterator[Call]:
    """The calls of a log. Raises DataError with the line that is none."""
    if not file.exists():
        return
    for number, row in enumerate(jsonl.read(file), 1):
        try:
            yield Call(**row)
        except TypeError as error:
            raise DataError(f"{file}, line {number}: not a call ({error}).") from error


def conclude(config: RecordConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Make trajectories of the calls that a proxy logged, and return the manifest; the verb for ``fireact resume``."""
    with RunDir(out, verb="record", settings=asdict(config), force=force, free=FREE) as run:
        return run.manifest if run.complete else _concluded(run, Recording(config, run.path, progress))


def _concluded(run: RunDir, recording: Recording) -> dict[str, Any]:
    recording.write_all()
    recording.close()
    return run.finish(
        upstream=run.config["upstream"],
        episodes=len(recording.book.turns),
        calls=recording.calls,
        **tally(read_trajectories(run.path)),
    )


@contextmanager
def recorder(config: RecordConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> Iterator[str]:
    """Record what passes through a local proxy while in the ``with`` statement; yields its address.

    An agent's base URL is ADDRESS/v1, or ADDRESS/e/ID/v1 for the episode ID. At the end calls in flight are finished and
    the trajectories and the manifest are written. Raises ConfigError where the port is taken or an extra is missing.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise missing_extra("uvicorn", "serve") from error
    limits = Upstream(config.upstream, config.timeout, config.concurrency, config.max_body)
    with RunDir(out, verb="record", settings=asdict(config), force=force, free=FREE) as run:
        with _listening(config.host, config.port) as listening:
            recording = Recording(config, run.path, progress)
            app = application(limits, recording)
            (run.path / MANIFEST).unlink(missing_ok=True)  # it goes on, so it is not complete
            if not is_loopback(config.host):
                progress.say(
                    f"warning: {config.host} can be reached from other machines, and the proxy asks for no key."
                )
            settings = uvicorn.Config(
                app, log_level="critical", access_log=False, ws="none", timeout_graceful_shutdown=GRACE
            )
            host = f"[{config.host}]" if ":" in config.host else config.host
            with _running(uvicorn.Server(settings), listening, recording):
                yield f"http://{host}:{listening.getsockname()[1]}"
        _concluded(run, recording)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named; a reply would wait 40 ms otherwise
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error}. Give another --port.") from error
    return listening


@contextmanager
def _running(server: Any, listening: socket.socket, recording: Recording) -> Iterator[None]:
    """The server on a thread of its own, which also writes episodes as they end."""

    async def tick() -> None:
        try:
            recording.write_ended()
        except (OSError, DataError) as error:  # the calls are logged; the end writes all episodes anew
            recording.note(f"episodes could not be written: {error}")

    server.config.callback_notify, server.config.timeout_notify = tick, 1
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="recorder", daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        if not server.started:
            raise ProviderError("the proxy did not start. Try again, or with another --port.")
        yield
    finally:
        server.should_exit = True
        thread.join()
