"""Teacher against student: the questions of a run, tools that answer as recorded, and trained questions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import fireact as package
from command import fireact
from fakes import trajectory
from fireact.base import jsonl
from fireact.base.run_directory import RunDir, read_config, read_trajectories
from fireact.errors import ConfigError, DataError, ToolError
from fireact.evaluation.compared_runs import read_scored_runs
from fireact.evaluation.comparison import compare_runs
from fireact.evaluation.evaluate import EvalConfig, estimate_evaluation, evaluate
from fireact.evaluation.pairing import match_by_question
from fireact.evaluation.recorded_questions import load_recorded_questions
from fireact.evaluation.summary import read_summaries
from fireact.models.replies import Replies
from fireact.rollout.loading import load_task, load_tools
from fireact.tasks.question_hash import hash_question
from fireact.tools.replayed import build_replayed_tools, count_replayed_calls
from fireact.training.trained_questions import write_trained_questions
from fireact.types import Action, Example, Step, Trajectory, Usage
from fireact.wire.schemas import make_schema

POPULATION = make_schema(
    "population", "people in a country", {"type": "object", "properties": {"country": {"type": "string"}}}
)
ANSWER = make_schema("final_answer", "the end", {"properties": {"answer": {"type": "string"}}})


def asked(country: str, people: str, *, id: str = "", em: float | None = 1.0, **changes: Any) -> Trajectory:
    """An episode of a recorded agent that looks one number up."""
    steps = (
        Step("", Action("population", {"country": country}), people, ""),
        Step("", Action("finish", {"answer": people}), None, people),
    )
    scores = {} if em is None else {"em": em, "f1": em}
    question = Example(id or country, f"How many live in {country}?", "")
    meta = {"system": "Count.", "tools": [POPULATION, ANSWER]}
    made = Trajectory("recorded", question, "recorded", "m", 0, steps, "finish", scores, Usage(2, 9, 0, 7), 1.0)
    return replace(made, meta=meta, **changes)


EPISODES = [asked("Chad", "17"), asked("Mali", "23"), asked("Togo", "9", em=0.0)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of ``record`` of three questions; the answer to the last is wrong."""
    with RunDir(tmp_path / "rec", verb="record", settings={"task": "recorded"}) as directory:
        jsonl.write_objects(directory.path / "trajectories.jsonl", (episode.to_dict() for episode in EPISODES))
        directory.finish(calls=6)
    return tmp_path / "rec"


def looks_up() -> Replies:
    """A prompted model that asks for Chad whatever it is asked, then says 17."""
    return Replies(('Action: population[{"country": "Chad"}]', "Action: finish[17]"))


def measure(out: Path, run: Path, **options: Any) -> dict[str, Any]:
    options = {"agent": f"{__name__}:looks_up", "tools": (f"recorded:{run}",), "workers": 1, **options}
    return evaluate(EvalConfig(questions_of=str(run), **options), out)


# --- tools that answer as recorded ---


def test_a_call_is_answered_as_it_was_or_by_the_nearest(run: Path) -> None:
    (tool,) = load_tools([f"recorded:{run}"]).values()
    assert tool.name == "population" and tool.parameters == POPULATION["function"]["parameters"]
    assert [tool(country=name) for name in ("Mali", " Mali ", "Mally", "Togolese Republic")] == ["23", "23", "23", "9"]


def test_the_same_call_in_the_same_question_comes_first() -> None:
    episodes = [asked("Chad", "17", id="1"), asked("Chad", "18", id="2")]
    (tool,) = build_replayed_tools(episodes, source="here")
    answers = [tool.for_episode(f"recorded/{id}", 0)(country="Chad") for id in ("1", "2", "3")]
    assert answers == ["17", "18", "17"]


def test_long_answers_are_whole_and_disturbed_ones_are_not_given(tmp_path: Path) -> None:
    episode = asked("Chad", "x" * 10_000)
    noisy = replace(
        episode.steps[0], observation="None", noise="none", action=Action("population", {"country": "Oman"})
    )
    jsonl.write_objects(tmp_path / "run.jsonl", [replace(episode, steps=(noisy, *episode.steps)).to_dict()])
    (tool,) = load_tools([f"recorded:{tmp_path / 'run.jsonl'}"]).values()
    assert len(tool(country="Chad")) == len(tool(country="Oman")) == 10_000


