"""The functions of ``fireact``: each command of the command line as a function of Python.

A verb's function takes the verb's settings by keyword, as its settings class declares them, or the settings class
itself; another command's takes its own. Nothing is declared again here. A run, a path or a text may stand for a
list of one.
Invariant: the commands and these functions run the same code, so that a Python user misses nothing.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, is_dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_origin
from urllib.parse import quote

from fireact.base.commands import FUNCTIONS
from fireact.base.progress import Progress
from fireact.base.run_directory import relative_path
from fireact.base.settings import Setting, nested_settings, read_docstrings, read_settings
from fireact.base.verbs import Command, Verb, import_object, load_command
from fireact.errors import ConfigError, unknown_name_error
from fireact.pipeline.result import Result, Run, tabulate_facts

if TYPE_CHECKING:
    from fireact.recording.recorder import RecorderAddress

PathLike = str | os.PathLike[str]
COMMON = ("out", "force", "dry_run", "progress")
"""Parameters of every verb's function that are no settings."""


class VerbFunction(Protocol):
    """The function of a verb: its settings by keyword, or ``(config, out)``."""

    def __call__(
        self,
        *positional: Any,
        out: PathLike | None = None,
        force: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Any: ...


class CommandFunction(Protocol):
    """The function of a command that is no verb: its settings, in part by position."""

    def __call__(self, *positional: Any, **settings: Any) -> Any: ...


def make_function(verb: Verb, name: str) -> VerbFunction:
    """The function of a verb, with a signature and a docstring made of its settings."""
    entries = _list_entries(verb)

    def function(
        *positional: Any,
        out: PathLike | None = None,
        force: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
        **values: Any,
    ) -> Any:
        if "config" in values:
            positional = (values.pop("config"), *positional)
        if positional and isinstance(positional[0], verb.config):
            call = _read_config_call(name, verb, positional, values)
        else:
            call = _read_keyword_call(name, verb, entries, positional, values)
        if len(call.extra) > 1 or (call.extra and out is not None):
            names = [*_positional_names(verb), "out"]
            raise ConfigError(f"fireact.{name} takes {', '.join(names)} by position; give others by name.")
        directory = call.extra[0] if call.extra else verb.default_out(call.given) if out is None else out
        if not isinstance(directory, str | os.PathLike):
            raise ConfigError(f"fireact.{name}: out is {directory!r}; it must be the path of a run directory.")
        directory = Path(directory)
        if dry_run:
            return _preview(verb, call.config, directory)
        run: Callable[..., Any] = import_object(verb.function) if verb.function else run_verb
        return run(verb, call.config, directory, call.options, force, progress or _choose_progress())

    _describe(function, name, _write_docstring(verb, entries), _build_signature(verb, entries))
    return function


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of a verb's function: its settings, the options that are no settings, and positional values that remain.

    ``given`` are the values by the names of parameters, for the default directory.
    """

    config: Any
    options: Any
    given: Mapping[str, Any]
    extra: Sequence[Any]


def _read_config_call(name: str, verb: Verb, positional: Sequence[Any], values: Mapping[str, Any]) -> FunctionCall:
    if values:
        raise ConfigError(f"fireact.{name} takes a {verb.config.__name__} or settings by keyword, not both.")
    config, *extra = positional
    given = {entry.parameter: getattr(config, entry.name) for entry in read_settings(verb.config)}
    return FunctionCall(config, None, given, extra)


def _read_keyword_call(
    name: str, verb: Verb, entries: Mapping[str, Setting], positional: Sequence[Any], values: Mapping[str, Any]
) -> FunctionCall:
    names = _positional_names(verb)
    values = _bind_positional(name, names, positional[: len(names)], values)
    given = _name_values(name, entries, values, COMMON)
    settings, options = verb.read_values(given)
    _require_settings(name, verb, settings)
    return FunctionCall(verb.config(**settings), options, given, positional[len(names) :])


def _bind_positional(
    function: str, names: Sequence[str], positional: Sequence[Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    """All values by name. Raises ConfigError for one too many, or given twice."""
    if len(positional) > len(names):
        raise ConfigError(f"fireact.{function} takes {', '.join(names)} by position; give others by name.")
    if repeated := [setting for setting in names[: len(positional)] if setting in values]:
        raise ConfigError(f"fireact.{function} is given {repeated[0]} by position and by name. Leave one of them out.")
    return {**dict(zip(names, positional, strict=False)), **values}


def _require_settings(function: str, command: Command, settings: Mapping[str, Any]) -> None:
    docs = read_docstrings(command.config)
    for entry in read_settings(command.config):
        if entry.default is MISSING and entry.name not in settings:
            raise ConfigError(f"fireact.{function} needs {entry.name}: {entry.help or docs.get(entry.name, '')}")


def _positional_names(verb: Verb) -> list[str]:
    """The settings without a default, which may be given by position."""
    return [entry.name for entry in read_settings(verb.config) if entry.default is MISSING]


def _list_entries(verb: Verb) -> dict[str, Setting]:
    """The settings that a function takes by their names: the verb's own, and those inside its settings classes."""
    entries: dict[str, Setting] = {}
    if verb.shorthand is not None and (verb.expand is not None or verb.function):
        entries |= {entry.name: entry for entry in read_settings(verb.shorthand)}
    entries |= {entry.name: entry for entry in read_settings(verb.config)}
    for entry in read_settings(verb.config):
        nested_class = nested_settings(entry.kind)
        if nested_class is not None and is_dataclass(entry.default):
            entries = {**entries, **{nested.name: nested for nested in read_settings(nested_class)}, **entries}
    return entries


def _name_values(
    function: str, entries: Mapping[str, Setting], values: Mapping[str, Any], other_names: Sequence[str]
) -> dict[str, Any]:
    """Values by the names of parameters: runs and paths as text, and one value as a list where a list is due."""
    for name in values:
        if name not in entries:
            raise unknown_name_error(f"setting of fireact.{function}", name, [*entries, *other_names])
    return {
        entries[name].parameter: _to_setting(value, entries[name])
        for name, value in values.items()
        if value is not None or (entries[name].default is not None and NoneType in get_args(entries[name].kind))
    }


def _to_setting(value: Any, entry: Setting) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, list | tuple):
        return [os.fspath(item) if isinstance(item, os.PathLike) else item for item in value]
    return [value] if _is_list(entry) and isinstance(value, str) else value


