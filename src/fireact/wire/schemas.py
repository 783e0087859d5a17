"""Tool schemas in every shape, read into one: ``{"type": "function", "function": {...}}``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.errors import ToolError
from fireact.types import FINISH, Step, Tool
from fireact.wire.fields import parse_json

Schema = Mapping[str, Any]
"""A tool as chat templates and endpoints take it: ``{"type": "function", "function": {...}}``."""


def make_schema(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool with this name, description and JSON schema of its arguments."""
    function = {"name": name, "description": description, "parameters": dict(parameters)}
    return {"type": "function", "function": function}


FINISH_SCHEMA = make_schema(
    FINISH,
    "gives the answer, as short as possible, and ends the task",
    {
        "type": "object",
        "properties": {"answer": {"type": "string", "description": "the answer"}},
        "required": ["answer"],
    },
)
"""The finish action as a tool: at inference with native calls, and in files of episodes that end in a call of it."""
FINISH_NAMES = ("final_answer", "final_result", FINISH, "submit", "submit_answer", "submit_final_answer")
"""Names of the tools by which agents give their answer."""


@dataclass(frozen=True, slots=True)
class ClientTool:
    """A tool that an agent's client runs: only its schema is here, as it was sent."""

    schema: Mapping[str, Any]

    @property
    def name(self) -> str:
        return schema_name(self.schema)

    @property
    def description(self) -> str:
        return str(unwrap_schema(self.schema).get("description") or "")

    @property
    def parameters(self) -> Mapping[str, Any]:
        parameters = unwrap_schema(self.schema).get("parameters")
        return parameters if isinstance(parameters, Mapping) else {}

    def __call__(self, **arguments: Any) -> str:
        raise ToolError(f"{self.name} is a tool of the client, which runs it itself.")


def tool_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool."""
    if isinstance(tool, ClientTool):
        return dict(tool.schema)
    return make_schema(tool.name, tool.description, tool.parameters)


def wrap_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as chat templates take it: one of chat completions as it is, others in its form."""
    if isinstance(schema.get("function"), Mapping):
        return dict(schema)
    return _normalise_schema(schema)


def hash_schema(schema: Mapping[str, Any]) -> str:
    """The SHA-256 of a tool's schema, whatever its wire form."""
    return hashlib.sha256(json.dumps(_normalise_schema(schema), sort_keys=True).encode()).hexdigest()


def unwrap_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The name, description and parameters of a schema, wrapped or bare."""
    inner = schema.get("function")
    return inner if isinstance(inner, Mapping) else schema


def schema_name(schema: Mapping[str, Any]) -> str:
    """The name of the tool of a schema, wrapped or bare."""
    return str(unwrap_schema(schema).get("name") or "")


def normalise_schemas(tools: Any) -> list[dict[str, Any]]:
    """Tool schemas in OpenAI's form from any common one; what is no schema is left out (``find_bad_schemas``).

    A schema may be wrapped or bare, have ``input_schema`` or ``inputSchema``, Gemini's ``functionDeclarations``, or
    xLAM's parameters without ``properties``; the whole may be a list, a mapping by name, or JSON text of these.
    """
    return [_normalise_schema(tool) for tool in _list_schemas(tools) if _is_schema(tool)]


def find_bad_schemas(tools: Any) -> list[Any]:
    """The entries that are no schema: no mapping, or without a name; text that is no JSON is one entry."""
    return [tool for tool in _list_schemas(tools) if not _is_schema(tool)]


def schema_names(tools: Any) -> list[str]:
    """The names of the tools of any schemas."""
    return list(map(schema_name, normalise_schemas(tools)))


def argument_types(tools: Any) -> dict[str, Mapping[str, Any]]:
    """The schemas of the arguments of each tool, by the names of both."""
    types = {}
    for schema in normalise_schemas(tools):
        properties = unwrap_schema(schema)["parameters"]["properties"]
        types[schema_name(schema)] = properties if isinstance(properties, Mapping) else {}
    return types


def _list_schemas(tools: Any) -> list[Any]:
    if isinstance(tools, str):
        if not tools.strip():
            return []
        tools = parse_json(tools, [tools])
    if isinstance(tools, Mapping):
        by_name = tools and all(isinstance(tool, Mapping) and "name" not in tool for tool in tools.values())
        named = "function" not in tools and "functionDeclarations" not in tools and by_name
        tools = [{"name": name, **tool} for name, tool in tools.items()] if named else [tools]
    entries: list[Any] = []
    for tool in tools if isinstance(tools, list | tuple) else [] if tools is None else [tools]:
        tool = parse_json(tool, tool) if isinstance(tool, str) else tool
        declarations = (
            tool.get("functionDeclarations", tool.get("function_declarations")) if isinstance(tool, Mapping) else None
        )
        entries += declarations if isinstance(declarations, list) else [tool]
    return entries


def _is_schema(tool: Any) -> bool:
    return isinstance(tool, Mapping) and bool(_find_name(tool))


def _find_name(tool: Mapping[str, Any]) -> str:
    """The name of a tool; one that the provider runs has only its type."""
    name = unwrap_schema(tool).get("name") or tool.get("type")
    return name if isinstance(name, str) and name != "function" else ""


def infer_schemas(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Schemas inferred from the calls of the steps, for episodes without schemas; descriptions are empty."""
    properties_by_tool: dict[str, dict[str, Any]] = {}
    for step in steps:
        if step.action is not None:
            properties = properties_by_tool.setdefault(step.action.name, {})
            for name, value in step.action.arguments.items():
                properties.setdefault(name, {"type": _json_type(value)})
    return [
        FINISH_SCHEMA if name == FINISH else _normalise_schema({"name": name, "parameters": {"properties": properties}})
        for name, properties in properties_by_tool.items()
    ]


def _normalise_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    values = unwrap_schema(tool)
    parameters = values.get("parameters") or values.get("input_schema") or values.get("inputSchema") or {}
    if isinstance(parameters, str):
        parameters = parse_json(parameters, {})
    parameters = parameters if isinstance(parameters, Mapping) else {}
    if parameters and "properties" not in parameters and all(isinstance(item, Mapping) for item in parameters.values()):
        parameters = {"properties": parameters}  # xLAM's, and others' without the frame of a JSON schema
    described = str(values.get("description") or "")
    return make_schema(_find_name(tool), described, {"type": "object", "properties": {}, **parameters})


def _json_type(value: Any) -> str:
    kinds = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array"), (dict, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "string")
