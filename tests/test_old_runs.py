"""Runs, recipes and studies of before: read, gone on with and reported as they were then. What they are:
old_runs/README.md."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from fake_tuning import FakeTuning
from fireact.cli import app
from fireact.errors import FireactError
from fireact.models.fake_endpoint import FakeEndpoint

COMMAND = get_command(app)
"""Built once: that takes longer than most commands here."""
KEPT = Path(__file__).parent / "old_runs"
TEXT = (".toml", ".json", ".jsonl", ".md", ".csv")
ADDRESS = "http://127.0.0.1:18100/v1"
"""Where the endpoints of then were; nobody listens there now."""

COLLECT, MIX, TRAIN = "stages/collect/b50a0e80009f3e4b", "stages/mix/64835eaed11726c7", "stages/train/0b60e3bb5694482d"
EVAL, NOISY, TUNED = "stages/eval/9079288fea86b1f6", "stages/eval/23bb631384775078", "stages/eval/d9ff7e7568dd7bce"
COMPLETE = [
    COLLECT, MIX, TRAIN, EVAL, NOISY, TUNED, "train", "prefer", "improve", "improve/round-0/eval",
    "improve/round-1/collect-0", "tune", "record",
]  # fmt: skip

COLLECTED = "-t geo-hop -t geo-choice -m react -m cot -n 2 --seed 1"
MEASURED = "eval scripted:expert -t geo-hop -n 2"
AGAIN = {
    COLLECT: f"collect {COLLECTED}",
    MIX: f"mix {COLLECT} -w correct -w steps<=5 --holdout 0.5 --weigh-bad 0.5 -n 2",
    EVAL: MEASURED,
    NOISY: f"{MEASURED} --tool noise:none=0.5:search",
    TUNED: f"eval {TRAIN} -t geo-hop -n 2",
    "train": f"train {MIX} --student student --recipe recipe.toml",
    "prefer": f"prefer {COLLECT} train --epochs 1 --max-length 8192",
    "improve": "improve train -t geo-hop -n 1 --tries 1 --rounds 1 --validate 1",
    "tune": f"tune data.jsonl openai:base@{ADDRESS} --price 3",
}
"""The commands that the runs were made with."""

STUDY = "study mine.toml --set student=student --stages stages -o study"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The student of then: random weights of the same seed. It gains nothing from more threads."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("trl")
    from tiny import tiny_model

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tiny_model(tmp_path_factory.mktemp("old") / "student", layers=1, hidden=16, positions=16384)
    torch.set_num_threads(threads)


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The old runs at a place of their own, which is the working directory; the student is an empty directory."""
    root = tmp_path / "old"
    shutil.copytree(KEPT, root)
    for file in root.rglob("*"):
        if file.suffix in TEXT:
            put(file, file.read_text(encoding="utf-8").replace("@ROOT@", str(root)))
    (root / "student").mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("COLUMNS", "200")
    return root


@pytest.fixture
def trainable(old: Path, student: Path) -> Path:
    """The old runs with the student that they were made with."""
    shutil.copytree(student, old / "student", dirs_exist_ok=True)
    return old


def put(file: Path, text: str) -> None:
    file.write_bytes(text.encode())