def test_a_tool_that_was_never_called_says_so_and_calls_are_counted(run: Path, tmp_path: Path) -> None:
    area = make_schema("area", "", {"properties": {}})
    episodes = [replace(EPISODES[0], meta={"tools": [area, POPULATION]})]
    tools = {tool.name: tool for tool in build_replayed_tools(episodes, source="here")}
    with pytest.raises(ToolError, match="area has no recorded call"):
        tools["area"]()
    counts = count_replayed_calls([f"noise:none=0.1:recorded:{run}"], [asked("Chad", "17"), asked("Peru", "33")])
    assert counts is not None and (counts.calls, counts.nearest, counts.unanswered) == (2, 1, 0)
    assert str(counts).startswith("1 of 2 calls of recorded tools were answered as recorded, 1 by the nearest")
    assert count_replayed_calls(["search"], EPISODES) is None
    with pytest.raises(ConfigError, match="there is no run"):
        load_tools([f"recorded:{tmp_path / 'nothing'}"])
    with pytest.raises(DataError, match="no tool"):
        build_replayed_tools([trajectory()], source="here")


# --- the questions of a run ---


def test_questions_have_the_right_answers_of_the_run(tmp_path: Path) -> None:
    told = replace(asked("Niue", "1", em=0.0), meta={"demonstration": "2"})
    gold = replace(
        asked("Fiji", "3", em=0.0), example=Example("f", "How many live in Fiji?", "4", {"aliases": ["four"]})
    )
    again = asked("Chad", "18", id="again", em=None)
    rows = [*EPISODES, told, gold, again]
    path = tmp_path / "questions.jsonl"
    jsonl.write_objects(path, (row.to_dict() for row in rows))
    (task,) = load_recorded_questions(str(path))
    answers = {example.id: example.answer for example in task.examples("")}
    assert answers == {"Chad": "17", "Mali": "23", "Niue": "2", "f": "4"} and task.unanswered == 1
    assert task.score(task.questions[-1], "four")["em"] == 1.0
    (ruled,) = load_recorded_questions(str(path), "geo-yesno")
    assert ruled.name == "recorded" and ruled.rule is not None and ruled.limits == ruled.rule.limits


def test_a_prompted_model_is_asked_the_questions_of_a_run(run: Path, tmp_path: Path) -> None:
    manifest = measure(tmp_path / "eval", run)
    assert manifest["results"]["recorded"]["em"] == 0.5 and manifest["left_out"] == {"recorded": 1}
    assert manifest["replayed"] == {"calls": 2, "nearest": 0, "unanswered": 0}
    episodes = list(read_trajectories(tmp_path / "eval"))
    assert [episode.example.id for episode in episodes] == ["Chad", "Mali"]
    assert [step.observation for step in episodes[1].steps] == ["17", None]


def test_python_asks_and_compares_too(run: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"questions_of": run, "tools": f"recorded:{run}", "n": 1, "workers": 1}
    measured = package.evaluate(f"{__name__}:looks_up", out=tmp_path / "eval", **options)
    assert measured.results["recorded"].em.mean == 1.0 and measured.manifest["replayed"]["calls"] == 1
    comparison = package.compare(run, measured, allow="trained").value
    assert comparison.tasks[0].n == 1 and not comparison.tasks[0].flips


