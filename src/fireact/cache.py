"""Every LM and tool call by its content, in one SQLite file: recorded once, replayed for ever.

    record    a call that is known is answered from the file; any other is made, then kept
    replay    nothing is called: neither the LM nor the tools are even built; an unknown call is an error
    off       every call is made, none is kept

Invariant: a call is identified by all that its answer depends on (the model's or tool's name and fingerprint, the
messages or arguments, every option), and its answer comes back exactly, with its usage and seconds; so a replayed run
gives the same trajectories byte for byte. What is kept survives a kill. Safe under threads and several processes:
threads that ask the same at a time make one call. Calls that failed are not kept. It holds no keys and no requests.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fireact.errors import ConfigError, DataError
from fireact.jsonl import dumps
from fireact.types import LM, Action, Completion, Message, Observation, Tool, Usage

Mode = Literal["record", "replay", "off"]
MODES: tuple[Mode, ...] = ("record", "replay", "off")
FILE = "calls.sqlite"
"""Its name within a run directory."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (key BLOB PRIMARY KEY, kind TEXT NOT NULL, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (kind TEXT, spec TEXT, facts TEXT NOT NULL, PRIMARY KEY (kind, spec));
"""


class CallCache:
    """The calls of one file. Raises ConfigError for an unknown mode, DataError for a file that is not one of its own."""

    def __init__(self, path: Path, mode: str = "record") -> None:
        if mode not in MODES:
            raise ConfigError(f"calls cannot be {mode!r}. Known: {', '.join(MODES)}.")
        if mode == "replay" and not path.is_file():
            raise ConfigError(f"nothing is recorded in {path}. Run once with calls recorded, or give another --cache.")
        self.path, self.mode = path, mode
        self._lock = threading.Lock()
        self._flights: dict[bytes, list[Any]] = {}
        self._connection: sqlite3.Connection | None = None
        self._noted: list[tuple[str, str, str]] = []

    def lm(self, spec: str, load: Callable[[], LM]) -> LM:
        """The LM that ``load`` builds, its calls kept; when replaying, one that only remembers."""
        if self.mode == "off":
            return load()
        if self.mode == "replay":
            return CachedLM(name=str(self._facts("lm", spec)), cache=self, lm=None)
        lm = load()
        self._note("lm", spec, lm.name)
        return CachedLM(name=lm.name, cache=self, lm=lm)

    def tools(self, spec: str, load: Callable[[], Sequence[Tool]]) -> list[Tool]:
        """The tools that ``load`` builds, their calls kept; when replaying, ones that only remember."""
        if self.mode == "off":
            return list(load())
        if self.mode == "replay":
            return [CachedTool(**facts, cache=self, tool=None) for facts in self._facts("tools", spec)]
        tools = load()
        self._note("tools", spec, [_facts(tool) for tool in tools])
        return [CachedTool(**_facts(tool), cache=self, tool=tool) for tool in tools]

    def models(self) -> list[str]:
        """The models that the file has calls of, as they were asked for."""
        return [str(row[0]) for row in self._sql("SELECT spec FROM parts WHERE kind = 'lm' ORDER BY spec")]

    def spent(self) -> Usage:
        """What all LM calls in the file took together."""
        if self.mode == "off" or not self.path.is_file():
            return Usage()
        found = self._sql("SELECT answer FROM calls WHERE kind = 'lm'")
        return sum((Usage(**json.loads(row[0])["usage"]) for row in found), Usage())

    def once(self, call: Sequence[Any], make: Callable[[], str]) -> str:
        """The answer of a call: the kept one, or what ``make`` returns, which is then kept."""
        key = hashlib.sha256(dumps(call).encode("utf-8", "surrogatepass")).digest()
        found = self._get(key)
        if found is not None:
            return found
        if self.mode == "replay":
            raise ConfigError(
                f"{self.path} holds no answer of {call[1]} to this call, so it cannot be replayed. "
                "The settings, prompts or questions differ from the recorded run's."
            )
        with self._alone(key):
            found = self._get(key)  # another thread asked the same meanwhile
            if found is None:
                found = make()
                self._sql("INSERT OR IGNORE INTO calls VALUES (?, ?, ?)", (key, call[0], found))
            return found

    @contextmanager
    def _alone(self, key: bytes) -> Iterator[None]:
        """Hold the one place for calls of this key; the place is forgotten when nobody waits for it."""
        with self._lock:
            flight = self._flights.setdefault(key, [threading.Lock(), 0])
            flight[1] += 1
        try:
            with flight[0]:
                yield
        finally:
            with self._lock:
                flight[1] -= 1
                if not flight[1]:
                    del self._flights[key]

    def _get(self, key: bytes) -> str | None:
        rows = self._sql("SELECT answer FROM calls WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def _note(self, kind: str, spec: str, facts: Any) -> None:
        """Remember what a spec means; it is written with the first call, so that building an agent makes no file."""
        self._noted.append((kind, spec, dumps(facts)))

    def _facts(self, kind: str, spec: str) -> Any:
        rows = self._sql("SELECT facts FROM parts WHERE kind = ? AND spec = ?", (kind, spec))
        if not rows:
            known = [str(row[0]) for row in self._sql("SELECT spec FROM parts WHERE kind = ?", (kind,))]
            what = "model" if kind == "lm" else "tool"
            raise ConfigError(
                f"{self.path} holds no calls of the {what} {spec!r}. It has: {', '.join(known) or 'none'}."
            )
        return json.loads(rows[0][0])

    def _sql(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            if self._connection is None:
                self._connection = _connect(self.path)
                weakref.finalize(self, self._connection.close)
                self._connection.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", self._noted)
            return self._connection.execute(statement, values).fetchall()


def _connect(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a kill loses nothing; a power cut the last moments
        connection.executescript(_SCHEMA)
    except (sqlite3.DatabaseError, OSError) as error:
        raise DataError(f"cannot keep calls in {path}: {error}. Give another --cache, or --calls off.") from error
    return connection


def replayed(directory: str, *, slots: int = 16) -> LM:
    """The LM behind ``replay:DIR``: the one model whose calls a run directory (or a file of calls) holds."""
    path = Path(directory) / FILE if Path(directory).is_dir() else Path(directory)
    cache = CallCache(path, "replay")
    models = cache.models()
    if len(models) != 1:
        raise ConfigError(
            f"replay:{directory} must hold the calls of one model; it has: {', '.join(models) or 'none'}."
        )
    return cache.lm(models[0], lambda: replayed(directory))


@dataclass(frozen=True, slots=True)
class CachedLM:
    """An LM whose calls are kept; without ``lm`` it only remembers."""

    name: str
    cache: CallCache
    lm: LM | None

    def complete(
        self,
        messages: Sequence[Message],
        *,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        tools: Sequence[Tool] = (),
    ) -> Completion:
        """The kept completion, or a new one."""
        offered = [[tool.name, tool.description, tool.parameters] for tool in tools]
        said = [
            [one.role, one.content, [[call.name, call.arguments] for call in one.calls], one.name] for one in messages
        ]
        call = ["lm", self.name, said, list(stop), max_tokens, temperature, seed, offered]

        def make() -> str:
            assert self.lm is not None  # when replaying, ``once`` does not come to this
            made = self.lm.complete(
                messages, stop=stop, max_tokens=max_tokens, temperature=temperature, seed=seed, tools=tools
            )
            return dumps(asdict(made))

        values = json.loads(self.cache.once(call, make))
        calls = tuple(Action(**call) for call in values["calls"])
        return Completion(**{**values, "usage": Usage(**values["usage"]), "calls": calls})

    def close(self) -> None:
        """Free what the LM holds, where it holds something."""
        close = getattr(self.lm, "close", None)
        if close is not None:
            close()


@dataclass(frozen=True, slots=True)
class CachedTool:
    """A tool whose calls are kept; a tool with a state of its own in each episode is kept by episode and call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    fingerprint: str
    stateful: bool
    cache: CallCache
    tool: Tool | None
    scope: tuple[Any, ...] = ()
    count: list[int] = field(default_factory=lambda: [0])

    def __call__(self, **arguments: Any) -> str:
        """The kept observation, or a new one; the seconds are those that it took when it was made."""
        call = ["tool", self.name, self.fingerprint, arguments, *self.scope]
        if self.scope:
            self.count[0] += 1
            call.append(self.count[0])

        def make() -> str:
            assert self.tool is not None
            started = time.perf_counter()
            said = self.tool(**arguments)
            return dumps([str(said), getattr(said, "noise", None), time.perf_counter() - started])

        text, noise, seconds = json.loads(self.cache.once(call, make))
        return Observation(text, noise=noise, seconds=seconds)

    def __getattr__(self, name: str) -> Any:
        """The queries that noise draws others from, where the tool has some."""
        if name == "sample_queries" and self.tool is not None:
            return getattr(self.tool, name)
        raise AttributeError(name)

    def for_episode(self, key: str, seed: int) -> Tool:
        """The tool of one episode: itself, unless the tool keeps a state."""
        if not self.stateful:
            return self
        own = None if self.tool is None else self.tool.for_episode(key, seed)  # type: ignore[attr-defined]
        return replace(self, tool=own, scope=(key, seed), count=[0])


def _facts(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
        "fingerprint": str(getattr(tool, "fingerprint", "")),
        "stateful": bool(getattr(tool, "stateful", hasattr(tool, "for_episode"))),
    }
