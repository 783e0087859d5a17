"""Several endpoints of one model: real servers on loopback, of which some die in the middle."""

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fireact.base.foreign_names import find_foreign_names
from fireact.base.names import split_urls
from fireact.base.run_directory import read_trajectories
from fireact.base.verbs import resume
from fireact.errors import ConfigError, ProviderError
from fireact.models.fake_endpoint import FakeEndpoint, FakeReply, Fault
from fireact.models.limits import Endpoint
from fireact.models.openai import OpenAIModel, from_name
from fireact.models.replicas import ReplicatedLM
from fireact.models.scripted import Expert
from fireact.rollout.collection import CollectConfig, collect
from fireact.types import Call, Message

ASK = [Message("user", "Why?")]


def expert(request: Mapping[str, Any]) -> FakeReply:
    """The scripted expert behind an endpoint."""
    messages = [Message(entry["role"], entry["content"]) for entry in request["messages"]]
    return Expert().complete(Call(messages)).text


@pytest.fixture
def servers() -> Iterator[list[FakeEndpoint]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FakeEndpoint(expert, latency=lambda request: 0.005)) for _ in range(3)]


def replicated(*servers: FakeEndpoint, **settings: Any) -> ReplicatedLM:
    endpoint = Endpoint(**settings)
    return ReplicatedLM([OpenAIModel("fake", server.url, endpoint=endpoint) for server in servers], pause=0.01)


def teacher(servers: list[FakeEndpoint]) -> str:
    return f"openai:fake@{','.join(server.url for server in servers)}"


def steps(run: Path) -> dict[str, Any]:
    return {entry.key: entry.steps for entry in read_trajectories(run)}


def prompts(server: FakeEndpoint) -> list[str]:
    return [json.dumps(request["messages"]) for request in server.requests]


def test_addresses_are_told_apart_by_commas() -> None:
    assert split_urls("http://a/v1,https://b/v1, http://c/v1") == ["http://a/v1", "https://b/v1", "http://c/v1"]
    assert split_urls("http://a/x,y/v1") == ["http://a/x,y/v1"] and split_urls("") == []


def test_a_run_at_three_replicas_equals_the_expert_s_own(tmp_path: Path, servers: list[FakeEndpoint]) -> None:
    """Each has a fair share, and an episode stays where it began."""
    plan = {"geo-hop/react": 12, "geo-yesno/react": 6}
    collect(CollectConfig(plan=plan, teacher=teacher(servers), workers=6), tmp_path / "run")
    collect(CollectConfig(plan=plan), tmp_path / "own")
    assert steps(tmp_path / "run") == steps(tmp_path / "own")
    counts = [len(server.requests) for server in servers]
    assert min(counts) >= sum(counts) / 6
    served_by: dict[tuple[str, ...], set[int]] = {}
    all_prompts = list_prompts(servers)
    for number, server in enumerate(servers):
        for request in server.requests:
            messages = tuple(json.dumps(message) for message in request["messages"])
            lengths = range(1, len(messages) + 1)
            start = next(messages[:length] for length in lengths if messages[:length] in all_prompts)
            served_by.setdefault(start, set()).add(number)
    assert len(served_by) == 18 and all(len(numbers) == 1 for numbers in served_by.values())


def list_prompts(servers: list[FakeEndpoint]) -> set[tuple[str, ...]]:
    """The prompts of all requests; the shortest that begins another is the first of its episode."""
    return {tuple(map(json.dumps, request["messages"])) for server in servers for request in server.requests}


def test_a_replica_that_dies_costs_only_its_calls_in_flight(
    tmp_path: Path, servers: list[FakeEndpoint], caplog: pytest.LogCaptureFixture
) -> None:
    plan, victim = {"geo-hop/react": 40}, servers[1]
    killer = threading.Thread(target=lambda: (wait_for_requests(victim, 15), victim.kill()))
    killer.start()
    with caplog.at_level(logging.WARNING, "fireact"):
        collect(CollectConfig(plan=plan, teacher=teacher(servers), workers=6), tmp_path / "run")
    killer.join()
    collect(CollectConfig(plan=plan), tmp_path / "own")
    assert steps(tmp_path / "run") == steps(tmp_path / "own")
    repeated = [prompt for prompt, count in Counter(text for server in servers for text in prompts(server)).items()
                if count > 1]  # fmt: skip
    assert len(repeated) <= 6 and set(repeated) <= set(prompts(victim)[-6:])
    assert [record.message for record in caplog.records if "rests, and others take its calls" in record.message]


def wait_for_requests(server: FakeEndpoint, count: int) -> None:
    while len(server.requests) < count:
        threading.Event().wait(0.001)


def test_a_replica_that_comes_back_is_used_again(servers: list[FakeEndpoint]) -> None:
    port = int(servers[1].url.split(":")[2].split("/")[0])
    lm = replicated(*servers[:2])
    servers[1].kill()
    for number in range(6):
        lm.complete(Call([Message("user", f"Question {number}")]))
    assert lm.replicas[1].faults and not servers[1].requests
    with FakeEndpoint(expert, port=port) as again:
        for number in range(2000):
            lm.complete(Call([Message("user", f"Question {number}")]))
            if again.requests:
                break
        assert again.requests and not lm.replicas[1].faults


