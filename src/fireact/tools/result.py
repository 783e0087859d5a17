"""What a tool of the user's own returns, as the text of an observation.

    text                          as it is
    a coroutine                   is run to its end, on an event loop of its own
    a generator, async or not     is run to its end; texts are joined as lines, other values become a JSON list
    anything else                 JSON; dataclasses, pydantic models, dates, paths, arrays and the like included

Invariant: an object that only has an address to show (a function, a client, an open file) is refused by its type.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterable, Awaitable, Iterator
from itertools import islice
from typing import Any

from fireact.errors import ConfigError

MAX_VALUES = 10_000
"""Values of a generator that are read; one that never ends is refused."""
_ADDRESS = re.compile(r"\A<.* at 0x[0-9A-Fa-f]+\b.*>\Z|\A<(?:module|class|function|built-in|_io\.)", re.DOTALL)


def render_result(tool_name: str, result: Any) -> str:
    """The text of a result. Raises ConfigError that names the tool and the type of what cannot be one."""
    if isinstance(result, str):
        return result
    if inspect.isawaitable(result):
        return render_result(tool_name, asyncio.run(_await_result(result)))
    if isinstance(result, AsyncIterable):
        return _join_values(tool_name, asyncio.run(_read_values(result)))
    if isinstance(result, Iterator):
        return _join_values(tool_name, list(islice(result, MAX_VALUES + 1)))
    return json.dumps(_to_json_value(tool_name, result), ensure_ascii=False)


async def _await_result(result: Awaitable[Any]) -> Any:
    return await result


async def _read_values(values: AsyncIterable[Any]) -> list[Any]:
    read: list[Any] = []
    async for value in values:
        read.append(value)
        if len(read) > MAX_VALUES:
            break
    return read


def _join_values(tool_name: str, values: list[Any]) -> str:
    if len(values) > MAX_VALUES:
        raise ConfigError(f"the tool {tool_name} yields more than {MAX_VALUES:,} values. Let it stop by itself.")
    if all(isinstance(value, str) for value in values):
        return "\n".join(values)
    return render_result(tool_name, values)


def _to_json_value(tool_name: str, result: Any) -> Any:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    def convert(value: Any) -> Any:
        if hasattr(value, "tolist"):  # an array
            return value.tolist()
        text = str(value)
        if _ADDRESS.match(text):
            raise _refuse(tool_name, value)
        return text

    try:
        return to_jsonable_python(result, fallback=convert)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        refusal = error.__cause__ or error.__context__
        raise refusal if isinstance(refusal, ConfigError) else _refuse(tool_name, result, str(error)) from None


def _refuse(tool_name: str, value: Any, reason: str = "") -> ConfigError:
    if inspect.iscoroutine(value):
        value.close()  # nobody will await it
    return ConfigError(
        f"the tool {tool_name} returned an object of the type {type(value).__module__}.{type(value).__qualname__}, "
        f"which is neither text nor JSON{f' ({reason})' if reason else ''}. Let it return a str, a number, a list or "
        "a dict."
    )
