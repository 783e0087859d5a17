"""A command is one record beside its code, and so is a verb; this module loads them, and resumes a run by its path.

Every verb has one shape: ``run(config, out, *, force, progress) -> manifest``. A record's module is imported only when
its verb is used. The command line, Python's functions, ``resume``, dry runs and studies read
the records alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from fireact.base.commands import COMMANDS
from fireact.base.cost import CostEstimate
from fireact.base.foreign_names import refuse_foreign_names
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import build_settings, read_config, to_toml_table
from fireact.base.settings import Setting, nested_settings, read_settings
from fireact.errors import DataError, describe_unknown_name

VERBS = {name: entry.record for name, entry in COMMANDS.items() if entry.is_verb}
"""Where the record of each verb is."""
SHIPPED_DEFAULT = "default"
"""The name of the recipe that the defaults of its settings class are."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its settings class, the function that does its work, and what the command line needs to know.

    ``run(config, ...)`` returns what the function of Python returns; its other parameters are that function's alone.
    ``details`` follow the summary in the help. ``shorthand`` is a dataclass of options that are no settings.
    ``command_line``, a module:function of the command as it was typed, runs it and prints the result, for ``--json`` in
    the form that ``json_help`` describes (without it there is no such option). One that ``passes_options`` takes those
    that it does not know as words.
    """

    name: str
    config: Any
    run: Callable[..., Any]
    _: KW_ONLY
    example: str
    details: str = ""
    shorthand: Any = None
    command_line: str = "fireact.cli.running:run_and_print"
    json_help: str = "Print the result as one JSON object on standard output."
    show_defaults: bool = True
    passes_options: bool = False

    def read_values(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """The settings that values make, by the names of parameters, and the options that are no settings (or None).

        Texts are read as on the command line; other values are taken as they are. Raises ConfigError.
        """
        options = None
        if self.shorthand is not None:
            names = [entry.name for entry in read_settings(self.shorthand)]
            options = self.shorthand(**{name: given[name] for name in names if name in given})
        return dict(_read_given_settings(self.config, given)), options


@dataclass(frozen=True, slots=True)
class Verb(Command):
    """A command that writes a run directory: ``run(config, out, *, force, progress)`` returns the manifest.

    ``neutral`` settings do not change the result. ``estimate``, a function or its module:function, tells the cost for a
    dry run. ``out`` is the default directory, or a function of the given options, described by ``out_help``. ``expand``
    makes settings of the ``shorthand`` and of the options that were given. ``join`` tells what the manifest of joined
    shards holds of their episodes, from the shards' manifests and the joined directory; a verb without it cannot be
    sharded. ``after_join`` does with the joined directory what the verb itself does after a whole run. ``function``, a
    module:function, runs the verb in Python where more than the run is returned.
    """

    run: Callable[..., dict[str, Any]]
    _: KW_ONLY
    out: str | Callable[[Mapping[str, Any]], str]
    out_help: str = "Run directory to write."
    neutral: Sequence[str] = ()
    estimate: Callable[[Any], CostEstimate] | str | None = None
    expand: Callable[[Any, Mapping[str, Any]], dict[str, Any]] | None = None
    has_dry_run: bool = True
    join: Callable[[Sequence[Mapping[str, Any]], Path], dict[str, Any]] | None = None
    after_join: Callable[[Path, Progress], None] | None = None
    function: str = ""

    def estimate_cost(self, config: Any) -> CostEstimate | None:
        """The cost estimate of a run with these settings; None where the verb has none."""
        estimate = import_object(self.estimate) if isinstance(self.estimate, str) else self.estimate
        return None if estimate is None else estimate(config)

    def read_values(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """As for any command; the shorthand and recipes are expanded."""
        settings, options = Command.read_values(self, given)
        return settings if self.expand is None else self.expand(options, settings), options

    def default_out(self, given: Mapping[str, Any]) -> Path:
        """The run directory where none is given."""
        return Path(self.out if isinstance(self.out, str) else self.out(given))

    def preview_run(self, config: Any, out: Path) -> dict[str, Any]:
        """What a dry run tells: the resolved settings, and the cost estimate where there is one."""
        preview = {"verb": self.name, "out": str(out), "settings": to_toml_table(asdict(config))}
        estimate = self.estimate_cost(config)
        return preview if estimate is None else {**preview, "expected": dict(estimate.details)}


def _read_given_settings(config_class: Any, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings that the given values make, also those inside the settings classes that a setting holds."""
    for entry in read_settings(config_class):
        nested_class = nested_settings(entry.kind)
        if nested_class is not None and is_dataclass(entry.default):
            changes = dict(_read_given_settings(nested_class, given))
            if entry.parameter in given or changes or entry.parse is not None:
                yield entry.name, _read_nested(entry, given, changes)
        elif entry.parameter in given:
            yield entry.name, _read_value(entry, given[entry.parameter])


def _read_nested(entry: Setting, given: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    """The value of a setting that is a settings class: a name that is parsed, an object or a table, with changes."""
    value = given.get(entry.parameter, SHIPPED_DEFAULT if entry.parse is not None else {})
    if entry.parse is not None and isinstance(value, str):
        return entry.parse(value, **changes)
    if isinstance(value, Mapping):
        return {**value, **changes}
    return replace(value, **changes) if changes and is_dataclass(value) and not isinstance(value, type) else value


def _read_value(entry: Setting, value: Any) -> Any:
    if entry.parse is None:
        return value
    if isinstance(value, list | tuple):
        return dict(map(entry.parse, value))
    return entry.parse(value) if isinstance(value, str) else value


def import_object(path: str) -> Any:
    """The object of a module:attribute."""
    module_name, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module_name), attribute)


def load_command(name: str) -> Command:
    """The record of a command."""
    command: Command = import_object(COMMANDS[name].record)
    return command


def load_verb(name: str) -> Verb:
    """The record of a verb."""
    verb: Verb = import_object(VERBS[name])
    return verb


def resume(out: Path, *, budget: str | None = None, progress: Progress = SILENT) -> dict[str, Any]:
    """Resume a run directory by its path alone, with a new ``budget`` where the old one was spent.

    Raises DataError when the path is no run directory or its settings cannot be used.
    """
    settings = read_config(out) | ({} if budget is None else {"budget": budget})
    name = str(settings.pop("verb", ""))
    if name not in VERBS:
        raise DataError(f"{out / 'config.toml'}: {describe_unknown_name('verb', name, VERBS)}")
    verb = load_verb(name)
    refuse_foreign_names(out, settings)
    return verb.run(build_settings(verb.config, settings, out), out, progress=progress)
