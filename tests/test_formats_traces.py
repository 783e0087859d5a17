"""Traces that people already have: each is read with its tools, system prompt, ending and scores, and trained on.

Samples are made by the packages themselves (``samples/traces/make_*.py``), or follow the published schema.
"""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from fireact.data.doctor import DoctorConfig, diagnose_data
from fireact.errors import DataError, FireactError
from fireact.formats.conversion import convert
from fireact.formats.read import find_reader, read_any
from fireact.formats.source import Damage, open_source_file
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.types import Action, Trajectory

SAMPLES = Path(__file__).parent / "samples" / "traces"
QUESTION, SYSTEM = "How high is the tide at Oban at 9 and at 15?", "You help sailors."
ANSWER = "2.1 and 0.6 metres."
PARAMETERS = {
    "type": "object",
    "properties": {"harbour": {"type": "string"}, "hour": {"type": "integer"}},
    "required": ["harbour", "hour"],
}
TOOL = {"type": "function", "function": {"name": "tide_at", "description": "The tide.", "parameters": PARAMETERS}}
CALLS = [
    {"id": f"call0000{n}", "type": "function", "function": {
        "name": "tide_at", "arguments": json.dumps({"harbour": "Oban", "hour": hour})}}
    for n, hour in enumerate((9, 15))
]  # fmt: skip
PROMPT = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
TURN = {"role": "assistant", "content": "I look both up.", "tool_calls": CALLS}
RESULTS = [
    {"role": "tool", "tool_call_id": "call00000", "content": "2.1 metres"},
    {"role": "tool", "tool_call_id": "call00001", "content": "0.6 metres"},
]
LAST = {"role": "assistant", "content": ANSWER}


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_one(path: Path, format: str) -> Trajectory:
    assert find_reader(open_source_file(path)).name == format
    damages: list[Damage] = []
    (trajectory,) = read_any(path, notice=damages.append)
    assert not damages
    return trajectory


def assert_tides(trajectory: Trajectory, *, tools: bool = True, system: str = SYSTEM) -> None:
    """The steps of the sailor, its tools and its system prompt."""
    assert trajectory.example.question == QUESTION and trajectory.meta.get("system", "") == system
    first, second, last = trajectory.steps
    assert (first.thought, first.action, first.observation) == (
        "I look both up.", Action("tide_at", {"harbour": "Oban", "hour": 9}), "2.1 metres",
    )  # fmt: skip
    assert second.joined and second.action == Action("tide_at", {"harbour": "Oban", "hour": 15})
    assert second.observation == "0.6 metres"
    assert last.action == Action("finish", {"answer": ANSWER}) and trajectory.stop == "finish"
    names = [tool["function"]["name"] for tool in trajectory.meta.get("tools", ())]
    assert names == (["tide_at"] if tools else [])
    if tools:
        properties = trajectory.meta["tools"][0]["function"]["parameters"]["properties"]
        assert properties == PARAMETERS["properties"]


def assert_trains(path: Path, tmp_path: Path) -> None:
    """The file as a student's training data: turns that are learned, no error, the same again when it is converted."""
    (trajectory,) = read_any(path)
    learned = [message for message in ToolCallsRenderer().sample(trajectory) if message.train]
    assert [[call.name for call in message.calls] for message in learned] == [["tide_at", "tide_at"], ["finish"]]
    convert(path, tmp_path / "converted.jsonl", to="messages", force=True)
    (back,) = read_any(tmp_path / "converted.jsonl")
    assert (back.example, back.steps, back.scores) == (trajectory.example, trajectory.steps, trajectory.scores)
    inferred = {"tools"} - trajectory.meta.keys()  # a writer infers schemas from calls where there are none
    assert {name: value for name, value in back.meta.items() if name not in inferred} == trajectory.meta
    findings = diagnose_data(DoctorConfig(str(path))).findings
    assert not [finding.kind for finding in findings if finding.level == "error"]


