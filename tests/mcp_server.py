"""A server that speaks MCP, for the tests of ``mcp:``: over stdin and stdout, or over HTTP on the port it is given.

usage: python mcp_server.py [PORT]
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, EmbeddedResource, ImageContent, TextContent, TextResourceContents

waiting: list[Any] = []
server = MCPServer("sums", version=os.environ.get("SUMS_VERSION", "1.2"))


@server.tool()
def add(a: int, b: int) -> str:
    """Adds two
    numbers."""
    return str(a + b)


@server.tool(name="Square.Of")
def square(number: int) -> str:
    """Squares a number."""
    return str(number**2)


@server.tool()
def now() -> str:
    """Takes nothing."""
    return f"process {os.getpid()}"


@server.tool()
def environment(name: str, fallback: str = "not set") -> str:
    """A variable of the environment."""
    return os.environ.get(name, fallback)


@server.tool()
def fail(why: str) -> str:
    """Fails."""
    raise ToolError(why)


@server.tool()
async def slow(seconds: float) -> str:
    """Takes its time."""
    import anyio

    await anyio.sleep(seconds)
    return f"slept {seconds}"


@server.tool()
async def meet(count: int) -> str:
    """Answers once so many calls are under way."""
    import anyio

    waiting.append(anyio.Event())
    if len(waiting) < count:
        await waiting[-1].wait()
    else:
        for event in waiting:
            event.set()
        waiting.clear()
    return f"met {count}"


@server.tool()
def crash(code: int) -> str:
    """Ends the process."""
    print("the secret is", os.environ.get("SUMS_KEY"), "and all is lost", file=sys.stderr, flush=True)
    time.sleep(0.05)
    os._exit(code)


@server.tool()
def picture(size: int) -> CallToolResult:
    """A text, a picture and a resource."""
    resource = EmbeddedResource(resource=TextResourceContents(uri="file:///note.txt", text="a note"))
    image = ImageContent(data="0" * size, mime_type="image/png")
    return CallToolResult(content=[TextContent(text="see"), image, resource])


@server.tool()
def many(letters: int) -> str:
    """Says much."""
    return "x" * letters


def main() -> None:
    if "SUMS_STARTED" in os.environ:
        with Path(os.environ["SUMS_STARTED"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()


if __name__ == "__main__":
    main()
