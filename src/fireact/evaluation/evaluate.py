"""The verb ``eval``: an agent answers held-out questions. Each episode is stored, each task summarised with intervals.

The rollout is the one of ``collect``; only the agent and the split differ. Invariant: no question that the agent was
trained on is asked unless that is allowed; then the ``meta`` of its episode has ``trained``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from fireact.base.cost import CostEstimate
from fireact.base.keys import without_keys
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import (
    RunDir,
    absolute_if_path,
    absolute_path,
    read_config,
    read_manifest,
    read_trajectories,
)
from fireact.base.settings import AGENT, DATA, DefaultValue, check_settings, replace_fields, setting
from fireact.base.verbs import Verb
from fireact.errors import ConfigError, FireactError, unknown_name_error
from fireact.evaluation.breakdown import TRAINED
from fireact.evaluation.recorded_questions import (
    RecordedQuestions,
    choose_recorded_tools,
    describe_replayed_calls,
    load_recorded_questions,
    read_prompt_tokens,
)
from fireact.evaluation.summary import read_summaries, summarise_trajectories
from fireact.evaluation.trained_marks import mark_trained_episodes
from fireact.models.limits import Budget
from fireact.render.prompts import TOOLLESS_METHODS
from fireact.rollout.agents import choose_defaults
from fireact.rollout.call_cache import FILE as CALLS
from fireact.rollout.call_cache import CallCache
from fireact.rollout.collection import (
    NEUTRAL_SETTINGS,
    TASKS_HELP,
    run_missing_episodes,
    say_shard,
    tool_fingerprints,
)
from fireact.rollout.episode_settings import EpisodeSettings
from fireact.rollout.episodes import Episode
from fireact.rollout.estimate import estimate_episodes, probe_prompts
from fireact.rollout.loading import DefaultTools, absolute_task_specs, load_task, load_tools
from fireact.rollout.models import Model, load_model
from fireact.rollout.shards import choose_shard, name_shard_directory, take_shard
from fireact.rollout.students import TrainedPrompt, find_hosted_model, tuned_directory, tuned_weights
from fireact.tasks.order import order_examples
from fireact.training.model_card import show_on_card
from fireact.types import Task, Tool, Trajectory, Usage

ALLOWED = ("trained",)
"""What ``allow`` may name."""
QUESTIONS = 100
"""Questions of each task, where no number is given."""


class DefaultTasks(DefaultValue, tuple[str, ...]):
    """Tasks that nobody chose."""


@dataclass(frozen=True, slots=True)
class EvalConfig(EpisodeSettings):
    """Settings of ``eval``; unlike in ``collect``, answers are not repaired unless ``repairs`` is set."""

    agent: str = setting(normalise=absolute_if_path)
    """A directory of 'fireact train', smollm2-135m, a hub id, openai:MODEL[@URL,...], replay:DIR, scripted:expert."""
    tasks: Sequence[str] = setting(
        DefaultTasks(("geo-hop", "geo-compose")), flags=("--task", "-t"), panel=DATA, help=TASKS_HELP,
        normalise=absolute_task_specs,
    )  # fmt: skip
    n: int | None = setting(None, flags=("-n",), panel=DATA, low=1)
    """Questions of each task. Default: 100, or all of --questions-of."""
    method: str = setting("react", flags=("--method", "-m"), panel=AGENT)
    """io, cot, react, reflexion or module:attribute."""
    examples: int | None = setting(None, panel=AGENT, low=0)
    """Examples in the prompt. Default: 3; 0 for a fine-tuned agent."""
    _: KW_ONLY
    questions_of: str | None = setting(None, panel=DATA, is_path=True, normalise=absolute_path)
    """Ask the questions of a run: a recording, or a hold-out file of 'mix'. --task then names the rule that scores."""
    allow: Sequence[str] = setting((), panel=DATA)
    """trained: ask also what the agent was trained on, and mark it."""
    split: str = setting("test")
    workers: int = setting(16)
    """Episodes at a time, on each machine; they share the batches of an in-process model."""

    def __post_init__(self) -> None:
        check_settings(self, "eval")
        if self.questions_of is not None:
            _choose_recorded_defaults(self, self.questions_of)
        elif self.n is None:
            replace_fields(self, n=QUESTIONS)
        tools, _ = choose_defaults(self.tasks, [self.method], tools=self.tools, model=self.agent)
        replace_fields(self, tasks=tuple(self.tasks), tools=tools)
        for name in self.allow:
            if name not in ALLOWED:
                raise unknown_name_error("setting to allow", name, ALLOWED)


def _choose_recorded_defaults(config: EvalConfig, run: str) -> None:
    """The tasks, the split and the tools for the questions of a run. Raises ConfigError where a tool must be named."""
    tasks = () if isinstance(config.tasks, DefaultTasks) else config.tasks
    if len(tasks) > 1:
        raise ConfigError(f"eval: {len(tasks)} tasks; with --questions-of give at most one, whose rule scores.")
    if config.split not in ("test", ""):
        raise ConfigError(f"eval: --split {config.split}; the questions of a run have no splits. Leave it out.")
    replace_fields(config, tasks=tasks, split="")
    if isinstance(config.tools, DefaultTools) and config.method not in TOOLLESS_METHODS:
        replace_fields(config, tools=choose_recorded_tools(run, config.method, model=config.agent))


def evaluate(config: EvalConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Evaluate an agent into ``out`` and return the manifest; ``manifest["results"][task]`` is the task's summary."""
    cache = config.open_cache(out)
    budget = config.open_budget(cache, force=force)
    model = config.load_model(config.agent, cache=cache, budget=budget)
    tools = load_tools(config.tools, cache)
    tasks = _load_tasks(config)
    episodes = _build_all_episodes(tasks, config, model, tools)
    left_out = {name: task.unanswered for name, task in tasks.items() if isinstance(task, RecordedQuestions)}
    with RunDir(out, verb="eval", settings=config, force=force, neutral=EVAL.neutral) as run:
        if run.complete:
            return run.manifest
        own_episodes = _take_shard(config, episodes)
        say_shard(config.shard, own_episodes, progress)
        try:
            execute = config.choose_executor(plan_evaluation, cache, budget, spec=config.agent)
            wall_share = run_missing_episodes(run, own_episodes, execute, workers=config.workers, progress=progress)
        finally:
            model.close()
        trajectories = list(read_trajectories(run.path))
        wall_seconds = defaultdict[str, float](float)
        for trajectory in trajectories:
            wall_seconds[trajectory.task] += wall_share * trajectory.seconds
        shots = max(
            map(_count_shots, (task_episodes[0] for task_episodes in episodes.values() if task_episodes)), default=0
        )
        manifest = run.finish(
            agent=_label_agent(model, config, shots),
            description=_describe_agent(model, config, shots),
            tuned=model.tuned,
            examples=shots,
            tools=tool_fingerprints(tools),
            limits={
                name: asdict(task_episodes[0].agent.limits) for name, task_episodes in episodes.items() if task_episodes
            },
            **_summarise_tasks(trajectories, wall_seconds),
            **({} if config.questions_of is None else {"left_out": left_out}),
            **describe_replayed_calls(config.tools, trajectories),
            **read_prompt_tokens(model),
        )
        if model.training is not None and config.shard is None and _is_for_card(config.tools, trajectories):
            show_on_card(config.agent, out, manifest["results"], progress)
        return manifest