@pytest.mark.parametrize(
    ("file", "format"),
    [
        ("genai.otlp.json", "otlp"), ("openinference.otlp.json", "otlp"), ("langsmith.jsonl", "langsmith"),
        ("langfuse.json", "langfuse"), ("mlflow.json", "mlflow"),
    ],
)  # fmt: skip
def test_traces_of_packages_are_read_and_trained_on(file: str, format: str, tmp_path: Path) -> None:
    trajectory = read_one(SAMPLES / file, format)
    assert_tides(trajectory)
    assert trajectory.model == "fake-model" and trajectory.seconds > 0
    usage = trajectory.usage
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (2, 20, 8)
    assert trajectory.scores == ({"correctness": 1.0} if format == "mlflow" else {})
    assert_trains(SAMPLES / file, tmp_path)


def test_spans_of_a_trace_may_stand_in_any_lines_and_side_calls_are_counted(tmp_path: Path) -> None:
    document = json.loads((SAMPLES / "genai.otlp.json").read_text())
    (scope,) = [scope for group in document["resourceSpans"] for scope in group["scopeSpans"]]
    spans = scope["spans"]
    calls = [span for span in spans if span["name"].startswith("chat")]
    title = json.loads(json.dumps(calls[0]).replace(QUESTION, "Give this chat a title."))
    lines = [{"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]} for span in (*reversed(spans), title)]
    trajectory = read_one(write_rows(tmp_path / "spans.jsonl", *lines), "otlp")
    assert_tides(trajectory)
    assert trajectory.meta["calls_aside"] == 1


def test_spans_as_phoenix_exports_them_with_their_annotations(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {
        "openinference.span.kind": "LLM",
        "llm": {
            "model_name": "m",
            "input_messages": [{"message": {"role": "user", "content": "Q?"}}],
            "output_messages": [{"message": {"role": "assistant", "content": "c"}}],
            "tools": [{"tool": {"json_schema": json.dumps(TOOL)}}],
            "token_count": {"prompt": 3, "completion": 1},
        },
    }
    span = {
        "name": "llm", "context": {"trace_id": "t", "span_id": "s"}, "parent_id": None, "attributes": attributes,
        "start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T00:00:02Z", "status_code": "OK",
        "annotations": [{"name": "correct", "result": {"score": 1.0}}],
    }  # fmt: skip
    trajectory = read_one(write_rows(tmp_path / "phoenix.jsonl", span), "otlp")
    assert (trajectory.example.question, trajectory.answer, trajectory.scores) == ("Q?", "c", {"correct": 1.0})
    assert trajectory.seconds == 2.0 and trajectory.usage.prompt_tokens == 3
    assert trajectory.meta["tools"] == [TOOL] and trajectory.meta["trace"] == "t"


def test_a_span_without_words_is_reported(tmp_path: Path) -> None:
    attributes = [{"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}]
    spans = {
        "resourceSpans": [{"scopeSpans": [{"spans": [{"name": "chat m", "traceId": "t", "attributes": attributes}]}]}]
    }
    damages: list[Damage] = []
    with pytest.raises(DataError, match="none of its spans"):
        list(read_any(write_rows(tmp_path / "a.jsonl", spans), notice=damages.append))
    assert [damage.kind for damage in damages] == ["call-without-content"] and "capture" in damages[0].detail


def generation(output: Any, prompt: Any = ("Q?",), **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": item} if isinstance(item, str) else item for item in prompt]
    return {"id": "g", "traceId": "t", "type": "GENERATION", "startTime": "2026-01-01T00:00:00Z", "name": "g",
            "input": messages, "output": output, **fields}  # fmt: skip


ITEM_CALL = {"type": "function_call", "name": "f", "arguments": '{"a": 1}', "call_id": "1"}
ITEM_ANSWER = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c"}]}
THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
BLOCKS = [{"type": "text", "text": "hm"}, {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]


@pytest.mark.parametrize(
    "output", [[THOUGHT, ITEM_CALL], {"output": [THOUGHT, ITEM_CALL]}, BLOCKS, {"content": BLOCKS}]
)
def test_a_reply_of_items_or_blocks_is_read_whole(tmp_path: Path, output: Any) -> None:
    trajectory = read_one(write_rows(tmp_path / "a.jsonl", generation(output)), "langfuse")
    (step,) = trajectory.steps
    assert (step.thought, step.action) == ("hm", Action("f", {"a": 1}))


def test_calls_of_the_responses_api_are_joined_by_their_items(tmp_path: Path) -> None:
    result = {"type": "function_call_output", "call_id": "1", "output": "R"}
    second = generation([ITEM_ANSWER], ("Q?", THOUGHT, ITEM_CALL, result), startTime="2026-01-01T00:01:00Z")
    path = write_rows(tmp_path / "a.jsonl", generation([THOUGHT, ITEM_CALL]), second)
    trajectory = read_one(path, "langfuse")
    assert [step.observation for step in trajectory.steps] == ["R", None] and trajectory.answer == "c"


def test_an_odd_observation_is_left_out_alone_and_a_category_is_reported(tmp_path: Path) -> None:
    scores = [{"name": "ok", "value": None, "stringValue": "good"}, {"name": "n", "value": 1.5}]
    row = {"id": "t", "timestamp": "x", "input": "q", "scores": scores, "observations": [None, 5, generation("c")]}
    damages: list[Damage] = []
    (trajectory,) = read_any(write_rows(tmp_path / "a.jsonl", row), notice=damages.append, skip=True)
    assert trajectory.answer == "c" and trajectory.scores == {"n": 1.5}
    assert [damage.kind for damage in damages] == ["unread-score", "unreadable", "unreadable"]


def otlp_span(operation: str, **fields: Any) -> dict[str, Any]:
    messages = {"input": [{"role": "user", "parts": [{"type": "text", "content": "Q?"}]}],
                "output": [{"role": "assistant", "parts": [{"type": "text", "content": operation}]}]}  # fmt: skip
    texts = {f"gen_ai.{name}.messages": json.dumps(value) for name, value in messages.items()}
    attributes: list[Any] = [
        {"key": key, "value": {"stringValue": value}}
        for key, value in {"gen_ai.operation.name": operation, **texts}.items()
    ]
    odd = [{"key": "n", "value": {"intValue": "1e3"}}, {"key": "m", "value": None}, {"key": None}, "z"]
    return {"traceId": "t", "name": operation, "attributes": attributes + odd, **fields}


def test_odd_spans_and_attributes_are_left_out_alone(tmp_path: Path) -> None:
    for spans, answer in (
        ([otlp_span("chat", events=["x"], annotations=[None]), "x", None, otlp_span("invoke_agent")], "chat"),
        ([otlp_span("invoke_agent"), 5], "invoke_agent"),
    ):
        row = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}, 3]}
        damages: list[Damage] = []
        (trajectory,) = read_any(write_rows(tmp_path / "a.jsonl", row), notice=damages.append, skip=True)
        assert trajectory.answer == answer and {damage.kind for damage in damages} == {"unreadable"}


def _chat_log() -> list[dict[str, Any]]:
    def reply(message: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {
            "object": "chat.completion",
            "choices": [choice],
            "usage": {"prompt_tokens": 10, "completion_tokens": 4},
        }

    first = {"model": "m", "messages": PROMPT, "tools": [TOOL]}
    second = {**first, "messages": [*PROMPT, TURN, *RESULTS]}
    return [{"request": first, "response": reply(TURN)}, {"request": second, "response": reply(LAST), "score": 0.5}]


def _stored_completions() -> list[dict[str, Any]]:
    return [{**row["request"], **row["response"], **{key: row[key] for key in ("score",) if key in row}}
            for row in _chat_log()]  # fmt: skip


def _responses_log() -> list[dict[str, Any]]:
    calls = [{"type": "function_call", "call_id": call["id"], **call["function"]} for call in CALLS]
    words = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look both up."}]}
    results = [{"type": "function_call_output", "call_id": result["tool_call_id"], "output": result["content"]}
               for result in RESULTS]  # fmt: skip
    first = {
        "model": "m",
        "instructions": SYSTEM,
        "input": [{"role": "user", "content": QUESTION}],
        "tools": [{"type": "function", **TOOL["function"]}],
    }  # type: ignore[dict-item]
    second = {**first, "input": [*first["input"], words, *calls, *results]}  # type: ignore[misc]
    last = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ANSWER}]}
    usage = {"input_tokens": 10, "output_tokens": 4}
    return [
        {"request": request, "score": 0.5,
         "response": {"object": "response", "status": "completed", "output": output, "usage": usage}}
        for request, output in ((first, [words, *calls]), (second, [last]))
    ]  # fmt: skip


def _messages_log() -> list[dict[str, Any]]:
    uses = [
        {"type": "tool_use", "id": call["id"], "name": "tide_at", "input": {"harbour": "Oban", "hour": hour}}
        for call, hour in zip(CALLS, (9, 15), strict=True)
    ]
    turn = [{"type": "text", "text": "I look both up."}, *uses]
    results = [{"type": "tool_result", "tool_use_id": result["tool_call_id"], "content": result["content"]}
               for result in reversed(RESULTS)]  # fmt: skip
    first = {"model": "m", "system": SYSTEM, "max_tokens": 9, "messages": [{"role": "user", "content": QUESTION}],
             "tools": [{"name": "tide_at", "description": "The tide.", "input_schema": PARAMETERS}]}  # fmt: skip
    second = {**first, "messages": [*first["messages"], {"role": "assistant", "content": turn},  # type: ignore[misc]
                                    {"role": "user", "content": results}]}  # fmt: skip
    usage, last = {"input_tokens": 10, "output_tokens": 4}, [{"type": "text", "text": ANSWER}]
    return [
        {"request": request, "score": 0.5,
         "response": {"type": "message", "role": "assistant", "content": content, "stop_reason": stop, "usage": usage}}
        for request, content, stop in ((first, turn, "tool_use"), (second, last, "end_turn"))
    ]  # fmt: skip


@pytest.mark.parametrize("rows", [_chat_log(), _stored_completions(), _responses_log(), _messages_log()])
def test_logs_of_the_three_dialects_are_one_episode(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "log.jsonl", *rows)
    trajectory = read_one(path, "api-log")
    assert_tides(trajectory)
    assert (trajectory.model, trajectory.scores, trajectory.usage.prompt_tokens) == ("m", {"score": 0.5}, 20)
    assert_trains(path, tmp_path)


def test_a_call_that_failed_is_reported_and_a_stream_is_read(tmp_path: Path) -> None:
    first, second = _chat_log()
    deltas = ({"delta": {"content": ANSWER}}, {"delta": {}, "finish_reason": "stop"})
    chunks = [{"choices": [{"index": 0, **delta}]} for delta in deltas]
    second["response"] = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    failed = {"request": first["request"], "response": {"choices": [], "error": {"message": "overloaded"}}}
    path = write_rows(tmp_path / "log.jsonl", first, failed, second)
    with pytest.raises(DataError, match=r"row 2: .*overloaded"):
        list(read_any(path))
    (trajectory,) = read_any(path, skip=True)
    assert_tides(trajectory)


def test_the_agents_own_way_to_end_is_its_answer(tmp_path: Path) -> None:
    first, second = _chat_log()
    call = {"id": "c", "type": "function", "function": {"name": "final_result", "arguments": '{"metres": 2.1}'}}
    second["response"]["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
    trajectory = read_one(write_rows(tmp_path / "log.jsonl", first, second), "api-log")
    assert (trajectory.answer, trajectory.stop, trajectory.meta["ending"]) == ("2.1", "finish", "final_result")


def _claude_lines(*messages: tuple[str, dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for number, (kind, message) in enumerate(messages):
        lines.append({
            "type": kind, "uuid": f"u{number}", "parentUuid": f"u{number - 1}" if number else None, "sessionId": "s",
            "isSidechain": False, "timestamp": f"2026-01-01T00:00:0{number}.000Z", "message": message, **fields,
        })  # fmt: skip
    return lines


def test_claude_codes_sessions(tmp_path: Path) -> None:
    def block(*blocks: dict[str, Any], usage: int = 4) -> dict[str, Any]:
        return {"id": "msg_1", "role": "assistant", "model": "m", "content": list(blocks),
                "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": usage}}  # fmt: skip

    uses = [
        {"type": "tool_use", "id": call["id"], "name": "tide_at", "input": {"harbour": "Oban", "hour": hour}}
        for call, hour in zip(CALLS, (9, 15), strict=True)
    ]
    results = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": result["tool_call_id"],
                                             "content": result["content"]}]} for result in RESULTS]  # fmt: skip
    lines = _claude_lines(
        ("user", {"role": "user", "content": QUESTION}),
        ("assistant", block({"type": "text", "text": "I look both up."})), ("assistant", block(uses[0])),
        ("assistant", block(uses[1])), ("user", results[0]), ("user", results[1]),
        ("assistant", {**block({"type": "text", "text": ANSWER}), "id": "msg_2"}),
    )  # fmt: skip
    side = {**lines[0], "uuid": "x", "parentUuid": None, "isSidechain": True}
    notice = {"type": "summary", "summary": "Tides", "leafUuid": "u6"}
    retry = {**lines[1], "uuid": "y", "message": block({"type": "text", "text": "An answer that was taken back."})}
    path = write_rows(tmp_path / "s.jsonl", notice, lines[0], retry, *lines[1:4], side, *lines[4:])
    trajectory = read_one(path, "claude-code")
    assert_tides(trajectory, tools=False, system="")
    assert (trajectory.model, trajectory.seconds, trajectory.meta["lines_aside"]) == ("m", 6.0, 2)
    usage = trajectory.usage
    assert (usage.calls, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (2, 30, 10, 8)
    assert_trains(path, tmp_path)


def test_codexs_sessions(tmp_path: Path) -> None:
    second = _responses_log()[1]
    items = [*second["request"]["input"], *second["response"]["output"]]
    context = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment_context>x"}]}
    thought = {"type": "reasoning", "summary": [], "encrypted_content": "x"}
    lines = [
        {"type": "session_meta", "payload": {"id": "s", "cwd": "/", "instructions": SYSTEM}},
        {"type": "response_item", "payload": context},
        *({"type": "response_item", "payload": item} for item in (items[0], thought, *items[1:])),
        {"type": "turn_context", "payload": {"model": "m"}},
        {"type": "event_msg", "payload": {"type": "token_count", "info": {"total_token_usage": {
            "input_tokens": 20, "cached_input_tokens": 5, "output_tokens": 8}}}},
    ]  # fmt: skip
    lines = [{"timestamp": f"2026-01-01T00:00:{number:02}Z", **line} for number, line in enumerate(lines)]
    path = write_rows(tmp_path / "rollout.jsonl", *lines)
    trajectory = read_one(path, "codex")
    assert_tides(trajectory, tools=False, system=f"{SYSTEM}\n\n<environment_context>x")
    assert (trajectory.model, trajectory.usage.prompt_tokens, trajectory.usage.cached_tokens) == ("m", 20, 5)
    assert_trains(path, tmp_path)


def test_tensorzeros_datapoints(tmp_path: Path) -> None:
    uses = [{"type": "tool_call", "id": call["id"], **call["function"]} for call in CALLS]  # type: ignore[dict-item]
    results = [{"type": "tool_result", "id": result["tool_call_id"], "name": "tide_at", "result": result["content"]}
               for result in RESULTS]  # fmt: skip
    messages = [
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I look both up."}, *uses]},
        {"role": "user", "content": results},
    ]
    row = {
        "function_name": "sailor", "id": "d", "episode_id": "e", "input": {"system": SYSTEM, "messages": messages},
        "output": [{"type": "text", "text": ANSWER}], "tool_params": {"tools_available": [TOOL["function"]]},
    }  # fmt: skip
    path = write_rows(tmp_path / "t.jsonl", row)
    trajectory = read_one(path, "tensorzero")
    assert_tides(trajectory)
    assert trajectory.meta["function"] == "sailor"
    assert_trains(path, tmp_path)


def test_xlams_calls(tmp_path: Path) -> None:
    calls = [{"name": "tide_at", "arguments": {"harbour": "Oban", "hour": hour}} for hour in (9, 15)]
    parameters = {"harbour": {"type": "str", "description": "where"}}
    tools = [{"name": "tide_at", "description": "The tide.", "parameters": parameters}]
    row = {"id": 7, "query": QUESTION, "answers": json.dumps(calls), "tools": json.dumps(tools)}
    trajectory = read_one(write_rows(tmp_path / "x.jsonl", row), "xlam")
    assert [dict(step.action.arguments) for step in trajectory.steps if step.action] == [
        call["arguments"] for call in calls
    ]
    assert trajectory.steps[1].joined and trajectory.example.id == "7" and trajectory.stop == "max_steps"
    assert trajectory.meta["tools"][0]["function"]["parameters"]["properties"] == parameters


def test_agent_data_protocol(tmp_path: Path) -> None:
    content = [
        {"class_": "text_observation", "source": "user", "content": "Q?"},
        {"class_": "api_action", "function": "search", "kwargs": {"query": "a"}, "description": "I look."},
        {"class_": "text_observation", "source": "environment", "content": "A"},
        {"class_": "code_action", "language": "bash", "content": "ls", "description": None},
        {"class_": "text_observation", "source": "environment", "content": "file"},
        {"class_": "message_action", "content": "c", "description": None},
    ]
    row = {"id": "1", "content": content, "details": {"resolved": True}}
    trajectory = read_one(write_rows(tmp_path / "a.jsonl", row), "adp")
    assert [(step.thought, step.action, step.observation) for step in trajectory.steps] == [
        ("I look.", Action("search", {"query": "a"}), "A"), ("", Action("bash", {"code": "ls"}), "file"),
        ("", Action("finish", {"answer": "c"}), None),
    ]  # fmt: skip
    assert trajectory.scores == {"resolved": 1.0}


def test_mini_swe_agents_trajectories() -> None:
    trajectory = read_one(SAMPLES / "mini-swe-agent.traj.json", "swe-agent")
    assert trajectory.meta["system"] == "You write code." and trajectory.example.question == "How high is the tide?"
    look, submit, answer = trajectory.steps
    assert (look.thought, look.action) == ("I look.", Action("bash", {"command": "echo 2.1 metres"}))
    assert "2.1 metres" in str(look.observation) and trajectory.meta["exit_status"] == "Submitted"
    assert submit.action is not None and submit.weight == 1.0 and trajectory.usage.calls == 2
    assert trajectory.answer == "done\n" and answer.weight == 0.0


def test_swe_agents_trajectories(tmp_path: Path) -> None:
    history = [
        {"role": "system", "content": "You fix.", "agent": "main"},
        {"role": "user", "content": "An example.", "is_demo": True},
        {"role": "user", "content": "Fix it.", "agent": "main"},
        {"role": "assistant", "content": "I list.", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}]},
        {"role": "tool", "content": "OBSERVATION: file", "tool_call_ids": ["c"]},
    ]  # fmt: skip
    stats = {"instance_cost": 0.5, "tokens_sent": 9, "tokens_received": 3, "api_calls": 1}
    document = {"trajectory": [], "history": history, "info": {"exit_status": "exit_cost", "model_stats": stats}}
    path = tmp_path / "a.traj"
    path.write_text(json.dumps(document, indent=1))
    trajectory = read_one(path, "swe-agent")
    assert trajectory.example.question == "Fix it." and trajectory.stop == "max_steps"
    assert [step.observation for step in trajectory.steps] == ["OBSERVATION: file"]
    assert (trajectory.usage.cost, trajectory.usage.prompt_tokens) == (0.5, 9)


