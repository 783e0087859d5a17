"""Scores attached afterwards: by a function, by a file of answers; atomic, repeatable, faults left alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from command import fireact
from fireact.base import jsonl
from fireact.base.run_directory import RunDir, read_manifest, read_trajectories
from fireact.errors import ConfigError, DataError
from fireact.recording.recorder import RecordConfig
from fireact.recording.scores import score
from fireact.rollout.episode_facts import read_episode_facts, summarise_episodes
from fireact.types import Action, Example, Step, Trajectory, Usage


def one(name: str, answer: str | None, *, stop: str = "finish") -> Trajectory:
    steps = () if answer is None else (Step("", Action("finish", {"answer": answer}), None, answer),)
    example = Example(name, f"What is  {name}?", "")
    return Trajectory("mine", example, "recorded", "m", 0, steps, stop, {}, Usage(1), 1.0)  # type: ignore[arg-type]


EPISODES = [one("a", "The Oslo"), one("b", "Lima"), one("c", None, stop="max_steps"), one("d", None, stop="error")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with RunDir(tmp_path / "run", verb="record", settings={"upstream": "http://x/v1", "task": "mine"}) as held:
        jsonl.write_objects(held.path / "trajectories.jsonl", (episode.to_dict() for episode in EPISODES))
        held.finish(**summarise_episodes(read_episode_facts(held.path)))
    return tmp_path / "run"


def scores(path: Path) -> dict[str, dict[str, float]]:
    return {episode.example.id: dict(episode.scores) for episode in read_trajectories(path)}


def test_by_answers(run: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    rows = [("What is a?", ["Bergen", "oslo"]), ("What is  c", 3), ("What is d?", "x")]
    jsonl.write_objects(answers, [{"question": question, "answer": answer} for question, answer in rows])
    grades = score(run, answers=answers)
    assert (grades.scored, grades.em, grades.unmatched, grades.faults) == (2, 0.5, ["b"], ["d"])
    assert scores(run) == {"a": {"em": 1.0, "f1": 1.0}, "b": {}, "c": {"em": 0.0, "f1": 0.0}, "d": {}}
    assert next(read_trajectories(run)).example.answer == "Bergen"
    manifest = read_manifest(run)
    assert manifest["counts"]["mine/recorded"]["correct"] == 1
    import hashlib

    assert (
        manifest["sha256"]["trajectories.jsonl"]
        == hashlib.sha256((run / "trajectories.jsonl").read_bytes()).hexdigest()
    )

    csv = tmp_path / "answers.csv"
    csv.write_text("id,answer\na,Bergen\nb,Lima\n")
    grades = score(run, answers=csv)  # takes the place of the old scores
    assert grades.unmatched == ["c"]
    assert scores(run)["a"]["em"] == 0.0 and scores(run)["b"]["em"] == 1.0


def test_by_the_scoring_of_a_task(run: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.csv"
    answers.write_text("id,answer\na,yes\nb,green tea\n")
    jsonl.write_objects(run / "trajectories.jsonl", [one("a", "Yes, since it is so").to_dict()])
    assert score(run, answers=answers).em == 0.0
    assert score(run, answers=answers, task="geo-yesno").em == 1.0


def test_by_a_function(run: Path) -> None:
    grades = score(run, by=lambda episode: None if episode.answer is None else len(episode.answer) / 8)
    assert (grades.scored, grades.unmatched) == (2, ["c"]) and scores(run)["a"] == {"em": 1.0, "f1": 1.0}
    score(run, by=lambda episode: {"em": True, "speed": 0.5})
    assert scores(run)["b"] == {"em": 1.0, "f1": 1.0, "speed": 0.5}


def wrong(value: Any) -> Any:
    return lambda episode: value


def failing(episode: Trajectory) -> float:
    return 1.0 if episode.example.id == "a" else float("nonsense")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs one of"),
        ({"by": failing, "answers": Path("x")}, "needs one of"),
        ({"by": "nonsense"}, "module:function"),
        ({"by": "absent.module:function"}, "cannot be imported"),
        ({"by": "fireact.errors:__doc__"}, "no function"),
        ({"by": wrong(2)}, "0 to 1"),
        ({"by": wrong(float("nan"))}, "0 to 1"),
        ({"by": wrong("good")}, "0 to 1"),
        ({"by": wrong({"f1": 1.0})}, "'em' is missing"),
        ({"by": failing}, "failed on b: ValueError"),
        ({"by": wrong(1), "task": "geo-yesno"}, "--task"),
    ],
)
def test_wrong_scores_change_nothing(run: Path, options: dict[str, Any], said: str) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.suffix in (".jsonl", ".json")}
    with pytest.raises(ConfigError, match=said):
        score(run, **options)
    assert {name: (run / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "a"}\n', "row 1: unknown column 'answer'"),
        ('{"answer": "a"}\n', "row 1: unknown column 'question'"),
        ('{"id": "a", "answer": ""}\n', "row 1"),
        ('{"id": "a", "answer": "x"}\n{"id": "a", "answer": "y"}\n', "more than once"),
        ("nonsense\n", "line 1"),
    ],
)
def test_wrong_answers_are_named(run: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "answers.jsonl").write_text(text)
    with pytest.raises(DataError, match=said):
        score(run, answers=tmp_path / "answers.jsonl")


def test_columns_by_name_and_questions_within_an_agent_s_words(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    file.write_text("uid,q,a\nx,capital of Peru,Cuzco\ny,the capital of Peru,Lima\na,?,Oslo\n")
    wrapped = replace(EPISODES[1], example=Example("b", "Please answer: the capital of Peru, now", ""))
    jsonl.write_objects(run / "trajectories.jsonl", [EPISODES[0].to_dict(), wrapped.to_dict(), EPISODES[2].to_dict()])
    grades = score(run, answers=f"{file}:q,a,id=uid")
    assert grades.unmatched == ["c"] and grades.em == 1.0  # the longest question fits, and "?" fits none


def test_other_directories_are_refused_and_files_are_taken(run: Path, tmp_path: Path) -> None:
    with RunDir(tmp_path / "eval", verb="eval", settings={}):
        pass
    with pytest.raises(ConfigError, match="fireact eval"):
        score(tmp_path / "eval", by=wrong(1))
    with (
        RunDir(run, verb="record", settings={"upstream": "http://x/v1", "task": "mine"}),
        pytest.raises(DataError, match="another process"),
    ):
        score(run, by=wrong(1))
    file = tmp_path / "some.jsonl"
    jsonl.write_objects(file, (replace(episode, seed=1).to_dict() for episode in EPISODES))
    assert score(file, by=wrong(1)).scored == 3


def test_the_commands(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def right(episode):\n    return float(episode.answer == 'Lima')\n")

    done = fireact("score", "run", "--with", "mine:right", cwd=tmp_path)
    assert done.returncode == 0 and "3 scored, EM 33.3%" in done.stdout and "1 ended in a fault" in done.stdout
    found = json.loads(fireact("score", "run", "--with", "mine:right", "--json", cwd=tmp_path).stdout)
    assert found["scored"] == 3 and found["faults"] == ["d"]
    mixed = fireact("mix", "run", "--where", "correct", "-o", "mix", cwd=tmp_path)
    assert mixed.returncode == 0 and "where correct: 4 -> 1" in mixed.stdout
    wrong = fireact("score", "run", cwd=tmp_path)
    assert wrong.returncode == 2 and "needs one of" in wrong.stderr


def test_settings_of_a_recording_survive_their_file(tmp_path: Path) -> None:
    from fireact.base.verbs import resume

    with pytest.raises(DataError, match="no run directory"):
        resume(tmp_path)
    assert RecordConfig(upstream="http://x").upstream == "http://x/v1"
