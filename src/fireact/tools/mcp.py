"""``mcp:COMMAND or URL``: the tools of any server that speaks the Model Context Protocol, as tools of an agent.

    mcp:python server.py                            a program, started once, spoken to over its stdin and stdout
    mcp:https://example.org/mcp                     a server, over streamable HTTP
    mcp:env=API_KEY,timeout=120,only=add python server.py

env=A,env=B    environment variables for the program, besides PATH, HOME and the like; for a URL, one variable whose
               value is sent as the bearer token. Values are read from the environment and never stored or shown.
timeout=60     seconds that a call may take
only=A,only=B  the tools to use; without it, all of them

Invariant: one thread with one asyncio loop holds the connection, and any number of threads may call through it at once.
A command is split as a shell would, and no shell runs it. An error that the tool reports is an observation that begins
with "Error:", for the agent to read. A call without an answer (a dead server, a time-out) raises ProviderError. It is
not repeated, since it may have had an effect; the next call connects again, once. A server that comes back with other
tools is refused: ``fingerprint`` covers its name, its version and its tools' schemas. This module offers no prompts,
resources, sampling or elicitation.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
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
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import ValidationError

from fireact.base.controls import strip_controls
from fireact.base.redact import excerpt, guard_secret, hide_secrets, is_secret_name
from fireact.errors import ConfigError, FireactError, ProviderError, missing_extra_error
from fireact.types import FINISH
from fireact.wire.fields import parse_json

if TYPE_CHECKING:
    from mcp import Client, MCPError
    from mcp.types import CallToolResult
    from mcp.types import Tool as ServerTool

T = TypeVar("T")
_LOGGER = logging.getLogger("fireact")

START_SECONDS = 60.0
"""Seconds that a server may take to start and list its tools; it may have to download its program first."""
CALL_SECONDS = 60.0
MAX_CHARS = 20_000
"""Longest observation in characters; a cut one ends with the number of characters left out."""
_GRACE = 5.0
"""Seconds that the loop may take beyond a call's time-out, and beyond the SDK's own waits when it closes."""
_MIN_KEY = 16
"""Characters of a value in a URL that counts as a key."""
_PAGES = 100
_DESCRIPTION_CHARS = 2_000
_SCHEMA_CHARS = 50_000
"""Bounds of what stands in every prompt; a longer description is cut, a longer schema refused."""
_POLL_SECONDS = 0.2
_STDERR_CHARS = 200
_OPTIONS = re.compile(r"(?:(?:env|timeout|only)=[^,\s]*,)*(?:env|timeout|only)=[^,\s]*(?:\s+|$)")
_UNSAFE = re.compile(r"[^a-z0-9_-]")


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """A server, either a program (``command``) or a ``url``, and the options of its calls."""

    command: tuple[str, ...] = ()
    url: str = ""
    env: tuple[str, ...] = ()
    timeout: float = CALL_SECONDS
    only: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The server's name in messages, without a URL's query, which may hold a key."""
        if self.command:
            return shlex.join(self.command)
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))

    def read_secrets(self) -> dict[str, str]:
        """The named environment variables. Raises ConfigError for one that is not set."""
        absent = [name for name in self.env if name not in os.environ]
        if absent:
            raise ConfigError(f"mcp:{self} needs {', '.join(absent)} in the environment. Set it, or leave env= out.")
        return {name: guard_secret(os.environ[name]) for name in self.env}


def from_name(argument: str) -> list[MCPTool]:
    """Start the server of ``[OPTIONS ]COMMAND`` or ``[OPTIONS ]URL``, and return its tools.

    Raises ConfigError for a command or tools that cannot be used, ProviderError where the server does not start or
    answer.
    """
    return connect_server(parse_target(argument))


def connect_server(target: ServerTarget) -> list[MCPTool]:
    """The tools of a server, in its order; the server runs until the last tool is gone or one is closed."""
    if find_spec("mcp") is None:
        raise missing_extra_error("mcp", "mcp")
    server = MCPServer(target)
    try:
        return [
            MCPTool(
                name=name,
                description=_bound_text(tool.description or tool.title or tool.name, f"mcp:{target}: {tool.name}"),
                parameters=_bound_schema(_normalize_schema(tool.input_schema), f"mcp:{target}: {tool.name}"),
                fingerprint=server.fingerprint,
                original=tool.name,
                server=server,
            )
            for name, tool in _name_tools(server.tools, target).items()
        ]
    except BaseException:
        server.close()
        raise


