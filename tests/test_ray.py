"""Episodes on a Ray cluster of several nodes on this machine: the same run as with threads, whatever node dies."""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fireact.base.run_directory import read_trajectories
from fireact.errors import BudgetError, ConfigError, ProviderError
from fireact.evaluation.evaluate import EvalConfig, evaluate
from fireact.models.fake_endpoint import FakeEndpoint, FakeReply
from fireact.models.limits import Budget, BudgetAmount, Endpoint
from fireact.models.scripted import Expert
from fireact.rollout.call_cache import CallCache
from fireact.rollout.collection import CollectConfig, collect
from fireact.rollout.ledger import Ledger, LedgerClient, LedgerServer, RemoteBudget, RemoteCallCache, RemoteRateLimit
from fireact.rollout.loading import load_task
from fireact.rollout.ray_executor import RayExecutor
from fireact.types import Call, Message, Usage

PLAN = {"geo-hop/react": 10, "geo-yesno/cot": 4}


def expert(request: Mapping[str, Any]) -> FakeReply:
    """The scripted expert behind an endpoint."""
    messages = [Message(entry["role"], entry["content"]) for entry in request["messages"]]
    return Expert().complete(Call(messages)).text


def rows(run: Path) -> list[dict[str, Any]]:
    return [{**entry.to_dict(), "seconds": 0} for entry in read_trajectories(run)]


def prompts(server: FakeEndpoint) -> Counter[str]:
    return Counter(json.dumps(request["messages"]) for request in server.requests)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)


# --- the ledger by itself, which needs no Ray ---


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[tuple[Ledger, Callable[[str], LedgerClient]]]:
    budget = Budget(BudgetAmount.parse("10calls"))
    shared = Ledger(CallCache(tmp_path / "calls.sqlite"), budget, Endpoint(rpm=1000))
    with LedgerServer(shared, "127.0.0.1") as server:
        yield shared, lambda worker: LedgerClient(server.address, worker)


def test_a_call_that_two_workers_make_at_a_time_is_made_once(ledger: Any) -> None:
    made, gate = [], threading.Event()

    def make() -> str:
        made.append(1)
        gate.wait(60)
        return "[1]"

    caches = [RemoteCallCache(ledger[1](name)) for name in ("a", "b")]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(cache.get_or_make, ["lm", "m", 1], make) for cache in caches * 2]
        wait_until(lambda: bool(made))
        gate.set()
        assert [future.result() for future in futures] == ["[1]"] * 4
    assert len(made) == 1 and ledger[0].cache.get_or_make(["lm", "m", 1], lambda: "[2]") == "[1]"


def test_a_call_that_fails_is_made_by_the_next(ledger: Any) -> None:
    def fail() -> str:
        raise ProviderError("down")

    with pytest.raises(ProviderError, match="down"):
        RemoteCallCache(ledger[1]("a")).get_or_make(["lm", "m", 1], fail)
    assert RemoteCallCache(ledger[1]("b")).get_or_make(["lm", "m", 1], lambda: "[1]") == "[1]"


def test_what_a_lost_worker_held_is_free_and_counts_as_spent(ledger: Any) -> None:
    shared, connect = ledger
    lost, gate = connect("lost"), threading.Event()
    RemoteBudget(lost, shared.budget.amount).reserve(Usage(4))
    holder = threading.Thread(
        target=lambda: RemoteCallCache(lost).get_or_make(["lm", "m", 1], lambda: str(gate.wait(60) and "[1]"))
    )
    holder.start()
    wait_until(lambda: bool(shared._holders))
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(RemoteCallCache(connect("b")).get_or_make, ["lm", "m", 1], lambda: "[2]")
        shared.drop_worker("lost")
        assert second.result(60) == "[2]" and shared.budget.spent == 4
    gate.set()
    holder.join()
    with pytest.raises(ProviderError, match="counts as lost"):
        RemoteBudget(lost, shared.budget.amount).reserve(Usage(1))
    with pytest.raises(BudgetError, match="spent as far as it goes"):
        RemoteBudget(connect("b"), shared.budget.amount).reserve(Usage(7))
    budget = RemoteBudget(connect("b"), shared.budget.amount)
    budget.settle(budget.reserve(Usage(6)), Usage(1))
    assert shared.budget.spent == 5


def break_connection(client: LedgerClient) -> None:
    """Cut the connection of this thread, as a network does."""
    with socket.socket(fileno=os.dup(client._local.connection.fileno())) as cut:
        cut.shutdown(socket.SHUT_RDWR)


