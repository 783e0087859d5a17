"""What is written for other tools is read by their packages: ATIF's models, inspect_ai's reader, OTLP's messages."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fireact.errors import ConfigError
from fireact.formats.conversion import convert
from fireact.formats.dropped import find_losses
from fireact.formats.read import read_any
from fireact.formats.spans import export_spans
from fireact.formats.write import write_episodes
from fireact.types import Action, Step
from test_formats_write import FULL

FAILED = replace(FULL, seed=4, stop="error", error="the endpoint is gone", scores={"em": 0.0, "f1": 0.0})
CUT = replace(FULL, seed=5, steps=FULL.steps[:2], stop="max_steps")
EPISODES = (FULL, FAILED, CUT)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_episodes(EPISODES, tmp_path / "run.jsonl", "fireact")
    return tmp_path / "run.jsonl"


def test_atif_is_what_its_models_validate(run: Path, tmp_path: Path) -> None:
    atif = pytest.importorskip("atif", reason="the package atif is not installed (the extra dev has it)")
    convert(run, tmp_path / "t.jsonl", to="atif")
    documents = [
        atif.Trajectory.model_validate(json.loads(line))
        for line in (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [document.schema_version for document in documents] == ["ATIF-v1.8"] * 3
    agent = next(step for step in documents[0].steps if step.source == "agent")
    assert [call.function_name for call in agent.tool_calls] == ["search", "lookup"]
    assert [result.content for result in agent.observation.results] == ["F", "P"]
    assert documents[0].final_metrics.total_prompt_tokens == 10 and documents[0].extra["reward"] == 1.0


def test_an_inspect_log_is_listed_and_read_by_inspect(run: Path, tmp_path: Path) -> None:
    log_module = pytest.importorskip("inspect_ai.log", reason="inspect-ai is not installed (the extra dev has it)")
    logs = tmp_path / "logs"
    convert(run, logs / "2026-07-01T12-00-00_small.json", to="inspect")
    (listed,) = log_module.list_eval_logs(str(logs))
    log = log_module.read_eval_log(listed.name)
    assert log.status == "success" and log.eval.task == "small" and log.eval.model == "teacher"
    assert log.results.scores[0].metrics["mean"].value == pytest.approx(2 / 3)
    first, failed, _ = log.samples
    assert first.scores["em"].as_float() == 1.0 and first.output.completion == "Paris" and first.epoch == 4
    assert [call.function for call in first.messages[2].tool_calls] == ["search", "lookup"]
    assert failed.error.message == "the endpoint is gone"


def test_samples_of_inspect_are_told_apart_by_id_and_epoch(tmp_path: Path) -> None:
    log_module = pytest.importorskip("inspect_ai.log", reason="inspect-ai is not installed (the extra dev has it)")
    file = tmp_path / "2026-07-01T12-00-00_several.json"
    episodes = [*EPISODES, replace(FULL, task="other"), replace(FULL, method="cot"), replace(FULL, model="student")]
    write_episodes(episodes, file, "inspect")
    samples = log_module.read_eval_log(str(file)).samples
    assert len({(sample.id, sample.epoch) for sample in samples}) == len(episodes)
    assert [(it.key, it.model) for it in read_any(file)] == [(it.key, it.model) for it in episodes]


@pytest.mark.parametrize("format", ["otlp", "inspect", "atif", "sts"])
def test_every_repeat_of_an_episode_is_written_and_read(format: str, tmp_path: Path) -> None:
    """Two repeats, the later of which differs, and an episode with the seed that the first repeat gets."""
    episodes = [FULL, FULL, replace(FULL, stop="max_steps", steps=FULL.steps[:2]), FAILED]
    write_episodes(episodes, tmp_path / "out", format)
    back = list(read_any(tmp_path / "out"))
    assert Counter((it.stop, it.answer) for it in back) == Counter((it.stop, it.answer) for it in episodes)
    assert len({it.key for it in back}) == len(episodes)
    files = list((tmp_path / "out").rglob("*.jsonl")) or [tmp_path / "out"]
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    ids = {
        "otlp": [_spans(row)[0]["traceId"] for row in rows if "resourceSpans" in row],
        "inspect": [(sample["id"], sample["epoch"]) for row in rows for sample in row.get("samples", ())],
        "atif": [row.get("trajectory_id") for row in rows],
        "sts": [row["id"] for row in rows if row.get("type") == "session"],
    }[format]
    assert len(set(ids)) == len(ids) == len(episodes)


def test_inspect_needs_a_name_that_its_viewer_lists(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="inspect view lists logs by their name"):
        convert(run, tmp_path / "log.json", to="inspect")
    assert not (tmp_path / "log.json").exists()


def test_spans_are_an_export_request_of_otlp() -> None:
    service = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
        reason="opentelemetry-proto is not installed (the extra dev has it)",
    )
    from google.protobuf import json_format

    export = export_spans(FULL, now=1000.0)
    for span in _spans(export):  # OTLP's JSON has ids in hexadecimal, protobuf's own in base64
        for name in {"traceId", "spanId", "parentSpanId"} & span.keys():
            span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    request = json_format.ParseDict(export, service.ExportTraceServiceRequest())
    spans = list(request.resource_spans[0].scope_spans[0].spans)
    assert [span.name for span in spans] == [
        "invoke_agent react", "chat teacher", "execute_tool search", "execute_tool lookup", "chat teacher",
    ]  # fmt: skip
    root, *inner = spans
    assert len(root.trace_id) == 16 and len(root.span_id) == 8 and not root.parent_span_id
    assert all(span.parent_span_id == root.span_id for span in inner)
    assert root.end_time_unix_nano - root.start_time_unix_nano == 2_000_000_000
    assert all(root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano for span in inner)
    assert max(span.end_time_unix_nano for span in inner) == root.end_time_unix_nano
    assert [event.name for event in root.events] == ["gen_ai.evaluation.result"] * 2
    values = {item.key: item.value.string_value for item in spans[1].attributes}
    assert values["gen_ai.operation.name"] == "chat" and values["gen_ai.request.model"] == "teacher"
    (message,) = json.loads(values["gen_ai.output.messages"])
    assert [part["type"] for part in message["parts"]] == ["text", "tool_call", "tool_call"]
    assert message["parts"][1]["arguments"] == {"query": "France", "k": 2} and message["finish_reason"] == "tool_call"


def _spans(export: dict[str, Any]) -> list[dict[str, Any]]:
    spans: list[dict[str, Any]] = export["resourceSpans"][0]["scopeSpans"][0]["spans"]
    return spans


def test_a_folder_of_sessions_has_a_file_for_each_and_is_read_back(run: Path, tmp_path: Path) -> None:
    report = convert(run, tmp_path / "traces", to="sts")
    files = sorted((tmp_path / "traces" / "sessions").iterdir())
    assert report.trajectories == 3 and len(files) == 3
    lines = [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]
    assert lines[0]["type"] == "session" and lines[0]["harness"] == "fireact" and lines[0]["id"]
    assert {line["type"] for line in lines[1:]} == {"message"}
    messages = [line["message"] for line in lines[1:]]
    calls = [call["id"] for message in messages for call in message.get("toolCalls", ())]
    assert [message["toolCallId"] for message in messages if message["role"] == "tool"] == calls[:2]
    assert all(isinstance(message["content"], str) for message in messages)
    card = (tmp_path / "traces" / "README.md").read_text(encoding="utf-8")
    assert "- agent-traces" in card and "sessions/*.jsonl" in card
    back = list(read_any(tmp_path / "traces"))
    assert [trajectory.key for trajectory in back] == [trajectory.key for trajectory in EPISODES]
    convert(run, tmp_path / "traces", to="sts", force=True)
    assert len(list((tmp_path / "traces" / "sessions").iterdir())) == 3


def test_sessions_of_other_programs_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"type": "session", "harness": "llama.app", "id": "abc", "name": "time"},
        {"type": "message", "message": {"role": "user", "content": "what time is it?", "timestamp": 1000}},
        {"type": "message", "message": {
            "role": "assistant", "content": "", "reasoningContent": "I look.", "model": "qwen",
            "toolCalls": [{"id": "t1", "function": {"name": "get_time", "arguments": "{}"}}],
        }},
        {"type": "message", "message": {"role": "tool", "toolCallId": "t1", "content": "15:00"}},
        {"type": "note", "text": "not a message"},
        {"type": "message", "message": {"role": "assistant", "content": "it is 15:00", "timestamp": 3500}},
        {"type": "session", "harness": "llama.app", "id": "def"},
        {"type": "message", "message": {"role": "user", "content": "hi"}},
        {"type": "message", "message": {"role": "assistant", "content": "hello"}},
    ]  # fmt: skip
    file = tmp_path / "session.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first, second = read_any(file)
    assert (first.example.id, first.model, first.seconds, first.answer) == ("abc", "qwen", 2.5, "it is 15:00")
    assert first.steps[0] == Step("I look.", Action("get_time", {}), "15:00", first.steps[0].text)
    assert second.example.id == "def" and second.answer == "hello" and first.meta["harness"] == "llama.app"


@pytest.mark.parametrize("format", ["atif", "otlp", "sts"])
def test_an_episode_that_ended_on_a_result_keeps_it(format: str, tmp_path: Path) -> None:
    write_episodes([CUT], tmp_path / "out", format)
    (back,) = read_any(tmp_path / "out")
    assert "steps" not in find_losses(CUT, back) and back.steps[-1].observation == "P"