def parse_target(argument: str) -> ServerTarget:
    """Read ``[OPTIONS ]COMMAND or URL``. Raises ConfigError that names the mistake."""
    match = _OPTIONS.match(argument.lstrip())
    server_text = argument.lstrip()[match.end() :] if match else argument
    options = [option.split("=", 1) for option in match.group().strip().split(",")] if match else []
    settings = {key: tuple(value for name, value in options if name == key) for key in ("env", "timeout", "only")}
    timeout = _parse_timeout(settings["timeout"][-1]) if settings["timeout"] else CALL_SECONDS
    if re.match(r"https?://", server_text.strip(), re.IGNORECASE):
        return ServerTarget(
            url=_check_url(server_text.strip(), settings["env"]),
            env=settings["env"],
            timeout=timeout,
            only=settings["only"],
        )
    return ServerTarget(
        command=_parse_command(server_text), env=settings["env"], timeout=timeout, only=settings["only"]
    )


def _parse_timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:  # NaN too
        raise ConfigError(f"the time-out of mcp: is {text!r}; it is a number of seconds, such as timeout=60.")
    return seconds


def _check_url(text: str, env: Sequence[str]) -> str:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or re.search(r"\s", text):
        raise ConfigError("mcp: was given a URL that has no host or has blanks in it. Give one as https://HOST/mcp.")
    values = parse_qsl(parts.query)
    if parts.username or parts.password or any(is_secret_name(name) for name, _ in values):
        raise ConfigError(
            f"mcp: was given a URL of {host} with a key in it. Name a variable: mcp:env=TOKEN https://..."
        )
    for _, value in values:  # a key by another name; a shorter value is a word, such as the name of a profile
        if len(value) >= _MIN_KEY:
            guard_secret(value)
    if len(env) > 1:
        raise ConfigError(f"mcp: can send one variable to a URL, as its bearer token; it was given {', '.join(env)}.")
    return text


