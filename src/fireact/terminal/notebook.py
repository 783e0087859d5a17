"""Progress in a notebook: one bar with a note under the cell, and lines to read below it.

It needs nothing but the notebook: a bar is HTML that is replaced in place, at most a few times a second.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from collections.abc import Sequence
from html import escape
from typing import Any

from fireact.base.controls import strip_controls
from fireact.base.progress import SILENT, Progress
from fireact.terminal.screen import STDERR, TerminalProgress

SECONDS = 0.2
"""Least time between two pictures of a bar."""
MARKED = "background: #d9f2dd; color: #10331a"
"""The style of trained text, legible on light and dark pages."""


class NotebookProgress(Progress):
    """Draws each stage as a bar in the output of a notebook's cell."""

    def __init__(self, display: Any = None) -> None:
        self._display = display or importlib.import_module("IPython.display")
        self._picture: Any = None
        self._stage, self._note, self._total, self._done = "", "", 0, 0
        self._before, self._started, self._drawn = 0, 0.0, 0.0

    def start(self, stage: str, *, total: int, done: int = 0) -> None:
        self._stage, self._note, self._total, self._done, self._before = stage, "", total, done, done
        self._started = self._drawn = time.monotonic()
        self._picture = self._display.display(self._draw(), display_id=True)

    def advance(self, note: str = "") -> None:
        self._done, self._note = self._done + 1, note
        now = time.monotonic()
        if self._picture is not None and now - self._drawn >= SECONDS:
            self._drawn = now
            self._picture.update(self._draw())

    def end(self) -> None:
        if self._picture is not None:
            self._picture.update(self._draw())
            self._picture = None

    def sample(self, spans: Sequence[tuple[str, bool]]) -> None:
        self._display.display(self._display.HTML(write_marked_text("A sample", spans)))

    def say(self, line: str) -> None:
        print(strip_controls(line))

    def _draw(self) -> Any:
        seconds = time.monotonic() - self._started
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        left = f"{(self._total - self._done) / rate:,.0f} s left" if rate and self._done < self._total else ""
        words = escape(
            ", ".join(filter(None, [f"{self._done} of {self._total}", f"{seconds:,.0f} s", left, self._note]))
        )
        bar = f'<progress value="{self._done}" max="{max(1, self._total)}"></progress>'
        return self._display.HTML(f"<div>{escape(self._stage)} {bar} {words}</div>")


def write_marked_text(heading: str, spans: Sequence[tuple[str, bool]]) -> str:
    """HTML of a training sample in which the trained text is marked."""
    texts = (f'<span style="{MARKED}">{escape(text)}</span>' if trained else escape(text) for text, trained in spans)
    legend = f'{escape(heading)}; <span style="{MARKED}">marked text</span> is trained on:'
    return f'<div>{legend}</div><div style="white-space: pre-wrap; text-align: left">{"".join(texts)}</div>'


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return hasattr(shell, "kernel")


def choose_progress() -> Progress:
    """The progress for a person who looks on: a bar in a notebook or a terminal; elsewhere nothing is shown."""
    if is_notebook():
        # a notebook without ipywidgets works; tqdm, which our libraries import, warns of it
        warnings.filterwarnings("ignore", message="IProgress not found")
        return NotebookProgress()
    return TerminalProgress() if STDERR.is_terminal else SILENT
