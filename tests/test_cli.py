"""The command line as a user meets it: help, usage errors in one line with exit 2, results on standard output."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command import fireact
from fakes import trajectory
from fireact.base.jsonl import dumps

VERBS = [
    "quickstart",
    "collect",
    "mix",
    "train",
    "eval",
    "compare",
    "report",
    "view",
    "resume",
    "ask",
    "show",
    "validate",
    "render",
    "record",
    "score",
    "convert",
    "doctor",
    "study",
    "export",
    "serve",
    "tune",
    "prefer",
    "cancel",
    "improve",
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, tmp_path: Path) -> None:
    done = fireact(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Example:" in done.stdout and f"fireact {verb}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eval", "smollm2-135m", "-t", "geo-hob"], "unknown task 'geo-hob'. Did you mean 'geo-hop'?"),
        (["collect", "-t", "geo-hop", "-m", "reakt"], "Did you mean 'react'?"),
        (["collect", "-t", "geo-hop", "--tool", "serach"], "Did you mean 'search'?"),
        (["collect", "--teacher", "scripted:expret"], "scripted"),
        (["collect", "--temperature", "0.5"], "would ignore"),
        (["collect", "-m", "react"], "need --task"),
        (
            ["collect", "-t", "geo-hop", "--budget", "5", "--dry-run"],
            "budget '5' is not of the form 5usd",
        ),
        (["resume", "absent", "--budget", "5"], "budget '5' is not of the form 5usd"),
        (["collect", "-t", "geo-hop", "-n", "100000"], "100000 were asked for"),
        (["collect", "-t", "geo-compose", "-n", "5"], "geo-compose"),
        (["collect", "-t", "absent.module:task"], "cannot be imported"),
        (["mix", "absent"], "there is no absent. Give the path of a file or run."),
        (["mix", "absent", "--take", "geo-hop"], "TASK/METHOD=N"),
        (["mix", "absent", "--weight", "geo-hop/react=x"], "TASK/METHOD=NUMBER"),
        (["mix", "absent", "--recipe", "paper-hotpot"], "Did you mean 'paper-hotpotqa'?"),
        (["mix", "absent", "-w", "corect"], "there is no 'corect'"),
        (["doctor", "absent.jsonl"], "there is no absent.jsonl. Give the path of a file or run."),
        (["resume", "absent"], "there is no absent. Give the path of a file or run."),
        (["report", "absent"], "there is no absent. Give the path of a file or run."),
        (["show", "absent.jsonl"], "there is no absent.jsonl. Give the path of a file or run."),
        (["train", "absent"], "there is no absent. Give the path of a file or run."),
        (["convert", "absent", "--to", "gpt", "-o", "x"], "there is no absent. Give the path of a file or run."),
        (["convert", "absent", "--to", "gtp", "-o", "x"], "Did you mean 'gpt'?"),
        (["score", "absent", "--answers", "a.csv"], "there is no absent. Give the path of a file or run."),
        (["validate", "absent.csv"], "there is no absent.csv. Give the path of a file or run."),
        (["ask", "hi"], "there is no runs/quickstart. Make it with 'fireact quickstart', or give another."),
        (["serve", "models/mine"], "there is no models/mine. Give the path of a file or run."),
        (["serve", "models/mine", "--engine", "vllm"], "there is no models/mine. Give the path of a file or run."),
        (["eval", "runs/train"], "there is no runs/train. Make it with 'fireact train', or give another."),
        (["eval", "absent-model-name"], "absent-model-name"),
        (["frobnicate"], "No such command"),
        (["collect", "--nonsense"], "No such option"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = fireact(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_dry_run_shows_the_settings_and_writes_nothing(tmp_path: Path) -> None:
    done = fireact("collect", "-t", "geo-hop", "-n", "3", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["settings"]["plan"] == {"geo-hop/react": 3}
    printed = fireact("collect", "-t", "geo-hop", "-n", "3", "--dry-run", cwd=tmp_path).stdout
    assert "plan.geo-hop/react" in printed and "prompt_tokens" in printed and "{" not in printed
    assert list(tmp_path.iterdir()) == []


def test_collect_mix_and_show(tmp_path: Path) -> None:
    done = fireact("collect", "-t", "geo-hop", "-m", "react", "-m", "cot", "-n", "12", "--json", cwd=tmp_path)
    manifest = json.loads(done.stdout)
    assert manifest["counts"]["geo-hop/react"]["n"] == 12 and manifest["teacher"] == "scripted:expert"
    mixed = fireact("mix", "runs/collect", "-w", "method=react", "-w", "correct", cwd=tmp_path)
    assert "where correct" in mixed.stdout and mixed.returncode == 0
    shown = fireact("show", "runs/mix", "-n", "2", cwd=tmp_path)
    assert shown.stdout.count("Question:") == 2 and "scripted:expert" in shown.stdout
    other = fireact("collect", "-t", "geo-hop", "-n", "13", cwd=tmp_path)
    assert other.returncode == 2 and "made with other settings" in other.stderr and "plan" in other.stderr


@pytest.mark.parametrize(
    "verb", [["train", "mix.jsonl", "--student", "model"], ["eval", "model", "-t", "geo-hop", "-n", "2"]]
)
def test_a_missing_extra_gives_the_install_command(verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "mix.jsonl").write_text(dumps(trajectory(steps=1).to_dict()) + "\n")
    code = (
        f"import sys; sys.modules['torch'] = None; sys.argv = {['fireact', *verb]!r}; "
        "from fireact.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "pip install 'fireact[train]'" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fireact", "collect", "-m", "react", "-m", "reflexion", "-m", "cot", "-n", "150"]
    for task in ("geo-hop", "geo-yesno", "geo-choice"):
        command += ["-t", task]
    child = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    file, deadline = tmp_path / "runs" / "collect" / "trajectories.jsonl", time.monotonic() + 600
    while time.monotonic() < deadline and not (file.exists() and file.stat().st_size > 10_000):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=600)
    assert child.returncode == 130 and "resume it with: fireact resume runs/collect" in said and "Traceback" not in said
    resumed = fireact("resume", "runs/collect", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert len(file.read_bytes().splitlines()) == 1350


def test_a_torn_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.jsonl").write_text('{"task": ')
    done = fireact("mix", "torn.jsonl", cwd=tmp_path)
    assert done.returncode == 2 and "line 1" in done.stderr


def test_validate_proves_a_task(tmp_path: Path) -> None:
    done = fireact("validate", "geo-compose", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
