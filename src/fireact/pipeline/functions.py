"""The functions of ``fireact``: each command of the command line as a function of Python.

A verb's function takes the verb's settings by keyword, as its settings class declares them, or the settings class
itself; nothing is declared again here. A run, a path or a text may stand for a list of one.
Invariant: the commands and these functions run the same code, so that a Python user misses nothing.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, is_dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_origin

from fireact.base.progress import Progress
from fireact.base.run_directory import relative_path
from fireact.base.settings import Setting, nested_settings, read_docstrings, read_settings
from fireact.base.verbs import VERBS, Verb, load_verb, resume
from fireact.errors import ConfigError, missing_path_error, unknown_name_error
from fireact.pipeline.result import Result, Run, tabulate_facts
from fireact.types import Trajectory

if TYPE_CHECKING:
    from fireact.pipeline.background import RunningServer
    from fireact.recording.recorder import RecorderAddress

PathLike = str | os.PathLike[str]
PYTHON_NAMES = {"eval": "evaluate"}
"""Functions that have another name than their command: ``eval`` is a function of Python itself."""
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


def make_function(verb: Verb) -> VerbFunction:
    """The function of a verb, with a signature and a docstring made of its settings."""
    entries = _list_entries(verb)
    name = PYTHON_NAMES.get(verb.name, verb.name)

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
        run: Callable[..., Any] = _CALLS.get(verb.name, _run_verb)
        return run(verb, call.config, directory, call.options, force, progress or _choose_progress())

    function.__name__ = function.__qualname__ = name
    function.__doc__ = _write_docstring(verb, entries)
    function.__signature__ = _build_signature(verb, entries)  # type: ignore[attr-defined]
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
    if repeated := [setting for setting in names[: len(positional)] if setting in values]:
        raise ConfigError(f"fireact.{name} is given {repeated[0]} by position and by name. Leave one of them out.")
    given = _name_values(name, entries, {**dict(zip(names, positional, strict=False)), **values})
    settings, options = verb.read_values(given)
    docs = read_docstrings(verb.config)
    for entry in read_settings(verb.config):
        if entry.name in names and entry.name not in settings:
            raise ConfigError(f"fireact.{name} needs {entry.name}: {entry.help or docs.get(entry.name, '')}")
    return FunctionCall(verb.config(**settings), options, given, positional[len(names) :])


def _positional_names(verb: Verb) -> list[str]:
    """The settings without a default, which may be given by position."""
    return [entry.name for entry in read_settings(verb.config) if entry.default is MISSING]


def _list_entries(verb: Verb) -> dict[str, Setting]:
    """The settings that a function takes by their names: the verb's own, and those inside its settings classes."""
    entries: dict[str, Setting] = {}
    if verb.shorthand is not None and (verb.expand is not None or verb.name in _CALLS):
        entries |= {entry.name: entry for entry in read_settings(verb.shorthand)}
    entries |= {entry.name: entry for entry in read_settings(verb.config)}
    for entry in read_settings(verb.config):
        nested_class = nested_settings(entry.kind)
        if nested_class is not None and is_dataclass(entry.default):
            entries = {**entries, **{nested.name: nested for nested in read_settings(nested_class)}, **entries}
    return entries


