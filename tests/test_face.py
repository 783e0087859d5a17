"""The Python face: verbs by keyword, runs and results as objects, frames, progress, servers."""

import copy
import io
import json
import pickle
import re
import types
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import fireact
from fakes import trajectory
from fireact.base.progress import SILENT
from fireact.cli import app
from fireact.evaluation.statistics import Estimate
from fireact.evaluation.summary import Summary
from fireact.terminal import notebook
from fireact.terminal.screen import TerminalProgress

ROOT = Path(__file__).parents[1]
COMMAND = get_command(app)
NOISE = "noise:none=0.5:search"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Texts(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def expert(out: str = "runs/expert", **settings: Any) -> Any:
    return fireact.evaluate("scripted:expert", **{"tasks": "geo-hop", "n": 4, "out": out, **settings})


def test_a_session_in_a_notebook_as_the_page_on_python_has_it(home: Path) -> None:
    (session,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    lines = [line for line in session.splitlines() if line.strip()]
    assert len(lines) <= 15
    scope: dict[str, Any] = {}
    exec(compile("import pandas", "check", "exec"), scope)
    for line in lines:
        exec(compile(line, "docs/python.md", "exec"), scope)
        value = (
            eval(line.partition("#")[0], scope) if "=" not in line.partition("(")[0] and "import" not in line else None
        )
        if isinstance(value, fireact.Run | fireact.Result):
            assert "<t" in value._repr_html_() or "<div" in value._repr_html_()
            assert len(repr(value)) < 200
    assert set(scope["table"].run) == {"runs/expert", "runs/noisy"} and len(scope["table"]) == 40


def test_a_verb_takes_its_settings_by_keyword_or_its_config(home: Path) -> None:
    by_keyword = fireact.collect(tasks="geo-hop", n=2, out="runs/a")
    config = fireact.CollectConfig(plan={"geo-hop/react": 2})
    assert by_keyword.settings["plan"] == {"geo-hop/react": 2}
    by_config = fireact.collect(config, home / "runs" / "b")
    assert by_keyword.settings == by_config.settings
    assert fireact.collect(config=config, out="runs/b").manifest == by_config.manifest
    assert by_keyword.counts == by_config.counts == {"geo-hop/react": {"n": 2, "finished": 2, "correct": 2}}
    assert (
        fireact.collect(out="runs/a", tasks=["geo-hop"], n=2).manifest == by_keyword.manifest
    )  # complete, not run again
    forced = fireact.collect(out="runs/a", tasks=["geo-hop"], n=3, force=True)
    assert forced.counts["geo-hop/react"]["n"] == 3 and fireact.Run("runs/a").counts == forced.counts


def test_nested_settings_and_recipes_are_settings_of_the_verb(home: Path) -> None:
    fireact.collect(tasks="geo-hop", n=2, out="runs/a")
    for given, expected in (
        ({"epochs": 2, "rank": 4}, (2, 4, 8)),
        ({"recipe": "paper-lora", "epochs": 2}, (2, 8, 16)),
        ({"recipe": fireact.Recipe(rank=4, alpha=4)}, (3, 4, 4)),
        ({"recipe": fireact.Recipe(rank=4, alpha=4), "epochs": 1}, (1, 4, 4)),
    ):
        config, _ = config_of("train", {"data": "runs/a", **given})
        assert (config.recipe.epochs, config.recipe.rank, config.recipe.alpha) == expected, given
    config, _ = config_of("eval", {"agent": "openai:x", "rpm": 7})
    assert config.endpoint.rpm == 7
    config, _ = config_of("mix", {"sources": ["runs/a"], "take": {"geo-hop/react": 1}})
    assert config.take == {"geo-hop/react": 1}


def config_of(verb: str, given: dict[str, Any]) -> tuple[Any, Any]:
    from fireact.base.verbs import load_verb

    settings, options = load_verb(verb).read_values(given)
    return load_verb(verb).config(**settings), options


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fireact.evaluate(), "fireact.evaluate needs agent: A directory"),
        (lambda: fireact.evaluate("scripted:expert", task="geo-hop"), "Did you mean 'tasks'?"),
        (lambda: fireact.evaluate("scripted:expert", n="5"), "n is '5'; it must be a whole number"),
        (lambda: fireact.collect(fireact.CollectConfig(), tasks=["geo-hop"]), "not both"),
        (lambda: fireact.mix("a", "b", "c"), "fireact.mix takes sources, out by position"),
        (lambda: fireact.train("nothere", data="a"), "fireact.train is given data by position and by name"),
        (lambda: fireact.collect(5), "fireact.collect: out is 5; it must be the path of a run directory"),
        (lambda: fireact.train("nothere"), "there is no nothere"),
        (lambda: fireact.Run("nothere"), "there is no nothere"),
        (lambda: fireact.train("nothere", recipe=3), "recipe is 3; it must be a table"),
        (lambda: fireact.score("nothere", task="geo-hop"), "there is no nothere"),
        (lambda: fireact.validate("geo-hop", tools=["search"]), "tasks have no tools"),
        (lambda: fireact.ask(" ", agent="scripted:expert"), "the question is empty"),
        (lambda: fireact.serve("scripted:expert", engine="vlm"), "unknown engine 'vlm'. Did you mean 'vllm'?"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(call: Any, message: str, home: Path) -> None:
    with pytest.raises(fireact.FireactError, match=re.escape(message)):
        call()
    assert not (home / "runs").exists()


def test_a_run_has_its_results_as_objects_in_the_shape_of_its_manifest(home: Path) -> None:
    run = expert()
    assert json.loads((home / "runs" / "expert" / "manifest.json").read_text()) == run.manifest == run.to_dict()
    assert {task: summary.to_dict() for task, summary in run.results.items()} == run.manifest["results"]
    assert isinstance(run["geo-hop"], Summary) and isinstance(run.em, Estimate)
    assert run.em == run["geo-hop"].em == run.accuracy and float(run.em) == 1.0
    assert f"{run.em:.0%}" == f"100% ({run.em.low:.0%} to 100%)"
    assert "geo-hop EM 100.0%" in repr(run) and "n 4" in repr(run)
    assert run.usage.calls == sum(entry.usage.calls for entry in run.trajectories) and len(run.trajectories) == 4
    assert {"agent", "results", "em", "path"} <= set(dir(run))
    again = pickle.loads(pickle.dumps(copy.copy(run)))
    assert again.manifest == run.manifest and again.path == run.path
    with pytest.raises(AttributeError, match=r"a run of eval has no 'foo'\. Its manifest has: verb"):
        _ = run.foo
    assert run["results"] == run.manifest["results"] and run["agent"] == run.agent
    with pytest.raises(KeyError, match="Its tasks: geo-hop; fields of its manifest: verb"):
        _ = run["geo"]


def test_scores_of_a_run_with_several_tasks_or_none_are_asked_for_by_task(home: Path) -> None:
    several = expert(tasks=["geo-hop", "geo-yesno"], n=2)
    with pytest.raises(fireact.DataError, match=r"has 2 tasks: geo-hop, geo-yesno. Name one, such as run\['geo-hop'\]"):
        _ = several.em
    assert float(several["geo-yesno"].em) == 1.0
    with pytest.raises(fireact.DataError, match="a run of collect, which measures no task"):
        _ = fireact.collect(tasks="geo-hop", n=1).em


def test_an_unfinished_run_says_so_and_is_resumed(home: Path) -> None:
    (expert().path / "manifest.json").unlink()
    run = fireact.Run("runs/expert")
    assert not run.is_complete and "not complete" in repr(run) and "not complete" in run._repr_html_()
    with pytest.raises(fireact.DataError, match="fireact resume"):
        _ = run.manifest
    assert float(fireact.resume(run).em) == 1.0 and run.is_complete


def test_a_comparison_a_diagnosis_and_others_keep_their_attributes_and_have_tables(home: Path) -> None:
    run, noisy = expert(), expert("runs/noisy", tools=NOISE)
    with pytest.raises(fireact.ConfigError, match="noise: none"):
        fireact.compare(run, noisy)
    comparison = fireact.compare(run, noisy, allow="noise")
    assert comparison.tasks[0].n == 4 and comparison.to_dict()["comparable"] is True
    assert "geo-hop EM 100.0%" in repr(comparison) and "B - A" in Texts(comparison._repr_html_()).text
    diagnosis = fireact.doctor("runs/expert")
    page = Texts(diagnosis._repr_html_()).text
    assert diagnosis.n == 4 and not diagnosis.sound and "geo-hop/react" in page and "evaluation set" in page
    collected = fireact.collect(tasks="geo-hop", n=4)
    repaired = fireact.doctor(collected, fix=True, out="runs/fixed")
    assert repaired.verb == "doctor" and len(repaired.trajectories) == 4
    rescored = fireact.score(run, task="geo-hop")
    assert (
        rescored.disagreements == () and rescored.to_dict()["em"] == 1.0 and "EM" in Texts(rescored._repr_html_()).text
    )
    entries = fireact.show(run, where="steps<=4", n=None)
    assert len(entries) == 4 and entries[0].steps and [entry.task for entry in entries] == ["geo-hop"] * 4
    report = fireact.convert(run, "out.jsonl", to="messages", tools="search")
    assert report.rows == report["rows"] == 4
    sound = fireact.validate("geo-hop")
    assert sound[0].problems == () and repr(sound) == "<geo-hop: no problems>" and "2-hop" in sound._repr_html_()
    written = fireact.report([run, noisy], out="runs/report")
    assert (written.path / "report.html").is_file() and "geo-hop" in Texts(written._repr_html_()).text


def test_a_dry_run_costs_nothing_and_tells_what_would_be_done(home: Path) -> None:
    preview = expert(dry_run=True)
    assert preview.settings["tasks"] == ["geo-hop"] and preview.expected["episodes"] == 4
    assert "episodes 4" in repr(preview) and not (home / "runs" / "expert").exists()
    plan = fireact.study("scaling", dry_run=True, out="runs/study")
    assert plan.episodes > 0 and not (home / "runs" / "study").exists()


def test_text_of_models_and_tasks_is_text_in_html() -> None:
    evil = "<script>alert(1)</script>"
    entry = trajectory(0)
    step = replace(entry.steps[0], thought=evil, observation=evil, action=fireact.Action(evil, {evil: evil}))
    entry = replace(
        entry, example=fireact.Example(evil, evil, evil), model=evil, error=evil,
        steps=(step, replace(step, action=None, text=evil)),
    )  # fmt: skip
    page = Texts(entry._repr_html_())
    assert set(page.tags) == {"div", "code", "b"} and page.text.count(evil) >= 8
    assert evil in Texts(fireact.Result([entry], evil, [entry])._repr_html_()).text
    assert "script" not in Texts(notebook.write_marked_text(evil, [(evil, True), (evil, False)])).tags


def test_a_trajectory_is_short_to_read() -> None:
    entry = trajectory(0)
    assert len(repr(entry)) < 200 and entry.key in repr(entry) and repr(entry.answer) in repr(entry)
    long = replace(entry, steps=(replace(entry.steps[-1], action=fireact.Action("finish", {"answer": "x" * 500})),))
    assert len(repr(long)) < 250


def test_a_frame_is_flat_and_has_a_row_for_each_trajectory(home: Path) -> None:
    pandas = pytest.importorskip("pandas")
    run = expert()
    table = fireact.frame(run)
    assert list(table.columns[:8]) == ["run", "task", "id", "question", "answer", "prediction", "em", "f1"]
    assert len(table) == 4 and set(table.run) == {"runs/expert"} and table.em.mean() == 1.0
    assert not table.trained.any()
    first = run.trajectories[0]
    assert table.steps[0] == len(first.steps) and table.searches[0] == len(first.steps) - 1
    assert table.tokens[0] == first.usage.prompt_tokens + first.usage.completion_tokens
    assert table["meta.kind"][0] == first.example.meta["kind"]
    assert json.loads(table["meta.entities"][0]) == list(first.example.meta["entities"])
    assert not table.map(lambda cell: isinstance(cell, dict | list | tuple)).any().any()
    judged = fireact.frame([first.with_scores({"em": 0.5, "f1": 1.0, "judge": 1.0})])
    assert judged["score.judge"][0] == 1.0 and judged.em[0] == 0.5 and "run" not in judged
    both = fireact.frame(run, "runs/expert/trajectories.jsonl", run.trajectories)
    assert len(both) == 12 and isinstance(both, pandas.DataFrame)
    with pytest.raises(fireact.DataError, match="there is no nothere"):
        fireact.frame("nothere")


STUDY = """
title = "Small"
[shared]
base = "scripted:expert"
tasks = ["geo-hop"]
n = 3
[[cells]]
name = "quiet"
[[cells]]
name = "noisy"
noise = "none=0.5"
"""


def test_a_study_is_run_and_its_evaluations_are_in_a_frame(home: Path) -> None:
    pytest.importorskip("pandas")
    (home / "mine.toml").write_text(STUDY)
    study = fireact.study("mine.toml", out="runs/study")
    page = Texts(study._repr_html_()).text
    assert study.title == "Small" and "quiet" in page and "noisy" in page
    table = fireact.frame(study)
    assert table.groupby("cell").em.count().to_dict() == {"noisy": 3, "quiet": 3}
    assert set(table.run) == {str(run.path) for run in study.stages.values() if run.verb == "eval"}


def test_what_reads_a_path_reads_a_run(home: Path) -> None:
    run = expert()
    data = fireact.Dataset.read(run).where("correct")
    assert len(data) == len(list(fireact.read_trajectories(run))) == len(list(fireact.read_any(run))) == 4
    assert repr(data) == "<Dataset of 4 trajectories: runs/expert: 4; where correct: 4 -> 4>"
    assert Texts(data._repr_html_()).tags == ["div", "ul", "li", "li"]


def test_a_missing_pandas_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(fireact.ConfigError, match=re.escape("pip install 'fireact[hub]'")):
        fireact.frame([])


class Shell:
    """What a notebook gives: a shell with a kernel, and displays that are replaced in place."""

    kernel = object()

    def __init__(self) -> None:
        self.pages: list[str] = []

    def HTML(self, page: str) -> str:  # noqa: N802 (IPython's name)
        return page

    def display(self, page: str, display_id: bool = False) -> Any:
        self.pages.append(page)
        place = len(self.pages) - 1
        return types.SimpleNamespace(update=lambda new: self.pages.__setitem__(place, new))


def test_progress_is_drawn_in_a_notebook_and_in_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notebook.choose_progress() is SILENT
    monkeypatch.setattr(notebook.STDERR, "_force_terminal", True)
    assert isinstance(notebook.choose_progress(), TerminalProgress)
    shell = Shell()
    monkeypatch.setitem(__import__("sys").modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", shell)
    assert isinstance(notebook.choose_progress(), notebook.NotebookProgress)


def test_a_notebook_shows_each_stage_as_a_bar(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell()
    fireact.collect(tasks="geo-hop", n=3, progress=notebook.NotebookProgress(shell))
    (page,) = shell.pages
    assert "collect" in page and '<progress value="3" max="3">' in page and "EM 67%" in page and "3 of 3" in page
    progress = notebook.NotebookProgress(shell)
    progress.say("a line\x1b[2J")
    progress.sample([("<b>", True)])
    assert capsys.readouterr().out == "a line[2J\n" and "&lt;b&gt;" in shell.pages[-1]


def test_silence_is_asked_for_by_a_progress_that_draws_nothing(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fireact.collect(tasks="geo-hop", n=2, progress=fireact.Progress())
    assert capfd.readouterr() == ("", "")


def test_an_agent_is_asked_and_its_trajectory_returned() -> None:
    pieces = io.StringIO()
    answer = fireact.ask(
        "What is the currency of the country whose capital is Tashkent?", "scripted:expert", on_text=pieces.write
    )
    assert answer.answer == "unknown" and answer.usage.calls == len(answer.steps) == 1 and answer.stop == "finish"
    assert "unknown" in pieces.getvalue() and "gold" not in answer._repr_html_()


def test_an_agent_is_served_and_recorded_in_the_background(home: Path) -> None:
    pytest.importorskip("uvicorn")
    from openai import OpenAI

    with fireact.serve("scripted:expert", port=0, name="expert") as server:
        assert server.names == ("expert", "expert-agent") and server.is_running and server.url in server._repr_html_()
        with fireact.record(upstream=server.url, out="runs/mine", port=0, finish="finish") as recording:
            client = OpenAI(base_url=recording.episode_url("1"), api_key="none", max_retries=0)
            client.chat.completions.create(model="expert", messages=[{"role": "user", "content": "Hello"}])
            recording.feedback("1", answer="42", score=0.5)
            assert not recording.is_complete
    assert not server.is_running and "stopped" in repr(server)
    assert (
        recording.is_complete and len(recording.trajectories) == 1 and recording.address.startswith("http://127.0.0.1:")
    )


def test_the_page_of_runs_is_served_in_the_background(home: Path) -> None:
    pytest.importorskip("uvicorn")
    import httpx2

    with fireact.view(expert(), port=0) as server:
        assert "geo-hop" in httpx2.get(server.url).text


OLD = sorted(path.parent for path in (ROOT / "tests" / "old_runs").rglob("manifest.json"))


@pytest.mark.parametrize("path", OLD, ids=lambda path: str(path.relative_to(ROOT / "tests" / "old_runs")))
def test_a_run_of_any_verb_and_version_has_a_short_text_and_a_table(path: Path) -> None:
    run = fireact.Run(path)
    page = Texts(run._repr_html_())
    assert run.is_complete and "table" in page.tags and len(repr(run)) < 400
    assert run.verb in repr(run) and all(task in page.text for task in run.results)
    assert all(getattr(run, name) is not None for name in ("settings", "trajectories", "stages", "tables"))


def test_the_command_line_prints_what_python_returns(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, noisy = expert(), expert("runs/noisy", tools=NOISE)
    for command, result in (
        ("eval scripted:expert -t geo-hop -n 4 -o runs/expert", run),
        ("compare runs/expert runs/noisy --allow noise", fireact.compare(run, noisy, allow="noise")),
        ("doctor runs/expert", fireact.doctor(run)),
        ("score runs/expert --task geo-hop", fireact.score(run, task="geo-hop")),
        ("convert runs/expert --to messages -o a.jsonl --force", fireact.convert(run, "a.jsonl", to="messages")),
        ("validate geo-yesno", fireact.validate("geo-yesno")),
        ("show runs/expert -n 1", fireact.show(run, n=1)),
        ("eval scripted:expert -t geo-hop -n 4 -o runs/new --dry-run", expert("runs/new", dry_run=True)),
    ):
        capsys.readouterr()
        COMMAND.main([*command.split(), "--json"], prog_name="fireact", standalone_mode=False)
        expected = json.loads(json.dumps(result.to_dict()))
        assert json.loads(capsys.readouterr().out) == (expected[0] if isinstance(expected, list) else expected), command
