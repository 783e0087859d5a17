"""What long work tells whoever watches; the default watches nothing.

Verbs call it, the command line draws it. It never decides anything.
"""

from __future__ import annotations

from collections.abc import Sequence


class Progress:
    """Receives the progress of one stage at a time; subclass to draw it."""

    def start(self, stage: str, *, total: int, done: int = 0) -> None:
        """A stage of ``total`` pieces begins, ``done`` of them finished by an earlier run."""

    def advance(self, note: str = "") -> None:
        """One more piece is done; ``note`` is a few words on how it stands."""

    def end(self) -> None:
        """The stage is over, finished or not."""

    def sample(self, spans: Sequence[tuple[str, bool]]) -> None:
        """One training sample to look at: pieces of text, each with whether it is trained on."""

    def say(self, line: str) -> None:
        """A line for the user to read."""


SILENT = Progress()
