"""Recording: agents of other packages and plain clients, through a real proxy, from a real endpoint on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

openai = pytest.importorskip("openai")
httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("starlette")

from arbitrary import json_values  # noqa: E402
from fireact.base import jsonl  # noqa: E402
from fireact.base.run_directory import read_manifest, read_trajectories  # noqa: E402
from fireact.base.verbs import resume  # noqa: E402
from fireact.errors import ConfigError, DataError  # noqa: E402
from fireact.models.fake_endpoint import FakeEndpoint, Fault  # noqa: E402
from fireact.models.prices import TokenPrice  # noqa: E402
from fireact.recording.calls import RecordedCall  # noqa: E402
from fireact.recording.conversations import TurnIndex, extract_question  # noqa: E402
from fireact.recording.proxy import Upstream, is_loopback, parse_base_url  # noqa: E402
from fireact.recording.recorder import RecordConfig, conclude, record_calls  # noqa: E402
from fireact.recording.text import parse_turn  # noqa: E402
from fireact.recording.trajectories import build_trajectory  # noqa: E402
from fireact.types import FINISH, Action, Trajectory  # noqa: E402
from fireact.wire.chat_completions import CHAT_COMPLETIONS  # noqa: E402
from fireact.wire.schemas import FINISH_NAMES  # noqa: E402
from fireact.wire.sse import read_stream  # noqa: E402
from launches import ForkedCommand  # noqa: E402

ROOT = Path(__file__).parents[1]
KEY = "sk-very-secret-0123456789"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


def call(name: str, number: int = 0, **arguments: Any) -> dict[str, Any]:
    return {
        "id": f"call-{name}-{number}", "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }  # fmt: skip


def turns_of(request: Mapping[str, Any]) -> int:
    return sum(one["role"] == "assistant" for one in request["messages"])


def said(request: Mapping[str, Any]) -> str:
    """The whole conversation as text."""
    return json.dumps(request["messages"])


def weather(request: Mapping[str, Any]) -> dict[str, Any]:
    """An LM that looks the weather of two cities up at once, then answers by a call."""
    city = "Oslo" if "Oslo" in said(request) else "Lima"
    if turns_of(request) == 0:
        calls = [call("weather", 1, city=city), call("weather", 2, city="Rome")]
        return {"content": f"I look up {city}.", "tool_calls": calls}
    return {"content": None, "tool_calls": [call("final_answer", 3, answer=f"rain in {city}")]}


def client(address: str, episode: str | None = None) -> Any:
    url = f"{address}/v1" if episode is None else f"{address}/e/{episode}/v1"
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=600)


def native_agent(model: Any, question: str, *, stream: bool = False, pause: float = 0.0) -> str:
    """A small agent with native tool calls on the plain client."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    while True:
        answered = model.chat.completions.create(model="fake", messages=messages, tools=TOOLS, stream=stream)
        if stream:
            calls = [one for chunk in answered if chunk.choices for one in chunk.choices[0].delta.tool_calls or []]
            text = ""
        else:
            calls, text = answered.choices[0].message.tool_calls or [], answered.choices[0].message.content
        if not calls:
            return str(text)
        made = [
            {"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": c.function.arguments}}
            for c in calls
        ]
        messages.append({"role": "assistant", "content": text, "tool_calls": made})
        for one in reversed(calls):  # in another order than they were made
            arguments = json.loads(one.function.arguments)
            if one.function.name == "final_answer":
                return str(arguments["answer"])
            messages.append({"role": "tool", "tool_call_id": one.id, "content": f"It rains in {arguments['city']}."})
        time.sleep(pause)


def recorded(run: Path) -> dict[str, Trajectory]:
    return {one.example.id: one for one in read_trajectories(run)}


def config(endpoint: FakeEndpoint, **options: Any) -> RecordConfig:
    return RecordConfig(upstream=endpoint.url, **{"port": 0, **options})


def test_native_calls_become_steps(tmp_path: Path) -> None:
    with FakeEndpoint(weather) as endpoint:
        with record_calls(config(endpoint, task="sky"), tmp_path / "run") as address:
            assert native_agent(client(address, "one"), "How is Oslo?") == "rain in Oslo"
        assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"
    (one,) = read_trajectories(tmp_path / "run")
    assert (one.key, one.model, one.stop, one.answer) == ("sky/one/recorded/0", "fake", "finish", "rain in Oslo")
    assert one.example.question == "How is Oslo?"
    first, second, last = one.steps
    assert (first.thought, first.action, first.observation) == (
        "I look up Oslo.", Action("weather", {"city": "Oslo"}), "It rains in Oslo.",
    )  # fmt: skip
    assert second.joined and second.action == Action("weather", {"city": "Rome"})
    assert second.observation == "It rains in Rome." and not first.joined
    assert last.action == Action(FINISH, {"answer": "rain in Oslo"}) and last.observation is None
    assert one.meta == {"system": "Be brief.", "tools": TOOLS, "model": "fake"}
    assert one.usage.calls == 2 and one.usage.prompt_tokens > 0 and one.usage.cost is None and one.scores == {}
    manifest = read_manifest(tmp_path / "run")
    assert manifest["counts"] == {"sky/recorded": {"n": 1, "finished": 1, "correct": 0}} and manifest["calls"] == 2


