"""Settings that verbs share: how a model is called, and how episodes run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fireact.base.run_directory import absolute_path
from fireact.base.settings import AGENT, DATA, OUTPUT, setting
from fireact.errors import ConfigError, unknown_name_error
from fireact.models.limits import HOSTED, Budget, BudgetAmount, Endpoint, check_budget
from fireact.rollout.agents import build_agent, check_trained_tools
from fireact.rollout.call_cache import FILE as CALLS
from fireact.rollout.call_cache import CallCache
from fireact.rollout.episodes import Agent, Episode, run_episodes
from fireact.rollout.ledger import Ledger
from fireact.rollout.loading import SEARCH, absolute_tool_specs
from fireact.rollout.models import Model, is_in_process, load_model
from fireact.rollout.shards import normalise_shard
from fireact.types import Task, Tool, Trajectory, Usage

EXECUTOR_HELP = "What runs episodes: threads of this process, ray for this machine, or ray:ADDRESS for a Ray cluster."


def check_executor(text: str) -> str:
    """A text that names an executor, as it is. Raises ConfigError."""
    name, separator, address = text.partition(":")
    if name not in ("threads", "ray") or (name == "threads" and separator):
        raise unknown_name_error("executor", text, ("threads", "ray", "ray:ADDRESS"))
    if address.startswith("ray://"):
        raise ConfigError(
            f"executor {text!r} is the address of a Ray Client, whose driver the workers cannot reach. Run the command "
            "on a machine of the cluster (ray job submit, say) with --executor ray:auto."
        )
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """Settings of how a model is called."""

    calls: str = setting("record", panel=OUTPUT)
    """record, replay or off: store LM and tool calls, answer only from stored calls, or neither."""
    cache: str | None = setting(None, panel=OUTPUT, is_path=True, normalise=absolute_path)
    """File of stored calls. Default: calls.sqlite in the run directory."""
    budget: str | None = setting(None, panel=HOSTED, normalise=check_budget)
    """5usd, 200000tokens or 1000calls: the run stops before it is passed."""
    endpoint: Endpoint = setting(factory=Endpoint)
    workers: int = setting(16, panel=AGENT, low=1)
    """Episodes at a time, on each machine."""

    def open_cache(self, out: Path) -> CallCache:
        """The stored calls of a run directory."""
        return CallCache(Path(self.cache or out / CALLS), self.calls)

    def open_budget(self, cache: CallCache, *, force: bool) -> Budget | None:
        """The budget, of which stored calls have spent some unless ``force`` starts anew; None without one."""
        if self.budget is None:
            return None
        amount = BudgetAmount.parse(self.budget)
        return Budget(amount, spent=amount.measure(Usage() if force else cache.total_usage()))

    def load_model(self, spec: str, *, cache: CallCache | None = None, budget: Budget | None = None) -> Model:
        """The model behind a name."""
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
    executor: str = setting("threads", panel=AGENT, help=EXECUTOR_HELP, normalise=check_executor)
    shard: str | None = setting(None, panel=DATA, normalise=normalise_shard)
    """I/N: run the I-th (from 1) of N shards of the episodes; 'fireact join' makes one run of all. Default: all, but
    in an array job of Slurm or an indexed Job of Kubernetes the shard of its number.
    """

    def choose_executor(
        self,
        plan: Callable[[Any, CallCache, Budget | None], Sequence[Episode]],
        cache: CallCache,
        budget: Budget | None,
        *,
        spec: str,
    ) -> Callable[[Iterable[Episode]], Iterator[Trajectory]]:
        """What runs episodes: threads here, or actors that ``plan`` the same episodes with the driver's calls.

        ``spec`` is the model's name.
        """
        if self.executor == "threads":
            return partial(run_episodes, workers=self.workers)
        from fireact.rollout.ray_executor import RayExecutor

        ledger = Ledger(cache, budget, self.endpoint)
        address = self.executor.partition(":")[2]
        return RayExecutor(
            partial(plan, self), ledger, address=address, workers=self.workers, on_gpus=is_in_process(spec)
        ).run_episodes

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
