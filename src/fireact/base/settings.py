"""Settings: fields of frozen dataclasses, each declared once with its type, default, limits and help.

The docstring under a field is its help. From the fields come the options of the command line, their checks, the keys of
``config.toml``, the page of commands and the axes of studies. A setting that is added is one field and one use.
Invariant: nothing is converted silently. A text is never taken for a list of characters, nor ``true`` for a number.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from fireact.errors import ConfigError, unknown_name_error

AGENT, DATA, OUTPUT = "Agent", "Data", "Output"
"""Headings of options that several commands have."""
_TYPE_NAMES: Mapping[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Any: "any value",
    Callable: "a function",
}
_MAX_CHARS = 80
"""Characters of a value that a message repeats."""


def setting(
    default: Any = MISSING,
    *,
    factory: Any = MISSING,
    flags: Sequence[str] = (),
    panel: str = "",
    help: str = "",
    metavar: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    normalise: Callable[[Any], Any] | None = None,
    parse: Callable[[str], Any] | None = None,
    is_path: bool = False,
    is_option: bool = True,
    earlier_default: Any = MISSING,
) -> Any:
    """Declare a field of a settings class.

    A number lies from ``low`` to ``high``, or between ``above`` and ``below`` (exclusive); a text is one of
    ``choices``. ``flags`` are the option's names where these are not the field's own; ``metavar`` makes it an argument
    of that name, as a field without a default is one. ``help`` replaces the docstring for the command line.
    ``normalise`` maps a given value to the one that is stored. ``parse`` reads an option that is not of the field's
    type; where the field is a table, it reads one pair of a repeatable option. Where a default has changed,
    ``earlier_default`` is what a run without the setting was made with; the keys of a study's stages leave that out.
    """
    bounds = {"ge": low, "le": high, "gt": above, "lt": below}
    metadata = {
        "flags": tuple(flags), "panel": panel, "help": help, "metavar": metavar, "choices": tuple(choices),
        "normalise": normalise, "parse": parse, "is_path": is_path, "is_option": is_option,
        "bounds": tuple((name, bound) for name, bound in bounds.items() if bound is not None),
    }  # fmt: skip
    if earlier_default is not MISSING:
        metadata["earlier_default"] = earlier_default
    return field(default=default, default_factory=factory, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a settings class, as ``setting`` declares it."""

    name: str
    kind: Any
    default: Any = MISSING
    flags: tuple[str, ...] = ()
    panel: str = ""
    help: str = ""
    metavar: str = ""
    bounds: tuple[tuple[str, float], ...] = ()
    choices: tuple[str, ...] = ()
    normalise: Callable[[Any], Any] | None = None
    parse: Callable[[str], Any] | None = None
    is_path: bool = False
    is_option: bool = True
    earlier_default: Any = None
    by_name: bool = False
    """Whether a function takes it by its name alone."""

    @property
    def stored_default(self) -> Any:
        """The value of a run whose file lacks the setting; a file does not hold None."""
        return self.default if self.earlier_default is None or self.default is None else self.earlier_default

    @property
    def parameter(self) -> str:
        """The name on the command line; an argument's own name is its flag without dashes."""
        return self.flags[0] if self.flags and not self.flags[0].startswith("-") else self.name


def _describe_bounds(bounds: Sequence[tuple[str, float]]) -> str:
    """The allowed numbers in words, to follow "it must be"."""
    match dict(bounds):
        case {"gt": lower, "lt": upper}:
            return f"between {lower:g} and {upper:g}"
        case {"ge": lower, "lt": upper}:
            return f"at least {lower:g} and below {upper:g}"
        case {"ge": lower, "le": upper}:
            return f"from {lower:g} to {upper:g}"
        case {"gt": lower}:
            return f"above {lower:g}"
        case {"ge": 0}:
            return "0 or more"
        case {"ge": lower}:
            return f"at least {lower:g}"
    raise ValueError(f"no words for the bounds {bounds}")