def _parse_command(text: str) -> tuple[str, ...]:
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
    """One tool of a server; ``original`` is its name on the server."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    fingerprint: str
    original: str
    server: MCPServer = field(repr=False)

    def __call__(self, **arguments: Any) -> str:
        """Call the tool. Raises ProviderError where the server gives no answer."""
        return self.server.call(self.original, _parse_arguments(arguments, self.parameters))

    def close(self) -> None:
        """Close the connection, for all tools of the server."""
        self.server.close()


class MCPServer:
    """One server and its connection, called from any thread."""

    def __init__(self, target: ServerTarget) -> None:
        """Start or reach the server and list its tools. Raises ProviderError where that fails."""
        self.target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run_loop, args=(self._loop,), name=f"mcp {target}", daemon=True)
        self._thread.start()
        self._sessions: list[_Session] = []  # the last one is used; a list, so that closing needs no reference to self
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(
            self, _close_sessions, self._loop, self._thread, self._sessions
        )  # at exit too
        try:
            session = self._connect()
        except BaseException:
            self.close()
            raise
        self.tools, self.fingerprint = session.tools, session.fingerprint

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool and return its result as text. Raises ProviderError for no answer, or none in time."""
        session = self._open_session()
        try:
            return self._run_in_loop(session.call(name, arguments), self.target.timeout + _GRACE)
        except _LostError as error:
            session.dead = True
            raise ProviderError(
                f"mcp:{self.target}: the server was lost during {name!r}{_describe_fault(error, session)}. "
                "The next call connects anew; run again to try what failed."
            ) from error
        except _RefusedError as error:
            raise ProviderError(
                f"mcp:{self.target}: the server failed at {name!r}{_describe_fault(error, session)}."
            ) from error
        except _SlowError as error:
            raise ProviderError(
                f"mcp:{self.target}: {name!r} took longer than {self.target.timeout:g} s. "
                "Allow it more: mcp:timeout=..."
            ) from error

    def close(self) -> None:
        """Close the connection; a program that does not exit by itself is killed."""
        self._finalizer()

    def _open_session(self) -> _Session:
        """The open connection, or a new one where the last was lost; one thread at a time."""
        with self._lock:
            if not self._finalizer.alive:
                raise ProviderError(f"mcp:{self.target} is closed.")
            if self._sessions and not self._sessions[-1].dead:
                return self._sessions[-1]
            session = self._connect()
            if session.fingerprint != self.fingerprint:
                session.dead = True
                raise ProviderError(
                    f"mcp:{self.target} came back as another server ({session.fingerprint}; "
                    f"it was {self.fingerprint}). Results would not compare: start the run anew."
                )
            return session

    def _connect(self) -> _Session:
        secrets = self.target.read_secrets()
        for old_session in list(self._sessions):
            self._run_in_loop(old_session.end(), START_SECONDS) if self.target.command else self._schedule(
                old_session.retire()
            )
        self._sessions.clear()
        session = _Session(self.target, secrets)
        self._sessions.append(session)
        try:
            self._run_in_loop(session.start(), START_SECONDS + _GRACE)
        except FireactError:
            raise
        except Exception as error:
            session.dead = True
            raise ProviderError(
                f"mcp:{self.target} cannot be reached{_describe_fault(error, session)}. "
                "Check that it runs and speaks MCP."
            ) from error
        return session

    def _schedule(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run_in_loop(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Run a coroutine in the loop and return its result; it is cancelled when it takes longer than ``seconds``."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds)
        except WaitTimeoutError as error:
            future.cancel()
            raise _SlowError from error


class _LostError(Exception):
    """The connection is gone."""


class _RefusedError(Exception):
    """The server answered with an error; the connection is still open."""


class _SlowError(Exception):
    """No answer in time."""


class _Session:
    """One connection, from its handshake to its end; all but its construction happens in the loop's thread."""

    def __init__(self, target: ServerTarget, secrets: Mapping[str, str]) -> None:
        self.dead = self._has_other_text = False
        self.tools: Sequence[ServerTool] = ()
        self.fingerprint = ""
        self._target, self._secrets = target, secrets
        self._errors: TextIO = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._calls = self._unreadable = 0  # open calls, and answers to them that cannot be read

    async def start(self) -> None:
        """Connect, and list the server's tools. ``_hold_open`` opens and closes, as both must be in one task."""
        opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold_open(opened))
        try:
            async with asyncio.timeout(START_SECONDS):
                self._client = await asyncio.shield(opened)
                self.tools = await _list_tools(self._client, self._target)
        except BaseException as error:
            opened.cancel()
            self._task.cancel()
            await asyncio.wait([self._task])
            if isinstance(error, TimeoutError):
                raise _SlowError(f"no answer within {START_SECONDS:g} s") from error
            raise
        info = self._client.server_info
        self.fingerprint = _compute_fingerprint(info.name if info else "", info.version if info else "", self.tools)

    async def _hold_open(self, opened: asyncio.Future[Client]) -> None:
        from mcp import Client

        try:
            async with AsyncExitStack() as stack:
                transport = await self._transport(stack)
                client = await stack.enter_async_context(
                    Client(transport, mode="auto", cache=None, message_handler=self._note_message)
                )
                opened.set_result(client)
                await self._stop.wait()
        except Exception as error:
            if not opened.done():
                opened.set_exception(_first_cause(error))
        finally:
            self.dead = True

    async def _transport(self, stack: AsyncExitStack) -> Any:
        from mcp.client.stdio import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        if self._target.command:
            command, *arguments = self._target.command
            program = StdioServerParameters(
                command=command, args=arguments, env=dict(self._secrets), encoding_error_handler="replace"
            )
            logging.getLogger("mcp.client.stdio").addFilter(_is_worth_logging)
            return stdio_client(program, errlog=self._errors)
        import httpx2

        token = next(iter(self._secrets.values()), None)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        seconds = httpx2.Timeout(START_SECONDS, read=self._target.timeout + _GRACE)
        client = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=seconds))
        return streamable_http_client(self._target.url, http_client=client)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool. Raises _LostError, _RefusedError or _SlowError where it gives no answer."""
        from mcp import MCPError

        if self._client is None or self.dead:
            raise _LostError("it has ended")
        self._calls += 1
        try:
            seconds = self._target.timeout
            result = await self._await_answer(
                self._client.call_tool(name, dict(arguments), read_timeout_seconds=seconds)
            )
        except MCPError as error:
            return _handle_refusal(error, over_http=bool(self._target.url))
        except (ValueError, _RefusedError) as error:  # an answer that is no message of the protocol
            raise _RefusedError(_describe_invalid(error)) from error
        except Exception as error:  # whatever the connection raises when it breaks
            raise _LostError(str(_first_cause(error))) from error
        finally:
            self._calls -= 1
        return hide_secrets(_truncate(_result_text(result)))

    async def _await_answer(self, answer: Coroutine[Any, Any, T]) -> T:
        """The answer, or _RefusedError once as many answers cannot be read as calls are open."""
        task = asyncio.create_task(answer)
        try:
            while not (await asyncio.wait([task], timeout=_POLL_SECONDS))[0]:
                if 0 < self._calls <= self._unreadable:
                    self._unreadable -= 1
                    raise _RefusedError("its answer cannot be read as JSON")
            return await task
        finally:
            task.cancel()

    async def _note_message(self, message: Any) -> None:
        """Note what came in place of a message: an answer that cannot be read, or other text, which is said once."""
        if not isinstance(message, Exception):
            return
        errors = message.errors() if isinstance(message, ValidationError) else []
        text = str(errors[0].get("input", "")) if errors else str(message)
        if text.lstrip().startswith("{") and '"jsonrpc"' in text:
            self._unreadable += 1
        elif not self._has_other_text:
            self._has_other_text = True
            _LOGGER.warning(
                "mcp:%s writes other text than messages to its stdout, which is ignored, such as: %s",
                self._target, excerpt(strip_controls(text), 100),
            )  # fmt: skip

    async def end(self) -> None:
        """Close the connection; the SDK ends the program, and kills it where it does not exit."""
        self._stop.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._errors.close()

    async def retire(self) -> None:
        """Close the connection once its open calls are answered: over HTTP, one may fail while others succeed."""
        while self._calls:
            await asyncio.sleep(0.05)
        await self.end()

    def stderr_tail(self) -> str:
        """The end of the program's stderr, with the values of its environment variables redacted."""
        if self._errors.closed:
            return ""
        size = os.fstat(self._errors.fileno()).st_size
        start = max(0, size - 20 * _STDERR_CHARS)
        text = os.pread(self._errors.fileno(), size - start, start).decode(errors="replace")
        for value in filter(None, self._secrets.values()):
            text = text.replace(value, "***")
        return " ".join(hide_secrets(strip_controls(text)).split())[-_STDERR_CHARS:]


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _close_sessions(loop: asyncio.AbstractEventLoop, thread: threading.Thread, sessions: Sequence[_Session]) -> None:
    async def end_sessions() -> None:
        try:
            for session in sessions:
                await session.end()
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(end_sessions(), loop)
    if threading.current_thread() is not thread:  # the garbage collector may call from there
        thread.join(4 * _GRACE)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Whether the SDK's record is shown; text that is no message is said by us, in one line."""
    return "Failed to parse" not in str(record.msg)


