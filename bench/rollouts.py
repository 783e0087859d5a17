"""How close the rollout of many episodes comes to what the latencies of the endpoint allow, and what it costs itself.

    python bench/rollouts.py [--episodes 200] [--concurrency 32 256] [--steps 20000] [--long 100000] [--http]

Episodes are shaped like HotpotQA's (2 to 8 rounds), latencies are log-normal (median 0.1 s, long tail) and the same for
all that are compared: FireAct (calls and trajectories saved to disk), lock-step rounds over the whole batch (each round
waits for its slowest call), and the ideal work-conserving schedule, which is computed from the latencies. Then the same
code against an LM without latency: steps a second and memory on one core. With ``--http`` the endpoint is a server of
the wire format in a process of its own, asked by the ``openai`` client; its latencies are those drawn, so what HTTP,
JSON and the client cost comes on top of the ideal.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fireact.base import jsonl
from fireact.base.progress import SILENT
from fireact.base.run_directory import RunDir
from fireact.methods.react import ReAct
from fireact.models.fake_endpoint import FakeEndpoint
from fireact.rollout.call_cache import CallCache
from fireact.rollout.collection import run_missing_episodes
from fireact.rollout.episodes import Agent, Episode, run_episodes
from fireact.types import LM, Call, Completion, Example, Limits, Message, Usage

SNIPPET = "Paris: Paris is the capital and most populous city of France, with an estimated population of 2,048,472."


@dataclass(frozen=True)
class Latencies:
    """Seconds of each call of each episode."""

    seconds: tuple[tuple[float, ...], ...]

    @classmethod
    def draw(cls, episodes: int, *, median: float, seed: int) -> Latencies:
        """HotpotQA-shaped: 2 to 8 rounds, 4 on average; log-normal with a sigma of 0.8."""
        random_ = random.Random(seed)
        rounds = random_.choices(range(2, 9), weights=(22, 28, 20, 12, 8, 6, 4), k=episodes)
        return cls(tuple(tuple(median * random_.lognormvariate(0, 0.8) for _ in range(count)) for count in rounds))

    @property
    def episodes(self) -> list[float]:
        return [sum(one) for one in self.seconds]

    def ideal(self, concurrency: int) -> float:
        """A free slot always takes the next episode."""
        slots = [0.0] * concurrency
        for seconds in self.episodes:
            heapq.heapreplace(slots, slots[0] + seconds)
        return max(slots)

    def bound(self, concurrency: int) -> float:
        return max(*self.episodes, sum(self.episodes) / concurrency)


@dataclass(frozen=True)
class Endpoint:
    """An LM that waits as long as was drawn for this call, searches until the last round and then finishes."""

    latencies: Latencies
    name: str = "fake:endpoint"
    sleeps: bool = True

    def complete(self, call: Call) -> Completion:
        episode = int(call.messages[0].content.split()[1])
        turn = sum(message.role == "assistant" for message in call.messages)
        mine = self.latencies.seconds[episode]
        if mine[turn] and self.sleeps:
            time.sleep(mine[turn])
        action = "finish[ Paris]" if turn + 1 == len(mine) else f"search[ capital of France {episode} {turn}]"
        text = f"Thought: I need the capital of France, then its population.\nAction: {action}"
        return Completion(text, Usage(1, 300, 0, 30), "stop", mine[turn])


@dataclass(frozen=True)
class Snippets:
    """A search that takes no time."""

    name: str = "search"
    description: str = "looks things up"
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"properties": {"query": {}}, "required": ["query"]})

    def __call__(self, **arguments: Any) -> str:
        return SNIPPET


@dataclass(frozen=True)
class Questions:
    name: str = "questions"
    limits: Limits = field(default_factory=Limits)

    def examples(self, split: str) -> Sequence[Example]:
        return ()

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return {"em": float(answer == example.answer), "f1": float(answer == example.answer)}


def serve(latencies: Latencies, pipe: Any) -> None:
    """The endpoint as a server, until the pipe is closed; waiting is done by the server, in its own process."""

    def asked(request: Mapping[str, Any]) -> list[Message]:
        return [Message(one["role"], one["content"]) for one in request["messages"]]

    def latency(request: Mapping[str, Any]) -> float:
        messages = asked(request)
        turn = sum(message.role == "assistant" for message in messages)
        return latencies.seconds[int(messages[0].content.split()[1])][turn]

    still = Endpoint(latencies, sleeps=False)
    with FakeEndpoint(lambda request: still.complete(Call(asked(request))).text, latency=latency) as served:
        pipe.send(served.url)
        pipe.recv()


def episodes(latencies: Latencies, cache: CallCache, lm: LM | None = None) -> list[Episode]:
    lm = cache.wrap_lm("fake", lambda: lm or Endpoint(latencies))
    tools = {tool.name: tool for tool in cache.wrap_tools("search", lambda: [Snippets()])}
    agent, task = Agent(lm=lm, method=ReAct(), tools=tools), Questions()
    question = "Question {} asks for the population of the capital of France, as of the last census?"
    found = (Example(str(index), question.format(index), "Paris") for index in range(len(latencies.seconds)))
    return [Episode(task=task, example=example, agent=agent) for example in found]


def ours(latencies: Latencies, concurrency: int, *, calls: str = "record", lm: LM | None = None) -> float:
    """Seconds to run and save every episode as ``collect`` does."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        planned = episodes(latencies, CallCache(out / "calls.sqlite", calls), lm)
        started = time.perf_counter()
        with RunDir(out, verb="collect", settings={}) as run:
            run_missing_episodes(run, planned, workers=concurrency, progress=SILENT)
        return time.perf_counter() - started


