"""The tables of a study as Markdown: ours with 95 % intervals, each cell's difference to its baseline, the paper's column.

Invariant: what a table says is in ``results.jsonl`` or the study file; nothing is computed here but means over seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fireact.markdown import in_cell, text
from fireact.study.cells import Cell
from fireact.study.file import CHOICES, Figure, StudyFile

Row = Mapping[str, Any]


def tables(study: StudyFile, cells: Sequence[Cell], rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """The whole page."""
    done = [row for row in rows if "error" not in row]
    parts = [f"# {text(study.title)}", study.asks, _about(study, cells, done)]
    for task in dict.fromkeys(name for row in done for name in row["results"]):
        parts += [
            f"## {text(task)}",
            _results(task, done, study.paper),
            _seeds(task, cells, done, facts["seeds"]),
            _not_compared(task, done),
            _behaviour(task, done, study.paper),
            _questions(task, done) if study.choice else "",
            _faults(task, done),
        ]
        if task in facts["choice"]:
            parts.append(_choice(facts["choice"][task], study.paper))
    parts += [
        _training(done),
        _weights(done, study.paper),
        _economics(study, facts["economics"], done),
        _paper(study.paper),
        _failures(cells, rows),
        _places(done),
    ]
    parts.append("\n".join(f"- {note}" for note in study.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(study: StudyFile, cells: Sequence[Cell], done: Sequence[Row]) -> str:
    source = f" After {study.source}." if study.source else ""
    compared = (
        " Differences are to the cell named beside them, paired by question, with the interval of the test that p is of; each p "
        "is for itself alone: of twenty cells that do not differ one is below 0.05 by chance."
        if any(c.against for c in cells)
        else ""
    )
    seeds = (
        " Neither covers what another seed of the training would change; cells of several seeds tell of that."
        if any(row["training"] for row in done)
        else ""
    )
    return (
        f"Size `{study.size}`, {len(done)} of {len(cells)} cells.{source} EM and F1 in per cent with 95 % intervals, bootstrap "
        f'over questions.{compared}{seeds} "paper" is the paper\'s own figure, of its models and questions; {BASES}'
    )


SCORES, TURNS = ("EM", "F1"), ("turns", "deviation of turns")
WEIGHTS, COSTS = ("GB", "examples/s"), ("USD a trial", "s a trial")
"""Units of the paper's figures by the table in which they stand."""
BASES = "where bases or tasks differ, only the direction compares."


def _results(task: str, rows: Sequence[Row], figures: Sequence[Figure]) -> str:
    shown = []
    for row in rows:
        if task not in row["results"]:
            continue
        result = row["results"][task]
        shown.append(
            [
                row["cell"],
                str(result["n"]),
                _share(result["em"], result["em_interval"]),
                _share(result["f1"], result["f1_interval"]),
                f"{100 * result['finished']:.0f}",
                _difference(row["against"].get(task)),
                f"{result['steps']:.1f}",
                f"{result['tokens_per_question']:,.0f}",
                f"{result['seconds_per_question']:.2f}",
                _theirs(figures, row, task, rows),
                _beside(figures, SCORES, row, task),
            ]
        )
    heads = ["cell", "n", "EM", "F1", "finished %", "EM, difference", "turns", "tokens/question", "s/question",
             "paper, difference", "paper"]  # fmt: skip
    return _table(heads, shown)


def _theirs(figures: Sequence[Figure], row: Row, task: str, rows: Sequence[Row]) -> str:
    """The paper's gain of the same two agents, in points and in proportion, for each model of which it has both once."""
    change = row["against"].get(task)
    other = next((one for one in rows if change is not None and one["cell"] == change["cell"]), None)
    if other is None:
        return ""
    before, after = (_by_model(figures, one, task) for one in (other, row))
    gains = [(model, before[model], value) for model, value in after.items() if model in before]
    return "; ".join(
        f"{value - level:+.1f}{f', {_relative(value / level - 1)}' if level else ''} ({model})" for model, level, value in gains
    )  # fmt: skip


