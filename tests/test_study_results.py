"""What the cells of a study say: methods told from steps, chance and oracle, and what an agent costs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import Small
from fireact.base import jsonl
from fireact.reporting.rows import BaselineChange, StudyRow, to_plain
from fireact.study.cells import Cell
from fireact.study.cost import _compute_break_even, compute_cell_cost
from fireact.study.file import PaperFigure, PlotSpec, StudyFile, StudyPrice
from fireact.study.plots import draw_plots
from fireact.study.results import (
    CellResult,
    classify_method,
    compare_with_baseline,
    pool_seeds,
    summarise_behaviour,
    summarise_choice,
)
from fireact.study.stages import Stage
from fireact.study.tables import _format_difference, _format_gain, _paper_gains, _seeds_table
from fireact.types import Action, Step, Trajectory, Usage

SCORED = {"n": 1, "em": 0.0, "f1": 0.0, "finished": 1.0}
SEARCH, FINISH = Action("search", {"query": "x"}), Action("finish", {"answer": "a"})


def episode(index: int, em: float, *thoughts: str, answered: bool = True) -> Trajectory:
    steps = [Step(thought, SEARCH, "seen", "") for thought in thoughts[:-1]]
    steps.append(Step(thoughts[-1], FINISH if answered else SEARCH, None, ""))
    example = Small().examples("test")[index]
    stop = "finish" if answered else "max_steps"
    return Trajectory("small", example, "react", "m", 0, tuple(steps), stop, {"em": em, "f1": em}, Usage(), 1.0)  # type: ignore[arg-type]


def measured(name: str, ems: list[float], turns: int = 1) -> CellResult:
    return CellResult(
        Cell(name, name), (), Path(), {"small": [episode(at, em, *["look"] * turns) for at, em in enumerate(ems)]}
    )


@pytest.mark.parametrize(
    ("found", "method"),
    [
        (episode(0, 1, ""), "io"),
        (episode(0, 1, "I know."), "cot"),
        (episode(0, 1, "look", "done"), "react"),
        (episode(0, 1, "look", "My queries were too vague; I should name it. Again.", "done"), "reflexion"),
        (episode(0, 0, "look", "look", answered=False), "no answer"),
    ],
)
def test_the_method_of_an_episode_is_told_from_its_steps(found: Trajectory, method: str) -> None:
    assert classify_method(found) == method


def test_turns_searches_and_methods_used() -> None:
    found = summarise_behaviour([episode(0, 1, ""), episode(1, 1, "look", "look", "done")])
    assert found.turns == 2 and found.turns_deviation == 1 and found.calls_of_tools == 1
    assert found.used == {"io": 0.5, "react": 0.5}
    assert found.questions == {"io": {"1": 1}, "react": {"3": 1}}


def test_chance_best_and_oracle_choose_for_each_question() -> None:
    found = summarise_choice([measured("io", [1, 0, 0, 0]), measured("react", [1, 1, 0, 1], turns=3)])["small"]
    assert found.random.em.mean == pytest.approx(0.5)
    assert (found.best.cell, found.best.em.mean, found.best.turns) == ("react", 0.75, None)
    assert found.oracle.em.mean == 0.75 and found.oracle.turns == pytest.approx((1 + 3 + 1 + 3) / 4)
    assert found.chosen == {"io": 0.5, "react": 0.5}
    assert found.oracle.em.low < 0.75 < found.oracle.em.high
    plain = found.to_dict()
    assert list(plain) == ["n", "random", "best", "oracle", "chooser", "chosen"] and plain["chooser"] is None
    assert list(plain["best"]) == ["cell", "em", "em_interval"]
    assert plain["oracle"] == {"em": 0.75, "em_interval": found.oracle.em.interval, "turns": 2.0}


def test_a_student_that_chooses_stands_beside_chance_and_oracle() -> None:
    group = [measured("io", [1, 0]), measured("react", [0, 1])]
    found = summarise_choice(group, measured("all", [1, 1], turns=2))["small"]
    assert found.chooser is not None
    assert (found.chooser.cell, found.chooser.em.mean, found.chooser.turns) == ("all", 1.0, 2)
    assert summarise_choice(group, measured("all", [1]))["small"].chooser is None  # not asked all of these


def test_a_difference_is_paired_and_in_proportion() -> None:
    found, why = compare_with_baseline(measured("after", [1, 1, 1, 0]), measured("before", [1, 0, 0, 0]))
    assert not why
    change = found["small"]
    assert change.em.difference.mean == pytest.approx(0.5) and change.relative is None  # of one right answer
    assert change.em.wins == 2 and change.cell == "before"
    assert change.asked == [4, 4] and change.conditions == []
    assert list(change.to_dict()) == ["cell", "em", "f1", "relative", "asked", "conditions"]
    assert BaselineChange.from_dict(change.to_dict()) == change


def test_why_there_is_no_difference_is_said_and_what_else_differs() -> None:
    absent = CellResult(Cell("b", "b"), (), Path(), {})
    assert compare_with_baseline(measured("after", [1.0]), absent) == (
        {},
        {"small": "b: it was not asked any question of this task"},
    )
    before = measured("b", [1.0])
    others = [replace(one, example=replace(one.example, id="elsewhere")) for one in before.episodes["small"]]
    found, why = compare_with_baseline(measured("a", [1.0]), replace(before, episodes={"small": others}))
    assert not found and why["small"].startswith("b: the two agents share no scored question (1 and 1)")
    reworded = [replace(one, example=replace(one.example, question="Another?")) for one in before.episodes["small"]]
    found, _ = compare_with_baseline(measured("a", [1.0, 0.0]), replace(before, episodes={"small": reworded}))
    assert found["small"].asked == [1, 2] and found["small"].em.n == 1
    assert found["small"].differing == ["questions"]
    shown = _format_difference(BaselineChange.from_dict(found["small"].to_dict()))
    assert "on 1 of 2 questions" in shown and "questions differ" in shown


def test_tools_and_limits_are_checked_but_for_what_an_axis_varies(tmp_path: Path) -> None:
    def asked(name: str, tools: dict[str, str], limit: int) -> CellResult:
        stage = Stage("eval", name, {})
        stage.path(tmp_path).mkdir(parents=True)
        jsonl.replace_text(stage.path(tmp_path) / "config.toml", 'verb = "eval"\nsplit = "test"\n')
        manifest = {"tools": tools, "limits": {"small": {"max_steps": limit}}}
        jsonl.replace_text(stage.path(tmp_path) / "manifest.json", json.dumps(manifest))
        return replace(measured(name, [1.0]), stages=[stage], root=tmp_path)

    one, other = asked("a", {"search": "noise-1:none=0.5:s1"}, 8), asked("b", {"search": "s1"}, 6)
    found, _ = compare_with_baseline(one, other)
    assert found["small"].differing == ["noise", "limits"]
    found, _ = compare_with_baseline(one, other, varied={"noise"})
    assert found["small"].differing == ["limits"]


def test_a_gain_is_put_in_proportion_to_five_right_answers_or_more() -> None:
    def asked(name: str, ems: list[float]) -> CellResult:
        found = [episode(0, em, "look") for em in ems]
        found = [replace(one, example=replace(one.example, id=str(at))) for at, one in enumerate(found)]
        return CellResult(Cell(name, name), (), Path(), {"small": found})

    five, four, all_right = asked("b", [1] * 5 + [0] * 5), asked("b", [1] * 4 + [0] * 6), asked("a", [1] * 10)
    assert compare_with_baseline(all_right, five)[0]["small"].relative == pytest.approx(1.0)
    assert compare_with_baseline(all_right, four)[0]["small"].relative is None
    seeds = {n: replace(all_right, cell=Cell(n, "a", {}, {"seed": at}, "b")) for at, n in enumerate(("a0", "a1"))}
    assert pool_seeds({"b": four, **seeds})["a"]["small"].relative is None  # the same four, twice
    assert _format_gain(0.5) == "+50 % relative" and _format_gain(10.0) == "11.0 times as much"


def test_why_nothing_has_paid_off_is_said() -> None:
    assert _compute_break_even(5.0, 0.1, 1.0) == (50, "")
    assert _compute_break_even(5.0, 0.1, None)[1].startswith("at least")
    assert "never" in _compute_break_even(5.0, -0.1, 1.0)[1]
    assert "price" in _compute_break_even(None, 0.1, 1.0)[1]


def test_what_an_agent_costs(tmp_path: Path) -> None:
    collection = Stage("collect", "k", {"plan": {"small/react": 100}})
    mixtures = [
        Stage("mix", "k", where, {"sources": [collection]}) for where in ({}, {"where": ["correct", "steps<=1"]})
    ]
    training = Stage("train", "k", {})
    stages = [collection, mixtures[0], training, Stage("eval", "k", {}, {"agent": [training]})]
    manifests = {
        "collect": {
            "counts": {"small/react": {"n": 100}, "small/cot": {"n": 0}},
            "seconds": 50.0,
            "usage": {"cost": 0.0},
        },
        "mix": {"counts": {"small/react": {"n": 40}}},
        "train": {"training_seconds": 360.0},
        "eval": {"results": {"small": {**SCORED, "seconds_per_question": 3.6}}},
    }
    for stage in stages:
        stage.path(tmp_path).mkdir(parents=True)
        jsonl.replace_text(stage.path(tmp_path) / "manifest.json", json.dumps(manifests[stage.verb]))
    episodes = [episode(at, float(at >= 20), *["look"] * (1 + (at < 60))) for at in range(100)]
    other = replace(episodes[0], method="cot")  # is in no mixture, so it is no waste
    jsonl.write_objects(collection.path(tmp_path) / "trajectories.jsonl", [one.to_dict() for one in (*episodes, other)])
    prices = {"machine_hour": StudyPrice(1.0, "here"), "teacher_question": StudyPrice(0.101, "there")}
    found = compute_cell_cost(CellResult(Cell("a", "a"), stages, tmp_path), prices)
    assert found.data_usd == pytest.approx(40 * 0.101) and found.wasted_episodes == 10
    assert found.waste_usd == pytest.approx(10 * 0.101) and found.waste_seconds == pytest.approx(5.0)
    assert found.training_usd == pytest.approx(0.1) and found.usd_per_question == pytest.approx(0.001)
    assert found.questions_to_break_even == 52  # (50 x 0.101 + 0.1) / (0.101 - 0.001) = 51.5
    assert compute_cell_cost(CellResult(Cell("a", "a"), stages, tmp_path), {}).questions_to_break_even is None
    stages[1] = mixtures[1]  # 80 are right, 40 of them short: the others were collected in vain too
    assert compute_cell_cost(CellResult(Cell("a", "a"), stages, tmp_path), prices).wasted_episodes == 60


def test_a_hosted_question_costs_what_was_paid_and_its_searches(tmp_path: Path) -> None:
    stage = Stage("eval", "k", {"tools": ["noise:none=0.5:serpapi"]}, {"agent": ["openai:gpt-4o"]})
    stage.path(tmp_path).mkdir(parents=True)
    manifest = {"results": {"small": {**SCORED, "seconds_per_question": 3600.0}}}
    jsonl.replace_text(stage.path(tmp_path) / "manifest.json", json.dumps(manifest))
    asked = [replace(episode(at, 1, "look", "look", "done"), usage=Usage(cost=0.01)) for at in range(2)]
    one = CellResult(Cell("a", "a"), [stage], tmp_path, {"small": asked})
    prices = {"machine_hour": StudyPrice(1.0, "here"), "search": StudyPrice(0.015, "there")}
    assert compute_cell_cost(one, prices).usd_per_question == pytest.approx(0.01 + 2 * 0.015)
    assert compute_cell_cost(one, {}).usd_per_question is None  # nobody said what a search costs


def test_seeds_are_taken_together_by_question() -> None:
    def cell(name: str, group: str, seed: int, ems: list[float], against: str | None = None) -> CellResult:
        one = measured(name, ems)
        return replace(
            one, cell=replace(one.cell, group=group, against=against, axes={"seed": seed}, settings={"seed": seed})
        )

    prompted = cell("p", "p", 0, [0, 0, 0, 0])
    tuned = [cell(f"t, seed {seed}", "t", seed, ems, "p") for seed, ems in enumerate(([1, 1, 0, 0], [1, 0, 0, 0]))]
    found = pool_seeds({one.cell.name: one for one in (prompted, *tuned)})
    assert list(found) == ["t"] and found["t"]["small"].cell == "p" and found["t"]["small"].em.n == 4
    assert found["t"]["small"].em.difference.mean == pytest.approx(3 / 8)
    assert "conditions" not in found["t"]["small"].to_dict()


def test_the_paper_s_gain_stands_beside_ours_for_models_of_which_it_has_both() -> None:
    pair = [measured("prompted", [0.0]), measured("tuned", [1.0])]
    changes = [{}, compare_with_baseline(pair[1], pair[0])[0]]
    rows = [
        StudyRow.from_dict({"cell": one.cell.name, "results": {"small": SCORED}, "against": to_plain(change)})
        for one, change in zip(pair, changes, strict=True)
    ]
    figures = [
        PaperFigure("Llama-2-7B, ReAct", 14.8, cell="prompted"),
        PaperFigure("Llama-2-7B, FireAct", 26.2, cell="tuned"),
        PaperFigure("GPT-3.5, FireAct", 39.2, cell="tuned"),
        PaperFigure("Llama-2-7B, FireAct", 3.1, unit="turns", cell="tuned"),
    ]
    assert _paper_gains(figures, rows[1], "small", rows) == "+11.4, +77 % relative (Llama-2-7B)"
    assert _paper_gains(figures, rows[0], "small", rows) == "" == _paper_gains(figures, rows[1], "other", rows)
    twice = [*figures, PaperFigure("Llama-2-7B, again", 20.0, cell="prompted")]
    assert _paper_gains(twice, rows[1], "small", rows) == ""  # which of the two is not said


def test_how_far_apart_seeds_are_is_said() -> None:
    ems = [(f"five, seed {at}", em) for at, em in enumerate((0.2, 0.26, 0.32))]
    ems += [(f"ten, seed {at}", em) for at, em in enumerate((0.5, 0.5))]
    rows = [StudyRow.from_dict({"cell": name, "results": {"small": {**SCORED, "em": em}}}) for name, em in ems]
    own = [Cell(name, name.partition(",")[0]) for name, _ in ems]
    page = _seeds_table("small", own, rows, {})
    assert "| five | 3 | 26.0 | 20.0 to 32.0 |" in page and "| ten | 2 | 50.0 |" in page
    assert "a standard deviation of 4.9 points, pooled" in page  # the root of (36 + 36 + 0) / 3
    assert _seeds_table("small", own[:1], rows[:1], {}) == ""


def test_plots_show_cells_levels_and_the_paper_s_figures_in_words_too(tmp_path: Path) -> None:
    cells = [Cell("prompted", "prompted"), *(Cell(f"{n}", f"{n}", {"size": n}, {"mixture": "x"}) for n in (10, 100))]
    rows = [
        StudyRow.from_dict({"cell": cell.name, "results": {"small": {**SCORED, "em": em}}})
        for cell, em in zip(cells, (0.1, 0.2, 0.6), strict=True)
    ]
    paper = [PaperFigure("Llama, ReAct", 14.8, cell="prompted"), PaperFigure("Llama", 3.1, unit="turns", cell="10")]
    plots = (PlotSpec(), PlotSpec("curve", "size"))
    study = StudyFile("s", "small", "Sizes", paper=paper, plots=plots)
    names = draw_plots(study, cells, rows, tmp_path)
    assert names == ["small-bars.svg", "small-bars.png", "small-curve-size.svg", "small-curve-size.png"]
    bars, curve = ((tmp_path / name).read_text() for name in (names[0], names[2]))
    assert "Sizes (small). Exact match with 95% intervals: prompted 10.0%, 10 20.0%, 100 60.0%." in bars
    assert bars.count(">paper: Llama<") == 1 and ">fine-tuned<" in bars
    assert "Exact match by size: fine-tuned: 10 20.0%, 100 60.0%." in curve and ">prompted<" in curve
    assert draw_plots(study, cells, rows, tmp_path) == names and (tmp_path / names[0]).read_text() == bars
