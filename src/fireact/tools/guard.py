"""Limits around a tool: the time of a call, the length of an observation, and which errors the agent sees.

    ToolError                     the tool refuses the call and says why: the message is the observation
    any other exception           a fault of the tool: it ends the episode with stop ``error``, which is never scored
    longer than ``seconds``       also a fault (TimeoutError); the call is left running on its own thread
    more than ``max_chars``       the observation is cut, with a note of how many characters were left out

Invariant: an observation is text of at most ``max_chars`` characters and the note, unless the tool limits
that itself. A wrong argument or a missing page is the agent's own error, from which it may learn. A server that is down
is not, and must not count as a wrong answer. Nothing is retried here: tools that use a network do that themselves.
"""

from __future__ import annotations

import contextvars
import threading
from functools import cached_property
from typing import Any

from fireact.errors import ToolError
from fireact.tools.result import render_result
from fireact.tools.wrapper import ToolWrapper
from fireact.types import Observation, Tool

SECONDS = 30.0
MAX_CHARS = 4000


class GuardedTool(ToolWrapper):
    """A tool within limits."""

    def __init__(self, tool: Tool, seconds: float, max_chars: int) -> None:
        super().__init__(tool)
        self.seconds, self.max_chars = seconds, max_chars

    @cached_property
    def fingerprint(self) -> str:
        """The tool's fingerprint; limits are part of it only where they are not the usual ones."""
        tool_fingerprint = str(getattr(self.tool, "fingerprint", ""))
        has_usual_limits = (self.seconds, self.max_chars) == (SECONDS, MAX_CHARS)
        return (
            tool_fingerprint
            if has_usual_limits or not tool_fingerprint
            else f"{tool_fingerprint} {self.seconds:g}s {self.max_chars} characters"
        )

    def __call__(self, **arguments: Any) -> str:
        """The observation. Raises what the tool raises, except ToolError, and TimeoutError."""
        try:
            # A tool that limits its own calls needs no thread.
            keeps_time = getattr(self.tool, "keeps_time", False)
            return self._truncate(self._call(arguments) if keeps_time else self._call_in_time(arguments))
        except ToolError as error:
            return self._truncate(str(error))

    def _call(self, arguments: dict[str, Any]) -> str:
        return render_result(self.name, self.tool(**arguments))

    def _truncate(self, observation: str) -> str:
        excess = len(observation) - self.max_chars
        if excess <= 0 or getattr(self.tool, "keeps_length", False):
            return observation
        return Observation(
            f"{observation[: self.max_chars]} [cut: {excess} more characters were left out]",
            getattr(observation, "noise", None),
        )

    def _call_in_time(self, arguments: dict[str, Any]) -> str:
        outcome: list[Any] = []

        def call() -> None:
            try:
                outcome.extend((True, self._call(arguments)))
            except BaseException as error:  # handed to the thread that waits
                outcome.extend((False, error))

        thread = threading.Thread(target=contextvars.copy_context().run, args=(call,), daemon=True)
        thread.start()
        thread.join(self.seconds)
        if not outcome:
            raise TimeoutError(f"the tool {self.name} took longer than {self.seconds:g} s")
        succeeded, result = outcome
        if succeeded:
            return result  # type: ignore[no-any-return]
        raise result


def guard_tool(tool: Tool, *, seconds: float = SECONDS, max_chars: int = MAX_CHARS) -> GuardedTool:
    """The tool within limits; a guarded tool gets the new limits in place of the old."""
    return GuardedTool(tool.tool if isinstance(tool, GuardedTool) else tool, seconds, max_chars)
