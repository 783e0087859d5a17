"""How a name becomes an object: one table of entry points, and dotted paths of the user's own wherever a name does.

Built-in names stand in ``pyproject.toml`` under the groups ``fireact.tasks``, ``fireact.tools``, ``fireact.models``,
``fireact.methods`` and ``fireact.renderers``; other packages add theirs in the same way. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points
from typing import Any

from fireact.errors import ConfigError, unknown


def known(kind: str) -> list[str]:
    """The names of a kind ("task", "tool", "model", "method", "renderer"), sorted."""
    return sorted(point.name for point in entry_points(group=f"fireact.{kind}s"))


def resolve(kind: str, name: str) -> Any:
    """The object behind a name or a ``module:attribute`` path. Raises ConfigError that lists the known names."""
    for point in entry_points(group=f"fireact.{kind}s"):
        if point.name == name:
            return point.load()
    if ":" in name:
        return _imported(kind, name)
    raise unknown(kind, name, known(kind))


def build(kind: str, spec: str, **options: Any) -> Any:
    """What the factory behind ``NAME``, ``NAME:ARGUMENT`` or ``module:attribute`` builds; ARGUMENT is handed to it.

    A ``module:attribute`` that cannot be called is no factory but the thing itself.
    """
    name, separator, argument = spec.partition(":")
    if separator and name in known(kind):
        return resolve(kind, name)(argument, **options)
    found = resolve(kind, spec)
    return found(**options) if callable(found) else found


def require(kind: str, spec: str, built: Any, *parts: str) -> None:
    """Raise ConfigError for something that a user gave as a task or a model and that lacks a part of one."""
    if lacking := [part for part in parts if not hasattr(built, part)]:
        raise ConfigError(
            f"{kind} {spec!r} is a {type(built).__name__} without {', '.join(lacking)}, which is no {kind}. "
            f"Give something with {', '.join(parts)}, or a function or class that builds it when it is called."
        )


def _imported(kind: str, path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a user's own module next to where they stand
    try:
        value: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{kind} {path!r} cannot be imported ({error}). Give module:attribute, or one of: {', '.join(known(kind))}."
        ) from error
    return value
