"""The options of commands: each setting becomes an option, and the given options become the settings.

Invariant: only what is given on the command line reaches the settings; every default is the settings class's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, is_dataclass
from itertools import chain
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin

import typer

from fireact.base.settings import Setting, nested_settings, read_docstrings, read_settings
from fireact.base.verbs import SHIPPED_DEFAULT, Command, Verb, import_object
from fireact.cli.running import CommandCall, VerbCall

OUTPUT = "Output"
FORCE_HELP = "Delete what is in the run directory and start anew."
DRY_RUN_HELP = "Show the settings, the counts and the cost; do nothing."


def make_callback(record: Command) -> Any:
    """A function that typer makes a command of: its parameters are the settings of a command."""
    parameters = list(_make_parameters(record))

    def command(context: typer.Context, **values: Any) -> None:
        given = {name: value for name, value in values.items() if _is_given(context, name)}
        import_object(record.command_line)(_read_call(record, given))

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    return command


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _read_call(record: Command, given: Mapping[str, Any]) -> CommandCall:
    """What the options say: the settings, the options that are no settings, and where the run goes."""
    settings, options = record.read_values(given)
    as_json = bool(given.get("as_json"))
    if not isinstance(record, Verb):
        return CommandCall(record, settings, options, as_json)
    out = given.get("out") or record.default_out(given)
    flags = {name: bool(given.get(name)) for name in ("force", "dry_run")}
    return VerbCall(record, settings, options, as_json, out, **flags)


def _make_parameters(record: Command) -> Iterator[inspect.Parameter]:
    settings = list(_make_setting_parameters(record.config, show_defaults=record.show_defaults))
    yield from (parameter for parameter in settings if isinstance(_info(parameter), typer.models.ArgumentInfo))
    shorthand = () if record.shorthand is None else _make_setting_parameters(record.shorthand, show_defaults=True)
    options = (parameter for parameter in settings if not isinstance(_info(parameter), typer.models.ArgumentInfo))
    yield from chain(shorthand, options) if isinstance(record, Verb) else chain(options, shorthand)
    if isinstance(record, Verb):
        out = Path(record.out) if isinstance(record.out, str) else None
        yield _make_parameter("out", Path, _option("-o", "--out", help=record.out_help), out)
        yield _make_parameter("force", bool, _option("--force", help=FORCE_HELP), False)
    if record.json_help:
        yield _make_parameter("as_json", bool, _option("--json", help=record.json_help), False)
    if isinstance(record, Verb) and record.has_dry_run:
        yield _make_parameter("dry_run", bool, _option("--dry-run", help=DRY_RUN_HELP), False)


def _option(*flags: str, help: str, panel: str = OUTPUT) -> Any:
    return typer.Option(*flags, help=help, rich_help_panel=panel or None)


def _info(parameter: inspect.Parameter) -> Any:
    return get_args(parameter.annotation)[1]


def _make_parameter(name: str, kind: Any, info: Any, default: Any) -> inspect.Parameter:
    shown = inspect.Parameter.empty if default is MISSING else default
    annotation: Any = Annotated[kind | None if default is None else kind, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=annotation)


def _make_setting_parameters(config_class: Any, *, show_defaults: bool) -> Iterator[inspect.Parameter]:
    """The parameters of a settings class, and of the settings classes that it holds."""
    docs = read_docstrings(config_class)
    for entry in read_settings(config_class):
        nested_class, help = nested_settings(entry.kind), entry.help or docs.get(entry.name, "")
        if nested_class is not None and is_dataclass(entry.default):
            if entry.parse is not None:
                yield _make_parameter(entry.name, str, _option(help=help, panel=entry.panel), SHIPPED_DEFAULT)
            yield from _make_setting_parameters(nested_class, show_defaults=entry.parse is None)
        elif entry.is_option:
            yield _make_setting_parameter(entry, help, show_default=show_defaults)


def _make_setting_parameter(entry: Setting, help: str, *, show_default: bool) -> inspect.Parameter:
    name, kind = entry.parameter, _option_kind(entry)
    default: Any
    is_required = entry.default is MISSING and not any(flag.startswith("-") for flag in entry.flags)
    if is_required or entry.metavar:
        default = "" if name != entry.name else entry.default
        return _make_parameter(name, kind, typer.Argument(help=help, metavar=entry.metavar or name.upper()), default)
    flags = entry.flags or ((f"--{name.replace('_', '-')}",) if kind is bool or get_origin(kind) is list else ())
    default = entry.default if show_default or kind is bool or entry.default is MISSING else None
    if get_origin(kind) is list and default is not MISSING:
        default = None
    return _make_parameter(name, kind, _option(*flags, help=help, panel=entry.panel), default)


def _option_kind(entry: Setting) -> Any:
    """The type of the option of a setting."""
    members = [member for member in get_args(entry.kind) if member is not NoneType]
    kind = members[0] if isinstance(entry.kind, UnionType) else entry.kind
    if get_origin(kind) in (Sequence, Mapping):
        return list[Path] if entry.is_path else list[str]
    if entry.is_path:
        return Path
    return str if is_dataclass(kind) else kind
