"""Output that all commands share: progress bars on standard error, one line for an error, tables, JSON."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.segment import Segment

from fireact.base.controls import escape_controls, strip_controls
from fireact.base.progress import Progress
from fireact.base.redact import hide_secrets
from fireact.reporting.table import Table, fit_to_terminal


class Screen(Console):
    """A console that drops control characters, so that text of models, tools and files cannot control the terminal."""

    def render(self, *args: Any, **options: Any) -> Iterator[Segment]:
        for segment in super().render(*args, **options):
            yield segment if segment.control else segment._replace(text=strip_controls(segment.text))


STDERR = Screen(stderr=True, highlight=False)

STDOUT = Screen(highlight=False)


class TerminalProgress(Progress):
    """Shows each stage as a bar with the remaining time; without a terminal, as a few lines."""

    is_quiet = False
    """Whether nothing is shown, in the whole process."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._bar = TaskID(0)
        self._stage, self._total, self._done = "", 0, 0
        self._before, self._started = 0, time.monotonic()

    def start(self, stage: str, *, total: int, done: int = 0) -> None:
        self._stage, self._total, self._done = stage, total, done
        self._before, self._started = done, time.monotonic()
        if done:
            self.say(f"{stage}: resumed, {done} of {total} are already done")
        if self.is_quiet or not STDERR.is_terminal:
            return
        self._bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=STDERR,
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
        """Show a sample: the trained text in green, the rest dim."""
        if self.is_quiet:
            return
        STDERR.print("A sample; [bold green]green is trained on[/], the rest is only read:", highlight=False)
        STDERR.print(mark_trained_text(spans, STDERR))

    def say(self, line: str) -> None:
        if not self.is_quiet:
            STDERR.print(escape(line))


def read_line(prompt: str) -> str:
    """Read a line from the user; empty at the end of the input."""
    try:
        return STDERR.input(prompt).strip()
    except EOFError:
        return ""


def mark_trained_text(spans: Sequence[tuple[str, bool]], console: Console) -> str:
    if console.color_system is None:  # no colours: the trained text is in double brackets
        return "".join(f"⟦{escape(text)}⟧" if trained else escape(text) for text, trained in spans)
    return "".join(f"[{'bold green' if trained else 'dim'}]{escape(text)}[/]" for text, trained in spans)


def print_error(message: str) -> None:
    """Print one line that says what was wrong and what to do."""
    print(f"fireact: {strip_controls(hide_secrets(message))}", file=sys.stderr)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value for other programs, on standard output."""
    print(escape_controls(json.dumps(value, indent=indent, ensure_ascii=False)))


def wait_for_signal(on_ready: Callable[[], None] = lambda: None) -> None:
    """Return at the first Ctrl-C or SIGTERM after ``on_ready``; a second one interrupts whatever runs then."""
    arrived: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    for signal_number in signals:
        signal.signal(signal_number, lambda number, frame: arrived.append(number))
    try:
        on_ready()
        while not arrived:  # the system may give a signal to another thread, which wakes no lock of this one
            time.sleep(0.1)
    finally:
        for signal_number in signals:
            signal.signal(signal_number, signal.default_int_handler)


def print_table(table: Table) -> None:
    """Print a table with its notes, in a form that fits the terminal."""
    rich_table, left_out = fit_to_terminal(table, STDOUT)
    STDOUT.print(rich_table)
    for note in table.notes:
        STDOUT.print(escape(note))
    if left_out:
        STDOUT.print(escape(f"Too wide for this terminal: {', '.join(left_out)}."))
