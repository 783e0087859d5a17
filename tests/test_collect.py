"""Collect over the embedded world: a resumed run equals an uninterrupted one, killed at whatever moment."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fireact.collection import CollectConfig, collect
from fireact.store import RunDir, read_trajectories

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


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 40, 150])
def test_kill_9_loses_at_most_the_episodes_under_way(after: int, tmp_path: Path) -> None:
    plan = {"geo-hop/react": 200}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    collect(CollectConfig(plan=plan), whole)
    command = [sys.executable, "-m", "fireact", "collect", "-t", "geo-hop", "-n", "200", "-o", str(cut)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file, deadline = cut / "trajectories.jsonl", time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        if file.exists() and file.read_bytes().count(b"\n") >= after:
            break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    saved = file.read_bytes().count(b"\n")
    assert saved >= after
    done = subprocess.run([sys.executable, "-m", "fireact", "resume", str(cut)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert content(cut) == content(whole)


def test_a_second_process_on_the_same_directory_is_told(tmp_path: Path) -> None:
    with RunDir(tmp_path / "r", verb="collect", settings={"x": 1}):
        command = [sys.executable, "-m", "fireact", "collect", "-t", "geo-hop", "-n", "1", "-o", str(tmp_path / "r")]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "another process" in done.stderr
