"""Training at a provider, over real HTTP: one job a run directory, whatever happens on the way."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_tuning import FakeTuning
from fakes import trajectory
from fireact import jsonl
from fireact.errors import ConfigError, DataError, ProviderError
from fireact.hosted.run import TuneConfig, cancel, check, row_of, tune
from fireact.hosted.wire import WireProvider, from_spec
from fireact.progress import Progress
from fireact.types import Action, Step, Trajectory
from fireact.verbs import resume


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def samples(n: int = 12) -> list[Trajectory]:
    look = Step("look", Action("search", {"query": "x"}), "it is so", "")
    done = Step("so", Action("finish", {"answer": "a"}), None, "")
    return [replace(trajectory(index), steps=(look, done)) for index in range(n)]


@pytest.fixture
def data(tmp_path: Path) -> str:
    jsonl.write(tmp_path / "data.jsonl", (one.to_dict() for one in samples()))
    return str(tmp_path / "data.jsonl")


def config(data: str, served: FakeTuning, **changes: Any) -> TuneConfig:
    return TuneConfig(data=data, model=f"{served.kind}:base@{served.url}", poll=0.01, **changes)


class Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        ("openai", ("validating_files", "queued", "running", "succeeded")),
        ("together", ("pending", "running", "completed")),
    ],
)
def test_a_job_is_followed_to_its_model(kind: str, states: tuple[str, ...], data: str, tmp_path: Path) -> None:
    said = Said()
    with FakeTuning(kind, states=states) as served:
        manifest = tune(config(data, served, price=3.0), tmp_path / "run", progress=said)
        (job,) = served.jobs.values()
    assert (
        manifest["model"].startswith("ft:base:fireact-")
        and manifest["agent"] == f"openai:{manifest['model']}@{served.url}"
    )
    assert manifest["cost_usd"] == pytest.approx(0.036) and manifest["estimate"]["cost_usd"] > 0
    assert job["training_file"] == "file-1" and b'"messages"' in served.files["file-1"]
    assert [line for line in said.lines if "now " in line] == [f"tune: now {state}" for state in states]


def test_a_run_that_was_stopped_follows_the_same_job(data: str, tmp_path: Path) -> None:
    class Stop(Said):
        def say(self, line: str) -> None:
            super().say(line)
            if "now queued" in line:
                raise KeyboardInterrupt

    with FakeTuning() as served:
        with pytest.raises(KeyboardInterrupt):
            tune(config(data, served), tmp_path / "run", progress=Stop())
        again = Said()
        assert resume(tmp_path / "run", progress=again)["job"] == "ftjob-1"
        assert len(served.jobs) == len(served.files) == 1
        assert "tune: now queued" not in again.lines


def test_a_crash_between_creating_and_noting_makes_no_second_job(data: str, tmp_path: Path) -> None:
    with FakeTuning() as served:
        tune(config(data, served), tmp_path / "run")
        (tmp_path / "run" / "manifest.json").unlink()
        state = json.loads((tmp_path / "run" / "job.json").read_text())
        (tmp_path / "run" / "job.json").write_text(json.dumps({key: state[key] for key in ("name", "file")}))
        resume(tmp_path / "run")
        assert len(served.jobs) == len(served.files) == 1


def test_a_creation_whose_reply_is_lost_is_found_again(data: str, tmp_path: Path) -> None:
    with FakeTuning() as served:
        served.lost = 1
        tune(config(data, served), tmp_path / "run")
        assert len(served.jobs) == 1


def test_faults_that_pass_are_tried_again() -> None:
    with FakeTuning(faults=[429, 503, 429]) as served:
        provider = WireProvider("openai", served.url, pause=0.001)
        assert provider.find("nobody") is None
    with FakeTuning(faults=[500] * 10) as served:
        provider = WireProvider("openai", served.url, pause=0.001)
        with pytest.raises(ProviderError, match="failed 6 times"):
            provider.find("nobody")


def test_a_rejected_file_and_a_failed_job_are_said(data: str, tmp_path: Path) -> None:
    with (
        FakeTuning(faults=[400]) as served,
        pytest.raises(ConfigError, match="refused POST files with 400: planned 400"),
    ):
        tune(config(data, served), tmp_path / "a")
    with FakeTuning(states=["queued", "failed"]) as served, pytest.raises(ProviderError, match="the file is odd"):
        tune(config(data, served), tmp_path / "b")


def test_a_job_can_be_cancelled(data: str, tmp_path: Path) -> None:
    with FakeTuning() as served:
        tune(config(data, served), tmp_path / "run")
        assert cancel(tmp_path / "run").status == "cancelled"


def test_the_file_is_checked_before_it_is_uploaded() -> None:
    rows = [row_of(one) for one in samples()]
    check(rows)
    with pytest.raises(DataError, match="10 at least"):
        check(rows[:9])
    open_end = [{"messages": [*row["messages"], {"role": "user", "content": "x"}]} for row in rows]
    with pytest.raises(DataError, match="sample 1 does not end"):
        check(open_end)
    with pytest.raises(DataError, match="empty message"):
        check([{"messages": [{"role": "user", "content": " "}, *rows[0]["messages"]]}] * 12)


def test_a_step_that_is_not_to_be_learnt_has_no_weight() -> None:
    one = samples(1)[0]
    weighed = replace(one, steps=(replace(one.steps[0], weight=0.0), one.steps[1]))
    turns = [message for message in row_of(weighed)["messages"] if message["role"] == "assistant"]
    assert [turn.get("weight") for turn in turns] == [0, None]


def test_keys_and_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="TOGETHER_API_KEY"):
        from_spec("together:llama")
    with pytest.raises(ConfigError, match="openai:MODEL"):
        from_spec("acme:llama")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    provider, model = from_spec("openai:gpt")
    assert model == "gpt" and "secret" not in str(vars(provider))
