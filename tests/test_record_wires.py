"""Recording on three wires: the real clients of openai, anthropic and openai-agents, from a scripted endpoint."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import signal
import socket
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anthropic
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import fireact
from fireact.base.run_directory import read_manifest, read_trajectories
from fireact.errors import ConfigError
from fireact.models.fake_endpoint import FakeEndpoint, Fault
from fireact.recording.calls import RecordedCall
from fireact.recording.conversations import TurnIndex
from fireact.recording.endings import describe_endings
from fireact.recording.proxy import Upstream
from fireact.recording.recorder import RecordConfig, RecorderAddress, RecordingStatus, conclude, record_calls
from fireact.recording.scores import score
from fireact.recording.trajectories import build_trajectory
from fireact.reporting.watch import find_watched_runs, read_updates
from fireact.terminal.recording_status import describe_nothing_recorded, make_status_table
from fireact.types import FINISH, Action, Trajectory, Usage
from fireact.wire.dialects import find_dialect
from fireact.wire.schemas import FINISH_NAMES
from test_record import Proxy, unpriced
from test_wire import JSON
from test_wire_dialects import BLOCK, NAMING, REPLY, REQUEST

QUESTION = "How many people live in Kenya?"
PARAMETERS = {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]}
RESULTS = ("function_call_output", "tool_result", '"role": "tool"')


def scripted(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Looks the population up, then answers, whatever the dialect of the request."""
    if not any(name in json.dumps(request) for name in RESULTS):
        arguments = json.dumps({"country": "Kenya"})
        call = {"id": "call_1", "type": "function", "function": {"name": "population", "arguments": arguments}}
        return {"content": "I look it up.", "reasoning_content": "It is a fact.", "tool_calls": [call]}
    return {"content": "55 million"}


def config(endpoint: FakeEndpoint, **options: Any) -> RecordConfig:
    return RecordConfig(upstream=endpoint.url, **{"port": 0, **options})


def responses_loop(url: str, *, stream: bool, by_id: bool = False, conversation: str | None = None) -> str:
    """An agent on the plain client; ``by_id`` sends only what is new, after the id of the response before."""
    model = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    tools: Any = [{"type": "function", "name": "population", "parameters": PARAMETERS, "strict": True}]
    items: list[Any] = [{"role": "user", "content": QUESTION}]
    options: dict[str, Any] = {"conversation": conversation} if conversation else {}
    while True:
        settings: Any = {"model": "fake", "tools": tools, "instructions": "Be short.", **options}
        if stream:
            with model.responses.stream(input=items, **settings) as events:
                for _ in events:
                    pass
                response: Any = events.get_final_response()
        else:
            response = model.responses.create(input=items, **settings)
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            return str(response.output_text)
        outputs = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "55 million people"} for call in calls
        ]
        items = outputs if by_id or conversation else [*items, *response.output, *outputs]
        options |= {"previous_response_id": response.id} if by_id else {}


def messages_loop(url: str, *, stream: bool) -> str:
    """An agent on the plain client of Anthropic."""
    model = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    settings: Any = {
        "model": "fake",
        "max_tokens": 100,
        "system": [{"type": "text", "text": "Be short."}],
        "tools": [{"name": "population", "description": "counts", "input_schema": PARAMETERS}],
    }
    while True:
        if stream:
            with model.messages.stream(messages=messages, **settings) as events:
                reply: Any = events.get_final_message()
        else:
            reply = model.messages.create(messages=messages, **settings)
        calls = [block for block in reply.content if block.type == "tool_use"]
        if not calls:
            return str(reply.content[-1].text)
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "55 million people"} for call in calls]
        messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]


def assert_is_the_loop(trajectory: Trajectory, dialect: str) -> None:
    assert trajectory.example.question == QUESTION and trajectory.stop == "finish" and trajectory.answer == "55 million"
    step, last = trajectory.steps
    assert step.action == Action("population", {"country": "Kenya"}) and step.observation == "55 million people"
    assert step.thought == "I look it up." and last.action == Action(FINISH, {"answer": "55 million"})
    assert trajectory.meta["system"] == "Be short." and trajectory.meta["dialect"] == dialect
    assert trajectory.meta["tools"][0]["name"] == "population" and "missing_history" not in trajectory.meta
    assert trajectory.usage.calls == 2 and trajectory.usage.completion_tokens > 0


