"""A model for the scripts that make these samples: it looks the tide up at two hours, then answers. No network."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

QUESTION, SYSTEM = "How high is the tide at Oban at 9 and at 15?", "You help sailors."
ANSWER = "2.1 and 0.6 metres."
TIDES = {9: "2.1 metres", 15: "0.6 metres"}
PARAMETERS = {
    "type": "object",
    "properties": {"harbour": {"type": "string"}, "hour": {"type": "integer"}},
    "required": ["harbour", "hour"],
}
TOOL = {"type": "function", "function": {"name": "tide_at", "description": "The tide.", "parameters": PARAMETERS}}


def reply_to(messages: list[dict]) -> dict:
    """The next message of the assistant: two calls, then the answer."""
    if any(message["role"] == "tool" for message in messages):
        return {"role": "assistant", "content": ANSWER}
    calls = [
        {"id": f"call0000{n}", "type": "function", "function": {
            "name": "tide_at", "arguments": json.dumps({"harbour": "Oban", "hour": hour})}}
        for n, hour in enumerate(TIDES)
    ]  # fmt: skip
    return {"role": "assistant", "content": "I look both up.", "tool_calls": calls}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = reply_to(body["messages"])
        finish = "tool_calls" if "tool_calls" in message else "stop"
        reply = {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
        }  # fmt: skip
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def serve_model() -> str:
    """Serve the model on a free port; the base URL for a client."""
    server = HTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"


def run_agent(client, model: str = "fake-model") -> str:
    """The loop of an agent with OpenAI's client."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    while True:
        message = client.chat.completions.create(model=model, messages=messages, tools=[TOOL]).choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return message.content
        for call in message.tool_calls:
            hour = json.loads(call.function.arguments)["hour"]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": TIDES[hour]})