def _is_for_card(tools: Sequence[str], trajectories: Iterable[Trajectory]) -> bool:
    """Whether the results of a whole run belong on the agent's card: without noise, on questions new to it."""
    has_noise = any(spec.startswith("noise:") for spec in tools)
    return not has_noise and not any(TRAINED in entry.meta for entry in trajectories)


def show_joined_results(run: Path, progress: Progress) -> None:
    """Show the results of joined shards on the agent's card, as ``evaluate`` shows those of a whole run.

    The shards may come from other machines: the student at the agent's path must be the one that they ran.
    """
    settings, manifest = read_config(run), read_manifest(run)
    agent = str(settings["agent"])
    try:
        directory = None if find_hosted_model(agent) else tuned_directory(agent)
        if directory is None or TrainedPrompt.from_manifest(read_manifest(directory)) is None:
            return
        if not str(manifest["agent"]).startswith(tuned_weights(directory)[2]):
            progress.say(f"the model card of {directory} does not show this: the shards ran other weights.")
        elif _is_for_card(settings["tools"], read_trajectories(run)):
            show_on_card(agent, run, manifest["results"], progress)
    except FireactError as error:  # the run is joined, and the student may not be here
        progress.say(f"no model card shows this: {error}")


def estimate_evaluation(config: EvalConfig) -> CostEstimate:
    """Estimate what ``eval`` takes, without a call or a key. Raises what ``eval`` raises before its first call."""
    cache = CallCache(Path(CALLS), "off")
    with without_keys():
        model, tools = load_model(config.agent, cache=cache, endpoint=config.endpoint), load_tools(config.tools, cache)
    episodes = _take_shard(config, _build_all_episodes(_load_tasks(config), config, model, tools))
    return estimate_episodes(episodes, price=getattr(model.lm, "price", None))


def plan_evaluation(config: EvalConfig, cache: CallCache, budget: Budget | None) -> list[Episode]:
    """The episodes of an evaluation, or of its shard."""
    model, tools = config.load_model(config.agent, cache=cache, budget=budget), load_tools(config.tools, cache)
    return _take_shard(config, _build_all_episodes(_load_tasks(config), config, model, tools))


def _take_shard(config: EvalConfig, episodes: Mapping[str, Sequence[Episode]]) -> list[Episode]:
    return take_shard(config.shard, [episode for task_episodes in episodes.values() for episode in task_episodes])


