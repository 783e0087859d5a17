"""Serving: real clients over real HTTP and stdio, to a tiny student and the agent around it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
openai = pytest.importorskip("openai")
pytest.importorskip("starlette")

from fakes import GOOD, agent  # noqa: E402
from fireact.errors import ConfigError, FormatError  # noqa: E402
from fireact.rollout.models import load_model  # noqa: E402
from fireact.serving.served_agent import make_served_agent  # noqa: E402
from fireact.serving.wire import read_request  # noqa: E402
from fireact.types import Call, Completion, Message, Usage  # noqa: E402
from launches import ForkedCommand  # noqa: E402
from tiny import tiny_model  # noqa: E402

ASK = [{"role": "user", "content": "What is it?"}]


class Running:
    """``fireact serve`` in a child process, on a free port: forked, or a start of Python."""

    def __init__(self, *arguments: str, forked: bool = True, **environment: str) -> None:
        words = ("serve", *arguments, "--port", "0")
        self.child: ForkedCommand | subprocess.Popen[str] = (
            ForkedCommand(*words, **environment)
            if forked
            else subprocess.Popen([sys.executable, "-m", "fireact", *words], stderr=subprocess.PIPE, text=True)
        )
        assert self.child.stderr is not None
        line = said = self.child.stderr.readline()
        while " at http" not in line:
            assert line, said
            line = self.child.stderr.readline()
            said += line
        self.said, self.url = said, line.split(" at ")[1].split()[0]

    def client(self, key: str = "none") -> Any:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=600)

    def stop(self) -> int:
        self.child.send_signal(signal.SIGINT)
        status = self.child.wait(600)
        assert self.child.stderr is not None
        self.child.stderr.close()
        return status


class InFlight:
    """A request that the server has begun to read: it answered 100 Continue before the body was sent."""

    def __init__(self, running: Running, **body: Any) -> None:
        content = json.dumps({"model": "fireact", "messages": ASK, **body}).encode()
        address = urllib.parse.urlsplit(running.url)
        self.connection = socket.create_connection((address.hostname, address.port), timeout=600)
        head = (
            f"POST {address.path}/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nExpect: 100-continue\r\n\r\n"
        )
        self.connection.sendall(head.encode())
        self.received = b""
        self.read_until(b"100 Continue\r\n\r\n")
        self.connection.sendall(content)

    def read_until(self, text: bytes) -> None:
        while text not in self.received:
            block = self.connection.recv(65536)
            assert block, self.received
            self.received += block

    def read_reply(self) -> tuple[int, bytes]:
        """The status and the body, which ends where the connection does."""
        while block := self.connection.recv(65536):
            self.received += block
        self.connection.close()
        head, _, body = self.received.partition(b"\r\n\r\n")[2].partition(b"\r\n\r\n")
        return int(head.split()[1]), body


def wait_until_closed(running: Running) -> None:
    """Wait until the server, which has a signal, takes no new connection."""
    address = urllib.parse.urlsplit(running.url)
    deadline = time.monotonic() + 600
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            socket.create_connection((address.hostname, address.port), timeout=1).close()
            time.sleep(0.01)
        raise AssertionError("the server still takes connections")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("serve"), seed=3, positions=8192)


@pytest.fixture(scope="module")
def server(student: Path) -> Iterator[Running]:
    running = Running(str(student), "--name", "tiny", forked=False)
    yield running
    running.stop()


def test_the_student_says_over_http_what_it_says_here(server: Running, student: Path) -> None:
    model = load_model(str(student), slots=1)
    here = model.lm.complete(Call([Message("user", "What is it?")], max_tokens=20))
    model.close()
    there = server.client().chat.completions.create(model="tiny", messages=ASK, max_tokens=20)
    assert there.choices[0].message.content == here.text
    assert (there.usage.prompt_tokens, there.usage.completion_tokens) == (
        here.usage.prompt_tokens, here.usage.completion_tokens,
    )  # fmt: skip


def test_a_stream_brings_the_same_words_piece_by_piece(server: Running) -> None:
    client = server.client()
    whole = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=20).choices[0].message.content
    options = {"include_usage": True}
    events = list(
        client.chat.completions.create(model="tiny", messages=ASK, max_tokens=20, stream=True, stream_options=options)
    )
    pieces = [event.choices[0].delta.content for event in events if event.choices and event.choices[0].delta.content]
    assert "".join(pieces) == whole and len(pieces) > 1
    assert events[-1].usage.completion_tokens > 0


def test_a_stop_string_never_leaks_into_a_stream(server: Running) -> None:
    client = server.client()
    whole = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=30).choices[0].message.content
    stop = whole[4:7]
    events = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=30, stream=True, stop=[stop])
    said = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert said == whole[: whole.index(stop)]


def test_the_agent_runs_its_tools_here(server: Running) -> None:
    reply = server.client().chat.completions.create(model="tiny-agent", messages=ASK)
    assert reply.choices[0].message.reasoning_content.count("Observation:") >= 1
    assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens > 0  # it never learnt to finish


def test_many_clients_share_the_batches(server: Running) -> None:
    client = server.client()

    def one(index: int) -> str:
        ask = [{"role": "user", "content": f"Number {index}?"}]
        return str(client.chat.completions.create(model="tiny", messages=ask, max_tokens=8).choices[0].message.content)

    alone = [one(index) for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == alone


@pytest.mark.parametrize("base", ["", "/v1", "/v1/v1", "/e/7/v1", "/e/a%20b"])
def test_the_base_urls_of_a_recording_work_here(server: Running, base: str) -> None:
    address = server.url.removesuffix("/v1")
    model = openai.OpenAI(base_url=f"{address}{base}", api_key="none", max_retries=0)
    reply = model.chat.completions.create(model="tiny", messages=ASK, max_tokens=2)
    body = json.dumps({"model": "tiny", "messages": ASK}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}{base}/messages/count_tokens", body, headers)
    with urllib.request.urlopen(request) as response:
        assert json.loads(response.read()) == {"input_tokens": reply.usage.prompt_tokens}


def test_errors_come_in_the_form_of_the_path(server: Running) -> None:
    for path, kind in (("/messages/batches", "error"), ("/files", None)):
        with pytest.raises(urllib.error.HTTPError) as failed:
            urllib.request.urlopen(f"{server.url}{path}")
        assert json.loads(failed.value.read()).get("type") == kind


def test_models_are_listed(server: Running) -> None:
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tiny", "tiny-agent"]
    assert client.models.retrieve("tiny-agent").id == "tiny-agent"
    with pytest.raises(openai.NotFoundError, match="Served: tiny, tiny-agent"):
        client.models.retrieve("gpt")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nowhere", 404), ("GET", "/v1/chat/completions", 405)]
)
def test_what_there_is_not_is_said_in_json(server: Running, method: str, path: str, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as failed:
        urllib.request.urlopen(
            urllib.request.Request(server.url.removesuffix("/v1") + path, method=method), timeout=600
        )
    assert failed.value.code == status and "GET /v1/models" in json.load(failed.value)["error"]["message"]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model": "gpt"}, 404, "Served: tiny, tiny-agent"),
        ({"messages": []}, 400, "at least one message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role is 'robot'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "parts that are not text"),
        ({"temperature": 9}, 400, "temperature is 9"),
        ({"max_tokens": 0}, 400, "max_tokens is 0"),
        ({"n": 2}, 400, "n must be 1"),
        ({"tools": [{"type": "function"}]}, 400, "tools[0] is {'type': 'function'}; it must be a function with a name"),
        ({"tools": [{"function": {"name": "a"}}] * 2}, 400, "tools[1] has the name 'a', as another tool has"),
        ({"tools": [{"type": "web_search"}]}, 400, "it must be a function"),
        ({"tool_choice": "required"}, 400, "tools has nothing"),
        (
            {"tools": [{"function": {"name": "a"}}], "tool_choice": {"type": "function", "function": {"name": "b"}}},
            400,
            "tool_choice names 'b'",
        ),
        ({"top_p": 1.5}, 400, "top_p is 1.5; it must be from 0 to 1"),
        ({"top_k": 5}, 400, "serve with --lenient"),
        ({"mirostat": 2}, 400, "mirostat is 2, which this endpoint cannot do"),
        ({"logprobs": True, "stream": True}, 400, "logprobs is true, which a stream cannot have"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs is 21"),
        ({"stop": ["x"] * 65}, 400, "stop has 65 strings"),
        ({"model": "tiny-agent", "tools": [{"function": {"name": "a"}}]}, 400, "ask tiny with yours"),
        ({"messages": [{"role": "user", "content": "x" * 4_100_000}]}, 413, "longer than"),
        ({"stream": "no"}, 400, "stream is 'no'"),
        ({"model": "tiny-agent", "messages": [{"role": "assistant", "content": "x"}]}, 400, "role user"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(
    server: Running, change: dict[str, Any], status: int, said: str
) -> None:
    body = json.dumps({"model": "tiny", "messages": ASK, **change}).encode()
    request = urllib.request.Request(f"{server.url}/chat/completions", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as failed:
        urllib.request.urlopen(request, timeout=600)
    assert failed.value.code == status and said in json.load(failed.value)["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"messages": 1}', b'{"messages": [1]}', b"[" * 100_000])
def test_any_body_is_read_totally(body: bytes) -> None:
    with pytest.raises(FormatError):
        read_request(body)


def test_a_key_is_asked_for_and_needed_beyond_loopback(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIREACT_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="FIREACT_API_KEY"):
        make_served_agent("x", agent(*GOOD), host="0.0.0.0")
    running = Running(str(student), FIREACT_API_KEY="secret-word")
    with pytest.raises(openai.AuthenticationError):
        running.client("wrong").chat.completions.create(model="fireact", messages=ASK)
    reply = running.client("secret-word").chat.completions.create(model="fireact", messages=ASK, max_tokens=2)
    assert reply.choices
    monkeypatch.setenv("FIREACT_API_KEY", "secret-word")
    assert "secret-word" not in repr(make_served_agent("x", agent(*GOOD), host="0.0.0.0"))
    running.stop()


def test_a_name_that_is_not_this_machines_is_refused_without_a_key(student: Path) -> None:
    running = Running(str(student))
    request = urllib.request.Request(f"{running.url}/models", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=600)
    running.stop()


def test_a_shutdown_finishes_what_is_in_flight(student: Path) -> None:
    running = Running(str(student))
    request = InFlight(running, max_tokens=400)
    assert running.stop() == 0
    status, body = request.read_reply()
    assert status == 200 and json.loads(body)["usage"]["completion_tokens"] > 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_shutdown_finishes_streams_and_agents(student: Path, number: int) -> None:
    running = Running(str(student))
    options = {"include_usage": True}
    stream = running.client().chat.completions.create(
        model="fireact", messages=ASK, max_tokens=300, stream=True, stream_options=options
    )
    next(iter(stream))
    agent = InFlight(running, model="fireact-agent", max_tokens=100)
    running.child.send_signal(number)
    assert list(stream)[-1].usage.completion_tokens > 0
    status, body = agent.read_reply()
    assert status == 200 and json.loads(body)["usage"]["completion_tokens"] > 0
    running.child.wait(600)
    assert running.child.stderr is not None
    running.child.stderr.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_second_signal_cuts_off_what_is_in_flight_without_a_trace(stream: bool) -> None:
    running = Running("fakes:Slow", PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    request = InFlight(running, stream=stream)
    if stream:
        request.read_until(b"data: ")
    running.child.send_signal(signal.SIGINT)
    wait_until_closed(running)
    running.child.send_signal(signal.SIGINT)
    said = running.child.communicate(timeout=600)[1]  # before the hour that the answer takes
    assert running.child.returncode == 0 and "Traceback" not in said and "Error" not in said, said
    status, _ = request.read_reply()
    assert status == (200 if stream else 503)


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    import http.client

    with listening(agent(*GOOD).lm, body_seconds=0.2) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        reply = connection.getresponse()
        assert reply.status == 408 and "did not come" in json.load(reply)["error"]["message"]
        reply.close(), connection.close()


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    from fireact.base.listening import host_and_port

    assert host_and_port("::1", 80) == "[::1]:80" and host_and_port("127.0.0.1", 80) == "127.0.0.1:80"


def test_a_body_of_no_stated_length_is_cut_off(server: Running) -> None:
    import http.client
    from urllib.parse import urlsplit

    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=600)
    parts = (b"x" * 1_000_000 for _ in range(5))
    connection.request("POST", "/v1/chat/completions", parts, {"Content-Type": "application/json"}, encode_chunked=True)
    reply = connection.getresponse()
    assert reply.status == 413 and "longer than" in json.load(reply)["error"]["message"]
    reply.close(), connection.close()


def test_the_agent_is_a_tool_of_an_mcp_client(student: Path) -> None:
    pytest.importorskip("mcp")
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    words = ["-m", "fireact", "serve", str(student), "--mcp", "--task", "brief:HOP"]
    command = StdioServerParameters(command=sys.executable, args=words, cwd=Path(__file__).parent)

    async def talk() -> tuple[list[str], str]:
        async with Client(stdio_client(command)) as client:
            listed = await client.list_tools()
            result = await client.call_tool("ask", {"question": "What is it?"})
            return [tool.name for tool in listed.tools], result.content[0].text

    names, text = asyncio.run(talk())
    assert names == ["ask"] and "No answer was found" in text


def test_the_server_feeds_the_tokens_that_were_trained_on(student: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from fireact.base import jsonl
    from fireact.serving.conformance import check_conformance
    from fireact.training.train import TrainConfig, train
    from test_train import RECIPE
    from test_train_more import trajectories

    jsonl.write_objects(tmp_path / "data.jsonl", (one.to_dict() for one in trajectories(8)))
    train(TrainConfig(data=str(tmp_path / "data.jsonl"), student=str(student), recipe=RECIPE), tmp_path / "train")
    found = check_conformance(str(tmp_path / "train"), prompts=4)
    assert found.holds and found.turns == 16 and found.prompts == 4 and 0 <= found.differing <= 4


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": [], "content": "a"}]},
        {"messages": [{"role": "user", "content": "a"}], "stream_options": "x"},
        {"messages": [{"role": "user", "content": "a"}], "top_k": 5},
        {"messages": [{"role": "user", "content": "a"}], "min_p": 0.1},
        {"messages": [{"role": "user", "content": "a"}], "repetition_penalty": 1.2},
        {"messages": [{"role": "user", "content": "a"}], "seed": 1.5},
        {"messages": [{"role": "user", "content": "a"}], "seed": False},
        {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2.9},
        {"messages": [{"role": "user", "content": "a"}], "temperature": ""},
        {"messages": [{"role": "user", "content": "a"}], "stream_options": {"include_usage": "no"}},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
        {"messages": [{"role": "user", "content": "a\ud800b"}]},
    ],
)
def test_what_cannot_be_served_is_named(body: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        read_request(json.dumps(body).encode())


def test_values_that_ask_for_nothing_are_taken() -> None:
    body = {
        "messages": [{"role": "user", "content": "a"}], "n": None, "top_p": 1, "response_format": {"type": "text"},
        "max_completion_tokens": None, "max_tokens": 7, "temperature": 1e-40,
    }  # fmt: skip
    asked = read_request(json.dumps(body).encode())
    assert asked.max_tokens == 7 and asked.temperature == 0.0


def test_a_turn_of_the_assistant_without_words_is_taken_as_empty() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": None}]
    body = {"messages": [*turns, *turns[:1]], "top_k": -1, "min_p": 0, "repetition_penalty": 1, "seed": None}
    asked = read_request(json.dumps(body).encode())
    assert [one.content for one in asked.messages] == ["a", "", "a"] and asked.seed == 0


def test_a_stream_ends_whatever_fails() -> None:
    from fireact.serving.served_agent import ServedAgent, ServedRequest, stream_events
    from fireact.wire.chat_completions import CHAT_COMPLETIONS

    class Broken:
        name = "broken"

        def complete(self, call: Call) -> Any:
            raise RuntimeError("out of luck")

    async def events(served: ServedAgent) -> bytes:
        asked = read_request(b'{"model": "s", "stream": true, "messages": [{"role": "user", "content": "a"}]}')
        watch = asyncio.create_task(asyncio.sleep(600))
        with ThreadPoolExecutor(1) as threads:
            return b"".join(
                [
                    one
                    async for one in stream_events(
                        ServedRequest(served, asked), CHAT_COMPLETIONS.stream_writer("s"), threads, watch
                    )
                ]
            )

    served = ServedAgent("s", replace(agent(GOOD), lm=Broken()))
    assert b"RuntimeError: out of luck" in asyncio.run(asyncio.wait_for(events(served), 600))


class Endless:
    """An LM that writes until nobody listens."""

    name = "endless"

    def __init__(self) -> None:
        self.begun, self.ended, self.calls = threading.Event(), threading.Event(), 0

    def complete(self, call: Call) -> Completion:
        self.calls += 1
        self.begun.set()
        try:
            while call.on_delta is not None:
                call.on_delta("on ")
                time.sleep(0.01)
            return Completion("Thought: look\nAction: search[x]", Usage(1, 1, 0, 1), "stop", 0.0)
        finally:
            self.ended.set()


@contextmanager
def listening(lm: Any, **settings: Any) -> Iterator[int]:
    """The port of the service of an agent with this LM, in this process."""
    import uvicorn

    from fireact.base.listening import bind_socket
    from fireact.serving.served_agent import ServedAgent
    from fireact.serving.server import build_serving_app

    made = bind_socket("127.0.0.1", 0)
    method = settings.pop("method", agent(*GOOD).method)
    served = ServedAgent("s", replace(agent(*GOOD), lm=lm, method=method), **settings)
    running = uvicorn.Server(uvicorn.Config(build_serving_app(served), log_level="warning"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [made]})
    thread.start()
    try:
        yield made.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(600)


def leave(port: int, model: str, lm: Endless, **options: Any) -> None:
    """Ask, wait until the answer is begun, and close the connection."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body, headers = json.dumps({"model": model, "messages": ASK, **options}), {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    assert lm.begun.wait(600)
    connection.close()


