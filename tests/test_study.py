"""Studies: work is shared, gone on with, and done only where it is missing; what fails is said; what is shipped
resolves."""

import json
import shutil
from pathlib import Path
from typing import Any

import filelock
import pytest

from command import fireact
from fireact.base import jsonl
from fireact.base.progress import Progress
from fireact.base.run_directory import LOCK
from fireact.base.verbs import resume
from fireact.errors import FireactError
from fireact.reporting.assembly import ReportConfig, report
from fireact.study.runner import StudyConfig, StudyMatrix, plan_study, run_study
from small_study import SMALL

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from tiny import tiny_model  # noqa: E402

STUDY = """
title = "Tiny"
asks = "Does anything change?"
baseline = "prompted"
plots = [{ kind = "curve", x = "size" }, { kind = "bars" }]
choice = ["prompted", "8 trajectories"]
chooser = "4 trajectories"
paper = [
  { label = "of theirs", value = 26.2, se = 1.97, source = "Table 2", cell = "4 trajectories" },
  { label = "turns of theirs", value = 3.2, unit = "turns", cell = "4 trajectories" },
  { label = "adapter of theirs", value = 0.038, unit = "GB", cell = "4 trajectories" },
  { label = "price of theirs", value = 0.0022, unit = "USD a trial", cell = "4 trajectories" },
  { label = "their oracle", value = 52, cell = "oracle choice" },
]

[shared]
base = "BASE"
tasks = ["brief:HOP"]
n = 3
max_length = 8192
rank = 2
blocks = 1
epochs = 1
save_every = 1

[collect.hop]
plan = { "geo-hop/react" = 14 }

[mixtures.hop]
from = ["hop"]

[axes]
size = [4, 8]

[prices]
machine_hour = { value = 0.1, source = "a guess" }
teacher_question = { value = 0.05, source = "another" }

[[cells]]
name = "prompted"
examples = 0

[[cells]]
name = "{size} trajectories"
axes = ["size"]
mixture = "hop"
"""


class Notes(Progress):
    """Keeps what is said; interrupts as Ctrl-C does when a stage begins for the ``at``-th time."""

    def __init__(self, stage: str = "", at: int = 0) -> None:
        self.said: list[str] = []
        self.started: list[str] = []
        self.stage, self.at = stage, at

    def say(self, line: str) -> None:
        self.said.append(line)

    def start(self, stage: str, *, total: int, done: int = 0) -> None:
        self.started.append(stage.partition(":")[0])
        if self.at and self.started.count(self.stage) == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("base"), layers=2, hidden=32, positions=16384))


def written(folder: Path, base: str, text: str = STUDY, **changes: str) -> StudyConfig:
    for before, after in changes.items():
        text = text.replace(before, after)
    path = folder / "tiny.toml"
    path.write_text(text.replace("BASE", base))
    return StudyConfig(str(path))


def rows(out: Path) -> list[dict[str, Any]]:
    return list(jsonl.read_objects(out / "results.jsonl"))


def directories(out: Path) -> dict[str, list[str]]:
    return {verb: sorted(one.name for one in (out / verb).iterdir()) for verb in ("collect", "mix", "train", "eval")}


@pytest.fixture(scope="module")
def done(base: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyConfig, dict[str, Any], Notes]:
    """A whole study of three cells, stopped once in the middle of its second training."""
    home = tmp_path_factory.mktemp("study")
    config, notes = written(home, base), Notes()
    with pytest.raises(KeyboardInterrupt):
        run_study(config, home / "out", progress=Notes("train", 2))
    assert [row["cell"] for row in rows(home / "out")] == ["prompted", "4 trajectories"]
    assert "8 trajectories: not run yet" in (home / "out" / "tables.md").read_text()
    return home / "out", config, run_study(config, home / "out", progress=notes), notes


@pytest.fixture
def stages(done: "Done", tmp_path: Path) -> Path:
    """A copy of the stages of the whole study, for tests that add stages."""
    return Path(shutil.copytree(done[0], tmp_path / "stages"))


Done = tuple[Path, StudyConfig, dict[str, Any], Notes]


def test_a_stopped_study_goes_on_and_shares_what_is_equal(done: Done) -> None:
    out, _, manifest, notes = done
    assert notes.started == ["train", "eval"]  # all else was there
    assert {verb: len(found) for verb, found in directories(out).items()} == {
        "collect": 1, "mix": 2, "train": 2, "eval": 3,
    }  # fmt: skip
    assert manifest["cells"] == 3 and manifest["stages"] == 8
    assert any("cell 3 of 3, 8 trajectories: train, eval" in line for line in notes.said)


