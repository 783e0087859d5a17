"""How a model becomes an Agent: with a method, tools, the limits of a task, and few-shot examples where it needs some.

A student runs as it was trained: with its renderer, without instructions and examples, and with its own tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fireact.base import names
from fireact.base.run_directory import relative_path
from fireact.errors import ConfigError, DataError
from fireact.render import prompts
from fireact.render.requests import RecordedRenderer
from fireact.rollout.episodes import Agent
from fireact.rollout.loading import (
    SEARCH,
    DefaultTeacher,
    DefaultTools,
    _is_embedded,
    load_renderer,
    load_task,
    load_tools,
)
from fireact.rollout.models import Model, load_model
from fireact.rollout.students import find_hosted_model, tuned_directory, tuned_renderer, tuned_tools
from fireact.tasks.files import is_file_spec, split_file_spec
from fireact.types import Limits, Method, Renderer, Task, Tool
from fireact.wire.schemas import ClientTool, hash_schema, tool_schema


def build_agent(
    model: Model,
    task: Task,
    *,
    method: str,
    tools: Mapping[str, Tool],
    examples: int | None = None,
    temperature: float = 0.0,
    repairs: int = 0,
    native: bool = False,
) -> Agent:
    """An Agent for a task: few-shot unless the model was fine-tuned; the limits are the task's.

    ``repairs`` is how often a completion without an action is requested again; ``native`` means tool calls, not text.
    A fine-tuned model is run with the renderer of its training. With ``examples`` it gets the full prompt of
    ``method``, instructions too (paper, Table 14); without them it chooses its method itself.
    """
    name = "tool_calls" if native else model.renderer
    if model.tuned and name != model.renderer:
        raise ConfigError(f"the agent was trained with the renderer {model.renderer}; leave --native out.")
    count = 0 if model.tuned and examples is None else examples
    if model.tuned and not count and method in prompts.TOOLLESS_METHODS:
        raise ConfigError(
            f"a fine-tuned agent chooses its method itself; {method!r} would be ignored. Leave it out, or show it how: "
            "--examples 3."
        )
    lm_is_scripted = model.lm.name.startswith("scripted:")
    if lm_is_scripted and (examples or temperature):
        raise ConfigError(f"{model.lm.name} is a script: it would ignore --examples and --temperature. Leave them out.")
    options: dict[str, object] = {
        "instructions": _tuned_instructions(model)
        if model.tuned and not count
        else prompts.method_instructions(method, tools, native=native),
        "examples": () if lm_is_scripted else tuple(prompts.few_shot_examples(task, method, count)),
        **({"repairs": repairs} if repairs else {}),
        **({"renderer": _equip_renderer(load_renderer(name), model)} if name != "react" else {}),
    }
    return Agent(
        lm=model.lm,
        method=_build_method(method, task.limits, options),
        tools=tools,
        limits=task.limits,
        temperature=temperature,
    )


def equip_student(model: Model, specs: Sequence[str], *, other_tools: bool = False) -> dict[str, Tool]:
    """The tools to run a model with: the named ones or, without names, those of its training that are built in.

    Raises ConfigError where these are not the tools of its training, unless ``other_tools`` allows it. Names that only
    a run directory holds load no code of others.
    """
    training = model.training
    if specs or not model.tuned or training is None:
        tools = load_tools(specs)
        if not other_tools:
            check_trained_tools(model, tools)
        return tools
    built_in = [spec for spec in model.tools if spec in names.known_names("tool")]
    hashes = {tool.name: tool.sha256 for tool in training.tools_to_run}
    is_recorded = model.renderer == RecordedRenderer.name  # whose tools are of others, also under a name of ours
    tools = {
        name: tool
        for name, tool in load_tools(built_in).items()
        if name in hashes and (not is_recorded or hashes[name] == hash_schema(tool_schema(tool)))
    }
    check_trained_tools(model, tools)
    return tools


def check_trained_tools(model: Model, tools: Mapping[str, Tool]) -> None:
    """Raise ConfigError where a student would be run with other tools than it was trained with."""
    training = model.training
    if training is None:
        return
    missing = [tool.name for tool in training.tools_to_run if tool.name not in tools]
    if missing:
        raise ConfigError(
            f"{model.description}: trained with {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"here: {' '.join(f'--tool module:{name}' for name in missing)}. --other-tools runs it without."
        )
    if not load_renderer(model.renderer).native:
        return  # a prompt of text actions shows no tools
    hashes = {tool.name: tool.sha256 for tool in training.tools_to_run}
    unknown = [name for name in tools if name not in hashes]
    changed = [name for name, tool in tools.items() if hashes.get(name) not in (None, hash_schema(tool_schema(tool)))]
    if (unknown or changed) and model.renderer != "recorded":
        raise ConfigError(
            f"{model.description}: trained with {', '.join(hashes) or 'no tools'}; "
            + (
                f"{', '.join(unknown)} would be new to it"
                if unknown
                else f"{', '.join(changed)} has another schema now"
            )
            + ". Leave it out, or run it so with --other-tools."
        )


def load_agent(spec: str, task: str, tools: Sequence[str] | None, *, slots: int, other_tools: bool = False) -> Agent:
    """The ReAct agent behind the name of a model or directory, as ``equip_model`` builds it."""
    return equip_model(load_model(spec, slots=slots), task, tools, other_tools=other_tools)


def equip_model(model: Model, task: str, tools: Sequence[str] | None, *, other_tools: bool = False) -> Agent:
    """The ReAct agent around a model, within the limits of a task.

    Without ``tools`` a student has those of its training, and another model those of ``choose_defaults``. Raises
    ConfigError where a student would have other tools than its training had, unless ``other_tools`` allows it.
    """
    if not tools and (not model.tuned or model.training is None):
        run_tools = model.tools if model.directory is None else tuned_tools(model.directory)
        tools, _ = choose_defaults([task], tools=run_tools or SEARCH)
    equipped = equip_student(model, tools or (), other_tools=other_tools)
    return build_agent(model, load_task(task), method="react", tools=equipped)


def _tuned_instructions(model: Model) -> str:
    """The system prompt of the training; only students of recorded agents have one."""
    training = model.training
    return training.system if training is not None and model.renderer == "recorded" and not training.dropped else ""


def _equip_renderer(renderer: Renderer, model: Model) -> Renderer:
    """The renderer of a recorded agent with the agent's tools, which its prompt shows whatever runs them here."""
    training = model.training
    if not isinstance(renderer, RecordedRenderer) or training is None:
        return renderer
    offered = tuple(ClientTool(tool.schema) for tool in training.tools if tool.schema is not None)
    endings = tuple(tool.name for tool in training.tools if tool.ends)
    return replace(renderer, offered=() if training.dropped else offered, endings=endings)


