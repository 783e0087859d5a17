"""What an evaluation says: kinds of failure, recovery, groups of questions, and the label of whatever agent was
measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import fireact
from fakes import Echo, Small, trajectory
from fireact.base.run_directory import read_trajectories
from fireact.errors import ConfigError
from fireact.evaluation.accuracy import accuracy, is_correct
from fireact.evaluation.breakdown import compute_breakdown
from fireact.evaluation.evaluate import EvalConfig, estimate_evaluation, evaluate
from fireact.evaluation.failures import FAILURES, classify_failure, count_failures, count_searches, has_seen_evidence
from fireact.evaluation.recovery import REACTIONS, measure_recovery
from fireact.evaluation.summary import summarise_trajectories
from fireact.formats.read import read_any
from fireact.methods.cot import CoT
from fireact.methods.react import ReAct
from fireact.models.fake_endpoint import FakeEndpoint
from fireact.models.limits import Endpoint
from fireact.models.replies import Replies
from fireact.models.scripted import Expert
from fireact.rollout.agents import build_agent
from fireact.rollout.collection import CollectConfig, collect
from fireact.rollout.loading import load_task
from fireact.rollout.models import Model, load_model
from fireact.types import Action, Call, Example, Message, Step, Trajectory, Usage


def call(query: str, said: str | None = "nothing", *, noise: str | None = None, joined: bool = False) -> Step:
    return Step("", Action("search", {"query": query}), said, "", noise=noise, joined=joined)


def finish(answer: str) -> Step:
    return Step("", Action("finish", {"answer": answer}), None, answer)


TALK = Step("", None, "No action found. Write one line.", "I wonder.")
UNKNOWN = Step("", Action("lookup", {"query": "x"}), "Unknown action lookup. Use one of search[...].", "")


def episode(*steps: Step, em: float = 0.0, gold: str = "Oslo", **changes: Any) -> Trajectory:
    ended = "finish" if steps and steps[-1].action and steps[-1].action.name == "finish" else "max_steps"
    example = Example("test-0", "Where?", gold, changes.pop("meta", {}))
    made = Trajectory("small", example, "react", "m", 0, steps, ended, {"em": em, "f1": em}, Usage(1, 2), 1.0)  # type: ignore[arg-type]
    return replace(made, **changes)


# ------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        (episode(finish("Oslo"), em=1.0), None),
        (episode(finish("Bergen"), scores={}), None),
        (episode(stop="error", scores={}, error="down"), "tool fault"),
        (episode(call("x", "None", noise="none"), finish("Bergen")), "tool fault"),
        (
            episode(call("x", "None", noise="none"), call("x", "It is Oslo."), finish("Bergen")),
            "wrong despite evidence",
        ),
        (episode(TALK, TALK), "format"),
        (episode(call("x"), UNKNOWN), "format"),
        (episode(stop="format"), "format"),
        (episode(call("x"), call("y"), call("x")), "loop"),
        (episode(call("x", "None", noise="none"), call("x")), "gave up"),
        (episode(call("x"), call("y")), "gave up"),
        (episode(call("x"), finish(" ")), "gave up"),
        (episode(call("x", "The capital is OSLO, in Norway."), finish("Bergen")), "wrong despite evidence"),
        (episode(call("x", "Osloer, or Oslovian"), finish("Bergen")), "wrong without evidence"),
        (episode(finish("Bergen")), "wrong without evidence"),
    ],
)
def test_each_kind_of_failure(one: Trajectory, kind: str | None) -> None:
    assert classify_failure(one) == kind


STEPS = st.sampled_from(
    [
        call("x"),
        call("y"),
        call("x", "it is Oslo"),
        call("z", "None", noise="none"),
        TALK,
        UNKNOWN,
        finish("Oslo"),
        finish(""),
        finish("Bergen"),
    ]
)
SCORES = st.sampled_from(
    [{}, {"em": 0.0}, {"em": 1.0}, {"em": 0.0, "judge": 1.0}, {"em": 1.0, "judge": 0.0}, {"f1": 0.5}]
)
GOLDS = st.sampled_from(["Oslo", "yes", "A", "", "!!!", ".no", "+47"])
EPISODES = st.builds(
    lambda steps, scores, stop, gold, answer: replace(
        episode(*steps, gold=gold, meta={"facts": [{"country": "it", "value": "Oslo"}, 3], "options": ["Oslo"]}),
        scores=scores,
        stop=stop,
    ),
    st.lists(STEPS, max_size=5),
    SCORES,
    st.sampled_from(["finish", "max_steps", "format", "error"]),
    GOLDS,
    st.text(max_size=3),
)


def _holds(kind: str, one: Trajectory) -> bool:
    """Each definition of ``FAILURES`` by itself, without regard to the order."""
    observed = [step for step in one.steps if step.observation is not None]
    last = one.steps[-1] if one.steps else TALK
    earlier = [step.action for step in one.steps[:-1] if step.noise is None]
    blank = not (one.answer or "").strip()
    cannot = last.action is None or last is UNKNOWN
    return {
        "tool fault": one.stop == "error" or bool(observed and observed[-1].noise),
        "format": one.answer is None and (one.stop == "format" or cannot),
        "loop": one.answer is None and last.action in earlier,
        "gave up": blank,
        "wrong despite evidence": not blank and has_seen_evidence(one),
        "wrong without evidence": not blank and not has_seen_evidence(one),
    }[kind]


@given(EPISODES)
def test_every_wrong_episode_has_exactly_one_kind_and_no_other_has_one(one: Trajectory) -> None:
    kind = classify_failure(one)
    wrong = one.stop == "error" or (accuracy(one) is not None and not is_correct(one))
    assert (kind is not None) == wrong
    if kind is not None:
        first = next(name for name in FAILURES if _holds(name, one))
        assert kind == first


@given(st.lists(EPISODES, max_size=12))
def test_failures_and_right_ones_make_up_all_that_were_scored(found: list[Trajectory]) -> None:
    scored = [one for one in found if one.stop != "error" and accuracy(one) is not None]
    assert sum(count_failures(scored).values()) + sum(map(is_correct, scored)) == len(scored)
    assert list(count_failures(found)) == list(FAILURES)


@pytest.mark.parametrize(
    ("gold", "meta", "said", "seen"),
    [
        (".at", {}, "Look at the map.", False),
        (".at", {}, "Austria was given .at for its sites.", True),
        ("+43", {}, "43 people", False),
        ("U.S. Navy", {}, "the US navy said", True),
        ("Malé", {}, "Malé is the capital", True),
        ("!!!", {}, "!!!", False),
        ("the moon", {"aliases": ["Luna"]}, "Luna is far", True),
        ("B", {"options": ["Oslo", "Rome"]}, "Rome is old. B", True),
        ("B", {"options": ["Oslo", "Rome"]}, "B", False),
        ("yes", {}, "yes, yes", False),
        ("no", {"facts": [{"country": "Peru", "value": "sol"}]}, "Peru pays with the sol", True),
        (
            "no",
            {"facts": [{"country": "Peru", "value": "sol"}, {"country": "Chad", "value": "franc"}]},
            "Peru: sol",
            False,
        ),
        ("no", {"facts": ["A tree grows."]}, "A tree grows.", False),
    ],
)
def test_evidence_is_the_answer_word_for_word(gold: str, meta: Mapping[str, Any], said: str, seen: bool) -> None:
    assert has_seen_evidence(episode(call("x", said), finish("?"), gold=gold, meta=meta)) is seen


def test_a_judge_decides_before_em_does() -> None:
    one = episode(finish("It is Oslo"), scores={"em": 0.0, "f1": 0.5, "judge": 1.0})
    assert accuracy(one) == 1.0 and classify_failure(one) is None
    assert accuracy(replace(one, scores={"f1": 1.0})) is None


# ------------------------------------------------------------------------------------------------------- recovery


def test_recovery_counts_what_the_next_turn_does() -> None:
    def noise(query: str = "x") -> Step:
        return call(query, "None", noise="none")

    found = measure_recovery(
        [
            episode(noise(), call("x"), finish("Oslo"), em=1.0),
            episode(noise(), call("y"), finish("Bergen")),
            episode(noise(), call("z", joined=True), finish("Bergen")),
            episode(noise(), TALK, TALK),
            episode(call("x", "cut", noise="truncated")),
            episode(call("x"), finish("Oslo"), em=1.0),
            episode(noise(), stop="error", scores={}),
        ]
    )
    assert found is not None and (found.all, found.episodes, found.calls) == (6, 5, 5)
    assert found.reactions == dict.fromkeys(REACTIONS, 1)
    assert (found.right.mean, found.retried.mean, found.retried_and_right.mean) == (0.2, 0.4, 0.2)
    assert found.by_noise["none"] == {"episodes": 4, "right": 1}
    assert json.loads(json.dumps(found.to_dict()))["disturbed"] == 5
    assert measure_recovery([episode(call("x"), finish("Oslo"))]) is None


# -------------------------------------------------------------------------------------------------------- summary


def test_questions_are_grouped_by_what_their_task_says() -> None:
    metas: list[dict[str, Any]] = [
        {"kind": "2-hop", "hops": 2},
        {"type": "bridge", "level": "hard"},
        {"decomposition": ["a", "b", "c"]},
        {"subject": "law"},
        {},
    ]
    found = compute_breakdown([episode(finish("Oslo"), em=float(at < 1), meta=meta) for at, meta in enumerate(metas)])
    assert {kind: {value: group.n for value, group in groups.items()} for kind, groups in found.items()} == {
        "type": {"2-hop": 1, "bridge": 1}, "hops": {"2": 1, "3": 1}, "level": {"hard": 1}, "subject": {"law": 1},
    }  # fmt: skip
    group = found["type"]["2-hop"].to_dict()
    assert group["em"] == 1.0 and group["em_interval"][0] < 1.0
    for name in ("finished", "steps", "searches", "tokens_per_question", "latency_mean", "latency_p95"):
        low, high = group[f"{name}_interval"]
        assert low <= group[name] <= high
    assert group["cost_per_question"] == 0.0


@pytest.mark.parametrize(
    ("change", "said"), [({"n": 201}, "has 200 test questions"), ({"tasks": ("nope",)}, "unknown task 'nope'")]
)
def test_a_dry_run_refuses_what_the_run_would(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        estimate_evaluation(EvalConfig("scripted:expert", **{"tasks": ("geo-hop",), "n": 4, **change}))


def test_a_dry_run_counts_calls_and_dollars(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "SERPAPI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    found = estimate_evaluation(EvalConfig("openai:gpt-4o", tasks=("geo-hop",), n=5, tools=("serpapi",))).details
    assert (found["episodes"], found["calls"]) == (5, 20) and found["cost_usd"] > 0
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):  # a run needs it
        load_model("openai:gpt-4o")


def test_a_summary_has_searches_by_tool_cost_and_failures() -> None:
    look = Step("", Action("look", {}), "nothing", "")
    free = Usage(2, 10, 0, 5, 0.0)
    one = episode(call("x"), look, TALK, finish("Bergen"), usage=free)
    other = episode(call("x"), finish("Oslo"), em=1.0, usage=replace(free, cost=0.5), seconds=3.0)
    found = summarise_trajectories([one, replace(other, example=Example("test-1", "?", "Oslo"))]).to_dict()
    assert count_searches(one) == {"search": 1, "look": 1}
    assert (found["searches"], found["tools"]) == (1.5, {"look": 0.5, "search": 1.0})
    assert (found["cost_per_question"], found["latency_p50"]) == (0.25, 2.0)
    assert found["failures"]["wrong without evidence"] == 1 and found["accuracy"] == 0.5
    for name in ("steps", "searches", "tokens_per_question", "cost_per_question", "latency_mean", "latency_p95"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    unknown = summarise_trajectories([one, replace(other, usage=Usage(1, 1, 0, 1, None))]).to_dict()
    assert unknown["cost_per_question"] is None and unknown["cost_per_question_interval"] is None


def test_summaries_of_the_released_run(shared_data: Path) -> None:
    (file,) = (shared_data / "fireact" / "trajs").glob("hotpotqa_dev*.json")
    found = summarise_trajectories(list(read_any(file))).to_dict()
    assert (found["em"], found["n"], found["finished"]) == (0.262, 500, 1.0)
    assert sum(found["failures"].values()) == 369 and found["failures"]["wrong despite evidence"] > 30
    assert found["cost_per_question"] is None


# ----------------------------------------------------------------------------------------------------------- eval


@dataclass(frozen=True)
class Deaf:
    """A method of a user's own that is given examples and shows none of them."""

    instructions: str = ""
    examples: tuple[Any, ...] = ()
    name: str = "deaf"

    def run(self, question: str, lm: Any, tools: Any, seed: int) -> Any:
        return ReAct().run(question, lm, tools, seed)