@pytest.mark.parametrize("with_ids", [True, False])
def test_responses_and_messages_whole_and_streamed(tmp_path: Path, with_ids: bool) -> None:
    with FakeEndpoint(scripted) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        for name, stream in (("whole", False), ("streamed", True)):
            base = f"{address}/e/{name}" if with_ids else address
            assert responses_loop(f"{base}/v1", stream=stream) == "55 million"
            assert messages_loop(f"{base}-m" if with_ids else base, stream=stream) == "55 million"
        status = address.status
    assert status.calls == {"responses": 4, "messages": 4} and status.last_question == QUESTION and not status.errors
    trajectories = list(read_trajectories(tmp_path / "run"))
    assert len(trajectories) == 4 and read_manifest(tmp_path / "run")["calls_by_dialect"] == status.calls
    for trajectory, dialect in zip(trajectories, ["responses", "messages"] * 2, strict=True):
        assert_is_the_loop(trajectory, dialect)
    assert read_manifest(tmp_path / "run")["endings"] == []
    before = (tmp_path / "run" / "trajectories.jsonl").read_bytes()
    (tmp_path / "run" / "manifest.json").unlink()
    conclude(config(endpoint), tmp_path / "run")
    assert (tmp_path / "run" / "trajectories.jsonl").read_bytes() == before


@pytest.mark.parametrize("stream", [True, False])
def test_an_earlier_response_is_resolved_from_what_was_recorded(tmp_path: Path, stream: bool) -> None:
    with FakeEndpoint(scripted) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        assert responses_loop(f"{address}/v1", stream=stream, by_id=True) == "55 million"
        conversation = openai.OpenAI(base_url=f"{address}/v1", api_key="none").conversations.create()
        assert responses_loop(f"{address}/v1", stream=stream, conversation=conversation.id) == "55 million"
        assert [len(request["input"]) for request in endpoint.requests if "input" in request] == [1, 1, 1, 1]
        model = openai.OpenAI(base_url=f"{address}/e/late/v1", api_key="none", max_retries=0)
        model.responses.create(model="fake", input="And in Peru?", previous_response_id="resp_from_before")
        model = openai.OpenAI(base_url=f"{address}/e/elsewhere/v1", api_key="none", max_retries=0)
        model.responses.create(model="fake", input="And in Peru?", conversation="conv_from_before")
    *loops, late, elsewhere = read_trajectories(tmp_path / "run")
    assert elsewhere.meta["missing_history"] == ["conv_from_before"]
    for trajectory in loops:
        assert_is_the_loop(trajectory, "responses")
    assert len(loops) == 2 and late.meta["missing_history"] == ["resp_from_before"]
    (line,) = (manifest := read_manifest(tmp_path / "run"))["endings"][-1:]
    (tmp_path / "run" / "manifest.json").unlink()
    assert conclude(RecordConfig(upstream=endpoint.url), tmp_path / "run")["endings"] == manifest["endings"]
    assert line == "2 of 4 episodes continue responses that are not in the recording."


@pytest.mark.parametrize("stream", [True, False])
def test_openai_agents_on_its_default(tmp_path: Path, stream: bool) -> None:
    from agents import Agent, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(True)

    @function_tool
    def population(country: str) -> str:
        """How many people live in a country."""
        return "55 million people"

    async def run_agent(url: str) -> str:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            model = OpenAIResponsesModel("fake", openai_client=client)
            agent = Agent(name="counter", instructions="Be short.", model=model, tools=[population])
            if not stream:
                return str((await Runner.run(agent, QUESTION)).final_output)
            result = Runner.run_streamed(agent, QUESTION)
            async for _ in result.stream_events():
                pass
            return str(result.final_output)

    with FakeEndpoint(scripted) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        assert asyncio.run(run_agent(f"{address}/e/1/v1")) == "55 million"
    (trajectory,) = read_trajectories(tmp_path / "run")
    assert_is_the_loop(trajectory, "responses")