def read_settings(config_class: Any) -> tuple[Setting, ...]:
    """The settings of a class: first those that can be given by position.

    A field that repeats one of a base class keeps what that one declares.
    """
    return _read_settings(config_class)


@functools.cache
def _read_settings(config_class: Any) -> tuple[Setting, ...]:
    kinds = get_type_hints(config_class)
    return tuple(
        Setting(
            entry.name,
            kinds[entry.name],
            _default_of(entry),
            by_name=bool(entry.kw_only),
            **_read_metadata(config_class, entry.name),
        )
        for entry in sorted(fields(config_class), key=lambda entry: bool(entry.kw_only))
    )


def _default_of(entry: Any) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _read_metadata(config_class: Any, name: str) -> dict[str, Any]:
    """What the declarations of a field say in a class and its bases; the nearest one counts."""
    declared: dict[str, Any] = {}
    for owner in reversed(config_class.__mro__):
        owned = getattr(owner, "__dataclass_fields__", {})
        metadata = owned[name].metadata if name in owned else {}
        declared |= {key: value for key, value in metadata.items() if value not in (None, "", ())}
    return declared


def read_docstrings(config_class: Any) -> Mapping[str, str]:
    """The docstring under each field, of a class and its bases."""
    return _read_docstrings(config_class)