async def _list_tools(client: Client, target: ServerTarget) -> list[ServerTool]:
    tools: list[ServerTool] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools
    _LOGGER.warning("mcp:%s lists more than %d pages of tools; the first %d tools are used", target, _PAGES, len(tools))
    return tools


def _name_tools(tools: Sequence[ServerTool], target: ServerTarget) -> dict[str, ServerTool]:
    """The tools by names that can be written in a text action. Raises ConfigError for two equal names."""
    absent = sorted(set(target.only) - {tool.name for tool in tools})
    if absent or not tools:
        has = ", ".join(tool.name for tool in tools) or "none"
        raise ConfigError(f"mcp:{target} has no tool {', '.join(absent) or 'at all'}. Its tools: {has}.")
    tools_by_name: dict[str, ServerTool] = {}
    for tool in tools:
        if target.only and tool.name not in target.only:
            continue
        name = safe_name(tool.name)
        if name in tools_by_name or name == FINISH:
            taken = repr(tools_by_name[name].name) if name in tools_by_name else "the action that ends an episode"
            raise ConfigError(
                f"mcp:{target}: the tool {tool.name!r} would be called {name!r}, as {taken} is. Choose the tools that "
                "you need: mcp:only=NAME,only=NAME ..."
            )
        tools_by_name[name] = tool
    return tools_by_name


def safe_name(name: str) -> str:
    """A tool's name for text actions: lower-case letters, digits, "_" and "-", and first a letter or "_"."""
    safe = _UNSAFE.sub("_", name.lower())[:64]
    return safe if re.match(r"[a-z_]", safe) else f"_{safe}"[:64]


