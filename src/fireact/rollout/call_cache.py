"""Every LM and tool call by its content, in one SQLite file: recorded once, replayed for ever.

    record    a call that is in the file is answered from it; any other is made, then stored
    replay    no call is made: neither the LM nor the tools are built, and a call that is not stored is an error
    off       every call is made, none is stored

Invariant: a call is identified by all that its answer depends on (the model's or tool's name and fingerprint, the
messages or arguments, every option). Its answer comes back exactly, with its usage and seconds, so a replayed run
gives the same trajectories byte for byte. Stored calls survive a kill. The cache is safe under threads and several
processes: threads that make the same call at a time make it once. Failed calls are not stored, nor are API keys. Room
is reserved on the disk, so that the answers of all calls under way are stored when it is full; then no call is made.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from fireact.base.field_types import check_field_types
from fireact.base.jsonl import dumps, encode_text, loads
from fireact.base.redact import hide_secrets
from fireact.errors import ConfigError, DiskError, unknown_name_error, unwritable_file_error
from fireact.tools.wrapper import ToolWrapper, make_episode_tool
from fireact.types import LM, Action, Call, Completion, Observation, Tool, Usage

T = TypeVar("T")
Mode = Literal["record", "replay", "off"]
MODES: tuple[Mode, ...] = ("record", "replay", "off")
FILE = "calls.sqlite"
"""The name of the file in a run directory."""

_RESERVE_BYTES = 1 << 20
"""Room on the disk for the answers of the calls under way, some kilobytes each."""
_STORED_FIELDS = tuple(field.name for field in fields(Completion) if field.name != "logprobs")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (key BLOB PRIMARY KEY, kind TEXT NOT NULL, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (kind TEXT, spec TEXT, facts TEXT NOT NULL, PRIMARY KEY (kind, spec));
"""


