"""A dry run: counts and cost before anything is spent, from real prompts, with what is assumed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fireact.base.cost import Cost
from fireact.cli import app
from fireact.models.fake_endpoint import FakeEndpoint
from fireact.rollout.collection import CollectConfig, estimate_collection


def test_calls_and_tokens_are_those_of_the_prompts_and_the_assumed_rounds() -> None:
    found = estimate_collection(CollectConfig(plan={"geo-hop/react": 10, "geo-yesno/cot": 5})).details
    parts = found["by_task_and_method"]
    assert found["episodes"] == 15 and found["calls"] == 45
    assert parts["geo-hop/react"]["calls"] == 40 and parts["geo-yesno/cot"]["calls"] == 5
    assert found["prompt_tokens"] == sum(part["prompt_tokens"] for part in parts.values()) > 0
    assert found["cost_usd"] == 0.0 and found["assumed"]["rounds"]["others"] == 4


def test_nothing_is_asked_and_nothing_written_and_an_unknown_price_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeEndpoint(lambda request: "never") as served:
        teacher = f"openai:fake@{served.url}"
        arguments = ["collect", "-t", "geo-hop", "-n", "500", "--teacher", teacher, "--dry-run", "--json"]
        done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "run"), "--budget", "1usd"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.output)["expected"]["cost_usd"] is None
        (tmp_path / "p.toml").write_text('[prices."fake"]\ninput_per_million = 10.0\noutput_per_million = 0.0\n')
        monkeypatch.setenv("FIREACT_PRICES", str(tmp_path / "p.toml"))
        found = json.loads(CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "run")]).output)["expected"]
        assert found["cost_usd"] == pytest.approx(found["prompt_tokens"] / 1e5, abs=0.001)
        assert not served.requests and not (tmp_path / "run").exists()


def test_the_cost_of_runs_is_read_from_their_manifests_and_adds_up() -> None:
    counts = {"a/react": {"n": 3, "finished": 3, "correct": 1}, "a/cot": {"n": 2, "finished": 1, "correct": 0}}
    collected = Cost.from_manifest({"counts": counts, "usage": {"cost": 0.5}, "seconds": 4.0})
    trained = Cost.from_manifest({"training_seconds": 60.0, "seconds": 90.0})  # loading took the other 30
    tuned = Cost.from_manifest({"cost_usd": 2.0, "seconds": 7200.0})
    assert sum((collected, trained, tuned), Cost()) == Cost(2.5, 7264.0, 5)
    unpriced = Cost.from_manifest({"cost_usd": None, "seconds": 1.0})
    assert (collected + unpriced).dollars is None
