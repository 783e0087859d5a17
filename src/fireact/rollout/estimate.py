"""The cost estimate of a collection before anything is spent: calls, tokens, dollars, and the assumptions behind them.

Prompt lengths are measured on the first questions; the number of steps of an episode is assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from fireact.base.cost import CostEstimate
from fireact.models.limits import count_prompt_chars
from fireact.models.prices import TokenPrice
from fireact.rollout.episodes import Episode, run_episode
from fireact.types import Call, Completion, Usage

STEPS_PER_EPISODE = 4
"""Steps of an episode that searches; the paper's fine-tuned agents take 3.0 to 3.8 (Table 10)."""
COMPLETION_TOKENS, OBSERVATION_TOKENS = 60, 80
"""Tokens of a thought with its action, and of an observation."""
CHARS_PER_TOKEN = 4
"""Characters a token, roughly."""
SINGLE_STEP_METHODS = ("io", "cot")
"""Methods of one completion without tools."""


@dataclass
class PromptProbe:
    """An LM that notes its first call and does not answer: the episode ends there, and nothing is scored."""

    name: str = "probe"
    calls: list[Call] = field(default_factory=list)

    def complete(self, call: Call) -> Completion:
        self.calls.append(call)
        raise RuntimeError("the first prompt is known")


def estimate_episodes(episodes: Sequence[Episode], *, price: TokenPrice | None, model: str = "") -> CostEstimate:
    """The cost of the episodes; its details have calls and tokens by "task/method" and in total.

    ``model`` names the price where it is not known, by default as the LM does.
    """
    sorted_episodes = sorted(episodes, key=_group_name)
    groups = {name: _estimate_group(list(group)) for name, group in groupby(sorted_episodes, key=_group_name)}
    total = sum(groups.values(), Usage())
    cost = price.cost(total) if price is not None else 0.0
    cost = None if cost is None else round(cost, 4)
    details = {
        "episodes": len(episodes),
        **_count_tokens(total),
        "cost_usd": cost,
        "by_task_and_method": {name: _count_tokens(usage) for name, usage in groups.items()},
        "assumed": {
            "rounds": {"io, cot": 1, "others": STEPS_PER_EPISODE},
            "tokens_a_turn": COMPLETION_TOKENS,
            "tokens_an_observation": OBSERVATION_TOKENS,
            "letters_a_token": CHARS_PER_TOKEN,
            "cached_tokens": 0,
        },
    }
    price_name = f"the price of a token of {model or episodes[0].agent.lm.name}"
    return CostEstimate.from_terms(dollars={price_name: cost}, episodes=len(episodes), details=details)


def _group_name(episode: Episode) -> str:
    return f"{episode.task.name}/{episode.agent.method.name}"


def _count_tokens(usage: Usage) -> dict[str, int]:
    return {"calls": usage.calls, "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}


def _estimate_group(episodes: Sequence[Episode]) -> Usage:
    """The usage of all episodes of one task and method, estimated from the prompts of the first three."""
    calls = [call for episode in episodes[:3] for call in probe_prompts(episode)]
    prompt_chars = sum(count_prompt_chars(call.messages, call.tools) for call in calls)
    first_prompt_tokens = round(prompt_chars / max(1, len(calls)) / CHARS_PER_TOKEN)
    agent, count = episodes[0].agent, len(episodes)
    steps = 1 if agent.method.name in SINGLE_STEP_METHODS else min(STEPS_PER_EPISODE, agent.limits.max_steps)
    read = sum(first_prompt_tokens + step * (COMPLETION_TOKENS + OBSERVATION_TOKENS) for step in range(steps))
    return Usage(count * steps, count * read, 0, count * steps * COMPLETION_TOKENS)


def probe_prompts(episode: Episode) -> list[Call]:
    """The first call of an episode, with its prompt, without making it."""
    probe = PromptProbe()
    run_episode(replace(episode, agent=replace(episode.agent, lm=probe)))
    return probe.calls
