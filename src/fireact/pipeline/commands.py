"""The commands that are no verbs: they read runs, or run an agent, and write no run directory.

Each is one settings class, one function and one record. The command line and Python's functions come from these.
Invariant: a module that a command needs is imported when the command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireact.base.progress import Progress
from fireact.base.settings import AGENT, OUTPUT, CheckedSettings, setting
from fireact.base.verbs import Command, resume
from fireact.errors import ConfigError, missing_path_error
from fireact.models.limits import check_budget
from fireact.rollout.loading import AUTO_RENDERER_HELP, SEARCH, STUDENT_HELP, TASK_SPEC, TRAINING_TOOLS_HELP
from fireact.serving.service import HOST_HELP, AgentUse, ServeConfig

if TYPE_CHECKING:
    from fireact.base.listening import RunningServer
    from fireact.pipeline.result import Result, Run
    from fireact.types import Trajectory

SCORE_AGAIN = "Score again (--task alone)"
ONE_LINE_JSON = "One JSON object a line."


def _choose_progress(progress: Progress | None) -> Progress:
    from fireact.terminal.notebook import choose_progress

    return progress or choose_progress()


@dataclass(frozen=True, slots=True)
class ResumeConfig(CheckedSettings):
    """Settings of ``resume``."""

    run: str = setting(metavar="RUN", is_path=True)
    """A run directory that is not complete."""
    _: KW_ONLY
    budget: str | None = setting(None, normalise=check_budget)
    """5usd, 200000tokens or 1000calls: the run stops before it is passed."""


def resume_run(config: ResumeConfig, *, progress: Progress | None = None) -> Run:
    """Resume a run directory by its path alone, with a new ``budget`` where the old one was spent.

    Raises DataError when the path is no run directory or its settings cannot be used.
    """
    from fireact.pipeline.result import Run

    resume(Path(config.run), budget=config.budget, progress=_choose_progress(progress))
    return Run(config.run)


RESUME = Command(
    "resume", ResumeConfig, resume_run, command_line="fireact.cli.runs:resume_command", json_help="",
    example="`fireact resume runs/quickstart`, or `fireact resume runs/collect --budget 10usd` after the first is\n"
    "spent",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CancelConfig(CheckedSettings):
    """Settings of ``cancel``."""

    run: str = setting(metavar="RUN", is_path=True)
    """A directory of 'fireact tune'."""


def cancel_run(config: CancelConfig) -> Result:
    """Stop the job of a run at a provider; its cost so far is still charged. The value is the ``Job``."""
    from fireact.hosted.tune import cancel_job
    from fireact.pipeline.result import Result

    job = cancel_job(Path(config.run))
    return Result(job, f"job {job.id}: {job.status}")


CANCEL = Command(
    "cancel",
    CancelConfig,
    cancel_run,
    command_line="fireact.cli.runs:cancel_command",
    example="`fireact cancel runs/tune`",
)


@dataclass(frozen=True, slots=True)
class ScoreConfig(CheckedSettings):
    """Settings of ``score``."""

    run: str = setting(metavar="RUN", is_path=True)
    """A run directory, or a file of trajectories in any format that 'convert' reads."""
    _: KW_ONLY
    by: str | Callable[..., Any] | None = setting(None, flags=("--with",))
    """module:function of a trajectory; returns a number from 0 to 1, or a dict."""
    answers: str | None = setting(None)
    """JSONL, CSV or Parquet file with answer, and question or id: FILE[:QUESTION,ANSWER[,id=COLUMN]]."""
    task: str | None = setting(
        None, flags=("-t", "--task"),
        help=f"Task whose rule scores: {TASK_SPEC}. With --answers the default is EM and F1 as free text.",
    )  # fmt: skip
    n: int | None = setting(None, flags=("-n",), panel=SCORE_AGAIN)
    """Questions that were asked; those without an episode count as wrong. Default: episodes."""
    judge: str | None = setting(None, panel=SCORE_AGAIN)
    """A model that judges the answers too: one call for each, counted and shown."""
    out: str | None = setting(None, flags=("-o", "--out"), is_path=True, panel=OUTPUT)
    """JSONL file for the scored episodes, in place of the source itself."""


def score_run(config: ScoreConfig, *, progress: Progress | None = None) -> Result:
    """Score trajectories by a function or a file of answers, or score a run again by the rule of a task.

    With ``by`` or ``answers`` the scores are attached in place, or to the copy ``out``; the value is a ``Grades``. With
    ``task`` alone nothing is changed; the value is a ``RescoreResult`` with every score that differs, over the first
    ``n`` questions, and ``judge`` is a model that judges the answers too. Raises ConfigError or DataError.
    """
    if not Path(config.run).exists():
        raise missing_path_error(config.run)
    if config.by is None and config.answers is None and config.task is not None:
        return _score_again(config, config.task, progress)
    for name, value in (("n", config.n), ("judge", config.judge)):
        if value is not None:
            raise ConfigError(f"{name} is for a task alone, which scores a run again. Leave it out.")
    return _attach_scores(config)


def _attach_scores(config: ScoreConfig) -> Result:
    from fireact.base import jsonl
    from fireact.data.sources import is_trajectory_file, read_any_trajectories
    from fireact.pipeline.result import Result
    from fireact.recording.scores import score
    from fireact.reporting.wording import percent

    source = Path(config.run)
    target = source if config.out is None else _require_new_file(config.out)
    if config.out is not None:
        jsonl.write_objects(target, (trajectory.to_dict() for trajectory in read_any_trajectories(source)))
    elif not is_trajectory_file(source):
        raise ConfigError(
            f"{source} is in another format, which is left as it is. Give out (-o FILE) for the scored episodes."
        )
    grades = score(target, by=config.by, answers=config.answers, task=config.task)
    unscored = len(grades.unmatched) + len(grades.faults)
    return Result(grades, f"{target}: {grades.scored} scored, EM {percent(grades.em)}; {unscored} not scored")


def _require_new_file(out: str) -> Path:
    if Path(out).exists():
        raise ConfigError(f"{out} exists already. Choose another out (-o).")
    return Path(out)


def _score_again(config: ScoreConfig, task: str, progress: Progress | None) -> Result:
    from fireact.base import jsonl
    from fireact.evaluation.rescore import read_run_trajectories, rescore
    from fireact.pipeline.result import Result
    from fireact.rollout.loading import load_task
    from fireact.rollout.models import load_model
    from fireact.tasks.judge import Judge
    from fireact.terminal.evaluation import tabulate_rescored

    target = None if config.out is None else _require_new_file(config.out)
    rule, referee = load_task(task), Judge(load_model(config.judge).lm) if config.judge else None
    trajectories = read_run_trajectories(Path(config.run), task=rule.name)
    shown_progress = _choose_progress(progress) if referee else Progress()
    result = rescore(trajectories, rule, n=config.n, judge=referee, progress=shown_progress)
    if target is not None:
        jsonl.write_objects(target, (trajectory.to_dict() for trajectory in result.trajectories))
    means = ", ".join(f"{name} {mean:.1%}" for name, mean in result.means.items())
    text = f"{result.task}, {result.n} questions: {means}; {len(result.disagreements)} disagreements"
    return Result(result, text, [tabulate_rescored(result)])


SCORE = Command(
    "score", ScoreConfig, score_run, command_line="fireact.cli.data:score_command",
    details="With --with or --answers the scores are attached in place. With --task alone a stored run is scored\n"
    "again, which changes nothing in it, and each episode whose own score differs is listed.",
    example="`fireact score runs/mine --answers answers.csv`, `fireact score runs/mine --with my_scores:correct`, or\n"
    "`fireact score runs/eval --task hotpotqa:data/hotpotqa -n 500`",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RenderConfig(CheckedSettings):
    """Settings of ``render``."""

    data: str = setting(metavar="DATA", is_path=True)
    """Trajectories in any format that 'convert' reads, or a run directory."""
    _: KW_ONLY
    student: str = setting("smollm2-135m", help=STUDENT_HELP)
    renderer: str = setting("auto", help=AUTO_RENDERER_HELP)
    tools: Sequence[str] = setting(SEARCH, flags=("--tool",), panel=AGENT, help=TRAINING_TOOLS_HELP)
    n: int = setting(3, flags=("--peek",), low=1)
    """How many samples to show."""
    workers: int = setting(0, low=0)
    """Processes; 0 is one for small data, else one a core."""
    out: str | None = setting(None, flags=("-o", "--out"), is_path=True)
    """JSONL file to write every sample to."""
    form: str = setting("tokens")
    """Of the file: tokens (input_ids, labels) or messages (with what is trained)."""
    skip_bad: bool = setting(False)
    """Leave out lines that cannot be read, and say so."""


def render_samples(config: RenderConfig, *, progress: Progress | None = None) -> Result:
    """The first ``n`` training samples of some data, token by token: the value is a list of ``SamplePreview``.

    With ``out`` every sample is written to a file, and the value is a ``RenderCounts``.
    """
    from fireact.pipeline.result import MarkedText, Result
    from fireact.training.samples import Rendering

    rendering = Rendering(
        Path(config.data), renderer=config.renderer, student=config.student, tools=config.tools,
        workers=config.workers, skip_bad=config.skip_bad,
    )  # fmt: skip
    if config.out is not None:
        counts = rendering.write(Path(config.out), config.form, progress=_choose_progress(progress))
        return Result(counts, f"{counts.samples} samples of {config.data} in {config.out}")
    samples = list(islice(rendering.preview_samples(), config.n))
    text = f"{len(samples)} samples of {config.data}, {sum(sample.trained for sample in samples)} tokens trained on"
    return Result(samples, text, [MarkedText(sample.key, sample.spans) for sample in samples])


RENDER = Command(
    "render", RenderConfig, render_samples, command_line="fireact.cli.data:render_command", json_help=ONE_LINE_JSON,
    example="`fireact render runs/mix --peek 3`, or `fireact render runs/mix -o samples.jsonl`",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConvertConfig(CheckedSettings):
    """Settings of ``convert``."""

    source: str = setting(metavar="SOURCE", is_path=True)
    """A file of episodes in any known format, or a run directory."""
    out: str = setting(flags=("-o", "--out"), is_path=True)
    """File to write (a directory for dataset and sts)."""
    _: KW_ONLY
    to: str = setting(flags=("--to",))
    """alpaca, gpt, sharegpt, messages, openai, prompt-completion, parquet, dataset (a directory), fireact; for viewers
    atif, otlp, inspect and sts (a directory).
    """
    format: str | None = setting(None, flags=("--from",))
    """Format of the source. Default: recognised from what is in it."""
    fix: bool = setting(False)
    """Repair known damage instead of keeping it."""
    tools: Sequence[Any] = setting((), flags=("--tool",))
    """Tool whose schema episodes without schemas get; repeatable. Default: inferred."""
    trainer: str | None = setting(None, flags=("--for",))
    """Print the dataset entry for llama-factory, axolotl or trl."""
    skip: bool = setting(False, flags=("--skip-bad",))
    """Leave out rows that cannot be read, and count them."""
    force: bool = setting(False)
    """Write over what is there."""


def convert_file(config: ConvertConfig) -> Result:
    """Convert episodes from one format to another; the value is a report of damage, repairs and losses.

    ``tools`` are names or objects, for episodes without schemas. ``trainer`` adds its dataset entry to the report.
    Raises DataError and ConfigError.
    """
    from fireact.formats.conversion import convert
    from fireact.pipeline.result import Result
    from fireact.rollout.loading import load_tools
    from fireact.terminal.data_tables import tabulate_conversion

    names = [tool for tool in config.tools if isinstance(tool, str)]
    objects = [tool for tool in config.tools if not isinstance(tool, str)]
    report = convert(
        Path(config.source), Path(config.out), to=config.to, format=config.format, fix=config.fix,
        trainer=config.trainer, skip=config.skip, force=config.force,
        tools=(*load_tools(names).values(), *objects),
    )  # fmt: skip
    text = f"{report.source_format} -> {report.to}: {report.trajectories} episodes, {report.rows} rows in {config.out}"
    return Result(report, text, [tabulate_conversion(report)])


CONVERT = Command(
    "convert", ConvertConfig, convert_file, command_line="fireact.cli.data:convert_command",
    example="`fireact convert runs/mix --to sharegpt -o train.jsonl --tool search --for llama-factory`",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShowConfig(CheckedSettings):
    """Settings of ``show``."""

    run: str = setting(metavar="RUN", is_path=True)
    """A run directory, or a file in any format that 'convert' reads."""
    _: KW_ONLY
    where: Sequence[str] = setting((), flags=("-w", "--where"))
    """Filter: correct, em<1, steps<=6, task=geo-hop; repeatable."""
    n: int | None = setting(5, flags=("-n",), low=0)
    """How many."""


def show_trajectories(config: ShowConfig) -> Result:
    """The first ``n`` trajectories that pass the filters ``where`` (all with None), of a run or a file of any format.

    The value is a list of ``Trajectory``.
    """
    from fireact.data import predicate
    from fireact.data.sources import read_any_trajectories
    from fireact.pipeline.result import Result

    filters = list(map(predicate, config.where))
    matching = (
        entry for entry in read_any_trajectories(Path(config.run)) if all(matches(entry) for matches in filters)
    )
    trajectories = list(islice(matching, config.n))
    return Result(trajectories, f"{len(trajectories)} trajectories of {config.run}", trajectories)


SHOW = Command(
    "show", ShowConfig, show_trajectories, command_line="fireact.cli.data:show_command", json_help=ONE_LINE_JSON,
    example='`fireact show runs/quickstart/eval-fireact -w "em<1" -n 3`',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ValidateConfig(CheckedSettings):
    """Settings of ``validate``."""

    names: Sequence[str] = setting(metavar="TASK|RUN", help=f"Tasks: {TASK_SPEC}; or one directory of 'fireact train'.")
    _: KW_ONLY
    tools: Sequence[str] = setting((), flags=("--tool",))
    """Tool of the student of RUN; repeatable. Default: the run's."""


