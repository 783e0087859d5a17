"""What an agent costs: its data (the waste of filtering apart), its training, each question; and when it has paid off.

Invariant: all prices are the study file's, with their sources; where the teacher has a price of its own (tokens that were
paid for, and searches), that is taken instead. A price that is not given is not guessed: the figures that need it are None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fireact.data import MixConfig
from fireact.data.filters import predicate
from fireact.store import read_trajectories
from fireact.study.file import Price
from fireact.study.results import Measured, calls_of_tools
from fireact.study.stages import Stage, specific
from fireact.types import Trajectory


def economics(one: Measured, prices: Mapping[str, Price]) -> dict[str, Any]:
    """Dollars and seconds of a cell on its first task.

    An episode that the mixture's filters leave out is waste: of ``n`` trajectories that are trained on, ``n / share that
    passes - n`` episodes were collected in vain; of data from a file that is not known. ``questions_to_break_even`` is how many questions the student
    must answer until data and training have cost less than asking the teacher.
    """
    asked = prices.get("teacher_question")
    results = next(iter((one.manifest("eval") or {})["results"].values()))
    seconds = float(results["seconds_per_question"])
    evaluation = one.stages[-1]
    episodes = next(iter(one.episodes.values()), ())
    serving = _sum(_served(evaluation, episodes, seconds, prices), _searched(evaluation, episodes, prices))
    found: dict[str, Any] = {"seconds_per_question": seconds, "usd_per_question": serving}
    mixed, training = one.manifest("mix"), one.manifest("train") or one.manifest("tune")
    if mixed is None or training is None:
        return found
    used = sum(count["n"] for count in mixed["counts"].values())
    share, episode_seconds, episode_usd = _collected(one, mixed["counts"], prices)
    teacher = episode_usd or (None if asked is None else asked.value)
    waste = None if share is None else used / share - used
    stage = next(stage for stage in one.stages if stage.verb in ("train", "tune"))
    trained = float(training["seconds" if stage.verb == "tune" else "training_seconds"])
    train = training["cost_usd"] if stage.verb == "tune" else _machine(stage, trained, prices)
    data = _times(used, teacher)
    wasted = _times(waste, teacher)
    fixed = None if data is None or train is None else data + (wasted or 0.0) + train
    saved = None if teacher is None or serving is None else teacher - serving
    return found | {
        "trajectories": used,
        "wasted_episodes": None if waste is None else round(waste, 1),
        "data_usd": data,
        "waste_usd": wasted,
        "data_seconds": _times(used, episode_seconds),
        "waste_seconds": _times(waste, episode_seconds),
        "training_seconds": trained,
        "training_usd": train,
        "teacher_usd_per_question": teacher,
        "teacher_price": "paid" if episode_usd else None if asked is None else asked.source,
        **_break_even(fixed, saved, wasted),
    }


def _break_even(fixed: float | None, saved: float | None, wasted: float | None) -> dict[str, Any]:
    """The number of questions, and what is to be said of it: why there is none, or that it leaves something out."""
    if fixed is None or saved is None:
        number, note = None, "not known: a price is missing"
    elif saved <= 0:
        number, note = None, "never: a question costs no less than the teacher's"
    else:
        number, note = math.ceil(fixed / saved), "" if wasted is not None else "at least: what was wasted is not known"
    return {"questions_to_break_even": number, "break_even_note": note}


def _collected(
    one: Measured, groups: Mapping[str, Any], prices: Mapping[str, Price]
) -> tuple[float | None, float | None, float | None]:
    """Of the collections behind a cell: the share of episodes that pass, and seconds and dollars of an episode."""
    collections: Sequence[Mapping[str, Any]] = one.collections()
    everything = sum(count["n"] for found in collections for count in found["counts"].values())
    share = _passing(one, groups)
    if share is None:
        return None, None, None
    costs = [found["usage"]["cost"] for found in collections]
    paid = None if any(cost is None for cost in costs) else sum(costs) / everything
    for stage in (stage for stage in one.stages if stage.verb == "collect" and stage.pays_searches):
        searched = list(read_trajectories(stage.path(one.root)))
        paid = _sum(paid, _times(len(searched) / everything, _searched(stage, searched, prices)))
    seconds = sum(found["seconds"] for found in collections) / everything
    return share, seconds, paid


def _passing(one: Measured, groups: Mapping[str, Any]) -> float | None:
    """Of the episodes that were collected of a mixture's tasks and methods: the share that passes its filters."""
    mixture = next(stage for stage in one.stages if stage.verb == "mix")
    config: MixConfig = mixture.config(one.root)
    filters = [predicate(text) for text in (*config.where, *(["learnable"] if config.weigh_bad == 0 else []))]
    collected = (stage for stage in one.stages if stage.verb == "collect")
    kept = [
        all(wanted(episode) for wanted in filters)
        for stage in collected
        for episode in read_trajectories(stage.path(one.root))
        if f"{episode.task}/{episode.method}" in groups
    ]
    return sum(kept) / len(kept) if any(kept) else None


def _served(
    evaluation: Stage, episodes: Sequence[Trajectory], seconds: float, prices: Mapping[str, Price]
) -> float | None:
    """What the model takes for a question: of a hosted one what was paid, of one's own the machine for so many seconds."""
    agents = evaluation.inputs.get("agent", ())
    if not any(one.verb == "tune" if isinstance(one, Stage) else one.startswith("openai:") for one in agents):
        return _machine(evaluation, seconds, prices)
    costs = [one.usage.cost for one in episodes]
    paid = [cost for cost in costs if cost is not None]
    return sum(paid) / len(paid) if paid and len(paid) == len(costs) else None


def _machine(stage: Stage, seconds: float, prices: Mapping[str, Price]) -> float | None:
    """What the machine of a stage costs for so many seconds."""
    price = specific(prices, "machine_hour", stage)
    return None if price is None else price.value * seconds / 3600


def _searched(stage: Stage, episodes: Sequence[Trajectory], prices: Mapping[str, Price]) -> float | None:
    """What an episode's searches cost: nothing where they are not paid for, None where that has no price."""
    if not stage.pays_searches or not episodes:
        return 0.0
    price = prices.get("search")
    return None if price is None else price.value * sum(map(calls_of_tools, episodes)) / len(episodes)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _times(amount: float | None, each: float | None) -> float | None:
    return None if amount is None or each is None else amount * each
