"""A tool around another tool, which changes calls and leaves all else as it is.

Invariant: the optional members of a tool (``Tool`` lists them) are those of the inner tool, unless a subclass defines
them. So a new optional member is known to each wrapper at once.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import Any, Self

from fireact.types import Tool


class ToolWrapper:
    """Forwards calls and members to ``tool``; a subclass overrides ``__call__``."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.name, self.description, self.parameters = tool.name, tool.description, tool.parameters

    @cached_property
    def fingerprint(self) -> str:
        """Identifies all that the answers depend on; "" where the tool does not say it."""
        return str(getattr(self.tool, "fingerprint", ""))

    @cached_property
    def stateful(self) -> bool:
        """Whether the answers depend on earlier calls of the episode."""
        return bool(getattr(self.tool, "stateful", hasattr(self.tool, "for_episode")))

    def for_episode(self, key: str, seed: int) -> Tool:
        """The same wrapper around the tool of one episode; itself where all episodes share the tool."""
        episode_tool = make_episode_tool(self.tool, key, seed)
        return self if episode_tool is self.tool else self.wrap_again(episode_tool)

    def wrap_again(self, tool: Tool) -> Self:
        """A copy of the wrapper around another tool."""
        wrapper = copy(self)
        wrapper.tool = tool
        return wrapper

    def __call__(self, **arguments: Any) -> str:
        return self.tool(**arguments)

    def __getattr__(self, name: str) -> Any:
        """Any other member: ``sample_queries``, ``keeps_time``, ``close`` or one of the user's own."""
        if name.startswith("_") or name == "tool":  # a copy has no inner tool yet
            raise AttributeError(name)
        return getattr(self.tool, name)


def make_episode_tool(tool: Tool, key: str, seed: int) -> Tool:
    """The tool of one episode (``key`` names its task and question): the tool itself, unless it makes one for each."""
    make = getattr(tool, "for_episode", None)
    episode_tool: Tool = tool if make is None else make(key, seed)
    return episode_tool
