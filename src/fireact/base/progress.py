"""The progress of long work; the default shows nothing.

Verbs report to it, the command line draws it. It never decides anything.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


class Progress:
    """Receives the progress of one stage at a time; subclass to draw it."""

    def start(self, stage: str, *, total: int, done: int = 0) -> None:
        """A stage of ``total`` units of work begins; an earlier run finished ``done`` of them."""

    def advance(self, note: str = "") -> None:
        """One more unit is done; ``note`` is a short text about the state."""

    def end(self) -> None:
        """The stage is over, finished or not."""

    def sample(self, spans: Sequence[tuple[str, bool]]) -> None:
        """One training sample to look at: spans of text, each with whether it is trained on."""

    def say(self, line: str) -> None:
        """A line for the user to read."""


class LineProgress(Progress):
    """Prints plain lines on standard error, for a process whose output another program reads."""

    def start(self, stage: str, *, total: int, done: int = 0) -> None:
        self._stage, self._total, self._done = stage, total, done

    def advance(self, note: str = "") -> None:
        self._done += 1
        if self._done == self._total or self._done % max(1, self._total // 20) == 0:
            self.say(f"{self._stage}: {self._done} of {self._total}{f', {note}' if note else ''}")

    def sample(self, spans: Sequence[tuple[str, bool]]) -> None:
        text = "".join(f"\u27e6{text}\u27e7" if trained else text for text, trained in spans)
        self.say(f"A sample; what stands in \u27e6 \u27e7 is trained on:\n{text}")

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


SILENT = Progress()
