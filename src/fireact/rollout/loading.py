"""How a name becomes a task, tools or a renderer; the words of the command line for each.

Invariant: tools of an agent are guarded, and told apart by their names. The tasks of the embedded world have tools and
a teacher by default, and no other task has any. Models are loaded by ``models``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from fireact.base import names
from fireact.base.run_directory import absolute_path
from fireact.base.settings import DefaultValue
from fireact.errors import ConfigError, DataError
from fireact.rollout.call_cache import CallCache
from fireact.tasks.files import is_file_spec, load_file_task, split_file_spec
from fireact.tools.function import build_tools
from fireact.tools.guard import guard_tool
from fireact.tools.noise import load_noisy_tools
from fireact.tools.replayed import find_replayed_run
from fireact.types import Renderer, Task, Tool

TASK_SPEC = "NAME, NAME:FOLDER, FILE:QUESTION,ANSWER, hub:OWNER/NAME:QUESTION,ANSWER or module:attribute"
TRAINING_TOOLS_HELP = "Tool, by name or module:attribute; repeatable. Default: those that the data was made with."
STUDENT_HELP = "smollm2-135m, a hub id, or a directory with a model."
RENDERER_HELP = (
    "react, tool_calls (native, by the student's chat template), recorded (what a recorded agent sends) or alpaca."
)
AUTO_RENDERER_HELP = f"{RENDERER_HELP} auto: recorded for recordings, else react."


def load_renderer(name: str) -> Renderer:
    """A renderer by name."""
    renderer: Renderer = names.build_plugin("renderer", name)
    return renderer


def load_tools(specs: Sequence[str], cache: CallCache | None = None) -> dict[str, Tool]:
    """Tools by name; a spec builds one, or several (those of a server). Raises ConfigError for a repeated name."""
    tools_by_name: dict[str, Tool] = {}
    for spec in specs:
        for tool in _load_cached_tools(spec, cache):
            if tool.name in tools_by_name:
                raise ConfigError(f"two tools are named {tool.name!r}; an agent tells its tools apart by name.")
            tools_by_name[tool.name] = tool
    return tools_by_name


def _load_cached_tools(spec: str, cache: CallCache | None) -> Sequence[Tool]:
    return _build_tools(spec, None) if cache is None else cache.wrap_tools(spec, lambda: _build_tools(spec, cache))


def _build_tools(spec: str, cache: CallCache | None) -> Sequence[Tool]:
    """The tools of a spec. The calls below a noise tool are cached too, so that other noise does not repeat them."""
    kind, _, inner_spec = spec.partition(":")
    if kind == "noise":
        return load_noisy_tools(inner_spec, lambda inner: _load_cached_tools(inner, cache))
    return [guard_tool(tool) for tool in build_tools(spec)]


def load_task(spec: str) -> Task:
    """A task by name (or ``NAME:FOLDER`` with its questions), by file of questions, or by ``module:attribute``."""
    if is_file_spec(spec):
        return cast(Task, load_file_task(spec))
    task: Task = names.build_plugin("task", spec)
    names.require_attributes("task", spec, task, "name", "limits", "examples", "score")
    return task


def absolute_task_spec(spec: str) -> str:
    """A task's spec with absolute paths, as settings hold it: a run can then be resumed from any directory."""
    if is_file_spec(spec):
        path, columns = split_file_spec(spec)
        return f"{absolute_path(Path(path).expanduser())}{':' if columns else ''}{columns}"
    name, separator, folder = spec.partition(":")
    if separator and Path(folder).expanduser().is_dir() and name in names.known_names("task"):
        return f"{name}:{absolute_path(Path(folder).expanduser())}"
    return spec


def absolute_task_specs(specs: Sequence[str]) -> tuple[str, ...]:
    """The specs of tasks with absolute paths."""
    return tuple(map(absolute_task_spec, specs))


def absolute_tool_specs(specs: Sequence[str]) -> tuple[str, ...]:
    """The specs of tools, with the absolute path of a run whose tools answer as recorded."""
    runs = [(spec, find_replayed_run(spec)) for spec in specs]
    return tuple(
        spec if not run else f"{spec.removesuffix(run)}{absolute_path(Path(run).expanduser())}" for spec, run in runs
    )


class DefaultTools(DefaultValue, tuple[str, ...]):
    """Tools that nobody chose."""


class DefaultTeacher(DefaultValue, str):
    """A teacher that nobody chose."""


SEARCH, SCRIPT = DefaultTools(("search",)), DefaultTeacher("scripted:expert")
"""The tools and the teacher for the tasks of the embedded world, and for no others."""


def is_embedded_task(spec: str) -> bool:
    """Whether a task is of the embedded world; one that cannot be loaded is not."""
    try:
        return _is_embedded(spec)
    except (ConfigError, DataError):
        return False


@functools.cache
def _is_embedded(spec: str) -> bool:
    """Whether a task is of the embedded world; studies ask this of each of their stages. Raises as ``load_task``."""
    from fireact.tasks.geo import GeoTask

    return isinstance(load_task(spec), GeoTask)
