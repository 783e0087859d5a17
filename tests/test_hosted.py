"""Training at a provider, over real HTTP: one job a run directory, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_tuning import FakeTuning
from fakes import trajectory
from fireact.base import jsonl
from fireact.base.progress import Progress
from fireact.base.verbs import resume
from fireact.errors import BudgetError, ConfigError, DataError, ProviderError
from fireact.hosted.fireworks import FireworksProvider
from fireact.hosted.openai_compatible import OPENAI, TOGETHER
from fireact.hosted.provider import JobRequest, ProviderClient
from fireact.hosted.training_rows import check_training_rows, training_row
from fireact.hosted.tune import (
    TuneConfig,
    cancel_job,
    estimate_job,
    is_provider_spec,
    load_provider,
    tune,
)
from fireact.rollout.models import load_model
from fireact.types import Action, Step, Trajectory


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_API_KEY",
        "TOGETHER_API_KEY",
        "FIREWORKS_API_KEY",
        "FIREWORKS_ACCOUNT_ID",
        "AZURE_OPENAI_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)


def samples(n: int = 12) -> list[Trajectory]:
    look = Step("look", Action("search", {"query": "x"}), "it is so", "")
    done = Step("so", Action("finish", {"answer": "a"}), None, "")
    return [replace(trajectory(index), steps=(look, done)) for index in range(n)]


@pytest.fixture
def data(tmp_path: Path) -> str:
    jsonl.write_objects(tmp_path / "data.jsonl", (one.to_dict() for one in samples()))
    return str(tmp_path / "data.jsonl")


def config(data: str, served: FakeTuning, **changes: Any) -> TuneConfig:
    return TuneConfig(data=data, model=f"{served.kind}:base@{served.url}", poll=0.01, **changes)


class Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


STATES = {
    "openai": ("validating_files", "queued", "running", "succeeded"),
    "together": ("pending", "running", "completed"),
    "fireworks": ("creating", "running", "completed"),
}
KINDS = list(STATES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_followed_to_its_model(kind: str, data: str, tmp_path: Path) -> None:
    said = Said()
    with FakeTuning(kind, states=STATES[kind]) as served:
        manifest = tune(config(data, served, price=3.0), tmp_path / "run", progress=said)
        (job,) = served.jobs.values()
        (file,) = served.files.values()
    name = json.loads((tmp_path / "run" / "job.json").read_text())["name"]
    model = f"accounts/acme/models/{name}" if kind == "fireworks" else f"ft:base:{name}"
    url = served.url.replace("/v1", "/inference/v1") if kind == "fireworks" else served.url
    assert manifest["model"] == model and manifest["agent"] == f"openai:{model}@{url}"
    assert manifest["cost_usd"] == pytest.approx({"openai": 0.036, "together": 0.7, "fireworks": 1.25}[kind])
    assert b'"messages"' in file and job.get("epochs", job.get("n_epochs", 3)) == 3
    assert job.get("dataset", "file-1") in ("file-1", f"accounts/acme/datasets/{name}")
    told = [line for line in said.lines if any(state in line for state in STATES[kind])]
    if kind == "fireworks":
        assert "tune: running, 40 % of epoch 1" in told and job["baseModel"] == "accounts/fireworks/models/base"
    else:
        assert told == [f"tune: now {state}" for state in STATES[kind]]
    agent = load_model(str(tmp_path / "run"))
    assert agent.tuned and agent.lm.name == f"openai:{model}"  # run as it was trained: without instructions


LORA = {"type": "Lora", "lora_r": 8, "lora_alpha": 16, "lora_trainable_modules": "all-linear"}


@pytest.mark.parametrize(
    ("kind", "chosen", "sent"),
    [
        (
            "openai",
            {"batch_size": 4},
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 4}}}},
        ),
        (
            "together",
            {"learning_rate": 1e-4, "rank": 8, "batch_size": 4},
            {"learning_rate": 1e-4, "batch_size": 4, "training_type": LORA},
        ),
        ("fireworks", {"learning_rate": 1e-4, "rank": 8}, {"learningRate": 1e-4, "loraRank": 8}),
    ],
)
def test_what_is_chosen_is_what_the_provider_is_told(
    kind: str, chosen: dict[str, Any], sent: dict[str, Any], data: str, tmp_path: Path
) -> None:
    with FakeTuning(kind, states=STATES[kind]) as served:
        tune(config(data, served), tmp_path / "plain")
        tune(config(data, served, **chosen), tmp_path / "run")
        plain, job = served.jobs.values()
    assert {name: job[name] for name in sent} == sent
    assert not {"learning_rate", "learningRate", "training_type", "loraRank", "batch_size"} & plain.keys()


@pytest.mark.parametrize(
    ("kind", "name"), [("openai", "rank"), ("openai", "learning_rate"), ("fireworks", "batch_size")]
)
def test_what_a_provider_does_not_take_is_refused(kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{kind} chooses {name} itself"):
        TuneConfig(data="x", model=f"{kind}:x", **{name: 1})


def test_a_seed_that_nobody_reads_and_a_rate_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="together takes no seed"):
        TuneConfig(data="x", model="together:x", seed=7)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        TuneConfig(data="x", model="together:x", learning_rate=50.0)
    assert TuneConfig(data="x", model="openai:x", seed=7).seed == 7


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_follows_the_same_job(kind: str, data: str, tmp_path: Path) -> None:
    class Stop(Said):
        def say(self, line: str) -> None:
            super().say(line)
            if "running" in line:
                raise KeyboardInterrupt

    stop = Stop()
    with FakeTuning(kind, states=STATES[kind]) as served:
        with pytest.raises(KeyboardInterrupt):
            tune(config(data, served), tmp_path / "run", progress=stop)
        again = Said()
        assert resume(tmp_path / "run", progress=again)["job"] == next(iter(served.jobs))
        assert len(served.jobs) == len(served.files) == 1
        assert not [line for line in again.lines if "now" in line and line in stop.lines[:-2]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [["name"], ["name", "file"]])
def test_a_crash_makes_no_second_job(kind: str, kept: list[str], data: str, tmp_path: Path) -> None:
    """Killed after the job was made and before it was noted; without the file's id only Fireworks can know it again."""
    out = tmp_path / "run"
    with FakeTuning(kind, states=STATES[kind]) as served:
        tune(config(data, served), out)
        (out / "manifest.json").unlink()
        if kind != "fireworks":
            for other in range(7):  # of other people in the account, over several pages
                served.create(f"other-{other}", {"model": "x", "suffix": "theirs", "training_file": f"theirs-{other}"})
        before = len(served.jobs)
        state = json.loads((out / "job.json").read_text())
        if kept == ["name"] and kind != "fireworks":
            return  # the file's id is noted before a job is made
        (out / "job.json").write_text(json.dumps({key: state[key] for key in kept}))
        assert resume(out)["job"] == state["job"]
        assert len(served.jobs) == before and len(served.files) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_creation_whose_reply_is_lost_is_found_again(kind: str, data: str, tmp_path: Path) -> None:
    with FakeTuning(kind, states=STATES[kind]) as served:
        served.lost = 1
        tune(config(data, served), tmp_path / "run")
        assert len(served.jobs) == 1


