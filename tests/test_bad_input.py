"""Bad input on record and serve, by the real clients: one error in the dialect's form, and the others go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

pytest.importorskip("starlette")

from fireact.base.run_directory import read_trajectories
from fireact.models.fake_endpoint import FakeEndpoint, Fault
from fireact.recording.recorder import RecordConfig, read_calls, record_calls
from fireact.types import Call, Completion, Trajectory, Usage
from fireact.wire.dialects import DIALECTS
from test_serve import listening

KEY = "sk-wrong-key-0123456789"
ANSWER = "It is a long answer in some words."
SEARCH = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
HUGE = "x" * 50_000_000


@dataclass(frozen=True)
class Wire:
    """A dialect with its client: ``ask`` returns the text of a reply, ``stream`` yields its deltas."""

    name: str
    connect: Callable[[str, str], Any]
    ask: Callable[..., str]
    stream: Callable[[Any, str], Generator[str]]
    errors: Any

    @property
    def call_error(self) -> type[Exception]:
        error_class: type[Exception] = self.errors.APIError
        return error_class


def connect_openai(address: str, key: str) -> Any:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=600)


def connect_anthropic(address: str, key: str) -> Any:
    return anthropic.Anthropic(base_url=address, api_key=key, max_retries=0, timeout=600)


def ask_chat(client: Any, text: str, *, tools: bool = False) -> str:
    function = {"name": "search", "parameters": SEARCH}
    options = {"tools": [{"type": "function", "function": function}]} if tools else {}
    reply = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": text}], **options)
    return str(reply.choices[0].message.content)


def stream_chat(client: Any, text: str) -> Generator[str]:
    messages = [{"role": "user", "content": text}]
    with client.chat.completions.create(model="fake", messages=messages, stream=True) as chunks:
        yield from (chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def ask_responses(client: Any, text: str, *, tools: bool = False) -> str:
    tool = {"type": "function", "name": "search", "parameters": SEARCH, "strict": False}
    options = {"tools": [tool]} if tools else {}
    return str(client.responses.create(model="fake", input=text, **options).output_text)


def stream_responses(client: Any, text: str) -> Generator[str]:
    with client.responses.create(model="fake", input=text, stream=True) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                yield event.delta
            elif event.type == "response.failed":  # which the client raises not
                raise openai.APIError(event.response.error.message, client.post, body=None)


def ask_messages(client: Any, text: str, *, tools: bool = False) -> str:
    options = {"tools": [{"name": "search", "input_schema": SEARCH}]} if tools else {}
    messages = [{"role": "user", "content": text}]
    reply = client.messages.create(model="fake", max_tokens=10_000, messages=messages, **options)
    return str(reply.content[0].text)


def stream_messages(client: Any, text: str) -> Generator[str]:
    messages = [{"role": "user", "content": text}]
    with client.messages.stream(model="fake", max_tokens=10_000, messages=messages) as events:
        yield from events.text_stream


WIRES = [
    Wire("chat completions", connect_openai, ask_chat, stream_chat, openai),
    Wire("responses", connect_openai, ask_responses, stream_responses, openai),
    Wire("messages", connect_anthropic, ask_messages, stream_messages, anthropic),
]
each_wire = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)


def config(endpoint: FakeEndpoint, **options: Any) -> RecordConfig:
    return RecordConfig(upstream=endpoint.url, port=0, **options)


def assert_other_is_served(wire: Wire, address: str, answer: str = ANSWER) -> None:
    with closing(wire.connect(address, "none")) as client:
        assert wire.ask(client, "Who is next?") == answer


def read_episodes(run: Path) -> dict[str, Trajectory]:
    return {trajectory.example.id: trajectory for trajectory in read_trajectories(run)}


@each_wire
def test_a_wrong_key_is_refused_in_the_words_of_the_endpoint(wire: Wire, tmp_path: Path) -> None:
    body = DIALECTS[wire.name].write_error(f"Incorrect API key: {KEY}", "authentication_error")
    wrong_key = Fault(status=401, body=json.dumps(body))
    with (
        FakeEndpoint(lambda _: ANSWER, faults=[wrong_key]) as endpoint,
        record_calls(config(endpoint), tmp_path / "run") as address,
        closing(wire.connect(f"{address}/e/1", KEY)) as client,
    ):
        with pytest.raises(wire.errors.AuthenticationError, match=KEY):
            wire.ask(client, "Where?")
        assert_other_is_served(wire, f"{address}/e/2")
    episodes = read_episodes(tmp_path / "run")
    assert "401: Incorrect API key: [key]" in str(episodes["1"].error) and episodes["2"].answer == ANSWER
    assert all(KEY.encode() not in file.read_bytes() for file in (tmp_path / "run").iterdir())


@each_wire
def test_half_a_stream_is_an_error_for_its_client(wire: Wire, tmp_path: Path) -> None:
    with (
        FakeEndpoint(lambda _: ANSWER, faults=[Fault(cut=True)]) as endpoint,
        record_calls(config(endpoint), tmp_path / "run") as address,
        closing(wire.connect(f"{address}/e/half", "none")) as client,
    ):
        deltas = []
        with pytest.raises(wire.call_error, match="broke off its stream"):
            deltas += wire.stream(client, "Where?")
        assert_other_is_served(wire, f"{address}/e/whole")
    episodes = read_episodes(tmp_path / "run")
    assert "broke off its stream" in str(episodes["half"].error) and episodes["whole"].answer == ANSWER


@pytest.mark.parametrize("body", [": ping\n\n", 'data: {"id": "x"}\n\n', 'data: {"id"'])
def test_a_stream_that_ends_anywhere_is_an_error(body: str, tmp_path: Path) -> None:
    """An error can follow whole events alone; within one, the connection breaks."""
    half = Fault(body=body, headers={"Content-Type": "text/event-stream"})
    with (
        FakeEndpoint(lambda _: half) as endpoint,
        record_calls(config(endpoint), tmp_path / "run") as address,
        closing(connect_openai(address, "none")) as client,
        pytest.raises(openai.APIError, match=r"broke off its stream|Connection error"),
    ):
        list(stream_chat(client, "Where?"))


@each_wire
def test_a_client_that_leaves_a_stream_leaves_what_it_read(wire: Wire, tmp_path: Path) -> None:
    words = " ".join(f"word{number}" for number in range(5000))
    with (
        FakeEndpoint(lambda _: words) as endpoint,
        record_calls(config(endpoint, concurrency=1), tmp_path / "run") as address,
    ):
        with closing(wire.connect(f"{address}/e/left", "none")) as client:
            deltas = wire.stream(client, "Where?")
            assert next(delta for delta in deltas if delta) == "word0"
            deltas.close()
        assert_other_is_served(wire, f"{address}/e/next", words)
    (call, _) = read_calls(tmp_path / "run" / "calls.jsonl")
    assert call.cut == "client" and "word0" in call.reply
    assert read_episodes(tmp_path / "run")["next"].answer == words


@each_wire
def test_50_mb_are_recorded_or_refused_at_the_limit(wire: Wire, tmp_path: Path) -> None:
    with FakeEndpoint(lambda _: ANSWER) as endpoint:
        with record_calls(config(endpoint, max_body=1_000_000), tmp_path / "run") as address:
            with closing(wire.connect(f"{address}/e/1", "none")) as client:
                with pytest.raises(wire.errors.APIStatusError, match="longer than 1000000 bytes") as refusal:
                    wire.ask(client, HUGE)
                assert refusal.value.status_code == 413
            assert_other_is_served(wire, f"{address}/e/2")
        assert len(endpoint.requests) == 1


@pytest.mark.slow
def test_50_mb_pass_where_they_may(tmp_path: Path) -> None:
    wire = WIRES[0]
    with FakeEndpoint(lambda _: ANSWER) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        with closing(wire.connect(f"{address}/e/1", "none")) as client:
            assert wire.ask(client, HUGE) == ANSWER
        assert endpoint.requests[0]["messages"][0]["content"] == HUGE
    assert read_episodes(tmp_path / "run")["1"].example.question == HUGE


class Student:
    """A student that writes its answer, or fails in the middle of it, or writes until its client has left."""

    name = "student"

    def __init__(self) -> None:
        self.left = threading.Event()

    def complete(self, call: Call) -> Completion:
        question = call.messages[-1].content
        try:
            while call.on_delta is not None:
                call.on_delta(ANSWER)
                if question == "Fail.":
                    raise RuntimeError("out of luck")
                if question != "Go on.":
                    break
        finally:
            if question == "Go on.":
                self.left.set()
        return Completion(ANSWER, Usage(1, 10, 0, 5), "stop", 0.0)


@each_wire
def test_the_server_refuses_in_the_form_of_the_dialect(wire: Wire) -> None:
    refusals: Mapping[str, dict[str, Any]] = {
        "longer than 4000000 bytes": {"text": HUGE}, "write its actions as text": {"text": "Where?", "tools": True}
    }  # fmt: skip
    with listening(Student(), runs_tools=False) as port:
        address = f"http://127.0.0.1:{port}"
        with closing(wire.connect(address, "none")) as client:
            for message, request in refusals.items():
                with pytest.raises(wire.errors.APIStatusError, match=message) as refusal:
                    wire.ask(client, **request)
                assert refusal.value.body is not None
                assert_other_is_served(wire, address)
    with listening(Student(), runs_tools=False, key="right") as port:
        address = f"http://127.0.0.1:{port}"
        with closing(wire.connect(address, KEY)) as client, pytest.raises(wire.errors.AuthenticationError) as refused:
            wire.ask(client, "Where?")
        assert KEY not in str(refused.value)
        with closing(wire.connect(address, "right")) as client:
            assert wire.ask(client, "Where?") == ANSWER


@each_wire
def test_the_server_goes_on_when_a_stream_ends_early(wire: Wire) -> None:
    student = Student()
    with listening(student, runs_tools=False) as port:
        address = f"http://127.0.0.1:{port}"
        with closing(wire.connect(address, "none")) as client:
            with pytest.raises(wire.call_error, match="out of luck"):
                list(wire.stream(client, "Fail."))
            deltas = wire.stream(client, "Go on.")
            assert next(delta for delta in deltas if delta)
            deltas.close()
        assert student.left.wait(600)
        assert_other_is_served(wire, address)
