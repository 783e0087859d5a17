"""A server that speaks MCP badly over stdin and stdout, one way a mode, for the tests of ``mcp:``.

usage: python mcp_raw_server.py MODE
"""

import json
import os
import sys
from typing import Any

MODE = sys.argv[1]
LONG = "x" * 3_000_000 if MODE == "long" else "\x1b[31mred\x07 text"
CONTENT: dict[str, Any] = {
    "invalid": {"content": [{"type": "text"}]},
    "structured": {"content": [{"type": "text", "text": "Warm."}], "structuredContent": {"temperature": 21}},
    "only": {"content": [], "structuredContent": {"temperature": 21}},
    "repeated": {"content": [{"type": "text", "text": '{"temperature":21}'}], "structuredContent": {"temperature": 21}},
    "wrapped": {"content": [{"type": "text", "text": "21"}], "structuredContent": {"result": 21}},
    "key": {"content": [{"type": "text", "text": f"the key is {os.environ.get('RAW_KEY')}"}]},
    "escapes": {"content": [{"type": "text", "text": "plain\x1b[2J\x07"}]},
}


def write(line: str | bytes) -> None:
    sys.stdout.buffer.write((line.encode() if isinstance(line, str) else line) + b"\n")
    sys.stdout.buffer.flush()


def answer(message: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a request; None where it is written already, or refused."""
    method, id = message["method"], message["id"]
    if method == "initialize":
        version = message["params"]["protocolVersion"]
        info = {"name": "raw", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        page = int((message.get("params") or {}).get("cursor") or 0)
        properties = {"q": {"type": "string", "description": LONG}}
        if MODE == "wide":
            properties |= {f"parameter{number}": {"type": "string"} for number in range(5000)}
        tool = {"name": f"t{page}", "description": LONG, "inputSchema": {"type": "object", "properties": properties}}
        following = {"nextCursor": str(page + 1)} if MODE == "pages" and page < 130 else {}
        return {"tools": [tool], **following}
    if method != "tools/call":
        write(json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}}))
        return None
    text = {"surrogate": b"half \\ud83d", "bytes": b"half \xff"}.get(MODE)
    if text is not None:
        write(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%b"}]}}' % (id, text))
        return None
    if MODE == "refuses":
        words = f"no\n{os.environ.get('RAW_KEY')}\x1b[31m"
        write(json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": -32010, "message": words}}))
        return None
    if MODE == "banner":
        write("calling ...")
    return CONTENT.get(MODE, {"content": [{"type": "text", "text": "fine"}]})


if MODE == "banner":
    write("Welcome!")
    write("{not json")
for line in sys.stdin:
    message = json.loads(line)
    result = answer(message) if "id" in message else None
    if result is not None:
        write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))