def test_only_new_events_are_asked_for(data: str) -> None:
    with FakeTuning(states=("queued",) * 9) as served:
        served.create("ftjob-1", {"model": "x", "suffix": "y", "seen": 8})["seen"] = 8
        provider = OPENAI(served.url)
        assert [name for name, _ in provider.events("ftjob-1", ())] == [f"e{n}" for n in range(9)]
        served.asked.clear()
        assert [name for name, _ in provider.events("ftjob-1", {f"e{n}" for n in range(8)})] == ["e8"]
        assert len(served.asked) == 1


def test_faults_that_pass_are_tried_again() -> None:
    with FakeTuning(faults=[429, 503, 429]) as served:
        provider = OPENAI(served.url, pause=0.001)
        assert provider.find("file-1", "nobody") is None
    with FakeTuning(faults=[500] * 10) as served:
        provider = OPENAI(served.url, pause=0.001)
        with pytest.raises(ProviderError, match="failed 6 times"):
            provider.find("file-1", "nobody")


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_run_gets_through_faults(kind: str, data: str, tmp_path: Path) -> None:
    with FakeTuning(kind, states=STATES[kind], faults=[429, 429]) as served:
        assert tune(config(data, served), tmp_path / "run")["job"] and len(served.jobs) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_job_is_said(kind: str, data: str, tmp_path: Path) -> None:
    with FakeTuning(kind, states=["queued", "failed"]) as served, pytest.raises(ProviderError, match="the file is odd"):
        tune(config(data, served), tmp_path / "b")