def _name_values(function: str, entries: Mapping[str, Setting], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of parameters: runs and paths as text, and one value as a list where a list is due."""
    for name in values:
        if name not in entries:
            raise unknown_name_error(f"setting of fireact.{function}", name, [*entries, *COMMON])
    return {
        entries[name].parameter: _to_setting(value, entries[name])
        for name, value in values.items()
        if value is not None
    }


def _to_setting(value: Any, entry: Setting) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, list | tuple):
        return [os.fspath(item) if isinstance(item, os.PathLike) else item for item in value]
    is_list = any(get_origin(kind) is Sequence for kind in (entry.kind, *get_args(entry.kind)))
    return [value] if is_list and isinstance(value, str) else value


def _write_docstring(verb: Verb, entries: Mapping[str, Setting]) -> str:
    docs: dict[str, str] = {}
    for entry in read_settings(verb.config):
        if (nested_class := nested_settings(entry.kind)) is not None:
            docs |= {entry.name: (nested_class.__doc__ or "").partition("\n")[0], **read_docstrings(nested_class)}
    docs |= {**(read_docstrings(verb.shorthand) if verb.shorthand else {}), **read_docstrings(verb.config)}
    lines = [f"    {name}: {entry.help or docs.get(name, '')}" for name, entry in entries.items()]
    summary = inspect.getdoc(_CALLS.get(verb.name, verb.run)) or ""
    returned = [] if verb.name in _CALLS else ["Returns a ``Run``, which has the fields of the manifest.", ""]
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


def _run_verb(verb: Verb, config: Any, out: Path, options: Any, force: bool, progress: Progress) -> Any:
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
        return f"{self.address}/e/{id}/v1"


@contextmanager
def _record(verb: Verb, config: Any, out: Path, options: Any, force: bool, progress: Progress) -> Iterator[RecordedRun]:
    """Record an agent's calls through a local proxy while in the ``with`` statement; it yields a ``RecordedRun``.

    The agent's base URL is ``base_url``, or ``episode_url(ID)`` for the episode ID. At the end the trajectories and the
    manifest are written. Raises ConfigError for a taken port or a missing extra.
    """
    from fireact.recording.recorder import recorder

    with recorder(config, out, force=force, progress=progress) as address:
        yield RecordedRun(out, address)


def _diagnose(verb: Verb, config: Any, out: Path, options: Any, force: bool, progress: Progress) -> Any:
    """Describe a set of trajectories and report what is wrong with it, with line numbers.

    Returns a ``Result`` with the ``Diagnosis``; with ``fix`` the ``Run`` of a repaired copy.
    """
    from fireact.data.doctor import diagnose_data
    from fireact.terminal.data_tables import tabulate_findings, tabulate_groups

    if options is not None and options.fix:
        return _run_verb(verb, config, out, options, force, progress)
    diagnosis = diagnose_data(config, progress=progress)
    text = f"{relative_path(config.data)}: {diagnosis.n} trajectories, {'no errors' if diagnosis.sound else 'errors'}"
    return Result(diagnosis, text, [tabulate_groups(diagnosis), tabulate_findings(diagnosis)])


_CALLS: Mapping[str, Callable[..., Any]] = {"record": _record, "doctor": _diagnose}
"""How the functions of these verbs run; all others return the run that the verb has written."""


def resume_run(run: PathLike, *, budget: str | None = None, progress: Progress | None = None) -> Run:
    """Resume a run directory by its path alone, with a new ``budget`` where the old one was spent.

    Raises DataError when the path is no run directory or its settings cannot be used.
    """
    resume(Path(run), budget=budget, progress=progress or _choose_progress())
    return Run(run)


def score_run(
    run: PathLike,
    *,
    by: str | Callable[[Trajectory], Any] | None = None,
    answers: PathLike | None = None,
    task: str | None = None,
    n: int | None = None,
    judge: str | None = None,
    out: PathLike | None = None,
    progress: Progress | None = None,
) -> Result:
    """Score trajectories by a function or a file of answers, or score a run again by the rule of a task.

    With ``by`` or ``answers`` the scores are attached in place, or to the copy ``out``; the value is a ``Grades``. With
    ``task`` alone nothing is changed; the value is a ``RescoreResult`` with every score that differs, over the first
    ``n`` questions, and ``judge`` is a model that judges the answers too. Raises ConfigError or DataError.
    """
    source = Path(run)
    if not source.exists():
        raise missing_path_error(source)
    if by is None and answers is None and task is not None:
        return _score_again(source, task, n=n, judge=judge, out=out, progress=progress)
    for name, value in (("n", n), ("judge", judge)):
        if value is not None:
            raise ConfigError(f"{name} is for a task alone, which scores a run again. Leave it out.")
    return _attach_scores(source, by, answers, task, out)


def _attach_scores(source: Path, by: Any, answers: PathLike | None, task: str | None, out: PathLike | None) -> Result:
    from fireact.base import jsonl
    from fireact.data.sources import is_trajectory_file, read_any_trajectories
    from fireact.recording.scores import score

    target = source if out is None else _require_new_file(out)
    if out is not None:
        jsonl.write_objects(target, (trajectory.to_dict() for trajectory in read_any_trajectories(source)))
    elif not is_trajectory_file(source):
        raise ConfigError(
            f"{source} is in another format, which is left as it is. Give out (-o FILE) for the scored episodes."
        )
    grades = score(target, by=by, answers=None if answers is None else os.fspath(answers), task=task)
    unscored = len(grades.unmatched) + len(grades.faults)
    return Result(grades, f"{target}: {grades.scored} scored, EM {grades.em:.1%}; {unscored} not scored")


def _require_new_file(out: PathLike) -> Path:
    if Path(out).exists():
        raise ConfigError(f"{out} exists already. Choose another out (-o).")
    return Path(out)


def _score_again(
    source: Path, task: str, *, n: int | None, judge: str | None, out: PathLike | None, progress: Progress | None
) -> Result:
    from fireact.base import jsonl
    from fireact.evaluation.rescore import read_run_trajectories, rescore
    from fireact.rollout.agents import load_model, load_task
    from fireact.tasks.judge import Judge
    from fireact.terminal.evaluation import tabulate_rescored

    target = None if out is None else _require_new_file(out)
    rule, referee = load_task(task), Judge(load_model(judge).lm) if judge else None
    trajectories = read_run_trajectories(source, task=rule.name)
    progress = progress or (_choose_progress() if referee else Progress())
    result = rescore(trajectories, rule, n=n, judge=referee, progress=progress)
    if target is not None:
        jsonl.write_objects(target, (trajectory.to_dict() for trajectory in result.trajectories))
    means = ", ".join(f"{name} {mean:.1%}" for name, mean in result.means.items())
    text = f"{result.task}, {result.n} questions: {means}; {len(result.disagreements)} disagreements"
    return Result(result, text, [tabulate_rescored(result)])


def render_samples(
    data: PathLike,
    *,
    student: str = "smollm2-135m",
    renderer: str = "auto",
    tools: str | Sequence[str] = ("search",),
    n: int = 3,
    skip_bad: bool = False,
) -> Result:
    """The first ``n`` training samples of some data, token by token: the value is a list of ``SamplePreview``."""
    from fireact.training.samples import Rendering

    tools = (tools,) if isinstance(tools, str) else tuple(tools)
    rendering = Rendering(Path(data), renderer=renderer, student=student, tools=tools, skip_bad=skip_bad)
    samples = list(islice(rendering.preview_samples(), n))
    text = f"{len(samples)} samples of {os.fspath(data)}, {sum(sample.trained for sample in samples)} tokens trained on"
    return Result(samples, text, [_MarkedText(sample.key, sample.spans) for sample in samples])


class _MarkedText:
    """A sample for a notebook."""

    def __init__(self, key: str, spans: Sequence[tuple[str, bool]]) -> None:
        self._key, self._spans = key, spans

    def _repr_html_(self) -> str:
        from fireact.terminal.notebook import write_marked_text

        return write_marked_text(self._key, self._spans)


def convert_file(
    source: PathLike,
    out: PathLike,
    *,
    to: str,
    format: str | None = None,
    fix: bool = False,
    tools: Sequence[Any] = (),
    trainer: str | None = None,
    skip: bool = False,
    force: bool = False,
) -> Result:
    """Convert episodes from one format to another; the value is a report of damage, repairs and losses.

    ``tools`` are names or objects, for episodes without schemas. ``trainer`` adds its dataset entry to the report.
    Raises DataError and ConfigError.
    """
    from fireact.formats.conversion import convert
    from fireact.rollout.agents import load_tools
    from fireact.terminal.data_tables import tabulate_conversion

    names = [tools] if isinstance(tools, str) else [tool for tool in tools if isinstance(tool, str)]
    objects = [] if isinstance(tools, str) else [tool for tool in tools if not isinstance(tool, str)]
    report = convert(
        Path(source), Path(out), to=to, format=format, fix=fix, trainer=trainer, skip=skip, force=force,
        tools=(*load_tools(names).values(), *objects),
    )  # fmt: skip
    text = f"{report.source_format} -> {report.to}: {report.trajectories} episodes, {report.rows} rows in {out}"
    return Result(report, text, [tabulate_conversion(report)])


def show_trajectories(run: PathLike, *, where: str | Sequence[str] = (), n: int | None = 5) -> Result:
    """The first ``n`` trajectories that pass the filters ``where`` (all with None), of a run or a file of any format.

    The value is a list of ``Trajectory``.
    """
    from fireact.data import predicate
    from fireact.data.sources import read_any_trajectories

    if n is not None and n < 0:
        raise ConfigError(f"n is {n}; it must be at least 0.")
    filters = [predicate(text) for text in ([where] if isinstance(where, str) else where)]
    matching = (entry for entry in read_any_trajectories(Path(run)) if all(matches(entry) for matches in filters))
    trajectories = list(islice(matching, n))
    return Result(trajectories, f"{len(trajectories)} trajectories of {os.fspath(run)}", trajectories)


def validate_names(*names: PathLike, tools: Sequence[str] = (), progress: Progress | None = None) -> Result:
    """Prove that tasks are sound (a list of ``TaskValidation``), or that a run is served as trained (``Conformance``).

    ``tools`` are those of the student of a run.
    """
    from fireact.rollout.agents import load_task
    from fireact.tasks.files import is_file_spec
    from fireact.tasks.validate import validate_task
    from fireact.terminal.data_tables import tabulate_validation

    texts = [os.fspath(name) for name in names]
    paths = [text for text in texts if _is_path(text) and not is_file_spec(text)]
    if paths and len(texts) > 1:
        raise ConfigError(
            f"{paths[0]} is a path: validate takes tasks, or the directory of one student alone. Run it for each."
        )
    if paths:
        from fireact.serving.conformance import check_conformance

        conformance = check_conformance(texts[0], tools=tuple(tools), progress=progress or _choose_progress())
        return Result(
            conformance, f"{texts[0]}: {conformance.equal} of {conformance.turns} turns are served as trained"
        )
    if tools:
        raise ConfigError("tools (--tool) are for a directory of 'fireact train'; tasks have no tools. Leave them out.")
    findings = [validate_task(load_task(name)) for name in texts]
    text = "; ".join(f"{finding.task}: {len(finding.problems) or 'no'} problems" for finding in findings)
    return Result(findings, text, [tabulate_validation(findings)])


def _is_path(text: str) -> bool:
    """Whether a text names a path and not a task: it is there, or it has a separator of paths and no colon."""
    return Path(text).exists() or (os.sep in text and ":" not in text)


def cancel_run(run: PathLike) -> Result:
    """Stop the job of a run at a provider; its cost so far is still charged. The value is the ``Job``."""
    from fireact.hosted.tune import cancel_job

    job = cancel_job(Path(run))
    return Result(job, f"job {job.id}: {job.status}")


def compare_paths(before: PathLike, after: PathLike, *, allow: str | Sequence[str] = ()) -> Result:
    """Compare two runs question by question, also a recording with an evaluation; the value is a ``RunComparison``.

    Raises ConfigError where their conditions differ in more than ``allow`` names (noise, tools, limits, ...), or where
    an agent was trained on questions of both, unless it names ``trained``.
    """
    from fireact.evaluation.comparison import compare_runs, read_scored_runs
    from fireact.terminal.comparison import list_comparison_tables

    runs = read_scored_runs(Path(before), Path(after))
    comparison = compare_runs(*runs, allow=[allow] if isinstance(allow, str) else allow)
    changes = "; ".join(
        f"{task.task} {name.upper()} {first:.1%} -> {second:.1%} (p = {change.p:.2g}, n = {task.n})"
        for task in comparison.tasks
        for name, (first, second, change) in islice(task.scores.items(), 1)
    )
    tables = [table for task in comparison.tasks for table in list_comparison_tables(task)]
    return Result(comparison, f"A {runs[0].name}, B {runs[1].name}: {changes}", tables)


def view_runs(*runs: PathLike, host: str = "127.0.0.1", port: int = 8200) -> RunningServer:
    """Serve the page of some runs, also while they go on, until its ``stop()``; port 0 takes a free one."""
    from fireact.pipeline.background import start_view

    return start_view([Path(run).absolute() for run in runs], host=host, port=port)


def ask_question(
    question: str,
    agent: PathLike = "runs/quickstart",
    *,
    tools: str | Sequence[str] | None = None,
    other_tools: bool = False,
    task: str = "geo-hop",
    on_text: Callable[[str], None] | None = None,
) -> Trajectory:
    """Ask an agent a question of no task; ``on_text`` gets the episode's text as it is written.

    ``task`` sets the limits, and the examples where the agent needs some. Raises ProviderError where a tool or the LM
    fails.
    """
    from fireact.rollout.agents import load_agent
    from fireact.serving.stream import run_question

    tools = [tools] if isinstance(tools, str) else tools
    return run_question(
        load_agent(os.fspath(agent), task, tools, slots=1, other_tools=other_tools),
        question,
        on_text or (lambda text: None),
    )


def serve_agent(
    agent: PathLike = "runs/quickstart",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = "fireact",
    tools: str | Sequence[str] | None = None,
    task: str = "geo-hop",
    slots: int = 16,
    engine: str = "transformers",
    aliases: str | Sequence[str] = (),
    other_tools: bool = False,
    constrain: bool = True,
    lenient: bool = False,
    strict: bool = False,
) -> RunningServer:
    """Serve a fine-tuned student, and the agent around it, to OpenAI clients, until its ``stop()``; port 0 is free."""
    from fireact.pipeline.background import start_serving

    tools = [tools] if isinstance(tools, str) else tools
    return start_serving(
        os.fspath(agent), host=host, port=port, name=name, tools=tools, task=task, slots=slots, engine=engine,
        aliases=[aliases] if isinstance(aliases, str) else aliases, other_tools=other_tools, constrain=constrain,
        lenient=lenient, strict=strict,
    )  # fmt: skip


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "resume": resume_run, "score": score_run, "render": render_samples, "convert": convert_file,
    "show": show_trajectories, "validate": validate_names, "cancel": cancel_run, "compare": compare_paths,
    "view": view_runs, "ask": ask_question, "serve": serve_agent,
}  # fmt: skip
"""The functions of commands that are no verbs, by the names under which ``fireact`` has them."""
_made: dict[str, Any] = {}


def load_function(name: str) -> Any:
    """The function of a command, by the name that it has in ``fireact``; a verb's module is imported here."""
    if name not in _made:
        if name in FUNCTIONS:
            function: Any = FUNCTIONS[name]
            function.__name__ = function.__qualname__ = name
        else:
            verb_name = next((verb for verb, python_name in PYTHON_NAMES.items() if python_name == name), name)
            function = make_function(load_verb(verb_name))
        _made[name] = function
    return _made[name]


def list_functions() -> list[str]:
    """The names of all functions that commands have in ``fireact``."""
    return [*(PYTHON_NAMES.get(verb, verb) for verb in VERBS), *FUNCTIONS]
