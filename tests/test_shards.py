"""Shards: dealt out, run anywhere, and joined into the run that one machine would have made."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import fireact
from fireact import cli
from fireact.base.run_directory import read_config, read_trajectories
from fireact.errors import ConfigError, DataError
from fireact.evaluation.evaluate import EvalConfig, evaluate
from fireact.evaluation.summary import read_summaries
from fireact.rollout.call_cache import CallCache
from fireact.rollout.collection import CollectConfig, collect
from fireact.rollout.shards import Shard, choose_shard, find_shard, name_shard_directory

PLAN = {"geo-hop/react": 5, "geo-yesno/cot": 3, "geo-choice/reflexion": 3}


@pytest.fixture(autouse=True)
def _no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "FIREACT_SHARDS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection as a whole and in four shards, and an evaluation as a whole and in three."""
    folder = tmp_path_factory.mktemp("runs")
    collect(CollectConfig(plan=PLAN, workers=2), folder / "collect")
    for index in range(1, 5):
        collect(CollectConfig(plan=PLAN, workers=2, shard=f"{index}/4"), folder / f"collect-{index}-of-4")
    tasks = ("geo-hop", "geo-compose")
    evaluate(EvalConfig("scripted:expert", tasks=tasks, n=4), folder / "eval")
    for index in range(1, 4):
        shard = f"{index}/3"
        evaluate(EvalConfig("scripted:expert", tasks=tasks, n=4, shard=shard), folder / f"eval-{index}-of-3")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [{**entry.to_dict(), "seconds": 0} for entry in read_trajectories(path)]


def shards_of(runs: Path, name: str) -> list[str]:
    return sorted(map(str, runs.glob(f"{name}-*-of-*")), reverse=True)  # the order does not matter


def timeless(facts: Any) -> Any:
    """A manifest without times, and without the hash of episodes that hold some."""
    if not isinstance(facts, Mapping):
        return facts
    timed = ("second", "latency", "sha256")
    return {key: timeless(value) for key, value in facts.items() if not any(word in key for word in timed)}


@given(st.integers(1, 40), st.integers(1, 40))
def test_shards_have_every_episode_once(count: int, episodes: int) -> None:
    parts = [Shard(count, index).take(range(episodes)) for index in range(1, count + 1)]
    assert sorted(position for part in parts for position in part) == list(range(episodes))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form I/N"):
        CollectConfig(plan=PLAN, shard=text)


def test_one_shard_of_one_is_the_whole_run() -> None:
    assert CollectConfig(plan=PLAN, shard="1/1") == CollectConfig(plan=PLAN)


def test_joined_shards_are_the_run_of_one_machine(runs: Path, tmp_path: Path) -> None:
    joined = fireact.join(*shards_of(runs, "collect"), out=tmp_path / "joined")
    assert rows(joined.path) == rows(runs / "collect")
    assert timeless(joined.manifest) == timeless(json.loads((runs / "collect" / "manifest.json").read_text()))
    assert read_config(joined.path) == read_config(runs / "collect")
    seconds = [
        json.loads((Path(shard) / "manifest.json").read_text())["seconds"] for shard in shards_of(runs, "collect")
    ]
    assert joined.seconds == pytest.approx(sum(seconds), abs=0.01)


def test_a_joined_evaluation_is_summarised_anew(runs: Path, tmp_path: Path) -> None:
    joined = fireact.join(*shards_of(runs, "eval"), out=tmp_path / "joined")
    whole = json.loads((runs / "eval" / "manifest.json").read_text())
    assert rows(joined.path) == rows(runs / "eval")
    assert timeless(joined.manifest) == timeless(whole)
    seconds = sum(
        read_summaries(json.loads((Path(shard) / "manifest.json").read_text()))["geo-hop"].seconds_per_question
        * json.loads((Path(shard) / "manifest.json").read_text())["results"]["geo-hop"]["n"]
        for shard in shards_of(runs, "eval")
    )
    assert joined["geo-hop"].seconds_per_question * joined["geo-hop"].n == pytest.approx(seconds)


def test_a_joined_run_resumes_as_complete_and_replays_its_calls(runs: Path, tmp_path: Path) -> None:
    joined = fireact.join(*shards_of(runs, "collect"), out=tmp_path / "joined")
    assert collect(CollectConfig(plan=PLAN, workers=2), joined.path) == joined.manifest
    whole = CallCache(runs / "collect" / "calls.sqlite", "replay")
    assert CallCache(joined.path / "calls.sqlite", "replay").total_usage() == whole.total_usage()
    collect(CollectConfig(plan=PLAN, calls="replay", cache=str(joined.path / "calls.sqlite")), tmp_path / "replayed")
    assert rows(tmp_path / "replayed") == rows(runs / "collect")


