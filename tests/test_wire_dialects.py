"""Responses and Messages: whatever JSON comes is read, nothing of it is lost, and writing undoes reading."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.types import Action, Usage
from fireact.wire.dialect import Dialect, StreamDelta, ToolCall, ToolChoice, WireMessage, WireReply, WireRequest
from fireact.wire.dialects import DIALECTS, find_dialect
from fireact.wire.messages import MESSAGES
from fireact.wire.response_history import ResponseHistory
from fireact.wire.responses import RESPONSES
from fireact.wire.sse import read_stream, split_events
from test_wire import FORMATS, JSON, WORDS, assert_nothing_is_lost, marked

BOTH = pytest.mark.parametrize("dialect", [RESPONSES, MESSAGES], ids=lambda dialect: dialect.name)
ALL = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)

TEXT = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "input_text", "output_text"]), "text": JSON},
    optional={"annotations": JSON, "x": JSON},
)
THOUGHT = st.fixed_dictionaries(
    {"type": st.sampled_from(["thinking", "reasoning", "redacted_thinking"])},
    optional={"thinking": JSON, "summary": st.lists(TEXT, max_size=2) | JSON, "content": JSON, "signature": JSON},
)
CALLED = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [
                "tool_use",
                "server_tool_use",
                "web_search_tool_result",
                "tool_result",
                "function_call",
                "custom_tool_call",
                "web_search_call",
                "mcp_call",
                "shell_call",
                "function_call_output",
                "custom_tool_call_output",
                "mcp_approval_response",
                "item_reference",
                "compaction",
            ]
        )
    },
    optional={
        "id": JSON,
        "call_id": JSON,
        "tool_use_id": JSON,
        "name": JSON,
        "input": JSON,
        "arguments": JSON,
        "output": JSON,
        "action": JSON,
        "content": JSON,
        "x": JSON,
    },
)
BLOCK = TEXT | THOUGHT | CALLED
ROLES = st.sampled_from(["user", "assistant", "system", "developer", "robot"]) | JSON
ROW = BLOCK | st.fixed_dictionaries(
    {"role": ROLES}, optional={"content": st.lists(BLOCK | JSON, max_size=3) | JSON, "type": JSON, "x": JSON}
)
REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "model": JSON,
        "messages": st.lists(ROW | JSON, max_size=4) | JSON,
        "input": st.lists(ROW | JSON, max_size=4) | JSON,
        "system": st.lists(TEXT, max_size=2) | JSON,
        "instructions": JSON,
        "tools": JSON,
        "tool_choice": JSON,
        "max_tokens": JSON,
        "max_output_tokens": JSON,
        "stop_sequences": JSON,
        "text": JSON,
        "output_config": JSON,
        "x": JSON,
        "stream": JSON,
        "previous_response_id": JSON,
    },
)


def without_nulls(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


@BOTH
@given(body=JSON | REQUEST)
def test_any_request_is_read_and_writing_undoes_it(dialect: Dialect, body: Any) -> None:
    body = marked(body)
    request = dialect.read_request(body)
    assert_nothing_is_lost(body, request)
    assert all(isinstance(message.text, str) for message in request.messages)
    if not request.damage:
        again = dialect.write_request(request)
        assert dialect.read_request(again) == request
        assert {name: again.get(name) for name in body} == {**dict.fromkeys(body), **without_nulls(body)}


@BOTH
@given(
    body=JSON
    | st.fixed_dictionaries(
        {},
        optional={
            "content": st.lists(BLOCK | JSON, max_size=4) | JSON,
            "output": st.lists(ROW | JSON, max_size=4) | JSON,
            "usage": JSON,
            "error": JSON,
            "status": JSON,
            "stop_reason": JSON,
            "incomplete_details": JSON,
            "id": JSON,
            "x": JSON,
        },
    )
)
def test_any_reply_is_read_and_writing_undoes_it(dialect: Dialect, body: Any) -> None:
    body = marked(body)
    reply = dialect.read_reply(body)
    assert_nothing_is_lost(body, reply)
    assert reply.answered or reply.damage
    assert isinstance(reply.text, str) and all(isinstance(call.action, Action) for call in reply.calls)
    if not reply.damage:
        again = dialect.write_reply(reply, model="m")
        read = dialect.read_reply(again)
        assert (read.parts, read.calls, read.reasoning) == (reply.parts, reply.calls, reply.reasoning)
        assert without_nulls(body).items() <= again.items()


EVENT = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [
                "message_start",
                "content_block_start",
                "content_block_delta",
                "message_delta",
                "error",
                "ping",
                "x",
                "response.output_item.added",
                "response.content_part.added",
                "response.output_text.delta",
                "response.reasoning_summary_text.delta",
                "response.function_call_arguments.delta",
                "response.x.delta",
            ]
        )
    },
    optional={
        "index": st.integers(-1, 2) | JSON,
        "output_index": st.integers(-1, 2) | JSON,
        "content_index": JSON,
        "delta": st.fixed_dictionaries(
            {"type": st.sampled_from(["text_delta", "thinking_delta", "input_json_delta", "citations_delta", "x"])},
            optional={"text": JSON, "thinking": JSON, "partial_json": JSON, "citation": JSON, "x": JSON},
        )
        | st.text(max_size=3)
        | JSON,
        "error": JSON,
        "part": JSON,
        "x": JSON,
    },
)


@BOTH
@given(events=st.lists(EVENT, max_size=6), text=st.text(max_size=10))
def test_any_stream_is_read_and_nothing_of_it_is_lost(dialect: Dialect, events: list[Any], text: str) -> None:
    events = marked(events)
    reader = dialect.stream_reader()
    deltas = [reader.add(json.dumps(event)) for event in events]
    reply = reader.reply()
    if sum(event["type"] == "error" for event in events) < 2:
        assert_nothing_is_lost(events, (reply, deltas))
    assert isinstance(
        read_stream(dialect, text + "".join(f"data: {json.dumps(event)}\n\n" for event in events)), WireReply
    )


@BOTH
@given(
    events=st.lists(
        EVENT
        | st.fixed_dictionaries(
            {
                "type": st.sampled_from(
                    [
                        "response.completed",
                        "response.created",
                        "response.output_item.done",
                        "message_start",
                        "content_block_start",
                        "response.content_part.done",
                        "response.output_text.done",
                    ]
                ),
                "response": JSON | st.fixed_dictionaries({"output": st.lists(ROW | JSON, max_size=2)}),
                "item": ROW | JSON,
                "message": JSON | st.fixed_dictionaries({"content": st.lists(BLOCK | JSON, max_size=2)}),
                "content_block": BLOCK | JSON,
                "output_index": JSON,
                "index": JSON,
                "text": JSON,
                "part": JSON,
            }
        ),
        max_size=6,
    )
)
def test_any_order_of_events_is_read(dialect: Dialect, events: list[Any]) -> None:
    reader = dialect.stream_reader()
    for event in events:
        assert isinstance(reader.add(json.dumps(event)), StreamDelta)
        assert isinstance(reader.reply(), WireReply)


CALL = st.builds(ToolCall, id=WORDS, name=WORDS, arguments=st.dictionaries(WORDS, JSON, max_size=2).map(json.dumps))
PARTS = st.lists(WORDS, max_size=3).map(tuple) | st.just(("look", {"type": "image", "source": {"url": "data:"}}))
WIRE_MESSAGE = st.one_of(
    st.builds(WireMessage, st.just("user"), PARTS.filter(bool)),
    st.builds(WireMessage, st.just("assistant"), PARTS.filter(bool), st.lists(CALL, max_size=2).map(tuple)),
    st.builds(WireMessage, st.just("tool"), PARTS, call_id=WORDS),
)
USAGE = st.builds(lambda fresh, cached, written: Usage(1, fresh + cached, cached, written), *[st.integers(0, 9)] * 3)
CHOICES = [None, ToolChoice("auto"), ToolChoice("none"), ToolChoice("required"), ToolChoice("tool", "f")]


@BOTH
@given(
    request=st.builds(
        WireRequest,
        WORDS,
        st.lists(WIRE_MESSAGE, max_size=4).map(tuple),
        max_tokens=st.integers(1, 9),
        temperature=st.none() | st.floats(0, 2),
        stream=st.booleans(),
        top_p=st.none() | st.floats(0, 1),
        tools=st.just(({"name": "f", "input_schema": {}},)) | st.just(()),
        tool_choice=st.sampled_from(CHOICES),
        response_format=st.sampled_from(FORMATS),
        parallel_tool_calls=st.none() | st.booleans(),
        extra=st.just({}) | st.just({"metadata": {"x": 1}, "y": [1]}),
    )
)
def test_a_request_that_is_written_is_read_back(dialect: Dialect, request: WireRequest) -> None:
    request = replace(request, stream_usage=request.stream)
    if dialect is MESSAGES:  # it has a form for schemas alone, without their names, and its choice none is always alone
        schema = request.response_format if request.response_format and request.response_format.schema else None
        parallel = request.parallel_tool_calls and (request.tool_choice is not None or None)
        parallel = None if request.tool_choice == ToolChoice("none") else parallel
        choice = ToolChoice("auto") if parallel is False and request.tool_choice is None else request.tool_choice
        request = replace(
            request,
            response_format=schema and replace(schema, name="", strict=None),
            parallel_tool_calls=parallel,
            tool_choice=choice,
        )
    read = dialect.read_request(json.loads(json.dumps(dialect.write_request(request))))
    assert [join(message) for message in read.messages] == [join(message) for message in request.messages] or (
        adjacent(request)
    )
    assert replace(read, messages=()) == replace(request, messages=())
    assert not read.damage


def join(message: WireMessage) -> tuple[Any, ...]:
    calls = [(call.id, call.name, call.action) for call in message.calls]
    return message.role, message.parts, calls, message.call_id


def adjacent(request: WireRequest) -> bool:
    """Whether two messages of the assistant stand in a row, which Responses does not tell apart from one."""
    roles = [message.role for message in request.messages]
    return any(pair == ("assistant", "assistant") for pair in itertools.pairwise(roles))


@BOTH
@given(
    parts=PARTS,
    calls=st.lists(CALL, max_size=3).map(tuple),
    reasoning=st.text(max_size=9),
    usage=USAGE,
    finish=st.sampled_from(["length", "content_filter", ""]),
)
def test_a_reply_that_is_written_is_read_back(
    dialect: Dialect, parts: tuple[Any, ...], calls: tuple[ToolCall, ...], reasoning: str, usage: Usage, finish: str
) -> None:
    finish = finish or ("tool_calls" if calls else "stop")
    reply = WireReply(parts, calls, reasoning, finish, usage)
    read = dialect.read_reply(json.loads(json.dumps(dialect.write_reply(reply, model="m"))))
    assert (read.parts, read.reasoning, read.finish, read.usage) == (parts, reasoning, finish, usage)
    assert [(call.id, call.name, call.action) for call in read.calls] == [
        (call.id, call.name, call.action) for call in calls
    ]
    assert read.answered and not read.damage and read.extra["model"] == "m"


@ALL
@given(
    texts=st.lists(WORDS, max_size=4),
    calls=st.lists(CALL, max_size=3).map(tuple),
    thoughts=st.lists(WORDS, max_size=3),
    usage=USAGE,
    finish=st.sampled_from(["length", ""]),
)
def test_a_stream_that_is_written_is_read_back(
    dialect: Dialect, texts: list[str], calls: tuple[ToolCall, ...], thoughts: list[str], usage: Usage, finish: str
) -> None:
    finish = finish or ("tool_calls" if calls else "stop")
    writer = dialect.stream_writer("m")
    events = [writer.start(), *(writer.add(StreamDelta(reasoning=text)) for text in thoughts)]
    events += [writer.add(StreamDelta(text)) for text in texts]
    events += [writer.add(StreamDelta(calls=(call,))) for call in calls]
    reader, deltas = dialect.stream_reader(), []
    cut_text = b"".join(events).decode()
    events += [writer.end(finish=finish, usage=usage)]
    for data in split_events(b"".join(events).decode()):
        deltas.append(reader.add(data))
    reply = reader.reply()
    assert (reply.text, reply.reasoning) == ("".join(texts), "".join(thoughts))
    assert "".join(delta.text for delta in deltas) == reply.text
    assert [(call.id, call.name, call.action) for call in reply.calls] == [
        (call.id, call.name, call.action) for call in calls
    ]
    assert (reply.usage, reply.complete, reply.answered, reply.finish, reply.damage) == (usage, True, True, finish, ())
    cut = read_stream(dialect, cut_text)
    assert not cut.complete and cut.text == reply.text and len(cut.calls) == len(calls)


@ALL
def test_a_stream_that_fails_holds_the_error(dialect: Dialect) -> None:
    writer = dialect.stream_writer("m")
    reply = read_stream(dialect, (writer.start() + writer.add(StreamDelta("Li")) + writer.fail("no memory")).decode())
    assert "no memory" in reply.error and reply.text == "Li"
    body = dialect.write_error("temperature is 9; it must be from 0 to 2")
    assert "temperature is 9" in body["error"]["message"] and body["error"]["type"] == "invalid_request_error"
    assert "temperature is 9" in dialect.read_reply(body).error


RESPONSES_REQUEST: dict[str, Any] = {
    "model": "m",
    "instructions": "Be short.",
    "previous_response_id": "resp_0",
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "reasoning": {"effort": "low"},
    "prompt_cache_key": "k",
    "text": {
        "format": {"type": "json_schema", "name": "out", "schema": {"type": "object"}, "strict": True},
        "verbosity": "low",
    },
    "tools": [
        {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True},
        {"type": "web_search"},
    ],
    "tool_choice": {"type": "function", "name": "look"},
    "parallel_tool_calls": False,
    "max_output_tokens": 64,
    "top_p": 0.5,
    "input": [
        {"role": "developer", "content": "Be kind."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Where?"},
                {"type": "input_image", "image_url": "data:", "detail": "low"},
            ],
        },
        {
            "id": "rs_1",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "I look."}],
            "encrypted_content": "gAAA",
        },
        {
            "id": "ws_1",
            "type": "web_search_call",
            "status": "completed",
            "action": {"type": "search", "query": "capital of Peru"},
        },
        {
            "id": "fc_1",
            "type": "function_call",
            "status": "completed",
            "call_id": "call_1",
            "name": "look",
            "arguments": '{"at": "Peru"}',
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "Lima"},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Lima.", "annotations": [], "logprobs": []}],
        },
        {"role": "user", "content": "Sure?"},
        {"type": "item_reference", "id": "msg_0"},
        {"id": "ct_1", "type": "custom_tool_call", "call_id": "call_2", "name": "code", "input": "print(1)"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "1"}]},
        {"type": "mcp_approval_response", "approval_request_id": "r", "approve": True},
    ],
}


def test_a_request_of_responses_is_read_as_messages_and_written_back() -> None:
    request = RESPONSES.read_request(RESPONSES_REQUEST)
    assert not request.damage and RESPONSES.write_request(request) == RESPONSES_REQUEST
    assert [message.role for message in request.messages] == [
        "system",
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
        "assistant",
        "tool",
        "user",
    ]
    turn = request.messages[3]
    assert turn.reasoning == "I look." and [call.name for call in turn.calls] == ["web_search", "look"]
    assert turn.calls[0].output == "completed" and turn.calls[0].action.arguments["query"] == "capital of Peru"
    assert turn.calls[1].output is None and turn.calls[1].action == Action("look", {"at": "Peru"})
    assert request.messages[4] == WireMessage("tool", ("Lima",), call_id="call_1")
    assert request.messages[5].text == "Lima." and request.messages[-3].calls[0].arguments == "print(1)"
    assert (request.tool_choice, request.parallel_tool_calls) == (ToolChoice("tool", "look"), False)
    assert request.response_format == FORMATS[-1] and request.extra["text"] == {"verbosity": "low"}
    assert request.extra["previous_response_id"] == "resp_0" and request.max_tokens == 64


MESSAGES_REQUEST: dict[str, Any] = {
    "model": "m",
    "max_tokens": 64,
    "stream": True,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "top_k": 5,
    "system": [
        {"type": "text", "text": "Be short."},
        {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
    ],
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    "tools": [
        {"name": "look", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
        {"type": "web_search_20250305", "name": "web_search"},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I look.", "signature": "sig"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Let me see."},
                {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "Peru"}},
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "srv_1",
                    "content": [
                        {
                            "type": "web_search_result",
                            "title": "Peru",
                            "url": "https://peru.example",
                            "encrypted_content": "E",
                        }
                    ],
                },
                {
                    "type": "tool_use",
                    "id": "t1",
                    "name": "look",
                    "input": {"at": "Peru"},
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "Lima"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no place", "is_error": True},
                {"type": "text", "text": "Go on."},
            ],
        },
        {"role": "assistant", "content": "Lima."},
        {"role": "user", "content": "Sure?"},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t3", "content": "late"}]},
        {"role": "user", "content": "Apart from it."},
    ],
}


def test_a_request_of_messages_is_read_as_messages_and_written_back() -> None:
    request = MESSAGES.read_request(MESSAGES_REQUEST)
    assert not request.damage and MESSAGES.write_request(request) == MESSAGES_REQUEST
    assert [message.role for message in request.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
        "assistant",
        "user",
        "tool",
        "user",
    ]
    turn = request.messages[2]
    assert (turn.reasoning, turn.text) == ("I look.", "Let me see.")
    assert [call.action for call in turn.calls] == [
        Action("web_search", {"query": "Peru"}),
        Action("look", {"at": "Peru"}),
        Action("look", {}),
    ]
    assert "https://peru.example" in (turn.calls[0].output or "") and "E" not in (turn.calls[0].output or "E").split(
        '"'
    )
    assert [call.output for call in turn.calls[1:]] == [None, None]
    assert [(message.call_id, message.text) for message in request.messages[3:5]] == [
        ("t1", "Lima"),
        ("t2", "no place"),
    ]
    assert (
        request.stop == ("END",)
        and request.parallel_tool_calls is False
        and request.tool_choice == ToolChoice("tool", "look")
    )
    assert request.extra["thinking"] == {"type": "enabled", "budget_tokens": 1024} and request.extra["top_k"] == 5


@pytest.mark.parametrize(("dialect", "body"), [(RESPONSES, RESPONSES_REQUEST), (MESSAGES, MESSAGES_REQUEST)])
def test_a_request_that_was_changed_is_written_as_it_is_now(dialect: Dialect, body: dict[str, Any]) -> None:
    request = dialect.read_request(body)
    changed = replace(request, messages=(*request.messages[1:], WireMessage("user", ("Only this?",))))
    text = json.dumps(dialect.write_request(changed))
    assert "Only this?" in text and "Be short." not in text
    assert "sig" in text if dialect is MESSAGES else "gAAA" in text  # what later messages hold still rides along
    turn = next(message for message in request.messages if message.role == "assistant")
    edited = replace(request, messages=(replace(turn, parts=("Edited.",)),))
    assert "Edited." in json.dumps(dialect.write_request(edited))


def test_schemas_of_chat_completions_are_written_in_the_form_of_the_dialect() -> None:
    parameters = {"type": "object", "properties": {"at": {"type": "string"}}}
    wrapped = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": parameters}}
    request = WireRequest("m", (WireMessage("user", ("Where?",)),), tools=(wrapped,))
    assert MESSAGES.write_request(request)["tools"] == [
        {"name": "look", "description": "looks", "input_schema": parameters}
    ]
    assert RESPONSES.write_request(request)["tools"][0].items() >= {"type": "function", "name": "look"}.items()
    assert MESSAGES.write_request(request)["max_tokens"] > 0


def test_damage_says_where_it_is() -> None:
    body = {
        "model": "m",
        "max_tokens": "many",
        "messages": [
            3,
            {"role": "robot", "content": 4},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": "{oops"}]},
        ],
    }
    damage = MESSAGES.read_request(body).damage
    assert {(damaged.kind, damaged.where) for damaged in damage} >= {
        ("wrong-type", "messages[0]"),
        ("unknown-role", "messages[1].role"),
        ("wrong-type", "messages[1].content"),
        ("torn-arguments", "messages[2].content[0].input"),
        ("wrong-type", "max_tokens"),
    }
    input_items = [3, {"role": "robot", "content": "x"}, {"type": "function_call", "name": "f", "arguments": "{oops"}]
    damage = RESPONSES.read_request({"model": "m", "input": input_items}).damage
    assert [(damaged.kind, damaged.where) for damaged in damage] == [
        ("wrong-type", "input[0]"),
        ("unknown-role", "input[1].role"),
        ("torn-arguments", "input[2].arguments"),
    ]


def test_a_response_in_the_background_is_not_an_answer() -> None:
    reply = RESPONSES.read_reply({"id": "resp_1", "object": "response", "status": "queued", "output": []})
    assert not reply.answered and reply.damage and reply.finish == "queued"


NAMING = st.fixed_dictionaries({"input": JSON, "previous_response_id": JSON, "conversation": JSON})
REPLY = st.fixed_dictionaries({"id": JSON, "output": st.lists(ROW | JSON, max_size=3) | JSON})


@given(bodies=st.lists(REQUEST | NAMING, max_size=4), replies=st.lists(REPLY, min_size=4, max_size=4))
def test_any_history_is_resolved(bodies: list[dict[str, Any]], replies: list[dict[str, Any]]) -> None:
    history = ResponseHistory()
    for body, reply in zip(bodies, replies, strict=False):
        resolved, missing_ids = history.resolve(body)
        assert all(isinstance(id, str) for id in missing_ids)
        assert (
            RESPONSES.read_request(resolved).messages[-1:] == RESPONSES.read_request(body).messages[-1:] or missing_ids
        )
        history.add(resolved, RESPONSES.read_reply(reply))


def test_a_request_that_names_an_earlier_response_holds_its_input_and_output() -> None:
    history = ResponseHistory()
    first = {"input": "Where?"}
    answer = {"id": "m1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Lima."}]}
    history.add(first, RESPONSES.read_reply({"id": "r1", "output": [answer]}))
    resolved, missing_ids = history.resolve({"input": "Sure?", "previous_response_id": "r1"})
    assert [message.text for message in RESPONSES.read_request(resolved).messages] == ["Where?", "Lima.", "Sure?"]
    assert missing_ids == ()
    referring = {"input": [{"type": "item_reference", "id": "m1"}, {"type": "item_reference", "id": "m2"}]}
    resolved, missing_ids = history.resolve(referring)
    assert resolved["input"] == [answer, {"type": "item_reference", "id": "m2"}] and missing_ids == ("m2",)
    history.add({"input": "x", "store": False}, RESPONSES.read_reply({"id": "r2", "output": []}))
    assert history.resolve({"input": "y", "previous_response_id": "r2"})[1] == ("r2",)


def test_dialects_are_found_by_path() -> None:
    assert find_dialect("/v1/responses") is RESPONSES and find_dialect("/e/7/v1/messages") is MESSAGES
    assert find_dialect("/v1/messages/count_tokens") is None and find_dialect("/v1/embeddings") is None
    assert list(DIALECTS) == ["chat completions", "responses", "messages"]
