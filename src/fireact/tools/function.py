"""A typed Python function with a docstring as a tool: ``--tool module:function``.

    name            the function's own
    description     the first paragraph of its docstring; those of its parameters stand under ``Args:``
    parameters      a JSON schema made from the annotations: str, int, float, bool, list, dict, Literal, Optional, defaults

Invariant: the function is called with values of the types that it names, or not at all: what does not fit is told to the
agent. What the function raises goes through; what it returns is text, or is turned into JSON.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from fireact import names
from fireact.errors import ConfigError, ToolError
from fireact.types import Tool

_ARGUMENT = re.compile(r"^(\w+)(?:\s*\([^)]*\))?:\s*(.+)")


def load(spec: str) -> list[Tool]:
    """The tools that a name or ``module:attribute`` means: of a function, of a factory, or several of a server."""
    own = ":" in spec and spec.partition(":")[0] not in names.known("tool")
    found: Any = names.resolve("tool", spec) if own else None
    if is_tool_function(found):
        return [FunctionTool(found)]
    built = names.build("tool", spec)
    tools = list(built) if isinstance(built, Sequence) else [built]
    for tool in tools:
        if not callable(tool) or not all(hasattr(tool, part) for part in ("name", "description", "parameters")):
            raise ConfigError(
                f"tool {spec!r} gave a {type(tool).__name__}, which is no tool. Give a function that takes arguments and "
                "returns a str, or something that builds an object with name, description, parameters and a call."
            )
    return tools


def is_tool_function(found: Any) -> bool:
    """Whether this is a function to wrap: it needs arguments, or returns a str. Anything else builds a Tool."""
    if not inspect.isroutine(found):
        return False
    signature = inspect.signature(found)
    if any(_needed(parameter) for parameter in signature.parameters.values()):
        return True
    return signature.return_annotation in (str, "str")


def _needed(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


class FunctionTool:
    """A function that an agent may call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Read the function's signature. Raises ConfigError where it has no docstring or a parameter no JSON type."""
        import pydantic

        description, arguments = _documented(function)
        self.name = function.__name__
        self.description = description
        self._function = function
        try:
            config = pydantic.ConfigDict(extra="forbid")
            self._model = pydantic.create_model(function.__name__, __config__=config, **_fields(function, arguments))
            schema = self._model.model_json_schema()
        except (pydantic.PydanticUserError, NameError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"the function {self.name} cannot be a tool: {reason}. "
                "Annotate its parameters with str, int, float, bool, list, dict, Literal or Optional."
            ) from error
        self.parameters: Mapping[str, Any] = {"properties": {}, **_untitled(schema)}
        self._strings = {name for name, part in self.parameters["properties"].items() if _takes_text(part)}
        self.fingerprint = _fingerprint(function, self.parameters)

    def __call__(self, **arguments: Any) -> str:
        """What the function returns. Raises ToolError, for the agent to read, where an argument does not fit."""
        import pydantic

        given = {name: value if name in self._strings else _parsed(value) for name, value in arguments.items()}
        try:
            values = self._model.model_validate(given)
        except pydantic.ValidationError as error:
            raise ToolError(f"{self.name}: {'; '.join(map(_complaint, error.errors()))}.") from None
        fields = type(values).model_fields
        said = self._function(**{field.alias: getattr(values, name) for name, field in fields.items() if field.alias})
        return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False, default=str)


def _fields(function: Callable[..., Any], described: Mapping[str, str]) -> dict[str, Any]:
    """Fields of a model; a parameter is the alias of one, since some names are the model's own."""
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


def _documented(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The first paragraph of the docstring, and what it says of each parameter under ``Args:``."""
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
        elif arguments:  # a line that goes on with the one before
            arguments[next(reversed(arguments))] += f" {line.strip()}"
    return " ".join(head.split("\n\n")[0].split()), arguments


def _untitled(schema: Any) -> Any:
    """The schema without the titles that pydantic adds, which tell an agent nothing."""
    if isinstance(schema, list):
        return [_untitled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain: dict[str, Any] = {}
    for key, part in schema.items():
        if key in ("properties", "$defs"):  # whose keys are names, "title" too
            plain[key] = {name: _untitled(inner) for name, inner in part.items()}
        elif key in ("default", "const", "enum"):
            plain[key] = part
        elif key != "title":
            plain[key] = _untitled(part)
    return plain


def _takes_text(schema: Mapping[str, Any]) -> bool:
    kinds = [schema, *schema.get("anyOf", ())]
    return any(kind.get("type") == "string" for kind in kinds)


def _parsed(value: Any) -> Any:
    """A list or an object that a text-form action brings as a string, and so on for the other JSON values."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value.strip()


def _complaint(error: Any) -> str:
    """One thing that is wrong with the arguments, in a few words."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == "extra_forbidden":
        return f"it takes no {where}"
    said = str(error["msg"])
    return f"{where}: {said[:1].lower()}{said[1:]}, not {json.dumps(error['input'], default=str)[:80]}"


def _fingerprint(function: Callable[..., Any], parameters: Mapping[str, Any]) -> str:
    """Covers the function's name, source and parameters; not what it calls."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = ""
    facts = [function.__module__, function.__qualname__, source, parameters]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
