"""A typed Python function with a docstring as a tool: ``--tool module:function``.

    name            the function's name
    description     the first paragraph of its docstring; its parameters are described under ``Args:``
    parameters      a JSON schema of the annotations: str, int, float, bool, list, dict, Literal, Optional, defaults

Invariant: the function is only called with values of the types that it declares; the agent is told about arguments that
do not fit. Exceptions of the function pass through. ``result`` says how a result becomes text.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from fireact.base import names
from fireact.errors import ConfigError, ToolError
from fireact.tools.result import render_result
from fireact.types import Tool

_ARGUMENT = re.compile(r"^(\w+)(?:\s*\([^)]*\))?:\s*(.+)")


def build_tools(spec: str) -> list[Tool]:
    """The tools of a name or ``module:attribute``: one of a function or a factory, or several of a server."""
    is_import_path = ":" in spec and spec.partition(":")[0] not in names.known_names("tool")
    target: Any = names.resolve_plugin("tool", spec) if is_import_path else None
    if is_tool_function(target):
        return [FunctionTool(target)]
    built = names.build_plugin("tool", spec)
    tools = list(built) if isinstance(built, Sequence) else [built]
    for tool in tools:
        if not callable(tool) or not all(
            hasattr(tool, attribute) for attribute in ("name", "description", "parameters")
        ):
            raise ConfigError(
                f"tool {spec!r} gave a {type(tool).__name__}, which is not a tool. Give a function that takes "
                "arguments and returns a str, or something that builds an object with name, description, parameters "
                "and a call."
            )
    return tools


def is_tool_function(target: Any) -> bool:
    """Whether this is a function to wrap: it requires arguments, or returns a str. Anything else builds a Tool."""
    if not inspect.isroutine(target):
        return False
    signature = inspect.signature(target)
    if any(_is_required(parameter) for parameter in signature.parameters.values()):
        return True
    return signature.return_annotation in (str, "str")


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


class FunctionTool:
    """A function that an agent may call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Read the function's signature. Raises ConfigError for a missing docstring or a type that JSON lacks."""
        import pydantic

        description, arguments = _parse_docstring(function)
        self.name = function.__name__
        self.description = description
        self._function = function
        try:
            config = pydantic.ConfigDict(extra="forbid")
            self._model = pydantic.create_model(
                function.__name__, __config__=config, **_model_fields(function, arguments)
            )
            schema = self._model.model_json_schema()
        except (pydantic.PydanticUserError, NameError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"the function {self.name} cannot be a tool: {reason}. "
                "Annotate its parameters with str, int, float, bool, list, dict, Literal or Optional."
            ) from error
        self.parameters: Mapping[str, Any] = {"properties": {}, **_strip_titles(schema)}
        self._strings = {
            name for name, property_schema in self.parameters["properties"].items() if _takes_text(property_schema)
        }
        self.fingerprint = _fingerprint(function, self.parameters)

    def __call__(self, **arguments: Any) -> str:
        """Call the function. Raises ToolError, for the agent to read, where an argument does not fit."""
        import pydantic

        parsed_arguments = {
            name: value if name in self._strings else _parse_value(value) for name, value in arguments.items()
        }
        try:
            values = self._model.model_validate(parsed_arguments)
        except pydantic.ValidationError as error:
            raise ToolError(f"{self.name}: {'; '.join(map(_describe_error, error.errors()))}.") from None
        fields = type(values).model_fields
        output = self._function(**{field.alias: getattr(values, name) for name, field in fields.items() if field.alias})
        return render_result(self.name, output)


def _model_fields(function: Callable[..., Any], described: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a pydantic model; each parameter is an alias, since pydantic reserves some field names."""
    import pydantic

    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"it has the parameter {parameter}, which has no name of its own")
        default = ... if parameter.default is parameter.empty else parameter.default
        field = pydantic.Field(default, alias=name, description=described.get(name))
        fields[f"field_{len(fields)}"] = (hints.get(name, str), field)
    return fields


def _parse_docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The first paragraph of the docstring, and the description of each parameter under ``Args:``."""
    text = inspect.getdoc(function) or ""
    if not text.strip():
        raise ConfigError(
            f"the function {function.__name__} has no docstring; it tells the agent what the tool is for."
        )
    head, _, tail = text.partition("\nArgs:\n")
    arguments: dict[str, str] = {}
    for line in textwrap.dedent(tail.split("\n\n")[0]).splitlines():
        if match := _ARGUMENT.match(line):
            arguments[match[1]] = match[2].strip()
        elif arguments:  # this line continues the one before
            arguments[next(reversed(arguments))] += f" {line.strip()}"
    return " ".join(head.split("\n\n")[0].split()), arguments


def _strip_titles(schema: Any) -> Any:
    """The schema without the titles that pydantic adds, which are of no use to an agent."""
    if isinstance(schema, list):
        return [_strip_titles(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):  # the keys of these are names, so "title" may be one
            plain[key] = {name: _strip_titles(subschema) for name, subschema in value.items()}
        elif key in ("default", "const", "enum"):
            plain[key] = value
        elif key != "title":
            plain[key] = _strip_titles(value)
    return plain


def _takes_text(schema: Mapping[str, Any]) -> bool:
    kinds = [schema, *schema.get("anyOf", ())]
    return any(kind.get("type") == "string" for kind in kinds)


def _parse_value(value: Any) -> Any:
    """The JSON value of a string argument, since actions in text form bring every value as a string."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value.strip()


def _describe_error(error: Any) -> str:
    """One error in the arguments, in a few words."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == "extra_forbidden":
        return f"it takes no {where}"
    message = str(error["msg"])
    return f"{where}: {message[:1].lower()}{message[1:]}, not {json.dumps(error['input'], default=str)[:80]}"


def _fingerprint(function: Callable[..., Any], parameters: Mapping[str, Any]) -> str:
    """Covers the function's name, source and parameters; not what it calls."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = ""
    facts = [function.__module__, function.__qualname__, source, parameters]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
