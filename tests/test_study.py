"""Studies: work is shared, gone on with, and done only where it is missing; what fails is said; what is shipped resolves."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

from fireact import jsonl
from fireact.errors import ConfigError, FireactError
from fireact.progress import Progress
from fireact.reporting.run import ReportConfig, report
from fireact.store import LOCK
from fireact.study.cells import cells
from fireact.study.file import CHOICES, Figure, StudyFile, read_study, shipped
from fireact.study.run import Matrix, StudyConfig, _named, plan, study
from fireact.study.stages import Resolver
from fireact.study.tables import tables
from fireact.terminal.study import _to_come
from fireact.verbs import resume

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
tasks = ["geo-hop"]
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


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    return list(jsonl.read(out / "results.jsonl"))


def directories(out: Path) -> dict[str, list[str]]:
    return {verb: sorted(one.name for one in (out / verb).iterdir()) for verb in ("collect", "mix", "train", "eval")}


@pytest.fixture(scope="module")
def done(base: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyConfig, dict[str, Any], Notes]:
    """A whole study of three cells, stopped once in the middle of its second training."""
    home = tmp_path_factory.mktemp("study")
    config, notes = written(home, base), Notes()
    with pytest.raises(KeyboardInterrupt):
        study(config, home / "out", progress=Notes("train", 2))
    assert [row["cell"] for row in rows(home / "out")] == ["prompted", "4 trajectories"]
    assert "8 trajectories: not run yet" in (home / "out" / "tables.md").read_text()
    return home / "out", config, study(config, home / "out", progress=notes), notes


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
        "tasks": ["geo-hop"],
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
    jsonl.write(tmp_path / "own.jsonl", asked)
    text = (
        SMALL.partition("[axes]")[0]
        .replace("geo-hop", "{data}/own.jsonl:question,answer,split=all")
        .replace("n = 5", "n = 4")
    )
    (tmp_path / "mine.toml").write_text(text + '[[cells]]\nname = "asked"\n')
    monkeypatch.setenv("FIREACT_DATA", str(tmp_path))
    study(StudyConfig(str(tmp_path / "mine.toml")), tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "results.jsonl").read_text()
    assert rows(tmp_path / "out")[0]["settings"]["tasks"] == ["{data}/own.jsonl:question,answer,split=all"]


def test_tables_and_plots(done: Done) -> None:
    out, *_ = done
    page = (out / "tables.md").read_text()
    assert page.count("3.2 turns (turns of theirs)") == 1 and page.count("52 EM (their oracle)") == 1
    assert (
        "a student that chooses itself" in page
        and "26.2 ± 1.97 EM (of theirs)" in page
        and "to prompted" in page
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
    study(config, out, progress=notes)
    assert notes.started == [] and (out / "results.jsonl").read_bytes() == before
    assert resume(out)["cells"] == 3


def test_a_changed_file_runs_only_what_is_missing_and_a_failed_cell_does_not_stop_the_others(
    done: Done, base: str, tmp_path: Path
) -> None:
    first, *_ = done
    broken = '\n[[cells]]\nname = "broken"\nmixture = "hop"\nsize = 14\n\n[[cells]]\nname = "longer"\nmixture = "hop"\nsize = 4\nepochs = 2\n'
    config = written(tmp_path, base, STUDY + broken)
    shared, notes = StudyConfig(config.study, stages=str(first)), Notes()
    with pytest.raises(FireactError, match=r"1 of 5 cells failed: broken: .*14 trajectories asked for"):
        study(shared, tmp_path / "out", progress=notes)
    assert notes.started == ["mix", "train", "eval"]  # the broken mixture, and what the longer one needs
    found = {row["cell"]: row for row in rows(tmp_path / "out")}
    assert "14 trajectories asked for" in found["broken"]["error"] and "results" in found["longer"]
    assert "- broken: " in (tmp_path / "out" / "tables.md").read_text()
    assert not (tmp_path / "out" / "manifest.json").exists()
    command = [
        sys.executable,
        "-m",
        "fireact",
        "study",
        config.study,
        "--stages",
        str(first),
        "-o",
        str(tmp_path / "out"),
    ]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and "broken" in again.stderr


def test_a_study_waits_for_what_another_one_is_making(tmp_path: Path) -> None:
    """A stage that is held is left for later, waited for, and then found done: no cell fails."""
    text = SMALL.partition("[axes]")[0] + '[[cells]]\nname = "held"\n[[cells]]\nname = "free"\nn = 6\n'
    (tmp_path / "mine.toml").write_text(text)
    config = StudyConfig(str(tmp_path / "mine.toml"), stages=str(tmp_path / "stages"))
    held = Matrix.read(config).chains["held"][-1].path(tmp_path / "stages")
    held.mkdir(parents=True)
    lock = filelock.FileLock(held / LOCK)
    lock.acquire()

    class Releasing(Notes):
        def say(self, line: str) -> None:
            super().say(line)
            if "waiting for" in line:
                lock.release()

    notes = Releasing()
    manifest = study(config, tmp_path / "out", progress=notes)
    assert manifest["cells"] == 2 and [row["cell"] for row in rows(tmp_path / "out")] == ["held", "free"]
    said = [line.split()[1:3] for line in notes.said if line.startswith("study: ")]
    assert said == [["cell", "1"], ["cell", "2"], ["waiting", "for"], ["cell", "1"]]
    again = Notes()
    study(config, tmp_path / "out", progress=again)
    assert again.said[0] == "study: cell 1 of 2, held: all of it is there"  # and not that a minute is left


def test_one_fault_is_said_once_with_the_cells_that_it_hits(done: Done, base: str, tmp_path: Path) -> None:
    first, *_ = done
    text = STUDY.partition("[axes]")[0]
    for dropped in ("baseline", "plots", "choice", "chooser"):
        text = text.replace(f"\n{dropped} =", f"\n# {dropped} =")
    text = text.replace(', cell = "4 trajectories"', "").replace(', cell = "oracle choice"', "")
    block = '[axes]\nepochs = [1, 2]\n[[cells]]\nname = "{epochs}"\naxes = ["epochs"]\nmixture = "hop"\nsize = 14\n'
    config, notes = written(tmp_path, base, text + block), Notes()
    with pytest.raises(FireactError, match=r"^2 of 2 cells failed: 1, 2: mix/\w+: 14 trajectories") as failed:
        study(StudyConfig(config.study, stages=str(first)), tmp_path / "out", progress=notes)
    assert str(failed.value).count("14 trajectories") == 1 and "the others" not in str(failed.value)
    assert (tmp_path / "out" / "tables.md").read_text().count("14 trajectories") == 1
    assert any("2, failed: for the same reason" in line for line in notes.said)


def test_a_dry_run_writes_nothing_and_knows_what_is_there(done: Done, base: str, tmp_path: Path) -> None:
    out, config, _, _ = done
    fresh = plan(config, tmp_path / "none")
    assert not (tmp_path / "none").exists() and fresh["there"] == 0 and fresh["episodes"] == 14 + 3 * 3
    assert fresh["training_tokens"] == {"known": 12 * 250, "whole": True} and fresh["usd"]["known"] == 0
    assert not fresh["seconds"]["whole"]  # nothing was measured yet
    there = plan(config, out)
    assert there["there"] == there["stages"] == 8 and there["episodes"] == 0
    more = plan(written(tmp_path, base, STUDY.replace("size = [4, 8]", "size = [4, 8, 6]")), out)
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
    return plan(StudyConfig(str(tmp_path / "hosted.toml")), tmp_path / "none")


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
    assert unsearched["usd"]["unknown"] == ["what a search costs"]
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
        study(written(tmp_path, base), out)


# --- what a file says ---


def file(**changes: Any) -> StudyFile:
    values: dict[str, Any] = {
        "name": "mine", "size": "small", "title": "Mine",
        "axes": {"size": [5, 10], "noise": [{"label": "normal"}, {"label": "None", "noise": "none=0.5"}], "seed": [0, 1]},
        "collect": {"hop": {"plan": {"geo-hop/react": 20}}},
        "mixtures": {"hop": {"from": ["hop"]}},
        "cells": [{"name": "prompted"}, {"name": "{size}, {noise}", "axes": ["size", "noise", "seed"], "mixture": "hop", "against": "{size}, normal"}],
    }  # fmt: skip
    return StudyFile(**{**values, **changes})


def test_cells_are_the_product_of_axes_by_their_labels() -> None:
    found = {cell.name: cell for cell in cells(file())}
    assert len(found) == 1 + 2 * 2 * 2
    noisy = found["5, None, seed 1"]
    assert noisy.group == "5, None" and noisy.settings["noise"] == "none=0.5" and noisy.seed == 1
    assert noisy.against == "5, normal" and found["5, normal, seed 0"].against == ""
    assert noisy.axes == {"size": 5, "noise": "None", "seed": 1}


def test_cells_can_be_left_out() -> None:
    block = {"name": "{size} {seed}", "axes": ["size", "seed"], "mixture": "hop", "exclude": [{"size": 5, "seed": 1}]}
    assert [cell.name for cell in cells(file(cells=[block]))] == ["5 0", "10 0", "10 1"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cells": [{"name": "a"}, {"name": "a"}]}, "two cells"),
        ({"cells": [{"name": "a", "axes": ["length"]}]}, "axis .*'length'"),
        ({"cells": [{"name": "a", "epoch": 3}]}, "Did you mean 'epochs'"),
        ({"cells": [{"name": "a", "mixture": "hops"}]}, "Did you mean 'hop'"),
        ({"cells": [{"name": "a", "against": "b"}]}, "compared with"),
        ({"choice": ["io"]}, "choice"),
        ({"chooser": "io"}, "chooser"),
        ({"axes": {"size": [{"n": 3}], "noise": [""], "seed": [0]}}, "label"),
    ],
)
def test_a_name_that_nothing_stands_behind_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cells(file(**changes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('title = "a"', "no \\[\\[cells\\]\\]"),
        ('titel = "a"', "Did you mean 'title'"),
        ('title = "a"\ncells = [{name="a"}]\nplots=[{kind="pie"}]', "bars"),
        ('title = "a"\ncells = [{name="a"}]\npaper=[{label="x"}]', "value"),
        ('title = "a"\ncells = [{name="a"}]\nsizes.small.shard = {}', "Did you mean 'shared'"),
        ("title = ", "cannot read"),
    ],
)
def test_a_wrong_file_is_refused_in_words(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_study(str(tmp_path / "mine.toml"))


SMALL = """
title = "Small"
[shared]
base = "scripted:expert"
tasks = ["geo-hop"]
n = 5
[axes]
size = [4, 8]
[collect.hop]
plan = { "geo-hop/react" = 20 }
[mixtures.hop]
from = ["hop"]
[[cells]]
name = "asked"
[[cells]]
name = "{size}"
axes = ["size"]
mixture = "hop"
base = "smollm2-135m"
"""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("n = 5", 'n = "abc"', "shared.n is 'abc'; it must be a whole number"),
        ("n = 5", "n = true", "shared.n is True"),
        ("n = 5", "n = 5\nblocks = [1]", r"shared.blocks is \[1\]; it must be a whole number"),
        ("n = 5", 'n = 5\ntemperature = "x"', "shared.temperature is 'x'; it must be a number"),
        ("n = 5", 'n = 5\nseed = "x"', "shared.seed"),
        ('["geo-hop"]', '"geo-hop"', "shared.tasks is 'geo-hop'; it must be a list, each of it a text"),
        ("n = 5", 'n = 5\ntools = "search"', "shared.tools is 'search'"),
        ("size = [4, 8]", "size = 100", "axes.size is 100; it must be a list"),
        ("size = [4, 8]", 'size = "abc"', "axes.size is 'abc'"),
        ("size = [4, 8]", 'size = [4, "abc"]', r"axes.size \(number 2\).size is 'abc'"),
        ("size = [4, 8]", "size = [{ label = [1], size = 4 }]", "label"),
        ("[axes]\nsize = [4, 8]\n", "", "unknown axis"),
        ('from = ["hop"]', 'from = "hop"', "mixtures.hop.from is 'hop'; it must be a list"),
        ('from = ["hop"]', 'from = ["hop"]\nseed = "x"', "mixtures.hop.seed is 'x'"),
        ('from = ["hop"]', 'form = ["hop"]', "Did you mean 'from'"),
        ('from = ["hop"]', "from = []", "mixtures.hop has no data"),
        ('[mixtures.hop]\nfrom = ["hop"]', "[mixtures]\nhop = 3", "mixtures.hop is 3; it must be a table"),
        ('"geo-hop/react" = 20', '"geo-hop/react" = "x"', "collect.hop.plan.geo-hop/react is 'x'"),
        ('title = "Small"', "title = 3", "title is 3; it must be a text"),
        ('title = "Small"', 'title = "a"\nnotes = "abc"', "notes is 'abc'; it must be a list"),
        ('title = "Small"', 'title = "a"\nsizes = 3', "sizes is 3"),
        ('title = "Small"', 'title = "a"\nsizes.small = 3', "sizes.small is 3"),
        ('title = "Small"', 'title = "a"\npaper = [{label = "x", value = "y"}]', r"paper \(number 1\).value is 'y'"),
        ('title = "Small"', 'title = "a"\nrates = { train_tokens = "x" }', "rates.train_tokens is 'x'"),
        ('title = "Small"', 'title = "a"\nprices = { machine_hour = { value = "x", source = "" } }', "machine_hour.value"),
        ('name = "asked"', 'name = "asked"\nexclude = [3]', r"exclude \(number 1\) is 3; it must be a table"),
        ('name = "asked"', "name = 3", "name is 3"),
        ('name = "asked"', 'name = "asked"\naxes = "size"', "axes is 'size'"),
        ('name = "asked"', 'name = "asked"\nmixture = "m"', "Did you mean|Known: hop"),
        # of the right type, and nothing stands behind it
        ('["geo-hop"]', '["geo-hip"]', "Did you mean 'geo-hop'"),
        ('["geo-hop"]', '["geo-hop", "geo-hop"]', "same name"),
        ('["geo-hop"]', "[]", "tasks is empty"),
        ("n = 5", "n = 5000", "5000 questions of geo-hop .* test has 2"),
        ("n = 5", "n = -3", "-3 questions"),
        ("n = 5", 'n = 5\ntools = ["serch"]', "Did you mean 'search'"),
        ("n = 5", 'n = 5\ntools = ["search:/no/such.jsonl"]', "no/such"),
        ("n = 5", 'n = 5\nnoise = "none=2"', "probability '2'"),
        ("n = 5", 'n = 5\nnoise = "noon=0.2"', "Did you mean 'none'"),
        ("n = 5", 'n = 5\nsplit = "tets"', "split 'tets'"),
        ("n = 5", 'n = 5\norder = "odd"', "order 'odd'"),
        ("n = 5", 'n = 5\nbudget = "much"', "much"),
        ("n = 5", 'n = 5\nmethod = "raect"', "Did you mean 'react'"),
        ("scripted:expert", "scripted:export", "scripted:expert"),
        ("scripted:expert", "smollm3-135m", "Did you mean 'smollm2-135m'"),
        ("smollm2-135m", "replay:runs/mine", "cannot be fine-tuned"),
        ("smollm2-135m", "fireworks:", "not of the form KIND:MODEL"),
        ('base = "smollm2-135m"', 'base = "openai:gpt-4o"\nrank = 4', "rank would be ignored"),
        ('base = "smollm2-135m"', 'base = "smollm2-135m"\nmethod = "cot"', "'cot' would be ignored"),
        ('title = "Small"', 'title = "a"\npaper = [{label = "x", value = 1, cell = "9"}]', "cell .the figure 'x'. '9'"),
        ('title = "Small"', 'title = "a"\npaper = [{label = "x", value = 1, cell = ["4", "9"]}]', "'9'"),
        ('title = "Small"', 'title = "a"\npaper = [{label = "x", value = 1, cell = "oracle choice"}]', "'oracle choice'"),
        ('title = "Small"', 'title = "a"\npaper = [{label = "x", value = 1, cell = "4", task = "geo-hopp"}]', "Did you mean 'geo-hop'"),
        ('from = ["hop"]', 'from = ["hopp"]', "'hopp', which is neither"),
        ('from = ["hop"]', 'from = ["hop"]\nwhere = ["corect"]', "corect"),
        ('from = ["hop"]', 'from = ["hop"]\ntake = { "geo-hop/cot" = 3 }', "geo-hop/cot"),
        ('from = ["hop"]', 'from = ["hop"]\nweights = { "geo-hop/cot" = 0.3 }', "geo-hop/cot"),
        ("size = [4, 8]", "size = [4, 80]", "80 trajectories .* no more than 20"),
        ('"geo-hop/react" = 20', '"geo-hop/react" = 20000', "20000 questions of geo-hop"),
        ('"geo-hop/react" = 20', '"geo-hop/raect" = 20', "Did you mean 'react'"),
        ("= 20 }", '= 20 }\nteacher = "nobody"', "unknown model 'nobody'"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_before_anything_is_run(before: str, after: str, said: str, tmp_path: Path) -> None:
    assert before in SMALL
    (tmp_path / "mine.toml").write_text(SMALL.replace(before, after))
    config = StudyConfig(str(tmp_path / "mine.toml"))
    for refusing in (plan, study):
        with pytest.raises(FireactError, match=said):
            refusing(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sound_file_is_planned_without_keys_and_run_with_them_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "SERPAPI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    sound = SMALL.replace("n = 5", 'n = 5\ntools = ["noise:none=0.5:serpapi"]')
    (tmp_path / "mine.toml").write_text(sound)
    config = StudyConfig(str(tmp_path / "mine.toml"))
    assert plan(config, tmp_path / "out")["there"] == 0
    with pytest.raises(FireactError, match="SERPAPI_API_KEY"):
        study(config, tmp_path / "out")


def test_what_nothing_uses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SMALL)
    with pytest.raises(ConfigError, match=r"'foo'.*Known: none"):
        plan(StudyConfig(str(tmp_path / "mine.toml"), values={"foo": "1"}), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"size .*'big'.*Known: small"):
        read_study(str(tmp_path / "mine.toml"), size="big")
    with pytest.raises(ConfigError, match="Did you mean 'data'"):
        plan(StudyConfig("real-hotpotqa", values={"dat": "1"}), tmp_path / "out")


def test_a_size_may_ask_another_question() -> None:
    small, paper = (read_study("base-scale", size=size) for size in ("small", "paper"))
    assert "one base model" in small.title and small.notes and paper.title == "Larger students" and not paper.notes


def test_a_size_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="small"):
        read_study("scaling", size="smal")
    with pytest.raises(ConfigError, match="Did you mean 'scaling'"):
        read_study("scalin")


# --- what a stage is named by ---


def key(study: StudyFile, name: str, **given: str) -> str:
    return Resolver(study, given).evaluation(next(cell for cell in cells(study) if cell.name == name)).key


def test_a_key_covers_what_the_result_depends_on_and_nothing_else() -> None:
    first = key(file(), "5, None, seed 1")
    assert first == key(file(shared={"workers": 3}), "5, None, seed 1")
    assert first == key(file(shared={"epochs": 3}), "5, None, seed 1")  # the default
    assert first != key(file(shared={"epochs": 4}), "5, None, seed 1")
    assert first != key(file(collect={"hop": {"plan": {"geo-hop/react": 21}}}), "5, None, seed 1")
    assert len({key(file(), cell.name) for cell in cells(file())}) == 9


def test_a_foreign_file_counts_by_what_it_holds_and_not_by_where_it_lies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text("same\n")
    mine = file(mixtures={"hop": {"from": ["{data}/data.jsonl"]}}, collect={})
    before = key(mine, "5, normal, seed 0", data=str(tmp_path / "a"))
    assert before == key(mine, "5, normal, seed 0", data=str(tmp_path / "b"))
    tool = file(shared={"tools": ["snippets:{data}/data.jsonl"]})
    asked = key(tool, "prompted", data=str(tmp_path / "a"))
    assert asked == key(tool, "prompted", data=str(tmp_path / "b"))
    (tmp_path / "b" / "data.jsonl").write_text("other\n")
    assert before != key(mine, "5, normal, seed 0", data=str(tmp_path / "b"))
    assert asked != key(tool, "prompted", data=str(tmp_path / "b"))


def test_what_the_user_must_give_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIREACT_DATA", raising=False)
    with pytest.raises(ConfigError, match="--set data="):
        study(StudyConfig("real-hotpotqa"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(plan(StudyConfig("real-hotpotqa"), tmp_path)["needs"]) == ["data"]
    found = plan(StudyConfig("robustness", size="paper"), tmp_path)["needs"]
    assert found["queries"].startswith("--set queries=..., a file of queries, one a line")


def test_a_fine_tuned_agent_is_shown_examples_only_where_that_is_asked_for() -> None:
    block = {"name": "tuned", "mixture": "hop", "examples": 3, "method": "react"}
    shown = file(cells=[block, {**block, "name": "shown", "few_shot": 3}])
    found = {cell.name: Resolver(shown).evaluation(cell).config(Path()) for cell in cells(shown)}
    assert found["tuned"].examples is None and found["shown"].examples == 3
    assert key(shown, "tuned") == key(file(cells=[{"name": "tuned", "mixture": "hop"}]), "tuned")
    ways = file(cells=[{**block, "name": way, "few_shot": 3, "method": way} for way in ("io", "cot", "react")])
    asked = [Resolver(ways).evaluation(cell).config(Path()).method for cell in cells(ways)]
    assert asked == ["io", "cot", "react"] and len({key(ways, way) for way in asked}) == 3


def test_a_figure_may_be_of_another_size_and_of_any_task_of_the_users_own_code(tmp_path: Path) -> None:
    figures = '[{label = "x", value = 1, cell = "big"}, {label = "y", value = 1, cell = "own", task = "mine"}]'
    own = '[[cells]]\nname = "own"\ntasks = ["my.module:task"]\n[sizes.small]\n[sizes.paper]\ncells = [{ name = "big" }]\n'
    (tmp_path / "mine.toml").write_text(SMALL.replace('title = "Small"', f'title = "Small"\npaper = {figures}') + own)
    for size in ("small", "paper"):
        assert cells(read_study(str(tmp_path / "mine.toml"), size=size))


# --- what is shipped ---


@pytest.mark.parametrize("size", ["small", "paper"])
@pytest.mark.parametrize("name", shipped())
def test_every_shipped_study_resolves(name: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "SERPAPI_API_KEY", "FIREACT_DATA"):
        monkeypatch.delenv(variable, raising=False)
    config = StudyConfig(name, size=size)
    expected = plan(config, tmp_path / "none")
    found = read_study(name, size=size)
    assert expected["stages"] >= len(expected["cells"]) > 1
    assert "?" in found.asks and found.source and not expected["short"]
    if size == "small":
        assert expected["seconds"]["known"] <= 3600
        assert expected["usd"]["known"] <= (0.1 if name == "cost" else 0)
        assert expected["usd"]["whole"] and (expected["seconds"]["whole"] or expected["needs"])
    else:
        assert all(part.startswith("the machine for ") for part in expected["usd"]["unknown"])
        assert bool(expected["searches"]) == (not name.startswith("real-"))
    if size == "paper" and found.collect:
        assert expected["usd"]["known"] > 0.015 * expected["searches"] > 1


def test_studies_of_the_paper_buy_no_question_twice() -> None:
    bought: dict[tuple[str, str, tuple[str, ...]], dict[int, str]] = {}
    for name in shipped():
        for stage in Matrix.read(StudyConfig(name, size="paper")).stages:
            for part, count in stage.values["plan"].items() if stage.verb == "collect" else ():
                keys = bought.setdefault((stage.values["teacher"], part, tuple(stage.values["tools"])), {})
                start = stage.values.get("start", 0)
                for at in range(start, start + count):
                    assert keys.setdefault(at, stage.key) == stage.key, (name, part, at)
    assert len(bought) == 9


def test_what_is_trained_alike_is_one_stage_in_all_studies() -> None:
    def trained(study: str, cell: str, size: str) -> str:
        chain = Matrix.read(StudyConfig(study, size=size)).chains[cell]
        return next(stage.key for stage in chain if stage.verb in ("train", "tune"))

    assert trained("lora", "LoRA, upper 10 blocks", "small") == trained(
        "base-scale", "10 of 30 blocks trained", "small"
    )
    for one, other in (
        (("scaling", "Llama-2-7B, 500 trajectories, seed 0"), ("epochs", "Llama-2-7B, epochs: 30")),
        (("scaling", "GPT-3.5, 500 trajectories"), ("robustness", "GPT-3.5, one task, normal")),
        (("lora", "LoRA, all blocks"), ("base-scale", "Llama-2-7B, fine-tuned")),
    ):
        assert trained(*one, "paper") == trained(*other, "paper")


@pytest.mark.parametrize("name", shipped())
def test_every_figure_stands_beside_a_cell_that_there_is(name: str) -> None:
    names = [
        n
        for size in ("small", "paper")
        for c in Matrix.read(StudyConfig(name, size=size)).cells
        for n in (c.name, c.group)
    ]
    names += CHOICES if read_study(name).choice else ()
    for figure in read_study(name).paper:
        assert not figure.cell or figure.beside(*names), figure


def test_the_studies_are_listed_and_planned_on_the_command_line(tmp_path: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "fireact", "study", "--list", "--json"], capture_output=True, text=True
    )
    assert set(json.loads(listed.stdout)) == set(shipped())
    command = [sys.executable, "-m", "fireact", "study", "scaling", "--dry-run"]
    planned = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert planned.returncode == 0 and "Nothing was spent" in planned.stdout and not list(tmp_path.iterdir())


def test_a_plan_counts_all_stages_of_a_cell() -> None:
    left = {"done": False, "episodes": 700, "usd": 40.0, "seconds": None, "unpriced": False}
    assert (
        _to_come([left, {**left, "episodes": 1600, "usd": 90.05}, {**left, "done": True}], "collect")
        == "2,300, $130.05"
    )
    assert _to_come([{**left, "done": True}] * 2, "collect") == "there" and _to_come([], "mix") == ""
    trained = {**left, "training_tokens": None, "unpriced": True, "usd": 0, "seconds": 60}
    assert _to_come([trained], "train") == "? tokens, $ ?, 60 s"


def test_given_values_that_are_no_folders_stay_as_they_are() -> None:
    row = {"cell": "0.5 of /data/x", "results": {"em": 0.5}, "axes": {"noise": "none=0.5"}, "stages": ["eval/hop"]}
    named = _named(row, {"p": "0.5", "kind": "hop", "data": "/data"})
    assert named == {**row, "cell": "0.5 of {data}/x"}


def test_names_in_tables_are_text_and_nothing_else() -> None:
    name = "<img src=x> | [a](b) ~$5"
    mine = file(title=f"# {name}", cells=[{"name": name}])
    facts: dict[str, Any] = {"seeds": {}, "choice": {}, "economics": {}}
    shown = r"\<img src=x> \| \[a\](b) \~\$5"
    page = tables(mine, cells(mine), [{"cell": name, "error": "no\n# such <b>"}], facts)
    assert page.startswith(rf"# \# {shown}") and rf"- {shown}: no # such \<b>" in page
    assert rf"- {shown}: not run yet" in tables(mine, cells(mine), [], facts)


def test_a_figure_stands_beside_the_first_task_of_a_cell_unless_it_names_one() -> None:
    assert Figure("a", 1.0).about("one", ["one", "two"]) and not Figure("a", 1.0).about("two", ["one", "two"])
    assert Figure("a", 1.0, task="two").about("two", ["one", "two"])