def _is_list(entry: Setting) -> bool:
    return any(get_origin(kind) is Sequence for kind in (entry.kind, *get_args(entry.kind)))


def _write_docstring(verb: Verb, entries: Mapping[str, Setting]) -> str:
    docs: dict[str, str] = {}
    for entry in read_settings(verb.config):
        if (nested_class := nested_settings(entry.kind)) is not None:
            docs |= {entry.name: (nested_class.__doc__ or "").partition("\n")[0], **read_docstrings(nested_class)}
    docs |= {**(read_docstrings(verb.shorthand) if verb.shorthand else {}), **read_docstrings(verb.config)}
    lines = [f"    {name}: {entry.help or docs.get(name, '')}" for name, entry in entries.items()]
    summary = inspect.getdoc(import_object(verb.function) if verb.function else verb.run) or ""
    returned = [] if verb.function else ["Returns a ``Run``, which has the fields of the manifest.", ""]
    return "\n".join([summary, "", *returned, f"Settings (the fields of {verb.config.__name__}):", *lines])


def _build_signature(verb: Verb, entries: Mapping[str, Setting]) -> inspect.Signature:
    required = [entry for entry in read_settings(verb.config) if entry.default is MISSING]
    optional = [entry for entry in entries.values() if entry not in required]
    by_position, by_name = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            *(inspect.Parameter(entry.name, by_position, annotation=entry.kind) for entry in required),
            inspect.Parameter("out", by_position, default=None, annotation=PathLike | None),
            *(
                inspect.Parameter(entry.name, by_name, default=entry.default, annotation=entry.kind)
                for entry in optional
            ),
            *(inspect.Parameter(name, by_name, default=False, annotation=bool) for name in ("force", "dry_run")),
            inspect.Parameter("progress", by_name, default=None, annotation=Progress | None),
        ],
        return_annotation=Run,
    )


def _choose_progress() -> Progress:
    from fireact.terminal.notebook import choose_progress

    return choose_progress()


def _preview(verb: Verb, config: Any, out: Path) -> Result:
    """What a run would do and cost; nothing is run."""
    from fireact.study.runner import plan_study

    preview = plan_study(config, out).to_dict() if verb.name == "study" else verb.preview_run(config, out)
    expected = tabulate_facts(preview.get("expected", preview))
    facts = ", ".join(f"{name} {value}" for name, value in expected.rows)
    return Result(preview, f"dry run of {verb.name} into {out}: {facts}", [expected])


def run_verb(verb: Verb, config: Any, out: Path, options: Any, force: bool, progress: Progress) -> Run:
    """Run a verb and return its run."""
    verb.run(config, out, force=force, progress=progress)
    return Run(out)


