"""The tables of a study as Markdown: our results with 95 % intervals, differences to baselines, the paper's figures.

Invariant: the contents of every table come from ``results.jsonl`` or the study file; only means over seeds are
computed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from fireact.base.markdown import escape_line
from fireact.evaluation.recovery import Recovery
from fireact.evaluation.statistics import Estimate
from fireact.reporting.rows import (
    BaselineChange,
    Behaviour,
    CellCost,
    ChoiceScore,
    DataFacts,
    MethodChoice,
    StudyResults,
    StudyRow,
)
from fireact.reporting.table import Table, write_markdown_table
from fireact.reporting.wording import UNTOLD, dollars
from fireact.study.cells import Cell
from fireact.study.file import CHOICES, PaperFigure, StudyFile


def format_tables(study: StudyFile, cells: Sequence[Cell], results: StudyResults) -> str:
    """The whole page of tables, as Markdown."""
    complete_rows = results.rows
    sections = [f"# {escape_line(study.title)}", study.asks, _introduction(study, cells, complete_rows)]
    for task in dict.fromkeys(name for row in complete_rows for name in row.results):
        sections += [
            f"## {escape_line(task)}",
            _results_table(task, complete_rows, study.paper),
            _seeds_table(task, cells, complete_rows, results.seeds),
            _list_not_compared(task, complete_rows),
            _behaviour_table(task, complete_rows, study.paper),
            _turns_table(task, complete_rows) if study.choice else "",
            _failures_table(task, complete_rows),
        ]
        if task in results.choices:
            sections.append(_choice_table(results.choices[task], study.paper))
    sections += [
        _training_table(complete_rows),
        _size_table(complete_rows, study.paper),
        _economics_table(study, results.costs, complete_rows),
        _paper_table(study.paper),
        _list_failures(cells, results.failures, complete_rows),
        _directories_table(complete_rows),
    ]
    sections.append("\n".join(f"- {note}" for note in study.notes))
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(study: StudyFile, cells: Sequence[Cell], complete_rows: Sequence[StudyRow]) -> str:
    source = f" After {study.source}." if study.source else ""
    compared = (
        " Differences are to the cell named beside them and paired by question; interval and p are of the same test. "
        "Each p stands alone: of twenty cells that do not differ, one has p below 0.05 by chance."
        if any(cell.against for cell in cells)
        else ""
    )
    seeds = (
        " No interval covers what another seed of the training would change; only cells of several seeds show that."
        if any(row.training for row in complete_rows)
        else ""
    )
    return (
        f"Size `{study.size}`, {len(complete_rows)} of {len(cells)} cells.{source} EM and F1 in per cent with 95 % "
        f"intervals, bootstrap over questions.{compared}{seeds} "
        f'"paper" is the paper\'s own figure, of its models and questions; {BASES}'
    )


SCORES, TURNS = ("EM", "F1"), ("turns", "deviation of turns")
WEIGHTS, COSTS = ("GB", "examples/s"), ("USD a trial", "s a trial")
"""Units of the paper's figures by the table in which they stand."""
BASES = "where bases or tasks differ, only the direction compares."


def _results_table(task: str, rows: Sequence[StudyRow], figures: Sequence[PaperFigure]) -> str:
    table_rows = [
        [
            row.cell,
            str(result.n),
            _format_share(result.measures.em),
            _format_share(result.measures.f1),
            f"{100 * result.measures.finished.mean:.0f}",
            _format_difference(row.against.get(task)),
            _format_amount(result.measures.steps, ".1f"),
            _format_amount(result.measures.tokens_per_question, ",.0f"),
            _format_amount(result.seconds_per_question, ".2f"),
            _paper_gains(figures, row, task, rows),
            _figures_beside(figures, SCORES, row, task),
        ]
        for row in rows
        if (result := row.results.get(task)) is not None
    ]
    heads = ["cell", "n", "EM", "F1", "finished %", "EM, difference", "turns", "tokens/question", "s/question",
             "paper, difference", "paper"]  # fmt: skip
    return _section("", heads, table_rows)


def _paper_gains(figures: Sequence[PaperFigure], row: StudyRow, task: str, rows: Sequence[StudyRow]) -> str:
    """The paper's gain of the same two agents, in points and in proportion, for each model with one figure of each."""
    change = row.against.get(task)
    baseline_row = next((candidate for candidate in rows if change and candidate.cell == change.cell), None)
    if baseline_row is None:
        return ""
    before, after = (_paper_em_by_model(figures, compared_row, task) for compared_row in (baseline_row, row))
    gains = [(model, before[model], value) for model, value in after.items() if model in before]
    return "; ".join(
        f"{value - level:+.1f}{f', {_format_gain(value / level - 1)}' if level else ''} ({model})"
        for model, level, value in gains
    )