def test_a_row_a_cell_with_what_it_scored_did_and_took(done: Done) -> None:
    out, _, manifest, _ = done
    prompted, four, _ = rows(out)
    assert prompted["training"] is None and four["training"]["samples"] == 4 and four["axes"] == {"size": 4}
    assert four["training"]["weights_bytes"] > 100 and four["training"]["examples_per_second"] > 0
    assert four["data"]["trajectories"] == 4 and four["data"]["collected"] == 14
    assert set(four["results"]["geo-hop"]) >= {"n", "em", "em_interval", "f1", "steps", "seconds_per_question"}
    assert four["against"]["geo-hop"]["cell"] == "prompted" and four["against"]["geo-hop"]["em"]["n"] == 3
    assert sum(four["behaviour"]["geo-hop"]["used"].values()) == pytest.approx(1)
    assert set(manifest["choice"]["geo-hop"]) == {"n", "random", "best", "oracle", "chooser", "chosen"}
    costs = manifest["economics"]["4 trajectories"]
    assert costs["data_usd"] == pytest.approx(0.2) and costs["waste_usd"] >= 0 and costs["training_usd"] > 0
    assert costs["teacher_price"] == "another" and costs["questions_to_break_even"] >= 1


def test_a_row_holds_what_its_cell_was_made_with(done: Done) -> None:
    out, *_ = done
    prompted, four, _ = rows(out)
    asked = {
        "tasks": ["brief:HOP"],
        "n": 3,
        "split": "test",
        "order": "file",
        "tools": ["search"],
        "seed": 0,
        "noise": "",
    }
    for found in (prompted, four):
        assert asked.items() <= found["settings"].items() and found["settings"]["base"].endswith("base0")
        assert found["versions"]["eval"]["fireact"]
    assert prompted["settings"]["method"] == "react" and prompted["settings"]["recipe"] is None
    assert (
        four["settings"]["size"] == 4
        and four["settings"]["mixture"]["name"] == "hop"
        and four["settings"]["method"] is None
    )
    assert four["settings"]["recipe"]["epochs"] == 1 and four["settings"]["recipe"]["rank"] == 2
    assert [one["teacher"] for one in four["settings"]["collections"]] == ["scripted:expert"] and four["versions"][
        "train"
    ]["torch"]


def test_no_place_of_the_machine_stands_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fireact.tasks.geo import geo_hop

    asked = [{"question": one.question, "answer": one.answer} for one in geo_hop().examples("test")[:4]]
    jsonl.write_objects(tmp_path / "own.jsonl", asked)
    text = (
        SMALL.partition("[axes]")[0]
        .replace("geo-hop", "{data}/own.jsonl:question,answer,split=all")
        .replace("n = 5", 'n = 4\ntools = ["search"]')
    )
    (tmp_path / "mine.toml").write_text(text + '[[cells]]\nname = "asked"\n')
    monkeypatch.setenv("FIREACT_DATA", str(tmp_path))
    run_study(StudyConfig(str(tmp_path / "mine.toml")), tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "results.jsonl").read_text()
    assert rows(tmp_path / "out")[0]["settings"]["tasks"] == ["{data}/own.jsonl:question,answer,split=all"]


def test_tables_and_plots(done: Done) -> None:
    out, *_ = done
    page = (out / "tables.md").read_text()
    assert page.count("3.2 turns (turns of theirs)") == 1 and page.count("52 EM (their oracle)") == 1
    assert (
        "a student that chooses itself" in page
        and "26.2 ± 1.97 EM (of theirs)" in page
        and "against prompted" in page
        and "## Economics" in page
        and "oracle" in page
    )
    speed, costs = (page.partition(f"## {name}")[2].partition("## ")[0] for name in ("Size and speed", "Economics"))
    assert "| cpu | 0.038 GB (adapter of theirs) |" in speed and page.count("(adapter of theirs)") == 1
    assert "0.0022 USD a trial (price of theirs) |" in costs and page.count("(price of theirs)") == 1
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)
    assert "| prompted | " in page.partition("Questions by the method")[2] and "s, p95" in page
    for name in ("geo-hop-curve-size", "geo-hop-bars", "geo-hop-turns"):
        assert (out / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / "plots" / f"{name}.svg").read_text()


