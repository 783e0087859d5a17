"""Scoring a stored run again: the released run gives the paper's figures, ours its own; every difference is listed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from command import fireact
from fakes import Small, trajectory
from fireact.base.jsonl import dumps
from fireact.errors import ConfigError, DataError
from fireact.evaluation.rescore import read_run_trajectories, rescore
from fireact.models.replies import Replies
from fireact.render.released_run import read_released_run
from fireact.tasks.judge import Judge
from fireact.tasks.paper import hotpotqa, mmlu, strategyqa
from fireact.tasks.scoring import normalise_answer
from fireact.types import Action, Example, Step, Trajectory

NAME = "hotpotqa_dev_0_3_llama_models_tiny_0.7_2023-09-19-00-49-36.json"
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nWho made it?\n\n### Response:\n"
    "Thought: I search.\nAction: search[who made it]\nObservation: A page.\nIt has two lines. Action: finish[no]\n"
    "Thought: It was Ann.\nAction:  finish[Ann [the first]]\nObservation: Episode finished, reward = True\n"
)


def entry(**values: object) -> dict[str, object]:
    return {"reward": True, "em": True, "f1": 1.0, "gt": "ann first", "pred": "ann first", "traj": ALPACA, **values}


def released(folder: Path, *entries: dict[str, object], name: str = NAME) -> Path:
    path = folder / name
    path.write_text(json.dumps({str(7 * place): entry for place, entry in enumerate(entries)}))
    return path


@pytest.fixture
def run(shared_data: Path) -> Path:
    return next((shared_data / "fireact" / "trajs").glob("hotpotqa_dev_0_500_*.json"))


@pytest.mark.parametrize("golds", ["task", "run"])
def test_the_released_run_gives_the_papers_figures(run: Path, golds: str, shared_data: Path, tmp_path: Path) -> None:
    where = f":{shared_data / 'fireact'}" if golds == "task" else f":{empty_set(tmp_path)}"
    done = fireact("score", run, "--task", f"hotpotqa{where}", "-n", 500, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (round(found["em"] * 100, 1), round(found["f1"] * 100, 1)) == (26.2, 38.0)
    assert found["n"] == found["finished"] == found["golds"][golds] == 500 and found["missing"] == 0
    assert found["reported"]["em"] == 0.262 and found["reported"]["f1"] == pytest.approx(found["f1"], abs=1e-12)
    assert found["disagreements"] == []


def empty_set(folder: Path) -> Path:
    """A folder of HotpotQA that has none of the run's questions."""
    (folder / "hotpotqa").mkdir()
    (folder / "hotpotqa" / "dev.json").write_text('[{"question": "Another?", "answer": "yes"}]')
    return folder


def test_the_steps_of_the_released_run_are_whole(run: Path) -> None:
    trajectories = list(read_released_run(run))
    assert len(trajectories) == 500 and sum(len(t.steps) for t in trajectories) == 1778  # as many as "Action:" lines
    for one in trajectories:
        assert one.stop == "finish" and one.task == "hotpotqa" and one.model == "llama_models_lora_llama-2-7b-d_1000"
        assert normalise_answer(one.answer or "") == one.meta["released"]["pred"]
        before = [(step.action.name if step.action else None, bool(step.observation)) for step in one.steps[:-1]]
        assert set(before) <= {("search", True), ("reflect", True)}  # no such tool: 26 episodes try it, and are told so
        assert one.steps[-1].observation is None and Trajectory.from_dict(one.to_dict()) == one


def test_an_episode_in_alpacas_frame(tmp_path: Path) -> None:
    one = next(read_released_run(released(tmp_path, entry())))
    search, finish = one.steps
    assert one.example == Example("dev-0", "Who made it?", "ann first") and one.scores == {"em": 1.0, "f1": 1.0}
    assert search.action == Action("search", {"query": "who made it"})
    assert search.observation == "A page.\nIt has two lines. Action: finish[no]"
    assert finish.thought == "It was Ann." and one.answer == "Ann [the first]" and finish.observation is None
    assert one.meta == {"released": {"reward": True, "pred": "ann first", "temperature": 0.7}}
    assert one.usage.cost is None


