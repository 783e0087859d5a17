"""The writers produce what real SDKs accept: openai and anthropic against a server that writes with the dialects."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import anthropic
import openai
import pytest

from fireact.models.fake_endpoint import FakeEndpoint
from fireact.wire.dialects import find_dialect

CALL = {"id": "call_1", "type": "function", "function": {"name": "population", "arguments": '{"country": "Kenya"}'}}


def scripted(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Calls the tool, then answers with its result, whatever the dialect; thinks before both."""
    results = [
        value for value in ("function_call_output", "tool_result", '"role": "tool"') if value in json.dumps(request)
    ]
    if not results:
        return {"content": "I look it up.", "reasoning_content": "Population is a fact.", "tool_calls": [CALL]}
    return {"content": "It is 55 million.", "reasoning_content": "I know it now."}


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(scripted) as server:
        yield server


PARAMETERS = {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]}


def test_openai_reads_whole_responses(endpoint: FakeEndpoint) -> None:
    client = openai.OpenAI(base_url=endpoint.url, api_key="none", max_retries=0)
    tools: Any = [{"type": "function", "name": "population", "parameters": PARAMETERS, "strict": True}]
    items: list[Any] = [{"role": "user", "content": "How many people live in Kenya?"}]
    response = client.responses.create(model="fake", input=items, tools=tools, instructions="Be short.")
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert response.status == "completed" and response.usage is not None and response.usage.input_tokens > 0
    call = response.output[2]
    assert call.type == "function_call" and json.loads(call.arguments) == {"country": "Kenya"}
    items += [*response.output, {"type": "function_call_output", "call_id": call.call_id, "output": "55 million"}]
    final = client.responses.create(model="fake", input=items, tools=tools, max_output_tokens=100)
    assert final.output_text == "It is 55 million."


def test_openai_reads_streamed_responses(endpoint: FakeEndpoint) -> None:
    client = openai.OpenAI(base_url=endpoint.url, api_key="none", max_retries=0)
    with client.responses.stream(model="fake", input="How many?") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "I look it up."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == "I look it up." and final.output[2].type == "function_call"
    raw = list(client.responses.create(model="fake", input="How many?", stream=True))
    assert raw[0].type == "response.created" and raw[-1].type == "response.completed"
    assert [event.sequence_number for event in raw] == list(range(len(raw)))


def test_anthropic_reads_whole_and_streamed_messages(endpoint: FakeEndpoint) -> None:
    client = anthropic.Anthropic(base_url=endpoint.url.removesuffix("/v1"), api_key="none", max_retries=0)
    tools: Any = [{"name": "population", "description": "counts", "input_schema": PARAMETERS}]
    messages: list[Any] = [{"role": "user", "content": "How many people live in Kenya?"}]
    message = client.messages.create(model="fake", max_tokens=100, messages=messages, tools=tools, system="Be short.")
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.stop_reason == "tool_use" and message.usage.input_tokens > 0
    with client.messages.stream(model="fake", max_tokens=100, messages=messages, tools=tools) as stream:
        streamed = stream.get_final_message()
    assert [block.to_dict() for block in streamed.content] == [block.to_dict() for block in message.content]
    assert streamed.stop_reason == "tool_use" and streamed.usage.output_tokens == message.usage.output_tokens
    call = message.content[2]
    assert call.type == "tool_use" and call.input == {"country": "Kenya"}
    messages += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "55 million"}]},
    ]
    final = client.messages.create(model="fake", max_tokens=100, messages=messages, tools=tools)
    assert [block.to_dict() for block in final.content][-1] == {"type": "text", "text": "It is 55 million."}
    assert (
        final.stop_reason == "end_turn"
        and client.messages.count_tokens(model="fake", messages=messages).input_tokens > 0
    )


def test_errors_reach_both_clients_as_their_own(endpoint: FakeEndpoint) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        openai.OpenAI(base_url=endpoint.url, api_key="none", max_retries=0).responses.create(model="gpt", input="x")
    client = anthropic.Anthropic(base_url=endpoint.url.removesuffix("/v1"), api_key="none", max_retries=0)
    with pytest.raises(anthropic.NotFoundError, match="does not exist"):
        client.messages.create(model="gpt", max_tokens=1, messages=[{"role": "user", "content": "x"}])


def test_what_the_clients_send_is_read_without_damage_and_written_back(endpoint: FakeEndpoint) -> None:
    test_openai_reads_whole_responses(endpoint)
    test_anthropic_reads_whole_and_streamed_messages(endpoint)
    paths = {"input": "/v1/responses", "messages": "/v1/messages"}
    for request in endpoint.requests:
        dialect = find_dialect(next(path for key, path in paths.items() if key in request))
        assert dialect is not None
        read = dialect.read_request(request)
        assert not read.damage
        assert dialect.write_request(read) == request or "max_tokens" not in request
