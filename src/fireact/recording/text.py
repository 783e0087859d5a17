"""Reads the actions that agents write as text into steps; each framework has its own form.

    Action: search[query]                          ReAct
    Action: search  /  Action Input: query         LangChain; it ends in Final Answer: ...
    Action: {"name": ..., "arguments": {...}}      smolagents without native calls
    <tool_call>{"name": ..., ...}</tool_call>      Hermes, Qwen
    <code>...</code>, ```python                    smolagents' CodeAgent: the action ``python_interpreter``

Invariant: any text can be read, and ``Step.text`` keeps it verbatim. Code is parsed for its final answer and never run.
"""

from __future__ import annotations

import ast
import re

from fireact.render.tool_calls import ToolCallsRenderer
from fireact.types import FINISH, Action, Completion, Step, Usage
from fireact.wire.fields import parse_json, replace_surrogates
from fireact.wire.text_calls import decode_json, format_answer, read_named_action

CODE = "python_interpreter"

_TAGGED = re.compile(r"<code>(.*?)(?:</code>|\Z)", re.DOTALL)
_FENCED = re.compile(r"```(?:python|py)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BLOB = re.compile(r"^[ \t]*Action[ \t]*\d*:\s*(?:```(?:json)?\s*)?(?=\{)", re.MULTILINE)
_INPUT = re.compile(
    r"^[ \t]*Action[ \t]*\d*:[ \t]*+([^\n\[{]++)\n\s*+Action[ \t]*+\d*+[ \t]*+Input[ \t]*\d*:[ \t]*(.*)",
    re.MULTILINE | re.DOTALL,
)
_FINAL = re.compile(r"^[ \t]*Final Answer:[ \t]*(.*)", re.MULTILINE | re.DOTALL | re.IGNORECASE)
_INVENTED = re.compile(r"^[ \t]*Observation[ \t]*\d*:", re.MULTILINE)
_MARK = re.compile(r"\s*\**Thoughts?[ \t]*\d*\**:\**", re.IGNORECASE)
_LONGEST_CODE = 100_000


def parse_turn(text: str, *, coded: bool) -> list[Step]:
    """The steps of one turn, one for each action; a turn without an action gives one step without an action.

    ``coded`` says that the agent acts in code: then a fenced block is an action and not part of an answer.
    """
    invented = _INVENTED.search(text)
    words = text[: invented.start()] if invented else text
    for reader in (
        _read_code if coded or "<code>" in words else None,
        _read_json_action,
        _read_action_input,
        _read_rendered,
        _read_final_answer,
    ):
        match = reader(words) if reader is not None else None
        if match is not None:
            thought_text = match[0]
            actions = [
                Action(replace_surrogates(action.name), replace_surrogates(dict(action.arguments)))
                for action in match[1]
            ]
            steps = [Step(thought="", action=action, observation=None, text="", joined=True) for action in actions[1:]]
            return [
                Step(thought=_strip_thought_label(thought_text), action=actions[0], observation=None, text=text),
                *steps,
            ]
    return [Step(thought=_strip_thought_label(words), action=None, observation=None, text=text)]


ParsedText = tuple[str, list[Action]] | None


def _strip_thought_label(text: str) -> str:
    match = _MARK.match(text)
    return (text[match.end() :] if match else text).strip()


def _read_rendered(text: str) -> ParsedText:
    """The actions in the forms that the renderers read: tags, bare JSON, text ReAct."""
    steps = ToolCallsRenderer().read(Completion(text, Usage(), "stop", 0.0))
    actions = [step.action for step in steps if step.action is not None]
    return (steps[0].thought, actions) if actions else None


def _read_json_action(text: str) -> ParsedText:
    match = _BLOB.search(text)
    start = match.end() if match else 0 if text.lstrip().startswith("{") else -1
    action = read_named_action(decode_json(text[text.index("{", start) :])[0]) if start >= 0 else None
    return None if action is None else (text[: match.start()] if match else "", [action])


def _read_action_input(text: str) -> ParsedText:
    match = _INPUT.search(text)
    if match is None:
        return None
    input_text = match[2].strip().strip("`").strip()
    values = parse_json(input_text)
    return text[: match.start()], [
        Action(match[1].strip(), values if isinstance(values, dict) else {"input": input_text})
    ]


def _read_final_answer(text: str) -> ParsedText:
    match = _FINAL.search(text)
    return None if match is None else (text[: match.start()], [Action(FINISH, {"answer": match[1].strip()})])


def _read_code(text: str) -> ParsedText:
    structured = parse_json(text)  # structured output: {"thought": ..., "code": ...}
    if isinstance(structured, dict) and isinstance(structured.get("code"), str):
        return str(structured.get("thought", "")), _code_actions(structured["code"])
    blocks = list(_TAGGED.finditer(text)) or list(_FENCED.finditer(text))
    if not blocks:
        return None
    return text[: blocks[0].start()], _code_actions("\n\n".join(block[1].strip() for block in blocks))


def _code_actions(code: str) -> list[Action]:
    """The code as an action, then its final answer as one where the code states it literally."""
    answer, is_whole_code = _find_final_answer(code)
    finish = [] if answer is None else [Action(FINISH, {"answer": answer})]
    return finish if is_whole_code else [Action(CODE, {"code": code}), *finish]


def _find_final_answer(code: str) -> tuple[str | None, bool]:
    try:
        body = ast.parse(code).body if len(code) <= _LONGEST_CODE else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, False
    for statement in body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "final_answer":
            values = [*call.args, *(keyword.value for keyword in call.keywords)]
            answer = _read_literal(values[0]) if len(values) == 1 else None
            return answer, answer is not None and len(body) == 1
    return None, False


def _read_literal(node: ast.expr) -> str | None:
    try:
        return format_answer(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
