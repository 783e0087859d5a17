"""How a name on the command line becomes an Agent: a teacher, a prompted student, or one that ``train`` made.

scripted:expert          a script that plays the teacher
openai:MODEL[@BASE_URL]  any endpoint that speaks OpenAI's chat completions
replay:DIR               what a recorded run's model said, with no model behind it
hf:NAME, NAME            a model that transformers loads: smollm2-135m, a hub id, a local directory
DIR                      what ``fireact train`` (hosted too) or ``fireact quickstart`` wrote: run with no prompt of ours at all
module:attribute         an LM of the user's own, or something that builds one when it is called
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from fireact import names
from fireact.cache import CallCache
from fireact.episodes import Agent
from fireact.errors import ConfigError, DataError
from fireact.machine import release_memory
from fireact.models.limits import Budget, Budgeted, Endpoint
from fireact.render import prompts
from fireact.store import absolute, read_config, read_manifest, shown
from fireact.tasks.files import file_task, is_file, path_and_columns
from fireact.tools.function import load
from fireact.tools.guard import guarded
from fireact.tools.noise import noisy
from fireact.types import LM, Limits, Method, Renderer, Task, Tool

FEW_SHOT = 3
"""Examples in the prompt of an LM that was not fine-tuned."""


@dataclass(frozen=True, slots=True)
class Model:
    """An LM, and whether it was fine-tuned by us (so that it is run without instructions and examples).

    ``renderer`` names the one that it was trained with, and must be run with; ``tools`` those that it was shown, where it makes
    native calls.
    """

    lm: LM
    tuned: bool
    description: str
    renderer: str = "react"
    tools: Sequence[str] = ()

    def close(self) -> None:
        """Free what the LM holds, where it holds something; it loads again when it is asked again."""
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

    Calls that ``cache`` knows count against neither the budget nor the rates of ``endpoint``.
    """
    hosted = _hosted(spec)
    directory = None if hosted else tuned_directory(spec)
    tuned = None if directory is None else _tuned(directory, slots)

    def made() -> LM:
        lm = _named(hosted or spec, slots, endpoint) if tuned is None else tuned.lm
        return lm if budget is None else Budgeted(lm, budget, getattr(lm, "price", None))

    lm = made() if cache is None else cache.lm(hosted or spec, made)
    if tuned is None:
        named = f"{lm.name}, fine-tuned ({shown(spec)})" if hosted else lm.name
        return Model(lm=lm, tuned=bool(hosted), description=named)
    return replace(tuned, lm=lm)


def _hosted(spec: str) -> str:
    """The model that a directory of ``train --hosted`` ended in; empty where the path is none."""
    path = Path(spec)
    if not (path / "config.toml").is_file() or read_config(path).get("verb") != "tune":
        return ""
    return str(read_manifest(path)["agent"])


def _named(spec: str, slots: int, endpoint: Endpoint | None) -> LM:
    prefix, separator, rest = spec.partition(":")
    if prefix == "openai" and separator:
        lm: LM = names.resolve("model", prefix)(rest, slots=slots, endpoint=endpoint)
    elif separator and prefix in names.known("model"):
        lm = names.resolve("model", prefix)(rest, slots=slots)
    elif separator:
        lm = names.build("model", spec)
        names.require("model", spec, lm, "name", "complete")
    else:
        lm = names.resolve("model", "hf")(spec, slots=slots)
    return lm


def tuned_directory(spec: str) -> Path | None:
    """The run directory of ``train``, or of ``export --to merged``, that a path means; None where it is no run directory."""
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


def _is_merged(settings: Mapping[str, Any]) -> bool:
    return (settings.get("verb"), settings.get("to")) == ("export", "merged")


def tuned_weights(directory: Path) -> tuple[str, Path | None, str]:
    """Of a fine-tuned student: what to load, the adapter to merge into it (or None), and its name with a fingerprint."""
    settings, manifest = read_config(directory), read_manifest(directory)
    if _is_merged(settings):
        student, sha256 = str(manifest["student"]), _of_weights(manifest["files"])
        place, adapter = str(directory), None
    else:
        student, sha256 = str(manifest["student"]), str(manifest["adapter_sha256"])
        whole = (directory / "model").is_dir()  # full fine-tuning leaves a model, LoRA an adapter
        place, adapter = (str(directory / "model"), None) if whole else (student, directory / "adapter")
    return place, adapter, f"{student}+{sha256[:8]}"


def _of_weights(files: Mapping[str, str]) -> str:
    """One hash for the files of weights, of which a large student has several."""
    found = [sha256 for name, sha256 in sorted(files.items()) if name.endswith(".safetensors")]
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def student_of(directory: Path) -> str:
    """What was fine-tuned in a run directory: the name or path of the student."""
    return str(read_manifest(directory)["student"])


