"""What a person sees in the terminal: progress bars on standard error, steps as they come, one line for an error."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from fireact.evaluation.failures import FAILURES, failure
from fireact.evaluation.rescore import Rescored
from fireact.progress import Progress
from fireact.render.react import OBSERVATION, call
from fireact.render.tokens import REWRITTEN
from fireact.reporting.terminal import table as report_table
from fireact.reporting.wording import MINUS, number, p_value, points
from fireact.reporting.wording import interval as wide
from fireact.serving.conformance import Conformance
from fireact.tasks.judge import Judge
from fireact.tasks.validate import Validation
from fireact.training.samples import Peek
from fireact.types import Step, Trajectory

if TYPE_CHECKING:
    from fireact.data.doctor import Diagnosis
    from fireact.evaluation.comparison import Flip, Kept, RunComparison, TaskComparison
    from fireact.evaluation.conditions import Difference
    from fireact.evaluation.recovery import Recovery
    from fireact.evaluation.statistics import Estimate

NOTES = Console(stderr=True, highlight=False)
RESULT = Console(highlight=False)


class Terminal(Progress):
    """Draws each stage as a bar with the time that is left; without a terminal, as a line now and then."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._bar = TaskID(0)
        self._stage, self._total, self._done = "", 0, 0
        self._before, self._started = 0, time.monotonic()

    def start(self, stage: str, *, total: int, done: int = 0) -> None:
        self._stage, self._total, self._done = stage, total, done
        self._before, self._started = done, time.monotonic()
        if done:
            self.say(f"{stage}: going on, {done} of {total} are there already")
        if not NOTES.is_terminal:
            return
        self._bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=NOTES,
        )
        self._bars.start()
        self._bar = self._bars.add_task(stage, total=total, completed=done, note="")

    def advance(self, note: str = "") -> None:
        self._done += 1
        rate = (self._done - self._before) / max(1e-9, time.monotonic() - self._started)
        words = ", ".join(filter(None, [f"{rate:,.1f}/s" if rate >= 1 else f"{60 * rate:,.1f}/min", note]))
        if self._bars is not None:
            self._bars.update(self._bar, advance=1, note=escape(words))
        elif self._done == self._total or self._done % max(1, self._total // 5) == 0:
            self.say(f"{self._stage}: {self._done} of {self._total}, {words}")

    def end(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def sample(self, spans: Sequence[tuple[str, bool]]) -> None:
        """The trained words in green, the others dim."""
        NOTES.print("A sample; [bold green]green is trained on[/], the rest is only read:", highlight=False)
        NOTES.print(_marked(spans, NOTES))

    def say(self, line: str) -> None:
        NOTES.print(escape(line))


def read_line(prompt: str) -> str:
    """A line that the user types; empty at the end of the input."""
    try:
        return NOTES.input(prompt).strip()
    except EOFError:
        return ""


def print_rescored(result: Rescored, judge: Judge | None, *, as_json: bool) -> None:
    """The scores beside those that the run reported, and every episode on which they differ."""
    if as_json:
        asked = {} if judge is None else {"judge_model": judge.name, "judge_unclear": judge.unclear}
        spent = {} if judge is None else {"judge_usage": asdict(judge.usage)}
        print(json.dumps({**result.to_dict(), **asked, **spent}, ensure_ascii=False))
        return
    table = Table("score", "mean", "95 % interval", "reported", title=escape(f"{result.task}, {result.n} questions"))
    for name, mean in result.means.items():
        own = f"{result.reported[name]:.1%}" if name in result.reported else "-"
        table.add_row(escape(name.upper()), f"{mean.mean:.1%}", f"{mean.low:.1%} to {mean.high:.1%}", own)
    RESULT.print(table)
    RESULT.print(
        f"{result.finished} finished, {result.missing} without an episode, {result.faults} faults (not scored); gold "
        f"answers: {result.golds['task']} of the task, {result.golds['run']} of the run."
    )
    if judge is not None:
        cost = "price unknown" if judge.usage.cost is None else f"{judge.usage.cost:.2f} USD"
        tokens = judge.usage.prompt_tokens + judge.usage.completion_tokens
        RESULT.print(
            escape(f"Judge {judge.name}: {judge.usage.calls} calls, {tokens} tokens, {cost}; {judge.unclear} unclear.")
        )
    for item in result.disagreements:
        RESULT.print(
            f"[red]{escape(item.id)}[/] {escape(item.question)}\n    answer {escape(repr(item.answer))}, gold "
            f"{escape(repr(item.gold))}: {escape(item.score)} {item.theirs:g} there, {item.ours:g} here"
        )
    RESULT.print(f"{len(result.disagreements) or 'no'} disagreements with the scores in the run.")


def print_step(step: Step) -> None:
    """One step as it comes: the thought, the action and the observation told apart by colour."""
    if step.action is None:
        RESULT.print(escape(step.text.strip()), style="red")
    else:
        if step.thought:
            RESULT.print(f"[cyan]Thought:[/] {escape(step.thought)}")
        RESULT.print(f"[bold green]Action:[/] {escape(call(step.action))}")
    if step.observation is not None:
        RESULT.print(f"[dim]Observation: {escape(step.observation)}[/]")


class Speech:
    """Prints an episode as it is told, piece by piece; thought, action and observation are told apart by colour."""

    labels: Mapping[str, str] = {"Thought:": "cyan", "Action:": "bold green", OBSERVATION: "dim"}

    def __init__(self, console: Console = RESULT) -> None:
        self._console = console
        self._held, self._style, self._within = "", "", False

    def __call__(self, piece: str) -> None:
        for part in re.findall(r"[^\n]*\n|[^\n]+", piece):
            self._held += part
            if self._within or not self._may_become_a_label():
                self._print()
                self._within = not part.endswith("\n")

    def _may_become_a_label(self) -> bool:
        return any(label != self._held and label.startswith(self._held) for label in self.labels)

    def _print(self) -> None:
        label = next((one for one in self.labels if not self._within and self._held.startswith(one)), "")
        if label:
            self._console.out(label, style=self.labels[label], end="")
            self._style = self.labels[label] if label == OBSERVATION else ""
        self._console.out(self._held.removeprefix(label), style=self._style, end="")
        self._held = ""


def print_sample(sample: Peek) -> None:
    """A training sample: the trained words in green, the others dim, and how many they are."""
    part = f", part {sample.part} of {sample.parts} ({REWRITTEN})" if sample.parts > 1 else ""
    RESULT.rule(escape(f"{sample.key}{part}"), align="left")
    RESULT.print(_marked(sample.spans, RESULT), soft_wrap=True)
    RESULT.print(
        f"{sample.tokens} tokens, [bold green]{sample.trained} trained[/] ({sample.share:.0%})", highlight=False
    )


def _marked(spans: Sequence[tuple[str, bool]], console: Console) -> str:
    if console.color_system is None:  # no colours: the trained words stand in double brackets
        return "".join(f"⟦{escape(text)}⟧" if trained else escape(text) for text, trained in spans)
    return "".join(f"[{'bold green' if trained else 'dim'}]{escape(text)}[/]" for text, trained in spans)


def print_rendering(counts: Mapping[str, Any], out: Path) -> None:
    """What was written for another trainer."""
    shown = f"{counts['samples']} samples of {counts['trajectories']} trajectories"
    if counts["tokens"]:
        shown += f", {counts['tokens']} tokens, {counts['trained'] / counts['tokens']:.0%} of them trained"
    if counts["rewritten"]:
        shown += f"; {counts['rewritten']} trajectories are one sample a step: {REWRITTEN}"
    if counts["skipped"]:
        shown += f"; {counts['skipped']} lines that cannot be read are left out"
    RESULT.print(escape(f"{shown}. Written to {out}."), soft_wrap=True)


def print_trajectory(trajectory: Trajectory) -> None:
    """A whole episode: what was asked, each step, and how it ended."""
    RESULT.rule(escape(f"{trajectory.key}  {trajectory.model}"), align="left")
    RESULT.print(f"[bold]Question:[/] {escape(trajectory.example.question)}")
    for step in trajectory.steps:
        print_step(step)
    scores = ", ".join(f"{name} {value:.2f}" for name, value in trajectory.scores.items()) or "not scored"
    RESULT.print(
        f"[bold]Ended:[/] {trajectory.stop}, {scores}; gold answer: {escape(trajectory.example.answer)}"
        + (f"; fault: {escape(trajectory.error)}" if trajectory.error else "")
    )


def complain(message: str) -> None:
    """One line that says what was wrong and what to do."""
    print(f"fireact: {message}", file=sys.stderr)


def print_manifest(manifest: Mapping[str, Any], out: Path) -> None:
    """What a verb did, in a few lines: counts by task and method, and where it lies."""
    counts = manifest.get("counts")
    if counts:
        table = Table("task/method", "episodes", "finished", "right (EM 1)")
        for name, count in counts.items():
            table.add_row(escape(name), str(count["n"]), str(count["finished"]), str(count["correct"]))
        RESULT.print(table)
    usage = manifest.get("usage")
    if counts and usage:
        cost = "price not known (see --prices)" if usage["cost"] is None else f"${usage['cost']:,.4f}"
        tokens = f"{usage['prompt_tokens']:,} tokens read ({usage['cached_tokens']:,} cached), {usage['completion_tokens']:,} written"
        repaired = f"; {manifest['repairs']} repairs" if manifest.get("repairs") else ""
        RESULT.print(f"{usage['calls']:,} calls, {tokens}, {cost}{repaired}")
    for line in manifest.get("history", ()):
        RESULT.print(escape(line))
    if remaining := manifest.get("remaining"):
        RESULT.print(escape(f"Still to say of it: {', '.join(f'{kind} {n}' for kind, n in remaining.items())}."))
    RESULT.print(f"{escape(str(out))} is complete ({manifest['seconds']:.0f} s).")


def print_grades(grades: Mapping[str, Any], run: Path, *, as_json: bool) -> None:
    """How many trajectories were scored, and which were not."""
    if as_json:
        print(json.dumps(grades, ensure_ascii=False))
        return
    RESULT.print(f"{escape(str(run))}: {grades['scored']} scored, EM {grades['em']:.1%}.")
    for what, found in (("without a match", grades["unmatched"]), ("ended in a fault, not scored", grades["faults"])):
        if found:
            more = f" and {len(found) - 20} more" if len(found) > 20 else ""
            RESULT.print(escape(f"{len(found)} {what}: {', '.join(found[:20])}{more}"))


def wait_for_the_end() -> None:
    """Return at the first Ctrl-C or SIGTERM; a second one interrupts what is done then."""
    ended = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    for one in signals:
        signal.signal(one, lambda *_: ended.set())
    try:
        ended.wait()
    finally:
        for one in signals:
            signal.signal(one, signal.default_int_handler)


def print_evaluation(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """What each task scored, took and failed by, on tables for 80 columns; with ``as_json`` one object, which has more."""
    if as_json:
        print(json.dumps({"agents": {manifest["agent"]: manifest["results"]}}, ensure_ascii=False))
        return
    results: Mapping[str, Mapping[str, Any]] = manifest["results"]
    RESULT.print(f"[bold]{escape(manifest['description'])}[/]")
    _print_rows("score", _SCORES, results)
    _print_rows("per question", _SPENT, results)
    _print_groups(results)
    failed = {name: result["failures"] for name, result in results.items() if "failures" in result}
    if failed:
        table = _table("why wrong", *FAILURES)
        for name, found in failed.items():
            table.add_row(escape(name), *(str(found[kind]) for kind in FAILURES))
        RESULT.print(table)
    for name, result in results.items():
        if result.get("recovery"):
            RESULT.print(escape(f"{name} under noise: {_recovered(result['recovery'])}"))
    RESULT.print(f"{escape(str(out))} is complete. See the trajectories: fireact show {escape(str(out))}")


def _score_cell(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda result: _percent(result[name], result[f"{name}_interval"]) if name in result else ""


def _amount_cell(name: str, form: Callable[[float], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda result: "-" if result.get(name) is None else form(result[name])


def _accuracy_cell(result: Mapping[str, Any]) -> str:
    """Accuracy where it is not EM: the answers were judged, or the task has a score of its own."""
    return "" if result.get("accuracy", result["em"]) == result["em"] else _score_cell("accuracy")(result)


Cells = Mapping[str, Callable[[Mapping[str, Any]], str]]
_SCORES: Cells = {
    "n": lambda result: str(result["n"]), "EM": _score_cell("em"), "F1": _score_cell("f1"), "accuracy": _accuracy_cell,
    "finished": _score_cell("finished"),
}  # fmt: skip
_SPENT: Cells = {
    "steps": _amount_cell("steps", "{:.1f}".format), "searches": _amount_cell("searches", "{:.1f}".format),
    "tokens": _amount_cell("tokens_per_question", "{:,.0f}".format), "USD": _amount_cell("cost_per_question", "{:.2g}".format),
    "seconds": _amount_cell("seconds_per_question", number), "latency": _amount_cell("latency_mean", number),
    "p50": _amount_cell("latency_p50", number), "p95": _amount_cell("latency_p95", number),
}  # fmt: skip
_GROUPS = 12
"""So many groups of questions are printed; more (the subjects of MMLU) are in the JSON."""


def _table(first: str, *columns: str, title: str = "") -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=title or None,
        title_justify="left",
        title_style="bold",
    )
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _print_rows(first: str, cells: Cells, results: Mapping[str, Mapping[str, Any]]) -> None:
    """A row a task; columns that no task fills are left out."""
    filled = {name: [cell(result) for result in results.values()] for name, cell in cells.items()}
    shown = {name: column for name, column in filled.items() if any(column)}
    table = _table(first, *shown)
    for task, *row in zip(results, *shown.values(), strict=True):
        table.add_row(escape(task), *row)
    RESULT.print(table)


def _print_groups(results: Mapping[str, Mapping[str, Any]]) -> None:
    table = _table("by", "", "n", "EM", "finished")
    for task, result in results.items():
        for kind, groups in result.get("by", {}).items():
            for at, (value, group) in enumerate(groups.items() if 1 < len(groups) <= _GROUPS else ()):
                cells = (str(group["n"]), _percent(group["em"], group["em_interval"]), f"{group['finished']:.0%}")
                table.add_row("" if at else escape(f"{task}: {kind}"), escape(value), *cells)
    table.columns[1].justify = "left"
    if table.row_count:
        RESULT.print(table)


def _recovered(found: Mapping[str, Any]) -> str:
    return (
        f"{found['disturbed']} of {found['questions']} episodes had a disturbed call ({found['disturbed_calls']} calls); of "
        f"these {_percent(found['right'], found['right_interval'])} ended right, "
        f"{_percent(found['retried'], found['retried_interval'])} asked again and went on to an answer."
    )


def print_studies(found: Mapping[str, str]) -> None:
    """The studies that ship, and what each asks."""
    for name, asks in found.items():
        RESULT.print(f"[bold]{escape(name)}[/]  {escape(asks)}", soft_wrap=True)


def print_plan(plan: Mapping[str, Any], out: Path) -> None:
    """What a study would do: each cell with what it still needs, and what all of it will take."""
    table = Table("cell", "collect", "mix", "train", "eval", title=escape(f"{plan['title']} ({plan['size']})"))
    for cell in plan["cells"]:
        found = dict.fromkeys(("collect", "mix", "train", "eval"), "")
        for one in cell["stages"]:
            verb = one["stage"].partition("/")[0]
            found[verb] = "there" if one["done"] else _to_come(one, verb)
        table.add_row(escape(cell["cell"]), *found.values())
    RESULT.print(table)
    if plan["needs"]:
        RESULT.print(f"It needs {' '.join(f'--set {name}=...' for name in plan['needs'])}.")
    tokens, usd, seconds = plan["training_tokens"], plan["usd"], plan["seconds"]
    time = f"{_least(seconds)}{seconds['known'] / 60:,.0f} min"
    searches = f"about {plan['searches']:,} paid searches, " if plan["searches"] else ""
    RESULT.print(
        f"{plan['stages']} stages, {plan['there']} of them there; {plan['episodes']:,} episodes, {searches}{_least(tokens)}"
        f"{tokens['known']:,} training tokens, {_least(usd)}{usd['known']:,.2f} USD, "
        f"{time if seconds['known'] or seconds['whole'] else 'time not known'}. Nothing was spent. It goes to {escape(str(out))}."
    )
    priced = [part for part in usd["unknown"] if not part.startswith("the machine for ")]  # which follows from the time
    if unknown := [*(f"the time of {part}" for part in seconds["unknown"]), *priced]:
        RESULT.print(
            escape(f"Not in these sums, because nobody has measured it: {'; '.join(unknown)}."), soft_wrap=True
        )
    for said in plan["short"]:
        RESULT.print(escape(f"Too few may be right: {said}. Raise the plan."), soft_wrap=True)


def _least(amount: Mapping[str, Any]) -> str:
    """What stands before a sum of which parts are not known."""
    return "" if amount["whole"] else "at least "


def _to_come(stage: Mapping[str, Any], verb: str) -> str:
    said = {"collect": f"{stage['episodes']:,}", "mix": "to do", "eval": f"{stage['episodes']:,}"}.get(verb)
    if said is None:
        said = "? tokens" if stage["training_tokens"] is None else f"{stage['training_tokens'] / 1000:,.0f}k tokens"
    cost = f", ${stage['usd']:,.2f}" if stage["usd"] else ""
    cost += (
        " and what is not known"
        if stage["usd"] and stage["unpriced"]
        else ", price unknown"
        if stage["unpriced"]
        else ""
    )
    return f"{said}{cost}, {stage['seconds']:,.0f} s" if stage["seconds"] else f"{said}{cost}"


def print_study(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """A line a cell and task, and where the tables and plots lie."""
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    if as_json:
        print(json.dumps({**manifest, "rows": rows}, ensure_ascii=False))
        return
    table = Table("cell", "task", "n", "EM", "difference", title=escape(manifest["title"]))
    for row in rows:
        for task, result in row["results"].items():
            change = row["against"].get(task)
            said = "" if change is None else f"{100 * change['em']['difference']:+.1f} to {change['cell']}"
            shown = _percent(result["em"], result["em_interval"])
            table.add_row(escape(row["cell"]), escape(task), str(result["n"]), shown, escape(said))
    RESULT.print(table)
    RESULT.print(f"Tables: {escape(str(out / 'tables.md'))}, plots: {escape(str(out / 'plots'))}.")


def _percent(mean: float, interval: Sequence[float]) -> str:
    return f"{mean:.1%} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"


def print_differences(found: Sequence[Difference], before: str, after: str, *, as_json: bool) -> None:
    """Why two runs do not compare: each setting that differs, as it is in the one and in the other."""
    if as_json:
        rows = [{"setting": one.setting, "before": one.one, "after": one.other} for one in found]
        print(json.dumps({"comparable": False, "differences": rows}, ensure_ascii=False))
    complain(
        f"{before} and {after} do not compare: they differ in {' and '.join(dict.fromkeys(one.setting for one in found))}."
    )
    for one in found:
        NOTES.print(escape(f"  {one.setting}\n    A  {one.one}\n    B  {one.other}"), soft_wrap=True)
    names = [name for name in dict.fromkeys(one.setting for one in found) if name != "task"]
    allowing = f", or allow what differs on purpose: {' '.join(f'--allow {name}' for name in names)}" if names else ""
    NOTES.print(f"Evaluate one of them again under the conditions of the other{allowing}.", soft_wrap=True)


def print_comparison(found: RunComparison, *, flips: int, as_json: bool) -> None:
    """Two runs side by side, task by task, with ``flips`` questions of each direction; with ``as_json`` one object."""
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    for letter, run in (("A", found.before), ("B", found.after)):
        RESULT.print(f"[bold]{letter}[/]  {escape(run.agent)}  [dim]{escape(run.name)}[/]", soft_wrap=True)
    for passed in found.allowed:
        RESULT.print(
            escape(f"{passed.setting} differs, as allowed: {passed.one} in A, {passed.other} in B"), soft_wrap=True
        )
    for note in found.notes:
        RESULT.print(escape(f"{note[0].upper()}{note[1:]}."), soft_wrap=True)
    for task in found.tasks:
        _print_task(task, flips)


def _print_task(task: TaskComparison, flips: int) -> None:
    episodes = f", {task.episodes} episodes each" if task.episodes != task.n else ""
    RESULT.print(f"\n[bold]{escape(task.task)}[/]: {task.n} questions that both answered{episodes}")
    for letter, names, faults in zip("AB", (task.only_before, task.only_after), task.faults, strict=True):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            RESULT.print(escape(f"Only {letter} has {len(names)}: {', '.join(names[:8])}{more}."), soft_wrap=True)
        if faults:
            RESULT.print(f"{letter}: {faults} episodes ended in a fault and are left out.")
    _print_scores(task)
    _print_amounts(task)
    _print_outcomes(task)
    if task.kept is not None:
        RESULT.print(escape(_kept(task.kept)))
    for gained in (True, False):
        _print_flips([flip for flip in task.flips if flip.gained == gained], gained=gained, most=flips)


def _print_scores(task: TaskComparison) -> None:
    table = _table("score", "A", "B", "B - A", "p")
    for name, (one, other, by) in {**task.scores, "finished": task.finished}.items():
        change = f"{points(by.difference.mean).removesuffix(' points')} ({wide(by.difference.interval, 0)})"
        p = p_value(by.p).removeprefix("p = ").removeprefix("p ")
        sides = (_percent(side.mean, side.interval) for side in (one, other))
        table.add_row(escape(name.upper() if name in ("em", "f1") else name), *sides, change, p)
    RESULT.print(table)


def _print_amounts(task: TaskComparison) -> None:
    """Means of both and the change with its interval; what neither run tells, and a price of 0, is left out."""
    table = _table("per question", "A", "B", "B - A")
    for name, title in _AMOUNTS.items():
        amount = task.amounts[name]
        sides = ("-" if one is None else number(one.mean) for one in (amount.before, amount.after))
        if any(one is not None and (one.mean or title != "USD") for one in (amount.before, amount.after)):
            table.add_row(title, *sides, _changed(amount.change))
        if name == "latency_mean":
            for share, (one, other) in task.latency.items():
                table.add_row(f"  {share}", number(one.mean), number(other.mean))
    RESULT.print(table)


_AMOUNTS = {
    "steps": "steps", "searches": "searches", "tokens_per_question": "tokens", "latency_mean": "seconds, mean",
    "cost_per_question": "USD",
}  # fmt: skip


def _changed(found: Estimate | None) -> str:
    if found is None:
        return "-"
    span = f" ({number(found.low)} to {number(found.high)})" if found.low < found.high else ""
    return f"{'+' if found.mean > 0 else ''}{number(found.mean)}{span}".replace("-", MINUS)


def _print_outcomes(task: TaskComparison) -> None:
    """How many are right, and of each kind of failure that there is; under noise also what became of what it hit."""
    table = _table("outcome", "A", "B", "B - A")
    for name, one, other in (
        ("right", *task.right),
        *((kind, task.failures[0][kind], task.failures[1][kind]) for kind in FAILURES),
    ):
        if one or other or name == "right":
            table.add_row(name, str(one), str(other), f"{other - one:+}".replace("-", MINUS) if other != one else "0")
    if any(task.recovery):
        table.add_section()
        for name, cell in _RECOVERY.items():
            table.add_row(name, *("-" if found is None else cell(found) for found in task.recovery))
    RESULT.print(table)


_RECOVERY: Mapping[str, Callable[[Recovery], str]] = {
    "disturbed by noise": lambda found: f"{found.episodes} of {found.all}",
    "  ended right": lambda found: _percent(found.right.mean, found.right.interval),
    "  asked again, answered": lambda found: _percent(found.retried.mean, found.retried.interval),
    "  and were right": lambda found: _percent(found.retried_and_right.mean, found.retried_and_right.interval),
}


def _kept(kept: Kept) -> str:
    text = f"Of {kept.n} questions right without noise, {_percent(kept.all.mean, kept.all.interval)} are right with it"
    if kept.disturbed is None:
        return f"{text}; none of them met noise."
    share = _percent(kept.disturbed.mean, kept.disturbed.interval)
    return f"{text}; of the {kept.disturbed.n} that met noise, {share}."


def _print_flips(flips: Sequence[Flip], *, gained: bool, most: int) -> None:
    said = "wrong in A, right in B" if gained else "right in A, wrong in B"
    shown = f" ({most} shown; --flips {len(flips)} shows all)" if 0 < most < len(flips) else ""
    if not flips or most <= 0:
        RESULT.print(f"{said}: {len(flips)}")
        return
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, title=f"{said}: {len(flips)}{shown}", title_justify="left", title_style="bold"
    )
    for name in ("question", "gold", "A", "B"):
        table.add_column(name, overflow="fold", ratio=3 if name == "question" else 2)
    for flip in flips[:most]:
        example = flip.before.example
        sides = (_answer(one) for one in (flip.before, flip.after))
        table.add_row(f"[dim]{escape(example.id)}[/] {escape(example.question)}", escape(example.answer), *sides)
    RESULT.print(table)


def _answer(trajectory: Trajectory) -> str:
    """What an episode answered, and how it failed where it did."""
    kind, answer = failure(trajectory), trajectory.answer
    said = escape(answer) if answer and answer.strip() else ""
    return "\n".join(filter(None, [said, f"[dim]{kind}[/]" if kind else ""]))


def print_report(directory: Path, *, as_json: bool) -> None:
    """The before/after table of a report, and where it lies."""
    data = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    if as_json:
        print(json.dumps(data, ensure_ascii=False))
        return
    RESULT.print(report_table(data))
    stages = data["timings"]["stages"]
    if stages:
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.items())
        memory = data["timings"]["peak_memory_gb"]
        RESULT.print(
            escape(
                f"Time: {sum(stages.values()) / 60:.1f} min ({spent})"
                + (f"; peak memory {memory:.1f} GB" if memory else "")
            )
        )
    RESULT.print(f"Report: {escape(str(directory / 'report.html'))}")


def print_diagnosis(diagnosis: Diagnosis, *, as_json: bool) -> None:
    """What is in the data on one screen, and each kind of finding with lines and fix; with ``as_json`` one object."""
    if as_json:
        print(json.dumps(diagnosis.to_dict(), ensure_ascii=False))
        return
    table = Table("task/method", "episodes", "finished", "right (EM 1)", "F1")
    for name, group in diagnosis.groups.items():
        counts = (f"{group[column]:,.0f}" for column in ("n", "finished", "correct"))
        table.add_row(escape(name), *counts, f"{group['f1']:.1%}" if "f1" in group else "-")
    RESULT.print(table)
    stops = ", ".join(f"{name} {count:,}" for name, count in sorted(diagnosis.stops.items()))
    steps = ", ".join(f"{n}: {count:,}" for n, count in diagnosis.steps.items())
    told = f"{diagnosis.n:,} trajectories. Stopped: {stops}. Steps: {steps}."
    RESULT.print(escape(told if diagnosis.n else "No line is a trajectory."))
    if tokens := diagnosis.tokens:
        RESULT.print(
            escape(
                f"Tokens ({diagnosis.tokenizer}): {tokens['total']:,}; {tokens['mean']:.0f} a sample, 95 % have at most "
                f"{tokens['p95']:.0f}, the longest {tokens['max']:,}. Trained on: {tokens['trained_share']:.0%}."
            )
        )
    for finding in diagnosis.findings:
        colour = "red" if finding.level == "error" else "yellow"
        more = ", ..." if finding.count > len(finding.lines) else ""
        lines = ", ".join(map(str, finding.lines[:8])) + (", ..." if len(finding.lines) > 8 else more)
        where = f": lines {lines}" if finding.lines else ""
        such = f" ({finding.example})" if finding.example else ""
        RESULT.print(f"[{colour}]{finding.level}[/] {escape(f'{finding.count:,} {finding.says}{where}{such}')}")
        RESULT.print(escape(f"    fix: {finding.fix}"))
    for note in diagnosis.notes:
        RESULT.print(escape(f"{note[0].upper()}{note[1:]}."))
    RESULT.print("No errors." if diagnosis.sound else "[red]There are errors.[/]")


def print_conformance(held: Conformance) -> None:
    """What was compared, and how it came out."""
    RESULT.print(f"{held.equal} of {held.turns} turns are served in the tokens that they were trained in")
    RESULT.print(
        f"{held.differing} of {held.prompts} answers differ between merged weights and the adapter at run time"
    )
    for shown in held.unequal:
        RESULT.print(escape(f"differs after: {shown}"))


def print_validation(finding: Validation) -> None:
    """What ``validate`` found: counts by split and kind, and each problem."""
    for split, kinds in finding.counts.items():
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        RESULT.print(escape(f"{finding.task} {split}: {sum(kinds.values())} questions ({counts})"))
    for problem in finding.problems:
        RESULT.print(f"[red]{escape(problem)}[/]")
    RESULT.print(escape(f"{finding.task}: {len(finding.problems) or 'no'} problems"))


def print_training(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """What was trained, how fast, and how to ask it something."""
    if as_json:
        print(json.dumps(manifest, ensure_ascii=False))
        return
    if "machine_rank" in manifest:  # of several; the first one has the figures
        return
    RESULT.print(
        f"{manifest['samples']} samples ({manifest['dropped']} too long), {manifest['steps']} steps, "
        f"loss {manifest['final_loss']:.3f}, {manifest['tokens_per_second']:.0f} tokens/s, "
        f"{manifest['trained_parameters'] / 1e6:.1f} M parameters trained."
    )
    RESULT.print(f'{escape(str(out))} is complete. Ask it: fireact ask "QUESTION" --agent {escape(str(out))}')


def print_conversion(report: Mapping[str, Any]) -> None:
    """What was converted, what was damaged and what was dropped; a trainer's entry alone goes to standard output."""
    NOTES.print(
        f"{report['from']} -> {report['to']}: {report['trajectories']} episodes, {report['rows']} rows in "
        f"{escape(str(report['out']))} ({escape(', '.join(f'{name} {n}' for name, n in report['counts'].items()))})"
    )
    for kind, found in report["damage"].items():
        rows = ", ".join(str(row["row"]) for row in found["first"])
        done = "repaired" if kind in report["fixed"] else "left out" if kind == "unreadable" else "kept"
        NOTES.print(f"  damage: {kind}: {found['n']}, {done} (rows {rows}{', ...' if found['n'] > 3 else ''})")
    for kind, count in report["dropped"].items():
        NOTES.print(f"  dropped: {kind}: {count} of {report['trajectories']}")
    if "trainer" in report:
        print(report["trainer"])