def test_a_fault_moves_a_call_without_a_pause(servers: list[FakeEndpoint]) -> None:
    with FakeEndpoint(expert, faults=[Fault(status=500)] * 9) as broken:
        lm = ReplicatedLM([OpenAIModel("fake", server.url) for server in (broken, servers[0])], pause=1e6)
        assert lm.complete(Call(ASK)).usage.calls == 1
        assert len(broken.requests) == 1 and len(servers[0].requests) == 1


def test_calls_in_flight_at_a_death_are_one_fault(servers: list[FakeEndpoint]) -> None:
    """So the first rest is short, as the page says; later faults make it longer, however many they are."""
    now, together = 1000.0, threading.Barrier(16)

    def refuse(request: Mapping[str, Any]) -> Fault:
        together.wait(60)
        return Fault(status=429)

    with FakeEndpoint(refuse) as first:
        endpoints = [OpenAIModel("fake", server.url) for server in (first, servers[0])]
        lm = ReplicatedLM(endpoints, clock=lambda: now)
        lm.replicas[1].active = 100  # a new prompt goes to the first
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: lm.complete(Call([Message("user", f"Question {number}")])), range(16)))
        assert len(first.requests) == 16
        replica = lm.replicas[0]
        assert (replica.faults, replica.rests_until) == (1, now + 1)
        first.kill()
    for faults, rest in ((2, 2), (3, 4), (4, 8)):
        now = replica.rests_until
        lm.complete(Call(ASK))
        assert (replica.faults, replica.rests_until) == (faults, now + rest)
    replica.faults = 5000  # in the hours that a machine is away
    for _ in range(2):
        now = replica.rests_until
        assert lm.complete(Call(ASK)).usage.calls == 1
        assert replica.rests_until == now + 30


def test_replicas_that_all_fail_fail_as_one_endpoint_does(servers: list[FakeEndpoint]) -> None:
    always = [Fault(status=503)] * 100
    with FakeEndpoint(expert, faults=always) as first, FakeEndpoint(expert, faults=always) as second:
        lm = replicated(first, second)
        with pytest.raises(ProviderError, match="openai:fake failed 6 times"):
            lm.complete(Call(ASK))
        assert len(first.requests) + len(second.requests) >= 6
    for server in servers:
        server.kill()
    with pytest.raises(ConfigError, match="cannot be reached"):
        replicated(*servers).complete(Call(ASK))


def test_a_wrong_model_at_one_replica_ends_the_run_in_its_words(servers: list[FakeEndpoint]) -> None:
    missing = Fault(status=404, body='{"error": {"message": "no such model"}}')
    with FakeEndpoint(expert, faults=[missing] * 9) as wrong, pytest.raises(ConfigError, match="no such model"):
        lm = replicated(wrong, servers[0])
        lm.complete(Call(ASK))


def test_rates_are_those_of_each_replica(servers: list[FakeEndpoint]) -> None:
    lm = replicated(*servers, rpm=20)
    for number in range(60):  # the limit of all three in a minute; one more would wait
        lm.complete(Call([Message("user", f"Question {number}")]))
    assert [len(server.requests) for server in servers] == [20, 20, 20]


def test_new_prompts_go_to_the_replica_with_the_fewest_calls() -> None:
    gate = threading.Event()
    with (
        FakeEndpoint(lambda request: "slow" if gate.wait(60) else "", models=["fake"]) as slow,
        FakeEndpoint(lambda request: "fast") as fast,
    ):
        lm = replicated(slow, fast)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(lm.complete, Call(ASK))
            wait_for_requests(slow, 1)
            texts = [lm.complete(Call([Message("user", f"Question {number}")])).text for number in range(8)]
            gate.set()
        assert texts == ["fast"] * 8 and first.result().text == "slow"


def test_a_run_is_resumed_at_other_replicas(tmp_path: Path, servers: list[FakeEndpoint]) -> None:
    """Their addresses stand in a setting that does not change the result."""
    broken = Fault(status=400, body='{"error": {"message": "unknown model", "code": "model_not_found"}}')
    with FakeEndpoint(expert, faults=[Fault()] * 4 + [broken] * 99) as first:
        config = CollectConfig(
            plan={"geo-hop/react": 4}, teacher="openai:fake", workers=1, endpoint=Endpoint(replicas=[first.url])
        )
        with pytest.raises(ConfigError, match="unknown model"):
            collect(config, tmp_path / "run")
    urls = tuple(server.url for server in servers)
    moved = CollectConfig(plan=config.plan, teacher="openai:fake", workers=2, endpoint=Endpoint(replicas=urls))
    assert collect(moved, tmp_path / "run")["counts"]["geo-hop/react"]["n"] == 4
    assert resume(tmp_path / "run")["teacher"] == "openai:fake"


@pytest.mark.parametrize("spec", ["m@http://a/v1,http://a/v1", "m@http://a/v1,ftp://b/v1", "m@http://a,http://b?key=1"])
def test_wrong_addresses_are_refused(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test-key-of-nobody")
    with pytest.raises(ConfigError, match=r"is there twice|no address of an endpoint|would be stored"):
        from_name(spec)


def test_one_foreign_host_among_replicas_is_foreign() -> None:
    """Opening a directory of somebody else must not send a key there."""
    local, evil = "http://127.0.0.1:1/v1", "https://evil.example/v1"
    assert find_foreign_names({"teacher": f"openai:m@{local},{local}"}) == []
    assert find_foreign_names({"teacher": f"openai:m@{local},{evil}"}) == [f"openai:m@{local},{evil}"]
    assert find_foreign_names({"endpoint": {"replicas": [local, evil]}}) == [f"openai:@{evil}"]