def test_no_key_is_ever_stored(tmp_path: Path) -> None:
    echo = Fault(status=401, body=json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}))
    with FakeEndpoint(weather, faults=[echo]) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        with pytest.raises(openai.AuthenticationError, match=KEY):
            native_agent(client(address), "How is Oslo?")
        native_agent(client(address), "How is Oslo?")
    for file in (tmp_path / "run").iterdir():
        assert KEY.encode() not in file.read_bytes(), file
    (one,) = read_trajectories(tmp_path / "run")  # asked again after the fault: the same episode
    assert one.answer == "rain in Oslo" and one.usage.calls == 3


def test_smolagents_tool_calling_agent(tmp_path: Path) -> None:
    """The example, whole: a real agent of another package is recorded, scored and mixed."""
    pytest.importorskip("smolagents")

    def reply(request: Mapping[str, Any]) -> dict[str, Any]:
        text = said(request)
        country = next(name for name in ("Norway", "Peru", "Laos") if f"live in {name}" in text)
        if turns_of(request) == 0:
            return {"content": "I look it up.", "tool_calls": [call("population", 1, country=country)]}
        found = {"Norway": "5.6 million", "Peru": "43 million", "Laos": "7.7 million"}[country]  # one is wrong
        return {"content": None, "tool_calls": [call("final_answer", 2, answer=found)]}

    with FakeEndpoint(reply) as endpoint:
        command = [sys.executable, ROOT / "examples" / "distil_your_agent.py", endpoint.url, "fake", tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = recorded(tmp_path / "record")
    assert sorted(found) == ["0", "1", "2"]
    one = found["0"]
    assert one.example.question == "How many people live in Norway?" and one.stop == "finish"
    assert [step.action for step in one.steps] == [
        Action("population", {"country": "Norway"}), Action(FINISH, {"answer": "5.6 million"}),
    ]  # fmt: skip
    assert one.steps[0].thought == "I look it up." and one.steps[0].observation == "5.6 million"
    assert [found[name].scores["em"] for name in "012"] == [1.0, 0.0, 1.0]
    names = [tool["function"]["name"] for tool in one.meta["tools"]]
    assert names == ["population", "final_answer"] and "expert assistant" in one.meta["system"]
    assert "where correct: 3 -> 2" in done.stdout
    assert sorted(one.example.id for one in read_trajectories(tmp_path / "mix")) == ["0", "2"]


def test_smolagents_code_agent_and_streams(tmp_path: Path) -> None:
    smolagents = pytest.importorskip("smolagents")
    first = "Thought: I multiply.\n<code>\nprint(6 * 7)\n</code>"
    second = 'Thought: Now I know.\n<code>\nfinal_answer("forty-two")\n</code>'

    def reply(request: Mapping[str, Any]) -> str:
        return second if turns_of(request) else first

    with FakeEndpoint(reply) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        model = smolagents.OpenAIModel("fake", api_base=f"{address}/v1", api_key="none")
        agent = smolagents.CodeAgent(tools=[], model=model, verbosity_level=0, stream_outputs=True, max_steps=3)
        assert agent.run("What is 6 times 7?") == "forty-two"
    (one,) = read_trajectories(tmp_path / "run")
    assert one.example.question == "What is 6 times 7?" and one.answer == "forty-two"
    step, last = one.steps
    assert step.action == Action("python_interpreter", {"code": "print(6 * 7)"}) and step.thought == "I multiply."
    assert step.observation is not None and "42" in step.observation
    assert last.thought == "Now I know." and 'final_answer("forty-two")' in last.text
    assert one.usage.completion_tokens > 0


def test_streams_pass_as_they_come_and_are_put_together(tmp_path: Path) -> None:
    with FakeEndpoint(lambda request: "It is a fine day in Oslo.") as endpoint:
        ask = {"model": "fake", "messages": [{"role": "user", "content": "How is Oslo?"}], "stream": True}
        plain = httpx2.post(f"{endpoint.url}/chat/completions", json=ask)
        with record_calls(config(endpoint), tmp_path / "run") as address:
            passed = httpx2.post(f"{address}/v1/chat/completions", json=ask)
            pieces = [
                chunk.choices[0].delta.content
                for chunk in client(address, "other").chat.completions.create(**ask)
                if chunk.choices and chunk.choices[0].delta.content
            ]
        assert endpoint.requests[1] == ask  # nothing is added to a request

    def strip(body):
        return [{**json.loads(x), "created": 0, "id": ""} for x in body.replace("data: ", "").split("\n\n")[:-2]]

    assert strip(passed.text) == strip(plain.text) and passed.text.endswith("data: [DONE]\n\n")
    assert passed.headers["content-type"] == plain.headers["content-type"]
    assert len(pieces) == 7
    for one in recorded(tmp_path / "run").values():
        assert one.answer == "It is a fine day in Oslo." and one.usage.completion_tokens == 7


def test_the_first_words_come_before_the_last_are_written(tmp_path: Path) -> None:
    """Bytes of a stream are not held back until it ends."""
    gate = threading.Event()

    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b'data: {"choices":[{"index":0,"delta":{"content":"first"}}]}\n\n')
            self.wfile.flush()
            gate.wait(600)
            self.wfile.write(b'data: {"choices":[{"index":0,"delta":{"content":" last"}}]}\n\ndata: [DONE]\n\n')

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        upstream = RecordConfig(upstream=f"http://127.0.0.1:{server.server_address[1]}", port=0)
        with record_calls(upstream, tmp_path / "run") as address:
            stream = client(address).chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hello"}], stream=True
            )
            words = iter(stream)
            assert next(words).choices[0].delta.content == "first"
            gate.set()
            assert next(words).choices[0].delta.content == " last"
            assert list(words) == []
    finally:
        server.shutdown()
        server.server_close()
    assert [one.answer for one in read_trajectories(tmp_path / "run")] == ["first last"]


