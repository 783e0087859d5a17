"""How a name on the command line becomes an Agent: a teacher, a prompted student, or one that ``train`` made.

scripted:expert          a script that plays the teacher
openai:MODEL[@BASE_URL]  any endpoint that speaks OpenAI's chat completions
replay:DIR               the stored calls of a recorded run, with no model behind them
hf:NAME, NAME            a model that transformers loads: smollm2-135m, a hub id, a local directory
DIR                      a directory of ``fireact train``, ``prefer``, ``tune`` or ``quickstart``; no prompt of ours
module:attribute         an LM of the user, or a function or class that builds one
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from fireact.base import names
from fireact.base.foreign_names import refuse_foreign_names
from fireact.base.machine import release_memory
from fireact.base.run_directory import absolute_path, read_config, read_fact, read_manifest, relative_path
from fireact.base.settings import setting
from fireact.errors import ConfigError, DataError, missing_path_error
from fireact.models.limits import HOSTED, Budget, BudgetAmount, BudgetedLM, Endpoint
from fireact.render import prompts
from fireact.render.requests import KnownPrompts, RecordedRenderer
from fireact.rollout.call_cache import FILE as CALLS
from fireact.rollout.call_cache import CallCache
from fireact.rollout.episodes import Agent
from fireact.tasks.files import is_file_spec, load_file_task, split_file_spec
from fireact.tools.function import build_tools
from fireact.tools.guard import guard_tool
from fireact.tools.noise import load_noisy_tools
from fireact.tools.replayed import find_replayed_run
from fireact.types import LM, Limits, Method, Renderer, Task, Tool, Usage
from fireact.wire.schemas import ClientTool, hash_schema, tool_schema

AGENT, DATA, OUTPUT = "Agent", "Data", "Output"
"""Headings of options."""
TASK_SPEC = "NAME, NAME:FOLDER, FILE:QUESTION,ANSWER or module:attribute"
_PATH_STARTS = ("runs/", "./", "../", "/", "~")
"""Beginnings of paths; such a name is never looked up on the hub."""


def absolute_tool_specs(specs: Sequence[str]) -> tuple[str, ...]:
    """The specs of tools, with the absolute path of a run whose tools answer as recorded."""
    runs = [(spec, find_replayed_run(spec)) for spec in specs]
    return tuple(
        spec if not run else f"{spec.removesuffix(run)}{absolute_path(Path(run).expanduser())}" for spec, run in runs
    )


class DefaultTools(tuple[str, ...]):
    """Tools that nobody chose; it tells them from the same ones where these are given."""


class DefaultTeacher(str):
    """A teacher that nobody chose."""


SEARCH, SCRIPT = DefaultTools(("search",)), DefaultTeacher("scripted:expert")
"""The tools and the teacher for the tasks of the embedded world, and for no others."""
STUDENT_HELP = "smollm2-135m, a hub id, or a directory with a model."
RENDERER_HELP = (
    "react, tool_calls (native, by the student's chat template), recorded (what a recorded agent sends) or alpaca."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """Settings of how a model is called."""

    calls: str = setting("record", panel=OUTPUT)
    """record, replay or off: store LM and tool calls, answer only from stored calls, or neither."""
    cache: str | None = setting(None, panel=OUTPUT, is_path=True, normalise=absolute_path)
    """File of stored calls. Default: calls.sqlite in the run directory."""
    budget: str | None = setting(None, panel=HOSTED)
    """5usd, 200000tokens or 1000calls: the run stops before it is passed."""
    endpoint: Endpoint = setting(factory=Endpoint)
    workers: int = setting(16, panel=AGENT, low=1)
    """Episodes at a time."""

    def open_cache(self, out: Path) -> CallCache:
        """The stored calls of a run directory."""
        return CallCache(Path(self.cache or out / CALLS), self.calls)

    def load_model(self, spec: str, *, cache: CallCache | None = None, spent: Usage | None = None) -> Model:
        """The model behind a name; ``spent`` counts against the budget."""
        budget = parse_budget(self.budget, spent or Usage())
        return load_model(spec, slots=self.workers, cache=cache, endpoint=self.endpoint, budget=budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSettings(CallSettings):
    """Settings of how episodes run."""

    tools: Sequence[str] = setting(SEARCH, flags=("--tool",), panel=AGENT, normalise=absolute_tool_specs)
    """Tool: NAME, module:attribute or recorded:RUN; repeatable. Default: search, for tasks of the embedded world."""
    split: str = setting("train", panel=DATA)
    """Split of the tasks."""
    order: str = setting("file", panel=DATA)
    """file, or paper: shuffled as the released code does, so that -n 500 is the paper's 500."""
    seed: int = setting(0, panel=AGENT)
    """Seed of every draw."""
    temperature: float = setting(0.0, panel=AGENT, low=0)
    """Sampling temperature; 0 is greedy."""
    repairs: int = setting(0, panel=AGENT, low=0)
    """How often a completion without an action is requested again; 0 is never."""
    native: bool = setting(False, panel=AGENT)
    """Native tool calls instead of actions in text."""
    other_tools: bool = setting(False, panel=AGENT)
    """Run a student with other tools than it was trained with."""

    def build_agent(
        self, model: Model, task: Task, method: str, tools: Mapping[str, Tool], *, examples: int | None = None
    ) -> Agent:
        """The agent for a task with these settings. Raises ConfigError for a student of other tools."""
        if tools and not self.other_tools:
            check_trained_tools(model, tools)
        return build_agent(
            model, task, method=method, tools=tools, examples=examples, temperature=self.temperature,
            repairs=self.repairs, native=self.native,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrainedTool:
    """A tool of a student's training; ``ends`` tells that a call of it is the agent's answer.

    ``schema`` and its hash are None for a tool whose schema is not known.
    """

    name: str
    schema: Mapping[str, Any] | None
    sha256: str | None
    ends: bool = False


@dataclass(frozen=True, slots=True)
class TrainedPrompt:
    """The tools and the most frequent system prompt that a student was trained with.

    ``dropped`` are the hashes of prompts that it was trained without: the server takes them out of requests.
    """

    tools: tuple[TrainedTool, ...]
    system: str
    dropped: frozenset[str] = frozenset()
    known: KnownPrompts | None = None
    """The prompts of a recorded agent's student."""

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> TrainedPrompt | None:
        """What a manifest tells; None where it is of a version that told nothing."""
        if "prompt" not in manifest:
            return None
        prompt = manifest["prompt"]
        tools = tuple(TrainedTool(**tool) for tool in manifest["tools"])
        known = None
        if manifest.get("renderer") == RecordedRenderer.name:
            hashes = prompt.get("sha256", {})
            systems = frozenset[str](hashes) if prompt.get("prompts") == len(hashes) else None
            known = KnownPrompts(systems, frozenset(tool.sha256 for tool in tools if tool.sha256))
        return cls(tools, str(prompt["system"]), frozenset(prompt.get("dropped", ())), known)

    @property
    def tools_to_run(self) -> list[TrainedTool]:
        """The tools that somebody must run: all but those that end an episode."""
        return [tool for tool in self.tools if not tool.ends]


@dataclass(frozen=True, slots=True)
class Model:
    """An LM, and whether we fine-tuned it (then it is run without instructions and examples).

    ``renderer`` is the name of the renderer that it was trained with and must be run with. ``tools`` are the specs of
    the tools that its run of training, ``directory``, names. ``training`` is what the run tells of the tools and the
    prompt that it learned, or None for a model that we did not train, and for a run of an earlier version.
    """

    lm: LM
    tuned: bool
    description: str
    renderer: str = "react"
    tools: Sequence[str] = ()
    training: TrainedPrompt | None = None
    directory: Path | None = None

    def close(self) -> None:
        """Free the memory of the LM; the next call loads it again."""
        close = getattr(self.lm, "close", None)
        if close is not None:
            close()
            release_memory()


def load_model(
    spec: str,
    *,
    slots: int = 16,
    cache: CallCache | None = None,
    endpoint: Endpoint | None = None,
    budget: Budget | None = None,
) -> Model:
    """The model behind a name or directory; weights are loaded on first use. Raises ConfigError for an unknown one.

    Calls that are in ``cache`` count neither against the budget nor against the rates of ``endpoint``.
    """
    if spec.startswith(_PATH_STARTS) and not Path(spec).expanduser().exists():
        raise missing_path_error(spec)
    hosted = _find_hosted_model(spec)
    directory = None if hosted else tuned_directory(spec)
    tuned = None if directory is None else _load_tuned_model(directory, slots)

    def build_lm() -> LM:
        lm = _load_lm(hosted or spec, slots, endpoint) if tuned is None else tuned.lm
        return lm if budget is None else BudgetedLM(lm, budget, getattr(lm, "price", None))

    lm = build_lm() if cache is None else cache.wrap_lm(hosted or spec, build_lm)
    if tuned is None:
        return _describe_hosted_student(lm, Path(spec)) if hosted else Model(lm=lm, tuned=False, description=lm.name)
    return replace(tuned, lm=lm)


def _describe_hosted_student(lm: LM, directory: Path) -> Model:
    """The model that ``tune`` made, with the prompt and the tools of a recorded agent where it learned these."""
    training = TrainedPrompt.from_manifest(read_manifest(directory))
    return Model(
        lm=lm,
        tuned=True,
        description=f"{lm.name}, fine-tuned ({relative_path(directory)})",
        renderer=tuned_renderer(directory),
        training=training,
        directory=None if training is None else directory,
    )


def _find_hosted_model(spec: str) -> str:
    """The model that ``tune`` made in a directory; empty where the path is no such directory."""
    path = Path(spec)
    if not (path / "config.toml").is_file() or read_config(path).get("verb") != "tune":
        return ""
    agent = read_fact(path, "agent")
    refuse_foreign_names(path, [agent], advice=f"name it yourself: -a {agent}.")
    return agent


def _load_lm(spec: str, slots: int, endpoint: Endpoint | None) -> LM:
    prefix, separator, argument = spec.partition(":")
    if prefix == "openai" and separator:
        lm: LM = names.resolve_plugin("model", prefix)(argument, slots=slots, endpoint=endpoint)
    elif separator and prefix in names.known_names("model"):
        lm = names.resolve_plugin("model", prefix)(argument, slots=slots)
    elif separator:
        lm = names.build_plugin("model", spec)
        names.require_attributes("model", spec, lm, "name", "complete")
    else:
        lm = names.resolve_plugin("model", "hf")(spec, slots=slots)
    return lm


def tuned_directory(spec: str) -> Path | None:
    """The run directory of ``train`` or ``export --to merged`` behind a path; None where it is no run directory."""
    path = Path(spec)
    if not (path / "config.toml").is_file():
        return None
    settings = read_config(path)
    if settings.get("verb") == "quickstart":
        path = path / "train"
    elif settings.get("verb") not in ("train", "prefer") and not _is_merged(settings):
        raise ConfigError(
            f"{spec} is a directory of 'fireact {settings.get('verb')}'; an agent is one of 'fireact train'."
        )
    read_manifest(path)
    return path


def require_tuned_directory(spec: str) -> Path:
    """``tuned_directory``; raises DataError where there is nothing, ConfigError where it is no run directory."""
    if not Path(spec).exists():
        raise missing_path_error(spec)
    if (directory := tuned_directory(spec)) is None:
        raise ConfigError(
            f"{spec} is no directory of 'fireact train' or 'fireact quickstart'. Train by imitation first."
        )
    return directory


def _is_merged(settings: Mapping[str, Any]) -> bool:
    return (settings.get("verb"), settings.get("to")) == ("export", "merged")


def tuned_weights(directory: Path) -> tuple[str, Path | None, str]:
    """What to load for a fine-tuned student, the adapter to merge (or None), and its name with a fingerprint."""
    settings, manifest = read_config(directory), read_manifest(directory)
    if _is_merged(settings):
        student, sha256 = read_fact(directory, "student"), _hash_weight_files(manifest.get("files") or {})
        weights_source, adapter = str(directory), None
    else:
        student, sha256 = read_fact(directory, "student"), read_fact(directory, "adapter_sha256")
        is_full_model = (directory / "model").is_dir()  # full fine-tuning leaves a model, LoRA an adapter
        weights_source, adapter = (
            (str(directory / "model"), None) if is_full_model else (student, directory / "adapter")
        )
    return weights_source, adapter, f"{student}+{sha256[:8]}"


def _hash_weight_files(files: Mapping[str, str]) -> str:
    """One hash over all weight files; a large student has several."""
    hashes = [sha256 for name, sha256 in sorted(files.items()) if name.endswith(".safetensors")]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def student_name(directory: Path) -> str:
    """The name or path of the student that was fine-tuned in a run directory."""
    return read_fact(directory, "student")


def _load_tuned_model(directory: Path, slots: int) -> Model:
    from fireact.models.hf import HFModel

    weights_source, adapter, name = tuned_weights(directory)
    student = name.rpartition("+")[0]
    shown_student = relative_path(student) if Path(student).is_dir() else student
    renderer = tuned_renderer(directory)
    loaded_renderer = load_renderer(renderer)
    lm = HFModel(weights_source, adapter=adapter, slots=slots, name=name, renderer=loaded_renderer)
    description = f"{shown_student}, fine-tuned ({relative_path(directory)})"
    return Model(
        lm,
        tuned=True,
        description=description,
        renderer=renderer,
        tools=_find_stored_tools(directory)[1],
        training=TrainedPrompt.from_manifest(read_manifest(directory)),
        directory=directory,
    )


def tuned_renderer(directory: Path) -> str:
    """The name of the renderer that a student was trained with, to be loaded. Raises DataError as ``tuned_tools``."""
    name = str(read_manifest(directory).get("renderer", "react"))
    refuse_foreign_names(directory, [name])
    return name


def tuned_tools(directory: Path) -> tuple[str, ...]:
    """The tools that a student saw in training, to be loaded.

    A run of preference or of export has no tools of its own: they are those of the run it was made from. Raises
    DataError for a tool that runs code and that this user did not set there.
    """
    source, tools = _find_stored_tools(directory)
    refuse_foreign_names(source, tools, advice="name it yourself: --tool NAME.")
    return tools


def _find_stored_tools(directory: Path) -> tuple[Path, tuple[str, ...]]:
    """The run whose settings name the tools of a student, and the tools."""
    settings = read_config(directory)
    if "tools" in settings:
        return directory, tuple(map(str, settings["tools"]))
    origin = settings.get("start") or settings.get("run")
    try:
        origin_directory = tuned_directory(str(origin)) if origin else None
    except (ConfigError, DataError):  # that run is gone
        origin_directory = None
    return (directory, ("search",)) if origin_directory is None else _find_stored_tools(origin_directory)


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
    wanted_names = [tool.name for tool in training.tools_to_run]
    tools = {name: tool for name, tool in load_tools(built_in).items() if name in wanted_names}
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


def training_fields(directory: Path) -> dict[str, Any]:
    """The fields of a manifest that tell what a student was trained with, for the manifests of runs made from it."""
    manifest = read_manifest(directory)
    return {name: manifest[name] for name in ("tools", "prompt") if "prompt" in manifest}


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


def parse_budget(text: str | None, spent: Usage) -> Budget | None:
    """The budget of a text such as 5usd, with what is spent already; None without a text."""
    if text is None:
        return None
    amount = BudgetAmount.parse(text)
    return Budget(amount, spent=amount.measure(spent))


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
            f"{foreign_task} is not a task of the embedded world, so it has no default {' and '.join(options)}: give "
            f"{' and '.join(options.values())}."
        )
    plain_tools = tuple(tools) if isinstance(tools, DefaultTools) else tools  # others are checked as they were given
    return plain_tools, str(teacher) if isinstance(teacher, DefaultTeacher) else teacher


def _is_foreign(spec: str) -> bool:
    """Whether a task is not of the embedded world; one that cannot be loaded is refused where it is used."""
    if is_file_spec(spec):
        return Path(split_file_spec(spec)[0]).expanduser().exists()
    try:
        return not _is_embedded(spec)
    except (ConfigError, DataError):
        return False


@functools.cache
def _is_embedded(spec: str) -> bool:
    """Whether a task is of the embedded world; studies ask this of each of their stages. Raises as ``load_task``."""
    from fireact.tasks.geo import GeoTask

    return isinstance(load_task(spec), GeoTask)


def _native_tools(model: str) -> tuple[str, ...] | None:
    """The tools of the training of a student that makes native calls; None for any other model."""
    directory = None if _find_hosted_model(model) else tuned_directory(model)
    is_native = directory is not None and load_renderer(tuned_renderer(directory)).native
    return tuned_tools(directory) if directory is not None and is_native else None


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
