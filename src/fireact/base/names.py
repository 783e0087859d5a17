"""How a name becomes an object: by a table of entry points, or by a ``module:attribute`` path of the user's own.

The built-in names are entry points in ``pyproject.toml``, in the groups ``fireact.tasks``, ``fireact.tools``,
``fireact.models``, ``fireact.methods``, ``fireact.renderers`` and ``fireact.providers``. Other packages add theirs in
the same way, and formats of files in the group ``fireact.formats``. A plug-in is imported only when it is used.
"""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from functools import lru_cache
from importlib.metadata import EntryPoints, entry_points
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, unknown_name_error


def _list_plugins(kind: str) -> EntryPoints:
    points: EntryPoints = _read_entry_points(tuple(sys.path)).select(group=f"fireact.{kind}s")
    return points


@lru_cache(maxsize=4)
def _read_entry_points(path: tuple[str, ...]) -> Any:  # two types, by the version of Python
    """The entry points of all packages on the path; reading them takes tens of milliseconds."""
    return entry_points()


def known_names(kind: str) -> list[str]:
    """The names of a kind ("task", "tool", "model", "method", "renderer", "provider", "format"), sorted."""
    return sorted(point.name for point in _list_plugins(kind))


def resolve_plugin(kind: str, name: str) -> Any:
    """The object behind a name or a ``module:attribute`` path. Raises ConfigError with the list of known names."""
    for point in _list_plugins(kind):
        if point.name == name:
            return point.load()
    if ":" in name:
        return _import_attribute(kind, name)
    raise unknown_name_error(kind, name, known_names(kind))


def build_plugin(kind: str, spec: str, **options: Any) -> Any:
    """The object that the factory behind ``NAME``, ``NAME:ARGUMENT`` or ``module:attribute`` builds from ARGUMENT.

    A ``module:attribute`` that is not callable is returned as it is.
    """
    name, separator, argument = spec.partition(":")
    if separator and name in known_names(kind):
        return resolve_plugin(kind, name)(argument, **options)
    plugin = resolve_plugin(kind, spec)
    return plugin(**options) if callable(plugin) else plugin


def require_attributes(kind: str, spec: str, built: Any, *parts: str) -> None:
    """Raise ConfigError where a user's task or model lacks one of the attributes ``parts``."""
    if lacking := [attribute for attribute in parts if not hasattr(built, attribute)]:
        raise ConfigError(
            f"{kind} {spec!r} is a {type(built).__name__} without {', '.join(lacking)}, which is no {kind}. "
            f"Give something with {', '.join(parts)}, or a function or class that builds it when it is called."
        )


def _import_attribute(kind: str, path: str) -> Any:
    """Raises ConfigError for a path that cannot be imported, and for a head that names a plug-in of another kind.

    ``foreign_names`` counts on the latter: a text that begins with the name of a plug-in imports no module.
    """
    module_name, _, attribute = path.partition(":")
    same_named = _read_entry_points(tuple(sys.path)).select(name=module_name)
    if any(point.group.startswith("fireact.") for point in same_named):
        raise ConfigError(
            f"{path!r} begins with the name of a plug-in that is no {kind}. Rename the module, or give one of: "
            f"{', '.join(known_names(kind))}."
        )
    if "" not in sys.path:
        sys.path.insert(0, "")  # a user's own module in the working directory
    try:
        value: Any = importlib.import_module(module_name)
        for attribute_name in attribute.split("."):
            value = getattr(value, attribute_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{kind} {path!r} cannot be imported ({error}). Give module:attribute, or one of: "
            f"{', '.join(known_names(kind))}."
        ) from error
    return value


def list_shipped_files(folder: Traversable) -> list[str]:
    """The names of the TOML files that the package has in a folder, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def read_shipped_file(kind: str, name: str, folder: Traversable) -> dict[str, Any]:
    """The values of a TOML file: one that the package has by this name, else the file of this path.

    Raises ConfigError where there is neither, or it cannot be read.
    """
    shipped_names = list_shipped_files(folder)
    try:
        if name in shipped_names:
            return tomllib.loads(folder.joinpath(f"{name}.toml").read_text(encoding="utf-8"))
        if Path(name).is_file():
            return tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the {kind} {name}: {error}.") from error
    except ValueError as error:
        raise ConfigError(f"cannot read the {kind} {name}: it is not TOML ({error}).") from error
    raise unknown_name_error(kind, name, [*shipped_names, "a TOML file"])


def split_model_spec(spec: str) -> tuple[str, str, str]:
    """Kind, model and base URL of ``KIND:MODEL[@BASE_URL]``; what is left out is empty."""
    kind, _, model_and_url = spec.partition(":")
    model, _, url = model_and_url.partition("@")
    return kind, model, url


def split_urls(text: str) -> list[str]:
    """The base URLs of the replicas of a model, which commas separate; a comma within an address stays."""
    return [url for url in re.split(r",\s*(?=[a-z]+://)", text.strip()) if url]