@pytest.mark.parametrize("named", [True, False])
def test_interleaved_episodes_stay_apart(tmp_path: Path, named: bool) -> None:
    cities = ["Oslo", "Lima"] * 4
    slow = FakeEndpoint(weather, latency=lambda request: 0.01)
    with slow as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:

        def run(at: int) -> str:
            question = f"How is {cities[at]}, asked the {at if named else at // 2}th time?"
            model = client(address, f"e{at}" if named else None)
            return native_agent(model, question, stream=at % 3 == 0, pause=0.01)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(run, range(8)))
    assert answers == [f"rain in {city}" for city in cities]
    found = recorded(tmp_path / "run")
    assert len(found) == 8
    for name, one in found.items():
        city = "Oslo" if "Oslo" in one.example.question else "Lima"
        assert one.answer == f"rain in {city}" and one.usage.calls == 2 and len(one.steps) == 3
        assert one.steps[0].observation == f"It rains in {city}."
        if named:
            assert cities[int(name[1:])] == city


def test_a_text_react_client(tmp_path: Path) -> None:
    """Actions in text, observations as the user's words; the question stands in a prompt with examples."""

    def reply(request: Mapping[str, Any]) -> str:
        turn = turns_of(request)
        return ["Thought: I search.\nAction: search[Oslo]", "Thought: Got it.\nAction: Finish[rain]"][turn]

    prompt = "Answer by Thought and Action.\n\nQuestion: What is 1+1?\nAction: finish[2]\n\nQuestion: How is Oslo?"
    with FakeEndpoint(reply) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        messages = [{"role": "user", "content": prompt}]
        for _ in range(2):
            text = client(address).chat.completions.create(model="fake", messages=messages).choices[0].message.content
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": "Observation: It rains."},
            ]
    (one,) = read_trajectories(tmp_path / "run")
    assert one.example.question == "How is Oslo?" and one.meta["context"][0]["content"] == prompt
    assert [(step.thought, step.action, step.observation) for step in one.steps] == [
        ("I search.", Action("search", {"query": "Oslo"}), "It rains."),
        ("Got it.", Action(FINISH, {"answer": "rain"}), None),
    ]


def test_a_client_with_one_growing_message(tmp_path: Path) -> None:
    """Agents that keep their notes in one prompt, as the paper's code does; two of them at once."""

    def reply(request: Mapping[str, Any]) -> str:
        text = request["messages"][0]["content"]
        city = text.split("Question: How is ")[1].split("?")[0]
        if "Observation 1" in text:
            return f" I know.\nFinal Answer: rain in {city}"
        return f" I search.\nAction: search\nAction Input: {city}"

    with FakeEndpoint(reply) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        notes = {city: f"Use tools.\nQuestion: How is {city}?\nThought:" for city in ("Oslo", "Oslo North")}
        for turn in (1, 2):
            for city in notes:
                messages = [{"role": "user", "content": notes[city]}]
                text = client(address).chat.completions.create(model="fake", messages=messages).choices[0].message
                notes[city] += f"{text.content}\nObservation {turn}: rain\nThought:"
    found = list(read_trajectories(tmp_path / "run"))
    assert [one.example.question for one in found] == ["How is Oslo?", "How is Oslo North?"]
    for one, city in zip(found, ("Oslo", "Oslo North"), strict=True):
        assert [step.action for step in one.steps] == [
            Action("search", {"input": city}), Action(FINISH, {"answer": f"rain in {city}"}),
        ]  # fmt: skip
        assert [step.thought for step in one.steps] == ["I search.", "I know."]
        assert one.steps[0].observation == "rain"


