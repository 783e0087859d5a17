"""``mcp:COMMAND or URL``: the tools of any server that speaks the Model Context Protocol, as tools of an agent.

    mcp:python server.py                            a program, started once, spoken to over its stdin and stdout
    mcp:https://example.org/mcp                     a server, over streamable HTTP
    mcp:env=API_KEY,timeout=120,only=add python server.py

env=A,env=B    environment variables that the program gets besides PATH, HOME and the like; for a URL, one variable whose
               value is sent as its bearer token. Values are read from the environment and never stored or shown.
timeout=60     seconds that a call may take
only=A,only=B  tools that are taken; all of them otherwise

Invariant: one thread with one asyncio loop holds the connection, and any number of threads call through it at once. A
command is split as a shell would and never given to one. What the tool itself refuses or fails at is an observation that
begins with "Error:", for the agent to read. What is no answer of the tool (the server died, a time-out) raises ProviderError,
and is never asked again here, since it may have had an effect; the next call connects anew, once. A server that comes
back with other tools is refused: ``fingerprint`` stands for its name, its version and its tools' schemas.
This module offers no prompts, resources, sampling or elicitation.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as WaitTimeoutError
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO, TypeVar
from urllib.parse import urlsplit, urlunsplit

from fireact.errors import ConfigError, FireactError, ProviderError, missing_extra
from fireact.types import FINISH

if TYPE_CHECKING:
    from mcp import Client, MCPError
    from mcp.types import CallToolResult
    from mcp.types import Tool as Listed

T = TypeVar("T")

START_SECONDS = 60.0
"""What a server may take to start and to list its tools; a program may be fetched first."""
CALL_SECONDS = 60.0
MAX_LETTERS = 20_000
"""Letters of an observation; how many more there were is said at its end."""
_GRACE = 5.0
"""Seconds beyond a time-out in which the loop must have answered; beyond the SDK's own waits when it closes."""
_PAGES = 100
_LAST_WORDS = 200
_OPTIONS = re.compile(r"(?:(?:env|timeout|only)=[^,\s]*,)*(?:env|timeout|only)=[^,\s]*(?:\s+|$)")
_UNSAFE = re.compile(r"[^a-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is: a program (``command``) or a ``url``, and how it is called."""

    command: tuple[str, ...] = ()
    url: str = ""
    env: tuple[str, ...] = ()
    timeout: float = CALL_SECONDS
    only: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The server as messages name it, without the query of a URL, which may hold a key."""
        if self.command:
            return shlex.join(self.command)
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))

    def secrets(self) -> dict[str, str]:
        """The named environment variables. Raises ConfigError for one that is not set."""
        absent = [name for name in self.env if name not in os.environ]
        if absent:
            raise ConfigError(f"mcp:{self} needs {', '.join(absent)} in the environment. Set it, or leave env= out.")
        return {name: os.environ[name] for name in self.env}


def from_name(argument: str) -> list[MCPTool]:
    """The tools of the server behind ``[OPTIONS ]COMMAND`` or ``[OPTIONS ]URL``, which this starts.

    Raises ConfigError for a command or tools that cannot be used, ProviderError where the server does not start or answer.
    """
    return connect(parse(argument))


def connect(target: Target) -> list[MCPTool]:
    """The tools of a server, in its order; it runs until the last of them is gone, or ``close`` of one is called."""
    if find_spec("mcp") is None:
        raise missing_extra("mcp", "mcp")
    server = Server(target)
    try:
        return [
            MCPTool(
                name=name,
                description=" ".join((tool.description or tool.title or tool.name).split()),
                parameters=_schema(tool.input_schema),
                fingerprint=server.fingerprint,
                original=tool.name,
                server=server,
            )
            for name, tool in _named(server.tools, target).items()
        ]
    except BaseException:
        server.close()
        raise


def parse(argument: str) -> Target:
    """Where a server is, from ``[OPTIONS ]COMMAND or URL``. Raises ConfigError that says what is wrong."""
    match = _OPTIONS.match(argument.lstrip())
    rest = argument.lstrip()[match.end() :] if match else argument
    options = [part.split("=", 1) for part in match.group().strip().split(",")] if match else []
    given = {key: tuple(value for name, value in options if name == key) for key in ("env", "timeout", "only")}
    timeout = _seconds(given["timeout"][-1]) if given["timeout"] else CALL_SECONDS
    if re.match(r"https?://", rest.strip(), re.IGNORECASE):
        return Target(url=_url(rest.strip(), given["env"]), env=given["env"], timeout=timeout, only=given["only"])
    return Target(command=_command(rest), env=given["env"], timeout=timeout, only=given["only"])


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:  # NaN too
        raise ConfigError(f"the time-out of mcp: is {text!r}; it is a number of seconds, such as timeout=60.")
    return seconds


def _url(text: str, env: Sequence[str]) -> str:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or re.search(r"\s", text):
        raise ConfigError("mcp: was given a URL that has no host or has blanks in it. Give one as https://HOST/mcp.")
    if parts.username or parts.password:
        raise ConfigError(
            f"mcp: was given a URL of {host} with a key in it. Name a variable: mcp:env=TOKEN https://..."
        )
    if len(env) > 1:
        raise ConfigError(f"mcp: can send one variable to a URL, as its bearer token; it was given {', '.join(env)}.")
    return text


def _command(text: str) -> tuple[str, ...]:
    try:
        command = tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"mcp: cannot split the command {text!r} ({error}). Check its quotes.") from error
    if not command:
        raise ConfigError("mcp: needs a command or a URL, such as mcp:python server.py or mcp:https://HOST/mcp.")
    if re.match(r"[A-Za-z_]\w*=", command[0]):
        name = command[0].split("=", 1)[0]
        raise ConfigError(
            f"mcp: runs no shell, so {name}=... is no command. Set {name}, and give mcp:env={name} COMMAND."
        )
    if shutil.which(command[0]) is None:
        raise ConfigError(
            f"mcp: there is no program {command[0]!r}. Check its name, the PATH and that it is executable."
        )
    return command


@dataclass(frozen=True, slots=True)
class MCPTool:
    """One tool of a server; ``original`` is its name there."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    fingerprint: str
    original: str
    server: Server = field(repr=False)

    def __call__(self, **arguments: Any) -> str:
        """What the tool says. Raises ProviderError where the server gives no answer."""
        return self.server.call(self.original, _typed(arguments, self.parameters))

    def close(self) -> None:
        """End the connection, for all tools of the server."""
        self.server.close()


class Server:
    """One server and its connection, called from any thread."""

    def __init__(self, target: Target) -> None:
        """Start or reach the server and list its tools. Raises ProviderError where that fails."""
        self.target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name=f"mcp {target}", daemon=True)
        self._thread.start()
        self._sessions: list[_Session] = []  # the last one is used; a list, so that closing needs no reference to self
        self._lock = threading.Lock()
        self._closing = weakref.finalize(self, _close, self._loop, self._thread, self._sessions)  # at exit too
        try:
            session = self._connect()
        except BaseException:
            self.close()
            raise
        self.tools, self.fingerprint = session.tools, session.fingerprint

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What a tool says, as text. Raises ProviderError where it does not say anything, or not in time."""
        session = self._session()
        try:
            return self._wait(session.call(name, arguments), self.target.timeout + _GRACE)
        except _LostError as error:
            session.dead = True
            raise ProviderError(
                f"mcp:{self.target}: the server was lost during {name!r}{_words(error, session)}. The next call connects "
                "anew; run again to try what failed."
            ) from error
        except _RefusedError as error:
            raise ProviderError(f"mcp:{self.target}: the server failed at {name!r}{_words(error, session)}.") from error
        except _SlowError as error:
            raise ProviderError(
                f"mcp:{self.target}: {name!r} took longer than {self.target.timeout:g} s. Allow it more: mcp:timeout=..."
            ) from error

    def close(self) -> None:
        """End the connection; a program that does not go by itself is killed."""
        self._closing()

    def _session(self) -> _Session:
        """The connection; a new one where the last was lost, one thread at a time."""
        with self._lock:
            if not self._closing.alive:
                raise ProviderError(f"mcp:{self.target} is closed.")
            if self._sessions and not self._sessions[-1].dead:
                return self._sessions[-1]
            session = self._connect()
            if session.fingerprint != self.fingerprint:
                session.dead = True
                raise ProviderError(
                    f"mcp:{self.target} came back as another server ({session.fingerprint}; it was {self.fingerprint}). "
                    "Results would not compare: start the run anew."
                )
            return session

    def _connect(self) -> _Session:
        secrets = self.target.secrets()
        for lost in list(self._sessions):
            self._wait(lost.end(), START_SECONDS) if self.target.command else self._later(lost.retire())
        self._sessions.clear()
        session = _Session(self.target, secrets)
        self._sessions.append(session)
        try:
            self._wait(session.start(), START_SECONDS + _GRACE)
        except FireactError:
            raise
        except Exception as error:
            session.dead = True
            raise ProviderError(
                f"mcp:{self.target} cannot be reached{_words(error, session)}. Check that it runs and speaks MCP."
            ) from error
        return session

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """The result of work that the loop does; the work is given up when it takes longer."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds)
        except WaitTimeoutError as error:
            future.cancel()
            raise _SlowError from error