def _normalize_schema(server_schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's JSON schema with valid ``properties`` and ``required``, whatever the server sent."""
    properties, required = server_schema.get("properties"), server_schema.get("required")
    property_schemas = (
        {str(name): schema for name, schema in properties.items()} if isinstance(properties, Mapping) else {}
    )
    required_names = [name for name in required if name in property_schemas] if isinstance(required, Sequence) else []
    return {**server_schema, "type": "object", "properties": property_schemas, "required": required_names}


def _parse_arguments(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments; a string for a parameter of another type (``square[4]``) is read as JSON."""
    properties = parameters.get("properties", {})
    return {name: _parse_value(value, properties.get(name)) for name, value in arguments.items()}


def _parse_value(value: Any, schema: Any) -> Any:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if not isinstance(value, str) or kind not in ("integer", "number", "boolean", "array", "object"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # the server says what is wrong with it


def _result_text(result: CallToolResult) -> str:
    """A result as an observation: its texts, other content as a name in brackets, and what only its structure tells."""
    parts = [_block_text(block) for block in result.content]
    structure = result.structured_content
    if structure is not None and not any(_repeats_structure(part, structure) for part in parts):
        parts.append(json.dumps(structure, ensure_ascii=False))
    text = strip_controls("\n".join(parts)).strip() or "(no output)"
    return f"Error: {text}" if result.is_error and not text.startswith("Error:") else text


def _repeats_structure(text: str, structure: Any) -> bool:
    """Whether a text is the structure, or the only value in it, as most servers send it for older clients."""
    values = [structure, *(structure.values() if isinstance(structure, Mapping) and len(structure) == 1 else ())]
    return text in values or parse_json(text) in values


def _bound_text(text: str, owner: str) -> str:
    """A description on one line without control characters; a long one is cut, which is said."""
    line = " ".join(strip_controls(text).split())
    if len(line) <= _DESCRIPTION_CHARS:
        return line
    excess = len(line) - _DESCRIPTION_CHARS
    _LOGGER.warning("%s: a description of %d characters is cut, as it stands in every prompt", owner, len(line))
    return f"{line[:_DESCRIPTION_CHARS]} [... {excess} characters more]"


def _bound_schema(schema: dict[str, Any], owner: str) -> dict[str, Any]:
    """A schema whose descriptions are bounded. Raises ConfigError for one that is too long all the same."""

    def bound(value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            return {strip_controls(str(name)): bound(item, str(name)) for name, item in value.items()}
        if isinstance(value, list):
            return [bound(item) for item in value]
        return _bound_text(value, owner) if key in ("description", "title") and isinstance(value, str) else value

    bounded: dict[str, Any] = bound(schema)
    length = len(json.dumps(bounded))
    if length > _SCHEMA_CHARS:
        raise ConfigError(
            f"{owner}: its parameters take {length:,} characters of every prompt; at most {_SCHEMA_CHARS:,} are "
            "allowed. Choose other tools of the server: mcp:only=NAME,only=NAME ..."
        )
    return bounded


def _handle_refusal(error: MCPError, *, over_http: bool) -> str:
    """The observation for wrong arguments; every other refusal raises."""
    from mcp.types import CONNECTION_CLOSED, INVALID_PARAMS, INVALID_REQUEST, REQUEST_TIMEOUT

    if error.code == INVALID_PARAMS:
        return hide_secrets(_truncate(f"Error: {strip_controls(error.message)}"))
    if error.code == REQUEST_TIMEOUT:
        raise _SlowError(error.message) from error
    lost = error.code == CONNECTION_CLOSED or (over_http and error.code == INVALID_REQUEST)  # a session that expired
    raise (_LostError if lost else _RefusedError)(error.message) from error


def _block_text(block: Any) -> str:
    if block.type == "text":
        return str(block.text)
    if block.type == "resource_link":
        return f"[resource {block.uri}]"
    if block.type != "resource":
        return f"[{block.type} {block.mime_type}]"
    text = getattr(block.resource, "text", None)
    return f"[resource {block.resource.uri}]" if text is None else str(text)


def _truncate(text: str) -> str:
    excess = len(text) - MAX_CHARS
    return text if excess <= 0 else f"{text[:MAX_CHARS]} [... {excess} more characters]"


def _describe_invalid(error: Exception) -> str:
    """What is wrong with an answer, in one line; the library's own words take many."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    return f"its answer does not follow the protocol: {place}: {problem['msg']}"


def _compute_fingerprint(name: str, version: str, tools: Sequence[ServerTool]) -> str:
    """The server's name and version, and a hash of its tools' names, descriptions and schemas, in any order."""
    facts = sorted(json.dumps([tool.name, tool.description, tool.input_schema], sort_keys=True) for tool in tools)
    digest = hashlib.sha256(json.dumps([MAX_CHARS, facts]).encode()).hexdigest()[:16]
    return f"mcp:{name or 'unnamed'}-{version or '?'}:{digest}"


def _first_cause(error: BaseException) -> BaseException:
    """The first cause inside a group of exceptions."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _describe_fault(error: Exception, session: _Session) -> str:
    """The error and the program's last words on stderr, in brackets."""
    error_text = " ".join(excerpt(strip_controls(str(error)), 500).split()) or type(error).__name__
    stderr_tail = session.stderr_tail()
    return f" ({error_text}; it wrote last: {stderr_tail})" if stderr_tail else f" ({error_text})"
