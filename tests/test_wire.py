"""The wire: whatever JSON comes, reading gives neutral nouns or named damage, loses nothing, and is undone by
writing."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrary import json_values
from fireact.types import Action, Message, Usage
from fireact.wire.chat_completions import CHAT_COMPLETIONS, ChatCompletions, read_message, write_message
from fireact.wire.dialect import (
    Dialect,
    ResponseFormat,
    StreamDelta,
    ToolCall,
    ToolChoice,
    WireMessage,
    WireReply,
    WireRequest,
    make_call_id,
    number_calls,
)
from fireact.wire.fields import parse_json
from fireact.wire.sse import read_stream, split_events, write_event

KEYS = (
    "choices", "message", "delta", "content", "tool_calls", "function_call", "function", "custom", "name", "arguments",
    "input", "id", "type", "index", "role", "text", "reasoning_content", "reasoning", "finish_reason", "usage", "error",
    "prompt_tokens", "total_tokens", "prompt_tokens_details", "cached_tokens", "messages", "tools", "functions", "stop",
    "max_tokens", "max_completion_tokens", "temperature", "seed", "stream", "stream_options", "include_usage", "model",
    "tool_call_id", "chunks", "x",
)  # fmt: skip
JSON = json_values(keys=KEYS, words=("assistant", "developer", "tool", "function", "{}", '{"a": 1}', "stop"))
MESSAGE = st.fixed_dictionaries({}, optional={
    "role": st.sampled_from(["user", "assistant", "tool", "developer", "function", "robot"]) | JSON,
    "content": JSON, "tool_calls": st.lists(JSON, max_size=2) | JSON, "function_call": JSON, "x": JSON, "name": JSON,
    "reasoning": JSON, "reasoning_content": JSON, "tool_call_id": JSON,
})  # fmt: skip


def strings(value: Any) -> Iterator[str]:
    """The strings in JSON that are values, not keys."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(inner)


def mark(value: Any, marks: Iterator[int]) -> Any:
    """The value with a number in each of its strings, but for roles and kinds, so that each can be found again."""
    if isinstance(value, str):
        return f"<{next(marks)}>"
    if isinstance(value, list):
        return [mark(inner, marks) for inner in value]
    if isinstance(value, dict):
        return {
            key: inner if key in ("role", "type") and isinstance(inner, str) else mark(inner, marks)
            for key, inner in value.items()
        }
    return value


def assert_nothing_is_lost(sent: Any, read: Any) -> None:
    held = repr(read).replace("\\", "")
    missing = [text for text in strings(sent) if text.startswith("<") and text not in held]
    assert not missing, (missing, sent, read)


def marked(value: Any) -> Any:
    return mark(value, iter(range(10_000)))


@given(
    JSON
    | st.fixed_dictionaries({"messages": st.lists(MESSAGE | JSON, max_size=3), "x": JSON, "tools": JSON, "stop": JSON})
)
def test_any_request_is_read_and_nothing_of_it_is_lost(body: Any) -> None:
    body = marked(body)
    request = CHAT_COMPLETIONS.read_request(body)
    assert_nothing_is_lost(body, request)
    assert all(isinstance(message.text, str) for message in request.messages)
    again = CHAT_COMPLETIONS.read_request(CHAT_COMPLETIONS.write_request(request))
    if not request.damage:
        assert again == request


@given(
    JSON
    | st.fixed_dictionaries(
        {
            "choices": st.lists(st.fixed_dictionaries({"message": MESSAGE, "x": JSON}) | JSON, max_size=2),
            "usage": JSON,
            "error": JSON,
        }
    )
)
def test_any_reply_is_read_and_nothing_of_it_is_lost(body: Any) -> None:
    body = marked(body)
    reply = CHAT_COMPLETIONS.read_reply(body)
    assert_nothing_is_lost(body, reply)
    assert reply.answered or reply.damage
    assert isinstance(reply.text, str) and isinstance(reply.plain_text, str) and reply.total_tokens >= 0
    assert all(isinstance(call.action, Action) for call in reply.calls)
    if not reply.damage and not reply.error:
        again = CHAT_COMPLETIONS.read_reply(CHAT_COMPLETIONS.write_reply(reply, model="m"))
        assert (again.parts, again.calls, again.reasoning, again.finish, again.usage) == (
            reply.parts, reply.calls, reply.reasoning, reply.finish, reply.usage,
        )  # fmt: skip
        assert strings(again.extra) is not None


CHUNK = JSON | st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries({"delta": MESSAGE | st.none(), "finish_reason": JSON}) | JSON, max_size=2
        ),
        "x": JSON,
    }
)


@given(st.lists(CHUNK, max_size=4), st.text(max_size=10))
def test_any_stream_is_read_and_nothing_of_it_is_lost(chunks: list[Any], text: str) -> None:
    chunks = marked(chunks)
    reader = CHAT_COMPLETIONS.stream_reader()
    deltas = [reader.add(json.dumps(chunk)) for chunk in chunks]
    reply = reader.reply()
    finishes = {
        choice.get("finish_reason")
        for chunk in chunks
        if isinstance(chunk, dict) and isinstance(chunk.get("choices"), list)
        for choice in chunk["choices"]
        if isinstance(choice, dict) and isinstance(choice.get("finish_reason"), str)
    }
    if len(finishes) < 2:
        assert_nothing_is_lost(chunks, (reply, deltas))
    assert isinstance(
        read_stream(CHAT_COMPLETIONS, text + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)), WireReply
    )