def test_a_broken_connection_is_made_anew_and_gives_back_what_was_held_over_it(ledger: Any) -> None:
    shared, connect = ledger
    worker, other, answers = connect("a"), RemoteCallCache(connect("b")), []
    second = threading.Thread(
        target=lambda: answers.append(other.get_or_make(["lm", "m", 1], lambda: "[2]")), daemon=True
    )
    budget = RemoteBudget(worker, shared.budget.amount)
    share = budget.reserve(Usage(4))

    def make() -> str:
        break_connection(worker)
        second.start()
        second.join(20)
        assert answers == ["[2]"]  # the second waits for nobody
        return "[1]"

    assert RemoteCallCache(worker).get_or_make(["lm", "m", 1], make) == "[2]"  # what is stored, and replayed
    budget.settle(share, Usage(1))
    wait_until(lambda: not shared.budget._reserved)
    assert shared.budget.spent == 4  # nobody knows whether that call was made
    for _ in range(3):
        break_connection(worker)
        budget.settle(budget.reserve(Usage(2)), Usage(1))
    assert shared.budget.spent == 7 and not shared._holders


def test_rates_are_counted_by_the_driver(ledger: Any) -> None:
    rates = [RemoteRateLimit(ledger[1](name), "http://a") for name in ("a", "b")]
    for rate in rates * 3:
        rate.settle(rate.enter(10), 7)
    assert [entry[1] for entry in ledger[0]._rates["http://a"]._entries] == [7.0] * 6


def test_the_ledger_serves_nobody_without_its_key(ledger: Any, tmp_path: Path) -> None:
    address = ledger[1]("a").address
    stranger = LedgerClient(replace(address, key=b"wrong"), "x")
    with pytest.raises(ProviderError, match="driver of the run cannot be reached"):
        stranger.send(Ledger.reserve, Usage(1))
    assert ledger[1]("b").send(Ledger.claim_call, b"key") is None  # others are still served
    assert "key" not in repr(address)