class Proxy:
    """``fireact record`` in a child process, on a free port."""

    def __init__(self, endpoint: FakeEndpoint, out: Path, *arguments: str) -> None:
        command = ("record", "--upstream", endpoint.url, "-o", out, "--port", "0", *arguments)
        self.child = ForkedCommand(*command, COLUMNS="200")
        assert self.child.stderr is not None
        self.said = ""
        while " at http" not in (line := self.child.stderr.readline()):
            self.said += line
            assert line, self.said
        self.address = line.split(" at ")[1].split("/v1")[0]

    def end(self, number: int) -> tuple[int, str]:
        self.child.send_signal(number)
        out, said = self.child.communicate(timeout=600)
        assert "Traceback" not in said
        return self.child.returncode, out


def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with FakeEndpoint(weather) as endpoint:
        proxy = Proxy(endpoint, run)
        native_agent(client(proxy.address, "whole"), "How is Oslo?")
        asked = [{"role": "user", "content": "How is Lima?"}]
        reply = client(proxy.address).chat.completions.create(model="fake", messages=asked, tools=TOOLS)
        status, _ = proxy.end(signal.SIGKILL)
        assert status == -signal.SIGKILL and not (run / "manifest.json").exists()

        with (run / "calls.jsonl").open("ab") as file:
            file.write(b'{"episode": "torn')
        manifest = resume(run)
        found = recorded(run)
        assert manifest["calls"] == 3 and found["whole"].answer == "rain in Oslo"
        assert found["episode-0001"].stop == "max_steps" and found["episode-0001"].steps[0].observation is None
        assert resume(run) == manifest

        proxy = Proxy(endpoint, run, "--json")
        message = reply.choices[0].message.model_dump(exclude_none=True)
        results = [
            {"role": "tool", "tool_call_id": c.id, "content": "dry"} for c in reply.choices[0].message.tool_calls
        ]
        client(proxy.address).chat.completions.create(model="fake", messages=[*asked, message, *results], tools=TOOLS)
        native_agent(client(proxy.address), "How is Oslo?")
        status, out = proxy.end(signal.SIGINT)
    assert status == 0 and json.loads(out)["episodes"] == 3
    found = recorded(run)
    assert sorted(found) == ["episode-0001", "episode-0002", "whole"]
    assert found["episode-0001"].answer == "rain in Lima" and found["episode-0001"].steps[1].observation == "dry"
    assert found["whole"] == recorded(run)["whole"]


def test_sigterm_writes_all_and_ends_well(tmp_path: Path) -> None:
    with FakeEndpoint(weather) as endpoint:
        proxy = Proxy(endpoint, tmp_path / "run")
        native_agent(client(proxy.address, "a"), "How is Oslo?")
        for _ in range(6000):  # an answer by a call is written at once, not at the end
            if (tmp_path / "run" / "trajectories.jsonl").exists():
                break
            time.sleep(0.1)
        assert recorded(tmp_path / "run")["a"].answer == "rain in Oslo"
        status, out = proxy.end(signal.SIGTERM)
    assert status == 0 and "is complete" in out and "recorded/recorded" in out


def test_an_idle_episode_is_written_and_written_again_when_it_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        FakeEndpoint(lambda request: f"reply {turns_of(request)}") as endpoint,
        record_calls(config(endpoint, idle=0.05), run) as address,
    ):
        messages = [{"role": "user", "content": "hello"}]
        for turn in range(2):
            client(address, "x").chat.completions.create(model="fake", messages=messages)
            deadline = time.monotonic() + 600
            while time.monotonic() < deadline:
                if (run / "trajectories.jsonl").exists() and recorded(run)["x"].answer == f"reply {turn}":
                    break
                time.sleep(0.05)
            assert recorded(run)["x"].answer == f"reply {turn}"
            messages += [{"role": "assistant", "content": f"reply {turn}"}, {"role": "user", "content": "more"}]
    one = recorded(run)["x"]
    assert [(step.text, step.observation) for step in one.steps] == [("reply 0", "more"), ("reply 1", None)]


def test_faults_pass_through_and_end_an_episode_in_error(tmp_path: Path) -> None:
    faults = [Fault(status=429, headers={"Retry-After": "7"}), Fault(cut=True)]
    with FakeEndpoint(weather, faults=faults) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        with pytest.raises(openai.RateLimitError) as limited:
            native_agent(client(address, "limited"), "How is Oslo?")
        assert limited.value.response.headers["retry-after"] == "7"
        with pytest.raises(openai.InternalServerError, match="broke off"):
            native_agent(client(address, "cut"), "How is Oslo?")
        with pytest.raises(openai.NotFoundError):
            client(address, "model").chat.completions.create(model="no", messages=[{"role": "user", "content": "x"}])
    found = recorded(tmp_path / "run")
    assert {one.stop for one in found.values()} == {"error"} and {one.steps for one in found.values()} == {()}
    assert "429" in str(found["limited"].error) and "404" in str(found["model"].error)
    assert found["cut"].example.question == "How is Oslo?"