def test_each_dialect_has_its_upstream(tmp_path: Path) -> None:
    with FakeEndpoint(scripted) as first, FakeEndpoint(scripted, models=("fake", "claude")) as second:
        settings = RecordConfig(upstream=first.url, upstream_for={"messages": second.url}, port=0)
        with record_calls(settings, tmp_path / "run") as address:
            responses_loop(f"{address}/v1", stream=False)
            messages_loop(f"{address}/v1", stream=False)  # a base URL with /v1, which the client adds once more
            model = anthropic.Anthropic(base_url=address, api_key="none", max_retries=0)
            assert [entry.id for entry in model.models.list()] == ["fake", "claude"]
            assert model.messages.count_tokens(model="fake", messages=[{"role": "user", "content": "x"}]).input_tokens
            assert [entry.id for entry in openai.OpenAI(base_url=f"{address}/v1", api_key="x").models.list()] == [
                "fake"
            ]
        assert len(first.requests) == 2 and len(second.requests) == 3
    defaults = RecordConfig()
    assert defaults.urls["responses"] == "https://api.openai.com/v1"
    assert defaults.urls["messages"] == "https://api.anthropic.com/v1"
    with pytest.raises(ConfigError, match=r"dialect of --upstream-for 'mesages'. Did you mean 'messages'"):
        RecordConfig(upstream_for={"mesages": "http://x"})
    with pytest.raises(ConfigError, match="https:// is missing"):
        RecordConfig(upstream_for={"messages": "api.anthropic.com"})


def test_errors_come_in_the_form_of_the_dialect(tmp_path: Path) -> None:
    with record_calls(RecordConfig(upstream="http://127.0.0.1:9/v1", port=0), tmp_path / "run") as address:
        model = anthropic.Anthropic(base_url=f"{address}/e/1", api_key="none", max_retries=0)
        with pytest.raises(anthropic.InternalServerError, match="cannot be reached") as failure:
            model.messages.create(model="fake", max_tokens=1, messages=[{"role": "user", "content": "x"}])
        assert failure.value.body["type"] == "error" and failure.value.body["error"]["type"] == "api_error"  # type: ignore[index]
        with pytest.raises(openai.InternalServerError, match="cannot be reached"):
            openai.OpenAI(base_url=f"{address}/e/2/v1", api_key="x", max_retries=0).responses.create(
                model="m", input="x"
            )
    assert [trajectory.stop for trajectory in read_trajectories(tmp_path / "run")] == ["error", "error"]
    (line, reason) = read_manifest(tmp_path / "run")["endings"]
    assert line == "2 of 2 episodes have no answer:" and "the endpoint answered 502" in reason


def test_what_a_client_reads_of_a_stream_is_on_disk(tmp_path: Path) -> None:
    """The call is logged when the client has the last event, though the connection is still open."""
    lasts = {
        "chat/completions": "data: [DONE]",
        "responses": "event: response.completed",
        "messages": "event: message_stop",
    }
    body = {"model": "fake", "input": "x", "messages": [{"role": "user", "content": "x"}], "stream": True}
    reply = "data: [DONE] is how streams end"
    with FakeEndpoint(lambda _: reply) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        for number, (path, last) in enumerate(lasts.items(), 1):
            with httpx2.stream("POST", f"{address}/e/{number}/v1/{path}", json=body) as response:
                lines = response.iter_lines()
                assert any(line.startswith(last) for line in lines) and next(lines) is not None
                assert len((tmp_path / "run" / "calls.jsonl").read_bytes().splitlines()) == number
    answers = [trajectory.answer for trajectory in read_trajectories(tmp_path / "run")]
    assert answers == [reply] * 3


def build(dialect: str, conversations: list[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Trajectory:
    index = TurnIndex()
    for at, (request, reply) in enumerate(conversations):
        index.add(RecordedCall("e", True, float(at), 0.5, 200, request, reply, dialect=dialect))
    return build_trajectory(index.turns["e"], task="t", finishes=FINISH_NAMES, price=unpriced)


def test_tools_of_a_provider_become_steps_with_what_the_wire_shows() -> None:
    search = {
        "id": "ws_1",
        "type": "web_search_call",
        "status": "completed",
        "action": {
            "type": "search",
            "query": "capital of Peru",
            "sources": [{"type": "url", "url": "https://peru.example"}],
        },
    }
    text = {"id": "m", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Lima"}]}
    trajectory = build(
        "responses",
        [({"model": "m", "input": "Capital of Peru?"}, {"id": "r", "status": "completed", "output": [search, text]})],
    )
    step, last = trajectory.steps
    assert step.action == Action("web_search", {"type": "search", "query": "capital of Peru"})
    assert step.observation is not None and "https://peru.example" in step.observation
    assert last.action == Action(FINISH, {"answer": "Lima"}) and trajectory.stop == "finish"

    content = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "capital of Peru"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "s",
            "content": [{"type": "web_search_result", "title": "Lima, Peru"}],
        },
        {"type": "text", "text": "I count it now."},
        {"type": "tool_use", "id": "t", "name": "population", "input": {"city": "Lima"}},
    ]
    user = {"role": "user", "content": "How many people live in the capital of Peru?"}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "10 million"}]}
    requests = [
        {"model": "m", "messages": [user]},
        {"model": "m", "messages": [user, {"role": "assistant", "content": content}, result]},
    ]
    replies = [{"content": content, "stop_reason": "tool_use"}, {"content": [{"type": "text", "text": "10"}]}]
    trajectory = build("messages", list(zip(requests, replies, strict=True)))
    searched, counted, last = trajectory.steps
    assert searched.action == Action("web_search", {"query": "capital of Peru"}) and "Lima, Peru" in str(
        searched.observation
    )
    assert counted.action == Action("population", {"city": "Lima"}) and counted.observation == "10 million"
    assert counted.thought == "I count it now." and last.action == Action(FINISH, {"answer": "10"})


