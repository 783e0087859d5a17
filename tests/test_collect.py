"""Collect over the embedded world: a resumed run equals an uninterrupted one, killed at whatever moment."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fireact.base.foreign_names import note_own_names
from fireact.base.run_directory import RunDir, read_trajectories
from fireact.cli import main
from fireact.errors import ConfigError, DataError
from fireact.evaluation.evaluate import EvalConfig
from fireact.rollout.agents import load_agent
from fireact.rollout.collection import CollectConfig, collect
from forks import ForkServer

CONFIG = CollectConfig(plan={"geo-hop/react": 6, "geo-yesno/cot": 3, "geo-choice/reflexion": 3}, workers=3)


def content(path: Path) -> dict[str, object]:
    """Everything about the episodes but how long they took."""
    return {one.key: {**one.to_dict(), "seconds": 0} for one in read_trajectories(path)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "collect"
    collect(CONFIG, out)
    return out


def test_every_episode_is_kept_and_labelled_as_scripted(whole: Path) -> None:
    kept = list(read_trajectories(whole))
    assert len(kept) == 12 and {one.model for one in kept} == {"scripted:expert"}
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["teacher"] == "scripted:expert" and manifest["tools"]["search"]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 12), st.integers(0, 40))
def test_resumed_equals_uninterrupted(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, lines: int, torn: int
) -> None:
    out = tmp_path_factory.mktemp("cut") / "collect"
    out.mkdir()
    (out / "config.toml").write_bytes((whole / "config.toml").read_bytes())
    rows = (whole / "trajectories.jsonl").read_bytes().splitlines(keepends=True)
    rest = rows[lines][:torn] if lines < len(rows) else b""
    (out / "trajectories.jsonl").write_bytes(b"".join(rows[:lines]) + rest)
    collect(CONFIG, out)
    assert content(out) == content(whole)
    assert len((out / "trajectories.jsonl").read_bytes().splitlines()) == 12


def test_episodes_that_ended_in_a_fault_are_tried_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "collect"
    out.mkdir()
    (out / "config.toml").write_bytes((whole / "config.toml").read_bytes())
    rows = [json.loads(line) for line in (whole / "trajectories.jsonl").read_text().splitlines()]
    rows[3] |= {"stop": "error", "error": "OSError: the tool is down", "scores": {}}
    (out / "trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    collect(CONFIG, out)
    assert content(out) == content(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"usage": {"calls": -1}}, "line 2: not a trajectory"),
        ({"seconds": "1"}, "line 2: not a trajectory"),
        ({"example": None}, "line 2: not a trajectory"),
        ({"seed": None}, "line 2: not a trajectory"),
    ],
)
def test_a_stored_line_that_is_no_trajectory_is_refused_with_its_number(
    whole: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    out = tmp_path / "collect"
    out.mkdir()
    (out / "config.toml").write_bytes((whole / "config.toml").read_bytes())
    rows = [json.loads(line) for line in (whole / "trajectories.jsonl").read_text().splitlines()]
    rows[1] |= change
    (out / "trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=message):
        collect(CONFIG, out)


SLOW_LM = """
import time
from dataclasses import dataclass
from fireact.models.scripted import Expert


@dataclass(frozen=True)
class Slow:
    name: str = "slow"

    def complete(self, call):
        with open("calls.log", "a") as log:
            log.write(str(hash(tuple(message.content for message in call.messages))) + "\\n")
        time.sleep(0.02)
        return Expert().complete(call)
