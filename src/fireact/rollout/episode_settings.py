"""Settings that verbs share: how a model is called, and how episodes run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fireact.base.run_directory import absolute_path
from fireact.base.settings import AGENT, DATA, OUTPUT, setting
from fireact.models.limits import HOSTED, Budget, BudgetAmount, Endpoint, check_budget
from fireact.rollout.agents import build_agent, check_trained_tools
from fireact.rollout.call_cache import FILE as CALLS
from fireact.rollout.call_cache import CallCache
from fireact.rollout.episodes import Agent
from fireact.rollout.loading import SEARCH, absolute_tool_specs
from fireact.rollout.models import Model, load_model
from fireact.rollout.shards import normalise_shard
from fireact.types import Task, Tool, Usage


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
    shard: str | None = setting(None, panel=DATA, normalise=normalise_shard)
    """I/N: run the I-th (from 1) of N shards of the episodes; 'fireact join' makes one run of all. Default: all, but
    in an array job of Slurm or an indexed Job of Kubernetes the shard of its number.
    """

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


def parse_budget(text: str | None, spent: Usage) -> Budget | None:
    """The budget of a text such as 5usd, with what is spent already; None without a text."""
    if text is None:
        return None
    amount = BudgetAmount.parse(text)
    return Budget(amount, spent=amount.measure(spent))
