"""A study file: its cells, what is refused before anything runs, what a stage is named by, and the files that ship."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from command import fireact
from fireact.base import jsonl
from fireact.base.cost import CostEstimate
from fireact.errors import ConfigError, FireactError
from fireact.reporting.rows import StudyResults
from fireact.study.cells import build_cells
from fireact.study.file import CHOICES, PaperFigure, StudyFile, list_shipped_studies, read_study
from fireact.study.forecast import PlannedStage
from fireact.study.runner import StudyConfig, StudyMatrix, _restore_placeholders, plan_study, run_study
from fireact.study.stages import Stage, StageResolver
from fireact.study.tables import format_tables
from fireact.terminal.study import _remaining_work
from small_study import SMALL

pytest.importorskip("torch")
pytest.importorskip("trl")


def file(**changes: Any) -> StudyFile:
    values: dict[str, Any] = {
        "name": "mine",
        "size": "small",
        "title": "Mine",
        "axes": {
            "size": [5, 10],
            "noise": [{"label": "normal"}, {"label": "None", "noise": "none=0.5"}],
            "seed": [0, 1],
        },
        "collect": {"hop": {"plan": {"geo-hop/react": 20}}},
        "mixtures": {"hop": {"from": ["hop"]}},
        "cells": [
            {"name": "prompted"},
            {
                "name": "{size}, {noise}",
                "axes": ["size", "noise", "seed"],
                "mixture": "hop",
                "against": "{size}, normal",
            },
        ],
    }
    return StudyFile(**{**values, **changes})


def test_cells_are_the_product_of_axes_by_their_labels() -> None:
    found = {cell.name: cell for cell in build_cells(file())}
    assert len(found) == 1 + 2 * 2 * 2
    noisy = found["5, None, seed 1"]
    assert noisy.group == "5, None" and noisy.settings["noise"] == "none=0.5" and noisy.seed == 1
    assert noisy.against == "5, normal" and found["5, normal, seed 0"].against == ""
    assert noisy.axes == {"size": 5, "noise": "None", "seed": 1}


def test_cells_can_be_left_out() -> None:
    block = {"name": "{size} {seed}", "axes": ["size", "seed"], "mixture": "hop", "exclude": [{"size": 5, "seed": 1}]}
    assert [cell.name for cell in build_cells(file(cells=[block]))] == ["5 0", "10 0", "10 1"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cells": [{"name": "a"}, {"name": "a"}]}, "two cells"),
        ({"cells": [{"name": "a", "axes": ["length"]}]}, "axis .*'length'"),
        ({"cells": [{"name": "a", "epoch": 3}]}, "Did you mean 'epochs'"),
        ({"cells": [{"name": "a", "mixture": "hops"}]}, "Did you mean 'hop'"),
        ({"cells": [{"name": "a", "against": "b"}]}, "the baseline of a"),
        ({"choice": ["io"]}, "choice"),
        ({"chooser": "io"}, "chooser"),
        ({"axes": {"size": [{"n": 3}], "noise": [""], "seed": [0]}}, "label"),
    ],
)
def test_a_name_that_nothing_stands_behind_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_cells(file(**changes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('title = "a"', "no \\[\\[cells\\]\\]"),
        ('titel = "a"', "Did you mean 'title'"),
        ('title = "a"\ncells = [{name="a"}]\nplots=[{kind="pie"}]', "bars"),
        ('title = "a"\ncells = [{name="a"}]\npaper=[{label="x"}]', "value"),
        ('title = "a"\ncells = [{name="a"}]\nsizes.small.shard = {}', "Did you mean 'shared'"),
        ("title = ", "cannot read"),
    ],
)
def test_a_wrong_file_is_refused_in_words(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_study(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("n = 5", 'n = "abc"', "shared.n is 'abc'; it must be a whole number"),
        ("n = 5", "n = true", "shared.n is True"),
        ("n = 5", "n = 5\nblocks = [1]", r"shared.blocks is \[1\]; it must be a whole number"),
        ("n = 5", 'n = 5\ntemperature = "x"', "shared.temperature is 'x'; it must be a number"),
        ("n = 5", 'n = 5\nseed = "x"', "shared.seed"),
        ('["geo-hop"]', '"geo-hop"', "shared.tasks is 'geo-hop'; it must be a list, each item a text"),
        ("n = 5", 'n = 5\ntools = "search"', "shared.tools is 'search'"),
        ("size = [4, 8]", "size = 100", "axes.size is 100; it must be a list"),
        ("size = [4, 8]", 'size = "abc"', "axes.size is 'abc'"),
        ("size = [4, 8]", 'size = [4, "abc"]', r"axes.size \(number 2\).size is 'abc'"),
        ("size = [4, 8]", "size = [{ label = [1], size = 4 }]", "label"),
        ("[axes]\nsize = [4, 8]\n", "", "unknown axis"),
        ('from = ["hop"]', 'from = "hop"', "mixtures.hop.from is 'hop'; it must be a list"),
        ('from = ["hop"]', 'from = ["hop"]\nseed = "x"', "mixtures.hop.seed is 'x'"),
        ('from = ["hop"]', 'form = ["hop"]', "Did you mean 'from'"),
        ('from = ["hop"]', "from = []", "mixtures.hop has no data"),
        ('[mixtures.hop]\nfrom = ["hop"]', "[mixtures]\nhop = 3", "mixtures.hop is 3; it must be a table"),
        ('"geo-hop/react" = 20', '"geo-hop/react" = "x"', "collect.hop.plan.geo-hop/react is 'x'"),
        ('title = "Small"', "title = 3", "title is 3; it must be a text"),
        ('title = "Small"', 'title = "a"\nnotes = "abc"', "notes is 'abc'; it must be a list"),
        ('title = "Small"', 'title = "a"\nsizes = 3', "sizes is 3"),
        ('title = "Small"', 'title = "a"\nsizes.small = 3', "sizes.small is 3"),
        ('title = "Small"', 'title = "a"\npaper = [{label = "x", value = "y"}]', r"paper \(number 1\).value is 'y'"),
        ('title = "Small"', 'title = "a"\nrates = { train_tokens = "x" }', "rates.train_tokens is 'x'"),
        (
            'title = "Small"',
            'title = "a"\nprices = { machine_hour = { value = "x", source = "" } }',
            "machine_hour.value",
        ),
        ('name = "asked"', 'name = "asked"\nexclude = [3]', r"exclude \(number 1\) is 3; it must be a table"),
        ('name = "asked"', "name = 3", "name is 3"),
        ('name = "asked"', 'name = "asked"\naxes = "size"', "axes is 'size'"),
        ('name = "asked"', 'name = "asked"\nmixture = "m"', "Did you mean|Known: hop"),
        # of the right type, and nothing stands behind it
        ('["geo-hop"]', '["geo-hip"]', "Did you mean 'geo-hop'"),
        ('["geo-hop"]', '["geo-hop", "geo-hop"]', "same name"),
        ('["geo-hop"]', "[]", "tasks is empty"),
        ("n = 5", "n = 5000", "5000 questions of geo-hop .* test has 2"),
        ("n = 5", "n = -3", "n is -3; it must be at least 1"),
        ("n = 5", 'n = 5\ntools = ["serch"]', "Did you mean 'search'"),
        ("n = 5", 'n = 5\ntools = ["search:/no/such.jsonl"]', "no/such"),
        ("n = 5", 'n = 5\nnoise = "none=2"', "probability '2'"),
        ("n = 5", 'n = 5\nnoise = "noon=0.2"', "Did you mean 'none'"),
        ("n = 5", 'n = 5\nsplit = "tets"', "unknown split of geo-hop 'tets'"),
        ("n = 5", 'n = 5\norder = "odd"', "order 'odd'"),
        ("n = 5", 'n = 5\nbudget = "much"', "much"),
        ("n = 5", 'n = 5\nmethod = "raect"', "Did you mean 'react'"),
        ("scripted:expert", "scripted:export", "scripted:expert"),
        ("scripted:expert", "smollm3-135m", "Did you mean 'smollm2-135m'"),
        ("smollm2-135m", "replay:runs/mine", "cannot be fine-tuned"),
        ("smollm2-135m", "fireworks:", "not of the form KIND:MODEL"),
        ('base = "smollm2-135m"', 'base = "openai:gpt-4o"\nrank = 4', "rank would be ignored"),
        ('base = "smollm2-135m"', 'base = "smollm2-135m"\nmethod = "cot"', "'cot' would be ignored"),
        ('title = "Small"', 'title = "a"\npaper = [{label = "x", value = 1, cell = "9"}]', "cell .the figure 'x'. '9'"),
        ('title = "Small"', 'title = "a"\npaper = [{label = "x", value = 1, cell = ["4", "9"]}]', "'9'"),
        (
            'title = "Small"',
            'title = "a"\npaper = [{label = "x", value = 1, cell = "oracle choice"}]',
            "'oracle choice'",
        ),
        (
            'title = "Small"',
            'title = "a"\npaper = [{label = "x", value = 1, cell = "4", task = "geo-hopp"}]',
            "Did you mean 'geo-hop'",
        ),
        ('from = ["hop"]', 'from = ["hopp"]', "'hopp', which is neither"),
        ('from = ["hop"]', 'from = ["hop"]\nwhere = ["corect"]', "corect"),
        ('from = ["hop"]', 'from = ["hop"]\ntake = { "geo-hop/cot" = 3 }', "geo-hop/cot"),
        ('from = ["hop"]', 'from = ["hop"]\nweights = { "geo-hop/cot" = 0.3 }', "geo-hop/cot"),
        ("size = [4, 8]", "size = [4, 80]", "80 trajectories .* no more than 20"),
        ('"geo-hop/react" = 20', '"geo-hop/react" = 20000', "20000 questions of geo-hop"),
        ('"geo-hop/react" = 20', '"geo-hop/raect" = 20', "Did you mean 'react'"),
        ("= 20 }", '= 20 }\nteacher = "nobody"', "unknown model 'nobody'"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_run(before: str, after: str, said: str, tmp_path: Path) -> None:
    assert before in SMALL
    (tmp_path / "mine.toml").write_text(SMALL.replace(before, after))
    config = StudyConfig(str(tmp_path / "mine.toml"))
    for refusing in (plan_study, run_study):
        with pytest.raises(FireactError, match=said):
            refusing(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sound_file_is_planned_without_keys_and_run_with_them_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "SERPAPI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    sound = SMALL.replace("n = 5", 'n = 5\ntools = ["noise:none=0.5:serpapi"]')
    (tmp_path / "mine.toml").write_text(sound)
    config = StudyConfig(str(tmp_path / "mine.toml"))
    assert plan_study(config, tmp_path / "out").complete_stages == 0
    with pytest.raises(FireactError, match="SERPAPI_API_KEY"):
        run_study(config, tmp_path / "out")


def test_what_nothing_uses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SMALL)
    with pytest.raises(ConfigError, match=r"'foo'.*Known: none"):
        plan_study(StudyConfig(str(tmp_path / "mine.toml"), values={"foo": "1"}), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"size .*'big'.*Known: small"):
        read_study(str(tmp_path / "mine.toml"), size="big")
    with pytest.raises(ConfigError, match="Did you mean 'data'"):
        plan_study(StudyConfig("real-hotpotqa", values={"dat": "1"}), tmp_path / "out")


def test_a_size_may_ask_another_question() -> None:
    small, paper = (read_study("base-scale", size=size) for size in ("small", "paper"))
    assert "one base model" in small.title and small.notes and paper.title == "Larger students" and not paper.notes


def test_a_size_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="small"):
        read_study("scaling", size="smal")
    with pytest.raises(ConfigError, match="Did you mean 'scaling'"):
        read_study("scalin")


# --- what a stage is named by ---


def key(study: StudyFile, name: str, **given: str) -> str:
    return (
        StageResolver(study, given).evaluation_stage(next(cell for cell in build_cells(study) if cell.name == name)).key
    )


def test_a_key_covers_what_the_result_depends_on_and_nothing_else() -> None:
    first = key(file(), "5, None, seed 1")
    assert first == key(file(shared={"workers": 3}), "5, None, seed 1")
    assert first == key(file(shared={"epochs": 3}), "5, None, seed 1")  # the default
    assert first != key(file(shared={"epochs": 4}), "5, None, seed 1")
    assert first != key(file(collect={"hop": {"plan": {"geo-hop/react": 21}}}), "5, None, seed 1")
    assert len({key(file(), cell.name) for cell in build_cells(file())}) == 9


def test_a_foreign_file_counts_by_what_it_holds_and_not_by_where_it_lies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text("same\n")
    mine = file(mixtures={"hop": {"from": ["{data}/data.jsonl"]}}, collect={})
    before = key(mine, "5, normal, seed 0", data=str(tmp_path / "a"))
    assert before == key(mine, "5, normal, seed 0", data=str(tmp_path / "b"))
    tool = file(shared={"tools": ["snippets:{data}/data.jsonl"]})
    asked = key(tool, "prompted", data=str(tmp_path / "a"))
    assert asked == key(tool, "prompted", data=str(tmp_path / "b"))
    (tmp_path / "b" / "data.jsonl").write_text("other\n")
    assert before != key(mine, "5, normal, seed 0", data=str(tmp_path / "b"))
    assert asked != key(tool, "prompted", data=str(tmp_path / "b"))


def test_what_the_user_must_give_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIREACT_DATA", raising=False)
    with pytest.raises(ConfigError, match="--set data="):
        run_study(StudyConfig("real-hotpotqa"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(plan_study(StudyConfig("real-hotpotqa"), tmp_path).needs) == ["data"]
    found = plan_study(StudyConfig("robustness", size="paper"), tmp_path).needs
    assert found["queries"].startswith("--set queries=..., a file of queries, one a line")


def test_a_fine_tuned_agent_is_shown_examples_only_where_that_is_asked_for() -> None:
    block = {"name": "tuned", "mixture": "hop", "examples": 3, "method": "react"}
    shown = file(cells=[block, {**block, "name": "shown", "few_shot": 3}])
    found = {cell.name: StageResolver(shown).evaluation_stage(cell).config(Path()) for cell in build_cells(shown)}
    assert found["tuned"].examples is None and found["shown"].examples == 3
    assert key(shown, "tuned") == key(file(cells=[{"name": "tuned", "mixture": "hop"}]), "tuned")
    ways = file(cells=[{**block, "name": way, "few_shot": 3, "method": way} for way in ("io", "cot", "react")])
    asked = [StageResolver(ways).evaluation_stage(cell).config(Path()).method for cell in build_cells(ways)]
    assert asked == ["io", "cot", "react"] and len({key(ways, way) for way in asked}) == 3


def test_a_figure_may_be_of_another_size_and_of_any_task_of_the_users_own_code(tmp_path: Path) -> None:
    figures = '[{label = "x", value = 1, cell = "big"}, {label = "y", value = 1, cell = "own", task = "mine"}]'
    own = (
        '[[cells]]\nname = "own"\ntasks = ["my.module:task"]\n'
        '[sizes.small]\n[sizes.paper]\ncells = [{ name = "big" }]\n'
    )
    (tmp_path / "mine.toml").write_text(SMALL.replace('title = "Small"', f'title = "Small"\npaper = {figures}') + own)
    for size in ("small", "paper"):
        assert build_cells(read_study(str(tmp_path / "mine.toml"), size=size))


# --- what is shipped ---


@pytest.mark.parametrize("size", ["small", "paper"])
@pytest.mark.parametrize("name", list_shipped_studies())
def test_every_shipped_study_resolves(name: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "SERPAPI_API_KEY", "FIREACT_DATA"):
        monkeypatch.delenv(variable, raising=False)
    config = StudyConfig(name, size=size)
    expected = plan_study(config, tmp_path / "none").to_dict()
    found = read_study(name, size=size)
    assert expected["stages"] >= len(expected["cells"]) > 1
    assert "?" in found.asks and found.source and not expected["short"]
    if size == "small":
        assert expected["seconds"]["known"] <= 3600
        assert expected["usd"]["known"] <= (0.1 if name == "cost" else 0)
        assert expected["usd"]["whole"] and (expected["seconds"]["whole"] or expected["needs"])
    else:
        assert all(part.startswith("the machine for ") for part in expected["usd"]["unknown"])
        assert bool(expected["searches"]) == (not name.startswith("real-"))
    if size == "paper" and found.collect:
        assert expected["usd"]["known"] > 0.015 * expected["searches"] > 1


def test_studies_of_the_paper_buy_no_question_twice() -> None:
    bought: dict[tuple[str, str, tuple[str, ...]], dict[int, str]] = {}
    for name in list_shipped_studies():
        for stage in StudyMatrix.read(StudyConfig(name, size="paper")).stages:
            for part, count in stage.values["plan"].items() if stage.verb == "collect" else ():
                keys = bought.setdefault((stage.values["teacher"], part, tuple(stage.values["tools"])), {})
                start = stage.values.get("start", 0)
                for at in range(start, start + count):
                    assert keys.setdefault(at, stage.key) == stage.key, (name, part, at)
    assert len(bought) == 9


def test_what_is_trained_alike_is_one_stage_in_all_studies() -> None:
    def trained(study: str, cell: str, size: str) -> str:
        chain = StudyMatrix.read(StudyConfig(study, size=size)).chains[cell]
        return next(stage.key for stage in chain if stage.verb in ("train", "tune"))

    assert trained("lora", "LoRA, upper 10 blocks", "small") == trained(
        "base-scale", "10 of 30 blocks trained", "small"
    )
    for one, other in (
        (("scaling", "Llama-2-7B, 500 trajectories, seed 0"), ("epochs", "Llama-2-7B, epochs: 30")),
        (("scaling", "GPT-3.5, 500 trajectories"), ("robustness", "GPT-3.5, one task, normal")),
        (("lora", "LoRA, all blocks"), ("base-scale", "Llama-2-7B, fine-tuned")),
    ):
        assert trained(*one, "paper") == trained(*other, "paper")


PUBLISHED = ("base-scale", "cost", "epochs", "generalization", "lora", "mask", "methods", "scaling", "single-task")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_stages_of_published_studies_keep_their_keys(name: str) -> None:
    chains = StudyMatrix.read(StudyConfig(name)).chains
    for row in jsonl.read_objects(Path(__file__).parents[1] / "studies" / name / "results.jsonl"):
        assert {f"{stage.verb}/{stage.key}" for stage in chains[row["cell"]]} == set(row["stages"])


@pytest.mark.parametrize("name", list_shipped_studies())
def test_every_figure_stands_beside_a_cell_that_there_is(name: str) -> None:
    names = [
        n
        for size in ("small", "paper")
        for c in StudyMatrix.read(StudyConfig(name, size=size)).cells
        for n in (c.name, c.group)
    ]
    names += CHOICES if read_study(name).choice else ()
    for figure in read_study(name).paper:
        assert not figure.cell or figure.matches(*names), figure


def test_the_studies_are_listed_and_planned_on_the_command_line(tmp_path: Path) -> None:
    listed = fireact("study", "--list", "--json")
    assert set(json.loads(listed.stdout)) == set(list_shipped_studies())
    planned = fireact("study", "scaling", "--dry-run", cwd=tmp_path)
    assert planned.returncode == 0 and "Nothing was spent" in planned.stdout and not list(tmp_path.iterdir())


def test_a_plan_counts_all_stages_of_a_cell() -> None:
    def planned(cost: CostEstimate, *, is_complete: bool = False) -> PlannedStage:
        return PlannedStage(Stage("collect", "k", {}), is_complete, cost)

    small, large = CostEstimate(episodes=700, dollars=40.0), CostEstimate(episodes=1600, dollars=90.05)
    done = planned(small, is_complete=True)
    work = _remaining_work([planned(replace(small, untimed=("collecting",))), planned(large), done], "collect")
    assert work == "2,300, $130.05"
    assert _remaining_work([done] * 2, "collect") == "done" and _remaining_work([], "mix") == ""
    trained = CostEstimate.from_terms(tokens={"training": None}, dollars={"a token": None}, seconds={"training": 60})
    assert _remaining_work([planned(trained)], "train") == "? tokens, $ ?, 60 s"
    assert _remaining_work([planned(trained + replace(small, untimed=("x",)))], "train").endswith("at least 60 s")


def test_estimates_add_up_and_name_what_they_leave_out_once() -> None:
    known = CostEstimate.from_terms(tokens={"a": 5}, dollars={"a": 1.5}, seconds={"a": 2.0}, episodes=3)
    unknown = CostEstimate.from_terms(dollars={"b": None, "c": 1.0}, searches=4, details={"b": 1})
    total = sum((known, unknown, unknown), CostEstimate())
    assert (total.episodes, total.searches, total.tokens, total.dollars, total.seconds) == (3, 8, 5, 3.5, 2.0)
    assert (total.uncounted, total.unpriced, total.untimed, total.details) == ((), ("b",), (), {})


def test_given_values_that_are_no_folders_stay_as_they_are() -> None:
    row = {"cell": "0.5 of /data/x", "results": {"em": 0.5}, "axes": {"noise": "none=0.5"}, "stages": ["eval/hop"]}
    named = _restore_placeholders(row, {"p": "0.5", "kind": "hop", "data": "/data"})
    assert named == {**row, "cell": "0.5 of {data}/x"}


def test_names_in_tables_are_text_and_nothing_else() -> None:
    name = "<img src=x> | [a](b) ~$5"
    mine = file(title=f"# {name}", cells=[{"name": name}])
    shown = r"\<img src=x> \| \[a\](b) \~\$5"
    page = format_tables(mine, build_cells(mine), StudyResults([], failures={name: "no\n# such <b>"}))
    assert page.startswith(rf"# \# {shown}") and rf"- {shown}: no # such \<b>" in page
    assert rf"- {shown}: not run yet" in format_tables(mine, build_cells(mine), StudyResults([]))


def test_a_figure_stands_beside_the_first_task_of_a_cell_unless_it_names_one() -> None:
    assert PaperFigure("a", 1.0).is_about("one", ["one", "two"]) and not PaperFigure("a", 1.0).is_about(
        "two", ["one", "two"]
    )
    assert PaperFigure("a", 1.0, task="two").is_about("two", ["one", "two"])