def test_openhands_sessions_of_both_kinds(tmp_path: Path) -> None:
    reply = {"choices": [{"message": {"role": "assistant", "content": "I look both up.", "tool_calls": CALLS}}]}
    facts = [{"tool_call_id": call["id"], "function_name": "tide_at", "model_response": reply} for call in CALLS]
    first_kind = [
        {"id": 0, "source": "agent", "action": "system", "args": {"content": SYSTEM, "tools": [TOOL]}},
        {"id": 1, "source": "user", "action": "message", "args": {"content": QUESTION}},
        {"id": 2, "source": "environment", "observation": "agent_state_changed", "content": "", "extras": {}},
        {"id": 3, "source": "agent", "action": "call_tool_mcp", "args": {}, "tool_call_metadata": facts[0]},
        {"id": 4, "source": "agent", "observation": "mcp", "content": "2.1 metres", "tool_call_metadata": facts[0]},
        {"id": 5, "source": "agent", "action": "call_tool_mcp", "args": {}, "tool_call_metadata": facts[1]},
        {"id": 6, "source": "agent", "observation": "mcp", "content": "0.6 metres", "tool_call_metadata": facts[1]},
        {"id": 7, "source": "agent", "action": "message", "args": {"content": ANSWER}},
    ]
    text, asked, answer = ({"type": "text", "text": words} for words in ("I look both up.", QUESTION, ANSWER))
    second_kind = [
        {"kind": "SystemPromptEvent", "id": "0", "system_prompt": {"type": "text", "text": SYSTEM}, "tools": [TOOL]},
        {"kind": "MessageEvent", "id": "1", "llm_message": {"role": "user", "content": [asked]}},
        *(
            {"kind": "ActionEvent", "id": call["id"], "thought": [text] if call is CALLS[0] else [],
             "tool_name": "tide_at", "tool_call_id": call["id"], "tool_call": {"id": call["id"], **call["function"]},
             "llm_response_id": "r"} for call in CALLS
        ),
        *(
            {"kind": "ObservationEvent", "id": f"o{number}", "tool_call_id": result["tool_call_id"],
             "observation": {"content": [{"type": "text", "text": result["content"]}]}}
            for number, result in enumerate(RESULTS)
        ),
        {"kind": "MessageEvent", "id": "9", "llm_message": {"role": "assistant", "content": [answer]}},
    ]  # fmt: skip
    for name, events in (("a", first_kind), ("b", second_kind)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(events))
        assert_tides(read_one(path, "openhands"))
        row = {
            "instance_id": "i",
            "history": events,
            "report": {"resolved": True},
            "metrics": {"accumulated_cost": 0.5},
        }
        trajectory = read_one(write_rows(tmp_path / f"{name}.jsonl", row), "openhands")
        assert_tides(trajectory)
        assert (trajectory.scores, trajectory.usage.cost, trajectory.example.id) == ({"resolved": 1.0}, 0.5, "i")
        assert_trains(path, tmp_path)


