"""What a collection will take, before anything is spent: calls, tokens and dollars, and what is assumed of each.

Prompts are the real ones of the first questions; how long an episode goes on is assumed, and said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, islice
from typing import Any

from fireact.episodes import Episode, run_episode
from fireact.models.limits import letters_in
from fireact.models.prices import Price
from fireact.types import Completion, Message, Tool, Usage

ROUNDS = 4
"""Rounds of an episode that searches; the paper's fine-tuned agents take 3.0 to 3.8 (Table 10)."""
TURN, OBSERVATION = 60, 80
"""Tokens of a thought with its action, and of an observation."""
LETTERS = 4
"""Letters a token."""
ALONE = ("io", "cot")
"""Methods of one completion without tools."""


@dataclass
class Probe:
    """An LM that notes how long its prompt is, and ends the episode."""

    name: str = "probe"
    letters: list[int] = field(default_factory=list)

    def complete(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), **_: Any) -> Completion:
        self.letters.append(letters_in(messages, tools))
        return Completion("Action: finish[ x]", Usage(), "stop", 0.0)


def estimate(episodes: Sequence[Episode], *, price: Price | None) -> dict[str, Any]:
    """Calls, tokens and cost of the episodes, by "task/method" and in all; a cost of None means an unknown price."""
    named = sorted(episodes, key=_name)
    parts = {name: _part(list(group)) for name, group in groupby(named, key=_name)}
    total = sum(parts.values(), Usage())
    cost = price.cost(total) if price is not None else 0.0
    return {
        "episodes": len(episodes),
        **{key: value for key, value in asdict(total).items() if key not in ("cached_tokens", "cost")},
        "cost_usd": None if cost is None else round(cost, 4),
        "by_task_and_method": {name: _shown(part) for name, part in parts.items()},
        "assumed": {
            "rounds": {"io, cot": 1, "others": ROUNDS},
            "tokens_a_turn": TURN,
            "tokens_an_observation": OBSERVATION,
            "letters_a_token": LETTERS,
            "cached_tokens": 0,
        },
    }


def _name(episode: Episode) -> str:
    return f"{episode.task.name}/{episode.agent.method.name}"


def _shown(part: Usage) -> Mapping[str, int]:
    return {"calls": part.calls, "prompt_tokens": part.prompt_tokens, "completion_tokens": part.completion_tokens}


def _part(episodes: Sequence[Episode]) -> Usage:
    """What all episodes of one task and method take, by the prompts of the first three."""
    first = _prompt(islice(episodes, 3))
    rounds = 1 if episodes[0].agent.method.name in ALONE else min(ROUNDS, episodes[0].agent.limits.max_steps)
    read = sum(first + turn * (TURN + OBSERVATION) for turn in range(rounds))
    count = len(episodes)
    return Usage(count * rounds, count * read, 0, count * rounds * TURN)


def _prompt(episodes: Iterable[Episode]) -> int:
    """Tokens of the first prompt, on average."""
    probe = Probe()
    for episode in episodes:
        run_episode(replace(episode, agent=replace(episode.agent, lm=probe)))
    return round(sum(probe.letters) / max(1, len(probe.letters)) / LETTERS)
