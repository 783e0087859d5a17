"""The scripted expert: right most of the time, wrong as often as it says, without state, and useful to learn from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from fireact.base.jsonl import dumps
from fireact.base.run_directory import read_trajectories
from fireact.errors import ConfigError
from fireact.methods.cot import CoT
from fireact.methods.react import ReAct
from fireact.methods.reflexion import Reflexion
from fireact.models.expert_replies import fit_value
from fireact.models.scripted import (
    BAD_QUERY_SHARE,
    FAILED,
    STRUGGLE_SHARE,
    WRONG_ANSWER_SHARE,
    WRONG_RECALL_SHARE,
    Expert,
    ExpertProgress,
    from_name,
    list_queries,
    observation_holds,
    write_few_shot,
)
from fireact.render.react import ReActRenderer
from fireact.rollout.collection import CollectConfig, collect
from fireact.rollout.episodes import Agent, Episode, run_episode
from fireact.tasks.geo import GeoTask, geo_choice, geo_compose, geo_hop, geo_yesno
from fireact.tools.search import build_geo_search
from fireact.types import Action, Call, Message, Method, ReplyForm, Tool, Trajectory
from fireact.wire.reasoning import unwrap_reasoning
from fireact.wire.schemas import ClientTool, make_schema
from fireact.wire.text_calls import find_calls
from fireact.world.questions import WorldMeta

SEARCH = build_geo_search()
TOOLS: Mapping[str, Tool] = {"search": SEARCH}
TASKS = {task.name: task for task in (geo_hop(), geo_yesno(), geo_choice(), geo_compose())}
METHODS: Mapping[str, Method] = {
    "react": ReAct(),
    "cot": CoT(instructions="Answer without searching."),
    "reflexion": Reflexion(reflect_at=(3, 6)),
}


@cache
def episodes(task_name: str, method: str, n: int = 200) -> Sequence[Trajectory]:
    task: GeoTask = TASKS[task_name]
    agent = Agent(lm=Expert(), method=METHODS[method], tools=TOOLS, limits=task.limits)
    chosen = task.examples(task.splits[0] if len(task.splits) == 3 else "test")[:n]
    return [run_episode(Episode(task, example, agent)) for example in chosen]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TASKS)
def test_it_ends_every_episode_and_is_wrong_as_often_as_it_says(task: str, method: str) -> None:
    found = episodes(task, method)
    assert {one.stop for one in found} == {"finish"}
    wrong = sum(one.scores["em"] < 1 for one in found) / len(found)
    share = WRONG_RECALL_SHARE if method == "cot" else WRONG_ANSWER_SHARE
    assert abs(wrong - share) < 4 * (share * (1 - share) / len(found)) ** 0.5


@pytest.mark.parametrize("task", TASKS)
def test_it_searches_badly_as_often_as_it_says_and_recovers(task: str) -> None:
    found = episodes(task, "react")
    detours = [one for one in found if len(one.steps) > one.example.meta["hops"] + 1]
    share = BAD_QUERY_SHARE + STRUGGLE_SHARE
    assert abs(len(detours) / len(found) - share) < 4 * (share * (1 - share) / len(found)) ** 0.5
    assert any(one.scores["em"] == 1 for one in detours)
    assert any(len(one.steps) == one.example.meta["hops"] + 4 for one in detours)


@pytest.mark.parametrize("task", TASKS)
def test_it_uses_only_what_was_observed(task: str) -> None:
    for one in episodes(task, "react"):
        seen = [step.observation or "" for step in one.steps]
        assert all(
            any(observation_holds(text, fact) for text in seen) for fact in WorldMeta.from_example(one.example).facts
        )


def test_a_reflection_changes_what_follows() -> None:
    openings = {text.split("{")[0] for text in FAILED}
    found = [
        (one, s) for t in TASKS for one in episodes(t, "reflexion") for s in zip(one.steps, one.steps[1:], strict=False)
    ]
    recoveries = [after for _, (_, after) in found if any(after.thought.startswith(text) for text in openings)]
    assert len(recoveries) > 20
    for step in recoveries:
        assert step.action is not None and step.observation is not None
        assert not step.observation.startswith("No results")
    reflexion, react = (
        [len(one.steps) for t in TASKS for one in episodes(t, method)] for method in ("reflexion", "react")
    )
    assert sum(reflexion) < sum(react)


def test_thoughts_are_short_and_trajectories_fit_the_budget() -> None:
    for task in TASKS:
        thoughts = [len(step.thought.split()) for one in episodes(task, "react") for step in one.steps]
        assert sum(thoughts) / len(thoughts) < 20 and max(thoughts) < 40
        text = [sum(len(step.text.split()) for step in one.steps) for one in episodes(task, "react")]
        assert sum(text) / len(text) < 100


def test_it_varies_its_words() -> None:
    fact = WorldMeta.from_example(geo_hop().examples("train")[0]).facts[0]
    assert len(set(list_queries(fact))) >= 3
    first = {one.steps[0].thought.split(" the ")[0] for one in episodes("geo-hop", "react")}
    assert len(first) >= 3


def test_a_reply_depends_on_messages_and_seed_alone() -> None:
    prompts = [ReActRenderer().prompt(example.question) for example in geo_hop().examples("test")]
    expert = Expert()
    once = [expert.complete(Call(prompt, seed=3)).text for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert (
            list(pool.map(lambda prompt: Expert().complete(Call(prompt, seed=3)).text, reversed(prompts))) == once[::-1]
        )
    assert [expert.complete(Call(prompt, seed=4)).text for prompt in prompts] != once


def test_it_reads_past_few_shot_examples() -> None:
    question = geo_hop().examples("test")[0].question
    shown = [Message("user", "What is x?"), Message("assistant", "Thought: x\nAction: finish[x]")]
    plain = ReActRenderer().prompt(question)
    assert (
        Expert().complete(Call([Message("system", "Answer."), *shown, *plain])).text
        == Expert().complete(Call(plain)).text
    )


@pytest.mark.parametrize("messages", [[], [Message("user", "How old is the Moon?")]])
def test_it_says_when_it_does_not_know_the_question(messages: list[Message]) -> None:
    completion = Expert().complete(Call(messages))
    assert completion.text == "Thought: I was not taught this question.\nAction: finish[unknown]"
    assert completion.usage.calls == 1 and completion.usage.completion_tokens == len(completion.text.split())


def test_its_name_is_checked() -> None:
    assert from_name("expert").name == "scripted:expert"
    with pytest.raises(ConfigError, match="scripted:expert"):
        from_name("expret")


@pytest.mark.parametrize("form", ["react", "cot"])
@pytest.mark.parametrize("task", TASKS)
def test_the_few_shot_examples_are_what_the_expert_does_today(task: str, form: str) -> None:
    """After a change of the world, write them again: ``python tests/test_scripted.py``."""
    text = files("fireact").joinpath("prompts", f"{task}.{form}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows == write_few_shot(task, form, SEARCH) and len(rows) == 3
    train = {
        example.question
        for name in ("geo-hop", task)
        if name != "geo-compose"
        for example in TASKS[name].examples("train")
    }
    for row in rows:
        assert row["question"] in train
        assert [step["observation"] for step in row["steps"][:-1]] == [
            SEARCH(**s["action"]["arguments"]) for s in row["steps"][:-1]
        ]
        assert row["steps"][-1]["action"]["name"] == "finish" and row["steps"][-1]["observation"] is None


if __name__ == "__main__":
    for name in TASKS:
        for kind in ("react", "cot"):
            path = Path(str(files("fireact").joinpath("prompts", f"{name}.{kind}.jsonl")))
            path.write_text("".join(f"{dumps(row)}\n" for row in write_few_shot(name, kind, SEARCH)), encoding="utf-8")


def test_it_makes_native_calls_of_whatever_tool_searches_and_ends() -> None:
    example = next(e for e in geo_hop().examples("test") if not ExpertProgress(e, (), 0).wrong)
    lookup = ClientTool(make_schema("lookup", "", text_argument("words")))
    ending = ClientTool(make_schema("final_result", "", text_argument("response")))
    messages = [Message("system", "You answer."), Message("user", example.question)]
    completion = Expert().complete(Call(messages, tools=[ending, lookup]))
    (_, action), *later = find_calls(completion.text)
    assert action.name == "lookup" and list(action.arguments) == ["words"] and later == []
    for _ in range(6):
        observation = build_geo_search()(query=action.arguments["words"])
        messages += [Message("assistant", "", calls=(action,)), Message("tool", observation, name="lookup")]
        ((_, action),) = find_calls(Expert().complete(Call(messages, tools=[ending, lookup])).text)
        if action.name != "lookup":
            break
    assert action == Action("final_result", {"response": example.answer})
    last = unwrap_reasoning(Expert().complete(Call(messages, tools=[lookup])).text)
    assert last is not None and last[0].endswith(f"The answer is {example.answer}.")
    assert last[1] == action.arguments["response"]  # an agent without an ending gets the answer as its last words
    with pytest.raises(ConfigError, match="needs a tool that takes a text"):
        Expert().complete(Call(messages[:2], tools=[ClientTool(make_schema("now", "", {"type": "object"}))]))


def text_argument(name: str) -> dict[str, Any]:
    properties = {"limit": {"type": "integer"}, name: {"type": "string"}}
    return {"type": "object", "properties": properties, "required": [name]}


def test_episodes_with_native_calls_are_those_in_text(tmp_path: Path) -> None:
    plan = {"geo-hop/react": 12}
    for native in (False, True):
        collect(CollectConfig(plan=plan, native=native), tmp_path / str(native))
    text, calls = (list(read_trajectories(tmp_path / str(native))) for native in (False, True))
    assert [one.answer for one in calls] == [one.answer for one in text]
    assert [[step.action for step in one.steps] for one in calls] == [
        [step.action for step in one.steps] for one in text
    ]


def test_it_answers_in_the_form_that_is_asked_for() -> None:
    example = next(e for e in geo_hop().examples("test") if not ExpertProgress(e, (), 0).wrong)
    lookup = ClientTool(make_schema("lookup", "", {**text_argument("words"), "required": ["words", "limit"]}))
    fields = {
        "reason": {"type": "string"}, "level": {"enum": ["high", "low"]}, "answer": {"type": "string"},
        "sure": {"$ref": "#/$defs/Sure"}, "note": {"type": "string"},
    }  # fmt: skip
    schema = {
        "type": "object", "properties": fields, "required": ["reason", "level", "sure"],
        "$defs": {"Sure": {"type": "number", "minimum": 1}},
    }  # fmt: skip
    ending = ClientTool(make_schema("Reply", "", schema))  # an output tool of any name, where no text is taken
    messages = [Message("system", "You answer."), Message("user", f"New task:\n{example.question}")]

    def complete(form: ReplyForm, tools: tuple[ClientTool, ...] = (lookup, ending)) -> str:
        return Expert().complete(Call(messages, tools=tools, form=form)).text

    forced = ReplyForm(("lookup", "Reply"), text=False)
    ((_, action),) = find_calls(complete(forced))
    assert list(action.arguments) == ["words", "limit"] and action.arguments["limit"] == 1
    ((_, unread),) = find_calls(complete(ReplyForm(("Reply",), text=False)))
    assert unread.arguments["answer"] == "unknown"  # nothing is observed, and nothing else may be called
    assert "<tool_call>" not in complete(ReplyForm())  # no call is allowed
    recalled = json.loads(complete(ReplyForm(json_schema=schema), ()))
    assert recalled["answer"] == example.answer and recalled["level"] == "high" and recalled["sure"] == 1.0
    while action.name == "lookup":
        observation = build_geo_search()(query=action.arguments["words"])
        messages += [Message("assistant", "", calls=(action,)), Message("tool", observation, name="lookup")]
        ((_, action),) = find_calls(complete(forced))
    assert action.name == "Reply" and list(action.arguments) == ["answer", "reason", "level", "sure"]
    assert action.arguments["answer"] == example.answer and "The answer is" in action.arguments["reason"]
    assert json.loads(complete(ReplyForm(("lookup",), json_schema=schema), (lookup,))) == action.arguments


@pytest.mark.parametrize(("opening", "closing"), [("<code>", "</code>"), ("```python", "```")])
def test_it_acts_in_code_where_the_prompt_asks_for_it(opening: str, closing: str) -> None:
    example = next(e for e in geo_hop().examples("test") if not ExpertProgress(e, (), 0).wrong)
    functions = "def final_answer(answer: any) -> any:\n  def find(query: str) -> str:"
    system = f"Write code from {opening} to {closing}, with:\n  {functions}"
    messages = [Message("system", system), Message("user", f"New task:\n{example.question}")]
    printed: list[str] = []
    answers: list[str] = []
    for _ in range(8):
        text = Expert().complete(Call(messages, stop=["Observation:"])).text
        assert text.startswith("Thought: ") and text.count(opening) == 1 and text.endswith(closing)
        code = text.partition(opening)[2].removesuffix(closing)
        exec(code, {"find": build_geo_search(), "print": printed.append, "final_answer": answers.append})
        if answers:
            break
        messages += [Message("assistant", text), Message("user", f"Observation:\nExecution logs:\n{printed[-1]}")]
    assert answers == [example.answer] and printed


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, "1,200 people", 1200),
        ({"type": "number", "minimum": 2}, "many", 2.0),
        ({"type": "boolean"}, "yes", True),
        ({"enum": [1, 2]}, "x", 1),
        ({"const": "c"}, "x", "c"),
        ({"type": "array", "items": {"type": "string"}}, "x", ["x"]),
        ({"type": ["string", "null"]}, "x", "x"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, "x", None),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, "x", {"a": "x"}),
        ({"$ref": "#/$defs/gone"}, "x", "x"),
        ({"type": "string", "default": "d"}, "", "d"),
        (True, "x", "x"),
    ],
)
def test_values_fit_their_schemas(schema: Any, text: str, value: Any) -> None:
    assert fit_value(schema, text, {}) == value