def _summarise_tasks(trajectories: Iterable[Trajectory], wall_seconds: Mapping[str, float]) -> dict[str, Any]:
    """The part of a manifest about episodes: ``results`` by task, and ``usage``."""
    by_task: dict[str, list[Trajectory]] = {}
    usage = Usage()
    for trajectory in trajectories:
        by_task.setdefault(trajectory.task, []).append(trajectory)
        usage += trajectory.usage
    results = {
        name: summarise_trajectories(task_trajectories, wall_seconds=wall_seconds[name]).to_dict()
        for name, task_trajectories in by_task.items()
    }
    return {"results": results, "usage": asdict(usage)}


def join_results(manifests: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """What the manifest of joined shards tells of their episodes; a task's seconds are those of all machines."""
    wall_seconds = defaultdict[str, float](float)
    for task, summary in chain.from_iterable(read_summaries(manifest).items() for manifest in manifests):
        wall_seconds[task] += (summary.seconds_per_question or 0.0) * summary.n
    replayed = sum((Counter(manifest.get("replayed", {})) for manifest in manifests), Counter[str]())
    facts = _summarise_tasks(read_trajectories(path), wall_seconds)
    return facts | ({"replayed": dict(replayed)} if "replayed" in manifests[0] else {})


def _load_tasks(config: EvalConfig) -> dict[str, Task]:
    """The tasks by name, which may be shorter than the typed specification."""
    if config.questions_of is not None:
        rule = next(iter(config.tasks), None)
        return {task.name: task for task in load_recorded_questions(config.questions_of, rule)}
    tasks_by_name: dict[str, Task] = {}
    for spec in config.tasks:
        task = load_task(spec)
        if task.name in tasks_by_name:
            raise ConfigError(f"two tasks are named {task.name!r}; results tell tasks apart by name. Leave one out.")
        tasks_by_name[task.name] = task
    return tasks_by_name


def _build_all_episodes(
    tasks: Mapping[str, Task], config: EvalConfig, model: Model, tools: Mapping[str, Tool]
) -> dict[str, list[Episode]]:
    """The episodes of each task, those on trained questions marked. Raises ConfigError for one that is not allowed."""
    episodes = {name: _build_episodes(task, config, model, tools) for name, task in tasks.items()}
    return mark_trained_episodes(episodes, config.agent, allowed=TRAINED in config.allow)


def _build_episodes(task: Task, config: EvalConfig, model: Model, tools: Any) -> list[Episode]:
    agent = config.build_agent(model, task, config.method, tools, examples=config.examples)
    examples = order_examples(task.examples(config.split), config.order)
    count = len(examples) if config.n is None else config.n
    if count < 1:
        raise ConfigError(f"-n is {count}; at least one question must be asked.")
    if count > len(examples):
        available = f"{len(examples)} {config.split} questions".replace("  ", " ")
        raise ConfigError(f"{task.name} has {available}; {count} were asked for. Lower -n.")
    return [Episode(task=task, example=example, agent=agent, seed=config.seed) for example in examples[:count]]


def _count_shots(episode: Episode) -> int:
    """How many examples of the method are in the first prompt of an episode."""
    method_examples = getattr(episode.agent.method, "examples", ())
    messages = [message for call in probe_prompts(episode)[:1] for message in call.messages] if method_examples else []
    return sum(any(question in message.content for message in messages) for question, _ in method_examples)


def _label_agent(model: Model, config: EvalConfig, shots: int) -> str:
    """The agent's name in results: the model's name and, where it is prompted, the method and number of examples."""
    return model.lm.name if model.tuned and not shots else f"{model.lm.name} {config.method} {shots}-shot"


def _describe_agent(model: Model, config: EvalConfig, shots: int) -> str:
    count = {0: "no examples", 1: "1 example"}.get(shots, f"{shots} examples")
    method_text = f", {config.method}" if shots or not model.tuned else ""
    return f"{model.description}{'' if model.tuned else ', not fine-tuned'}{method_text}, {count} in the prompt"


def _name_directory(given: Mapping[str, Any]) -> str:
    return name_shard_directory(f"runs/eval-{given['agent'].strip('/').replace('/', '-').replace(':', '-')}", given)


def _expand_shard(options: None, given: Mapping[str, Any]) -> dict[str, Any]:
    return choose_shard(given)


EVAL = Verb(
    "eval", EvalConfig, evaluate, out=_name_directory, join=join_results, after_join=show_joined_results,
    expand=_expand_shard,
    out_help="Run directory. Default: runs/eval-AGENT; for a shard runs/eval-AGENT-I-of-N.",
    neutral=(*NEUTRAL_SETTINGS, "allow"), estimate=estimate_evaluation,
    example="`fireact eval runs/quickstart/train -t geo-yesno -t geo-choice -n 50 --json`",
    command_line="fireact.cli.running:evaluate_command",
)  # fmt: skip