@pytest.mark.parametrize("model", ["s", "s-agent"])
@pytest.mark.parametrize("stream", [True, False])
def test_nothing_is_written_on_for_a_client_that_left(stream: bool, model: str) -> None:
    lm = Endless()
    with listening(lm) as port:
        leave(port, model, lm, stream=stream)
        assert lm.ended.wait(600)
        time.sleep(0.1)
        assert lm.calls == 1  # an agent begins no next turn


def test_an_agent_writes_no_more_tokens_than_it_may(server: Running) -> None:
    ask = server.client().chat.completions.create
    reply = ask(model="tiny-agent", messages=ASK, max_tokens=40)
    assert reply.usage.completion_tokens == 40 and reply.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="stop"):
        ask(model="tiny-agent", messages=ASK, stop=["x"])


def test_an_agents_steps_are_streamed_before_its_answer() -> None:
    with listening(agent("Thought: look\nAction: search[x]", "Thought: so\nAction: finish[42]").lm) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        events = list(client.chat.completions.create(model="s-agent", messages=ASK, stream=True))
    deltas = [event.choices[0].delta for event in events]
    steps = [delta.reasoning_content for delta in deltas if getattr(delta, "reasoning_content", None)]
    assert steps == [
        "Thought: look\nAction: search[x]",
        "\nObservation: You said x.\n",
        "Thought: so\nAction: finish[42]",
        "\n",
    ]
    assert deltas[-2].content == "42" and events[-1].choices[0].finish_reason == "stop"