@given(st.text(max_size=30) | st.binary(max_size=30))
def test_any_text_is_parsed_or_not_json(text: str | bytes) -> None:
    parse_json(text)
    if isinstance(text, str):
        assert isinstance(list(split_events(text)), list)
        assert isinstance(CHAT_COMPLETIONS.stream_reader().add(text), StreamDelta)


WORDS = st.text(min_size=1, max_size=12)
CALL = st.builds(
    ToolCall, id=WORDS, name=WORDS, arguments=st.dictionaries(WORDS, JSON, max_size=2).map(json.dumps),
    extra=st.just({}) | st.just({"extra_content": {"google": {"thought_signature": "abc"}}}),
)  # fmt: skip
PARTS = st.lists(WORDS, max_size=3).map(tuple) | st.just(("look", {"type": "image_url", "image_url": {"url": "data:"}}))
WIRE_MESSAGE = st.one_of(
    st.builds(WireMessage, st.sampled_from(["system", "user"]), PARTS, extra=st.just({}) | st.just({"weight": 0})),
    st.builds(WireMessage, st.just("assistant"), PARTS, st.lists(CALL, max_size=2).map(tuple), reasoning=WORDS),
    st.builds(WireMessage, st.just("tool"), PARTS, call_id=WORDS, name=WORDS),
)


FORMATS = [
    None, ResponseFormat("text"), ResponseFormat("json_object"),
    ResponseFormat("json_schema", {"type": "object"}, name="out", strict=True),
]  # fmt: skip


@given(
    st.builds(
        WireRequest, WORDS, st.lists(WIRE_MESSAGE, max_size=3).map(tuple),
        stop=st.lists(WORDS, max_size=3).map(tuple), max_tokens=st.none() | st.integers(1, 9),
        temperature=st.none() | st.floats(0, 2), seed=st.none() | st.integers(0, 9), stream=st.booleans(),
        stream_usage=st.booleans(), tools=st.just(({"type": "function", "function": {"name": "f"}},)) | st.just(()),
        extra=st.just({}) | st.just({"top_k": 1, "stream_options": {"x": 1}}), top_p=st.none() | st.floats(0, 1),
        tool_choice=st.sampled_from([None, ToolChoice("auto"), ToolChoice("required"), ToolChoice("tool", "f")]),
        parallel_tool_calls=st.none() | st.booleans(), response_format=st.sampled_from(FORMATS),
    )
)  # fmt: skip
def test_a_request_that_is_written_is_read_back(request: WireRequest) -> None:
    assert CHAT_COMPLETIONS.read_request(json.loads(json.dumps(CHAT_COMPLETIONS.write_request(request)))) == request


USAGE = st.none() | st.builds(Usage, st.just(1), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))


@given(PARTS, st.lists(CALL, max_size=3).map(tuple), st.text(max_size=9), USAGE)
def test_a_reply_that_is_written_is_read_back(
    parts: tuple[Any, ...], calls: tuple[ToolCall, ...], reasoning: str, usage: Usage | None
) -> None:
    reply = WireReply(parts, calls, reasoning, "stop", usage)
    read = CHAT_COMPLETIONS.read_reply(json.loads(json.dumps(CHAT_COMPLETIONS.write_reply(reply, model="m"))))
    assert (read.parts, read.calls, read.reasoning, read.finish, read.usage) == (parts, calls, reasoning, "stop", usage)
    assert read.answered and not read.damage and read.extra["model"] == "m"


@given(st.lists(WORDS, max_size=4), st.lists(CALL, max_size=3).map(tuple), st.lists(WORDS, max_size=3), USAGE)
def test_a_stream_that_is_written_is_read_back(
    words: list[str], calls: tuple[ToolCall, ...], thoughts: list[str], usage: Usage | None
) -> None:
    writer = CHAT_COMPLETIONS.stream_writer("m")
    events = [writer.start(), *(writer.add(StreamDelta(reasoning=text)) for text in thoughts)]
    events += [writer.add(StreamDelta(text)) for text in words]
    events += [writer.add(StreamDelta(calls=(call,))) for call in calls] + [writer.end(finish="stop", usage=usage)]
    reply = read_stream(CHAT_COMPLETIONS, b"".join(events).decode())
    assert (reply.text, reply.reasoning) == ("".join(words), "".join(thoughts))
    assert (reply.calls, reply.usage, reply.complete, reply.damage) == (calls, usage, True, ())


