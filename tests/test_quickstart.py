"""The main job with the real student at a small size: killed in the middle, resumed, reported, asked."""

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from command import fireact
from fireact.cli import main as fireact_main
from fireact.pipeline import quickstart
from launches import ForkedCommand

pytestmark = pytest.mark.slow

quickstart_stages = quickstart.quickstart_stages


def small_stages(config: quickstart.QuickstartConfig, out: Path) -> Iterator[tuple[str, Any, Any]]:
    """The stages of ``quickstart --fast``, with few trajectories, and with one short episode of each task."""
    for name, verb, settings in quickstart_stages(config, out):
        if name == "collect":
            plan = {group: 4 if group == "geo-hop/react" else 1 for group in settings.plan}
            settings = replace(settings, plan=plan)
        elif name.startswith("eval-"):
            settings = replace(settings, n=1, tasks=("brief:HOP", "brief:COMPOSE"), examples=int(name == "eval-base"))
        yield name, verb, settings


def main() -> None:
    """Run the command ``fireact`` at this size, in a process of its own."""
    quickstart.quickstart_stages = small_stages
    fireact_main()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished ``quickstart --fast`` that was killed once while it trained."""
    home = tmp_path_factory.mktemp("quickstart")
    out = home / "runs" / "quickstart"
    child = ForkedCommand("quickstart", "--fast", cwd=home, module="test_quickstart")
    curve, deadline = out / "train" / "log.jsonl", time.monotonic() + 600
    while child.poll() is None and time.monotonic() < deadline and not (curve.exists() and curve.stat().st_size):
        time.sleep(0.1)
    assert child.poll() is None, "it ended before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (out / "manifest.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "quickstart_stages", small_stages)
        done = fireact("resume", str(out), cwd=home)
    assert done.returncode == 0, done.stderr
    return home


def test_every_stage_left_its_directory_and_a_report(home: Path) -> None:
    out = home / "runs" / "quickstart"
    for stage in ("collect", "mix", "train", "eval-base", "eval-fireact"):
        assert (out / stage / "config.toml").exists() and (out / stage / "manifest.json").exists()
    for name in ("report.html", "report.md", "report.json", "manifest.json"):
        assert (out / name).stat().st_size > 100
    steps = [json.loads(line)["step"] for line in (out / "train" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_the_report_is_one_object_with_the_promised_keys(home: Path) -> None:
    data = json.loads((home / "runs" / "quickstart" / "report.json").read_text())
    assert len(data["agents"]) == 2
    for by_task in data["agents"].values():
        assert set(by_task) == {"geo-hop", "geo-compose"}
        for result in by_task.values():
            assert {"n", "em", "f1", "finished", "tokens_per_question", "seconds_per_question", "em_interval"} <= set(
                result
            )
            assert result["faults"] == 0
    printed = fireact("report", "runs/quickstart", "--json", cwd=home)
    assert json.loads(printed.stdout)["agents"] == data["agents"]


def test_a_finished_run_is_not_done_again(home: Path) -> None:
    trained = (home / "runs/quickstart/train/manifest.json").stat()
    done = fireact("quickstart", "--fast", "--json", cwd=home)
    assert done.returncode == 0 and set(json.loads(done.stdout)) >= {"agents", "comparisons", "timings"}
    assert (home / "runs/quickstart/train/manifest.json").stat() == trained
    other = fireact("quickstart", cwd=home)
    assert other.returncode == 2 and "fast" in other.stderr


def test_the_new_agent_answers_in_steps(home: Path) -> None:
    question = "What is the currency of the country whose capital is Dushanbe?"
    done = fireact("ask", question, "--agent", "runs/quickstart", "--task", "brief:HOP", cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    as_json = fireact("ask", question, "--agent", "runs/quickstart/train", "--task", "brief:HOP", "--json", cwd=home)
    assert 1 <= len(json.loads(as_json.stdout)["steps"]) <= 8


def test_eval_prints_one_object(home: Path) -> None:
    done = fireact("eval", "runs/quickstart/train", "-t", "brief:YESNO", "-n", "3", "--json", cwd=home)
    assert json.loads(done.stdout)["results"]["geo-yesno"]["n"] == 3
    refused = fireact("eval", "runs/quickstart/train", "-m", "cot", cwd=home)
    assert refused.returncode == 2 and "ignored" in refused.stderr
