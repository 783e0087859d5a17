"""Prints steps and whole trajectories."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from fireact.render.react import OBSERVATION, render_call
from fireact.terminal.screen import STDOUT
from fireact.types import Step, Trajectory


def print_step(step: Step) -> None:
    """Print one step: thought, action and observation in different colours."""
    if step.action is None:
        STDOUT.print(escape(step.text.strip()), style="red")
    else:
        if step.thought:
            STDOUT.print(f"[cyan]Thought:[/] {escape(step.thought)}")
        STDOUT.print(f"[bold green]Action:[/] {escape(render_call(step.action))}")
    if step.observation is not None:
        STDOUT.print(f"[dim]Observation: {escape(step.observation)}[/]")


class StreamPrinter:
    """Prints an episode chunk by chunk, as it streams; thought, action and observation have different colours."""

    labels: Mapping[str, str] = {"Thought:": "cyan", "Action:": "bold green", OBSERVATION: "dim"}

    def __init__(self, console: Console = STDOUT) -> None:
        self._console = console
        self._pending, self._style, self._within = "", "", False

    def __call__(self, delta: str) -> None:
        for line in re.findall(r"[^\n]*\n|[^\n]+", delta):
            self._pending += line
            if self._within or not self._may_become_a_label():
                self._print()
                self._within = not line.endswith("\n")

    def _may_become_a_label(self) -> bool:
        return any(label != self._pending and label.startswith(self._pending) for label in self.labels)

    def _print(self) -> None:
        label = next(
            (candidate for candidate in self.labels if not self._within and self._pending.startswith(candidate)), ""
        )
        if label:
            self._console.out(label, style=self.labels[label], end="")
            self._style = self.labels[label] if label == OBSERVATION else ""
        self._console.out(self._pending.removeprefix(label), style=self._style, end="")
        self._pending = ""


def print_trajectory(trajectory: Trajectory) -> None:
    """Print a whole episode: the question, each step, and how it ended."""
    STDOUT.rule(escape(f"{trajectory.key}  {trajectory.model}"), align="left")
    STDOUT.print(f"[bold]Question:[/] {escape(trajectory.example.question)}")
    for step in trajectory.steps:
        print_step(step)
    scores = ", ".join(f"{name} {value:.2f}" for name, value in trajectory.scores.items()) or "not scored"
    STDOUT.print(
        f"[bold]Ended:[/] {trajectory.stop}, {scores}"
        + (f"; gold answer: {escape(trajectory.example.answer)}" if trajectory.example.answer else "")
        + (f"; fault: {escape(trajectory.error)}" if trajectory.error else "")
    )
