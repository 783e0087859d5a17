"""The verb ``record``: writes ``calls.jsonl`` while an agent makes calls, and ``trajectories.jsonl`` as episodes end.

Invariant: a call is on disk before its client has seen the end of the reply, and the trajectories depend on the calls
alone. So the proxy may be killed at any moment: ``conclude`` (``fireact resume``) builds the same trajectories from the
logged calls, and recording can be resumed in the same directory. Scores stay valid while their episode does not change.
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

from fireact.base import jsonl
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import MANIFEST, TRAJECTORIES, RunDir, absolute_path, read_trajectories
from fireact.base.settings import check_settings, setting
from fireact.base.verbs import Verb
from fireact.errors import ConfigError, DataError, ProviderError, missing_extra_error
from fireact.models.prices import TokenPrice, find_price
from fireact.recording.conversations import RecordedCall, TurnIndex, read_messages
from fireact.recording.proxy import Upstream, build_proxy, is_loopback, parse_base_url
from fireact.recording.trajectories import FINISHES, build_trajectory
from fireact.rollout.collection import summarise_episodes
from fireact.types import Trajectory

CALLS = "calls.jsonl"
FREE = ("host", "port", "idle", "timeout", "concurrency", "max_body", "prices")
"""Settings that do not change what is recorded."""
EPISODES, PROXY = "Episodes", "Proxy"
"""Headings of options."""
GRACE = 30
"""Seconds that calls in flight get to finish when the proxy ends."""


@dataclass(frozen=True, slots=True)
class RecordConfig:
    """Settings of ``record``; an episode is written again if it continues."""

    upstream: str = setting(flags=("--upstream", "-u"), normalise=parse_base_url)
    """Base URL of the endpoint that the agent uses now."""
    task: str = setting("recorded", flags=("--task", "-t"), panel=EPISODES)
    """Name of the task in the trajectories."""
    finish: Sequence[str] = setting(FINISHES, panel=EPISODES)
    """Tool by which the agent gives its answer; repeatable. Default: final_answer, finish, ..."""
    host: str = setting("127.0.0.1", panel=PROXY)
    """Address to listen on; beyond loopback others can use it."""
    port: int = setting(8100, panel=PROXY)
    """Port; 0 takes a free one."""
    idle: float = setting(30.0, panel=EPISODES, above=0)
    """Seconds without a call after which an episode is written."""
    timeout: float = setting(600.0, panel=PROXY, above=0)
    """Seconds that the endpoint may send nothing."""
    concurrency: int = setting(256, panel=PROXY, above=0)
    """Calls under way at a time; more wait their turn."""
    max_body: int = setting(64_000_000, panel=PROXY, above=0)
    """Bytes of a request."""
    prices: str | None = setting(None, panel=PROXY, is_path=True, normalise=absolute_path)
    """TOML file with prices of your own. Default: FIREACT_PRICES, then genai-prices."""

    def __post_init__(self) -> None:
        check_settings(self, "record")
        if not self.task or not self.finish:
            raise ConfigError("record needs a name for --task and at least one --finish.")

    def price(self) -> Callable[[str], TokenPrice]:
        """A function from a model's name to its price at the upstream; each price is looked up once."""
        table = Path(self.prices) if self.prices else None
        return functools.cache(lambda model: find_price(model, self.upstream, table=table))


class Recording:
    """The log and the trajectories of an open run directory; only the proxy's thread may add calls."""

    def __init__(self, config: RecordConfig, path: Path, progress: Progress = SILENT) -> None:
        self._config, self._path, self._progress = config, path, progress
        self._price = config.price()
        self._finish_tools = frozenset(config.finish)
        self._changed: dict[str, float] = {}
        self.book = TurnIndex()
        jsonl.cut_torn_tail(path / TRAJECTORIES)
        jsonl.cut_torn_tail(path / CALLS)
        self.calls = 0
        for call in read_calls(path / CALLS):
            self._add(call)
        self._changed.clear()
        file = path / TRAJECTORIES
        self._written_ids = (
            {trajectory.example.id for trajectory in read_trajectories(file)} if file.exists() else set()
        )
        self._log = jsonl.Appender(path / CALLS)

    def assign_episode(self, request: Mapping[str, Any]) -> str:
        return self.book.assign_episode(read_messages(request))

    def add_call(self, call: RecordedCall) -> None:
        self._log.append(asdict(call))
        self._add(call)

    def note(self, line: str) -> None:
        self._progress.say(line)

    def _add(self, call: RecordedCall) -> None:
        turn = self.book.add(call)
        self.calls += 1
        has_answered = turn.reply is not None and any(call.name in self._finish_tools for call in turn.reply.calls)
        self._changed[turn.episode] = 0.0 if has_answered else time.monotonic()

    def write_ended(self) -> None:
        """Write the episodes that were answered by a finish call, or have been idle."""
        now = time.monotonic()
        idle_episodes = [
            episode for episode, changed_at in self._changed.items() if now - changed_at > self._config.idle
        ]
        if idle_episodes:
            self._write(idle_episodes)

    def write_all(self) -> None:
        """Write every episode from its calls."""
        self._write(list(self.book.turns))

    def close(self) -> None:
        self._log.close()

    def _write(self, episodes: Sequence[str]) -> None:
        for episode in episodes:
            self._changed.pop(episode, None)
        fresh = {episode: self._trajectory(episode) for episode in episodes}
        file = self._path / TRAJECTORIES
        if self._written_ids.isdisjoint(fresh):
            with jsonl.Appender(file) as appender:
                for trajectory in fresh.values():
                    appender.append(trajectory.to_dict())
        else:
            jsonl.write_objects(
                file, (trajectory.to_dict() for trajectory in merge_trajectories(read_trajectories(file), fresh))
            )
        self._written_ids |= set(fresh)

    def _trajectory(self, episode: str) -> Trajectory:
        config = self._config
        return build_trajectory(self.book.turns[episode], task=config.task, finishes=config.finish, price=self._price)