"""


def prepare_fork() -> None:
    """Build the world and the index before processes are forked, so that their threads need not."""
    with tempfile.TemporaryDirectory() as folder:
        collect(CollectConfig(plan={"geo-hop/react": 1}, workers=1), Path(folder) / "run")


def run_forked(*arguments: str) -> None:
    """Run the command ``fireact`` in this process."""
    sys.argv, sys.path = ["fireact", *arguments], ["", *sys.path]
    main()


def run_until(forks: ForkServer, directory: Path, *arguments: str, calls: int | None = None) -> int:
    """Run ``fireact`` there, and kill it once ``calls`` more LM calls have begun; returns the exit status."""
    log = directory / "calls.log"
    begun = log.read_bytes().count(b"\n") if log.exists() else 0
    child, deadline = forks.start(directory, *arguments), time.monotonic() + 600
    while not forks.has_ended(within=0.002) and time.monotonic() < deadline:
        if calls is not None and log.exists() and log.read_bytes().count(b"\n") >= begun + calls:
            os.kill(child, signal.SIGKILL)
    return forks.wait()


@pytest.mark.slow
def test_kill_9_at_20_moments_repeats_no_call_but_those_in_flight(tmp_path: Path) -> None:
    whole, cut, workers = tmp_path / "whole", tmp_path / "cut", 8
    collect = (
        "collect",
        "--teacher",
        "slow:Slow",
        "-t",
        "geo-hop",
        "-n",
        "200",
        "--workers",
        str(workers),
        "-o",
        "run",
    )
    for directory in (whole, cut):
        directory.mkdir()
        (directory / "slow.py").write_text(SLOW_LM)
    with ForkServer("test_collect") as forks:
        assert run_until(forks, whole, *collect) == 0
        calls = (whole / "calls.log").read_text().splitlines()
        moments = random.Random(0)
        kills = 0
        while kills < 20:
            moment = moments.randint(1, len(calls) // 24)
            kills += run_until(forks, cut, *collect, calls=moment) == -signal.SIGKILL
        assert run_until(forks, cut, "resume", "run") == 0
    made = (cut / "calls.log").read_text().splitlines()
    assert set(made) == set(calls)
    assert len(made) <= len(calls) + kills * workers
    rows = [json.loads(line) for line in (cut / "run" / "trajectories.jsonl").read_text().splitlines()]
    assert [row | {"seconds": 0} for row in rows] == [
        json.loads(line) | {"seconds": 0} for line in (whole / "run" / "trajectories.jsonl").read_text().splitlines()
    ]


def test_a_second_process_on_the_same_directory_is_told(tmp_path: Path) -> None:
    with RunDir(tmp_path / "r", verb="collect", settings={"x": 1}):
        command = [sys.executable, "-m", "fireact", "collect", "-t", "geo-hop", "-n", "1", "-o", str(tmp_path / "r")]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "another process" in done.stderr


FOREIGN = "fakes:Small"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no default teacher and tool: give --teacher (openai:MODEL, say) and --tool (wikipedia"),
        ({"teacher": "scripted:expert"}, "no default tool: give --tool (wikipedia or module:attribute, say)."),
        ({"tools": ["search"]}, "no default teacher: give --teacher (openai:MODEL, say)."),
    ],
)
def test_a_task_of_ones_own_has_no_default_teacher_and_tool(settings: dict[str, object], message: str) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"{FOREIGN} is not a task of the embedded world, so it has {message}")
    ):
        CollectConfig(plan={"geo-hop/react": 1, f"{FOREIGN}/react": 1}, **settings)  # type: ignore[arg-type]


def test_what_is_given_is_kept_and_methods_without_tools_need_none() -> None:
    both = {"teacher": "scripted:expert", "tools": ("search",)}
    config = CollectConfig(plan={f"{FOREIGN}/react": 1}, **both)  # type: ignore[arg-type]
    assert (config.teacher, config.tools) == ("scripted:expert", ("search",))
    assert CollectConfig(plan={f"{FOREIGN}/cot": 1}, teacher="openai:x").tools == ()
    assert EvalConfig("openai:x", tasks=[FOREIGN], method="io").tools == ()
    assert (CollectConfig().teacher, CollectConfig().tools) == ("scripted:expert", ("search",))
    assert EvalConfig("openai:x", tasks=["brief:HOP"]).tools == ("search",)  # a task of the embedded world, cut short
    for tasks in ([FOREIGN], ["hotpotqa"]):
        with pytest.raises(ConfigError, match=f"{tasks[0]} is not a task of the embedded world"):
            EvalConfig("openai:x", tasks=tasks)


def test_an_agent_that_is_asked_within_a_task_of_ones_own_needs_its_tools() -> None:
    with pytest.raises(ConfigError, match=f"{FOREIGN} is not a task of the embedded world"):
        load_agent("scripted:expert", FOREIGN, None, slots=1)
    assert list(load_agent("scripted:expert", "geo-hop", None, slots=1).tools) == ["search"]


def test_a_student_of_native_calls_has_the_tools_of_its_training_for_a_task_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'verb = "train"\nrenderer = "tool_calls"\ntools = ["examples.own_tool:capital"]'
    )
    (tmp_path / "manifest.json").write_text('{"verb": "train", "renderer": "tool_calls"}')
    note_own_names(tmp_path, ["examples.own_tool:capital"])  # as training does for the names that a user gives
    assert EvalConfig(str(tmp_path), tasks=[FOREIGN]).tools == ("examples.own_tool:capital",)
    (tmp_path / "manifest.json").write_text('{"verb": "train", "renderer": "react"}')
    with pytest.raises(ConfigError, match="no default tool"):
        EvalConfig(str(tmp_path), tasks=[FOREIGN])