def _build_method(name: str, limits: Limits, options: dict[str, object]) -> Method:
    factory = names.resolve_plugin("method", name)
    if name == "reflexion":
        options = {**options, "reflect_at": limits.reflect_at}
    try:
        method: Method = factory(**options)
    except TypeError as error:
        option_names = ", ".join(options)
        raise ConfigError(f"method {name!r} cannot be built: {error}. It is given {option_names}.") from error
    return method


def choose_defaults(
    tasks: Sequence[str],
    methods: Sequence[str] = ("react",),
    *,
    tools: Sequence[str] = SEARCH,
    teacher: str = "",
    model: str = "",
) -> tuple[Sequence[str], str]:
    """The tools and the teacher for some tasks: those that are given, else the ones of the embedded world.

    Other tasks have no defaults, since our search and our script are of no use there. They need no tools for
    ``methods`` without any, nor for a student (``model``) that makes native calls of the tools of its training. Raises
    ConfigError that names the options to give.
    """
    needs_tools, needs_teacher = isinstance(tools, DefaultTools), isinstance(teacher, DefaultTeacher)
    foreign_task = next(filter(_is_foreign, tasks), None) if needs_tools or needs_teacher else None
    if foreign_task is not None and needs_tools:
        native_tools = () if set(methods) <= set(prompts.TOOLLESS_METHODS) else _native_tools(model)
        tools, needs_tools = native_tools or (), native_tools is None
    if foreign_task is not None and (needs_tools or needs_teacher):
        options = {"teacher": "--teacher (openai:MODEL, say)"} if needs_teacher else {}
        options |= {"tool": "--tool (wikipedia or module:attribute, say)"} if needs_tools else {}
        raise ConfigError(
            f"{relative_path(foreign_task)} is not a task of the embedded world, so it has no default "
            f"{' and '.join(options)}: give {' and '.join(options.values())}."
        )
    return tuple(tools), str(teacher)


def _is_foreign(spec: str) -> bool:
    """Whether a task is not of the embedded world; one that cannot be loaded is refused where it is used."""
    if is_file_spec(spec):
        return Path(split_file_spec(spec)[0]).expanduser().exists()
    try:
        return not _is_embedded(spec)
    except (ConfigError, DataError):
        return False


def _native_tools(model: str) -> tuple[str, ...] | None:
    """The tools of the training of a student that makes native calls; None for any other model."""
    directory = None if find_hosted_model(model) else tuned_directory(model)
    is_native = directory is not None and load_renderer(tuned_renderer(directory)).native
    return tuned_tools(directory) if directory is not None and is_native else None