def lock_step(latencies: Latencies, concurrency: int) -> float:
    """Seconds when every round of the whole batch waits for its slowest call."""
    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        for turn in range(max(len(one) for one in latencies.seconds)):
            waits = [one[turn] for one in latencies.seconds if len(one) > turn]
            list(pool.map(time.sleep, waits))
    return time.perf_counter() - started


def over_http(latencies: Latencies, concurrency: int) -> float:
    """As ``ours``, the endpoint a server in another process."""
    from fireact.models.openai import OpenAIModel

    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=serve, args=(latencies, there), daemon=True)
    child.start()
    lm = OpenAIModel("fake", here.recv())
    lm.complete(Call([Message("user", "Question 0 warms the client up")]))
    seconds = ours(latencies, concurrency, lm=lm)
    here.send("done")
    child.join()
    return seconds


def against_latency(count: int, concurrency: int, *, http: bool) -> dict[str, float]:
    latencies = Latencies.draw(count, median=0.1, seed=concurrency)
    seconds = over_http(latencies, concurrency) if http else ours(latencies, concurrency)
    locked = lock_step(latencies, concurrency)
    ideal, bound = latencies.ideal(concurrency), latencies.bound(concurrency)
    return {
        "concurrency": concurrency,
        "episodes": count,
        "seconds": seconds,
        "ideal": ideal,
        "bound": bound,
        "lock_step": locked,
        "to_ideal": seconds / ideal,
        "to_bound": seconds / bound,
        "lock_step_to_ours": locked / seconds,
    }


def steps_a_second(steps: int, *, calls: str) -> float:
    """Steps a second on one core against an LM without latency, everything saved."""
    latencies = Latencies(((0.0,) * 4,) * (steps // 4))
    seconds = ours(latencies, 16, calls=calls)
    return steps / seconds


def memory(count: int) -> Iterator[tuple[int, float]]:
    """Resident MB while many episodes run and are saved."""
    latencies = Latencies(((0.0,) * 2,) * count)
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        planned = iter(episodes(latencies, CallCache(Path(folder) / "calls.sqlite")))
        with jsonl.Appender(Path(folder) / "trajectories.jsonl") as file:
            for done, trajectory in enumerate(run_episodes(planned, workers=16), 1):
                file.append(trajectory.to_dict())
                if done % (count // 5) == 0:
                    gc.collect()
                    yield done, process.memory_info().rss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--long", type=int, default=100_000, help="episodes of the memory test; 0 leaves it out")
    parser.add_argument("--http", action="store_true", help="ask a server over loopback")
    options = parser.parse_args()
    for concurrency in options.concurrency:
        found = against_latency(options.episodes, concurrency, http=options.http)
        print(json.dumps({key: round(value, 3) for key, value in found.items()}))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    for calls in ("record", "off"):
        print(
            json.dumps(
                {"calls": calls, "steps_a_second_on_one_core": round(steps_a_second(options.steps, calls=calls))}
            )
        )
    if options.long:
        print(json.dumps({"resident_mb_by_episodes": {done: round(mb) for done, mb in memory(options.long)}}))


if __name__ == "__main__":
    main()