class CallCache:
    """The calls of one file. Raises ConfigError for an unknown mode, DataError for a file that is no call cache."""

    def __init__(self, path: Path, mode: str = "record") -> None:
        if mode not in MODES:
            raise unknown_name_error("mode of calls", mode, MODES)
        if mode == "replay" and not path.is_file():
            raise ConfigError(f"nothing is recorded in {path}. Run once with calls recorded, or give another --cache.")
        self.path, self.mode = path, mode
        self._lock = threading.Lock()
        self._flights: dict[bytes, list[Any]] = {}
        self._connection: sqlite3.Connection | None = None
        self._reserve = path.with_name(f"{path.name}.reserve")
        self._failure: DiskError | None = None
        self._unwritten_facts: list[tuple[str, str, str]] = []

    def wrap_lm(self, spec: str, load: Callable[[], LM]) -> LM:
        """The LM that ``load`` builds, with its calls stored; in replay mode an LM that only reads stored calls."""
        if self.mode == "off":
            return load()
        if self.mode == "replay":
            return CachedLM(name=str(self.read_facts("lm", spec)), cache=self, lm=None)
        lm = load()
        self._note_facts("lm", spec, lm.name)
        return CachedLM(name=lm.name, cache=self, lm=lm)

    def wrap_tools(self, spec: str, load: Callable[[], Sequence[Tool]]) -> list[Tool]:
        """The tools that ``load`` builds, with their calls stored; in replay mode they only read stored calls."""
        if self.mode == "off":
            return list(load())
        if self.mode == "replay":
            return [CachedTool(RecordedTool(**facts), self) for facts in self.read_facts("tools", spec)]
        tools = [CachedTool(tool, self) for tool in load()]
        self._note_facts("tools", spec, [asdict(RecordedTool.of(tool)) for tool in tools])
        return list(tools)

    def model_specs(self) -> list[str]:
        """The specs of the models whose calls the file holds."""
        return [str(row[0]) for row in self._execute("SELECT spec FROM parts WHERE kind = 'lm' ORDER BY spec")]

    def total_usage(self) -> Usage:
        """The usage of all LM calls in the file together."""
        if self.mode == "off" or not self.path.is_file():
            return Usage()
        answer_rows = self._execute("SELECT answer FROM calls WHERE kind = 'lm'")
        usages = (self.parse_answer(row[0], lambda values: _build_usage(values["usage"])) for row in answer_rows)
        return sum(usages, Usage())

    def parse_answer(self, answer: str, build: Callable[[Any], T]) -> T:
        """What ``build`` makes of a stored answer. Raises DiskError where the answer is damaged."""
        try:
            return build(loads(answer))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _database_error(self.path, error) from error

    def get_or_make(self, call: Sequence[Any], make: Callable[[], str]) -> str:
        """The stored answer of a call, or what ``make`` returns, which is then stored."""
        key = hashlib.sha256(dumps(call).encode("utf-8", "surrogatepass")).digest()
        answer = self._read_or_make(key, str(call[0]), lambda: encode_text(hide_secrets(make())).decode())
        if answer is None:
            raise ConfigError(
                f"{self.path} holds no answer of {call[1]} to this call, so it cannot be replayed. "
                "The settings, prompts or questions differ from the recorded run's."
            )
        return answer

    def _read_or_make(self, key: bytes, kind: str, make: Callable[[], str]) -> str | None:
        """The stored answer, or a new one, which is then stored; None where it cannot be replayed."""
        answer = self.read_answer(key)
        if answer is not None or self.mode == "replay":
            return answer
        with self._hold_key(key):
            answer = self.read_answer(key)  # another thread may have made the call meanwhile
            if answer is None:
                self.require_room()
                answer = make()
                self.store_answer(key, kind, answer)
            return answer

    def require_room(self) -> None:
        """Raise DiskError where an answer could not be stored: nothing is paid for that cannot be kept."""
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _hold_key(self, key: bytes) -> Iterator[None]:
        """Hold the lock of this key, so that one thread at a time makes the call; unused locks are dropped."""
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

    def read_answer(self, key: bytes) -> str | None:
        """The stored answer of the call with this key."""
        rows = self._execute("SELECT answer FROM calls WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def store_answer(self, key: bytes, kind: str, answer: str) -> None:
        """Store the answer of a call; the first that finds the disk full uses the reserve, and ends the run."""
        statement, values = "INSERT OR IGNORE INTO calls VALUES (?, ?, ?)", (key, kind, answer)
        try:
            self._execute(statement, values)
        except DiskError as error:
            self._failure = self._failure or error
            self._reserve.unlink(missing_ok=True)
            with suppress(DiskError):  # lost where even the reserve is used up
                self._execute(statement, values)
        if self._failure is not None:
            raise self._failure

    def _note_facts(self, kind: str, spec: str, facts: Any) -> None:
        """Remember the facts of a spec; the first call writes them, so that building an agent creates no file."""
        self._unwritten_facts.append((kind, spec, encode_text(hide_secrets(dumps(facts))).decode()))

    def read_facts(self, kind: str, spec: str) -> Any:
        """The facts of a model or of tools, which replay needs. Raises ConfigError where none are stored."""
        rows = self._execute("SELECT facts FROM parts WHERE kind = ? AND spec = ?", (kind, spec))
        if not rows:
            known_specs = [str(row[0]) for row in self._execute("SELECT spec FROM parts WHERE kind = ?", (kind,))]
            kind_name = "model" if kind == "lm" else "tool"
            raise ConfigError(
                f"{self.path} holds no calls of the {kind_name} {spec!r}. It has: {', '.join(known_specs) or 'none'}."
            )
        return self.parse_answer(rows[0][0], lambda facts: facts)

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                return self._connection.execute(statement, values).fetchall()
            except (sqlite3.Error, OSError) as error:
                raise _database_error(self.path, error) from error

    def _open(self) -> sqlite3.Connection:
        connection = _open_database(self.path)
        weakref.finalize(self, connection.close)
        connection.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", self._unwritten_facts)
        if self.mode == "record":
            self._reserve.write_bytes(bytes(_RESERVE_BYTES))
            weakref.finalize(self, self._reserve.unlink, missing_ok=True)
        return connection


def _database_error(path: Path, error: Exception) -> DiskError:
    """The error of a file of calls that is damaged, or that the disk refuses."""
    if isinstance(error, OSError):
        return unwritable_file_error(path, error)
    if isinstance(error, sqlite3.OperationalError) and "decode" not in str(error):
        advice = "Make room or change its permissions, and run again: what is finished is kept."
    else:
        advice = "The file is damaged. Move it away, and its calls are made anew."
    return DiskError(f"cannot keep calls in {path}: {error}. {advice} Or give another --cache, or --calls off.")


def _open_database(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a kill loses nothing; a power cut the last moments
        connection.executescript(_SCHEMA)
    except (sqlite3.Error, OSError) as error:
        raise _database_error(path, error) from error
    return connection


def merge_call_files(sources: Sequence[Path], target: Path) -> None:
    """Copy the calls of some files into another, where each stands once. Raises DiskError."""
    connection = _open_database(target)
    try:
        for source in sources:
            connection.execute("ATTACH ? AS source", (str(source),))
            connection.execute("INSERT OR IGNORE INTO calls SELECT * FROM source.calls")
            connection.execute("INSERT OR IGNORE INTO parts SELECT * FROM source.parts")
            connection.execute("DETACH source")
    except sqlite3.Error as error:
        raise _database_error(target, error) from error
    finally:
        connection.close()


def load_replayed_lm(directory: str, *, slots: int = 16) -> LM:
    """The LM behind ``replay:DIR``: the one model whose calls are in a run directory (or a file of calls)."""
    path = Path(directory) / FILE if Path(directory).is_dir() else Path(directory)
    cache = CallCache(path, "replay")
    model_specs = cache.model_specs()
    if len(model_specs) != 1:
        raise ConfigError(
            f"replay:{directory} must hold the calls of one model; it has: {', '.join(model_specs) or 'none'}."
        )
    return cache.wrap_lm(model_specs[0], lambda: load_replayed_lm(directory))


@dataclass(frozen=True, slots=True)
class CachedLM:
    """An LM whose calls are stored; without ``lm`` it only reads stored calls."""

    name: str
    cache: CallCache
    lm: LM | None

    def complete(self, call: Call) -> Completion:
        """The stored completion, or a new one."""
        offered = [[tool.name, tool.description, tool.parameters] for tool in call.tools]
        sent_messages = [
            [
                message.role,
                message.content,
                [[action.name, action.arguments] for action in message.calls],
                message.name,
                *([message.extra] if message.extra else []),
            ]
            for message in call.messages
        ]
        temperature = 0.0 if call.temperature is None else call.temperature
        identity = ["lm", self.name, sent_messages, list(call.stop), call.max_tokens, temperature, call.seed, offered]
        if call.top_p is not None:  # calls that were stored before keep their identity
            identity.append(call.top_p)

        def make() -> str:
            assert self.lm is not None  # in replay mode ``get_or_make`` never calls this
            completion = self.lm.complete(call)
            values = {name: getattr(completion, name) for name in _STORED_FIELDS}
            calls = [asdict(action) for action in completion.calls]
            return dumps({**values, "usage": asdict(completion.usage), "calls": calls})

        return self.cache.parse_answer(self.cache.get_or_make(identity, make), _build_completion)

    def close(self) -> None:
        """Free what the LM holds, if it can be closed."""
        close = getattr(self.lm, "close", None)
        if close is not None:
            close()


def _build_usage(values: Mapping[str, Any]) -> Usage:
    usage = Usage(**values)
    check_field_types(usage)  # others add it up
    return usage


def _build_completion(values: Mapping[str, Any]) -> Completion:
    calls = tuple(Action(**action) for action in values["calls"])
    return Completion(**{**values, "text": str(values["text"]), "usage": _build_usage(values["usage"]), "calls": calls})


def _build_observation(values: Sequence[Any]) -> Observation:
    text, noise, seconds = values
    return Observation(str(text), noise=None if noise is None else str(noise), seconds=float(seconds))


@dataclass(frozen=True, slots=True)
class RecordedTool:
    """The facts of a tool whose calls are stored: what replay knows of it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    fingerprint: str
    stateful: bool

    @classmethod
    def of(cls, tool: ToolWrapper) -> RecordedTool:
        """The facts of a tool."""
        return cls(tool.name, tool.description, dict(tool.parameters), tool.fingerprint, tool.stateful)

    def __call__(self, **arguments: Any) -> str:
        raise AssertionError("in replay mode no tool is called")


class CachedTool(ToolWrapper):
    """A tool whose calls are stored. Those of a tool with state are stored by episode and number of the call."""

    def __init__(self, tool: Tool, cache: CallCache) -> None:
        super().__init__(tool)
        self._cache, self._scope, self._count = cache, list[Any](), 0
        self._identity = [self.name, self.fingerprint]  # also of the tools that it makes for episodes

    def __call__(self, **arguments: Any) -> str:
        """The stored observation, or a new one; the seconds are those of the original call."""
        self._count += 1
        call = ["tool", *self._identity, arguments, *self._scope, *([self._count] if self._scope else [])]

        def make() -> str:
            started = time.perf_counter()
            observation = self.tool(**arguments)
            return dumps([str(observation), getattr(observation, "noise", None), time.perf_counter() - started])

        return self._cache.parse_answer(self._cache.get_or_make(call, make), _build_observation)

    def for_episode(self, key: str, seed: int) -> Tool:
        """The tool of one episode: itself, unless the tool has state."""
        if not self.stateful:
            return self
        episode_tool = self.wrap_again(make_episode_tool(self.tool, key, seed))
        episode_tool._scope, episode_tool._count = [key, seed], 0
        return episode_tool