def _by_model(figures: Sequence[Figure], row: Row, task: str) -> dict[str, float]:
    """The paper's EM beside a row by model, of which a label names first; a model with several is none."""
    own = [one for one in figures if one.unit == "EM" and _stands(one, row, task)]
    models = [one.label.partition(",")[0] for one in own]
    return {model: one.value for model, one in zip(models, own, strict=True) if models.count(model) == 1}


def _not_compared(task: str, rows: Sequence[Row]) -> str:
    """Why cells have no difference to the one that they were to be compared with."""
    said = [f"- {text(row['cell'])}: {text(row['not_compared'][task])}" for row in rows if task in row["not_compared"]]
    return "Not compared:\n\n" + "\n".join(said) if said else ""


def _beside(figures: Sequence[Figure], units: Sequence[str], row: Row, task: str) -> str:
    """The paper's figures of some units that stand beside a row."""
    return _figures([one for one in figures if one.unit in units and _stands(one, row, task)])


def _stands(figure: Figure, row: Row, task: str) -> bool:
    return figure.beside(row["cell"], _group(row)) and figure.about(task, row["results"])


def _figures(figures: Sequence[Figure]) -> str:
    return "; ".join(f"{one} ({one.label})" for one in figures)


def _group(row: Row) -> str:
    seed = row["axes"].get("seed")
    return str(row["cell"]).removesuffix(f", seed {seed}") if seed is not None else str(row["cell"])


def _difference(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return ""
    em = change["em"]
    relative = "" if change["relative"] is None else f", {_relative(change['relative'])}"
    low, high = (100 * end for end in em["interval"])
    p = "p < 0.001" if em["p"] < 0.001 else f"p = {em['p']:.3f}"
    most = max(change["asked"])
    shared = f", on {em['n']} of {most} questions" if em["n"] < most else ""
    apart = list(dict.fromkeys(one["setting"] for one in change.get("conditions", ())))
    differ = f"; {' and '.join(apart)} differ" if apart else ""
    return (
        f"{100 * em['difference']:+.1f} ({low:+.0f} to {high:+.0f}; {p}{relative}{differ}) to {change['cell']}{shared}"
    )


def _relative(gain: float) -> str:
    """A gain in proportion: in per cent, or in times where that is more than twice as much again."""
    return f"{100 * gain:+.0f} % of it" if gain < 2 else f"{1 + gain:.1f} times it"


def _seeds(task: str, cells: Sequence[Cell], rows: Sequence[Row], pooled: Mapping[str, Any]) -> str:
    """The cells that differ in their seed alone, together."""
    results, ems = {row["cell"]: row["results"] for row in rows}, dict[str, list[float]]()
    for cell in cells:
        if task in results.get(cell.name, {}):
            ems.setdefault(cell.group, []).append(100 * results[cell.name][task]["em"])
    shown = [
        [group, str(len(found)), f"{statistics.fmean(found):.1f}", f"{min(found):.1f} to {max(found):.1f}",
         _difference(pooled.get(group, {}).get(task))]
        for group, found in ems.items()
        if len(found) > 1
    ]  # fmt: skip
    heads = ["cells", "seeds", "mean EM", "range of EM", "EM, difference, all seeds together"]
    several = [found for found in ems.values() if len(found) > 1 and 0 < statistics.fmean(found) < 100]
    if not several:
        return ""
    apart = sum(statistics.variance(found) * (len(found) - 1) for found in several)
    deviation = math.sqrt(apart / sum(len(found) - 1 for found in several))
    said = f"Between the seeds of a recipe EM has a standard deviation of {deviation:.1f} points, pooled."
    return f"Over seeds:\n\n{_table(heads, shown)}\n\n{said}"


def _behaviour(task: str, rows: Sequence[Row], figures: Sequence[Figure]) -> str:
    shown = []
    for row in rows:
        found = row["behaviour"].get(task)
        if found is None:
            continue
        used = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found["used"].items())
        searched, noisy = f"{found['calls_of_tools']:.2f}", f"{found['noisy_steps']:.2f}"
        shown.append(
            [row["cell"], _turns(found), _turns(row["data"]), searched, noisy, used, _beside(figures, TURNS, row, task)]
        )
    heads = [
        "cell", "turns, mean (deviation)", "turns of its training data", "tool calls", "disturbed",
        "what its steps show, share of questions", "paper",
    ]  # fmt: skip
    return "What the agents did:\n\n" + _table(heads, shown)


