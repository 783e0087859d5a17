"""Datasets and inferences of TensorZero: ``input`` with messages of blocks, ``output`` as blocks.

Invariant: a row is one call of a function, whose turns before the last stand in its input. A datapoint's output is what
should have been said, so it is learned like any other; feedback on an inference is its score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.api_log import read_scores
from fireact.formats.model_calls import ModelCall, parse_if_json, parse_time, read_conversations
from fireact.formats.source import SourceFile
from fireact.types import Trajectory
from fireact.wire.text_calls import format_answer


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows are datapoints or inferences of functions."""
    return bool(rows) and all(isinstance(row, Mapping) and _is_datapoint(row) for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The episodes of a file: rows that go on with each other are one."""
    return read_conversations(source, source.build_each(lambda number, row: [_read_call(number, row)]))


def _is_datapoint(row: Mapping[str, Any]) -> bool:
    asked = parse_if_json(row.get("input"))
    return "function_name" in row and isinstance(asked, Mapping) and isinstance(asked.get("messages"), list)


def _read_call(number: int, row: Mapping[str, Any]) -> ModelCall:
    asked, output = parse_if_json(row["input"]), parse_if_json(row.get("output"))
    if output in (None, []):
        raise ValueError("it has no output")
    if isinstance(output, Mapping):  # of a function whose output is JSON
        output = [{"type": "text", "text": str(output.get("raw") or format_answer(output.get("parsed")))}]
    parameters = parse_if_json(row.get("tool_params")) or {}
    return ModelCall(
        prompt=[_read_message(message) for message in asked["messages"]],
        reply=[{"role": "assistant", "content": output}],
        row=number,
        trace=str(row.get("episode_id") or row.get("id") or ""),
        system=_join_system(asked.get("system")),
        tools=parameters.get("tools_available") or row.get("dynamic_tools") or row.get("additional_tools") or (),
        model=str(row.get("variant_name") or ""),
        start=parse_time(row.get("timestamp")),
        scores=read_scores(row),
        facts={"function": row["function_name"]},
    )


def _read_message(message: Any) -> Any:
    """A message; a template's arguments are its content, as the function's schema has them."""
    blocks = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(blocks, list):
        return message
    return {**message, "content": [_read_block(block) for block in blocks]}


def _read_block(block: Any) -> Any:
    if isinstance(block, Mapping) and block.get("type") in ("text", "template") and "arguments" in block:
        return {"type": "text", "text": format_answer(block["arguments"])}
    if isinstance(block, Mapping) and block.get("type") in ("text", "raw_text") and "value" in block:
        return {"type": "text", "text": format_answer(block["value"])}
    return block


def _join_system(system: Any) -> str:
    return "" if system is None else format_answer(system)
