"""Actions as Python code in the text of a reply: how a prompt asks for them, and how one is written.

    <code>...</code>         smolagents' CodeAgent
    ```python ... ```        the same with Markdown's marks

The answer is given by a call of ``final_answer`` in the code. Invariant: this module runs no code and parses none.
"""

from __future__ import annotations

from collections.abc import Collection

CODE_ENDS = ("</code>", "<end_code>", "```<end_code>")
"""Stop strings that show that an agent acts in code."""


def asks_for_code(system: str, stop: Collection[str]) -> bool:
    """Whether the agent with this system prompt and these stop strings acts in code."""
    return any(end in CODE_ENDS for end in stop) or "final_answer(" in system


def write_code_action(code: str, system: str) -> str:
    """Code with the marks that the system prompt names."""
    return f"<code>\n{code}\n</code>" if "<code>" in system else f"```python\n{code}\n```"