def test_a_report_shows_the_cells_of_a_study_by_their_names(done: Done, tmp_path: Path) -> None:
    out, *_ = done
    report(ReportConfig((str(out),)), tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert list(data["agents"]) == ["prompted", "4 trajectories", "8 trajectories"]
    assert set(data["training"]) == {"train: 4 trajectories", "train: 8 trajectories"}


def test_a_second_run_does_nothing_and_says_the_same(done: Done) -> None:
    out, config, _, _ = done
    before, notes = (out / "results.jsonl").read_bytes(), Notes()
    run_study(config, out, progress=notes)
    assert notes.started == [] and (out / "results.jsonl").read_bytes() == before
    assert resume(out)["cells"] == 3


def test_a_changed_file_runs_only_what_is_missing_and_a_failed_cell_does_not_stop_the_others(
    stages: Path, base: str, tmp_path: Path
) -> None:
    broken = (
        '\n[[cells]]\nname = "broken"\nmixture = "hop"\nsize = 14\n\n'
        '[[cells]]\nname = "longer"\nmixture = "hop"\nsize = 4\nepochs = 2\n'
    )
    config = written(tmp_path, base, STUDY + broken)
    shared, notes = StudyConfig(config.study, stages=str(stages)), Notes()
    with pytest.raises(FireactError, match=r"1 of 5 cells failed: broken: .*14 trajectories requested"):
        run_study(shared, tmp_path / "out", progress=notes)
    assert notes.started == ["mix", "train", "eval"]  # the broken mixture, and what the longer one needs
    found = {row["cell"]: row for row in rows(tmp_path / "out")}
    assert "14 trajectories requested" in found["broken"]["error"] and "results" in found["longer"]
    assert "- broken: " in (tmp_path / "out" / "tables.md").read_text()
    assert not (tmp_path / "out" / "manifest.json").exists()
    again = fireact("study", config.study, "--stages", stages, "-o", tmp_path / "out")
    assert again.returncode == 1 and "broken" in again.stderr


def test_a_study_waits_for_what_another_one_is_making(tmp_path: Path) -> None:
    """A stage that is held is left for later, waited for, and then found done: no cell fails."""
    text = SMALL.partition("[axes]")[0] + '[[cells]]\nname = "held"\n[[cells]]\nname = "free"\nn = 6\n'
    (tmp_path / "mine.toml").write_text(text)
    config = StudyConfig(str(tmp_path / "mine.toml"), stages=str(tmp_path / "stages"))
    held = StudyMatrix.read(config).chains["held"][-1].path(tmp_path / "stages")
    held.mkdir(parents=True)
    lock = filelock.FileLock(held / LOCK)
    lock.acquire()

    class Releasing(Notes):
        def say(self, line: str) -> None:
            super().say(line)
            if "waiting for" in line:
                lock.release()

    notes = Releasing()
    manifest = run_study(config, tmp_path / "out", progress=notes)
    assert manifest["cells"] == 2 and [row["cell"] for row in rows(tmp_path / "out")] == ["held", "free"]
    said = [line.split()[1:3] for line in notes.said if line.startswith("study: ")]
    assert said == [["cell", "1"], ["cell", "2"], ["waiting", "for"], ["cell", "1"]]
    again = Notes()
    run_study(config, tmp_path / "out", progress=again)
    assert again.said[0] == "study: cell 1 of 2, held: all stages are complete"  # and not that a minute is left


def test_one_fault_is_said_once_with_the_cells_that_it_hits(stages: Path, base: str, tmp_path: Path) -> None:
    text = STUDY.partition("[axes]")[0]
    for dropped in ("baseline", "plots", "choice", "chooser"):
        text = text.replace(f"\n{dropped} =", f"\n# {dropped} =")
    text = text.replace(', cell = "4 trajectories"', "").replace(', cell = "oracle choice"', "")
    block = '[axes]\nepochs = [1, 2]\n[[cells]]\nname = "{epochs}"\naxes = ["epochs"]\nmixture = "hop"\nsize = 14\n'
    config, notes = written(tmp_path, base, text + block), Notes()
    with pytest.raises(FireactError, match=r"^2 of 2 cells failed: 1, 2: mix/\w+: 14 trajectories") as failed:
        run_study(StudyConfig(config.study, stages=str(stages)), tmp_path / "out", progress=notes)
    assert str(failed.value).count("14 trajectories") == 1 and "the others" not in str(failed.value)
    assert (tmp_path / "out" / "tables.md").read_text().count("14 trajectories") == 1
    assert any("2, failed: for the same reason" in line for line in notes.said)


def test_a_dry_run_writes_nothing_and_knows_what_is_there(done: Done, base: str, tmp_path: Path) -> None:
    out, config, _, _ = done
    fresh = plan_study(config, tmp_path / "none").to_dict()
    assert not (tmp_path / "none").exists() and fresh["there"] == 0 and fresh["episodes"] == 14 + 3 * 3
    assert fresh["training_tokens"] == {"known": 12 * 250, "whole": True} and fresh["usd"]["known"] == 0
    assert not fresh["seconds"]["whole"]  # nothing was measured yet
    there = plan_study(config, out).to_dict()
    assert there["there"] == there["stages"] == 8 and there["episodes"] == 0
    longer = written(tmp_path, base, STUDY.replace("size = [4, 8]", "size = [4, 8, 6]"))
    more = plan_study(longer, out).to_dict()
    assert more["stages"] - more["there"] == 3 and more["seconds"]["whole"] and more["seconds"]["known"] >= 0


HOSTED = """
title = "Hosted"
[shared]
base = "meta-llama/Llama-2-7b-chat-hf"
tasks = ["hotpotqa"]
split = "dev"
n = 10
tools = ["noise:none=0.1:serpapi"]
[collect.hop]
teacher = "openai:gpt-4o"
plan = { "hotpotqa/react" = 100 }
tools = ["serpapi"]
[mixtures.hop]
from = ["hop"]
[[cells]]
name = "tuned"
mixture = "hop"
epochs = 2
[rates]
train_examples = 5.0
tuned_questions = 0.5
[right]
"hotpotqa/react" = 0.42
[prices.search]
value = 0.01
source = "a list"
[prices.machine_hour]
value = 3.6
source = "a list"
"""


def hosted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *changes: tuple[str, str]) -> dict[str, Any]:
    for name in ("FIREACT_DATA", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    text = HOSTED
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "hosted.toml").write_text(text)
    return plan_study(StudyConfig(str(tmp_path / "hosted.toml")), tmp_path / "none").to_dict()