class RecordedRun(Run):
    """A run of ``record`` while it goes on, and after it: the proxy's ``address`` and the agent's new ``base_url``.

    While it goes on, ``feedback("ID", answer=..., score=...)`` tells what came of an episode.
    """

    def __init__(self, path: PathLike, address: RecorderAddress) -> None:
        super().__init__(path)
        self.address, self.base_url = str(address), f"{address}/v1"
        self.feedback = address.feedback

    def episode_url(self, id: str) -> str:
        """The base URL for the calls of one episode."""
        return f"{self.address}/e/{quote(id, safe='')}/v1"


@contextmanager
def record_agent(
    verb: Verb, config: Any, out: Path, options: Any, force: bool, progress: Progress
) -> Iterator[RecordedRun]:
    """Record an agent's calls through a local proxy while in the ``with`` statement; it yields a ``RecordedRun``.

    The agent's base URL is ``base_url``, or ``episode_url(ID)`` for the episode ID. At the end the trajectories and the
    manifest are written. Raises ConfigError for a taken port or a missing extra.
    """
    from fireact.recording.recorder import record_calls

    with record_calls(config, out, force=force, progress=progress) as address:
        yield RecordedRun(out, address)


def diagnose_or_repair(verb: Verb, config: Any, out: Path, options: Any, force: bool, progress: Progress) -> Any:
    """Describe a set of trajectories and report what is wrong with it, with line numbers.

    Returns a ``Result`` with the ``Diagnosis``; with ``fix`` the ``Run`` of a repaired copy.
    """
    from fireact.data.doctor import diagnose_data
    from fireact.terminal.data_tables import tabulate_findings, tabulate_groups

    if options is not None and options.fix:
        return run_verb(verb, config, out, options, force, progress)
    diagnosis = diagnose_data(config, progress=progress)
    text = f"{relative_path(config.data)}: {diagnosis.n} trajectories, {'no errors' if diagnosis.sound else 'errors'}"
    return Result(diagnosis, text, [tabulate_groups(diagnosis), tabulate_findings(diagnosis)])


def make_command_function(command: Command, name: str) -> CommandFunction:
    """The function of a command that is no verb, with a signature and a docstring made of its settings."""
    entries = {entry.name: entry for entry in read_settings(command.config)}
    by_position = [entry for entry in entries.values() if not entry.by_name]
    takes_many = len(by_position) == 1 and _is_list(by_position[0])
    _, *extra_parameters = inspect.signature(command.run).parameters.values()
    extra_names = [parameter.name for parameter in extra_parameters]

    def function(*positional: Any, **values: Any) -> Any:
        extra = {key: values.pop(key) for key in extra_names if key in values}
        given: Mapping[str, Any] = {by_position[0].name: list(positional)} if takes_many and positional else {}
        if not takes_many:
            given = _bind_positional(name, [entry.name for entry in by_position], positional, values)
        settings, _ = command.read_values(_name_values(name, entries, {**given, **values}, extra_names))
        _require_settings(name, command, settings)
        return command.run(command.config(**settings), **extra)

    docs = read_docstrings(command.config)
    lines = [f"    {entry.name}: {entry.help or docs[entry.name]}" for entry in entries.values()]
    docstring = "\n".join([inspect.getdoc(command.run) or "", "", "Settings:", *lines])
    order = inspect.Parameter.VAR_POSITIONAL if takes_many else inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY if entry.by_name else order,
            default=inspect.Parameter.empty if entry.default is MISSING else entry.default,
            annotation=entry.kind,
        )
        for entry in entries.values()
    ]
    returned = inspect.signature(command.run).return_annotation
    signature = inspect.Signature([*parameters, *extra_parameters], return_annotation=returned)
    _describe(function, name, docstring, signature)
    return function


def _describe(function: Any, name: str, docstring: str, signature: inspect.Signature) -> None:
    """Give a function the name, the docstring and the signature that ``help()`` and editors show."""
    function.__name__ = function.__qualname__ = name
    function.__doc__, function.__signature__ = docstring, signature


_made: dict[str, Any] = {}


def load_function(name: str) -> Any:
    """The function of a command, by the name that it has in ``fireact``; the command's module is imported here."""
    if name not in _made:
        command = load_command(FUNCTIONS[name])
        if isinstance(command, Verb):
            _made[name] = make_function(command, name)
        else:
            _made[name] = make_command_function(command, name)
    return _made[name]
