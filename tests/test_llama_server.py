"""A real inference server: llama.cpp's, with SmolLM2, behind ``openai:``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fireact.base import jsonl
from fireact.models.openai import from_name
from fireact.rollout.collection import CollectConfig, collect
from fireact.types import Call, Message
from llama import llama_server

pytest.importorskip("xllamacpp")
pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from fireact.models.hf import load_merged_student
    from fireact.render.tool_template import write_tool_template
    from fireact.serving.gguf import write_gguf

    path = tmp_path_factory.mktemp("gguf") / "smollm2.gguf"
    model, tokenizer = load_merged_student("smollm2-135m", None)
    tokenizer.chat_template = write_tool_template(tokenizer, finish=False)  # as an export of native calls has it
    write_gguf(model, tokenizer, path, name="smollm2")
    with llama_server(path) as served:
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


def test_tools_calls_and_results_are_shown_as_they_are_trained(url: str) -> None:
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
    tokenizer, _ = load_tokenizer("smollm2-135m")
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
        for chat in chats:
            messages = student_messages(CHAT_COMPLETIONS.read_request({"messages": chat}).messages)
            reply = client.chat.completions.create(model="smollm2", messages=chat, tools=tools, max_tokens=1)
            assert reply.usage.prompt_tokens == len(prompt_ids(messages, tokenizer, tools=tools))