def test_an_upstream_that_is_not_there_is_a_clear_502(tmp_path: Path) -> None:
    nowhere = RecordConfig(upstream="http://127.0.0.1:9/v1", port=0)
    with record_calls(nowhere, tmp_path / "run") as address:
        reply = httpx2.post(f"{address}/v1/chat/completions", json={"model": "m", "messages": []})
        assert reply.status_code == 502
        assert "http://127.0.0.1:9/v1 cannot be reached" in reply.json()["error"]["message"]


def test_a_slow_upstream_is_a_504_and_a_long_request_a_413(tmp_path: Path) -> None:
    slow = FakeEndpoint(weather, latency=lambda request: 1.0)
    with slow as endpoint, record_calls(config(endpoint, timeout=0.2, max_body=1000), tmp_path / "run") as address:
        url, ask = f"{address}/v1/chat/completions", {"model": "fake", "messages": []}
        assert httpx2.post(url, json=ask).status_code == 504
        long = httpx2.post(url, json={**ask, "user": "x" * 2000})
        assert long.status_code == 413 and "1000 bytes" in long.json()["error"]["message"]


def test_other_paths_pass_through_unrecorded(tmp_path: Path) -> None:
    with FakeEndpoint(weather) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        assert [model.id for model in client(address, "e").models.list()] == ["fake"]
        body = {"model": "fake", "input": "words", "messages": [{"role": "user", "content": "Oslo"}]}
        assert httpx2.post(f"{address}/v1/embeddings", json=body).status_code == 200
        assert endpoint.requests == [body]
        odd = httpx2.post(f"{address}/v1/chat/completions", json={**body, "messages": "none"})
        assert odd.status_code >= 400 or odd.json()
    assert read_manifest(tmp_path / "run")["calls"] == 0


def test_many_calls_at_once_wait_their_turn(tmp_path: Path) -> None:
    with FakeEndpoint(lambda request: "ok", latency=lambda request: 0.05) as endpoint:
        with record_calls(config(endpoint, concurrency=4), tmp_path / "run") as address:

            def ask(at: int) -> None:
                messages = [{"role": "user", "content": f"question {at}"}]
                client(address).chat.completions.create(model="fake", messages=messages)

            with ThreadPoolExecutor(24) as pool:
                list(pool.map(ask, range(24)))
        assert endpoint.peak <= 4 and len(endpoint.requests) == 24
    assert len(recorded(tmp_path / "run")) == 24


def test_a_reply_does_not_wait_for_an_acknowledgement(tmp_path: Path) -> None:
    def measure(address: str) -> float:
        """The shortest time of a request on a connection that has seen many, in seconds."""
        ask, seconds = {"model": "fake", "messages": [user("hello")]}, []
        with httpx2.Client() as client:
            for _ in range(46):
                started = time.perf_counter()
                client.post(f"{address}/v1/chat/completions", json=ask)
                seconds.append(time.perf_counter() - started)
        return min(seconds[16:])

    with FakeEndpoint(lambda request: "ok") as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        # 40 ms more, each time, where small packets are held back
        assert measure(address) < 0.03 + 30 * measure(endpoint.url.removesuffix("/v1"))


def test_settings_are_checked(tmp_path: Path) -> None:
    for wrong in (
        "localhost:8000",
        "ftp://x/v1",
        "http://",
        "http://user:key@x/v1",
        "http://x/v1?key=1",
        "http://x:99999",
    ):
        with pytest.raises(ConfigError, match="--upstream"):
            RecordConfig(upstream=wrong)
    assert parse_base_url("http://localhost:11434/") == "http://localhost:11434/v1"
    assert parse_base_url("https://x.org/v1beta/openai/") == "https://x.org/v1beta/openai"
    urls = {"chat completions": "https://x.org/api/v1", "responses": "https://y.org/v1", "messages": "https://z.org/v1"}
    upstream = Upstream(urls, 1, 1, 1)
    assert (
        upstream.url_for("/v1/models") == "https://x.org/api/v1/models"
        and upstream.url_for("/health") == "https://x.org/api/health"
    )
    assert upstream.url_for("/chat/completions") == "https://x.org/api/v1/chat/completions"
    assert is_loopback("127.0.0.1") and is_loopback("::1") and not is_loopback("0.0.0.0")
    with FakeEndpoint(weather) as endpoint:
        with record_calls(config(endpoint), tmp_path / "run") as address:
            port = int(address.rsplit(":", 1)[1])
            with pytest.raises(DataError, match="another process"), record_calls(config(endpoint), tmp_path / "run"):
                pass
            with pytest.raises(ConfigError, match="--port"), record_calls(config(endpoint, port=port), tmp_path / "b"):
                pass
        with (
            pytest.raises(DataError, match="other settings"),
            record_calls(config(endpoint, task="x"), tmp_path / "run"),
        ):
            pass