@dataclass(frozen=True)
class Own:
    """A method that keeps no examples at all."""

    name: str = "own"
    inner: ReAct = field(default_factory=ReAct)

    def run(self, question: str, lm: Any, tools: Any, seed: int) -> Any:
        return self.inner.run(question, lm, tools, seed)


def own_method(**options: Any) -> Own:
    return Own()


def fake_lm() -> Replies:
    return Replies(("Thought: look\nAction: search[x]", "Thought: done\nAction: finish[yes]"), name="fake")


LOOKING = fake_lm()


def echo() -> Echo:
    return Echo()


def measured(out: Path, agent: str = f"{__name__}:fake_lm", **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"tasks": ["geo-yesno"], "n": 2, **options}
    return evaluate(EvalConfig(agent=agent, **settings), out)


@pytest.mark.parametrize(
    ("options", "label", "told"),
    [
        ({}, "fake react 3-shot", "3 examples in the prompt"),
        ({"examples": 1}, "fake react 1-shot", "1 example in the prompt"),
        ({"examples": 0}, "fake react 0-shot", "no examples in the prompt"),
        ({"method": "cot"}, "fake cot 3-shot", "cot, 3 examples"),
        ({"method": "io"}, "fake io 3-shot", "io, 3 examples"),
        ({"method": "reflexion"}, "fake reflexion 3-shot", "reflexion, 3 examples"),
        ({"native": True}, "fake react 3-shot", "3 examples"),
        ({"method": f"{__name__}:Deaf"}, f"fake {__name__}:Deaf 0-shot", "no examples"),
        ({"method": f"{__name__}:own_method"}, f"fake {__name__}:own_method 0-shot", "no examples"),
        ({"agent": "scripted:expert"}, "scripted:expert react 0-shot", "no examples"),
    ],
)
def test_the_label_counts_the_examples_that_are_in_the_prompt(
    options: dict[str, Any], label: str, told: str, tmp_path: Path
) -> None:
    manifest = measured(tmp_path, **options)
    assert manifest["agent"] == label and told in manifest["description"]
    assert manifest["examples"] == int(re.findall(r"(\d)-shot", label)[0])
    assert manifest["limits"]["geo-yesno"]["max_steps"] == 8


