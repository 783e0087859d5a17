"""What becomes of run directories and files of episodes in a report: agents, pairs, noise, mixtures, titles, and what
is refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sample_report
from elements import said
from fakes import trajectory
from fireact.base import jsonl
from fireact.base.run_directory import RunDir
from fireact.errors import ConfigError, DataError
from fireact.evaluation.summary import summarise_trajectories
from fireact.reporting import wording
from fireact.reporting.agent_names import shorten_names
from fireact.reporting.assembly import ReportConfig, assemble_report
from fireact.reporting.assembly import report as write_report
from fireact.reporting.browser import SIZE
from fireact.reporting.figures import build_plots
from fireact.reporting.html import render_html
from fireact.reporting.markdown import render_markdown
from fireact.reporting.plots import render_svg
from fireact.reporting.report_data import EpisodeSource, ReportAgent, ReportData
from fireact.reporting.report_tables import read_headline_table, read_run_table
from fireact.reporting.runs import read_runs, short_labels
from fireact.reporting.summary import (
    RobustnessRow,
    headlines,
    lede,
    report_to_dict,
    robustness_rows,
    subject,
)
from fireact.terminal.evaluation import print_report
from fireact.types import Action, Step, Trajectory, Usage


def test_labels_tell_directories_apart() -> None:
    paths = [Path("/r/a/train"), Path("/r/b/train"), Path("/r/mix")]
    assert list(short_labels(paths).values()) == ["a/train", "b/train", "mix"]


def _evaluation(
    path: Path, agent: str, *, tools: list[str], task: str = "small", wrong: int = 0, hash: str = "f"
) -> Path:
    own = [trajectory(index, task=task, em=float(index >= wrong)) for index in range(10)]
    own = [replace(one, usage=Usage(1, 2, 0, 3, 0.01)) for one in own]
    with RunDir(path, verb="eval", settings={"agent": agent, "tools": tools, "tasks": [task], "n": 10}) as run:
        (path / "trajectories.jsonl").write_text("".join(json.dumps(one.to_dict()) + "\n" for one in own))
        results = {task: summarise_trajectories(own).to_dict()}
        run.finish(agent=agent, description=agent, tuned=False, tools={"search": hash}, results=results)
    return path


def _study(path: Path, cells: list[dict[str, Any]]) -> Path:
    """A complete study of evaluations alone; ``tools``, ``hash`` and ``wrong`` of a cell are as in ``_evaluation``."""
    with RunDir(path, verb="study", settings={"study": "s", "size": "small"}) as run:
        rows = []
        for index, cell in enumerate(cells):
            _evaluation(
                path / f"eval/{index}",
                cell.get("agent", "one"),
                tools=cell.get("tools", ["search"]),
                task=cell["task"],
                wrong=cell.get("wrong", 0),
                hash=cell.get("hash", "f"),
            )
            change = {"difference": 0.0, "interval": [-0.1, 0.1], "p": 1.0, "n": 10, "wins": 0, "losses": 0}
            against = {cell["task"]: {"cell": cell["against"], "em": change, "f1": change}} if "against" in cell else {}
            rows.append({"cell": cell["cell"], "axes": {}, "against": against, "stages": [f"eval/{index}"]})
        jsonl.write_objects(path / "results.jsonl", rows)
        run.finish(title="A study of cells")
    return path


def _reported(*paths: Path) -> ReportData:
    return assemble_report(list(read_runs([str(path) for path in paths])))


def test_the_cells_of_a_study_are_compared_as_it_says_on_the_task_of_each(tmp_path: Path) -> None:
    cells = [
        {
            "cell": f"{method}, {task}",
            "task": task,
            "wrong": wrong,
            **({"against": f"cot, {task}"} if wrong < 6 else {}),
        }
        for task in ("small", "other")
        for method, wrong in (("cot", 6), ("react", 3), ("reflexion", 1))
    ]
    own = _reported(_study(tmp_path / "s", cells))
    assert own.title == "A study of cells"
    assert [(line.task, line.baseline, line.agent) for line in headlines(own)] == [
        (task, f"cot, {task}", f"reflexion, {task}") for task in ("small", "other")
    ]
    assert all(line.before and line.comparison for line in headlines(own))
    assert own.comparisons["other"]["react, other"].em.difference.mean == pytest.approx(0.3)
    assert {next(iter(case.trajectories)) for case in own.cases} == {"cot, small", "cot, other"}
    shown = said(render_html(own))
    assert "to cot, other" in shown and "Before and after" in shown
    assert (
        "react, other against cot, other" in render_markdown(own)
        and len(read_headline_table(report_to_dict(own)).rows) == 2
    )


def test_noise_in_a_study_is_compared_on_the_task_that_was_disturbed(tmp_path: Path) -> None:
    noise = {"tools": ["noise:none=0.5:search"], "hash": "noise-1:none=0.5:f"}
    cells: list[dict[str, Any]] = []
    for task in ("small", "other"):
        cells.append({"cell": f"{task}, normal", "task": task})
        cells.append({"cell": f"{task}, None", "task": task, "wrong": 4, "against": f"{task}, normal", **noise})
    rows = robustness_rows(_reported(_study(tmp_path / "s", cells)))
    assert [(row.task, row.agent.model) for row in rows] == [("small", "small, normal"), ("other", "other, normal")]
    for row in rows:
        assert row.before is not None and row.comparison is not None
        assert row.comparison.em.difference.mean == pytest.approx(-0.4)


def test_a_study_says_first_what_its_best_cell_reached_and_whose_that_is(tmp_path: Path) -> None:
    noise = {"tools": ["noise:none=0.5:search"], "hash": "noise-1:none=0.5:f"}
    cells: list[dict[str, Any]] = [
        {"cell": "prompted", "agent": "base", "task": "small", "wrong": 9},
        {"cell": "five", "agent": "a", "task": "small", "wrong": 1, "against": "prompted"},
        {"cell": "ten", "agent": "b", "task": "small", "wrong": 4, "against": "prompted"},
        {"cell": "five, None", "agent": "a", "task": "small", "wrong": 6, **noise},
        {"cell": "ten, None", "agent": "b", "task": "small", "wrong": 5, "against": "five, None", **noise},
    ]
    own = _reported(_study(tmp_path / "s", cells))
    (line,) = headlines(own)
    assert (line.baseline, line.agent, line.best_of) == ("prompted", "five", 3)
    assert lede(own) == "Exact match: small from 10.0% to 90.0% (prompted to five, the best of 3)."
    assert "→ five, the best of 3" in render_markdown(own) and "five, the best of 3" in said(render_html(own))
    rows = {row.agent.name: row for row in robustness_rows(own)}  # each against itself, whatever the study compares
    assert [(rows[name].agent.model, _change(rows[name])) for name in rows] == [("five", -0.5), ("ten", -0.1)]
    assert set(own.comparisons["small"]) == {"five", "ten", "ten, None"}


def _change(row: RobustnessRow) -> float:
    assert row.before is not None and row.comparison is not None
    return round(row.comparison.em.difference.mean, 6)


def test_each_mixture_has_its_own_collections(tmp_path: Path) -> None:
    count = {"n": 5, "finished": 4, "correct": 3}
    for name, groups in (("one", ["a/react"]), ("two", ["a/react", "a/cot"])):
        with RunDir(tmp_path / name, verb="collect", settings={}) as run:
            jsonl.write_objects(tmp_path / name / "trajectories.jsonl", [])
            run.finish(teacher=f"teacher {name}", counts=dict.fromkeys(groups, count))
    for name, sources in (("first", ["one"]), ("second", ["one", "two"]), ("third", ["second"])):
        with RunDir(tmp_path / name, verb="mix", settings={"sources": [str(tmp_path / one) for one in sources]}) as run:
            run.finish(counts={"a/react": {"n": 2}}, history=[f"made of {name}"])
    names = ("one", "two", "first", "second", "third")
    own = _reported(_evaluation(tmp_path / "eval", "x", tools=["search"]), *(tmp_path / name for name in names))
    assert [
        (mixture.name, name.partition("/")[2], collected.n, collected.correct, mixed.n)
        for mixture in own.mixtures
        for name, (collected, mixed) in mixture.groups.items()
    ] == [
        ("first", "react", 5, 3, 2), ("second", "react", 10, 6, 2), ("second", "cot", 5, 3, 0),
        ("third", "react", 10, 6, 2), ("third", "cot", 5, 3, 0),
    ]  # fmt: skip
    assert "Fine-tuned" not in lede(own)  # who was evaluated was not trained on any of them
    assert "| second | a | react | 10 | 8 | 6 | 2 |" in render_markdown(own) and "made of second" in said(
        render_html(own)
    )


def test_a_report_of_an_earlier_version_is_still_printed() -> None:
    said = report_to_dict(sample_report.sample())
    older = {key: value for key, value in said.items() if key != "one_pair"}
    older["headlines"] = [{key: value for key, value in line.items() if key != "best_of"} for line in said["headlines"]]
    assert len(read_headline_table(older).rows) == len(read_headline_table(said).rows)


def test_of_runs_under_noise_alone_it_is_said_whose_the_number_is(tmp_path: Path) -> None:
    paths = []
    for kind in ("none", "random"):
        noisy: dict[str, Any] = {"tools": [f"noise:{kind}=0.5:search"], "hash": f"noise-1:{kind}=0.5:f"}
        paths.append(_evaluation(tmp_path / kind, "x", **noisy))
    own = _reported(*paths)
    assert lede(own) == "Exact match: small 100.0% (prompted, none=0.5)."
    assert "prompted, none=0.5" in str(read_headline_table(report_to_dict(own)).rows[0][0])
    assert [str(row[0]) for row in read_run_table(report_to_dict(own)).rows] == list(own.labels.values())


def test_control_characters_make_no_broken_plot_or_markdown(tmp_path: Path) -> None:
    own = [replace(trajectory(index), task="t\x1b[31m", model="m\x07") for index in range(3)]
    jsonl.write_objects(tmp_path / "a.jsonl", [one.to_dict() for one in own])
    found = _reported(tmp_path / "a.jsonl")
    assert not set(render_markdown(found)) & set("\x1b\x07")
    for plot in build_plots(found):
        ElementTree.fromstring(render_svg(plot))


def test_a_task_measured_under_noise_alone_is_told_first_too(tmp_path: Path) -> None:
    noisy: dict[str, Any] = {"tools": ["noise:none=0.5:search"], "hash": "noise-1:none=0.5:f"}
    paths = [
        _evaluation(tmp_path / "a", "x", tools=["search"]),
        _evaluation(tmp_path / "b", "x", task="other", **noisy),
    ]
    own = _reported(*paths)
    assert [(line.task, line.agent) for line in headlines(own)] == [("small", "x"), ("other", "x, noise none=0.5")]
    assert "(prompted, none=0.5)" in lede(own) and all("other: ." not in plot.words for plot in build_plots(own))


def test_noise_on_fewer_questions_says_on_how_many(tmp_path: Path) -> None:
    clean, noisy = _file(tmp_path / "a.jsonl"), _file(tmp_path / "b.jsonl", noise="none")
    noisy.write_text("".join(noisy.read_text().splitlines(keepends=True)[:6]))
    own = _reported(clean, noisy)
    assert [row.shared for row in robustness_rows(own)] == [6]
    assert ") on 6 questions |" in render_markdown(own) and "on 6 questions" in said(render_html(own))


def test_cells_that_differ_in_their_tools_are_shown_with_the_difference(tmp_path: Path) -> None:
    cells = [{"cell": name, "task": "small", "hash": name, "wrong": 2 * (name == "own")} for name in ("search", "own")]
    own = _reported(_study(tmp_path / "s", cells))
    assert own.comparisons["small"]["own"].em.difference.mean == pytest.approx(-0.2)
    assert own.unlike == ["own against search, tools: search (search) | search (own)"]
    assert own.unlike[0] in said(render_html(own))


def test_an_agent_without_noise_is_the_baseline_whatever_the_order(tmp_path: Path) -> None:
    noisy = _evaluation(tmp_path / "n", "a", tools=["noise:none=1:search"], wrong=5, hash="noise-1:none=1:f")
    clean = _evaluation(tmp_path / "c", "a", tools=["search"])
    own = _reported(noisy, clean, clean)
    assert [agent.name for agent in own.agents] == ["a", "a, noise none=1"] and headlines(own)[0].agent == "a"
    assert robustness_rows(own)[0].before is not None


def test_a_report_over_one_of_its_runs_deletes_nothing(tmp_path: Path) -> None:
    path = _evaluation(tmp_path / "a", "one", tools=["search"])
    with pytest.raises(DataError, match="is a run of 'fireact eval'"):
        write_report(ReportConfig((str(path),)), path, force=True)
    assert len(_reported(path).sources[0].trajectories) == 10


def test_runs_of_other_tasks_and_under_noise_belong_to_their_agent(tmp_path: Path) -> None:
    paths = [
        _evaluation(tmp_path / "a", "one", tools=["search"]),
        _evaluation(tmp_path / "a2", "one", tools=["search"], task="other"),
        _evaluation(tmp_path / "b", "two", tools=["search"], wrong=3),
        _evaluation(tmp_path / "n", "two", tools=["noise:none=0.5:search"], wrong=8, hash="noise-1:none=0.5:f"),
    ]
    write_report(ReportConfig(tuple(map(str, paths))), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(found["agents"]) == ["one", "two", "two, noise none=0.5"]
    assert (found["before"], found["after"]) == ("one", "two") and found["title"] == "2 agents on small, other"
    assert set(found["agents"]["one"]) == {"small", "other"}
    assert found["agents"]["two"]["small"]["cost_per_question"] == pytest.approx(0.01)
    assert found["robustness"]["small"]["two, noise none=0.5"]["em"]["difference"] == pytest.approx(-0.5)
    assert list(found["comparisons"]["small"]) == ["two"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert said(page).count("FireAct report") == 0


def _gathered(path: Path, verb: str, teacher: str = "teacher") -> Path:
    own = [trajectory(index, em=float(index % 2)) for index in range(10)]
    own += [replace(trajectory(index, em=1.0), method="cot") for index in range(5)]
    with RunDir(path, verb=verb, settings={}) as run:
        jsonl.write_objects(path / "trajectories.jsonl", [one.to_dict() for one in own])
        run.finish(teacher=teacher, counts={}, history=[])
    return path


@pytest.mark.parametrize("verb", ["collect", "record", "mix"])
def test_gathered_episodes_alone_are_reported_without_before_and_after(tmp_path: Path, verb: str) -> None:
    found = _reported(_gathered(tmp_path / verb, verb))
    (agent,) = found.agents
    result = found.results["small"][agent.name]
    assert (result.n, len(found.sources), len(found.sources[0].trajectories)) == (15, 1, 15)
    assert {name: group.n for name, group in result.by["method"].items()} == {"react": 10, "cot": 5}
    (line,) = headlines(found)
    assert line.before is None and "Before and after" not in render_html(found) + render_markdown(found)


def test_a_file_of_episodes_is_reported_beside_another_and_says_no_time_that_it_does_not_know(tmp_path: Path) -> None:
    for name, wrong in (("a", 6), ("b", 1)):
        own = [replace(trajectory(index, em=float(index >= wrong)), usage=Usage(), seconds=0.0) for index in range(10)]
        jsonl.write_objects(tmp_path / f"{name}.jsonl", [replace(one, model=name).to_dict() for one in own])
    alone = _reported(tmp_path / "a.jsonl")
    assert (
        alone.results["small"]["a"].measures.em.mean == 0.4
        and alone.results["small"]["a"].measures.tokens_per_question is None
    )
    assert "Seconds" not in said(render_html(alone)).split("How to read the numbers")[0]
    assert "onds/question" not in render_markdown(alone) and "| s/question" not in render_markdown(alone)
    assert list(read_headline_table(report_to_dict(alone)).columns) == [
        "task",
        "n",
        "EM",
        "finished",
    ]
    both = _reported(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert (
        "onds/question" not in render_markdown(both) and "change" in read_headline_table(report_to_dict(both)).columns
    )
    assert both.comparisons["small"]["b"].em.wins == 5
    write_report(ReportConfig((str(tmp_path / "a.jsonl"),)), tmp_path / "out")
    assert (tmp_path / "out/report.json").exists() and (tmp_path / "a.jsonl").exists()


def test_episodes_without_scores_are_counted(tmp_path: Path) -> None:
    jsonl.write_objects(tmp_path / "a.jsonl", [replace(trajectory(index), scores={}).to_dict() for index in range(3)])
    found = _reported(tmp_path / "a.jsonl")
    assert not found.results and lede(found).startswith("3 episodes of") and lede(found).endswith("without scores.")
    assert "All numbers" not in render_html(found) and "## Results" not in render_markdown(found)


def test_the_released_run_of_500_is_a_page_below_5_mb(shared_data: Path) -> None:
    found = _reported(*(shared_data / "fireact" / "trajs").glob("*.json"))
    assert "26.2%" in lede(found) and len(render_html(found).encode()) < SIZE


def test_other_tools_are_refused(tmp_path: Path) -> None:
    first = _evaluation(tmp_path / "a", "one", tools=["search"])
    for name, tools, hash in (("b", ["search"], "other"), ("c", ["noise:none=1:wikipedia"], "noise-1:none=1:w")):
        second = _evaluation(tmp_path / name, "two", tools=tools, hash=hash)
        with pytest.raises(ConfigError, match="different tools"):
            write_report(ReportConfig((str(first), str(second))), tmp_path / f"out-{name}")
        assert not (tmp_path / f"out-{name}").exists()


def test_a_report_of_500_trajectories_of_two_agents_is_below_5_mb() -> None:
    def grown(index: int) -> Trajectory:
        steps = tuple(
            Step(
                f"thought {index} {n} " + "I need to find the country. " * 4, None, sample_report.LONG * 3, f"text {n}"
            )
            for n in range(4)
        )
        return replace(trajectory(index), steps=steps)

    own = [EpisodeSource(agent.name, [grown(index) for index in range(500)]) for agent in sample_report.sample().agents]
    assert len(render_html(replace(sample_report.sample(), sources=own, cases=())).encode()) < 5_000_000


def test_scores_of_other_questions_do_not_stand_side_by_side() -> None:
    whole = sample_report.sample()
    task = next(iter(whole.results))
    assert headlines(whole)[0].before is not None
    few = replace(whole.comparisons[task][subject(whole).name].em, n=3)
    cut = {task: {subject(whole).name: replace(whole.comparisons[task][subject(whole).name], em=few)}}
    first = headlines(replace(whole, comparisons=cut))[0]
    assert first.before is None and first.comparison is not None


def _file(path: Path, *, model: str = "m", wrong: int = 2, noise: str | None = None, seed: int = 0) -> Path:
    look = Step("", Action("search", {"query": "x"}), "None", "", noise=noise)
    own = [replace(trajectory(index, em=float(index >= wrong)), model=model, seed=seed) for index in range(10)]
    jsonl.write_objects(path, [replace(one, steps=(look, *one.steps)).to_dict() for one in own])
    return path


def test_noise_in_a_file_is_noise_and_is_marked_in_markdown(tmp_path: Path) -> None:
    found = _reported(_file(tmp_path / "a.jsonl"), _file(tmp_path / "b.jsonl", wrong=7, noise="none"))
    assert [agent.noise for agent in found.agents] == ["", "none"] and not found.comparisons
    (row,) = robustness_rows(found)
    assert row.agent.noise == "none" and row.comparison is not None and row.comparison.em.difference.mean == -0.5
    noisy = _reported(_file(tmp_path / "c.jsonl", noise="<b>none"))
    assert r"**Observation (noise: \<b>none)** None" in render_markdown(noisy)


def test_agents_with_other_seeds_are_paired_by_question_and_that_is_said(tmp_path: Path) -> None:
    found = _reported(_file(tmp_path / "a.jsonl", model="a"), _file(tmp_path / "b.jsonl", model="b", wrong=5, seed=3))
    assert found.comparisons["small"]["b"].em.difference.mean == pytest.approx(-0.3)
    assert found.unlike == ["b against a, seed: 0 | 3"]


def test_cases_of_one_agent_are_of_both_outcomes(tmp_path: Path) -> None:
    cases = _reported(_file(tmp_path / "a.jsonl", wrong=2)).cases
    assert [one.scores["em"] for case in cases for one in case.trajectories.values()] == [0.0, 1.0, 0.0, 1.0]


def test_amounts_have_columns_and_intervals(tmp_path: Path) -> None:
    found = _reported(_evaluation(tmp_path / "a", "one", tools=["search"]))
    head = next(line for line in render_markdown(found).splitlines() if line.startswith("| Task | Agent | n |"))
    assert "| Steps | Searches |" in head and head.endswith("| $/question |")
    page = said(render_html(found))
    assert all(word in page for word in ("Searches", "p95", "Dollars"))
    result = found.results["small"]["one"]
    own = dict(zip(head.split(" | "), render_markdown(found).split(head)[1].splitlines()[2].split(" | "), strict=True))
    assert own["Steps"].startswith(f"{wording.number(result.measures.steps.mean)} (") and " to " in own["Searches"]
    assert "Accuracy" not in head


@pytest.mark.parametrize(
    ("agents", "labels"),
    [
        ([("m react 3-shot", False), ("m+3f9a1c07", True)], ["prompted", "fine-tuned"]),
        ([("scripted:expert react 0-shot", False), ("openai:gpt-4o react 3-shot", False)], ["script", "prompted"]),
        ([("hf:org/a react 0-shot", False), ("hf:org/b react 0-shot", False)], ["prompted a", "prompted b"]),
        ([("m+aa", True), ("m+bb", True), ("m react 0-shot", False)], ["fine-tuned aa", "fine-tuned bb", "prompted"]),
        ([("m cot 2-shot", False), ("m react 3-shot", False)], ["prompted cot 2-shot", "prompted react 3-shot"]),
        ([("m+aa (runs/x)", True), ("m+aa (runs/y)", True)], ["fine-tuned (runs/x)", "fine-tuned (runs/y)"]),
        ([("gpt-4o", None)], ["gpt-4o"]),
        ([("a, b", None), ("b, a", None)], ["a, b", "b, a"]),
    ],
)
def test_short_names_tell_the_agents_apart(agents: list[tuple[str, bool | None]], labels: list[str]) -> None:
    clean = [ReportAgent(name, "", tuned=tuned) for name, tuned in agents]
    twin = ReportAgent(f"{agents[0][0]}, noise none=0.5", "", model=agents[0][0], noise="none=0.5")
    assert list(shorten_names([*clean, twin]).values()) == [*labels, f"{labels[0]}, none=0.5"]


def test_every_run_has_a_row_on_the_terminal_and_its_long_name_once(tmp_path: Path, capsys: Any) -> None:
    data = report_to_dict(sample_report.sample_with_noise(20))
    (tmp_path / "report.json").write_text(json.dumps(data), encoding="utf-8")
    print_report(tmp_path, as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("fine-tuned, none=0.5") >= 1 and shown.count(f"fine-tuned: {sample_report.TUNED}") == 1
    assert len(read_run_table(data).rows) == 10  # two agents on four tasks, and both under noise on one
