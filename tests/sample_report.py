"""A report of made-up numbers: four tasks, two agents, long thoughts, non-ASCII and hostile text."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from fireact.evaluation.comparison import compare_scores
from fireact.evaluation.summary import summarise_trajectories
from fireact.reporting.cases import choose_cases
from fireact.reporting.report_data import EpisodeSource, Mixture, ReportAgent, ReportData
from fireact.rollout.collection import EpisodeCounts
from fireact.types import Action, Example, Step, Stop, Trajectory, Usage

BASE, TUNED = "smollm2-135m", "smollm2-135m+3f9a1c07"
HOSTILE = (
    '</script><script>alert("x")</script> <img src=x onerror=alert(1)> | `code` *bold* [a](http://x) ![b](http://y)'
)
LONG = (
    "Lithuania is a country in Europe. Its capital is Vilnius, where about 2,800,000 people live in the whole country. "
    "The internet domain of Lithuania is .lt, and calls from abroad begin with +370. People there pay with the euro. "
    "The main language is Lithuanian (lietuvių kalba). Lithuania borders on Latvia, Belarus, Poland and Russia; "
    "the largest of these is Russia. Its area is 65,300 square kilometres. "
)
EXAMPLES = {
    "geo-hop": ("What is the currency of the country whose capital is Malé?", "rufiyaa"),
    "geo-yesno": ("Do São Tomé and Príncipe and Côte d’Ivoire have the same main language?", "no"),
    "geo-choice": (
        "Which internet domain belongs to the country with calling code +95?\nA. .gt\nB. .mm\nC. .hu\nD. .cu",
        "B",
    ),
    "geo-compose": (
        "Which city is the capital of the one of Sri Lanka and Trinidad and Tobago with more people?",
        "Colombo",
    ),
}
RIGHT = {"geo-hop": (0.05, 0.83), "geo-yesno": (0.4, 0.73), "geo-choice": (0.2, 0.66), "geo-compose": (0.02, 0.42)}
NOTES = {"geo-hop": "free-form, 2 and 3 hops", "geo-yesno": "yes or no", "geo-choice": "four options"}


def sample(n: int = 60) -> ReportData:
    """The report; the same every time."""
    episodes = {
        task: {name: _episodes(task, name, n, share) for name, share in zip((BASE, TUNED), RIGHT[task], strict=True)}
        for task in RIGHT
    }
    everything = {name: [one for found in episodes.values() for one in found[name]] for name in (BASE, TUNED)}
    return ReportData(
        title="SmolLM2-135M-Instruct as an agent of the embedded world",
        created="2026-07-01 12:00 UTC",
        agents=(
            ReportAgent(BASE, "SmolLM2-135M-Instruct, react, 3 examples in the prompt", tuned=False),
            ReportAgent(TUNED, "the same, fine-tuned (LoRA), no examples in the prompt", trajectories=159),
        ),
        results={
            task: {
                name: summarise_trajectories(own, wall_seconds=len(own) * (2.4 if name == BASE else 0.71))
                for name, own in found.items()
            }
            for task, found in episodes.items()
        },
        comparisons={task: {TUNED: compare_scores(found[BASE], found[TUNED])} for task, found in episodes.items()},
        task_notes={**NOTES, "geo-compose": "held out: shapes never trained on"},
        training={"train": [_training_row(step) for step in range(1, 45)]},
        mixtures=(_mixture(),),
        timings={"collect": 6.4, "mix": 0.3, "train": 231.0, "eval-base": 188.0, "eval-fireact": 62.5, "report": 3.1},
        peak_memory_gb=3.42,
        settings={
            "train": {"recipe": {"rank": 16, "learning_rate": 0.002}, "student": BASE},
            "eval": {"n": 60, "tools": ["search"]},
        },
        commands=(
            "fireact quickstart -o runs/quickstart",
            f"fireact eval {BASE} -t geo-hop -t geo-compose -n 60 --json",
        ),
        cases=choose_cases(everything),
        sources=[EpisodeSource(name, own) for name, own in everything.items()],
    )


def sample_with_noise(n: int = 60) -> ReportData:
    """The sample, and both agents once more with disturbed tools on one task."""
    clean, task, noise = sample(n), "geo-hop", "none=0.5"
    twins = {
        name: f"{name}, noise {noise}" for name in (BASE, TUNED)
    }  # fmt: skip
    episodes = {name: _episodes(task, name, n, share / 2) for name, share in zip(twins, RIGHT[task], strict=True)}
    results = dict(clean.results[task])
    results |= {twins[name]: summarise_trajectories(found) for name, found in episodes.items()}
    before = {source.name: [one for one in source.trajectories if one.task == task] for source in clean.sources}
    return replace(
        clean,
        agents=(
            *clean.agents,
            *(ReportAgent(twins[name], f"tools under noise: {noise}", model=name, noise=noise) for name in twins),
        ),
        results={**clean.results, task: results},
        robustness={task: {twins[name]: compare_scores(before[name], found) for name, found in episodes.items()}},
        sources=[*clean.sources, *(EpisodeSource(twins[name], found) for name, found in episodes.items())],
    )


def _episodes(task: str, agent: str, n: int, share: float) -> list[Trajectory]:
    draw = random.Random(f"{task}/{agent}")
    return [_episode(task, agent, index, right=draw.random() < share, draw=draw) for index in range(n)]


def _episode(task: str, agent: str, index: int, *, right: bool, draw: random.Random) -> Trajectory:
    question, answer = EXAMPLES[task]
    lost = agent == BASE and not right and draw.random() < 0.55
    steps = _lost_steps(index) if lost else _steps(task, answer if right else "I do not know <b>", draw)
    stop: Stop = "finish" if not lost else "format" if index % 2 else "max_steps"
    scores = {"em": float(right), "f1": 1.0 if right else 0.4 * (index % 5 == 0)}
    prompt = 2100 if agent == BASE else 560
    usage = Usage(len(steps), prompt + 190 * len(steps), prompt // 2, 41 * len(steps))
    example = Example(f"test-{index:03}", question, answer)
    return Trajectory(task, example, "react", agent, 0, steps, stop, scores, usage, round(draw.uniform(3, 14), 2))


def _steps(task: str, answer: str, draw: random.Random) -> tuple[Step, ...]:
    letter = draw.choice("abc")
    first = Step(
        thought="I need to find the country first. The question describes it by what an article should say.",
        action=Action("search", {"query": f"country of {task} ĀŽ日本 {letter}"}),
        observation=LONG * 2 + "مرحبا بالعالم",
        text="",
    )
    second = Step(
        "That gives me the country: Lithuania. Now I can look up the rest.",
        Action("search", {"query": "`it` a|b"}),
        HOSTILE,
        "",
        noise={"a": "none", "b": "random"}.get(letter),
    )
    last = Step("Both values are there, so I can answer.", Action("finish", {"answer": answer}), None, "")
    return first, second, last


def _lost_steps(index: int) -> tuple[Step, ...]:
    if index % 2:
        return (Step("", None, None, "The country is Lithuania.\nThe country is Lithuania.\nThe country is"),)
    return (Step("I search.", Action("search", {"query": "Lithuania"}), LONG, ""),) * 3


def _training_row(step: int) -> dict[str, float]:
    noise = random.Random(step).uniform(-0.12, 0.12)
    rate = 2e-3 * (step / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * (step - 4) / 40)))
    return {
        "step": step,
        "loss": round(2.4 * math.exp(-step / 7) + 0.28 + noise * math.exp(-step / 30), 4),
        "learning_rate": rate,
    }


def _mixture() -> Mixture:
    counts: Sequence[tuple[str, int, int, int]] = [
        ("geo-hop/react", 96, 94, 82), ("geo-hop/cot", 16, 16, 11), ("geo-hop/reflexion", 16, 16, 14),
        ("geo-yesno/react", 24, 24, 21), ("geo-yesno/cot", 8, 8, 6),
        ("geo-choice/react", 24, 24, 20), ("geo-choice/cot", 8, 8, 5),
    ]  # fmt: skip
    return Mixture(
        name="mix",
        teacher="scripted:expert",
        collected={name: EpisodeCounts(n, finished, correct) for name, n, finished, correct in counts},
        mixed={name: EpisodeCounts(correct, correct, correct) for name, _, _, correct in counts},
        history=("runs/quickstart/collect: 192", "where correct: 192 -> 159", "take 159, seed 0: 159 -> 159"),
    )