def test_what_a_run_does_not_say_must_be_given(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tool recorded:.*rec"):
        EvalConfig(agent=f"{__name__}:looks_up", questions_of=str(run))
    with pytest.raises(ConfigError, match="no splits"):
        EvalConfig(agent="x", questions_of=str(run), split="dev")
    with pytest.raises(ConfigError, match="at most one"):
        EvalConfig(agent="x", questions_of=str(run), tasks=("a", "b"))
    jsonl.write_objects(tmp_path / "wrong.jsonl", [EPISODES[2].to_dict()])
    with pytest.raises(DataError, match="no right answer"):
        measure(tmp_path / "none", tmp_path / "wrong.jsonl")
    jsonl.write_objects(tmp_path / "geo.jsonl", [replace(trajectory(), task="geo-hop").to_dict()])
    config = EvalConfig(agent="scripted:expert", questions_of=str(tmp_path / "geo.jsonl"))
    assert config.tools == ("search",) and config.tasks == ()


def test_the_command_says_what_was_left_out_and_how_calls_were_answered(run: Path, tmp_path: Path) -> None:
    options = ("--questions-of", "rec", "--tool", "recorded:rec", "--workers", 1, "-o", "eval")
    done = fireact("eval", "test_questions_of:looks_up", *options, cwd=run.parent)
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    assert "recorded: 1 questions were left out, since the run has no right answer" in printed
    assert "2 of 2 calls of recorded tools were answered as recorded, 0 by the nearest" in printed
    compared = fireact("compare", "rec", "eval", cwd=run.parent)
    assert compared.returncode == 0, compared.stderr
    assert "recorded: 2 questions that both answered" in compared.stdout and "Only A has 1: Togo" in compared.stdout
    flips = json.loads(fireact("compare", "rec", "eval", "--json", cwd=run.parent).stdout)["tasks"]["recorded"]["flips"]
    assert [(flip["id"], flip["gold"]) for flip in flips] == [("Mali", "23")]


# --- questions that an agent was trained on ---


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A student at a provider, played by the script, that was trained on two test questions of geo-hop."""
    questions = [example.question for example in load_task("geo-hop").examples("test")[:2]]
    with RunDir(tmp_path / "tune", verb="tune", settings={"data": "gone.jsonl"}) as directory:
        write_trained_questions(directory.path, [hash_question(f"  {text.upper()}") for text in questions])
        directory.finish(agent="scripted:expert")
    return tmp_path / "tune"


def test_trained_questions_are_refused_or_marked(student: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"agent": str(student), "tasks": ("geo-hop",), "n": 5}
    with pytest.raises(ConfigError, match=r"trained on 2 of 5 questions of geo-hop: .*--allow trained"):
        estimate_evaluation(EvalConfig(**options))
    with pytest.raises(ConfigError, match="Known: trained"):
        EvalConfig(**options, allow=("others",))
    manifest = evaluate(EvalConfig(**options, allow=("trained",)), tmp_path / "eval")
    groups = read_summaries(manifest)["geo-hop"].by["trained"]
    assert [groups[value].n for value in ("yes", "no")] == [2, 3]
    assert [episode.meta.get("trained") for episode in read_trajectories(tmp_path / "eval")] == [True] * 2 + [None] * 3
    evaluate(EvalConfig(**{**options, "split": "dev"}), tmp_path / "other")  # none of these was trained on


def test_compare_and_report_know_trained_questions(student: Path, tmp_path: Path) -> None:
    evaluate(EvalConfig("scripted:expert", tasks=("geo-hop",), n=4), tmp_path / "base")
    evaluate(EvalConfig(str(student), tasks=("geo-hop",), n=4, allow=("trained",)), tmp_path / "tuned")
    refused = fireact("compare", "base", "tuned", cwd=tmp_path)
    assert refused.returncode == 1 and "trained on questions that both answered" in refused.stderr
    assert "on 0 of 4 questions" in refused.stderr and "on 2 of 4 questions" in refused.stderr
    allowed = fireact("compare", "base", "tuned", "--allow", "trained", cwd=tmp_path)
    assert allowed.returncode == 0 and "an agent was trained on 2 of them" in allowed.stdout
    assert "EM, 2 trained on" in allowed.stdout and "EM, 2 others" in allowed.stdout
    shown = fireact("report", "base", "tuned", "--markdown", "-o", "page", cwd=tmp_path)
    assert "2 of 4 questions were trained on: EM" in shown.stdout, shown.stderr
    # A run of a version that marked nothing is recognised by its agent.
    jsonl.write_objects(
        tmp_path / "tuned" / "trajectories.jsonl",
        [{**row, "meta": {}} for row in jsonl.read_objects(tmp_path / "tuned" / "trajectories.jsonl")],
    )
    settings = {name: value for name, value in read_config(tmp_path / "tuned").items() if name != "allow"}
    (tmp_path / "tuned" / "config.toml").write_text(tomli_w.dumps(settings))
    assert fireact("compare", "base", "tuned", cwd=tmp_path).returncode == 1


def test_questions_pair_by_their_words_where_ids_differ(run: Path) -> None:
    examples = [Example(name[0], f"how many  live in {name}?", "17") for name in ("Mali", "Chad", "Peru")]
    answers = [replace(asked("Chad", "17"), task="mine", example=example) for example in examples]
    jsonl.write_objects(run.parent / "mine.jsonl", (answer.to_dict() for answer in answers))
    first, second = read_scored_runs(run, run.parent / "mine.jsonl")
    (task,) = compare_runs(first, second).tasks
    assert task.task == "recorded" and task.n == 2 and list(task.only_before) == ["Togo"]
    asked_twice = [asked("Chad", "17", id="1"), asked("Chad", "18", id="2")]
    moved = match_by_question(asked_twice, [asked("Chad", "17", id="1"), asked("Chad", "17", id="9")])
    assert [trajectory.example.id for trajectory in moved] == ["1", "2"]
    elsewhere = fireact("compare", "rec", "other.jsonl", cwd=run.parent)
    assert elsewhere.returncode == 2
    jsonl.write_objects(run.parent / "other.jsonl", [replace(trajectory(), task="mine").to_dict()])
    elsewhere = fireact("compare", "rec", "other.jsonl", cwd=run.parent)
    assert elsewhere.returncode == 1 and "fireact eval AGENT --questions-of rec" in elsewhere.stderr