def test_plain_text_and_chat_messages_are_the_same_episode(tmp_path: Path) -> None:
    body = ALPACA.partition("### Response:\n")[2]
    first, second = body.split("\nThought: ")
    said = [first.split("\nObservation: "), ("Thought: " + second).split("\nObservation: ")]
    chat = [{"role": "user", "content": "Who made it?"}]
    for action, observation in said:
        chat += [
            {"role": "assistant", "content": action},
            {"role": "user", "content": f"Observation: {observation.strip()}"},
        ]
    read = list(
        read_released_run(released(tmp_path, *(entry(traj=t) for t in (ALPACA, f"Who made it?\n{body}", chat))))
    )
    assert read[0].steps == read[1].steps == read[2].steps
    assert {one.example.question for one in read} == {"Who made it?"}


def test_yes_no_and_choice_runs(tmp_path: Path) -> None:
    body = "Question: Is it?\nThought: Hm.\nAction: finish[{}]\nObservation: Episode finished, reward = 1\n"
    stamp = "gpt-4_0.7_2023-09-19-00-49-36.json"
    path = released(
        tmp_path,
        {"reward": 1, "em": 1, "gt": False, "pred": "not sure", "traj": body.format("Not sure")},
        {"reward": 0, "em": 0, "gt": True, "pred": "(yes)", "traj": body.format("(yes)")},
        name=f"strategyqa_dev_0_2_{stamp}",
    )
    found = rescore(read_run_trajectories(path), strategyqa())  # type: ignore[arg-type]
    assert found.reported == {"em": 0.5} and found.means["em"].mean == 0.5 and not found.disagreements
    path = released(
        tmp_path,
        {"reward": 1, "em": 1, "gt": "b", "pred": "b. it is", "traj": body.format("B. It is")},
        name=f"mmlu_abstract_algebra_test_0_1_{stamp}",
    )
    one = next(read_released_run(path))
    assert (one.task, one.example.id, one.model) == ("mmlu", "abstract_algebra_test-0", "gpt-4")
    assert not rescore([one], mmlu()).disagreements  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is not JSON"),
        ("[]", "not a run of the released code"),
        ('{"1": {"em": 1}}', "not a run of the released code"),
        ('{"1": {"traj": "no thought", "gt": "x"}}', "entry '1': not an episode"),
        ('{"1": {"traj": 5, "gt": "x"}}', "entry '1': not an episode"),
        ('{"1": {"traj": [1, 2], "gt": "x"}}', "entry '1': not an episode"),
        ('{"1": {"traj": [], "gt": "x"}}', "entry '1': not an episode"),
        ('{"1": {"traj": "Q\\nThought: t", "gt": "x", "em": "often"}}', "entry '1': not an episode"),
    ],
)
def test_a_file_that_is_no_run_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        list(read_released_run(path))


def test_a_renamed_file_takes_the_task_that_is_given(tmp_path: Path) -> None:
    path = released(tmp_path, entry(), name="mine.json")
    one = next(read_run_trajectories(path, task="hotpotqa"))
    assert (one.task, one.example.id, one.model) == ("hotpotqa", "0", "mine")


def test_disagreements_are_listed_with_what_each_side_says(tmp_path: Path) -> None:
    path = released(tmp_path, entry(em=False, f1=0.5), entry(), entry(gt="bob", em=False, f1=0))
    done = fireact("score", path, "-t", "hotpotqa", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert [(item["id"], item["score"], item["theirs"], item["ours"]) for item in found["disagreements"]] == [
        ("dev-0", "em", 0.0, 1.0),
        ("dev-0", "f1", 0.5, 1.0),
    ]
    assert found["disagreements"][0]["question"] == "Who made it?" and found["disagreements"][0]["gold"] == "ann first"
    assert found["disagreements"][0]["answer"] == "Ann [the first]"
    shown = fireact("score", path, "-t", "hotpotqa", cwd=tmp_path).stdout
    assert "2 disagreements" in shown and "em 0 there, 1 here" in " ".join(shown.split())


def test_questions_without_an_episode_count_as_wrong(tmp_path: Path) -> None:
    path = released(tmp_path, entry(), entry())
    found = rescore(read_run_trajectories(path), hotpotqa(), n=8)  # type: ignore[arg-type]
    assert (found.n, found.missing, found.means["em"].mean, found.reported["em"]) == (8, 6, 0.25, 0.25)
    assert rescore(read_run_trajectories(path), hotpotqa(), n=1).n == 1  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="1 at least"):
        rescore(read_run_trajectories(path), hotpotqa(), n=0)  # type: ignore[arg-type]