def chunk(**delta: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": delta}]})


def part(index: int | None, id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    return {"index": index, "id": id, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("ids", [("a", "b"), (None, None), ("", "")])
def test_calls_that_all_have_the_index_0_stay_apart(ids: tuple[str | None, str | None]) -> None:
    reader = CHAT_COMPLETIONS.stream_reader()
    for id, name, arguments in zip(ids, ("look", "go"), ('{"at": 1}', '{"to": 2}'), strict=True):
        reader.add(chunk(tool_calls=[part(0, id, name, arguments)]))
    assert [call.action for call in reader.reply().calls] == [Action("look", {"at": 1}), Action("go", {"to": 2})]
    assert [call.id for call in reader.reply().calls] == [id or "" for id in ids]


def test_a_call_in_pieces_is_one_call_however_often_its_name_and_id_come() -> None:
    for name in ("look", None):
        reader = CHAT_COMPLETIONS.stream_reader()
        reader.add(chunk(tool_calls=[part(0, "a", "look", "")]))
        for piece in ('{"at"', ": {}", "}"):
            reader.add(chunk(tool_calls=[part(0, "a", name, piece)]))
        assert [call.action for call in reader.reply().calls] == [Action("look", {"at": {}})]


def test_null_and_absent_are_the_same_in_a_stream() -> None:
    reader = CHAT_COMPLETIONS.stream_reader()
    for data in (
        '{"choices": null, "usage": null}', '{"choices": []}', '{"choices": [{"delta": null, "finish_reason": null}]}',
        '{"choices": [{"delta": {"content": null, "tool_calls": null, "role": null, "reasoning": null}}]}',
        '{"choices": [{"delta": {"content": "a"}}]}', '{"choices": [{"index": 1, "delta": {"content": "b"}}]}',
        '{"choices": [{"delta": {"content": [{"type": "text", "text": "c"}]}}]}',
    ):  # fmt: skip
        reader.add(data)
    reply = reader.reply()
    assert reply.text == "ac" and reply.answered and not reply.complete and not reply.damage
    assert reply.extra["choices"] == [{}, {"index": 1, "delta": {"content": "b"}}]


def test_an_error_in_a_reply_of_status_200_is_told() -> None:
    reply = CHAT_COMPLETIONS.read_reply({"error": {"message": "overloaded", "code": 502}})
    assert not reply.answered and "overloaded" in reply.error and [one.kind for one in reply.damage] == ["missing"]
    reader = CHAT_COMPLETIONS.stream_reader()
    reader.add('{"error": {"message": "overloaded"}}')
    assert "overloaded" in reader.reply().error and not reader.reply().answered


def test_damage_says_where_it_is_and_what_is_allowed() -> None:
    body = {
        "messages": [
            3,
            {"role": "robot", "content": 4},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{oops"}}]},
        ],
        "temperature": "hot",
    }
    damage = CHAT_COMPLETIONS.read_request(body).damage
    assert [(one.kind, one.where) for one in damage] == [
        ("wrong-type", "messages[0]"), ("unknown-role", "messages[1].role"), ("wrong-type", "messages[1].content"),
        ("torn-arguments", "messages[2].tool_calls[0]"), ("wrong-type", "temperature"),
    ]  # fmt: skip
    assert str(damage[-1]) == "temperature is 'hot'; it must be a number"


def test_what_has_no_field_rides_along_and_is_written_back() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "reasoning_details": [{"signature": "s"}],
        "tool_calls": [
            {
                "id": "a",
                "type": "function",
                "function": {"name": "f", "arguments": "{}", "strict": True},
                "extra_content": {"g": 1},
            },
            {"id": "b", "type": "custom", "custom": {"name": "c", "input": "words"}},
        ],
    }
    read, damage = read_message(message)
    assert write_message(read) == message and not damage
    assert [call.action for call in read.calls] == [Action("f", {}), Action("c", {"input": "words"})]
    old = {"role": "function", "name": "f", "content": "1"}
    assert read_message(old)[0].role == "tool" and write_message(read_message(old)[0]) == old
    asked = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    assert write_message(read_message(asked)[0]) == asked and read_message(asked)[0].calls[0].name == "f"


def test_ids_are_nine_letters_and_digits_and_results_have_those_of_their_calls() -> None:
    assert all(len(make_call_id(n)) == 9 and make_call_id(n).isalnum() for n in (0, 1, 99_999, 100_000, 12_345_678))
    assert len({make_call_id(n) for n in (1, 10, 100_001, 1_000_001)}) == 4
    look = Action("look", {"at": "é"})
    messages = [
        Message("user", "q"), Message("assistant", "", calls=(look, look)), Message("tool", "1", name="look"),
        Message("assistant", "", calls=(look,)), Message("tool", "3", name="look"),
    ]  # fmt: skip
    numbered = list(number_calls(messages))
    assert [call.id for message in numbered for call in message.calls] == ["call00001", "call00002", "call00003"]
    assert [message.call_id for message in numbered if message.role == "tool"] == ["call00001", "call00003"]
    assert write_message(numbered[1])["tool_calls"][0]["function"]["arguments"] == '{"at": "é"}'
    assert list(number_calls(messages, named=True))[2].name == "look"


def test_the_dialect_is_a_dialect() -> None:
    dialect: Dialect = ChatCompletions()
    assert dialect.path == "/chat/completions" and list(split_events(write_event({"a": 1}).decode())) == ['{"a": 1}']
