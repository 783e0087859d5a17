"""Limits around a tool: how long a call may take, how much an observation may hold, and what is the agent's own error.

    ToolError                     the tool cannot do what it was asked and says why: the message is the observation
    any other exception           a fault of the tool: it ends the episode with the stop ``error``, which is never scored
    longer than ``seconds``       a fault as well (TimeoutError); the call is left behind on a thread of its own
    more than ``max_chars``       the observation is cut, with a note of how many characters were left out

Invariant: what comes back is text of at most ``max_chars`` characters and the note. A wrong argument or a page that is not
there is what the agent did and may learn from; a server that is down is not, and must not count as a wrong answer.
Nothing is tried again here: tools that reach over a network do that themselves.
"""

from __future__ import annotations

import contextvars
import threading
from typing import Any

from fireact.errors import ToolError
from fireact.types import Observation, Tool

SECONDS = 30.0
MAX_CHARS = 4000


class Guarded:
    """A tool within limits; everything else about it is the tool's own."""

    def __init__(self, tool: Tool, seconds: float, max_chars: int) -> None:
        self.tool, self.seconds, self.max_chars = tool, seconds, max_chars
        self.name, self.description, self.parameters = tool.name, tool.description, tool.parameters

    @property
    def fingerprint(self) -> str:
        """The tool's own; limits are part of it only where they are not the usual ones."""
        own = str(getattr(self.tool, "fingerprint", ""))
        usual = (self.seconds, self.max_chars) == (SECONDS, MAX_CHARS)
        return own if usual or not own else f"{own} {self.seconds:g}s {self.max_chars} characters"

    @property
    def stateful(self) -> bool:
        """Whether the tool keeps a state in each episode."""
        return hasattr(self.tool, "for_episode")

    def __getattr__(self, name: str) -> Any:
        """Whatever else the tool has, such as queries that noise draws from."""
        if name.startswith("_") or name == "tool":
            raise AttributeError(name)
        return getattr(self.tool, name)

    def for_episode(self, key: str, seed: int) -> Tool:
        """The tool of one episode within the same limits."""
        own = getattr(self.tool, "for_episode", None)
        return self if own is None else Guarded(own(key, seed), self.seconds, self.max_chars)

    def __call__(self, **arguments: Any) -> str:
        """The observation. Raises what the tool raises, except ToolError, and TimeoutError."""
        try:
            # A tool that bounds its calls by itself is spared the thread.
            said = self.tool(**arguments) if getattr(self.tool, "keeps_time", False) else self._timed(arguments)
        except ToolError as error:
            said = str(error)
        return self._cut(said if isinstance(said, str) else str(said))

    def _cut(self, said: str) -> str:
        left = len(said) - self.max_chars
        if left <= 0:
            return said
        return Observation(
            f"{said[: self.max_chars]} [cut: {left} more characters were left out]", getattr(said, "noise", None)
        )

    def _timed(self, arguments: dict[str, Any]) -> str:
        outcome: list[Any] = []

        def call() -> None:
            try:
                outcome.extend((True, self.tool(**arguments)))
            except BaseException as error:  # handed to the thread that waits
                outcome.extend((False, error))

        thread = threading.Thread(target=contextvars.copy_context().run, args=(call,), daemon=True)
        thread.start()
        thread.join(self.seconds)
        if not outcome:
            raise TimeoutError(f"the tool {self.name} took longer than {self.seconds:g} s")
        fine, result = outcome
        if fine:
            return result  # type: ignore[no-any-return]
        raise result


def guarded(tool: Tool, *, seconds: float = SECONDS, max_chars: int = MAX_CHARS) -> Guarded:
    """The tool within limits; one that is guarded already gets the new limits instead."""
    return Guarded(tool.tool if isinstance(tool, Guarded) else tool, seconds, max_chars)
