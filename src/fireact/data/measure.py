"""The length of a sample in tokens: by a student's tokenizer and chat template, or as an estimate.

Invariant: with a student the lengths are those of the samples that ``train`` makes with the same renderer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.names import known_names
from fireact.data.recorded_calls import RENDERER, RecordedRuns, find_recorded_runs, load_recorded_runs
from fireact.methods.react import offered_schemas, offered_tools
from fireact.models.weights import load_tokenizer
from fireact.render.chat import apply_renderer_template
from fireact.render.react import render_call
from fireact.render.tokens import Chat
from fireact.rollout.loading import SEARCH, is_embedded_task, load_renderer, load_tools
from fireact.types import Renderer, Trajectory
from fireact.wire.schemas import Schema, tool_schema

CHARACTERS = 4
"""Characters of English in a token, roughly."""


def measure_lengths(
    trajectory: Trajectory, student: str, *, renderer: str = "react", tools: Sequence[str] = (), data: str = ""
) -> tuple[int, int, int]:
    """Tokens of all samples, of the trained parts, and of the longest sample; without a ``student``, estimates.

    The renderer ``recorded`` finds the recorded calls by the path of the ``data``.
    """
    if renderer == RENDERER:
        chats = [Chat(chat.messages, chat.tools) for chat in _load_recorded_runs(data).render(trajectory)]
    else:
        shown_tools = _tools_in_prompt(trajectory, renderer, tuple(tools)) if student else ()
        chats = [Chat(_load_renderer(renderer).sample(trajectory), shown_tools)]
    sizes = [_measure_chat(chat, student, renderer) for chat in chats]
    return sum(size[0] for size in sizes), sum(size[1] for size in sizes), max((size[2] for size in sizes), default=0)


def _measure_chat(chat: Chat, student: str, renderer: str) -> tuple[int, int, int]:
    trained_messages = [message for message in chat.messages if message.train]
    if not student or not trained_messages:
        total = _estimate_tokens(chat)
        return total, _estimate_tokens(Chat(trained_messages)), total
    from fireact.render.tokens import encode_chat

    tokenizer, ends = load_renderer_tokenizer(student, renderer)
    samples = encode_chat(chat.messages, tokenizer, ends=ends, tools=chat.tools)
    sizes = [len(sample.input_ids) for sample in samples]
    return sum(sizes), sum(sample.targets for sample in samples), max(sizes)


def _estimate_tokens(chat: Chat) -> int:
    texts = [text for message in chat.messages for text in (message.content, *map(render_call, message.calls))]
    return sum(-(-len(text) // CHARACTERS) for text in [*texts, *map(jsonl.dumps, chat.tools)])


@cache
def _load_recorded_runs(data: str) -> RecordedRuns:
    return load_recorded_runs(find_recorded_runs(Path(data)))


def _tools_in_prompt(trajectory: Trajectory, renderer: str, tools: tuple[str, ...]) -> Sequence[Schema]:
    """The tools in a native renderer's prompt: those of the episode, else the named ones that can be loaded."""
    episode_tools = trajectory.meta.get("tools") if _load_renderer(renderer).native else None
    return (
        offered_schemas(episode_tools)
        if isinstance(episode_tools, list) and episode_tools
        else _load_named_tools(renderer, tools, trajectory.task)
    )


@cache
def _load_named_tools(renderer: str, tools: tuple[str, ...], task: str) -> Sequence[Schema]:
    if not _load_renderer(renderer).native:
        return ()
    names = [name for name in tools if name in known_names("tool")] or (SEARCH if is_embedded_task(task) else ())
    return tuple(tool_schema(tool) for tool in offered_tools(_load_renderer(renderer), load_tools(names)))


@cache
def _load_renderer(name: str) -> Renderer:
    return load_renderer(name)


@cache
def load_renderer_tokenizer(student: str, renderer: str) -> tuple[Any, frozenset[int | str]]:
    """The tokenizer of a student with the renderer's chat template, and the ends of its turns; loaded once."""
    tokenizer, ends = load_tokenizer(student)
    loaded_renderer = _load_renderer(renderer)
    return apply_renderer_template(tokenizer, loaded_renderer), ends | frozenset(getattr(loaded_renderer, "ends", ()))