def test_a_student_of_native_calls_has_the_name_of_its_run() -> None:
    from fireact.methods.react import ReAct
    from fireact.render.tool_calls import ToolCallsRenderer
    from fireact.serving.served_agent import ServedAgent

    native = replace(agent(GOOD), method=ReAct(renderer=ToolCallsRenderer()))
    assert ServedAgent("s", native).names == ("s", "s-agent")
    alone = ServedAgent("s", native, aliases=("gpt-4o",), runs_tools=False)
    assert alone.names == ("s", "gpt-4o") and alone.serves("claude") and not ServedAgent("s", native).serves("claude")


def test_a_port_that_there_is_not_is_refused_in_words() -> None:
    from fireact.base.listening import bind_socket

    with pytest.raises(ConfigError, match="99999"):
        bind_socket("127.0.0.1", 99999)


def test_a_key_of_any_letters_is_known_again(student: Path) -> None:
    running = Running(str(student), FIREACT_API_KEY=" ключ ")  # blanks around it are nobody's meaning
    try:
        for key, status in (("Bearer ключ", 200), ("bearer ключ", 200), ("Basic ключ", 401), ("Bearer other", 401)):
            ask = urllib.request.Request(f"{running.url}/models")
            ask.add_unredirected_header("Authorization", key.encode().decode("latin-1"))
            try:
                assert urllib.request.urlopen(ask, timeout=600).status == status
            except urllib.error.HTTPError as error:
                assert error.code == status
    finally:
        running.stop()