class _LostError(Exception):
    """The connection is gone."""


class _RefusedError(Exception):
    """The server answered that it cannot answer; the connection stands."""


class _SlowError(Exception):
    """No answer in time."""


class _Session:
    """One connection, from its handshake to its end; all but its construction happens in the loop's thread."""

    def __init__(self, target: Target, secrets: Mapping[str, str]) -> None:
        self.dead = False
        self.tools: Sequence[Listed] = ()
        self.fingerprint = ""
        self._target, self._secrets = target, secrets
        self._errors: TextIO = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._stop = asyncio.Event()
        self._held: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._calls = 0

    async def start(self) -> None:
        """Connect, and read what the server is. A connection must end in the task it began in: ``_hold``."""
        opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._held = asyncio.create_task(self._hold(opened))
        try:
            async with asyncio.timeout(START_SECONDS):
                self._client = await asyncio.shield(opened)
                self.tools = await _listed(self._client)
        except BaseException as error:
            opened.cancel()
            self._held.cancel()
            await asyncio.wait([self._held])
            if isinstance(error, TimeoutError):
                raise _SlowError(f"no answer within {START_SECONDS:g} s") from error
            raise
        info = self._client.server_info
        self.fingerprint = _fingerprint(info.name if info else "", info.version if info else "", self.tools)

    async def _hold(self, opened: asyncio.Future[Client]) -> None:
        from mcp import Client

        try:
            async with AsyncExitStack() as stack:
                transport = await self._transport(stack)
                client = await stack.enter_async_context(Client(transport, mode="auto", cache=None))
                opened.set_result(client)
                await self._stop.wait()
        except Exception as error:
            if not opened.done():
                opened.set_exception(_leaf(error))
        finally:
            self.dead = True

    async def _transport(self, stack: AsyncExitStack) -> Any:
        from mcp.client.stdio import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        if self._target.command:
            command, *arguments = self._target.command
            program = StdioServerParameters(command=command, args=arguments, env=dict(self._secrets))
            return stdio_client(program, errlog=self._errors)
        import httpx2

        token = next(iter(self._secrets.values()), None)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        seconds = httpx2.Timeout(START_SECONDS, read=self._target.timeout + _GRACE)
        client = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=seconds))
        return streamable_http_client(self._target.url, http_client=client)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What a tool says. Raises _LostError, _RefusedError or _SlowError where it says nothing."""
        from mcp import MCPError

        if self._client is None or self.dead:
            raise _LostError("it has ended")
        self._calls += 1
        try:
            seconds = self._target.timeout
            result = await self._client.call_tool(name, dict(arguments), read_timeout_seconds=seconds)
        except MCPError as error:
            return _refusal(error, over_http=bool(self._target.url))
        except Exception as error:  # whatever the connection raises when it breaks
            raise _LostError(str(_leaf(error))) from error
        finally:
            self._calls -= 1
        return _cut(_text(result))

    async def end(self) -> None:
        """Close the connection; the SDK ends the program, and kills it where it does not go."""
        self._stop.set()
        if self._held is not None:
            await asyncio.wait([self._held])
        self._errors.close()

    async def retire(self) -> None:
        """Close the connection once the calls that it still has are answered: over HTTP one may fail and others not."""
        while self._calls:
            await asyncio.sleep(0.05)
        await self.end()

    def last_words(self) -> str:
        """The end of what the program wrote on stderr, with the values of the variables that it was given taken out."""
        if self._errors.closed:
            return ""
        size = os.fstat(self._errors.fileno()).st_size
        start = max(0, size - 20 * _LAST_WORDS)
        text = os.pread(self._errors.fileno(), size - start, start).decode(errors="replace")
        for value in filter(None, self._secrets.values()):
            text = text.replace(value, "***")
        return " ".join(text.split())[-_LAST_WORDS:]


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _close(loop: asyncio.AbstractEventLoop, thread: threading.Thread, sessions: Sequence[_Session]) -> None:
    async def end() -> None:
        try:
            for session in sessions:
                await session.end()
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
    if threading.current_thread() is not thread:  # the garbage collector may call from there
        thread.join(4 * _GRACE)


async def _listed(client: Client) -> list[Listed]:
    tools: list[Listed] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools


def _named(tools: Sequence[Listed], target: Target) -> dict[str, Listed]:
    """The tools by names that an action's text form can carry. Raises ConfigError where two would have the same."""
    absent = sorted(set(target.only) - {tool.name for tool in tools})
    if absent or not tools:
        has = ", ".join(tool.name for tool in tools) or "none"
        raise ConfigError(f"mcp:{target} has no tool {', '.join(absent) or 'at all'}. Its tools: {has}.")
    named: dict[str, Listed] = {}
    for tool in tools:
        if target.only and tool.name not in target.only:
            continue
        name = safe_name(tool.name)
        if name in named or name == FINISH:
            taken = repr(named[name].name) if name in named else "the action that ends an episode"
            raise ConfigError(
                f"mcp:{target}: the tool {tool.name!r} would be called {name!r}, as {taken} is. Choose the tools that "
                "you need: mcp:only=NAME,only=NAME ..."
            )
        named[name] = tool
    return named