def validate_names(config: ValidateConfig, *, progress: Progress | None = None) -> Result:
    """Prove that tasks are sound (a list of ``TaskValidation``), or that a run is served as trained (``Conformance``).

    ``tools`` are those of the student of a run.
    """
    from fireact.pipeline.result import Result
    from fireact.rollout.loading import load_task
    from fireact.tasks.files import is_file_spec
    from fireact.tasks.validate import validate_task
    from fireact.terminal.data_tables import tabulate_validation

    names = config.names
    paths = [name for name in names if _is_path(name) and not is_file_spec(name)]
    if paths and len(names) > 1:
        raise ConfigError(
            f"{paths[0]} is a path: validate takes tasks, or the directory of one student alone. Run it for each."
        )
    if paths:
        from fireact.serving.conformance import check_conformance

        conformance = check_conformance(names[0], tools=tuple(config.tools), progress=_choose_progress(progress))
        return Result(
            conformance, f"{names[0]}: {conformance.equal} of {conformance.turns} turns are served as trained"
        )
    if config.tools:
        raise ConfigError("tools (--tool) are for a directory of 'fireact train'; tasks have no tools. Leave them out.")
    findings = [validate_task(load_task(name)) for name in names]
    text = "; ".join(f"{finding.task}: {len(finding.problems) or 'no'} problems" for finding in findings)
    return Result(findings, text, [tabulate_validation(findings)])