@pytest.mark.parametrize("dialect", ["responses", "messages"])
@given(
    requests=st.lists(REQUEST | NAMING, min_size=1, max_size=3),
    replies=st.lists(REPLY | st.fixed_dictionaries({"content": st.lists(BLOCK | JSON, max_size=3)}) | JSON, min_size=3),
)
def test_any_call_becomes_an_episode(dialect: str, requests: list[dict[str, Any]], replies: list[Any]) -> None:
    index = TurnIndex()
    for at, (request, reply) in enumerate(zip(requests, replies, strict=False)):
        episode = index.assign_episode(index.read_request(dialect, request)[0].messages)
        body = reply if at % 2 else f"data: {json.dumps(reply)}\n\n"
        index.add(RecordedCall(episode, False, float(at), 0.5, 200, request, body, dialect=dialect))
    for turns in index.turns.values():
        trajectory = build_trajectory(turns, task="t", finishes=FINISH_NAMES, price=unpriced)
        assert json.dumps(trajectory.to_dict()) and isinstance(describe_endings([trajectory]), list)


def computed(request: Mapping[str, Any]) -> str:
    return "Thought: I compute it.\n<code>\nfinal_answer(sum(values))\n</code>"


def ask(address: str, episode: str) -> None:
    model = openai.OpenAI(base_url=f"{address}/e/{episode}/v1", api_key="none", max_retries=0)
    model.chat.completions.create(model="fake", messages=[{"role": "user", "content": "What is the sum?"}])


