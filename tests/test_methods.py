"""Methods: what they ask, how they repair, text and native calls alike, and a method of the user's own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fakes import GOOD, LIMITS, Echo, Small, episodes
from fireact.cli import app
from fireact.methods.cot import CoT
from fireact.methods.io import IO
from fireact.methods.react import ReAct
from fireact.methods.reflexion import Reflexion
from fireact.models.replies import Replies
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.rollout.episodes import Agent, run_episode
from fireact.types import Action, Call, Completion, Step, Trajectory


def run(lm: Any, method: Any) -> Trajectory:
    agent = Agent(lm=lm, method=method, tools={"search": Echo()}, limits=LIMITS)
    return run_episode(replace(episodes(1)[0], agent=agent))


class Sequential:
    """Gives its replies one after the other, and keeps what it was asked."""

    def __init__(self, *replies: Any) -> None:
        self.name, self.replies = "sequential", replies
        self.asked: list[Call] = []

    def complete(self, call: Call) -> Completion:
        self.asked.append(call)
        reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
        return Replies([reply]).complete(call)


def test_a_completion_without_an_action_is_asked_for_again() -> None:
    lm = Sequential("I wonder", "still", *GOOD)
    done = run(lm, ReAct(repairs=5))
    assert [step.repairs for step in done.steps] == [2, 0] and done.stop == "finish" and done.usage.calls == 4
    seeds = [call.seed for call in lm.asked]
    temperatures = [call.temperature for call in lm.asked]
    assert seeds == [0, 1, 2, 0] and temperatures[0] == temperatures[3] == 0.0 and min(temperatures[1:3]) > 0


def test_at_last_the_action_alone_is_asked_for() -> None:
    lm = Sequential("I wonder\nmore", *["hm"] * 3, "search[x]", GOOD[1])
    done = run(lm, ReAct(repairs=3))
    assert done.steps[0].repairs == 4 and done.steps[0].thought == "I wonder"
    assert done.steps[0].action == Action("search", {"query": "x"}) and done.steps[0].observation == "You said x."
    assert lm.asked[4].messages[-2].content == "Thought: I wonder"


def test_a_lost_case_stays_without_an_action_and_repairs_can_be_turned_off() -> None:
    done = run(Sequential("no", "no", "", GOOD[1]), ReAct(repairs=1))
    assert done.steps[0].action is None and done.steps[0].repairs == 2 and done.stop == "finish"
    off = run(Sequential("no", GOOD[1]), ReAct())
    assert off.steps[0].repairs == 0 and off.usage.calls == 2


@pytest.mark.parametrize("method", [CoT(repairs=2), IO(repairs=2), Reflexion(repairs=2)], ids=lambda one: one.name)
def test_every_method_repairs(method: Any) -> None:
    done = run(Sequential("hm", "Thought: so\nAction: finish[a]"), method)
    assert done.stop == "finish" and done.steps[0].repairs == 1 and done.scores["em"] == 1.0


def test_io_has_no_thought_in_prompt_or_step() -> None:
    example = ("Which?", (Step("because", Action("finish", {"answer": "this"}), None, ""),))
    lm = Sequential("Thought: hm\nAction: finish[a]")
    done = run(lm, IO(instructions="Answer.", examples=[example]))
    assert done.steps[0].thought == "" and done.answer == "a" and done.method == "io"
    assert [message.content for message in lm.asked[0].messages] == [
        "Answer.", "Which?", "Action: finish[ this]", "Question 0?",
    ]  # fmt: skip


def native(words: str, **arguments: str) -> tuple[str, tuple[Action, ...]]:
    return words, (Action("finish" if "answer" in arguments else "search", arguments),)


def test_native_calls_and_text_give_the_same_trajectory() -> None:
    text = run(Sequential(*GOOD), ReAct())
    calls = run(Sequential(native("look", query="x"), native("done", answer="a")), ReAct(renderer=ToolCallsRenderer()))
    for one, other in zip(text.steps, calls.steps, strict=True):
        assert (one.thought, one.action, one.observation) == (other.thought, other.action, other.observation)
    assert (text.method, text.stop, text.scores) == (calls.method, calls.stop, calls.scores)


def test_native_calls_are_offered_tools_and_shown_what_they_said() -> None:
    lm = Sequential(native("look", query="x"), native("done", answer="a"))
    run(lm, ReAct(renderer=ToolCallsRenderer()))
    assert [tool.name for tool in lm.asked[0].tools] == ["search", "finish"]
    _, turn, said = lm.asked[1].messages
    assert (turn.content, turn.calls) == ("look", (Action("search", {"query": "x"}),))
    assert (said.role, said.name, said.content) == ("tool", "search", "You said x.")


def test_several_calls_in_one_turn_are_joined_steps() -> None:
    both = ("look twice", (Action("search", {"query": "x"}), Action("search", {"query": "y"})))
    lm = Sequential(both, native("done", answer="a"))
    done = run(lm, ReAct(renderer=ToolCallsRenderer()))
    assert [step.joined for step in done.steps] == [False, True, False]
    assert [step.observation for step in done.steps] == ["You said x.", "You said y.", None]
    assert [message.role for message in lm.asked[1].messages] == ["user", "assistant", "tool", "tool"]


def test_reflexion_reflects_over_native_calls() -> None:
    lm = Sequential(native("look", query="x"), "Reflection: I asked too little.", native("done", answer="a"))
    done = run(lm, Reflexion(renderer=ToolCallsRenderer(), reflect_at=(2,)))
    assert done.steps[1].thought == "I asked too little. done" and done.stop == "finish"
    assert lm.asked[1].messages[-1].role == "user" and lm.asked[1].messages[-1].content.startswith("Reflect:")


OWN = '''
from dataclasses import dataclass
from fireact import Call
from fireact.methods.react import execute_action
from fireact.render.react import STOP, ReActRenderer


@dataclass(frozen=True)
class SearchFirst:
    """Looks the question itself up, then answers."""

    instructions: str = ""
    examples: tuple = ()
    repairs: int = 0
    name: str = "search-first"

    def run(self, question, lm, tools, seed):
        renderer = ReActRenderer()
        steps = [execute_action(renderer.parse(f"Thought: Look it up.\\\\nAction: search[{question}]"), tools)]
        yield steps[0]
        yield renderer.parse(lm.complete(Call(renderer.prompt(question, steps), stop=STOP, seed=seed)).text)
'''.replace("\\\\n", "\\n")


def test_a_method_of_the_users_own_works_by_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(OWN.strip().splitlines()) <= 20
    (tmp_path / "own_method.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    arguments = ["collect", "-t", "geo-hop", "-m", "own_method:SearchFirst", "-n", "3", "-o", "run"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "trajectories.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        first = row["steps"][0]
        assert row["method"] == "search-first" and first["action"]["arguments"]["query"] == row["example"]["question"]
        assert first["observation"]


def test_the_gold_answer_never_reaches_a_method() -> None:
    lm = Sequential("Thought: x\nAction: search[q]", "Reflection: hm", "Thought: x\nAction: search[q]")
    gold = "the-gold-answer"
    episode = replace(episodes(1)[0], task=Small(), example=replace(episodes(1)[0].example, answer=gold))
    agent = Agent(lm=lm, method=Reflexion(reflect_at=(2, 3)), tools={"search": Echo()}, limits=LIMITS)
    run_episode(replace(episode, agent=agent))
    assert len(lm.asked) == 6
    assert not any(gold in message.content for call in lm.asked for message in call.messages)


def test_several_parameters_are_shown_as_the_json_that_is_wanted() -> None:
    from fireact.render.prompts import method_instructions

    add = replace(Echo(), name="add", parameters={"properties": {"a": {}, "b": {}}})
    shown = method_instructions("react", {"add": add, "search": Echo()})
    assert '- add[{"a": ..., "b": ...}]: ' in shown and "- search[query]: " in shown
