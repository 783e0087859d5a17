"""The examples of plug-ins: at most 30 lines, from ``fireact`` alone, and each works where a name does."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fireact
from fireact.cli import app
from fireact.errors import ConfigError
from fireact.models.replies import Replies
from fireact.render.prompts import few_shot_examples
from fireact.rollout.loading import load_task

ROOT = Path(__file__).parents[1]
OWN = sorted((ROOT / "examples").glob("own_*.py"))
PLAYED = Replies(
    [
        'Thought: I look it up.\nAction: capital[{"country": "Peru", "language": "en"}]',
        "Thought: It is Lima.\nAction: finish[Lima]",
    ],
    name="replies",
)
ANSWER = Replies(["Lima"], name="replies")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_an_example_is_short_and_needs_nothing_but_fireact(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {
        name
        for node in imports
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert len(text.splitlines()) <= 30
    assert {name for name in modules if str(name).startswith("fireact")} == {"fireact"}
    assert {name for name in modules if not str(name).startswith("fireact")} <= {"typing", "collections.abc"}


@pytest.mark.parametrize("name", ["own_tool", "own_task"])
def test_a_program_runs(name: str) -> None:
    command = [sys.executable, ROOT / "examples" / f"{name}.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ("Lima" in printed and "Literal" not in printed) if name == "own_tool" else "'em': 1.0" in printed


def test_a_task_and_a_tool_of_ones_own_are_collected_with_the_few_shot_examples_of_the_task(tmp_path: Path) -> None:
    task = "examples.own_task:Quiz"
    config = fireact.CollectConfig(
        plan={f"{task}/react": 1}, teacher="test_examples:PLAYED", tools=("examples.own_tool:capital",)
    )
    run = fireact.collect(config, tmp_path)
    assert run.counts == {"quiz/react": {"n": 1, "finished": 1, "correct": 1}}
    ((question, steps),) = few_shot_examples(load_task(task), "react", None)
    assert question == "What is the capital of Norway?" and steps[0].observation == "Oslo"
    with pytest.raises(ConfigError, match=r"quiz has 1 few-shot examples for react; 3 were requested.*few_shot"):
        few_shot_examples(load_task(task), "react", 3)


def test_a_method_of_ones_own_is_collected(tmp_path: Path) -> None:
    config = fireact.CollectConfig(
        plan={"geo-hop/examples.own_method:SearchThenAnswer": 1}, teacher="test_examples:ANSWER"
    )
    fireact.collect(config, tmp_path)
    (trajectory,) = fireact.read_trajectories(tmp_path)
    assert trajectory.method == "search-then-answer" and trajectory.answer == "Lima" and trajectory.stop == "finish"


def test_a_format_of_ones_own_is_read_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Capital of Peru? => Lima\nCapital of Norway? => Oslo\n")
    arguments = ["convert", tmp_path / "notes.txt", "--from", "examples.own_format:Notes", "--to", "messages"]
    result = CliRunner().invoke(app, list(map(str, [*arguments, "-o", tmp_path / "out.jsonl"])))
    assert result.exit_code == 0, result.output
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert "Capital of Peru?" in json.dumps(first) and "Lima" in json.dumps(first)


@pytest.mark.parametrize("name", ["examples.own_format:Nothing", "json:loads", "no-such-format"])
def test_what_is_no_format_is_refused_in_words(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a => b\n")
    with pytest.raises(ConfigError, match="format"):
        list(fireact.read_any(tmp_path / "notes.txt", name))