def test_who_says_nothing_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Such as a scan of ports, or a check of health; nor is a byte unpickled of who has not shown the key."""
    server = LedgerServer(Ledger(CallCache(tmp_path / "calls.sqlite"), None, Endpoint()), "127.0.0.1").__enter__()
    address, replies = server.address, []
    client = LedgerClient(address, "a")
    with (
        socket.create_connection((address.host, address.port)),
        socket.create_connection((address.host, address.port), timeout=60) as stranger,
    ):
        request = f"cos\nmkdir\n(V{tmp_path / 'unpickled'}\ntR.".encode()
        stranger.sendall((len(request).to_bytes(4, "big") + request) * 3)
        worker = threading.Thread(target=lambda: replies.append(client.send(Ledger.claim_call, b"key")), daemon=True)
        worker.start()
        worker.join(20)
        assert replies == [None]
        end = threading.Thread(target=server.__exit__, daemon=True)
        end.start()
        end.join(20)
        assert not end.is_alive()
        with suppress(ConnectionError):
            while stranger.recv(1000):  # until it is refused
                pass
    assert not (tmp_path / "unpickled").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port))


# --- without Ray ---


@pytest.mark.parametrize("executor", ["dask", "threads:8", "ray:ray://host:10001"])
def test_a_wrong_executor_is_refused(executor: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown executor|Ray Client"):
        CollectConfig(plan=PLAN, executor=executor)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'fireact\[ray\]'"):
        collect(CollectConfig(plan=PLAN, executor="ray"), tmp_path / "run")


# --- on a cluster ---


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node, to which tests add others."""
    ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'fireact[ray]')")
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # by default workers get what others leave
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    grown = Cluster(initialize_head=True, head_node_args=node)
    ray.init(address=grown.address, log_to_driver=False, configure_logging=False)
    yield grown
    ray.shutdown()
    grown.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=80_000_000)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of threads."""
    out = tmp_path_factory.mktemp("whole") / "collect"
    with FakeEndpoint(expert) as server:
        collect(CollectConfig(plan=PLAN, teacher=f"openai:fake@{server.url}", workers=4), out)
    return out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_on_ray_is_the_run_of_threads(cluster: Any, whole: Path, tmp_path: Path) -> None:
    """Every call is stored by the driver, and replay needs no endpoint; nor does an evaluation differ."""
    with FakeEndpoint(expert) as server:
        config = CollectConfig(plan=PLAN, teacher=f"openai:fake@{server.url}", workers=4, executor="ray")
        manifest = collect(config, tmp_path / "run")
        assert set(prompts(server).values()) == {1}
    assert rows(tmp_path / "run") == rows(whole)
    assert manifest["usage"] == json.loads((whole / "manifest.json").read_text())["usage"]
    replayed = replace(config, calls="replay", cache=str(tmp_path / "run" / "calls.sqlite"))
    collect(replayed, tmp_path / "replayed")
    assert rows(tmp_path / "replayed") == rows(whole)
    for executor in ("ray", "threads"):
        evaluate(EvalConfig("scripted:expert", tasks=("geo-hop",), n=6, executor=executor), tmp_path / executor)
    assert rows(tmp_path / "ray") == rows(tmp_path / "threads")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_dies_loses_nothing_and_pays_nothing_twice(cluster: Any, tmp_path: Path) -> None:
    node, workers = add_node(cluster), 3
    plan = {"geo-hop/react": 60}
    with FakeEndpoint(expert, latency=lambda request: 0.1) as server:
        config = CollectConfig(plan=plan, teacher=f"openai:fake@{server.url}", workers=workers, executor="ray")

        def kill() -> None:
            wait_until(lambda: server.peak > workers and len(server.requests) > 30)  # both nodes are at work
            cluster.remove_node(node, allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        collect(config, tmp_path / "run")
        killer.join()
        made = prompts(server)
    collect(CollectConfig(plan=plan), tmp_path / "own")
    assert [row["steps"] for row in rows(tmp_path / "run")] == [row["steps"] for row in rows(tmp_path / "own")]
    assert sum(made.values()) - len(made) <= workers  # its calls in flight alone
    assert server.peak > workers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_dies_with_large_results_loses_nothing(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray keeps a result of over 100 KB where it was made, so a finished episode may be lost before it is read."""
    import ray

    node, send, gate = add_node(cluster), RayExecutor._send_episodes, threading.Event()

    def think(request: Mapping[str, Any]) -> FakeReply:
        gate.wait(300)
        return f"{'hm' * 100_000} {expert(request)}"

    def send_or_end(executor: RayExecutor, waiting: Iterator[Any]) -> bool:
        if server.peak == 6 and not gate.is_set():  # both nodes are at work
            gate.set()
            references = [reference for worker in executor._workers for reference in worker.episodes]
            ray.wait(references, num_returns=6, timeout=300, fetch_local=False)
            cluster.remove_node(node, allow_graceful=False)
        return send(executor, waiting)

    monkeypatch.setattr(RayExecutor, "_send_episodes", send_or_end)
    with FakeEndpoint(think) as server:
        config = CollectConfig(
            plan={"geo-yesno/cot": 6}, teacher=f"openai:fake@{server.url}", workers=3, executor="ray"
        )
        with caplog.at_level(logging.WARNING, "fireact"):
            collect(config, tmp_path / "run")
        assert gate.is_set() and list(prompts(server).values()) == [1] * 6
    assert "its 3 episodes go to others: Failed to retrieve object" in caplog.text
    assert [row["stop"] for row in rows(tmp_path / "run")] == ["finish"] * 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_joins_takes_its_share(cluster: Any, tmp_path: Path) -> None:
    with FakeEndpoint(expert, latency=lambda request: 0.5 if server.peak < 4 else 0.01) as server:
        plan = {"geo-hop/react": 120}
        config = CollectConfig(plan=plan, teacher=f"openai:fake@{server.url}", workers=2, executor="ray")
        with ThreadPoolExecutor(1) as pool:  # a node can only be added in the main thread
            run = pool.submit(collect, config, tmp_path / "run")
            wait_until(lambda: len(server.requests) > 5)
            node = add_node(cluster)
            run.result()
        assert server.peak == 4 and set(prompts(server).values()) == {1}
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_budget_holds_over_all_nodes(cluster: Any, tmp_path: Path) -> None:
    with FakeEndpoint(expert, latency=lambda request: 0.02) as server:
        config = CollectConfig(
            plan=PLAN, teacher=f"openai:fake@{server.url}", workers=4, executor="ray", budget="9calls"
        )
        with pytest.raises(BudgetError, match="resume DIR --budget"):
            collect(config, tmp_path / "run")
        assert 0 < len(server.requests) <= 9
        collect(replace(config, budget=None, executor="threads"), tmp_path / "run")
        assert sum(prompts(server).values()) - len(prompts(server)) <= 4  # calls in flight when the actors ended


DEADLY_LM = """
import os
from fireact.models.scripted import Expert


class Deadly:
    name = "deadly"

    def complete(self, call):
        if any(DEADLY in message.content for message in call.messages):
            os._exit(1)
        return Expert().complete(call)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_episode_that_ends_each_process_is_a_fault_of_its_own(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on in new actors, which find the user's module in the directory of the driver."""
    question = load_task("geo-hop").examples("train")[3].question
    (tmp_path / "deadly_lm.py").write_text(f"DEADLY = {question!r}\n{DEADLY_LM}")
    monkeypatch.chdir(tmp_path)
    config = CollectConfig(plan={"geo-hop/react": 6}, teacher="deadly_lm:Deadly", workers=1, executor="ray")
    with pytest.raises(ProviderError, match=r"1 of 6 episodes ended in a fault, such as: ProcessLost: 3 processes"):
        collect(config, tmp_path / "run")
    assert sorted(entry.stop for entry in read_trajectories(tmp_path / "run")) == ["error"] + ["finish"] * 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_machine_lacks_is_said_with_its_address(cluster: Any, tmp_path: Path) -> None:
    config = CollectConfig(plan=PLAN, teacher="openai:fake@http://127.0.0.1:9/v1", workers=2, executor="ray")
    with pytest.raises((ConfigError, ProviderError), match="cannot be reached"):
        collect(config, tmp_path / "run")