def _turns(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else f"{found['turns']:.2f} ({found['turns_deviation']:.2f})"


def _questions(task: str, rows: Sequence[Row]) -> str:
    """How many questions took so many turns, by the method that their steps show."""
    own = [(row["cell"], row["behaviour"][task]["questions"]) for row in rows if task in row["behaviour"]]
    turns = sorted({int(n) for _, found in own for counts in found.values() for n in counts})
    shown = [
        [cell, method, str(sum(counts.values())), *(str(counts.get(str(n), "-")) for n in turns)]
        for cell, found in own
        for method, counts in found.items()
    ]
    heads = ["cell", "method", "questions", *(f"{n} turn{'s' if n > 1 else ''}" for n in turns)]
    return "Questions by the method and the number of turns that they ended with:\n\n" + _table(heads, shown)


def _faults(task: str, rows: Sequence[Row]) -> str:
    """Why episodes are wrong, what the agents did after noise, and how the time and the cost of a question spread."""
    shown = []
    for row in rows:
        if (result := row["results"].get(task)) is None:
            continue
        wrong = ", ".join(f"{kind} {count}" for kind, count in result["failures"].items() if count)
        cost = result["cost_per_question"]
        shown.append(
            [
                row["cell"], wrong or "-", _recovered(result["recovery"]),
                f"{result['latency_p50']:.2f}", f"{result['latency_p95']:.2f}", "-" if cost is None else _dollars(cost),
            ]
        )  # fmt: skip
    heads = ["cell", "why wrong, questions", "after a disturbed call", "s, p50", "s, p95", "paid, a question"]
    return "What went wrong, and what a question took:\n\n" + _table(heads, shown)


def _recovered(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    right, again = _share(found["right"], found["right_interval"]), _share(found["retried"], found["retried_interval"])
    return f"of {found['disturbed']} questions {right} % right, {again} % asked again"


def _choice(found: Mapping[str, Any], figures: Sequence[Figure]) -> str:
    oracle, own, best = found["oracle"], found["chooser"], found["best"]
    chosen = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found["chosen"].items())
    rows = [
        [CHOICES[0], found["random"], ""],
        [CHOICES[1], best, f"{best['cell']}: the best on these very questions"],
        [CHOICES[2], oracle, f"{oracle['turns']:.1f} turns; takes {chosen}"],
    ]
    if own is not None:
        rows.insert(2, ["a student that chooses itself", own, f"{own['turns']:.1f} turns; {own['cell']}"])
    shown = [
        [
            name,
            _share(one["em"], one["em_interval"]),
            said,
            _figures([known for known in figures if known.beside(name)]),
        ]
        for name, one, said in rows
    ]
    return f"Choice of method for each of {found['n']} questions:\n\n" + _table(["choice", "EM", "", "paper"], shown)


def _training(rows: Sequence[Row]) -> str:
    shown = []
    for row in rows:
        training, data = row["training"], row["data"]
        if training is None or data is None:
            continue
        passed = f"{data['right']} of {data['collected']}" if data["collected"] else "-"
        shown.append(
            [
                row["cell"], str(data["trajectories"]), passed, str(training["dropped"]), f"{training['tokens']:,}",
                str(training["steps"]), f"{training['training_seconds']:.0f}", f"{training['tokens_per_second']:.0f}",
                f"{training['trained_parameters'] / 1e6:.1f} M", f"{training['final_loss']:.3f}",
            ]
        )  # fmt: skip
    heads = [
        "cell", "trajectories", "right of collected", "too long", "tokens", "steps", "seconds", "tokens/s", "trained", "loss",
    ]  # fmt: skip
    return "## Training\n\n" + _table(heads, shown) if shown else ""


def _break_even(one: Mapping[str, Any]) -> str:
    """After how many questions the student has paid off, or why that is not said."""
    number, note = one.get("questions_to_break_even"), one.get("break_even_note") or ""
    return f"{_number(number)} ({note})" if number is not None and note else note or _number(number)


def _weights(rows: Sequence[Row], figures: Sequence[Figure]) -> str:
    """What is saved and how fast it is trained, in a study to which the paper has such figures."""
    if not any(one.unit in WEIGHTS for one in figures):
        return ""
    shown = []
    for row in rows:
        if (training := row["training"]) is None:
            continue
        size = training["weights_bytes"]
        shown.append(
            [
                row["cell"],
                "-" if size is None else f"{size / 1e9:.3f}",
                f"{training['examples_per_second']:.2f}",
                training["device"],
                _beside(figures, WEIGHTS, row, next(iter(row["results"]))),
            ]
        )
    said = (
        "An example is a trajectory, once an epoch. The weights are those that are saved: an adapter, or a whole model."
    )
    heads = ["cell", "weights, GB", "examples/s", "on", "paper"]
    return f"## Size and speed\n\n{said}\n\n{_table(heads, shown)}" if shown else ""


def _economics(study: StudyFile, found: Mapping[str, Mapping[str, Any]], rows: Sequence[Row]) -> str:
    if not found:
        return ""
    by_name = {row["cell"]: row for row in rows}
    shown = [
        [
            name,
            _number(one.get("trajectories")),
            _dollars(one.get("data_usd")),
            f"{_dollars(one.get('waste_usd'))} ({_number(one.get('wasted_episodes'))})",
            f"{_number(one.get('data_seconds'))} + {_number(one.get('waste_seconds'))}",
            f"{_dollars(one.get('training_usd'))} ({_number(one.get('training_seconds'))} s)",
            _dollars(one.get("usd_per_question")),
            f"{one['seconds_per_question']:.2f}",
            _break_even(one),
            _beside(study.paper, COSTS, by_name[name], next(iter(by_name[name]["results"]))),
        ]
        for name, one in found.items()
    ]
    heads = ["cell", "trajectories", "data", "wasted (episodes)", "s of data + waste", "training", "a question", "s/question",
             "questions to break even", "paper"]  # fmt: skip
    prices = [
        f"- {text(name.replace('_', ' '))}: {price.value:g} USD ({text(price.source)})"
        for name, price in study.prices.items()
    ]
    said = (
        "Data is the episodes that are trained on, wasted are those that were collected for them and that a filter left "
        "out; others that were left over are in neither. After so many questions the student is cheaper than the teacher."
    )
    return f"## Economics\n\n{_table(heads, shown)}\n\n{said} Prices:\n\n" + "\n".join(prices)


def _paper(figures: Sequence[Figure]) -> str:
    shown = [[one.label, str(one), one.source] for one in figures]
    said = "± is the standard error, where the paper gives it."
    return f"## The paper's figures\n\n{said}\n\n" + _table(["what", "figure", "source"], shown) if shown else ""


def _places(rows: Sequence[Row]) -> str:
    shown = [[row["cell"], ", ".join(row["stages"])] for row in rows]
    said = "Each is a run directory of its own, in the directory of stages, for `fireact show`, `report`, `ask` and `serve`."
    return f"## Where it lies\n\n{said}\n\n" + _table(["cell", "stages"], shown) if shown else ""


def _failures(cells: Sequence[Cell], rows: Sequence[Row]) -> str:
    faults = by_fault({row["cell"]: row["error"] for row in rows if "error" in row})
    failed = [f"- {text(', '.join(names))}: {text(said)}" for said, names in faults.items()]
    seen = {row["cell"] for row in rows}
    failed += [f"- {text(cell.name)}: not run yet" for cell in cells if cell.name not in seen]
    return "## Not there\n\n" + "\n".join(failed) if failed else ""


def by_fault(failures: Mapping[str, str]) -> dict[str, list[str]]:
    """The cells that failed, by what was said of them."""
    found: dict[str, list[str]] = {}
    for name, said in failures.items():
        found.setdefault(said, []).append(name)
    return found


def _share(mean: float, interval: Sequence[float]) -> str:
    return f"{100 * mean:.1f} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _dollars(value: Any) -> str:
    return "-" if value is None else f"${value:,.2f}" if value >= 1 else f"${value:.2g}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns of the paper's in which nothing stands are left out."""
    kept = [at for at, head in enumerate(heads) if not head.startswith("paper") or any(row[at] for row in rows)]
    heads, rows = [heads[at] for at in kept], [[row[at] for at in kept] for row in rows]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(in_cell, line))} |" for line in lines)
