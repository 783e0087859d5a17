"""The same zero-latency episodes on FireAct, inspect_ai and smolagents: steps a second on one core, saved to disk.

    python bench/peers.py [--episodes 300]

Each episode searches three times and then answers, with an LM and a search that take no time, so what is measured is
the framework alone. FireAct keeps trajectories and calls in a run directory; inspect_ai writes its log file; smolagents
has no store of its own, so its steps are written as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollouts import SNIPPET, Latencies, ours

ROUNDS = 4


def fireact(episodes: int) -> float:
    return ours(Latencies(((0.0,) * ROUNDS,) * episodes), 16)


def with_inspect(episodes: int) -> float:
    from inspect_ai import Task, eval
    from inspect_ai.agent import react
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import match
    from inspect_ai.tool import tool

    @tool
    def search() -> Any:
        async def execute(query: str) -> str:
            """Look something up.

            Args:
                query: what to look for
            """
            return SNIPPET

        return execute

    def reply(messages: list[Any], *_: Any) -> ModelOutput:
        turn = sum(message.role == "assistant" for message in messages)
        name, arguments = ("submit", {"answer": "Paris"}) if turn == ROUNDS - 1 else ("search", {"query": f"q {turn}"})
        thought = "I need the capital of France, then its population."
        output = ModelOutput.for_tool_call("mockllm/model", name, arguments, content=thought)
        output.usage = ModelUsage(input_tokens=300, output_tokens=30, total_tokens=330)  # or it fetches a tokenizer
        return output

    questions = [Sample(input=f"Question {index}: the capital of France?", target="Paris") for index in range(episodes)]
    task = Task(dataset=questions, solver=react(tools=[search()]), scorer=match())
    model = get_model("mockllm/model", custom_outputs=reply)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        (log,) = eval(task, model=model, log_dir=folder, display="none", max_samples=16)
        assert log.status == "success" and log.results is not None, str(log.error)[:300]
        return time.perf_counter() - started


def with_smolagents(episodes: int) -> float:
    from smolagents import ChatMessage, MessageRole, Model, Tool, ToolCallingAgent
    from smolagents.models import ChatMessageToolCall, ChatMessageToolCallFunction
    from smolagents.monitoring import LogLevel

    class Search(Tool):  # type: ignore[misc]
        name = "search"
        description = "Looks something up."
        inputs = {"query": {"type": "string", "description": "what to look for"}}  # noqa: RUF012
        output_type = "string"

        def forward(self, query: str) -> str:
            return SNIPPET

    class Fake(Model):  # type: ignore[misc]
        turn = 0

        def generate(self, messages: Any, **_: Any) -> ChatMessage:
            ends = self.turn % ROUNDS == ROUNDS - 1
            name, arguments = ("final_answer", {"answer": "Paris"}) if ends else ("search", {"query": f"q {self.turn}"})
            self.turn += 1
            function = ChatMessageToolCallFunction(name=name, arguments=arguments)
            call = ChatMessageToolCall(id=str(self.turn), type="function", function=function)
            thought = "I need the capital of France, then its population."
            return ChatMessage(role=MessageRole.ASSISTANT, content=thought, tool_calls=[call])

    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "steps.jsonl").open("w") as file:
        started = time.perf_counter()
        for index in range(episodes):
            agent = ToolCallingAgent(tools=[Search()], model=Fake(), verbosity_level=LogLevel.OFF)
            answer = agent.run(f"Question {index}: the capital of France?")
            assert answer == "Paris"
            file.write(json.dumps(agent.memory.get_full_steps(), default=str) + "\n")
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=300)
    count = parser.parse_args().episodes
    logging.disable(logging.WARNING)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    contestants: dict[str, Callable[[int], float]] = {
        "fireact": fireact, "inspect_ai": with_inspect, "smolagents": with_smolagents,
    }  # fmt: skip
    for run in contestants.values():
        run(4)  # imports and caches
    rates = {name: count * ROUNDS / run(count) for name, run in contestants.items()}
    print(json.dumps({"steps_a_second": {name: round(rate) for name, rate in rates.items()}}))
    ratios = {name: round(rates["fireact"] / rate, 1) for name, rate in rates.items() if name != "fireact"}
    print(json.dumps({"fireact_to": ratios}))


if __name__ == "__main__":
    main()