def _paper_em_by_model(figures: Sequence[PaperFigure], row: StudyRow, task: str) -> dict[str, float]:
    """The paper's EM beside a row, by the model that a label begins with; a model with several figures is left out."""
    matching_figures = [figure for figure in figures if figure.unit == "EM" and _is_beside(figure, row, task)]
    models = [figure.label.partition(",")[0] for figure in matching_figures]
    return {
        model: figure.value for model, figure in zip(models, matching_figures, strict=True) if models.count(model) == 1
    }


def _list_not_compared(task: str, rows: Sequence[StudyRow]) -> str:
    """Why cells have no difference to their baseline."""
    lines = [
        f"- {escape_line(row.cell)}: {escape_line(row.not_compared[task])}" for row in rows if task in row.not_compared
    ]
    return "Not compared:\n\n" + "\n".join(lines) if lines else ""


def _figures_beside(figures: Sequence[PaperFigure], units: Sequence[str], row: StudyRow, task: str) -> str:
    """The paper's figures of some units that belong beside a row."""
    return _join_figures([figure for figure in figures if figure.unit in units and _is_beside(figure, row, task)])


def _is_beside(figure: PaperFigure, row: StudyRow, task: str) -> bool:
    return figure.matches(row.cell, row.group) and figure.is_about(task, row.results)


def _join_figures(figures: Sequence[PaperFigure]) -> str:
    return "; ".join(f"{figure} ({figure.label})" for figure in figures)


def _format_difference(change: BaselineChange | None) -> str:
    if change is None:
        return ""
    em = change.em
    relative = "" if change.relative is None else f", {_format_gain(change.relative)}"
    low, high = (100 * end for end in em.difference.interval)
    p = "p < 0.001" if em.p < 0.001 else f"p = {em.p:.3f}"
    most_questions = max(change.asked)
    shared_note = f", on {em.n} of {most_questions} questions" if em.n < most_questions else ""
    differ_note = f"; {' and '.join(change.differing)} differ" if change.differing else ""
    notes = f"{low:+.0f} to {high:+.0f}; {p}{relative}{differ_note}"
    return f"{100 * em.difference.mean:+.1f} ({notes}) against {change.cell}{shared_note}"


def _format_gain(gain: float) -> str:
    """A gain in proportion: in per cent up to three times the baseline, else in times."""
    return f"{100 * gain:+.0f} % relative" if gain < 2 else f"{1 + gain:.1f} times as much"


def _seeds_table(
    task: str, cells: Sequence[Cell], rows: Sequence[StudyRow], pooled: Mapping[str, Mapping[str, BaselineChange]]
) -> str:
    """One row for each group of cells that differ only in their seed."""
    results, ems = {row.cell: row.results for row in rows}, dict[str, list[float]]()
    for cell in cells:
        if task in results.get(cell.name, {}):
            ems.setdefault(cell.group, []).append(100 * results[cell.name][task].measures.em.mean)
    table_rows = [
        [group, str(len(seed_ems)), f"{statistics.fmean(seed_ems):.1f}", f"{min(seed_ems):.1f} to {max(seed_ems):.1f}",
         _format_difference(pooled.get(group, {}).get(task))]
        for group, seed_ems in ems.items()
        if len(seed_ems) > 1
    ]  # fmt: skip
    heads = ["cells", "seeds", "mean EM", "range of EM", "EM, difference, all seeds together"]
    varied_groups = [
        seed_ems for seed_ems in ems.values() if len(seed_ems) > 1 and 0 < statistics.fmean(seed_ems) < 100
    ]
    if not varied_groups:
        return ""
    # The pooled deviation weighs each group's variance by its degrees of freedom. A group at 0 or 100 % cannot vary.
    squares = sum(statistics.variance(seed_ems) * (len(seed_ems) - 1) for seed_ems in varied_groups)
    deviation = math.sqrt(squares / sum(len(seed_ems) - 1 for seed_ems in varied_groups))
    note = f"Between the seeds of a recipe EM has a standard deviation of {deviation:.1f} points, pooled."
    return f"{_section('Over seeds:', heads, table_rows)}\n\n{note}"


