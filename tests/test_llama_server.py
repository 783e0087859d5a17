"""A real inference server: llama.cpp's, with SmolLM2, behind ``openai:``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fireact
from fireact.base import jsonl
from fireact.models.openai import from_name
from fireact.recording.scores import score
from fireact.rollout.collection import CollectConfig, collect
from fireact.serving.export import ExportConfig, export
from fireact.training.recipe import Recipe
from fireact.training.train import TrainConfig, train
from fireact.types import Call, Message
from llama import llama_server
from test_recorded_renderer import POPULATION, plain_episode, record_rows
from tiny import cut_smollm2

pytest.importorskip("xllamacpp")
pytest.importorskip("torch")
pytestmark = pytest.mark.slow


SYSTEM = {"role": "system", "content": "Use the tools, then answer in plain text."}
PEOPLE = {"Chad": "17 million", "Peru": "33 million"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lowest blocks of SmolLM2, trained to repeat the one episode that was recorded."""
    folder = tmp_path_factory.mktemp("llama")
    text = json.dumps(
        [call["request"] | {"messages": [SYSTEM, *call["request"]["messages"][1:]]} for call in plain_episode("Chad")]
    )
    requests = json.loads(text.replace('"17"', '"17 million"').replace('"33"', '"33 million"'))
    calls = [call | {"request": request} for call, request in zip(plain_episode("Chad"), requests, strict=True)]
    record_rows(folder / "recorded", calls)
    score(folder / "recorded", by=lambda trajectory: 1.0)
    recipe = Recipe(rank=8, learning_rate=0.004, epochs=30, batch_size=1, blocks=0)
    train(
        TrainConfig(data=str(folder / "recorded"), student=str(cut_smollm2(folder / "student")), recipe=recipe),
        folder / "train",
    )
    return folder / "train"


@pytest.fixture(scope="module")
def url(run: Path) -> Iterator[str]:
    export(ExportConfig(run=str(run), to="gguf"), run.parent / "gguf")
    with llama_server(run.parent / "gguf" / "model.gguf") as served:
        yield f"{served}/v1"


def test_stop_strings_and_usage_are_those_of_the_server(url: str) -> None:
    lm = from_name(f"smollm2@{url}")
    whole = lm.complete(Call([Message("user", "Name three colours.")], max_tokens=24))
    assert whole.text and whole.usage.prompt_tokens > 5 and 0 < whole.usage.completion_tokens <= 24
    stop = whole.text[5:8]
    cut = lm.complete(Call([Message("user", "Name three colours.")], max_tokens=24, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish == "stop"


def test_trajectories_are_collected_from_it(url: str, tmp_path: Path) -> None:
    plan = {"geo-hop/react": 1, "geo-hop/io": 1}
    config = CollectConfig(plan=plan, teacher=f"openai:smollm2@{url}", workers=2, repairs=0)
    manifest = collect(config, tmp_path / "run")
    rows = list(jsonl.read_objects(tmp_path / "run" / "trajectories.jsonl"))
    assert len(rows) == 2 and all(row["steps"] and row["stop"] != "error" for row in rows)
    assert manifest["usage"]["calls"] >= 2 and manifest["usage"]["cost"] is None
    collect(CollectConfig(plan=plan, teacher=f"replay:{tmp_path / 'run'}", repairs=0), tmp_path / "again")
    again = list(jsonl.read_objects(tmp_path / "again" / "trajectories.jsonl"))
    assert [row["steps"] for row in again] == [row["steps"] for row in rows]


def test_an_agent_gets_the_same_calls_and_answer_from_it_as_from_fireact(run: Path, url: str) -> None:
    """Each in the agent's own loop: two calls at once, then the answer, as it was trained."""
    with fireact.serve(run, port=0, other_tools=True) as served:
        ours = run_agent(served.url)
    assert run_agent(url) == ours
    assert ours == [[("population", {"country": name}) for name in ("Chad", "Peru")], "In Peru."]


def run_agent(url: str) -> list[Any]:
    """The calls of each turn of an agent, and its answer."""
    import openai

    messages: list[Any] = [SYSTEM, {"role": "user", "content": "Where live more, in Chad or in Peru?"}]
    turns: list[Any] = []
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
        while not turns or (isinstance(turns[-1], list) and len(turns) < 4):
            reply = client.chat.completions.create(
                model="student", messages=messages, tools=[POPULATION], max_tokens=80, temperature=0
            ).choices[0].message  # fmt: skip
            messages.append(reply)
            calls = [(call, json.loads(call.function.arguments)) for call in reply.tool_calls or ()]
            turns.append([(call.function.name, arguments) for call, arguments in calls] or reply.content)
            messages += [
                {"role": "tool", "tool_call_id": call.id, "content": PEOPLE.get(arguments.get("country"), "unknown")}
                for call, arguments in calls
            ]
    return turns


def test_tools_calls_and_results_are_shown_as_they_are_trained(run: Path, url: str) -> None:
    import openai

    from fireact.models.weights import load_tokenizer
    from fireact.render.requests import student_messages
    from fireact.render.tokens import prompt_ids
    from fireact.wire.chat_completions import CHAT_COMPLETIONS

    parameters = {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]}
    function = {"name": "population", "description": "people in a country", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    call = {"id": "c1", "type": "function", "function": {"name": "population", "arguments": '{"country": "Chad"}'}}
    question = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many live in Chad?"}]
    turn = {"role": "assistant", "content": "I look.\n", "tool_calls": [call]}
    chats = [question, [*question, turn, {"role": "tool", "tool_call_id": "c1", "content": "17 million"}]]
    tokenizer, _ = load_tokenizer(str(run.parent / "student"))
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
        for chat in chats:
            messages = student_messages(CHAT_COMPLETIONS.read_request({"messages": chat}).messages)
            reply = client.chat.completions.create(model="smollm2", messages=chat, tools=tools, max_tokens=1)
            assert reply.usage.prompt_tokens == len(prompt_ids(messages, tokenizer, tools=tools))