def test_feedback_gives_answers_and_scores(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with FakeEndpoint(computed) as endpoint:
        with record_calls(config(endpoint), run) as address:
            assert isinstance(address, RecorderAddress)
            for episode in ("a", "b/1", "c"):
                ask(address, episode.replace("/", "%2F"))
            address.feedback("a", answer="41")
            address.feedback("a", answer="42", score=0.5, comment="close")
            sent = httpx2.post(f"{address}/e/b%2F1/feedback", json={"score": 1, "demonstration": "42"})
            assert sent.status_code == 200 and sent.json() == {"episode": "b/1"}
            with pytest.raises(ConfigError, match=r"no episode 'z' in this recording. The latest are: a, b/1, c"):
                address.feedback("z", answer="42")
            with pytest.raises(ConfigError, match="score is 7; it must be a number from 0 to 1"):
                address.feedback("a", score=7)
            with pytest.raises(ConfigError, match="must be a JSON object with one of answer, score"):
                address.feedback("a")
            typo = httpx2.post(f"{address}/e/a/v1/feedback", json={"anwser": "42", "comment": "x"})
            assert typo.status_code == 400 and "Did you mean 'answer'" in typo.json()["error"]["message"]
        assert len(endpoint.requests) == 3  # feedback goes no further
        first, second, third = read_trajectories(run)
        assert first.answer == "42" and first.scores == {"em": 0.5, "f1": 0.5} and first.meta["comments"] == ["close"]
        assert [step.joined for step in first.steps] == [False, True] and first.stop == "finish"
        assert second.answer is None and second.scores["em"] == 1.0 and second.meta["demonstration"] == "42"
        assert third.answer is None and third.scores == {}
        line, reason = read_manifest(run)["endings"]
        assert line == "2 of 3 episodes have no answer:" and "acts in code" in reason and "/feedback" in reason
        with record_calls(config(endpoint), run) as address:  # feedback stands when the recording is resumed
            ask(address, "d")
            address.feedback("d", answer="42")
    assert [trajectory.answer for trajectory in read_trajectories(run)] == ["42", None, None, "42"]


def test_a_tool_that_is_never_answered_is_offered_as_the_answer(tmp_path: Path) -> None:
    def reply(request: Mapping[str, Any]) -> Mapping[str, Any]:
        name = "give_result" if "sum" in json.dumps(request) else "final_result"
        return {
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": name, "arguments": '{"value": 42}'}}]
        }

    run = tmp_path / "run"
    with FakeEndpoint(reply) as endpoint:
        with record_calls(config(endpoint), run) as address:
            ask(address, "a")
            model = openai.OpenAI(base_url=f"{address}/e/b/v1", api_key="none", max_retries=0)
            model.chat.completions.create(model="fake", messages=[{"role": "user", "content": "And the product?"}])
        assert [trajectory.answer for trajectory in read_trajectories(run)] == [None, "42"]  # final_result is known
        line, reason = read_manifest(run)["endings"]
        assert line == "1 of 2 episodes have no answer:"
        assert reason == "1: their last call was `give_result`, which is never answered: --finish give_result?"
        with record_calls(config(endpoint, finish=["give_result", "final_result"]), run):  # the same run, as advised
            pass
    assert [trajectory.answer for trajectory in read_trajectories(run)] == ["42", "42"]
    assert read_manifest(run)["endings"] == []


def test_a_recording_of_nothing_says_what_it_saw(tmp_path: Path) -> None:
    with FakeEndpoint(scripted) as endpoint:
        proxy = Proxy(endpoint, tmp_path / "run")
        openai.OpenAI(base_url=f"{proxy.address}/v1", api_key="x").embeddings.create(model="fake", input="words")
        proxy.child.send_signal(signal.SIGINT)
        printed, error = proxy.child.communicate(timeout=600)
        assert proxy.child.returncode == 1 and not printed
        assert "nothing was recorded. Requests: 1 x POST /v1/embeddings (200). Recorded are: POST /v1/chat/" in error
        proxy = Proxy(endpoint, tmp_path / "other")
        proxy.child.send_signal(signal.SIGINT)
        _, error = proxy.child.communicate(timeout=600)
        assert proxy.child.returncode == 1 and f"The agent's base URL must be {proxy.address}/v1" in error


def test_a_recording_whose_calls_all_failed_names_the_cause(tmp_path: Path) -> None:
    error = {"error": {"message": "wrong key"}}
    with (
        FakeEndpoint(lambda request: Fault(401, body=json.dumps(error))) as endpoint,
        record_calls(config(endpoint), tmp_path / "run") as address,
    ):
        body = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
        assert httpx2.post(f"{address}/v1/chat/completions", json=body).status_code == 401
        headers = {"content-type": "text/plain"}
        assert httpx2.post(f"{address}/v1/responses", content=b"{}", headers=headers).status_code == 415
    manifest = read_manifest(tmp_path / "run")
    assert manifest["unrecorded"] == {"POST /v1/responses (415)": 1}
    assert "all calls failed. 1 x the endpoint answered 401: wrong key" in describe_nothing_recorded(manifest, address)
    assert describe_nothing_recorded({**manifest, "failed_calls": 0}, address) == ""


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/v1/messages", "https://api.anthropic.com/v1/messages"),
        ("/v1/v1/messages/count_tokens", "https://api.anthropic.com/v1/messages/count_tokens"),
        ("/messages/batches", "https://api.anthropic.com/v1/messages/batches"),
        ("/v1/chat/completions/chatcmpl-1/messages", "https://api.openai.com/v1/chat/completions/chatcmpl-1/messages"),
        ("/v1/threads/t/messages", "https://api.openai.com/v1/threads/t/messages"),
        ("/v1/responses/r/input_items", "https://api.openai.com/v1/responses/r/input_items"),
    ],
)
def test_a_key_goes_to_its_provider_alone(path: str, url: str) -> None:
    assert Upstream(RecordConfig().urls, 1, 1, 1).url_for(path) == url
    assert (find_dialect(path) is not None) == (path == "/v1/messages")