def test_a_rejected_file_is_said(data: str, tmp_path: Path) -> None:
    with (
        FakeTuning(faults=[400]) as served,
        pytest.raises(ConfigError, match="refused POST files with 400: planned 400"),
    ):
        tune(config(data, served), tmp_path / "a")
    with FakeTuning("fireworks") as served:
        served.rejected = "line 3 has no messages"
        with pytest.raises(DataError, match="rejected the file: line 3 has no messages"):
            tune(config(data, served), tmp_path / "b")
        assert not served.jobs


@pytest.mark.parametrize("kind", ["openai", "together"])
def test_a_job_is_made_once_its_file_is_read(kind: str, data: str, tmp_path: Path) -> None:
    with FakeTuning(kind, states=STATES[kind]) as served:
        served.reading = 4
        assert tune(config(data, served), tmp_path / "run")["job"] and len(served.jobs) == 1
        assert served.asked.count("GET files/file-1") == 4
        served.rejected = "line 3 has no messages"
        with pytest.raises(DataError, match="rejected the file file-2: line 3 has no messages"):
            tune(config(data, served), tmp_path / "rejected")
        assert len(served.jobs) == 1


def test_a_dated_version_of_the_api_is_asked_without_methods(data: str) -> None:
    order, bodies = JobRequest(model="base", name="x", epochs=2, seed=5), []
    with FakeTuning() as served:
        for url in (served.url, f"{served.url}?api-version=2024-10-21"):
            OPENAI(url, pause=0.001).create("file-1", order)
            bodies.append(list(served.jobs.values())[-1])
    assert (
        bodies[0]["method"]["supervised"] == {"hyperparameters": {"n_epochs": 2}} and "hyperparameters" not in bodies[0]
    )
    assert bodies[1]["hyperparameters"] == {"n_epochs": 2} and "method" not in bodies[1] and bodies[1]["seed"] == 5


@pytest.mark.parametrize("price", [-3.0, float("nan"), float("inf")])
def test_a_price_is_a_number_of_dollars(price: float) -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        TuneConfig(data="x", model="openai:x", price=price)


def test_an_address_that_is_none_is_refused_at_once() -> None:
    for url in ("notaurl", "ftp://host/v1", "https://"):
        with pytest.raises(ConfigError, match="no address of a provider"):
            TuneConfig(data="x", model=f"openai:x@{url}")