def merge_trajectories(stored: Iterable[Trajectory], fresh: Mapping[str, Trajectory]) -> Iterator[Trajectory]:
    """The stored trajectories, each replaced by its fresh version where there is one, then the new ones.

    A fresh version keeps the scores of the stored one when its steps and its stop are the same.
    """
    stored_ids = set()
    for old in stored:
        new = fresh.get(old.example.id)
        stored_ids.add(old.example.id)
        if new is None:
            yield old
        elif new.steps == old.steps and new.stop == old.stop:
            yield replace(new, scores=old.scores, example=old.example)
        else:
            yield new
    yield from (trajectory for episode, trajectory in fresh.items() if episode not in stored_ids)


def read_calls(file: Path) -> Iterator[RecordedCall]:
    """The calls of a log. Raises DataError for a line that is not a call."""
    if not file.exists():
        return
    for number, row in enumerate(jsonl.read_objects(file), 1):
        try:
            yield RecordedCall(**row)
        except TypeError as error:
            raise DataError(f"{file}, line {number}: not a call ({error}).") from error


def conclude(config: RecordConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Build trajectories from the calls that a proxy logged, and return the manifest; ``fireact resume`` calls this."""
    with RunDir(out, verb="record", settings=config, force=force, neutral=FREE) as run:
        return run.manifest if run.complete else _write_manifest(run, Recording(config, run.path, progress))


def _write_manifest(run: RunDir, recording: Recording) -> dict[str, Any]:
    recording.write_all()
    recording.close()
    return run.finish(
        upstream=run.config["upstream"],
        episodes=len(recording.book.turns),
        calls=recording.calls,
        **summarise_episodes(read_trajectories(run.path)),
    )


@contextmanager
def recorder(config: RecordConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> Iterator[str]:
    """Record the calls through a local proxy while in the ``with`` statement; yields the proxy's address.

    An agent's base URL is ADDRESS/v1, or ADDRESS/e/ID/v1 for the episode ID. At the end, calls in flight are finished,
    and the trajectories and the manifest are written. Raises ConfigError for a taken port or a missing extra.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise missing_extra_error("uvicorn", "serve") from error
    upstream = Upstream(config.upstream, config.timeout, config.concurrency, config.max_body)
    with RunDir(out, verb="record", settings=config, force=force, neutral=FREE) as run:
        with _bind_socket(config.host, config.port) as listener:
            recording = Recording(config, run.path, progress)
            app = build_proxy(upstream, recording)
            (run.path / MANIFEST).unlink(missing_ok=True)  # recording resumes, so the run is not complete
            if not is_loopback(config.host):
                progress.say(
                    f"warning: {config.host} can be reached from other machines, and the proxy asks for no key."
                )
            server_config = uvicorn.Config(
                app, log_level="critical", access_log=False, ws="none", timeout_graceful_shutdown=GRACE
            )
            host = f"[{config.host}]" if ":" in config.host else config.host
            with _serve(uvicorn.Server(server_config), listener, recording):
                yield f"http://{host}:{listener.getsockname()[1]}"
        _write_manifest(run, recording)


def _bind_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on a socket whose protocol is named; without it a reply would wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error}. Give another --port.") from error
    return listener


@contextmanager
def _serve(server: Any, listener: socket.socket, recording: Recording) -> Iterator[None]:
    """Run the server on its own thread, which also writes episodes as they end."""

    async def tick() -> None:
        try:
            recording.write_ended()
        except (OSError, DataError) as error:  # the calls are logged, and the end of the run writes all episodes again
            recording.note(f"episodes could not be written: {error}")

    server.config.callback_notify, server.config.timeout_notify = tick, 1
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="recorder", daemon=True)
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


RECORD = Verb(
    "record", RecordConfig, conclude, out="runs/record", neutral=FREE, has_dry_run=False,
    example="`fireact record --upstream https://api.openai.com/v1 -o runs/mine`, then "
    'base_url="http://127.0.0.1:8100/v1", or "http://127.0.0.1:8100/e/ID/v1" with an ID for each episode',
)  # fmt: skip