def test_a_recorded_agent_is_measured_again_without_it(tmp_path: Path) -> None:
    collect(CollectConfig(plan={"geo-yesno/react": 3}, split="test"), tmp_path / "collect")
    manifest = measured(tmp_path / "eval", f"replay:{tmp_path / 'collect'}", n=3)
    assert manifest["results"]["geo-yesno"]["n"] == 3 and manifest["agent"].startswith("scripted:expert")


def test_a_served_agent_is_measured_with_tokens_and_unknown_or_known_cost(tmp_path: Path) -> None:
    def reply(request: Mapping[str, Any]) -> str:
        return Expert().complete(Call([Message(one["role"], one["content"]) for one in request["messages"]])).text

    prices = tmp_path / "prices.toml"
    prices.write_text('[prices."fake"]\ninput_per_million = 1000.0\noutput_per_million = 2000.0\n')
    with FakeEndpoint(reply) as served:
        free = measured(tmp_path / "free", f"openai:fake@{served.url}")
        paid = measured(tmp_path / "paid", f"openai:fake@{served.url}", endpoint=Endpoint(prices=str(prices)))
    first, second = free["results"]["geo-yesno"], paid["results"]["geo-yesno"]
    assert first["cost_per_question"] is None and first["tokens_per_question"] > 100 and first["latency_p95"] > 0
    assert 0 < second["cost_per_question_interval"][0] <= second["cost_per_question"]
    assert free["agent"] == "openai:fake react 3-shot"