def test_atif_1_8_never_learns_what_is_copied_or_not_the_models(tmp_path: Path) -> None:
    agent = {"name": "sailor", "version": "1", "tool_definitions": [TOOL]}
    steps = [
        {"step_id": 1, "source": "user", "message": "Q?"},
        {"step_id": 2, "source": "agent", "message": "old", "is_copied_context": True, "model_name": "m"},
        {"step_id": 3, "source": "agent", "message": "by rule", "llm_call_count": 0},
        {"step_id": 4, "source": "agent", "message": "c", "llm_call_count": 1, "metrics": {"prompt_tokens": 7}},
    ]
    document = {"schema_version": "ATIF-v1.8", "session_id": "s", "agent": agent, "steps": steps,
                "subagent_trajectories": [{}], "extra": {"reward": 1.0}}  # fmt: skip
    trajectory = read_one(write_rows(tmp_path / "a.jsonl", document), "atif")
    assert [step.weight for step in trajectory.steps] == [0.0, 0.0, 1.0] and trajectory.answer == "c"
    assert (trajectory.model, trajectory.usage.prompt_tokens, trajectory.scores) == ("m", 7, {"reward": 1.0})
    assert trajectory.meta["sub_agents"] == 1 and trajectory.meta["tools"] == [TOOL]


ODD_VALUES = (None, True, -1, float("nan"), "", "[", "</think>", "\ud83d", [], {}, [None], {"a": 1}, 10**400)


def _mutate(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.05:
        return chance.choice(ODD_VALUES)
    if isinstance(value, dict):
        return {key: _mutate(item, chance) for key, item in value.items() if chance.random() > 0.02}
    return [_mutate(item, chance) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("file", sorted(path.name for path in SAMPLES.glob("*.json*")))
def test_no_change_of_a_trace_ends_in_a_traceback(file: str, tmp_path: Path) -> None:
    source = open_source_file(SAMPLES / file)
    rows = [row for _, row in source.rows()]
    format = find_reader(source).name
    chance = random.Random(file)
    for _ in range(40):
        path = write_rows(tmp_path / "odd.jsonl", *(_mutate(row, chance) for row in rows))
        with contextlib.suppress(FireactError):
            for trajectory in read_any(path, format, skip=True):
                json.dumps(trajectory.to_dict(), ensure_ascii=False, allow_nan=False).encode()