def _behaviour_table(task: str, rows: Sequence[StudyRow], figures: Sequence[PaperFigure]) -> str:
    table_rows = [
        [
            row.cell,
            _format_turns(behaviour),
            _format_turns(row.data),
            f"{behaviour.calls_of_tools:.2f}",
            f"{behaviour.noisy_steps:.2f}",
            ", ".join(f"{name} {100 * share:.0f} %" for name, share in behaviour.used.items()),
            _figures_beside(figures, TURNS, row, task),
        ]
        for row in rows
        if (behaviour := row.behaviour.get(task)) is not None
    ]
    heads = [
        "cell", "turns, mean (deviation)", "turns of its training data", "tool calls", "disturbed",
        "what its steps show, share of questions", "paper",
    ]  # fmt: skip
    return _section("What the agents did:", heads, table_rows)


def _format_turns(facts: Behaviour | DataFacts | None) -> str:
    return UNTOLD if facts is None or facts.turns is None else f"{facts.turns:.2f} ({facts.turns_deviation:.2f})"


def _turns_table(task: str, rows: Sequence[StudyRow]) -> str:
    """The number of questions by turns, and by the method that their steps show."""
    cell_questions = [(row.cell, row.behaviour[task].questions) for row in rows if task in row.behaviour]
    turns = sorted({int(n) for _, method_counts in cell_questions for counts in method_counts.values() for n in counts})
    table_rows = [
        [cell, method, str(sum(counts.values())), *(str(counts.get(str(n), UNTOLD)) for n in turns)]
        for cell, method_counts in cell_questions
        for method, counts in method_counts.items()
    ]
    heads = ["cell", "method", "questions", *(f"{n} turn{'s' if n > 1 else ''}" for n in turns)]
    return _section("Questions by the method and the number of turns that they ended with:", heads, table_rows)


def _failures_table(task: str, rows: Sequence[StudyRow]) -> str:
    """Why answers are wrong, what the agents did after noise, and the time and cost of a question."""
    table_rows = [
        [
            row.cell,
            ", ".join(f"{kind} {count}" for kind, count in result.failures.items() if count) or UNTOLD,
            _format_recovery(result.recovery),
            _format_amount(result.measures.latency_p50, ".2f"),
            _format_amount(result.measures.latency_p95, ".2f"),
            dollars(None if (cost := result.measures.cost_per_question) is None else cost.mean),
        ]
        for row in rows
        if (result := row.results.get(task)) is not None
    ]
    heads = ["cell", "why wrong, questions", "after a disturbed call", "s, p50", "s, p95", "paid, a question"]
    return _section("What went wrong, and what a question took:", heads, table_rows)


def _format_recovery(recovery: Recovery | None) -> str:
    if recovery is None:
        return UNTOLD
    right, retried = _format_share(recovery.right), _format_share(recovery.retried)
    return f"of {recovery.episodes} questions {right} % right, {retried} % asked again"


def _choice_table(choice: MethodChoice, figures: Sequence[PaperFigure]) -> str:
    chosen = ", ".join(f"{name} {100 * share:.0f} %" for name, share in choice.chosen.items())
    rows = [
        (CHOICES[0], choice.random, ""),
        (CHOICES[1], choice.best, f"{choice.best.cell}: the best on these very questions"),
        (CHOICES[2], choice.oracle, f"{_format_turn_count(choice.oracle)}; takes {chosen}"),
    ]
    if chooser := choice.chooser:
        rows.insert(2, ("a student that chooses itself", chooser, f"{_format_turn_count(chooser)}; {chooser.cell}"))
    table_rows = [
        [name, _format_share(score.em), remark, _join_figures([figure for figure in figures if figure.matches(name)])]
        for name, score, remark in rows
    ]
    return _section(f"Choice of method for each of {choice.n} questions:", ["choice", "EM", "", "paper"], table_rows)


def _format_turn_count(score: ChoiceScore) -> str:
    return UNTOLD if score.turns is None else f"{score.turns:.1f} turns"


def _training_table(rows: Sequence[StudyRow]) -> str:
    table_rows = [
        [
            row.cell, str(data.trajectories), f"{data.right} of {data.collected}" if data.collected else UNTOLD,
            str(training.dropped), f"{training.tokens:,}", str(training.steps), f"{training.training_seconds:.0f}",
            f"{training.tokens_per_second:.0f}", f"{training.trained_parameters / 1e6:.1f} M",
            f"{training.final_loss:.3f}",
        ]
        for row in rows
        if (training := row.training) is not None and (data := row.data) is not None
    ]  # fmt: skip
    heads = [
        "cell", "trajectories", "right of collected", "too long", "tokens", "steps", "seconds", "tokens/s", "trained",
        "loss",
    ]  # fmt: skip
    return _section("## Training", heads, table_rows)


