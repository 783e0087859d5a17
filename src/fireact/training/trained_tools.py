"""The tools of a training, and what a manifest tells of them and of the system prompt.

Invariant: it depends on the chats and the trajectories alone. A tool that was called and whose schema is nowhere has
no hash.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fireact.base.foreign_names import find_foreign_names
from fireact.base.run_directory import CONFIG, read_config
from fireact.data.sources import find_origins, read_any_trajectories
from fireact.errors import ConfigError, DataError, FormatError
from fireact.models.weights import load_tokenizer
from fireact.render.requests import drop_prompt, hash_prompt, read_system
from fireact.render.tokens import Chat, prompt_ids
from fireact.render.tool_calls import group_joined_steps
from fireact.rollout.loading import DefaultTools, is_embedded_task, load_tools
from fireact.types import FINISH, Renderer, Trajectory
from fireact.wire.schemas import Schema, hash_schema, normalise_schemas, schema_name, tool_schema

MAX_PROMPTS = 20
"""System prompts whose hashes a manifest lists."""
MEASURED_QUESTIONS = 50
"""Questions whose prompts are measured."""


def choose_training_tools(tools: Sequence[str], data: Path) -> Sequence[str]:
    """The tools of a training: those that are given, else those that the data was made with.

    The runs behind the data name them; data of the embedded world has its search. Any other data has none, unless its
    trajectories bring their own.
    """
    if not isinstance(tools, DefaultTools):
        return tools
    if (named_tools := _find_data_tools(data)) is not None:
        return named_tools
    return tuple(tools) if _is_of_embedded_world(data) else ()


def _find_data_tools(data: Path) -> tuple[str, ...] | None:
    """The tools that the runs behind a path name, without those that run code of others; None where there is no run."""
    if not (data / CONFIG).is_file():
        return None
    settings = read_config(data)
    if "tools" in settings and settings["verb"] in ("collect", "eval"):
        specs = [spec.split(":", 2)[-1] if spec.startswith("noise:") else spec for spec in settings["tools"]]
        return tuple(dict.fromkeys(spec for spec in specs if not find_foreign_names([spec])))
    origins = find_origins(data)
    named_tools = [tools for tools in map(_find_data_tools, origins) if tools is not None]
    if not named_tools or len(named_tools) < len(origins):
        return None
    return tuple(dict.fromkeys(name for tools in named_tools for name in tools))


def _is_of_embedded_world(data: Path) -> bool:
    """Whether the first trajectory is of our own tasks; data that cannot be read is refused where it is used."""
    try:
        trajectory = next(iter(read_any_trajectories(data)), None)
    except (ConfigError, DataError, FormatError):
        return True
    return trajectory is None or is_embedded_task(trajectory.task)


def require_tools(trajectory: Trajectory, tools: Sequence[Schema]) -> None:
    """Raise ConfigError where a trajectory calls tools, and neither it nor the settings name any."""
    names = {step.action.name for step in trajectory.steps if step.action is not None} - {FINISH}
    if names and not trajectory.meta.get("tools") and all(schema_name(schema) == FINISH for schema in tools):
        raise ConfigError(
            f"{trajectory.key} calls {', '.join(sorted(names))}, and neither the data nor its runs name the tools. "
            "Give --tool (wikipedia or module:attribute, say)."
        )


def describe_trained_tools(
    chats: Sequence[Chat], trajectories: Sequence[Trajectory], renderer: Renderer, specs: Sequence[str]
) -> list[dict[str, Any]]:
    """The tools that the chats show or, where actions are text, those that the trajectories call.

    Each has its name, its schema (None where it is not known), the schema's hash, and whether it ends the agent's work.
    """
    endings = find_endings(chats, trajectories)
    if renderer.native:
        schemas = {schema_name(schema): schema for chat in chats for schema in chat.tools}
        names = [name for name in schemas if name != FINISH or getattr(renderer, "ends_itself", False)]
    else:
        schemas = _known_schemas(trajectories, specs)
        actions = [step.action for trajectory in trajectories for step in trajectory.steps if step.action is not None]
        names = list(dict.fromkeys(action.name for action in actions if action.name != FINISH))
    return [
        {
            "name": name, "schema": schemas.get(name), "ends": name in endings,
            "sha256": hash_schema(schemas[name]) if name in schemas else None,
        }
        for name in names
    ]  # fmt: skip


def _known_schemas(trajectories: Sequence[Trajectory], specs: Sequence[str]) -> dict[str, Schema]:
    """The schemas of the tools that the trajectories bring, and of the named ones that can be loaded."""
    try:
        named_schemas = [tool_schema(tool) for tool in load_tools(specs).values()]
    except ConfigError:  # the tools do not show in a prompt of text actions, so training does not need them
        named_schemas = []
    brought_schemas = [
        schema for trajectory in trajectories for schema in normalise_schemas(trajectory.meta.get("tools"))
    ]
    return {schema_name(schema): schema for schema in [*named_schemas, *brought_schemas]}


def find_endings(chats: Sequence[Chat], trajectories: Sequence[Trajectory]) -> set[str]:
    """The tools that are called in the last call of an episode alone, and whose calls are never answered.

    An answer may come as a text of the user, or in a chat of its own where the agent rewrites its history.
    """
    last_names, earlier_names = set[str](), set[str]()
    for chat in chats:
        for position, message in enumerate(chat.messages, 1):
            names = last_names if position == len(chat.messages) else earlier_names
            names.update(call.name for call in message.calls)
    for trajectory in trajectories:
        *earlier_turns, last_turn = group_joined_steps(trajectory.steps) or [[]]
        answered_steps = [step for step in last_turn if step.observation is not None]
        steps = [*(step for turn in earlier_turns for step in turn), *answered_steps]
        earlier_names.update(step.action.name for step in steps if step.action is not None)
    return last_names - earlier_names


def describe_prompt(chats: Sequence[Chat], *, mode: str = "keep", student: str = "") -> dict[str, Any]:
    """The most frequent system prompt, and the hash of each with the number of its chats.

    In the ``mode`` drop, ``dropped`` has the hashes of the prompts with their tools, by which the server recognises
    them. With a ``student`` and system prompts or tools, ``tokens_a_question`` are the prompt tokens with and without.
    """
    systems = Counter(read_system(chat.messages) for chat in chats)
    hashes = {hashlib.sha256(system.encode()).hexdigest(): count for system, count in systems.most_common(MAX_PROMPTS)}
    dropped = sorted({hash_prompt(chat.messages, chat.tools) for chat in chats}) if mode == "drop" else []
    return {
        "system": systems.most_common(1)[0][0] if systems else "", "prompts": len(systems), "sha256": hashes,
        "mode": mode, "dropped": dropped, "tokens_a_question": _measure_prompts(chats, student) if student else {},
    }  # fmt: skip


def drop_chat_prompt(chat: Chat) -> Chat:
    """A chat without the system prompt and the tools."""
    return Chat(drop_prompt(chat.messages), (), chat.key)


def _measure_prompts(chats: Sequence[Chat], student: str) -> dict[str, float]:
    """The prompt tokens of a question with its system prompt and tools and without, as means over some questions."""
    keys = list(dict.fromkeys(chat.key for chat in chats))[:MEASURED_QUESTIONS]
    tokenizer, _ = load_tokenizer(student)
    counts = Counter[str]()
    for chat in [chat for chat in chats if chat.key in keys]:
        for mode, sent_chat in (("keep", chat), ("drop", drop_chat_prompt(chat))):
            for index, message in enumerate(sent_chat.messages):
                if message.train:
                    counts[mode] += len(prompt_ids(sent_chat.messages[:index], tokenizer, tools=sent_chat.tools))
    return {mode: round(counts[mode] / max(1, len(keys)), 1) for mode in ("keep", "drop")}
