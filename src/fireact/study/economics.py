"""What an agent costs: its data, the episodes that filters discard, its training, each question; and when it pays off.

Invariant: all prices come from the study file, with their sources. Where the teacher's tokens and searches were paid
for, the paid amount is used instead. A missing price is never guessed: the figures that need it are None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fireact.base.run_directory import read_trajectories
from fireact.data import MixConfig
from fireact.data.filters import predicate
from fireact.study.file import StudyPrice
from fireact.study.results import CellResult, count_tool_calls
from fireact.study.stages import Stage, find_for_stage
from fireact.types import Trajectory


def compute_economics(cell_result: CellResult, prices: Mapping[str, StudyPrice]) -> dict[str, Any]:
    """Dollars and seconds of a cell on its first task.

    An episode that the mixture's filters leave out is waste: for ``n`` trajectories in training, ``n / passing share -
    n`` episodes were collected in vain. For data from a file this is not known. ``questions_to_break_even`` is the
    number of questions after which data, training and the student's own answers together have cost less than the
    teacher's answers.
    """
    teacher_price = prices.get("teacher_question")
    result = next(iter((cell_result.manifest("eval") or {})["results"].values()))
    seconds = float(result["seconds_per_question"])
    evaluation = cell_result.stages[-1]
    episodes = next(iter(cell_result.episodes.values()), ())
    serving = _add(_model_cost(evaluation, episodes, seconds, prices), _search_cost(evaluation, episodes, prices))
    costs: dict[str, Any] = {"seconds_per_question": seconds, "usd_per_question": serving}
    mix_manifest, training_manifest = (
        cell_result.manifest("mix"),
        cell_result.manifest("train") or cell_result.manifest("tune"),
    )
    if mix_manifest is None or training_manifest is None:
        return costs
    trajectory_count = sum(count["n"] for count in mix_manifest["counts"].values())
    share, episode_seconds, episode_usd = _collection_costs(cell_result, mix_manifest["counts"], prices)
    teacher_usd = episode_usd or (None if teacher_price is None else teacher_price.value)
    wasted_episodes = None if share is None else trajectory_count / share - trajectory_count
    stage = next(stage for stage in cell_result.stages if stage.verb in ("train", "tune"))
    training_seconds = float(training_manifest["seconds" if stage.verb == "tune" else "training_seconds"])
    training_usd = (
        training_manifest["cost_usd"] if stage.verb == "tune" else _machine_cost(stage, training_seconds, prices)
    )
    data_usd = _multiply(trajectory_count, teacher_usd)
    waste_usd = _multiply(wasted_episodes, teacher_usd)
    fixed_usd = None if data_usd is None or training_usd is None else data_usd + (waste_usd or 0.0) + training_usd
    saved_usd = None if teacher_usd is None or serving is None else teacher_usd - serving
    return costs | {
        "trajectories": trajectory_count,
        "wasted_episodes": None if wasted_episodes is None else round(wasted_episodes, 1),
        "data_usd": data_usd,
        "waste_usd": waste_usd,
        "data_seconds": _multiply(trajectory_count, episode_seconds),
        "waste_seconds": _multiply(wasted_episodes, episode_seconds),
        "training_seconds": training_seconds,
        "training_usd": training_usd,
        "teacher_usd_per_question": teacher_usd,
        "teacher_price": "paid" if episode_usd else None if teacher_price is None else teacher_price.source,
        **_compute_break_even(fixed_usd, saved_usd, waste_usd),
    }


def _compute_break_even(fixed_usd: float | None, saved_usd: float | None, waste_usd: float | None) -> dict[str, Any]:
    """The number of questions, and a note: why there is no number, or what the number leaves out."""
    if fixed_usd is None or saved_usd is None:
        number, note = None, "not known: a price is missing"
    elif saved_usd <= 0:
        number, note = None, "never: a question costs no less than the teacher's"
    else:
        number, note = (
            math.ceil(fixed_usd / saved_usd),
            "" if waste_usd is not None else "at least: what was wasted is not known",
        )
    return {"questions_to_break_even": number, "break_even_note": note}


def _collection_costs(
    cell_result: CellResult, groups: Mapping[str, Any], prices: Mapping[str, StudyPrice]
) -> tuple[float | None, float | None, float | None]:
    """The share of a cell's collected episodes that pass, and the seconds and dollars of one episode."""
    manifests: Sequence[Mapping[str, Any]] = cell_result.collection_manifests()
    episode_count = sum(count["n"] for manifest in manifests for count in manifest["counts"].values())
    share = _passing_share(cell_result, groups)
    if share is None:
        return None, None, None
    costs = [manifest["usage"]["cost"] for manifest in manifests]
    paid = None if any(cost is None for cost in costs) else sum(costs) / episode_count
    for stage in (stage for stage in cell_result.stages if stage.verb == "collect" and stage.has_paid_searches):
        episodes = list(read_trajectories(stage.path(cell_result.root)))
        paid = _add(paid, _multiply(len(episodes) / episode_count, _search_cost(stage, episodes, prices)))
    seconds = sum(manifest["seconds"] for manifest in manifests) / episode_count
    return share, seconds, paid


def _passing_share(cell_result: CellResult, groups: Mapping[str, Any]) -> float | None:
    """The share of the collected episodes of a mixture's tasks and methods that passes its filters."""
    mixture = next(stage for stage in cell_result.stages if stage.verb == "mix")
    config: MixConfig = mixture.config(cell_result.root)
    filters = [predicate(text) for text in (*config.where, *(["learnable"] if config.weigh_bad == 0 else []))]
    collect_stages = (stage for stage in cell_result.stages if stage.verb == "collect")
    passed = [
        all(is_kept(episode) for is_kept in filters)
        for stage in collect_stages
        for episode in read_trajectories(stage.path(cell_result.root))
        if f"{episode.task}/{episode.method}" in groups
    ]
    return sum(passed) / len(passed) if any(passed) else None


def _model_cost(
    evaluation: Stage, episodes: Sequence[Trajectory], seconds: float, prices: Mapping[str, StudyPrice]
) -> float | None:
    """What the model costs a question: for a hosted model what was paid, for a local one the machine's time."""
    agents = evaluation.inputs.get("agent", ())
    if not any(agent.verb == "tune" if isinstance(agent, Stage) else agent.startswith("openai:") for agent in agents):
        return _machine_cost(evaluation, seconds, prices)
    costs = [episode.usage.cost for episode in episodes]
    known_costs = [cost for cost in costs if cost is not None]
    return sum(known_costs) / len(known_costs) if known_costs and len(known_costs) == len(costs) else None


def _machine_cost(stage: Stage, seconds: float, prices: Mapping[str, StudyPrice]) -> float | None:
    """What the machine of a stage costs for a number of seconds."""
    price = find_for_stage(prices, "machine_hour", stage)
    return None if price is None else price.value * seconds / 3600


def _search_cost(stage: Stage, episodes: Sequence[Trajectory], prices: Mapping[str, StudyPrice]) -> float | None:
    """What the searches of one episode cost: nothing if they are free, None if they have no price."""
    if not stage.has_paid_searches or not episodes:
        return 0.0
    price = prices.get("search")
    return None if price is None else price.value * sum(map(count_tool_calls, episodes)) / len(episodes)


def _add(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _multiply(amount: float | None, each: float | None) -> float | None:
    return None if amount is None or each is None else amount * each