def test_beyond_loopback_is_warned_of(tmp_path: Path) -> None:
    with FakeEndpoint(weather) as endpoint:
        proxy = Proxy(endpoint, tmp_path / "run", "--host", "0.0.0.0")
        assert "warning: 0.0.0.0 can be reached from other machines" in proxy.said
        proxy.end(signal.SIGINT)


def test_a_missing_extra_gives_the_install_command(tmp_path: Path) -> None:
    arguments = ["fireact", "record", "--upstream", "http://127.0.0.1:9/v1", "-o", str(tmp_path / "run")]
    code = f"import sys; sys.modules['aiohttp'] = None; sys.argv = {arguments!r}; from fireact.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'fireact[serve]'" in done.stderr and "Traceback" not in done.stderr


# What follows needs no network: calls go straight into the book.


def unpriced(model: str, dialect: str) -> TokenPrice:
    return TokenPrice(lambda usage: None)


def build(
    conversations: Sequence[tuple[Sequence[Mapping[str, Any]], Any]], episode: str | None = "e"
) -> list[Trajectory]:
    """Trajectories of (messages, reply) in order."""
    book = TurnIndex()
    for at, (messages, reply) in enumerate(conversations):
        request = {"model": "m", "messages": list(messages)}
        name = episode or book.assign_episode(book.read_request("chat completions", request)[0].messages)
        status = reply if isinstance(reply, int) else 200
        message = (
            {"role": "assistant", **({"content": reply} if isinstance(reply, str) else reply or {})}
            if status == 200
            else {}
        )
        body = {"choices": [{"message": message, "finish_reason": "stop"}]}
        book.add(RecordedCall(name, episode is not None, float(at), 0.5, status, request, body))
    return [build_trajectory(turns, task="t", finishes=FINISH_NAMES, price=unpriced) for turns in book.turns.values()]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_a_turn_that_was_asked_again_counts_in_its_last_version() -> None:
    start = [user("q")]
    (one,) = build(
        [(start, "Action: a[1]"), (start, "Action: b[1]"), ([*start, assistant("Action: b[1]"), user("seen")], "done")]
    )
    assert [step.action.name for step in one.steps if step.action] == ["b", "finish"]
    assert one.meta["calls_aside"] == 1 and one.usage.calls == 3


def test_a_fault_in_between_is_mended_by_the_call_after_it() -> None:
    later = [user("q"), assistant("Action: a[1]"), user("Observation: seen")]
    (one,) = build([([user("q")], "Action: a[1]"), (later, 500), (later, "the end")])
    assert one.stop == "finish" and one.answer == "the end" and one.steps[0].observation == "seen"
    (one,) = build([([user("q")], "Action: a[1]"), (later, 500)])
    assert one.stop == "error" and one.steps[0].observation == "seen" and one.answer is None


def test_a_question_that_comes_again_is_a_new_episode() -> None:
    start = [user("q")]
    more = [*start, assistant("Action: a[1]"), user("seen")]
    found = build([(start, "Action: a[1]"), (more, "one"), (start, "Action: a[1]"), (more, "two")], None)
    assert [one.answer for one in found] == ["one", "two"]


def test_a_shortened_history_stays_in_its_episode() -> None:
    start = [user("q")]
    more = [*start, assistant("Action: a[1]"), user("seen")]
    short = [user("q"), user("(earlier steps left out)"), assistant("Action: a[2]"), user("Observation: two")]
    (one,) = build([(start, "Action: a[1]"), (more, "Action: a[2]"), (short, "end")], None)
    assert [step.observation for step in one.steps] == ["seen", "two", None] and one.answer == "end"


def test_a_plan_on_the_side_does_not_hide_the_main_conversation() -> None:
    start = [user("q")]
    more = [*start, assistant("Action: a[1]"), user("seen")]
    (one,) = build([([user("make a plan")], "first, second"), (start, "Action: a[1]"), (more, "end")])
    assert one.example.question == "q" and one.answer == "end" and one.meta["calls_aside"] == 1


def test_examples_before_the_question_are_context() -> None:
    shots = [user("1+1?"), assistant("Action: finish[2]")]
    (one,) = build([([*shots, user("2+2?")], "Action: finish[4]")])
    assert one.example.question == "2+2?" and one.answer == "4" and len(one.steps) == 1
    assert one.meta["context"] == [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "Action: finish[2]"},
    ]


def test_a_conversation_seen_from_its_middle_keeps_its_past() -> None:
    past = [user("q"), {**assistant("look"), "tool_calls": [call("look", 1, at="x")]}]
    (one,) = build([([*past, {"role": "tool", "tool_call_id": "call-look-1", "content": "seen"}], "end")])
    assert one.example.question == "q" and one.steps[0].action == Action("look", {"at": "x"})
    assert one.steps[0].observation == "seen" and one.answer == "end"