def _size_table(rows: Sequence[StudyRow], figures: Sequence[PaperFigure]) -> str:
    """Size of the saved weights and speed of training, if the paper has such figures for the study."""
    if not any(figure.unit in WEIGHTS for figure in figures):
        return ""
    table_rows = [
        [
            row.cell,
            UNTOLD if training.weights_bytes is None else f"{training.weights_bytes / 1e9:.3f}",
            f"{training.examples_per_second:.2f}",
            training.device,
            _figures_beside(figures, WEIGHTS, row, row.first_task),
        ]
        for row in rows
        if (training := row.training) is not None
    ]
    note = "A trajectory is one example in every epoch. The weights are the saved ones: an adapter, or a whole model."
    heads = ["cell", "weights, GB", "examples/s", "on", "paper"]
    return _section(f"## Size and speed\n\n{note}", heads, table_rows)


def _economics_table(study: StudyFile, costs_by_cell: Mapping[str, CellCost], rows: Sequence[StudyRow]) -> str:
    if not costs_by_cell:
        return ""
    by_name = {row.cell: row for row in rows}
    table_rows = [
        [
            name,
            _format_amount(cost.trajectories),
            dollars(cost.data_usd),
            f"{dollars(cost.waste_usd)} ({_format_amount(cost.wasted_episodes)})",
            f"{_format_amount(cost.data_seconds)} + {_format_amount(cost.waste_seconds)}",
            f"{dollars(cost.training_usd)} ({_format_amount(cost.training_seconds)} s)",
            dollars(cost.usd_per_question),
            f"{cost.seconds_per_question:.2f}",
            _format_break_even(cost),
            _figures_beside(study.paper, COSTS, by_name[name], by_name[name].first_task),
        ]
        for name, cost in costs_by_cell.items()
    ]
    heads = ["cell", "trajectories", "data", "wasted (episodes)", "s of data + waste", "training", "a question",
             "s/question", "questions to break even", "paper"]  # fmt: skip
    prices = [
        f"- {escape_line(name.replace('_', ' '))}: {price.value:g} USD ({escape_line(price.source)})"
        for name, price in study.prices.items()
    ]
    note = (
        "Data are the episodes in the training. Wasted are the collected episodes that a filter removed. Episodes that "
        "passed but were not needed count in neither. From the break-even on the student is cheaper than the teacher."
    )
    return f"{_section('## Economics', heads, table_rows)}\n\n{note} Prices:\n\n" + "\n".join(prices)


def _format_break_even(cost: CellCost) -> str:
    """After how many questions the student pays off, or why there is no number."""
    number, note = _format_amount(cost.questions_to_break_even), cost.break_even_note
    return number if not note else note if cost.questions_to_break_even is None else f"{number} ({note})"


def _paper_table(figures: Sequence[PaperFigure]) -> str:
    table_rows = [[figure.label, str(figure), figure.source] for figure in figures]
    note = "± is the standard error, where the paper gives it."
    return _section(f"## The paper's figures\n\n{note}", ["what", "figure", "source"], table_rows)


def _directories_table(rows: Sequence[StudyRow]) -> str:
    note = "Each stage is a run directory, in the directory of stages, for `fireact show`, `report`, `ask` and `serve`."
    table_rows = [[row.cell, ", ".join(row.stages)] for row in rows]
    return _section(f"## Where it lies\n\n{note}", ["cell", "stages"], table_rows)


def _list_failures(cells: Sequence[Cell], errors: Mapping[str, str], rows: Sequence[StudyRow]) -> str:
    failed = [
        f"- {escape_line(', '.join(names))}: {escape_line(error_text)}"
        for error_text, names in group_by_error(errors).items()
    ]
    recorded_cells = {*errors, *(row.cell for row in rows)}
    failed += [f"- {escape_line(cell.name)}: not run yet" for cell in cells if cell.name not in recorded_cells]
    return "## Not there\n\n" + "\n".join(failed) if failed else ""


def group_by_error(failures: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of the failed cells, by error."""
    names_by_error: dict[str, list[str]] = {}
    for name, error_text in failures.items():
        names_by_error.setdefault(error_text, []).append(name)
    return names_by_error


def _format_share(share: Estimate) -> str:
    """A share in per cent, which the head of the page says."""
    return f"{100 * share.mean:.1f} ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _format_amount(amount: Estimate | float | None, form: str = ",.0f") -> str:
    mean = amount.mean if isinstance(amount, Estimate) else amount
    return UNTOLD if mean is None else format(mean, form)


def _section(head: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table below its head; empty without rows. Empty columns of the paper's figures are left out."""
    indices = [
        index for index, name in enumerate(columns) if not name.startswith("paper") or any(row[index] for row in rows)
    ]
    table = Table("", columns, rows).select_columns(indices)
    return "\n\n".join([*([head] if head else []), "\n".join(write_markdown_table(table))]) if rows else ""