def test_the_end_of_record_and_score_says_which_episodes_have_no_answer(tmp_path: Path) -> None:
    with FakeEndpoint(computed) as endpoint:
        proxy = Proxy(endpoint, tmp_path / "run")
        ask(proxy.address, "a")
        status, printed = proxy.end(signal.SIGINT)
    assert status == 0 and "1 of 1 episodes have no answer:" in printed and "acts in code" in printed
    answers = tmp_path / "answers.csv"
    answers.write_text("question,answer\nWhat is the sum?,42\n")
    grades = score(tmp_path / "run", answers=answers)
    assert grades.endings[0] == "1 of 1 episodes have no answer:" and grades.scored == 1


def test_the_status_shows_calls_tokens_cost_and_errors() -> None:
    status = RecordingStatus(
        3, {"messages": 2, "responses": 5}, Usage(7, 1200, 100, 30, None), "Why?\n" * 50, {"429": 2}, {}
    )
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(make_status_table(status))
    text = console.export_text()
    assert "responses 5, messages 2" in text and "1,200 read (100 cached), 30 written" in text
    assert (
        "not known (see --prices)" in text and "2 x 429" in text and "Why? Why?" in text and "not recorded" not in text
    )


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_half_a_stream_is_an_error_of_its_episode_alone(tmp_path: Path, path: str) -> None:
    body = {"model": "fake", "input": QUESTION, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    with (
        FakeEndpoint(lambda _: "It is a long answer in words.", faults=[Fault(cut=True)]) as endpoint,
        record_calls(config(endpoint, max_body=5000), tmp_path / "run") as address,
    ):
        for episode in ("half", "whole"):
            httpx2.post(f"{address}/e/{episode}/v1/{path}", json=body)
        refused = httpx2.post(f"{address}/e/whole/v1/{path}", json={**body, "user": "x" * 5000})
        assert refused.status_code == 413 and "5000 bytes" in refused.json()["error"]["message"]
        assert ("type" in refused.json()) == (path == "messages")
    half, whole = read_trajectories(tmp_path / "run")
    assert half.stop == "error" and "broke off its stream" in str(half.error)
    assert whole.answer == "It is a long answer in words."


def test_a_client_that_leaves_frees_its_slot(tmp_path: Path) -> None:
    longest, arrived, answered_next = iter([600, 0]), threading.Event(), threading.Event()

    def wait(_: object) -> float:
        arrived.set()
        answered_next.wait(next(longest))
        return 0.0

    slow = FakeEndpoint(lambda _: "ok", latency=wait)
    with slow as endpoint, record_calls(config(endpoint, concurrency=1), tmp_path / "run") as address:
        body = json.dumps({"model": "fake", "input": QUESTION}).encode()
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /e/left/v1/responses HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert arrived.wait(600)
        ask(address, "next")  # which would wait as long as the endpoint does, if the slot were not free
        answered_next.set()
    left, answered = read_trajectories(tmp_path / "run")
    assert left.stop == "error" and left.error == "the client went away before the reply" and answered.answer == "ok"


def test_an_episode_may_have_any_name(tmp_path: Path) -> None:
    with FakeEndpoint(lambda _: "42") as endpoint, fireact.record(upstream=endpoint.url, port=0, out=tmp_path) as made:
        for name in ("a/b", "1?#x y", "é%2F"):
            client = openai.OpenAI(base_url=made.episode_url(name), api_key="none", max_retries=0)
            client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "What is the sum?"}])
            made.feedback(name, answer=f"of {name}")
    assert [(episode.example.id, episode.answer) for episode in made.trajectories] == [
        (name, f"of {name}") for name in ("a/b", "1?#x y", "é%2F")
    ]