def test_what_is_foreseen_of_a_file_that_would_be_rejected_is_that(tmp_path: Path) -> None:
    jsonl.write_objects(tmp_path / "few.jsonl", (one.to_dict() for one in samples(4)))
    assert estimate_job(TuneConfig(data=str(tmp_path / "few.jsonl"), model="fireworks:x")).details["samples"] == 4
    with pytest.raises(DataError, match="10 at least"):
        estimate_job(TuneConfig(data=str(tmp_path / "few.jsonl"), model="openai:x"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_can_be_cancelled(kind: str, data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with FakeTuning(kind, states=STATES[kind]) as served:
        tune(config(data, served), out)
        assert cancel_job(out).status == "cancelled"
        state = json.loads((out / "job.json").read_text())
        (out / "job.json").write_text(json.dumps({key: state[key] for key in ("name", "file")}))
        assert cancel_job(out).id == state["job"]  # also one that a crash left without a note
        (out / "job.json").write_text(json.dumps({"name": "fireact-x"}))
        with pytest.raises(DataError, match="no job yet"):
            cancel_job(out)


def test_ctrl_c_says_how_to_go_on_and_how_to_stop_the_job(data: str, tmp_path: Path) -> None:
    out, python = tmp_path / "run", [sys.executable, "-m", "fireact"]
    with FakeTuning(states=["queued"] + ["running"] * 99) as served:
        command = [*python, "tune", data, f"openai:base@{served.url}", "-o", str(out)]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "1000"})
        assert child.stderr is not None
        said = ""
        while "now queued" not in said:
            line = child.stderr.readline()
            assert line, said
            said += line
        child.send_signal(signal.SIGINT)
        said += child.communicate(timeout=600)[1]
        assert child.returncode == 130 and "ftjob-1 is still running" in said
        assert f"fireact resume {out}" in said and f"fireact cancel {out}" in said
        cancelled = subprocess.run([*python, "cancel", str(out), "--json"], capture_output=True, text=True, timeout=600)
        assert json.loads(cancelled.stdout)["status"] == "cancelled"
        again = subprocess.run([*python, "resume", str(out)], capture_output=True, text=True, timeout=600)
        assert again.returncode == 1 and "cancelled" in again.stderr and len(served.jobs) == 1


def test_what_a_job_will_take_is_known_before_and_kept_within_a_budget(data: str, tmp_path: Path) -> None:
    with FakeTuning("openai") as served:
        foreseen = estimate_job(config(data, served, price=2.0)).details
        assert foreseen["samples"] == 12 and foreseen["cost_usd"] == pytest.approx(foreseen["tokens"] * 2e-6)
        for budget, said in (("0.0001usd", "more than the budget"), ("10tokens", "more than the budget")):
            with pytest.raises(BudgetError, match=said):
                tune(config(data, served, price=2.0, budget=budget), tmp_path / budget)
        with pytest.raises(BudgetError, match="cost is not known"):
            tune(config(data, served, budget="5usd"), tmp_path / "unknown")
        assert not served.files and not served.jobs
        tune(config(data, served, price=2.0, budget="5usd"), tmp_path / "run")
    with pytest.raises(ConfigError, match="counts calls"):
        TuneConfig(data=data, model="openai:x", budget="5calls")


def test_a_price_that_the_provider_tells_counts(data: str, tmp_path: Path) -> None:
    states = STATES["together"]
    with FakeTuning("together", states=states, price=4.0) as served:
        with pytest.raises(BudgetError, match=r"\$4.0000, more than the budget"):
            tune(config(data, served, budget="3usd"), tmp_path / "dear")
        assert not served.jobs
        manifest = tune(config(data, served, budget="5usd"), tmp_path / "run")
        assert manifest["estimate"]["cost_usd"] == 4.0 and manifest["estimate"]["tokens"] == 9000
    with FakeTuning("together", states=states, price=None) as served:
        provider = TOGETHER(served.url, pause=0.001)
        assert (
            provider.quote("file-1", JobRequest(model="base", name="x")).cost is None
        )  # a price that is not told stops nobody


def test_the_file_is_checked_before_it_is_uploaded() -> None:
    rows = [training_row(one) for one in samples()]
    check_training_rows(rows, min_samples=10)
    with pytest.raises(DataError, match="10 at least"):
        check_training_rows(rows[:9], min_samples=10)
    open_end = [{"messages": [*row["messages"], {"role": "user", "content": "x"}]} for row in rows]
    with pytest.raises(DataError, match="sample 1 does not end"):
        check_training_rows(open_end, min_samples=10)
    with pytest.raises(DataError, match="empty message"):
        check_training_rows(
            [{"messages": [{"role": "user", "content": " "}, *rows[0]["messages"]]}] * 12, min_samples=10
        )


def test_a_step_that_is_not_to_be_learnt_has_no_weight() -> None:
    one = samples(1)[0]
    weighed = replace(one, steps=(replace(one.steps[0], weight=0.0), one.steps[1]))
    turns = [message for message in training_row(weighed)["messages"] if message["role"] == "assistant"]
    assert [turn.get("weight") for turn in turns] == [0, None]


def test_what_follows_the_last_learned_turn_is_left_out() -> None:
    one = samples(1)[0]
    weighed = replace(one, steps=(one.steps[0], replace(one.steps[1], weight=0.0)))
    rows = [training_row(weighed)] * 10
    assert rows[0]["messages"] == training_row(one)["messages"][:2]
    check_training_rows(rows, min_samples=10)


def test_of_a_run_as_collected_only_what_is_right_is_learned(tmp_path: Path) -> None:
    rows = [replace(one, scores={"em": float(at < 11)}) for at, one in enumerate(samples(12))]
    jsonl.write_objects(tmp_path / "collect" / "trajectories.jsonl", (one.to_dict() for one in rows))
    for verb, count in (("collect", 11), ("mix", 12)):
        (tmp_path / "collect" / "config.toml").write_text(f'verb = "{verb}"\n')
        assert estimate_job(TuneConfig(data=str(tmp_path / "collect"), model="openai:x")).details["samples"] == count


def test_force_does_not_forget_a_job_that_goes_on(data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"

    class Stop(Said):
        def say(self, line: str) -> None:
            if "now queued" in line:
                raise KeyboardInterrupt

    with FakeTuning(states=["queued", *["running"] * 9]) as served:
        with pytest.raises(KeyboardInterrupt):
            tune(config(data, served), out, progress=Stop())
        with pytest.raises(ConfigError, match=r"job ftjob-1 of .* is running .*fireact resume .*fireact cancel"):
            tune(config(data, served), out, force=True)
        assert json.loads((out / "job.json").read_text())["job"] == "ftjob-1" and len(served.jobs) == 1
        cancel_job(out)
        with pytest.raises(KeyboardInterrupt):
            tune(config(data, served), out, force=True, progress=Stop())
        assert list(served.jobs) == ["ftjob-1", "ftjob-2"]


def test_the_file_that_was_uploaded_is_not_written_again(data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with FakeTuning() as served:
        before = tune(config(data, served), out)
        (out / "manifest.json").unlink()
        uploaded = (out / "training.jsonl").read_bytes()
        jsonl.write_objects(Path(data), (one.to_dict() for one in samples(20)))
        after = resume(out)
    assert (out / "training.jsonl").read_bytes() == uploaded
    assert after["estimate"]["samples"] == before["estimate"]["samples"] == 12


@pytest.mark.parametrize(("kind", "variable"), [("together", "TOGETHER_API_KEY"), ("fireworks", "FIREWORKS_API_KEY")])
def test_keys_and_specs(kind: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=variable):
        load_provider(f"{kind}:llama")
    with pytest.raises(ConfigError, match="fireworks, openai, together or module:attribute"):
        load_provider("acme:llama")
    monkeypatch.setenv(variable, "sk-secret")
    provider, model = load_provider(f"{kind}:llama")
    assert model == "llama" and "secret" not in str(vars(provider)) + str(vars(provider._http))  # type: ignore[attr-defined]


def test_a_provider_of_ones_own_is_module_attribute(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its own limits, which are checked before anything is sent, and its jobs are followed and cancelled."""
    module = types.ModuleType("somebody")
    module.TUNING = replace(TOGETHER, min_samples=11, accepted_settings=("rank",))  # type: ignore[attr-defined]
    module.NOTHING = object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebody", module)
    monkeypatch.setenv("TOGETHER_API_KEY", "sk-secret")
    with FakeTuning("together", states=STATES["together"]) as served:
        model = f"somebody:TUNING:base@{served.url}"
        with pytest.raises(ConfigError, match="somebody:TUNING chooses learning_rate itself"):
            TuneConfig(data, model, learning_rate=0.1)
        with pytest.raises(DataError, match="10 samples; the provider asks for 11"):
            tune(TuneConfig(write_samples(tmp_path, 10), model), tmp_path / "few")
        manifest = tune(TuneConfig(data, model, rank=4, poll=0.01), tmp_path / "run")
        assert (
            manifest["provider"] == "somebody:TUNING"
            and manifest["agent"] == f"openai:{manifest['model']}@{served.url}"
        )
        assert cancel_job(tmp_path / "run").id == manifest["job"]
    assert is_provider_spec(model) and is_provider_spec("together:base") and not is_provider_spec("hf:base")
    for spec, message in (
        ("somebody:NOTHING:base", "which is no provider. Give something with min_samples, accepted_settings, priced"),
        ("nobody:TUNING:base", "cannot be imported"),
        ("somebody:TUNING:", "is not of the form KIND:MODEL"),
    ):
        with pytest.raises(ConfigError, match=message):
            TuneConfig(data, spec)


def write_samples(path: Path, count: int) -> str:
    jsonl.write_objects(path / "few.jsonl", (one.to_dict() for one in samples(count)))
    return str(path / "few.jsonl")


def test_azure_is_reached_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-azure")
    with pytest.raises(ConfigError, match="AZURE_OPENAI_API_KEY"):
        load_provider("openai:gpt-4.1@https://mine.openai.azure.com/openai/v1")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "sk-azure")
    headers = ProviderClient("https://mine.openai.azure.com/openai/v1")._http._client.headers
    assert headers["api-key"] == "sk-azure" and "authorization" not in headers
    with FakeTuning() as served:
        OPENAI(f"{served.url}?api-version=2025-04-01-preview").find("file-1", "nobody")
        assert served.asked == ["GET fine_tuning/jobs?api-version=2025-04-01-preview&limit=100"]


def test_the_account_is_the_one_that_the_key_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTuning("fireworks") as served:
        assert FireworksProvider(served.url).find("", "nobody") is None
        assert served.asked == ["GET accounts", "GET accounts/acme/supervisedFineTuningJobs/nobody"]
        monkeypatch.setenv("FIREWORKS_ACCOUNT_ID", "other")
        FireworksProvider(served.url).find("", "nobody")
        assert served.asked[2:] == ["GET accounts/other/supervisedFineTuningJobs/nobody"]
