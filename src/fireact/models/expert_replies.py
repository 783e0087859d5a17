"""The replies of the scripted expert in the form that a request asks for: tool calls, JSON of a schema, or code.

Invariant: a reply fits the request: it calls only tools that may be called, and its values fit their schemas. This
module knows nothing of the questions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fireact.errors import ConfigError
from fireact.types import FINISH, Action, Call, ReplyForm, Step, Tool
from fireact.wire.code_actions import asks_for_code, write_code_action
from fireact.wire.reasoning import wrap_reasoning
from fireact.wire.schemas import FINISH_NAMES, ClientTool, make_schema
from fireact.wire.text_calls import write_tagged_call

JsonSchema = Mapping[str, Any]
_SIGNATURE = re.compile(r"^[ \t]*def (\w+)\(([^()\n]*)\)", re.MULTILINE)
_TEXT_TYPES = ("string", "str")


def write_step(step: Step, text: str, call: Call) -> str:
    """A step of the expert as a reply to a call; ``text`` is the step in ReAct's form, for an agent that asks for none.

    Raises ConfigError where no tool is offered that takes a text.
    """
    form = call.form or ReplyForm(tuple(tool.name for tool in call.tools))
    if call.tools or form.json_schema is not None:
        return _write_native_reply(step, call.tools, form)
    system = "\n".join(message.content for message in call.messages if message.role == "system")
    if asks_for_code(system, call.stop):
        return _write_code_reply(step, system)
    return text


def _write_native_reply(step: Step, tools: Sequence[Tool], form: ReplyForm) -> str:
    """The step as a call of the tool that searches, or of the tool that ends the agent's work.

    An agent without such an ending gets the answer as plain text after its reasoning, or as JSON where it asks for
    that.
    """
    assert step.action is not None  # every reply of the script has one
    (value,) = step.action.arguments.values()
    is_search = step.action.name != FINISH
    search, endings = _sort_tools(tools, form)
    answer = "unknown" if is_search else str(value)
    if is_search and search is not None and search.name in form.callable:
        return _write_call(search, str(value), step)
    if is_search and search is None and form.callable and form.text and form.json_schema is None:
        raise ConfigError("scripted:expert needs a tool that takes a text to search for; none is offered.")
    if endings and (not is_search or not form.text):
        return _write_call(endings[0], answer, step)
    if not form.text and search is not None:
        return _write_call(search, answer, step)
    if form.json_schema is None:
        return wrap_reasoning(step.thought, answer)
    return json.dumps(fill_object(form.json_schema, answer, step.thought), ensure_ascii=False)


def _sort_tools(tools: Sequence[Tool], form: ReplyForm) -> tuple[Tool | None, list[Tool]]:
    """The tool that searches, and those that may end the agent's work.

    An agent that takes no text has a tool for its answer, whatever its name.
    """
    others = [tool for tool in tools if tool.name not in FINISH_NAMES]
    searches = [tool for tool in others if _find_text_member(tool.parameters) is not None]
    search = min(searches, key=lambda tool: "search" not in tool.name, default=None)
    endings = [tool for tool in tools if tool not in others] or [
        tool for tool in others if tool is not search and not form.text
    ]
    return search, [tool for tool in endings if tool.name in form.callable]


def _write_call(tool: Tool, text: str, step: Step) -> str:
    call = write_tagged_call(Action(tool.name, fill_object(tool.parameters, text, step.thought)))
    return f"{step.thought}\n{call}".strip()


def fill_object(schema: JsonSchema, text: str, thought: str = "") -> dict[str, Any]:
    """An object of a schema: the text in its first member for text, the thought in the others, else small values."""
    properties = schema.get("properties")
    members = dict(properties) if isinstance(properties, Mapping) else {}
    required = [name for name in schema.get("required") or () if name in members]
    main = _find_text_member(schema) or next(iter(required or members), None)
    names = [main] if main is not None and main not in required else []
    values = {}
    for name in [*names, *required]:
        member = _resolve(members[name], schema)
        value = text if name == main else thought if _is_text(member) else ""
        values[name] = fit_value(member, value, schema)
    return values


def fit_value(schema: JsonSchema, text: str, root: JsonSchema) -> Any:
    """The value of a schema that is nearest to a text; ``root`` is the schema that holds the definitions."""
    schema = _resolve(schema, root)
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices:
        return text if text in choices else choices[0]
    if "default" in schema and not text:
        return schema["default"]
    kind = schema.get("type")
    if kind in ("integer", "number"):
        digits = re.sub(r"[^\d.]", "", text).strip(".")
        number = float(digits) if digits.replace(".", "", 1).isdigit() else float(schema.get("minimum", 1))
        return int(number) if kind == "integer" else number
    if kind == "boolean":
        return text.lower() in ("yes", "true")
    if kind == "array":
        item = schema.get("items")
        return [fit_value(item, text, root)] if isinstance(item, Mapping) else []
    if kind == "object":
        return fill_object({**schema, "$defs": root.get("$defs", {})}, text)
    return None if kind == "null" else text


def _resolve(schema: Any, root: JsonSchema) -> JsonSchema:
    """A schema without a reference or alternatives: what it refers to, its first alternative, or its first type."""
    if not isinstance(schema, Mapping):
        return {}
    if isinstance(schema.get("$ref"), str):
        definitions = root.get("$defs") or {}
        return _resolve(definitions.get(schema["$ref"].rpartition("/")[2]), {})
    alternatives = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if alternatives:
        return _resolve(alternatives[0], root)
    kinds = schema.get("type")
    return {**schema, "type": kinds[0]} if isinstance(kinds, list) and kinds else schema


def _find_text_member(schema: JsonSchema) -> str | None:
    """The first member of an object that is any text; required ones go first."""
    properties, required = schema.get("properties"), schema.get("required") or ()
    if not isinstance(properties, Mapping):
        return None
    names = [name for name, member in properties.items() if _is_text(_resolve(member, schema))]
    return min(names, key=lambda name: (name != "answer", name not in required), default=None)


def _is_text(schema: JsonSchema) -> bool:
    return schema.get("type") in _TEXT_TYPES and "enum" not in schema and "const" not in schema


def _write_code_reply(step: Step, system: str) -> str:
    """The step as code that prints what a search finds, or that gives the answer."""
    assert step.action is not None  # every reply of the script has one
    (value,) = step.action.arguments.values()
    code = f"answer = {value!r}\nfinal_answer(answer)"
    if step.action.name != FINISH:
        search, _ = _sort_tools(read_signatures(system), ReplyForm())
        if search is None:
            raise ConfigError("scripted:expert needs a function that takes a text to search for; none is described.")
        arguments = fill_object(search.parameters, str(value), step.thought)
        code = f"print({search.name}({', '.join(f'{name}={argument!r}' for name, argument in arguments.items())}))"
    return f"Thought: {step.thought}\n{write_code_action(code, system)}"


def read_signatures(system: str) -> list[ClientTool]:
    """The functions that a prompt describes by their signatures, as tools; every parameter is required."""
    tools = {}
    for name, parameters in _SIGNATURE.findall(system):
        pairs = [parameter.partition(":") for parameter in parameters.split(",") if parameter.strip()]
        properties = {
            parameter.strip(): {"type": "string" if kind.strip() in _TEXT_TYPES else kind.strip()}
            for parameter, _, kind in pairs
        }
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        tools[name] = ClientTool(make_schema(name, "", schema))
    return list(tools.values())