def test_view_follows_a_recording(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with FakeEndpoint(lambda _: "42") as endpoint, record_calls(config(endpoint, idle=0.05), run) as address:
        assert find_watched_runs([run]) == []  # a recording that has just begun is no error
        ask(address, "a")
        deadline = time.monotonic() + 600
        while not (runs := find_watched_runs([run])) and time.monotonic() < deadline:
            time.sleep(0.05)
        update = read_updates(runs, {})
    assert [episode["question"] for episode in update["episodes"]] == ["What is the sum?"]


def test_paths_and_headers_pass_as_they_are_and_cookies_stay_apart(tmp_path: Path) -> None:
    seen: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, dict(self.headers)))
            self.send_response(200)
            self.send_header("Set-Cookie", "session=first; Path=/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = RecordConfig(upstream=f"http://127.0.0.1:{server.server_address[1]}", port=0)
    with record_calls(settings, tmp_path / "run") as address:
        for _ in range(2):
            headers = {"X-Title": "Café".encode(), "x-one": "1"}
            response = httpx2.get(f"{address}/e/7/v1/files/a%2Fb%3Fc/content?x=%20y", headers=headers)
            assert response.status_code == 200 and "session" in response.headers["set-cookie"]
    server.shutdown()
    server.server_close()
    assert [path for path, _ in seen] == ["/v1/files/a%2Fb%3Fc/content?x=%20y"] * 2
    assert all("Cookie" not in headers for _, headers in seen)
    assert {headers["x-title"].encode("latin-1").decode() for _, headers in seen} == {"Café"}


def test_no_form_of_a_key_is_stored(tmp_path: Path) -> None:
    secrets = ["sk-lower-case-0123456789", "dXNlcjpwYXNzd29yZDEyMw", "cookie/value-0123456789", "anthropic-0123456789"]
    secrets += ["x-auth-0123456789", "x-password-0123456789"]
    derived = [base64.b64encode(text.encode()).decode().rstrip("=")[:-1] for text in (secrets[3], f"a:{secrets[4]}")]
    derived.append("user:password123")  # what the Basic credentials hold
    plain = json.dumps({"error": {"message": f"refused: {' '.join([*secrets, *derived])} {quote(secrets[2])}"}})
    echo = plain.replace("cookie/value", "cookie/value-0123456789 cookie\\/value")  # JSON may escape a slash
    headers = [
        {"authorization": f"bearer {secrets[0]}"}, {"authorization": f"Basic {secrets[1]}=="},
        {"cookie": f"theme=dark; session={secrets[2]}"}, {"x-api-key": secrets[3]},
        {"x-auth": secrets[4]}, {"x-password": secrets[5]},
    ]  # fmt: skip
    body = {"model": "fake", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    faults = [Fault(status=401, body=echo) for _ in headers]
    with FakeEndpoint(scripted, faults=faults) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        for number, header in enumerate(headers):
            assert httpx2.post(f"{address}/e/{number}/v1/messages", json=body, headers=header).status_code == 401
    calls = (tmp_path / "run" / "calls.jsonl").read_text().splitlines()
    for number, secret in enumerate(secrets):
        assert secret not in json.loads(calls[number])["reply"]["error"]["message"]
        assert "[key]" in calls[number]
    for number, text in ((3, derived[0][:20]), (4, derived[1][-20:]), (1, "password123")):
        assert text not in calls[number]


def test_a_page_of_another_site_cannot_use_the_proxy(tmp_path: Path) -> None:
    body = {"model": "fake", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    with FakeEndpoint(scripted) as endpoint, record_calls(config(endpoint), tmp_path / "run") as address:
        url = f"{address}/e/page/v1/messages"
        for header in (
            {"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
            {"host": "evil.example:8100"}, {"origin": "http://127.0.0.1.evil.example"},
        ):  # fmt: skip
            refused = httpx2.post(url, json=body, headers=header)
            assert refused.status_code == 403 and refused.json()["type"] == "error", header
        for header in ({"origin": "http://localhost:3000"}, {"host": "localhost"}, {"sec-fetch-site": "same-site"}):
            assert httpx2.post(url, json=body, headers=header).status_code == 200
        assert len(endpoint.requests) == 3 and address.status.unrecorded == {"POST /v1/messages (403)": 5}


def test_a_response_in_the_background_is_recorded_when_it_is_fetched(tmp_path: Path) -> None:
    text = {"id": "m", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Lima"}]}
    bodies = [
        {"id": "resp_1", "object": "response", "status": "queued", "output": []},
        {"id": "resp_1", "object": "response", "status": "in_progress", "output": []},
        {"id": "resp_1", "object": "response", "status": "completed", "output": [text]},
    ]
    replies = iter(bodies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps(next(replies)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = RecordConfig(upstream=f"http://127.0.0.1:{server.server_address[1]}/v1", port=0)
    with record_calls(settings, tmp_path / "run") as address:
        model = openai.OpenAI(base_url=f"{address}/e/1/v1", api_key="none", max_retries=0)
        response = model.responses.create(model="m", input="Capital of Peru?", background=True)
        while response.status != "completed":
            response = model.responses.retrieve(response.id)
    server.shutdown()
    server.server_close()
    (trajectory,) = read_trajectories(tmp_path / "run")
    assert trajectory.answer == "Lima" and len((tmp_path / "run" / "calls.jsonl").read_text().splitlines()) == 2
