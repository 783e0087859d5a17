"""What every command writes with: progress bars on standard error, one line for an error, tables."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.table import Table

from fireact.controls import with_controls_escaped, without_controls
from fireact.progress import Progress


class Screen(Console):
    """A console to which no text gives orders: control characters of models, tools and files are left out of what is drawn."""

    def render(self, *given: Any, **options: Any) -> Iterator[Segment]:
        for segment in super().render(*given, **options):
            yield segment if segment.control else segment._replace(text=without_controls(segment.text))


NOTES = Screen(stderr=True, highlight=False)

RESULT = Screen(highlight=False)


class Terminal(Progress):
    """Draws each stage as a bar with the time that is left; without a terminal, as a line now and then."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._bar = TaskID(0)
        self._stage, self._total, self._done = "", 0, 0
        self._before, self._started = 0, time.monotonic()

    def start(self, stage: str, *, total: int, done: int = 0) -> None:
        self._stage, self._total, self._done = stage, total, done
        self._before, self._started = done, time.monotonic()
        if done:
            self.say(f"{stage}: going on, {done} of {total} are there already")
        if not NOTES.is_terminal:
            return
        self._bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=NOTES,
        )
        self._bars.start()
        self._bar = self._bars.add_task(stage, total=total, completed=done, note="")

    def advance(self, note: str = "") -> None:
        self._done += 1
        rate = (self._done - self._before) / max(1e-9, time.monotonic() - self._started)
        words = ", ".join(filter(None, [f"{rate:,.1f}/s" if rate >= 1 else f"{60 * rate:,.1f}/min", note]))
        if self._bars is not None:
            self._bars.update(self._bar, advance=1, note=escape(words))
        elif self._done == self._total or self._done % max(1, self._total // 5) == 0:
            self.say(f"{self._stage}: {self._done} of {self._total}, {words}")

    def end(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def sample(self, spans: Sequence[tuple[str, bool]]) -> None:
        """The trained words in green, the others dim."""
        NOTES.print("A sample; [bold green]green is trained on[/], the rest is only read:", highlight=False)
        NOTES.print(marked(spans, NOTES))

    def say(self, line: str) -> None:
        NOTES.print(escape(line))


def read_line(prompt: str) -> str:
    """A line that the user types; empty at the end of the input."""
    try:
        return NOTES.input(prompt).strip()
    except EOFError:
        return ""


def marked(spans: Sequence[tuple[str, bool]], console: Console) -> str:
    if console.color_system is None:  # no colours: the trained words stand in double brackets
        return "".join(f"⟦{escape(text)}⟧" if trained else escape(text) for text, trained in spans)
    return "".join(f"[{'bold green' if trained else 'dim'}]{escape(text)}[/]" for text, trained in spans)


def complain(message: str) -> None:
    """One line that says what was wrong and what to do."""
    print(f"fireact: {without_controls(message)}", file=sys.stderr)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """A value for other programs, on standard output."""
    print(with_controls_escaped(json.dumps(value, indent=indent, ensure_ascii=False)))


def wait_for_the_end() -> None:
    """Return at the first Ctrl-C or SIGTERM; a second one interrupts what is done then."""
    ended = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    for one in signals:
        signal.signal(one, lambda *_: ended.set())
    try:
        ended.wait()
    finally:
        for one in signals:
            signal.signal(one, signal.default_int_handler)


def new_table(first: str, *columns: str, title: str = "") -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=title or None,
        title_justify="left",
        title_style="bold",
    )
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def percent(mean: float, interval: Sequence[float]) -> str:
    return f"{mean:.1%} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"