@functools.cache
def _read_docstrings(config_class: Any) -> Mapping[str, str]:
    docs: dict[str, str] = {}
    owners: list[Any] = [owner for owner in reversed(config_class.__mro__) if is_dataclass(owner)]
    for owner in owners:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body  # type: ignore[attr-defined]
        for statement, following in pairwise(body):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def replace_fields(instance: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass while it is being made."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


class CheckedSettings:
    """A settings class whose values are checked when it is made; errors begin with its name without ``Config``."""

    __slots__ = ()

    def __post_init__(self) -> None:
        check_settings(self, type(self).__name__.removesuffix("Config").lower())


class DefaultValue:
    """Marks a default, which nobody chose: it is kept as it is, so that settings can be told from equal ones given."""

    __slots__ = ()


def check_settings(config: Any, label: str) -> None:
    """Normalise and check each field of a settings dataclass; call it in ``__post_init__``.

    Paths become texts and lists tuples; a ``DefaultValue`` stays. Raises ConfigError that begins with ``label``.
    """
    config_class: Any = type(config)
    for entry in read_settings(config_class):
        if isinstance(getattr(config, entry.name), DefaultValue):
            continue
        value = _to_plain_value(getattr(config, entry.name))
        nested_class = nested_settings(entry.kind)
        if nested_class is not None and isinstance(value, Mapping):
            value = nested_class(**value)
        if nested_class is None or not isinstance(value, nested_class | NoneType):
            _check_setting(value, entry, label)
        if entry.normalise is not None and value is not None:
            value = entry.normalise(value)
        replace_fields(config, **{entry.name: value})


def _to_plain_value(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return tuple(map(_to_plain_value, value)) if isinstance(value, list | tuple) else value


def nested_settings(kind: Any) -> type[Any] | None:
    """The settings class that a field holds, also as an alternative to None; None for other fields."""
    return next((member for member in _members(kind) if isinstance(member, type) and is_dataclass(member)), None)


def _check_setting(value: Any, entry: Setting, label: str) -> None:
    check_type(value, entry.kind, f"{label}: {entry.name}")
    if value is None:
        return
    if entry.choices and value not in entry.choices:
        raise unknown_name_error(f"{entry.name} of {label}", value, entry.choices)
    if entry.bounds and not (math.isfinite(value) and _matches(value, Any, entry.bounds)):
        number = "" if math.isfinite(value) else "a number of "
        raise ConfigError(f"{label}: {entry.name} is {value}; it must be {number}{_describe_bounds(entry.bounds)}.")


def fill_defaults(config_class: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings, and the defaults of those that did not exist yet when they were stored."""
    filled = dict(stored)
    for entry in read_settings(config_class):
        default = entry.stored_default
        default = asdict(default) if is_dataclass(default) and not isinstance(default, type) else default
        nested_class, value = nested_settings(entry.kind), filled.get(entry.name)
        if nested_class is not None and isinstance(value, Mapping):
            filled[entry.name] = fill_defaults(nested_class, value)
        elif default is not MISSING:
            filled.setdefault(entry.name, default)
    return filled


@functools.cache
def _adapter(kind: Any, bounds: tuple[tuple[str, float], ...] = ()) -> Any:
    from pydantic import Field, TypeAdapter

    limits: dict[str, Any] = dict(bounds)
    limited: Any = Annotated[kind, Field(**limits)] if bounds else kind
    return TypeAdapter(limited)


def _matches(value: Any, kind: Any, bounds: tuple[tuple[str, float], ...] = ()) -> bool:
    from pydantic import ValidationError

    if is_dataclass(kind) or (isinstance(value, str) and get_origin(kind) is Sequence):
        return False
    try:
        _adapter(kind, bounds).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def check_type(value: Any, kind: Any, location: str) -> None:
    """Raise ConfigError with the location, the value and the allowed types, unless the value is of the type ``kind``.

    ``kind`` is an annotation: Any, str, int, float (whole numbers too), bool, Sequence[X], Mapping[str, X], a dataclass
    (a table of its fields), or a union of these.
    """
    members = [member for member in _members(kind) if member is not NoneType]
    table = next((member for member in members if is_dataclass(member)), None)
    container = next((member for member in members if _holds_items(value, member)), None)
    if table is not None and isinstance(value, Mapping):
        _check_table(value, table, location)
    elif container is not None and get_args(container):
        for place, item in _locate_items(value):
            check_type(item, get_args(container)[-1], f"{location}{place}")
    elif not any(_matches(value, member) for member in _members(kind)):
        value_text = repr(value) if len(repr(value)) <= _MAX_CHARS else f"{repr(value)[:_MAX_CHARS]}..."
        raise ConfigError(f"{location} is {value_text}; it must be {' or '.join(map(_describe_type, members))}.")


def _holds_items(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    return (origin is Sequence and isinstance(value, list | tuple)) or (
        origin is Mapping and isinstance(value, Mapping)
    )


def _locate_items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f".{key}", item) for key, item in value.items()]
    return [(f" (number {number})", item) for number, item in enumerate(value, 1)]


def check_fields(values: Mapping[str, Any], kinds: Mapping[str, Any], location: str) -> None:
    """``check_type`` each value against the type of its name. Raises ConfigError also for a name not in ``kinds``."""
    for key, value in values.items():
        if key not in kinds:
            raise unknown_name_error(f"setting in {location}:", key, kinds)
        check_type(value, kinds[key], f"{location}.{key}")


def _check_table(values: Mapping[str, Any], kind: Any, location: str) -> None:
    check_fields(values, get_type_hints(kind), location)
    missing = [entry.name for entry in fields(kind) if _default_of(entry) is MISSING and entry.name not in values]
    if missing:
        raise ConfigError(f"{location} is {dict(values)}; it lacks {' and '.join(missing)}.")


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _describe_type(kind: Any) -> str:
    if is_dataclass(kind):
        return f"a table with {', '.join(entry.name for entry in fields(kind))}"
    if get_origin(kind) is Mapping:
        return "a table" + ("" if get_args(kind)[1] is Any else f", each value {_describe_type(get_args(kind)[1])}")
    if get_origin(kind) is Sequence:
        return "a list" + ("" if get_args(kind)[0] is Any else f", each item {_describe_type(get_args(kind)[0])}")
    members = [member for member in _members(kind) if member is not NoneType]
    return " or ".join(_TYPE_NAMES[get_origin(member) or member] for member in members)
