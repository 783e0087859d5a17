"""The names of roles in the dialects of endpoints and files, as the four roles of a message."""

from __future__ import annotations

from typing import Any

from fireact.types import Role

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
ENDPOINT_ROLES: dict[str, Role] = {**ROLES, "developer": "system", "function": "tool"}
"""The roles of chat completions, with those of its older and newer versions."""
CALL_ROLES = frozenset(("function_call", "tool_call", "tool_calls", "tool_caller", "tool_use"))
"""Roles of an assistant's message whose content is its calls."""
_NAMES: dict[Role, tuple[str, ...]] = {
    "system": ("system", "developer", "system_prompt", "system_instruction"),
    "user": ("user", "human", "prompter", "customer", "client"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "agent", "ai", "llm", *CALL_ROLES),
    "tool": (
        "tool", "function", "observation", "ipython", "environment", "code_interpreter",
        *(f"{kind}_{noun}" for kind in ("tool", "function") for noun in ("response", "result", "results", "output")),
        "tool_responses", "tool_outputs", "function_call_output", "tool_call_response",
    ),
}  # fmt: skip
_ROLE_BY_NAME: dict[str, Role] = {name: role for role, names in _NAMES.items() for name in names}


def find_role(name: Any) -> Role | None:
    """The role for a name of any dialect, in any letter case; None for an unknown name.

    LangChain's classes (``HumanMessage``, ``AIMessageChunk``) are names too.
    """
    return _ROLE_BY_NAME.get(_fold_name(name))


def normalise_role(name: Any) -> Role:
    """The role for a name of any dialect; unknown names count as user."""
    return find_role(name) or "user"


def is_call_role(name: Any) -> bool:
    """Whether the content of a message of this role is calls."""
    return _fold_name(name) in CALL_ROLES


def _fold_name(name: Any) -> str:
    folded = str(name).strip().casefold().replace("-", "_").replace(" ", "_")
    return folded.removesuffix("chunk").removesuffix("message").removesuffix("_") or folded
