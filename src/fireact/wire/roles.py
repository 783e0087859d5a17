"""The names of roles in the dialects of endpoints and files, as the four roles of a message."""

from __future__ import annotations

from typing import Any

from fireact.types import Role

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
ENDPOINT_ROLES: dict[str, Role] = {**ROLES, "developer": "system", "function": "tool"}
"""The roles of chat completions, with those of its older and newer versions."""
_FILE_ROLES: dict[str, Role] = {
    **ENDPOINT_ROLES,
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "agent": "assistant", "function_call": "assistant",
    "observation": "tool", "tool_response": "tool", "ipython": "tool", "tool-response": "tool",
}  # fmt: skip


def normalise_role(name: Any) -> Role:
    """The role for a name of any dialect: system, user, assistant or tool; unknown names count as user."""
    return _FILE_ROLES.get(str(name), "user")
