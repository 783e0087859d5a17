"""What the cells of a study say: methods told from steps, chance and oracle, and what an agent costs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import Small
from fireact import jsonl
from fireact.study.cells import Cell
from fireact.study.economics import _break_even, economics
from fireact.study.file import Price
from fireact.study.results import Measured, behaviour, choice, differences, method_used, over_seeds
from fireact.study.stages import Stage
from fireact.study.tables import _relative
from fireact.types import Action, Step, Trajectory, Usage

SEARCH, FINISH = Action("search", {"query": "x"}), Action("finish", {"answer": "a"})


def episode(index: int, em: float, *thoughts: str, answered: bool = True) -> Trajectory:
    steps = [Step(thought, SEARCH, "seen", "") for thought in thoughts[:-1]]
    steps.append(Step(thoughts[-1], FINISH if answered else SEARCH, None, ""))
    example = Small().examples("test")[index]
    stop = "finish" if answered else "max_steps"
    return Trajectory("small", example, "react", "m", 0, tuple(steps), stop, {"em": em, "f1": em}, Usage(), 1.0)  # type: ignore[arg-type]


def measured(name: str, ems: list[float], turns: int = 1) -> Measured:
    return Measured(
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
    assert method_used(found) == method


def test_turns_searches_and_methods_used() -> None:
    found = behaviour([episode(0, 1, ""), episode(1, 1, "look", "look", "done")])
    assert found["turns"] == 2 and found["turns_deviation"] == 1 and found["calls_of_tools"] == 1
    assert found["used"] == {"io": 0.5, "react": 0.5}


def test_chance_best_and_oracle_choose_for_each_question() -> None:
    found = choice([measured("io", [1, 0, 0, 0]), measured("react", [1, 1, 0, 1], turns=3)])["small"]
    assert found["random"]["em"] == pytest.approx(0.5) and found["best"] == found["best"] | {
        "cell": "react",
        "em": 0.75,
    }
    assert found["oracle"]["em"] == 0.75 and found["oracle"]["turns"] == pytest.approx((1 + 3 + 1 + 3) / 4)
    assert found["chosen"] == {"io": 0.5, "react": 0.5}
    assert found["oracle"]["em_interval"][0] < 0.75 < found["oracle"]["em_interval"][1]


def test_a_student_that_chooses_stands_beside_chance_and_oracle() -> None:
    group = [measured("io", [1, 0]), measured("react", [0, 1])]
    found = choice(group, measured("all", [1, 1], turns=2))["small"]
    assert found["chooser"] == found["chooser"] | {"cell": "all", "em": 1.0, "turns": 2}
    assert choice(group, measured("all", [1]))["small"]["chooser"] is None  # not asked all of these


def test_a_difference_is_paired_and_in_proportion() -> None:
    found = differences(measured("after", [1, 1, 1, 0]), measured("before", [1, 0, 0, 0]))["small"]
    assert found["em"]["difference"] == pytest.approx(0.5) and found["relative"] is None  # of one right answer
    assert found["em"]["wins"] == 2 and found["cell"] == "before"
    assert differences(measured("after", [1.0]), Measured(Cell("b", "b"), (), Path(), {})) == {}  # not asked the same


def test_a_gain_is_put_in_proportion_to_five_right_answers_or_more() -> None:
    def asked(name: str, ems: list[float]) -> Measured:
        found = [episode(0, em, "look") for em in ems]
        found = [replace(one, example=replace(one.example, id=str(at))) for at, one in enumerate(found)]
        return Measured(Cell(name, name), (), Path(), {"small": found})

    five, four, all_right = asked("b", [1] * 5 + [0] * 5), asked("b", [1] * 4 + [0] * 6), asked("a", [1] * 10)
    assert differences(all_right, five)["small"]["relative"] == pytest.approx(1.0)
    assert differences(all_right, four)["small"]["relative"] is None
    seeds = {n: replace(all_right, cell=Cell(n, "a", {}, {"seed": at}, "b")) for at, n in enumerate(("a0", "a1"))}
    assert over_seeds({"b": four, **seeds})["a"]["small"]["relative"] is None  # the same four, twice
    assert _relative(0.5) == "+50 % of it" and _relative(10.0) == "11.0 times it"


def test_why_nothing_has_paid_off_is_said() -> None:
    assert _break_even(5.0, 0.1, 1.0) == {"questions_to_break_even": 50, "break_even_note": ""}
    assert _break_even(5.0, 0.1, None)["break_even_note"].startswith("at least")
    assert "never" in _break_even(5.0, -0.1, 1.0)["break_even_note"]
    assert "price" in _break_even(None, 0.1, 1.0)["break_even_note"]


def test_what_an_agent_costs(tmp_path: Path) -> None:
    stages = [Stage(verb, "k", {}) for verb in ("collect", "mix", "train", "eval")]
    manifests = {
        "collect": {"counts": {"small/react": {"n": 100, "correct": 80}}, "seconds": 50.0, "usage": {"cost": 0.0}},
        "mix": {"counts": {"small/react": {"n": 40}}},
        "train": {"training_seconds": 360.0},
        "eval": {"results": {"small": {"seconds_per_question": 3.6}}},
    }
    for stage in stages:
        stage.path(tmp_path).mkdir(parents=True)
        jsonl.replace_text(stage.path(tmp_path) / "manifest.json", json.dumps(manifests[stage.verb]))
    prices = {"machine_hour": Price(1.0, "here"), "teacher_question": Price(0.101, "there")}
    found = economics(Measured(Cell("a", "a"), stages, tmp_path), prices)
    assert found["data_usd"] == pytest.approx(40 * 0.101) and found["wasted_episodes"] == 10
    assert found["waste_usd"] == pytest.approx(10 * 0.101) and found["waste_seconds"] == pytest.approx(5.0)
    assert found["training_usd"] == pytest.approx(0.1) and found["usd_per_question"] == pytest.approx(0.001)
    assert found["questions_to_break_even"] == 52  # (50 x 0.101 + 0.1) / (0.101 - 0.001) = 51.5
    assert economics(Measured(Cell("a", "a"), stages, tmp_path), {})["questions_to_break_even"] is None


def test_a_hosted_question_costs_what_was_paid_and_its_searches(tmp_path: Path) -> None:
    stage = Stage("eval", "k", {"tools": ["noise:none=0.5:serpapi"]}, {"agent": ["openai:gpt-4o"]})
    stage.path(tmp_path).mkdir(parents=True)
    manifest = {"results": {"small": {"seconds_per_question": 3600.0}}}
    jsonl.replace_text(stage.path(tmp_path) / "manifest.json", json.dumps(manifest))
    asked = [replace(episode(at, 1, "look", "look", "done"), usage=Usage(cost=0.01)) for at in range(2)]
    one = Measured(Cell("a", "a"), [stage], tmp_path, {"small": asked})
    prices = {"machine_hour": Price(1.0, "here"), "search": Price(0.015, "there")}
    assert economics(one, prices)["usd_per_question"] == pytest.approx(0.01 + 2 * 0.015)
    assert economics(one, {})["usd_per_question"] is None  # nobody said what a search costs


def test_seeds_are_taken_together_by_question() -> None:
    def cell(name: str, group: str, seed: int, ems: list[float], against: str | None = None) -> Measured:
        one = measured(name, ems)
        return replace(
            one, cell=replace(one.cell, group=group, against=against, axes={"seed": seed}, settings={"seed": seed})
        )

    prompted = cell("p", "p", 0, [0, 0, 0, 0])
    tuned = [cell(f"t, seed {seed}", "t", seed, ems, "p") for seed, ems in enumerate(([1, 1, 0, 0], [1, 0, 0, 0]))]
    found = over_seeds({one.cell.name: one for one in (prompted, *tuned)})
    assert list(found) == ["t"] and found["t"]["small"]["cell"] == "p" and found["t"]["small"]["em"]["n"] == 4
    assert found["t"]["small"]["em"]["difference"] == pytest.approx(3 / 8)