def test_multiple_choice_has_accuracy_by_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIREACT_DATA", raising=False)
    (tmp_path / "mmlu" / "test").mkdir(parents=True)
    for subject in ("art", "law"):
        rows = "".join(f"Which {subject} {n}?,a,b,c,d,{'AB'[n % 2]}\n" for n in range(4))
        (tmp_path / "mmlu" / "test" / f"{subject}_test.csv").write_text(rows)
    agent = f"{__name__}:says_a"
    found = measured(tmp_path / "out", agent, tasks=[f"mmlu:{tmp_path}"], n=8, tools=["search"])["results"]["mmlu"]
    assert found["accuracy"] == found["em"] == found["f1"] == 0.5
    assert {name: group["n"] for name, group in found["by"]["subject"].items()} == {"art": 4, "law": 4}


def says_a() -> Replies:
    return Replies(("Thought: it is clear\nAction: finish[A]",), name="a")


def test_noise_is_summarised_and_the_episodes_say_so(tmp_path: Path) -> None:
    manifest = measured(tmp_path, "scripted:expert", tasks=["geo-hop"], n=12, tools=["noise:none=0.6:search"])
    found = manifest["results"]["geo-hop"]["recovery"]
    hit = [one for one in read_trajectories(tmp_path) if any(step.noise for step in one.steps)]
    assert found["disturbed"] == len(hit) > 3 and found["by_noise"]["none"]["episodes"] == len(hit)
    assert manifest["tools"]["search"].startswith("noise-1:none=0.6")