def test_a_dry_run_counts_searches_machines_and_what_a_teacher_gets_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hosted(tmp_path, monkeypatch)
    stages = {one["stage"].partition("/")[0]: one for one in found["cells"][0]["stages"]}
    assert found["searches"] == 3 * 110 and stages["eval"]["searches"] == 30
    assert stages["train"]["seconds"] == 42 * 2 / 5 and stages["train"]["usd"] == pytest.approx(0.0168)  # 42 are right
    assert stages["eval"]["seconds"] == 20 and stages["eval"]["usd"] == pytest.approx(0.3 + 0.02)
    assert stages["collect"]["usd"] > 3 and found["usd"]["whole"]
    assert found["seconds"]["unknown"] == ["collecting from openai:gpt-4o"]


def test_what_is_not_known_is_named_and_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsearched = hosted(tmp_path, monkeypatch, ("[prices.search]", "[prices.teacher_question]"))
    assert unsearched["usd"]["unknown"] == ["the price of a search"]
    slow = hosted(tmp_path, monkeypatch, ("train_examples = 5.0", '"train_examples:full" = 5.0'))
    assert slow["usd"]["unknown"] == ["the machine for training meta-llama/Llama-2-7b-chat-hf"]
    full = hosted(
        tmp_path,
        monkeypatch,
        ("train_examples = 5.0", '"train_examples:full" = 7'),
        ("epochs = 2", 'epochs = 2\nkind = "full"'),
    )
    assert full["usd"]["whole"] and full["cells"][0]["stages"][2]["seconds"] == 12
    unmeasured = hosted(tmp_path, monkeypatch, ('"hotpotqa/react" = 0.42', '"hotpotqa/cot" = 0.42'))
    assert not unmeasured["training_tokens"]["whole"]
    few = hosted(tmp_path, monkeypatch, ("epochs = 2", "epochs = 2\nsize = 50"))
    assert few["short"] == ["all: 50 are wanted, and about 42 will be right"]


def test_another_study_does_not_write_over_one(done: Done, base: str, tmp_path: Path) -> None:
    out, *_ = done
    with pytest.raises(FireactError, match="other settings"):
        run_study(written(tmp_path, base), out)