def _tuned(directory: Path, slots: int) -> Model:
    from fireact.models.hf import HFModel

    place, adapter, name = tuned_weights(directory)
    student = name.rpartition("+")[0]
    named = shown(student) if Path(student).is_dir() else student
    renderer = tuned_renderer(directory)
    own = load_renderer(renderer)
    lm = HFModel(place, adapter=adapter, slots=slots, name=name, renderer=own)
    said = f"{named}, fine-tuned ({shown(directory)})"
    return Model(
        lm, tuned=True, description=said, renderer=renderer, tools=tuned_tools(directory) if own.native else ()
    )


def tuned_renderer(directory: Path) -> str:
    """The name of the renderer that a student was trained with."""
    return str(read_manifest(directory).get("renderer", "react"))


def tuned_tools(directory: Path) -> tuple[str, ...]:
    """The tools that a student was shown in training: of preference and of an export, by the run that they were made from."""
    settings = read_config(directory)
    if "tools" in settings:
        return tuple(map(str, settings["tools"]))
    origin = settings.get("start") or settings.get("run")
    try:
        before = tuned_directory(str(origin)) if origin else None
    except (ConfigError, DataError):  # it is not here any more
        before = None
    return ("search",) if before is None else tuned_tools(before)


def load_renderer(name: str) -> Renderer:
    """A renderer by name."""
    renderer: Renderer = names.build("renderer", name)
    return renderer


def load_tools(specs: Sequence[str], cache: CallCache | None = None) -> dict[str, Tool]:
    """Tools by name; each spec builds one, or several (the tools of a server). Raises ConfigError for a name twice."""
    found: dict[str, Tool] = {}
    for spec in specs:
        for tool in _tools(spec, cache):
            if tool.name in found:
                raise ConfigError(f"two tools are named {tool.name!r}; an agent tells its tools apart by name.")
            found[tool.name] = tool
    return found


def _tools(spec: str, cache: CallCache | None) -> Sequence[Tool]:
    return _built(spec, None) if cache is None else cache.tools(spec, lambda: _built(spec, cache))


def _built(spec: str, cache: CallCache | None) -> Sequence[Tool]:
    """The tools of a spec; what noise disturbs is kept undisturbed too, so that other noise pays for no call again."""
    kind, _, rest = spec.partition(":")
    if kind == "noise":
        return noisy(rest, lambda inner: _tools(inner, cache))
    return [guarded(tool) for tool in load(spec)]


def load_task(spec: str) -> Task:
    """A task by name (``NAME:FOLDER`` where its questions lie in a folder), file of questions or ``module:attribute``."""
    if is_file(spec):
        return cast(Task, file_task(spec))
    task: Task = names.build("task", spec)
    names.require("task", spec, task, "name", "limits", "examples", "score")
    return task


def whole_task(spec: str) -> str:
    """A task's spec as settings hold it: with whole paths, so that a run can be gone on with from anywhere."""
    if is_file(spec):
        path, columns = path_and_columns(spec)
        return f"{absolute(Path(path).expanduser())}{':' if columns else ''}{columns}"
    name, separator, folder = spec.partition(":")
    if separator and Path(folder).expanduser().is_dir() and name in names.known("task"):
        return f"{name}:{absolute(Path(folder).expanduser())}"
    return spec


def build(
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

    ``repairs`` is how often a completion without an action is asked for again; ``native`` means tool calls, not text. A
    fine-tuned model is run with the renderer that it was trained with; with ``examples`` it is given the whole prompt of
    ``method``, instructions too (paper, Table 14), and without them it chooses its method itself.
    """
    name = "tool_calls" if native else model.renderer
    if model.tuned and name != model.renderer:
        raise ConfigError(f"the agent was trained with the renderer {model.renderer}; leave --native out.")
    count = (0 if model.tuned else FEW_SHOT) if examples is None else examples
    if model.tuned and not count and method in prompts.ALONE:
        raise ConfigError(
            f"a fine-tuned agent chooses its method itself; {method!r} would be ignored. Leave it out, or show it how: "
            "--examples 3."
        )
    lm_is_scripted = model.lm.name.startswith("scripted:")
    if lm_is_scripted and (examples or temperature):
        raise ConfigError(f"{model.lm.name} is a script: it would ignore --examples and --temperature. Leave them out.")
    options: dict[str, object] = {
        "instructions": "" if model.tuned and not count else prompts.instructions(method, tools, native=native),
        "examples": ()
        if lm_is_scripted
        else tuple(prompts.examples(getattr(task, "prompts", task.name), method, count)),
        **({"repairs": repairs} if repairs else {}),
        **({"renderer": load_renderer(name)} if name != "react" else {}),
    }
    return Agent(
        lm=model.lm,
        method=_method(method, task.limits, options),
        tools=tools,
        limits=task.limits,
        temperature=temperature,
    )


def _method(name: str, limits: Limits, options: dict[str, object]) -> Method:
    factory = names.resolve("method", name)
    if name == "reflexion":
        options = {**options, "reflect_at": limits.reflect_at}
    try:
        method: Method = factory(**options)
    except TypeError as error:
        wanted = ", ".join(options)
        raise ConfigError(f"method {name!r} cannot be built: {error}. It is given {wanted}.") from error
    return method
