"""How a name becomes a model: a teacher, a prompted student, or one that ``train`` made.

scripted:expert          a script that plays the teacher
openai:MODEL[@BASE_URL]  any endpoint that speaks OpenAI's chat completions; URL1,URL2 are replicas of one model
replay:DIR               the stored calls of a recorded run, with no model behind them
hf:NAME, NAME            a model that transformers loads: smollm2-135m, a hub id, a local directory
DIR                      a directory of ``fireact train``, ``prefer``, ``tune`` or ``quickstart``; no prompt of ours
module:attribute         an LM of the user, or a function or class that builds one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fireact.base import names
from fireact.base.machine import release_memory
from fireact.base.run_directory import read_manifest, relative_path
from fireact.models.limits import Budget, BudgetedLM, Endpoint
from fireact.models.weights import require_existing_path
from fireact.rollout.call_cache import CallCache
from fireact.rollout.loading import load_renderer
from fireact.rollout.students import (
    TrainedPrompt,
    find_hosted_model,
    find_stored_tools,
    tuned_directory,
    tuned_renderer,
    tuned_weights,
)
from fireact.types import LM


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
    require_existing_path(spec)
    hosted = find_hosted_model(spec)
    directory = None if hosted else tuned_directory(spec)
    tuned = None if directory is None else _load_tuned_model(directory, slots)

    def build_lm() -> LM:
        lm = _load_lm(hosted or spec, slots, endpoint) if tuned is None else tuned.lm
        return lm if budget is None else BudgetedLM(lm, budget, getattr(lm, "price", None))

    lm = build_lm() if cache is None else cache.wrap_lm(hosted or spec, build_lm)
    if tuned is None:
        return _describe_hosted_student(lm, Path(spec)) if hosted else Model(lm=lm, tuned=False, description=lm.name)
    return replace(tuned, lm=lm)


def is_in_process(spec: str) -> bool:
    """Whether the weights of a model are loaded into the process that calls it."""
    prefix, separator, _ = spec.partition(":")
    return not find_hosted_model(spec) and (not separator or prefix == "hf")


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
        tools=find_stored_tools(directory)[1],
        training=TrainedPrompt.from_manifest(read_manifest(directory)),
        directory=directory,
    )
