"""Collect over the embedded world: a resumed run equals an uninterrupted one, killed at whatever moment."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fireact.base.run_directory import RunDir, read_trajectories
from fireact.cli import main
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