def test_words_after_the_answer_are_kept_apart() -> None:
    done = {"content": "so", "tool_calls": [call("submit", 1, answer=7)]}
    more = [user("q"), {**assistant("so"), **done}, {"role": "tool", "tool_call_id": "call-submit-1", "content": "ok"}]
    (one,) = build([([user("q")], done), (more, "Goodbye.")])
    assert one.answer == "7" and one.meta["closing"] == "Goodbye." and len(one.steps) == 1


def test_words_without_an_action_that_are_answered_go_on() -> None:
    (one,) = build([([user("q")], "hm"), ([user("q"), assistant("hm"), user("Use a tool.")], "the end")])
    assert [(step.action, step.observation) for step in one.steps] == [
        (None, "Use a tool."), (Action(FINISH, {"answer": "the end"}), None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "coded", "actions"),
    [
        ("Thought: x\nAction: search[a]\nObservation: b\nAction: finish[c]", False, [Action("search", {"query": "a"})]),
        ('Action:\n{"name": "look", "arguments": {"at": "x"}}', False, [Action("look", {"at": "x"})]),
        ('Action:\n```json\n{"action": "look", "action_input": "x"}\n```', False, [Action("look", {"input": "x"})]),
        ('{"tool": "look", "args": "{\\"at\\": 1}"}', False, [Action("look", {"at": 1})]),
        ("Action: look\nAction Input: some [thing]", False, [Action("look", {"input": "some [thing]"})]),
        ("I know.\nFinal Answer: two\nlines", False, [Action(FINISH, {"answer": "two\nlines"})]),
        (
            '<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>\n'
            '<tool_call>{"name": "b", "arguments": {"c": 1}}',
            False,
            [Action("a", {}), Action("b", {"c": 1})],
        ),
        ("<code>\nx = 1\nfinal_answer(x)", True, [Action("python_interpreter", {"code": "x = 1\nfinal_answer(x)"})]),
        (
            "```py\nx = 1\nfinal_answer([1, 2])\n```",
            True,
            [
                Action("python_interpreter", {"code": "x = 1\nfinal_answer([1, 2])"}),
                Action(FINISH, {"answer": "[1, 2]"}),
            ],
        ),
        ("Here you are:\n```python\nprint(1)\n```", False, []),
        ("Just words.", False, []),
    ],
)
def test_actions_in_text(text: str, coded: bool, actions: list[Action]) -> None:
    steps = parse_turn(text, coded=coded)
    assert [step.action for step in steps if step.action] == actions
    assert steps[0].text == text and [step.joined for step in steps] == [at > 0 for at in range(len(steps))]


def test_a_stream_in_splinters_is_put_together() -> None:
    def chunk(**delta: Any) -> str:
        return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\r\n\r\n"

    def part(at: int, identity: str | None, name: str | None, arguments: str) -> dict[str, Any]:
        return {"index": at, "id": identity, "function": {"name": name, "arguments": arguments}}

    text = ": a comment\n\n" + chunk(role="assistant", content="") + chunk(reasoning_content="hm")
    text += chunk(tool_calls=[part(0, "x", "look", "")]) + chunk(tool_calls=[part(0, None, None, '{"at": ')])
    text += chunk(tool_calls=[part(1, "y", "go", '{"to": 2}')]) + chunk(tool_calls=[part(0, None, None, "1}")])
    counted = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
    text += f"data: {json.dumps({'choices': [], 'usage': counted})}\n\ndata: [DONE]\n\n"
    reply = read_stream(CHAT_COMPLETIONS, text)
    assert reply.answered and reply.complete and not reply.error and reply.reasoning == "hm"
    assert [call.action for call in reply.calls] == [Action("look", {"at": 1}), Action("go", {"to": 2})]
    assert [call.id for call in reply.calls] == ["x", "y"]
    assert reply.usage is not None and (reply.usage.prompt_tokens, reply.usage.cached_tokens) == (9, 3)
    cut = read_stream(CHAT_COMPLETIONS, text.split("data: [DONE]")[0])
    assert cut == replace(reply, complete=False)


def test_a_client_that_goes_away_leaves_what_it_heard(tmp_path: Path) -> None:
    words = " ".join(f"word{at}" for at in range(20_000))
    with FakeEndpoint(lambda request: words) as endpoint:
        with record_calls(config(endpoint, concurrency=1), tmp_path / "run") as address:
            ask = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "stream": True}
            with httpx2.stream("POST", f"{address}/e/gone/v1/chat/completions", json=ask, timeout=600) as response:
                assert any("word0" in part for part in response.iter_text())  # and no further
            assert client(address, "after").models.list()  # the slot is free again
        manifest = read_manifest(tmp_path / "run")
    found = recorded(tmp_path / "run")["gone"]
    assert manifest["calls"] == 1 and found.stop == "format" and words.startswith(found.steps[0].text)