def edit(path: Path, name: str, **values: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest[name] |= values
    (path / "manifest.json").write_text(json.dumps(manifest))


def break_shards(shards: list[Path], how: str) -> Iterator[Path]:
    """The shards, changed in the way that the name says."""
    if how == "doubled":
        shutil.copytree(shards[1], shards[1].parent / "copy")
        shards.append(shards[1].parent / "copy")
    elif how == "missing":
        del shards[1:3]
    elif how == "incomplete":
        (shards[2] / "manifest.json").unlink()
    elif how == "tool":
        edit(shards[3], "tools", search="another index")
    elif how == "version":
        edit(shards[3], "versions", fireact="0.9")
    elif how == "setting":
        config = shards[3] / "config.toml"
        config.write_text(config.read_text().replace("seed = 0", "seed = 1"))
    elif how == "edited":
        file = shards[0] / "trajectories.jsonl"
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:]))
    yield from shards


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("doubled", "shard 2/4 is there twice"),
        ("missing", r"2 of 4 shards are missing: 2/4, 3/4\. Run them"),
        ("incomplete", "is not complete"),
        ("tool", r"differ in tools\.search: .* and 'another index'"),
        ("version", r"differ in versions\.fireact"),
        ("setting", "differ in seed: 0 and 1"),
        ("edited", "was changed after its run"),
    ],
)
def test_what_is_no_run_together_is_refused(runs: Path, tmp_path: Path, how: str, message: str) -> None:
    shards = [shutil.copytree(runs / f"collect-{index}-of-4", tmp_path / str(index)) for index in range(1, 5)]
    with pytest.raises(DataError, match=message):
        fireact.join(*break_shards(shards, how), out=tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_a_run_without_shards_and_shards_of_two_runs_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no shard: it was run without --shard"):
        fireact.join(runs / "collect", out=tmp_path / "joined")
    with pytest.raises(DataError, match="shards of different runs"):
        fireact.join(*runs.glob("eval-*-of-3"), runs / "collect-1-of-4", out=tmp_path / "joined")
    with pytest.raises(DataError, match="is a complete run"):
        fireact.join(*shards_of(runs, "collect"), out=runs / "collect")


def test_workers_may_differ_between_machines(runs: Path, tmp_path: Path) -> None:
    shards = shards_of(runs, "collect")[:3]
    collect(CollectConfig(plan=PLAN, workers=7, shard="1/4"), tmp_path / "one")
    assert fireact.join(*shards, tmp_path / "one", out=tmp_path / "joined").counts


SLURM = {f"SLURM_ARRAY_TASK_{name}": "" for name in ("ID", "MIN", "MAX", "COUNT", "STEP")}


def slurm(id: int, low: int, high: int, count: int, step: int = 1) -> dict[str, str]:
    return dict(zip(SLURM, map(str, (id, low, high, count, step)), strict=True))


@pytest.mark.parametrize(
    ("variables", "shard"),
    [
        ({}, None),
        (slurm(1, 1, 16, 16), "1/16"),
        (slurm(0, 0, 15, 16), "1/16"),
        (slurm(15, 0, 15, 16), "16/16"),
        (slurm(6, 2, 10, 3, 4), "2/3"),
        ({"JOB_COMPLETION_INDEX": "0", "FIREACT_SHARDS": "4"}, "1/4"),
        ({"JOB_COMPLETION_INDEX": "3", "FIREACT_SHARDS": "4"}, "4/4"),
    ],
)
def test_the_shard_of_a_scheduler(variables: dict[str, str], shard: str | None) -> None:
    assert find_shard(variables) == shard


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_ARRAY_TASK_ID": "3"},
        slurm(3, 3, 7, 2),  # --array=3,7: two failed shards that are sent again
        {"JOB_COMPLETION_INDEX": "3"},
        {"JOB_COMPLETION_INDEX": "4", "FIREACT_SHARDS": "4"},
    ],
)
def test_a_scheduler_that_does_not_tell_the_shard_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"--shard I/N .* or --shard 1/1 for all"):
        find_shard(variables)


def test_a_given_shard_counts_before_the_scheduler_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    monkeypatch.setenv("FIREACT_SHARDS", "4")
    assert choose_shard({}) == {"shard": "3/4"} and choose_shard({"shard": "1/9"}) == {"shard": "1/9"}
    assert name_shard_directory("runs/collect", {}) == "runs/collect-3-of-4"
    assert name_shard_directory("runs/collect", {"shard": "1/1"}) == "runs/collect"
    assert CollectConfig(plan=PLAN).shard is None  # a stage of a study or of quickstart is never a shard


def test_shards_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIREACT_SHARDS", "2")
    for index in range(2):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        done = CliRunner().invoke(cli.app, ["collect", "-t", "geo-hop", "-n", "3"], catch_exceptions=False)
        assert f"shard {index + 1}/2: {2 - index} episodes (--shard 1/1 runs all)" in " ".join(done.stderr.split())
    shards = ["runs/collect-1-of-2", "runs/collect-2-of-2"]
    done = CliRunner().invoke(cli.app, ["join", *shards, "-o", "runs/collect", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["counts"]["geo-hop/react"]["n"] == 3
    dry = CliRunner().invoke(cli.app, ["eval", "scripted:expert", "-n", "3", "--dry-run", "--json"])
    assert json.loads(dry.stdout)["expected"]["episodes"] == 3 and "eval-scripted-expert-2-of-2" in dry.stdout


def test_more_shards_than_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are only 11 episodes"):
        collect(CollectConfig(plan=PLAN, shard="1/12"), tmp_path / "run")