def _is_path(text: str) -> bool:
    """Whether a text names a path and not a task: it is there, or it has a separator of paths and no colon."""
    return Path(text).exists() or (os.sep in text and ":" not in text)


VALIDATE = Command(
    "validate", ValidateConfig, validate_names, command_line="fireact.cli.data:validate_command",
    details="Of a task: gold scores 1, empty scores 0, the corpus holds every answer, splits do not leak. Without a\n"
    "corpus, answers are not looked up. Of a run: a client's prompts have the tokens of training, and merged weights\n"
    "answer alike.",
    example="`fireact validate geo-hop geo-compose`, or `fireact validate runs/quickstart`",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CompareConfig(CheckedSettings):
    """Settings of ``compare``."""

    before: str = setting(metavar="RUN_A", is_path=True)
    """A directory of 'fireact eval', 'record' or 'collect', or a file of scored episodes."""
    after: str = setting(metavar="RUN_B", is_path=True)
    """Another, on the same questions."""
    _: KW_ONLY
    allow: Sequence[str] = setting(())
    """What may differ on purpose: noise, tools, limits, split, questions or seed; or trained: show questions that an
    agent was trained on, apart. Repeatable. Default: nothing."""


@dataclass(frozen=True, slots=True)
class FlipsOption:
    """The option that says how much of a comparison is printed."""

    flips: int = setting(3)
    """Questions to show that one run has right and the other wrong."""


def compare_paths(config: CompareConfig) -> Result:
    """Compare two runs question by question, also a recording with an evaluation; the value is a ``RunComparison``.

    Raises ConfigError where their conditions differ in more than ``allow`` names (noise, tools, limits, ...), or where
    an agent was trained on questions of both, unless it names ``trained``.
    """
    from fireact.evaluation.compared_runs import read_scored_runs
    from fireact.evaluation.comparison import compare_runs
    from fireact.pipeline.result import Result
    from fireact.reporting.wording import p_value
    from fireact.terminal.comparison import list_comparison_tables

    runs = read_scored_runs(Path(config.before), Path(config.after))
    comparison = compare_runs(*runs, allow=config.allow)
    changes = "; ".join(
        f"{task.task} {name.upper()} {first:.1%} -> {second:.1%} ({p_value(change.p)}, n = {task.n})"
        for task in comparison.tasks
        for name, (first, second, change) in islice(task.scores.items(), 1)
    )
    tables = [table for task in comparison.tasks for table in list_comparison_tables(task)]
    return Result(comparison, f"A {runs[0].name}, B {runs[1].name}: {changes}", tables)


COMPARE = Command(
    "compare", CompareConfig, compare_paths, shorthand=FlipsOption,
    command_line="fireact.cli.runs:compare_command",
    details="Runs compare only when task, split, questions, tools, noise, limits and seed agree; otherwise it says\n"
    "what differs. Questions pair by their id, or else by their words.",
    example="`fireact compare runs/eval-base runs/eval-fireact --flips 10`, `fireact compare runs/mine runs/eval` for\n"
    "a recorded teacher and its student, or with `--allow noise` for a noisy run",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ViewConfig(CheckedSettings):
    """Settings of ``view``."""

    runs: Sequence[str] = setting(metavar="RUNS", is_path=True)
    """Run directories, complete or in progress, directories that hold some, or files of episodes."""
    _: KW_ONLY
    host: str = setting("127.0.0.1", help=HOST_HELP)
    port: int = 8200
    """Port; 0 takes a free one."""


def view_runs(config: ViewConfig) -> RunningServer:
    """Serve the page of some runs, also while they go on, until its ``stop()``; port 0 takes a free one."""
    from fireact.reporting.view import start_view

    return start_view([Path(run).absolute() for run in config.runs], host=config.host, port=config.port)


VIEW = Command(
    "view", ViewConfig, view_runs, command_line="fireact.cli.runs:view_command", json_help="",
    example="`fireact view runs/quickstart`",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AskConfig(AgentUse):
    """Settings of ``ask``."""

    question: str | None = setting(None, metavar="QUESTION")
    """The question. Without it, each line that is typed is one."""
    agent: str = setting("runs/quickstart", flags=("-a", "--agent"), panel=AGENT)
    """A directory of 'fireact train', or a model."""


def ask_question(config: AskConfig, *, on_text: Callable[[str], None] | None = None) -> Trajectory:
    """Ask an agent a question of no task; ``on_text`` gets the episode's text as it is written.

    ``task`` sets the limits, and the examples where the agent needs some. Raises ProviderError where a tool or the LM
    fails.
    """
    from fireact.rollout.agents import load_agent
    from fireact.serving.stream import run_question

    if config.question is None:
        raise ConfigError("fireact.ask needs question: The question.")
    agent = load_agent(config.agent, config.task, config.tools, slots=1, other_tools=config.other_tools)
    return run_question(agent, config.question, on_text or (lambda text: None))


ASK = Command(
    "ask", AskConfig, ask_question, command_line="fireact.cli.using:ask_command",
    details="Each question is answered on its own. End with Ctrl-D or an empty line.",
    example='`fireact ask "What is the currency of the country whose capital is Tashkent?" -a runs/quickstart`',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class McpOption:
    """The option that serves the agent in another way."""

    mcp: bool = setting(False)
    """Serve the agent as an MCP tool on standard input and output."""


def serve_agent(config: ServeConfig) -> RunningServer:
    """Serve a fine-tuned student, and the agent around it, to OpenAI clients, until its ``stop()``; port 0 is free."""
    from fireact.serving.service import start_serving
    from fireact.terminal.screen import TerminalProgress

    return start_serving(config, say=TerminalProgress().say)


SERVE = Command(
    "serve", ServeConfig, serve_agent, shorthand=McpOption,
    command_line="fireact.cli.using:serve_command", json_help="",
    example='`fireact serve runs/quickstart --port 8000`, then base_url="http://127.0.0.1:8000/v1" and\n'
    'model="fireact-agent"',
)  # fmt: skip
