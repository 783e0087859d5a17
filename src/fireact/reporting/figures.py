"""Which plots a report has, and what each shows: results, scaling, cost against accuracy, training.

Invariant: a plot without data is absent. Every plot says in words what it shows, and an agent has the same colour in
all plots. ``plots`` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fireact.evaluation.measures import Measures
from fireact.evaluation.statistics import Estimate
from fireact.reporting.plots import (
    Bar,
    LossCurve,
    Plot,
    Point,
    draw_bars,
    draw_lines,
    draw_losses,
    draw_points,
    mean_share,
)
from fireact.reporting.report_data import ReportAgent, ReportData
from fireact.reporting.summary import model_names
from fireact.reporting.wording import display_name, number, percent


def build_plots(report: ReportData) -> list[Plot]:
    """The plots of a report, in the order in which it shows them."""
    plots = (
        plot_results(report),
        plot_scaling(report),
        plot_costs(report),
        plot_training(report),
    )
    return [plot for plot in plots if plot is not None]


def plot_results(report: ReportData) -> Plot | None:
    """Exact match of each run on each task: a bar with its 95 % interval, hatched where the tools were disturbed."""
    models = model_names(report)
    agents = sorted(report.agents, key=lambda agent: models.index(agent.model))
    groups = {
        task: [_bar(report, agent, by_agent[agent.name].measures) for agent in agents if agent.name in by_agent]
        for task, by_agent in report.results.items()
    }
    if not groups:
        return None
    noise = " A hatched bar is the same agent with disturbed tools." if any(agent.noise for agent in agents) else ""
    return Plot(
        "results",
        "Exact match",
        f"Exact match with 95% intervals. {_describe_bars(groups)}",
        f"Share of questions answered exactly right; the line is the 95% interval.{noise}",
        lambda palette: draw_bars(groups, palette),
    )


def _bar(report: ReportData, agent: ReportAgent, measures: Measures) -> Bar:
    series = model_names(report).index(agent.model)
    return Bar(report.labels[agent.name], measures.em, series, is_noisy=bool(agent.noise))


def _describe_bars(groups: Mapping[str, Sequence[Bar]]) -> str:
    """The bars in words, for readers who cannot see the plot."""
    return " ".join(
        f"{task}: {', '.join(f'{bar.label} {percent(bar.share.mean)}' for bar in bars)}."
        for task, bars in groups.items()
    )


def plot_scaling(report: ReportData) -> Plot | None:
    """Exact match by the number of trajectories that the student learned from, where several numbers were tried.

    Students that differ only in this number and their seed form a line through the means over the seeds.
    """
    lines = _scaling_lines(report)
    if not lines:
        return None
    words = " ".join(
        f"{label}: " + ", ".join(f"{size} {percent(mean_share(students))}" for size, students in line.items()) + "."
        for label, line in lines.items()
    )
    return Plot(
        "scaling",
        "Scaling",
        f"Exact match by trajectories. {words}",
        "Exact match by the number of trajectories that the student was trained on. One student has its 95% interval; "
        "of several that differ in their seed, the line is the mean and the faint points are the students.",
        lambda palette: draw_lines(lines, palette, labels=("trajectories trained on", "exact match")),
    )


def _scaling_lines(report: ReportData) -> dict[str, dict[float, list[Estimate]]]:
    """Label of a line -> number of trajectories -> EM of the students; only lines with several numbers."""
    by_line: dict[tuple[str, str], dict[float, list[Estimate]]] = {}
    for task, agents in _measured_without_noise(report).items():
        for agent, measures in sorted(agents, key=lambda pair: pair[0].trajectories or 0):
            if agent.trajectories:
                by_size = by_line.setdefault((task, agent.line), {})
                by_size.setdefault(agent.trajectories, []).append(measures.em)
    several = {key: line for key, line in by_line.items() if len(line) > 1}
    single_line = len({line for _, line in several}) < 2
    return {
        task if single_line or not line else f"{task}, {display_name(line)}": sizes
        for (task, line), sizes in several.items()
    }


def plot_costs(report: ReportData) -> Plot | None:
    """Exact match against the cost of a question: in dollars where any agent cost money, else in tokens."""
    measured = _measured_without_noise(report)
    all_measures = [measures for agents in measured.values() for _, measures in agents]
    agent_names = {agent.name for agent in report.agents if agent.noise == report.agents[0].noise}
    if len(agent_names) < 2 or len(all_measures) < 2:
        return None
    costs = [measures.cost_per_question for measures in all_measures]
    is_paid = all(costs) and any(cost.mean for cost in costs if cost)  # every price is known, and not all are 0
    key, unit = ("cost_per_question", "US dollars") if is_paid else ("tokens_per_question", "tokens")
    points = [
        Point(report.labels[agent.name], task, amount.mean, measures.em, model_names(report).index(agent.model))
        for task, agents in measured.items()
        for agent, measures in agents
        if (amount := measures.get(key)) is not None
    ]
    if len(points) < len(all_measures):  # episodes of a file do not always record it
        return None
    words = " ".join(
        f"{task}: "
        + ", ".join(f"{point.label} {number(point.amount)} {unit}" for point in points if point.group == task)
        + "."
        for task in measured
    )
    return Plot(
        "cost",
        "Cost and accuracy",
        f"Exact match by {unit} a question. {words}",
        f"Exact match against {unit} a question, with 95% intervals; up and to the left is better.",
        lambda palette: draw_points(points, palette, unit=unit),
    )


def plot_training(report: ReportData) -> Plot | None:
    """Loss and learning rate by optimizer step, or None where nothing was trained."""
    logs = {name: rows for name, rows in report.training.items() if rows}
    if not logs:
        return None
    first_series = len(model_names(report)) - 1 if len(logs) == 1 else 0
    curves = [_loss_curve(name, first_series + index, rows) for index, (name, rows) in enumerate(logs.items())]
    words = " ".join(
        f"The training loss{f' of {curve.name}' if len(curves) > 1 else ''} goes from {curve.losses[0]:.2f} to "
        f"{curve.smooth[-1]:.2f} in {len(curve.losses)} steps."
        for curve in curves
    )
    return Plot(
        "training",
        "Training",
        words,
        "Loss on the tokens that the student learns, one point per optimizer step; the bold line is the running mean.",
        lambda palette: draw_losses(curves, palette),
    )


def _loss_curve(name: str, series: int, rows: Sequence[Mapping[str, Any]]) -> LossCurve:
    """The curve of a training log, whose rows may lack a column."""
    steps, losses, rates = (
        [row[column] for row in rows if row.get(column) is not None] for column in ("step", "loss", "learning_rate")
    )
    smooth = running_mean(losses, window=len(losses) // 10)
    return LossCurve(name, series, steps, losses, smooth, rates if len(rates) == len(rows) else ())


def running_mean(values: Sequence[float], *, window: int) -> list[float]:
    """The mean of each value and its neighbours, up to half a window before and after it."""
    reach = window // 2
    spans = [values[max(0, index - reach) : index + reach + 1] for index in range(len(values))]
    return [sum(span) / len(span) for span in spans]


def _measured_without_noise(report: ReportData) -> dict[str, list[tuple[ReportAgent, Measures]]]:
    """Task -> the agents under the noise of the first one that were measured on it, and their measures."""
    agents = [agent for agent in report.agents if agent.noise == report.agents[0].noise]
    by_task = {
        task: [(agent, by_agent[agent.name].measures) for agent in agents if agent.name in by_agent]
        for task, by_agent in report.results.items()
    }
    return {task: measured for task, measured in by_task.items() if measured}