def safe_name(name: str) -> str:
    """A tool's name as actions are written: lower-case letters, digits, "_" and "-", and a letter or "_" first."""
    safe = _UNSAFE.sub("_", name.lower())[:64]
    return safe if re.match(r"[a-z_]", safe) else f"_{safe}"[:64]


def _schema(given: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's JSON schema with the two parts that are read here in their shapes, whatever the server sent."""
    properties, required = given.get("properties"), given.get("required")
    known = {str(name): schema for name, schema in properties.items()} if isinstance(properties, Mapping) else {}
    needed = [name for name in required if name in known] if isinstance(required, Sequence) else []
    return {**given, "type": "object", "properties": known, "required": needed}


def _typed(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, with text that stands for a value of another kind (``square[4]``) read as JSON."""
    properties = parameters.get("properties", {})
    return {name: _value(value, properties.get(name)) for name, value in arguments.items()}


def _value(value: Any, schema: Any) -> Any:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if not isinstance(value, str) or kind not in ("integer", "number", "boolean", "array", "object"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # the server says what is wrong with it


def _text(result: CallToolResult) -> str:
    """A result as an observation: its texts, and what else there is by name in brackets."""
    parts = [_block(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = "\n".join(parts).strip() or "(no output)"
    return f"Error: {text}" if result.is_error and not text.startswith("Error:") else text


def _refusal(error: MCPError, *, over_http: bool) -> str:
    """Wrong arguments as an observation; raises what other refusals mean."""
    from mcp.types import CONNECTION_CLOSED, INVALID_PARAMS, INVALID_REQUEST, REQUEST_TIMEOUT

    if error.code == INVALID_PARAMS:
        return _cut(f"Error: {error.message}")
    if error.code == REQUEST_TIMEOUT:
        raise _SlowError(error.message) from error
    lost = error.code == CONNECTION_CLOSED or (over_http and error.code == INVALID_REQUEST)  # a session that expired
    raise (_LostError if lost else _RefusedError)(error.message) from error


def _block(block: Any) -> str:
    if block.type == "text":
        return str(block.text)
    if block.type == "resource_link":
        return f"[resource {block.uri}]"
    if block.type != "resource":
        return f"[{block.type} {block.mime_type}]"
    text = getattr(block.resource, "text", None)
    return f"[resource {block.resource.uri}]" if text is None else str(text)


def _cut(text: str) -> str:
    more = len(text) - MAX_LETTERS
    return text if more <= 0 else f"{text[:MAX_LETTERS]} [... {more} letters more]"


def _fingerprint(name: str, version: str, tools: Sequence[Listed]) -> str:
    """The server's name and version, and a hash of its tools' names, descriptions and schemas in any order."""
    facts = sorted(json.dumps([tool.name, tool.description, tool.input_schema], sort_keys=True) for tool in tools)
    digest = hashlib.sha256(json.dumps([MAX_LETTERS, facts]).encode()).hexdigest()[:16]
    return f"mcp:{name or 'unnamed'}-{version or '?'}:{digest}"


def _leaf(error: BaseException) -> BaseException:
    """The first cause inside a group of exceptions."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _words(error: Exception, session: _Session) -> str:
    """What is known of a fault, in brackets."""
    own = str(error) or type(error).__name__
    last = session.last_words()
    return f" ({own}; it wrote last: {last})" if last else f" ({own})"
