"""Actions that agents write as text, each framework in its own way, read into steps.

    Action: search[query]                          ReAct
    Action: search  /  Action Input: query         LangChain; it ends in Final Answer: ...
    Action: {"name": ..., "arguments": {...}}      smolagents without native calls
    <tool_call>{"name": ..., ...}</tool_call>      Hermes, Qwen
    <code>...</code>, ```python                    smolagents' CodeAgent: the action ``python_interpreter``

Invariant: total; the words are kept verbatim in ``Step.text``; code is parsed for its final answer, never run.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from fireact.recording.wire import parsed, sound
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.types import FINISH, Action, Completion, Step, Usage

CODE = "python_interpreter"
CODE_ENDS = ("</code>", "<end_code>", "```<end_code>")
"""Stop strings by which an agent that acts in code gives itself away."""

_TAGGED = re.compile(r"<code>(.*?)(?:</code>|\Z)", re.DOTALL)
_FENCED = re.compile(r"```(?:python|py)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BLOB = re.compile(r"^[ \t]*Action[ \t]*\d*:\s*(?:```(?:json)?\s*)?(?=\{)", re.MULTILINE)
_INPUT = re.compile(
    r"^[ \t]*Action[ \t]*\d*:[ \t]*([^\n\[{]+)\n\s*Action[ \t]*\d*[ \t]*Input[ \t]*\d*:[ \t]*(.*)",
    re.MULTILINE | re.DOTALL,
)
_FINAL = re.compile(r"^[ \t]*Final Answer:[ \t]*(.*)", re.MULTILINE | re.DOTALL | re.IGNORECASE)
_INVENTED = re.compile(r"^[ \t]*Observation[ \t]*\d*:", re.MULTILINE)
_MARK = re.compile(r"\s*\**Thoughts?[ \t]*\d*\**:\**", re.IGNORECASE)
_NAMES = ("name", "action", "tool", "tool_name", "function")
_ARGUMENTS = ("arguments", "action_input", "args", "parameters", "tool_input", "input")
_LONGEST_CODE = 100_000


def read(text: str, *, coded: bool) -> list[Step]:
    """The steps of one turn: one, several where it names several actions; without an action where none is found.

    ``coded`` says that the agent acts in code, so that a fenced block is an action and not part of an answer.
    """
    invented = _INVENTED.search(text)
    words = text[: invented.start()] if invented else text
    for reader in (_code if coded or "<code>" in words else None, _blob, _action_input, _rendered, _final):
        found = reader(words) if reader is not None else None
        if found is not None:
            before, actions = found[0], [Action(sound(one.name), sound(dict(one.arguments))) for one in found[1]]
            steps = [Step(thought="", action=one, observation=None, text="", joined=True) for one in actions[1:]]
            return [Step(thought=_thought(before), action=actions[0], observation=None, text=text), *steps]
    return [Step(thought=_thought(words), action=None, observation=None, text=text)]


Found = tuple[str, list[Action]] | None


def _thought(text: str) -> str:
    match = _MARK.match(text)
    return (text[match.end() :] if match else text).strip()


def _rendered(text: str) -> Found:
    """What the renderers read: tags, bare JSON, text ReAct."""
    steps = ToolCallsRenderer().read(Completion(text, Usage(), "stop", 0.0))
    actions = [step.action for step in steps if step.action is not None]
    return (steps[0].thought, actions) if actions else None


def _blob(text: str) -> Found:
    match = _BLOB.search(text)
    start = match.end() if match else 0 if text.lstrip().startswith("{") else -1
    action = _named(_object(text, start)) if start >= 0 else None
    return None if action is None else (text[: match.start()] if match else "", [action])


def _action_input(text: str) -> Found:
    match = _INPUT.search(text)
    if match is None:
        return None
    written = match[2].strip().strip("`").strip()
    values = parsed(written)
    return text[: match.start()], [Action(match[1].strip(), values if isinstance(values, dict) else {"input": written})]


def _final(text: str) -> Found:
    match = _FINAL.search(text)
    return None if match is None else (text[: match.start()], [Action(FINISH, {"answer": match[1].strip()})])


def _code(text: str) -> Found:
    whole = parsed(text)  # structured output: {"thought": ..., "code": ...}
    if isinstance(whole, dict) and isinstance(whole.get("code"), str):
        return str(whole.get("thought", "")), _coded(whole["code"])
    blocks = list(_TAGGED.finditer(text)) or list(_FENCED.finditer(text))
    if not blocks:
        return None
    return text[: blocks[0].start()], _coded("\n\n".join(block[1].strip() for block in blocks))


def _coded(code: str) -> list[Action]:
    """The code as an action, and the answer that it ends in, where that stands in the code itself."""
    answer, alone = _final_in_code(code)
    finish = [] if answer is None else [Action(FINISH, {"answer": answer})]
    return finish if alone else [Action(CODE, {"code": code}), *finish]


def _final_in_code(code: str) -> tuple[str | None, bool]:
    try:
        body = ast.parse(code).body if len(code) <= _LONGEST_CODE else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, False
    for statement in body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "final_answer":
            given = [*call.args, *(keyword.value for keyword in call.keywords)]
            answer = _literal(given[0]) if len(given) == 1 else None
            return answer, answer is not None and len(body) == 1
    return None, False


def _literal(node: ast.expr) -> str | None:
    try:
        return as_answer(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _object(text: str, start: int) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text, text.index("{", start))[0]
    except (ValueError, RecursionError):
        return None


def _named(value: Any) -> Action | None:
    """The action that a JSON object names, or None where it has no name and arguments."""
    if not isinstance(value, dict):
        return None
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    arguments = next((value[key] for key in _ARGUMENTS if key in value), None)
    if name is None or arguments is None:
        return None
    if isinstance(arguments, str) and isinstance(inner := parsed(arguments), dict):
        arguments = inner
    return Action(name, arguments if isinstance(arguments, dict) else {"input": as_answer(arguments)})


def answer_in(arguments: Mapping[str, Any]) -> str:
    """The answer that a finishing call gives: its argument ``answer``, else its only one, else all of them."""
    if "answer" in arguments:
        return as_answer(arguments["answer"])
    return as_answer(next(iter(arguments.values())) if len(arguments) == 1 else dict(arguments))


def as_answer(value: Any) -> str:
    """A value as text: words as they are, all else as JSON where it can be."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)