def test_the_tables_fit_and_the_json_has_everything(tmp_path: Path) -> None:
    command = ["eval", "scripted:expert", "-t", "geo-hop", "-t", "geo-choice", "-n", "12"]
    command += ["--tool", "noise:none=0.5:search", "-o", "out"]
    done = fireact(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for said in ("per question", "searches", "why wrong", "geo-hop: type", "3-hop", "geo-hop under noise:"):
        assert said in done.stdout
    assert "EM " in done.stderr and "24 of 24" in done.stderr
    again = fireact(*command, "--json", cwd=tmp_path)
    printed = json.loads(again.stdout)
    assert printed == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {"by", "failures", "recovery", "tools", "accuracy", "cost_per_question"} <= set(
        printed["results"]["geo-hop"]
    )


def test_a_run_of_an_earlier_version_is_printed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fireact.terminal.evaluation import print_evaluation

    old = summarise_trajectories([trajectory(at) for at in range(3)]).to_dict()
    for name in ("accuracy", "searches", "cost_per_question", "by", "failures", "recovery", "tools"):
        del old[name]
    print_evaluation({"description": "old", "agent": "old", "results": {"small": old}}, tmp_path, as_json=False)
    assert "small" in capsys.readouterr().out


def test_an_agent_that_cannot_be_prompted_so_is_refused(tmp_path: Path) -> None:
    """More examples than a task has are refused; where no number is given, it is prompted with those that it has."""
    with pytest.raises(ConfigError, match="0 few-shot examples"):
        measured(tmp_path, tasks=[f"{__name__}:Small"], tools=[f"{__name__}:echo"], examples=3)
    manifest = measured(tmp_path, tasks=[f"{__name__}:Small"], tools=[f"{__name__}:echo"])
    assert manifest["results"][Small().name]["tools"] == {"search": 1.0}


class Failing(Small):
    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        raise RuntimeError("boom")


an_instance, nothing_of_a_task = Small(), object()


def test_a_task_and_a_model_may_be_given_as_themselves(tmp_path: Path) -> None:
    own = {"tasks": [f"{__name__}:an_instance"], "examples": 0, "tools": [f"{__name__}:echo"]}
    assert measured(tmp_path / "a", f"{__name__}:LOOKING", **own)["results"]["small"]["n"] == 2
    for wrong, said in (
        ({"tasks": [f"{__name__}:nothing_of_a_task"]}, "task .* without name"),
        ({"agent": f"{__name__}:an_instance"}, "model .* without complete"),
    ):
        with pytest.raises(ConfigError, match=said):
            measured(tmp_path / "b", **{**own, **wrong})


def test_a_task_that_cannot_score_is_named_with_its_question(tmp_path: Path) -> None:
    own = {"tasks": [f"{__name__}:Failing"], "examples": 0, "tools": [f"{__name__}:echo"]}
    with pytest.raises(
        ConfigError, match=r"task small cannot score the answer 'yes' to its question '.+' \(RuntimeError: boom\)"
    ):
        measured(tmp_path, **own)


def test_a_fine_tuned_agent_has_the_whole_prompt_of_a_method_or_none() -> None:
    tuned, task = Model(lm=fake_lm(), tuned=True, description=""), load_task("geo-hop")
    shown, prompted = (
        build_agent(replace(tuned, tuned=kind), task, method="cot", tools={}, examples=3).method
        for kind in (True, False)
    )
    assert isinstance(shown, CoT) and isinstance(prompted, CoT) and shown.instructions
    assert (shown.instructions, shown.examples) == (prompted.instructions, prompted.examples)
    alone = build_agent(tuned, task, method="react", tools={}).method
    assert isinstance(alone, ReAct) and not alone.instructions and not alone.examples
    for method in ("cot", "io"):
        with pytest.raises(ConfigError, match="would be ignored"):
            build_agent(tuned, task, method=method, tools={})