def finished(index: int, answer: str, em: float) -> Trajectory:
    step = Step("t", Action("finish", {"answer": answer}), None, "")
    return replace(trajectory(index, em=em), steps=(step,))


def test_our_own_run_with_the_golds_that_the_task_has_now(tmp_path: Path) -> None:
    task = Small()
    run = [
        finished(0, "a", 1),
        finished(1, "b", 1),
        replace(finished(2, "a", 0), stop="error", scores={}, error="down"),
    ]
    stale = replace(finished(3, "a", 1), example=Example("train-3", "Question 3?", "an older gold"))
    strange = replace(finished(4, "z", 1), example=Example("?", "Not asked by the task", "z"))
    found = rescore([*run, stale, strange, trajectory(0, task="other")], task)
    assert (found.n, found.faults, found.golds) == (4, 1, {"task": 3, "run": 1})
    assert found.means["em"].mean == 0.75 and {item.id for item in found.disagreements} == {"train-1"}
    with pytest.raises(ConfigError, match=r"no episode of the task small. There are: other 1"):
        rescore([trajectory(0, task="other")], task)
    with pytest.raises(DataError, match="none is left to score"):
        rescore(run[2:], task)


def test_aliases_that_were_added_to_a_file_count(tmp_path: Path) -> None:
    (tmp_path / "small.jsonl").write_text(dumps({"question": "Question 1?", "answer": ["a", "b"]}) + "\n")
    run = tmp_path / "run.jsonl"
    run.write_text("".join(dumps(finished(1, "b", 0).to_dict()) + "\n"))
    found = json.loads(fireact("score", run, "-t", "small.jsonl", "-o", "new.jsonl", "--json", cwd=tmp_path).stdout)
    assert found["em"] == 1.0 and found["reported"]["em"] == 0.0 and len(found["disagreements"]) == 2
    kept = next(read_run_trajectories(tmp_path / "new.jsonl"))
    assert kept.scores == {"em": 1.0, "f1": 1.0} and kept.example.meta == {"aliases": ["b"]}
    again = fireact("score", run, "-t", "small.jsonl", "-o", "new.jsonl", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr


def always() -> Replies:
    """A judge that finds everything right."""
    return Replies(("CORRECT",))


def test_a_judge_is_asked_only_when_it_is_named_and_is_counted(tmp_path: Path) -> None:
    judge = Judge(always())
    found = rescore([finished(0, "a", 1), finished(1, "b", 0)], Small(), judge=judge)
    assert found.means["judge"].mean == 1.0 and found.means["em"].mean == 0.5 and judge.usage.calls == 2
    assert "judge" not in rescore([finished(0, "a", 1)], Small()).means
    run = tmp_path / "run.jsonl"
    run.write_text(dumps(finished(0, "b", 0).to_dict()) + "\n")
    (tmp_path / "referee.py").write_text(
        "from fireact.models.replies import Replies\nlm = lambda: Replies(('CORRECT',))\n"
    )
    (tmp_path / "small.jsonl").write_text(dumps({"question": "Question 0?", "answer": "a"}) + "\n")
    told = fireact("score", run, "-t", "small.jsonl", "--judge", "referee:lm", "--json", cwd=tmp_path)
    shown = json.loads(told.stdout)
    assert shown["judge"] == 1.0 and shown["judge_usage"]["calls"] == 1 and shown["judge_unclear"] == 0


def test_two_thoughts_in_one_turn_are_one_step(tmp_path: Path) -> None:
    turn = "Thought: Hm. Action: reflect\nThought: I search.\nAction: search[x]\nObservation: A page.\n"
    one = next(read_released_run(released(tmp_path, entry(traj=f"Who?\n{turn}Thought: It is late"))))
    assert [step.observation for step in one.steps] == ["A page.", ""] and one.stop == "format"
    assert one.steps[0].text == turn.partition("\nObservation")[0] and one.steps[1].thought == "It is late"