def test_costs_come_from_the_prices(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('[prices."fake"]\ninput_per_million = 1000000\noutput_per_million = 0\n')
    priced = {"prices": str(prices)}
    with FakeEndpoint(weather) as endpoint, record_calls(config(endpoint, **priced), tmp_path / "run") as address:
        native_agent(client(address), "How is Oslo?")
    (one,) = read_trajectories(tmp_path / "run")
    assert one.usage.cost == one.usage.prompt_tokens > 0


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "a", "arguments": {"b": "\\ud83d"}}',
        'Action: {"name": "a", "args": "\\ud83d"}',
        '<code>final_answer("\\ud83d")',
    ],
)
def test_half_a_surrogate_in_an_action_can_be_written(text: str) -> None:
    (one,) = build([([user("q")], text)])
    assert jsonl.dumps(one.to_dict()).encode() and one.steps[0].action is not None


def test_questions_are_found_in_prompts() -> None:
    assert extract_question("New task:\nWho?") == "Who?" and extract_question("Who?") == "Who?"
    assert extract_question("Rules.\nQuestion: a?\nThought: ..\n\nQuestion: b?\nThought:") == "b?"


KEYS = (
    "choices", "message", "content", "tool_calls", "function", "name", "arguments", "delta", "text", "role", "usage",
    "index", "messages",
)  # fmt: skip
JSON = json_values(keys=KEYS, most=12, nan=True)


@given(JSON, st.text())
def test_whatever_comes_over_the_wire_is_read(value: Any, text: str) -> None:
    written = json.dumps(value)
    CHAT_COMPLETIONS.read_reply(value)
    CHAT_COMPLETIONS.read_reply({"choices": [{"message": value}]})
    read_stream(CHAT_COMPLETIONS, f"data: {written}\n\ndata: {json.dumps({'choices': [{'delta': value}]})}\n\n{text}")
    for coded in (True, False):
        assert parse_turn(text, coded=coded)[0].text == text
        parse_turn(f"<code>{text}", coded=coded)
        parse_turn(f"Action: {written}", coded=coded)
    book = TurnIndex()
    request = {"messages": [{"role": "user", "content": value}, value, {"role": "assistant", "content": text}]}
    for _ in range(2):
        episode = book.assign_episode(book.read_request("chat completions", request)[0].messages)
        book.add(
            RecordedCall(
                episode,
                False,
                0.0,
                0.0,
                200,
                request,
                {"choices": [{"message": {"content": text, "tool_calls": value}}]},
            )
        )
    for turns in book.turns.values():
        found = build_trajectory(turns, task="t", finishes=FINISH_NAMES, price=unpriced)
        assert Trajectory.from_dict(
            json.loads(jsonl.dumps(found.to_dict()))
        ).to_dict() == found.to_dict() or "NaN" in str(value).replace("nan", "NaN")


def test_half_a_surrogate_does_not_stop_a_recording(tmp_path: Path) -> None:
    def reply(request: Mapping[str, Any]) -> dict[str, Any]:
        function = {"name": "final_answer", "arguments": '{"answer": "\\ud83d"}'}
        return {"content": "\ud83d", "tool_calls": [{"id": "1", "type": "function", "function": function}]}

    with FakeEndpoint(reply) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        content = b'{"model": "fake", "messages": [{"role": "user", "content": "\\ud83d?"}]}'
        headers = {"Content-Type": "application/json"}
        assert httpx2.post(f"{address}/v1/chat/completions", content=content, headers=headers).status_code == 200
    assert [one.answer for one in read_trajectories(tmp_path / "run")] == ["?"]


def test_scores_stand_while_an_episode_does_not_change(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with FakeEndpoint(weather) as endpoint:
        with record_calls(config(endpoint), run) as address:
            native_agent(client(address, "a"), "How is Oslo?")
        scored = [one.with_scores({"em": 1.0, "f1": 1.0}).to_dict() for one in read_trajectories(run)]
        jsonl.write_objects(run / "trajectories.jsonl", scored)
        with record_calls(config(endpoint), run) as address:
            native_agent(client(address, "b"), "How is Lima?")
    assert {name: dict(one.scores) for name, one in recorded(run).items()} == {"a": {"em": 1.0, "f1": 1.0}, "b": {}}
    assert list(recorded(run)) == ["a", "b"]


def test_concluding_twice_gives_the_same(tmp_path: Path) -> None:
    with FakeEndpoint(weather) as endpoint:
        settings = config(endpoint)
        with record_calls(settings, tmp_path / "run") as address:
            native_agent(client(address), "How is Oslo?")
        before = (tmp_path / "run" / "trajectories.jsonl").read_bytes()
        for name in ("manifest.json", "trajectories.jsonl"):
            (tmp_path / "run" / name).unlink()
        conclude(settings, tmp_path / "run")
    assert (tmp_path / "run" / "trajectories.jsonl").read_bytes() == before
    assert asdict(settings)["upstream"] == endpoint.url