def fireact(command: str, *, code: int = 0) -> str:
    """What a command prints on standard output; it must end with ``code``, and what it raises is raised here."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ended = COMMAND.main(command.split(), prog_name="fireact", standalone_mode=False)
    assert (ended or 0) == code, f"fireact {command} ended with {ended}: {said.getvalue()}"
    return said.getvalue()


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def timeless(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trajectories without the time that they took."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def calls(file: Path) -> dict[bytes, tuple[str, str]]:
    connection = sqlite3.connect(file)
    try:
        return {key: (kind, answer) for key, kind, answer in connection.execute("SELECT key, kind, answer FROM calls")}
    finally:
        connection.close()


def held(path: Path) -> dict[str, Any]:
    """All that a directory holds, by name: the calls of a file of calls; every byte and the time of other files."""
    found: dict[str, Any] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != ".lock" and not file.name.startswith("calls.sqlite"):
            found[str(file.relative_to(path))] = (file.read_bytes(), file.stat().st_mtime_ns)
        elif file.name == "calls.sqlite":
            found[str(file.relative_to(path))] = calls(file)
    return found


def within(old: Any, new: Any) -> bool:
    """Whether all that there was is there as it was; there may be more."""
    if isinstance(old, Mapping):
        return isinstance(new, Mapping) and all(key in new and within(old[key], new[key]) for key in old)
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and all(map(within, old, new))
    return bool(new == (pytest.approx(old) if isinstance(old, float) else old))


# --- what is complete ---


def test_a_complete_run_is_not_done_again(trainable: Path) -> None:
    before = held(trainable)
    for path in COMPLETE:
        fireact(f"resume {path}")
    assert held(trainable) == before


@pytest.mark.parametrize("path", AGAIN)
def test_the_same_command_finds_its_run_complete(path: str, old: Path, request: pytest.FixtureRequest) -> None:
    if path in ("train", "improve", TUNED):
        request.getfixturevalue("trainable")
    before = held(old)
    fireact(f"{AGAIN[path]} -o {path}")
    assert held(old) == before


def test_other_settings_are_refused(old: Path) -> None:
    with pytest.raises(FireactError, match="seed"):
        fireact(f"{AGAIN[COLLECT].replace('--seed 1', '--seed 2')} -o {COLLECT}")


def test_kept_calls_give_the_same_run_without_teacher_or_tools(old: Path) -> None:
    for path in (COLLECT, EVAL):
        before = calls(old / path / "calls.sqlite")
        fireact(f"{AGAIN[path]} --calls replay --cache {path}/calls.sqlite -o again/{path}")
        again = old / "again" / path / "trajectories.jsonl"
        assert again.read_bytes() == (old / path / "trajectories.jsonl").read_bytes()
        assert calls(old / path / "calls.sqlite") == before
    one, other = (json.loads((old / place / "manifest.json").read_text()) for place in (EVAL, f"again/{EVAL}"))
    del one["results"]["geo-hop"]["seconds_per_question"]
    assert within(
        {key: one[key] for key in ("agent", "description", "tuned", "examples", "tools", "limits", "results", "usage")},
        other,
    )


# --- what was killed ---


def test_a_killed_run_becomes_what_it_would_have_been(old: Path) -> None:
    for cut, whole in (("cut/collect", COLLECT), ("cut/eval", EVAL)):
        file, known = old / cut / "trajectories.jsonl", calls(old / cut / "calls.sqlite")
        before = file.read_text(encoding="utf-8")
        put(file, before + '{"task":"geo-hop","exam')  # torn, as by a kill in the middle of a write
        fireact(f"resume {cut}")
        assert file.read_text(encoding="utf-8").startswith(before)
        assert timeless(rows(file)) == timeless(rows(old / whole / "trajectories.jsonl"))
        assert known.items() <= calls(old / cut / "calls.sqlite").items()
        assert calls(old / cut / "calls.sqlite").keys() == calls(old / whole / "calls.sqlite").keys()
        once = held(old / cut)
        fireact(f"resume {cut}")
        assert held(old / cut) == once
    found = json.loads((old / "cut/collect/manifest.json").read_text())
    assert within(
        {
            key: value
            for key, value in json.loads((old / COLLECT / "manifest.json").read_text()).items()
            if key in ("counts", "usage", "repairs", "tools", "teacher")
        },
        found,
    )


def teacher(request: Mapping[str, Any]) -> str:
    """The hosted teacher of then."""
    found = "Observation" in request["messages"][-1]["content"]
    return "Thought: so\nAction: finish[English]" if found else "Thought: look\nAction: search[Nigeria]"


def test_a_killed_run_pays_for_no_call_of_a_hosted_teacher_twice(old: Path) -> None:
    cut, config = old / "cut/hosted", old / "cut/hosted/config.toml"
    before = rows(cut / "trajectories.jsonl")
    with FakeEndpoint(teacher) as endpoint:
        put(config, config.read_text(encoding="utf-8").replace(ADDRESS, endpoint.url))
        fireact("resume cut/hosted")
        assert len(before) == 2 and len(endpoint.requests) == 8 - 5  # the third episode was killed in its second call
        named = f"--teacher openai:fake@{endpoint.url} --repairs 0"
        fireact(f"collect -t geo-hop -n 4 {named} -o fresh")
        assert len(endpoint.requests) == 3 + 8
        fireact(f"collect -t geo-hop -n 4 {named} --cache cut/hosted/calls.sqlite -o shared")
        assert len(endpoint.requests) == 3 + 8
    found = rows(cut / "trajectories.jsonl")
    assert found[:2] == before and timeless(found) == timeless(rows(old / "fresh/trajectories.jsonl"))
    assert found == rows(old / "shared/trajectories.jsonl")
    assert json.loads((cut / "manifest.json").read_text())["counts"] == {
        "geo-hop/react": {"n": 4, "finished": 4, "correct": 1}
    }


def test_a_killed_recording_becomes_trajectories_that_can_be_scored(old: Path) -> None:
    fireact("resume cut/record")
    known = [
        {**row, "scores": {}, "example": {**row["example"], "answer": ""}}
        for row in rows(old / "record/trajectories.jsonl")
    ]
    assert timeless(rows(old / "cut/record/trajectories.jsonl")) == timeless(known)
    fireact("score cut/record --answers answers.csv")
    again, scored = (timeless(rows(old / run / "trajectories.jsonl")) for run in ("cut/record", "record"))
    assert again == scored and [row["scores"]["em"] for row in scored] == [1.0, 0.0]


def test_a_killed_job_is_followed_and_not_ordered_again(old: Path) -> None:
    state = json.loads((old / "cut/tune/job.json").read_text())
    with FakeTuning("openai", states=("queued", "running", "succeeded")) as served:
        job = served.create(state["job"], {"model": "base", "training_file": state["file"], "suffix": state["name"]})
        job["seen"] = 1
        config = old / "cut/tune/config.toml"
        put(config, config.read_text(encoding="utf-8").replace(ADDRESS, served.url))
        fireact("resume cut/tune")
        assert not [asked for asked in served.asked if asked.startswith("POST")] and len(served.jobs) == 1
    found = json.loads((old / "cut/tune/manifest.json").read_text())
    model = f"ft:base:{state['name']}"
    assert (found["model"], found["agent"], found["cost_usd"]) == (model, f"openai:{model}@{served.url}", 0.036)
    assert [row["message"] for row in rows(old / "cut/tune/events.jsonl")] == [
        "now queued",
        "now running",
        "now succeeded",
    ]


def test_a_killed_training_goes_on_from_its_checkpoint(trainable: Path) -> None:
    from safetensors.numpy import load_file

    cut, before = trainable / "cut/train", rows(trainable / "cut/train/log.jsonl")
    fireact("resume cut/train")
    log, known = rows(cut / "log.jsonl"), rows(trainable / "train/log.jsonl")
    assert log[:1] == before and [row["step"] for row in log] == [1, 2]
    for row, other in zip(log, known, strict=True):
        # Another machine computed what is known: float32 and bfloat16 differ by 1e-4 of the loss here, a step by 6e-3.
        near = {name: pytest.approx(other.pop(name), rel=rel) for name, rel in (("loss", 1e-3), ("gradient_norm", 0.1))}
        del other["seconds"]
        assert within(near, row) and within(other, row)
    one, other = (load_file(trainable / run / "adapter/adapter_model.safetensors") for run in ("cut/train", "train"))
    step = 2 * known[-1]["learning_rate"]  # how far two first steps of Adam can lead apart
    assert one.keys() == other.keys() and all(abs(one[name] - other[name]).max() < step for name in one)


def test_rounds_go_on_where_they_were(trainable: Path) -> None:
    known = json.loads((trainable / "improve/manifest.json").read_text())
    (trainable / "improve/manifest.json").unlink()
    before = held(trainable)
    fireact("resume improve")
    found = json.loads((trainable / "improve/manifest.json").read_text())
    assert within({key: known[key] for key in ("rounds", "best", "agent", "stopped")}, found)
    assert before.items() <= held(trainable).items()


def test_an_old_adapter_is_exported_with_its_student(trainable: Path) -> None:
    fireact(f"export {TRAIN} --to merged -o merged")
    assert (trainable / "merged/model.safetensors").is_file()
    assert json.loads((trainable / "merged/manifest.json").read_text())["student"] == str(trainable / "student")


# --- settings ---


def spelled_now(command: str) -> str:
    """A command of then, in which ``train`` was ``prefer`` and ``tune`` as well."""
    command = re.sub(r"^train (\S+) (.*)--hosted (\S+)", r"tune \1 \3 \2", command)
    return re.sub(r"^train (\S+) (.*)--preference (\S+)", r"prefer \1 \3 \2", command)


def test_options_and_recipes_resolve_to_the_same_settings(trainable: Path) -> None:
    for name, kept in json.loads((trainable / "settings.json").read_text()).items():
        found = json.loads(fireact(f"{spelled_now(kept['command'])} --dry-run --json"))["settings"]
        assert within(kept["settings"], found), name


# --- studies ---


def planned(size: str) -> Any:
    return json.loads(fireact(f"{STUDY} --size {size} --dry-run --json"))


def test_a_study_has_the_same_cells_and_stages(trainable: Path) -> None:
    for size, kept in json.loads((trainable / "plan.json").read_text()).items():
        found = planned(size)
        cells = {
            one["cell"]: {"axes": one["axes"], "stages": [s["stage"] for s in one["stages"]]} for one in found["cells"]
        }
        assert cells == kept and list(cells) == list(kept)
        assert (found["stages"], found["there"]) == {"small": (6, 6), "large": (15, 3)}[size]
    text = (trainable / "mine.toml").read_text(encoding="utf-8")
    put(trainable / "mine.toml", text + '\n[[cells]]\nname = "more"\nbase = "scripted:expert"\nn = 4\n')
    found = planned("small")
    assert (found["stages"], found["there"], len(found["cells"])) == (7, 6, 4)


def test_a_study_is_not_run_again_and_says_the_same(trainable: Path) -> None:
    stages, known = held(trainable / "stages"), rows(trainable / "study/results.jsonl")
    fireact(STUDY)
    assert held(trainable / "stages") == stages and within(known, rows(trainable / "study/results.jsonl"))
    assert [row["results"]["geo-hop"]["em"] for row in known] == [1.0, 1.0, 0.0]
    assert "-100.0 (-100 to +43; p = 0.500)" in (trainable / "study/tables.md").read_text(encoding="utf-8")


def test_a_study_runs_only_the_stage_that_is_missing(trainable: Path) -> None:
    stages, known = held(trainable / "stages"), rows(trainable / "study/results.jsonl")
    (trainable / NOISY / "manifest.json").unlink()
    lines = (trainable / NOISY / "trajectories.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    put(trainable / NOISY / "trajectories.jsonl", lines[0])
    fireact("resume study")
    own = [f"eval/{Path(NOISY).name}/{name}" for name in ("manifest.json", "trajectories.jsonl", "calls.sqlite")]
    others = {name: value for name, value in held(trainable / "stages").items() if name not in own}
    assert others == {name: value for name, value in stages.items() if name not in own}
    assert timeless(rows(trainable / NOISY / "trajectories.jsonl")) == timeless([json.loads(line) for line in lines])
    again = rows(trainable / "study/results.jsonl")
    for row, other in zip(known, again, strict=True):
        assert row["cell"] == other["cell"] and row["results"]["geo-hop"]["em"] == other["results"]["geo-hop"]["em"]


# --- what reads runs ---


def test_runs_are_shown(old: Path) -> None:
    for path in (COLLECT, MIX, EVAL, NOISY, TUNED, "record", "cut/collect", "cut/hosted", "data.jsonl"):
        file = old / path / "trajectories.jsonl" if (old / path).is_dir() else old / path
        found = [json.loads(line) for line in fireact(f"show {path} -n 99 --json").splitlines()]
        assert [row["example"]["id"] for row in found] == [row["example"]["id"] for row in rows(file)]
        assert fireact(f"show {path} -n 2").count("Question:") == min(2, len(found))
    assert len(fireact(f"show {COLLECT} -n 99 --json --where em<1").splitlines()) == 3


def test_runs_are_examined_and_scored_again(old: Path) -> None:
    sound = {path: json.loads(fireact(f"doctor {path} --json")) for path in (MIX, "record", COLLECT)}
    assert all(one["sound"] for one in sound.values())
    assert {path: one["n"] for path, one in sound.items()} == {MIX: 2, "record": 2, COLLECT: 8}
    assert {name: one["n"] for name, one in sound[MIX]["groups"].items()} == {"geo-choice/cot": 1, "geo-hop/react": 1}
    assert sound[MIX]["steps"] == {"1": 1, "3": 1} and sound[MIX]["findings"] == []
    found = json.loads(fireact(f"score {COLLECT} --task geo-hop --json"))
    known = {"n": 4, "missing": 0, "faults": 0, "finished": 4, "em": 0.5, "f1": 0.5, "disagreements": []}
    assert within(known, found)


def test_old_data_is_mixed_as_it_was(old: Path) -> None:
    fireact(f"{AGAIN[MIX]} -o mixed")
    for name in ("trajectories.jsonl", "holdout.jsonl"):
        assert (old / "mixed" / name).read_bytes() == (old / MIX / name).read_bytes()
    one, other = (json.loads((old / path / "manifest.json").read_text()) for path in (MIX, "mixed"))
    assert within({key: one[key] for key in ("counts", "held_out", "history", "sources", "sha256")}, other)
    fireact(f"mix {COLLECT} record --recipe mixture.toml -o by-recipe")
    assert len(rows(old / "by-recipe/trajectories.jsonl")) == 2
    fireact(f"convert {MIX} --to sharegpt -o sharegpt.jsonl")
    assert len(rows(old / "sharegpt.jsonl")) == 2


def test_runs_are_compared(old: Path) -> None:
    found = json.loads(fireact(f"compare {EVAL} {NOISY} --allow noise --json"))
    task = found["tasks"]["geo-hop"]
    assert found["comparable"] and task["n"] == 2 and found["allowed"][0]["after"] == "search none=0.5,seed=0"
    assert task["scores"]["em"]["after"]["mean"] == 1.0 and task["right"] == {"before": 2, "after": 2}
    assert task["amounts"]["tokens_per_question"]["change"]["difference"] == 490.5
    assert task["amounts"]["searches"]["after"]["mean"] == 5.0
    found = json.loads(fireact(f"compare {EVAL} {TUNED} --json"))["tasks"]["geo-hop"]["scores"]["em"]["change"]
    assert (found["difference"], found["p"], found["losses"]) == (-1.0, 0.5, 2)
    assert not json.loads(fireact(f"compare {EVAL} {NOISY} --json", code=1))["comparable"]


def test_a_report_has_the_same_figures(old: Path) -> None:
    fireact(f"report {EVAL} {NOISY} train prefer tune {MIX} {COLLECT} study -o report")
    found = json.loads((old / "report/report.json").read_text())
    expert, noisy, tuned = (
        "scripted:expert react 0-shot",
        "scripted:expert react 0-shot, noise none=0.5",
        "2 trajectories, seed 0",
    )
    figures = {
        name: [one["geo-hop"][key] for key in ("n", "em", "finished", "steps", "searches", "tokens_per_question")]
        for name, one in found["agents"].items()
    }
    assert figures == {
        expert: [2, 1.0, 1.0, 4.0, 3.0, 595.0],
        noisy: [2, 1.0, 1.0, 6.0, 5.0, 1085.5],
        tuned: [2, 0.0, 0.0, 8.0, 0.0, 9773.0],
    }
    for path, name in ((EVAL, expert), (NOISY, noisy), (TUNED, tuned)):
        kept = json.loads((old / path / "manifest.json").read_text())["results"]["geo-hop"]
        shown = found["agents"][name]["geo-hop"]
        assert {key: shown[key] for key in kept if key in shown} == {key: kept[key] for key in kept if key in shown}
    assert (old / "report/report.html").stat().st_size > 50_000 and (old / "report/report.md").is_file()
