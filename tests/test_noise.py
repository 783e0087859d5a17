"""``noise:``: seeded, paired by question, never leaking between episodes, and never read as an action."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import Echo, Small
from fireact.base import names
from fireact.base.run_directory import read_trajectories
from fireact.errors import ConfigError
from fireact.methods.react import ReAct
from fireact.methods.reflexion import Reflexion
from fireact.models.replies import Replies
from fireact.rollout.collection import CollectConfig, collect
from fireact.rollout.episodes import Agent, Episode, run_episode, run_episodes
from fireact.rollout.loading import load_tools
from fireact.tools.noise import (
    INJECTIONS,
    KINDS,
    TIMED_OUT,
    NoisyTool,
    disturb_tool,
    from_name,
    parse_noise,
)
from fireact.tools.wrapper import make_episode_tool
from fireact.types import Limits, Method, Observation, Tool, Trajectory

ALL = ",".join(f"{kind}=0.1" for kind in KINDS)


@dataclass(frozen=True)
class Library(Echo):
    """Echo with other queries to ask."""

    sample_queries: Sequence[str] = ("red apple", "green apple", "old house", "new house", "Rome")


def library() -> Library:
    return Library()


def several() -> list[Tool]:
    return [Library(name="one"), Library(name="two")]


def noisy(settings: str, tool: Tool | None = None) -> NoisyTool:
    return disturb_tool(tool or Library(), parse_noise(settings))


def calls(tool: Tool, n: int, *, key: str = "small/1", seed: int = 0) -> list[str]:
    own = make_episode_tool(tool, key, seed)
    return [own(query=f"red house {number}, built 1850") for number in range(n)]


def marks(said: Sequence[str]) -> list[str | None]:
    return [getattr(text, "noise", None) for text in said]


def test_rates_are_those_that_were_asked_for() -> None:
    tool = noisy("none=0.2,random=0.1,injection=0.05")
    found = Counter(mark for key in range(2000) for mark in marks(calls(tool, 5, key=f"small/{key}")))
    for kind, rate in {"none": 0.2, "random": 0.1, "injection": 0.05, None: 0.65}.items():
        assert abs(found[kind] / 10_000 - rate) < 4 * (rate * (1 - rate) / 10_000) ** 0.5
    assert set(found) == {"none", "random", "injection", None}


def test_never_and_always_are_exact() -> None:
    assert set(marks(calls(noisy("none=0"), 500))) == {None}
    assert set(marks(calls(noisy("none=1"), 500))) == {"none"}
    assert set(marks(calls(noisy("none=0.5,timeout=0.5"), 500))) == {"none", "timeout"}


def test_more_noise_disturbs_the_same_calls_and_more() -> None:
    for kinds in (("none", "none"), ("none", "injection")):
        less, more = (marks(calls(noisy(f"{kind}={p}"), 500)) for kind, p in zip(kinds, (0.2, 0.5), strict=True))
        assert all(high is not None for low, high in zip(less, more, strict=True) if low is not None)
        assert sum(mark is not None for mark in less) < sum(mark is not None for mark in more)


def test_seeds_keys_and_names_draw_apart() -> None:
    base = marks(calls(noisy("none=0.5"), 64))
    others = [
        calls(noisy("none=0.5,seed=1"), 64),
        calls(noisy("none=0.5"), 64, seed=1),
        calls(noisy("none=0.5"), 64, key="small/2"),
        calls(noisy("none=0.5", Library(name="find")), 64),
    ]
    assert all(marks(said) != base for said in others)
    assert marks(calls(noisy("none=0.5"), 64)) == base


@pytest.mark.parametrize("kind", list(KINDS))
@given(text=st.text(max_size=80), key=st.text(max_size=8))
def test_every_kind_takes_every_text(kind: str, text: str, key: str) -> None:
    tool = noisy(f"{kind}=1")
    first, again = ([make_episode_tool(tool, key, 0)(query=text) for _ in range(2)] for _ in range(2))
    assert first == again and marks(first) == [kind] * 2


def said(kind: str, query: str = "red house in 1850, of 12,500 people", n: int = 20) -> list[str]:
    return [make_episode_tool(noisy(f"{kind}=1"), f"k{number}", 0)(query=query) for number in range(n)]


TRUE = "You said red house in 1850, of 12,500 people."


def test_what_each_kind_says() -> None:
    assert set(said("none")) == {"None"} and set(said("timeout")) == {TIMED_OUT}
    others = {f"You said {query}." for query in Library().sample_queries}
    assert set(said("random")) == others
    assert set(said("wrong_page", "an old house")) == {"You said old house."}
    assert set(said("wrong_page")) == {f"You said {word}." for word in ("red apple", "old house", "new house")}
    assert all(TRUE.startswith(text) and text != TRUE for text in said("truncated"))
    assert len(set(said("truncated"))) > 5
    assert set(said("duplicated")) == {f"{TRUE} {TRUE}"}
    assert all(text.startswith(TRUE) and text.removeprefix(f"{TRUE} ") in INJECTIONS for text in said("injection"))
    assert len(set(said("injection"))) == len(INJECTIONS)
    assert len({text[0] for text in said("malformed")}) == 3 and TRUE not in said("malformed")


def test_stale_says_what_was_some_time_ago() -> None:
    for text in said("stale"):
        match = re.fullmatch(r"You said red house in (\d{4}), of ([\d,]+) people\.", text)
        assert match and int(match[1]) < 1850 and 9000 < int(match[2].replace(",", "")) < 12_500
    assert all(re.fullmatch(r"As of 20\d\d: You said Rome\.", text) for text in said("stale", "Rome"))


def test_random_and_wrong_page_are_never_of_the_query_itself() -> None:
    for kind in ("random", "wrong_page"):
        assert "You said Rome." not in said(kind, "rome", 50)


def test_duplicated_repeats_what_the_episode_was_shown_last() -> None:
    tool = make_episode_tool(noisy("duplicated=0.5"), "k", 0)
    shown = [tool(query=str(number)) for number in range(40)]
    repeated = [at for at, mark in enumerate(marks(shown)) if mark and at]
    assert repeated and all(shown[at] == shown[at - 1] for at in repeated)


def test_episodes_share_nothing() -> None:
    tool = noisy(ALL)
    alone = {key: calls(tool, 12, key=key) for key in map(str, range(40))}
    open_ones = {key: make_episode_tool(tool, key, 0) for key in alone}
    mixed: dict[str, list[str]] = {key: [] for key in alone}
    for number in range(12):
        for key, own in open_ones.items():
            mixed[key].append(own(query=f"red house {number}, built 1850"))
    assert mixed == alone
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda key: calls(tool, 12, key=key), alone)) == list(alone.values())


LOOKS = [f"Thought: {number}\nAction: search[red house {number}]" for number in range(5)] + ["Action: finish[a]"]


def played(method: Method, spec: str, *, lm: str = "m", seed: int = 0, n: int = 30) -> dict[str, Trajectory]:
    tools = {"search": noisy(spec)}
    agent = Agent(lm=Replies(LOOKS, name=lm), method=method, tools=tools, limits=Limits(max_steps=8))
    task = Small()
    episodes = [Episode(task=task, example=example, agent=agent, seed=seed) for example in task.examples("dev")[:n]]
    return {done.example.id: done for done in run_episodes(episodes, workers=8)}


def noise(found: Mapping[str, Trajectory]) -> dict[str, list[tuple[str | None, str | None]]]:
    return {key: [(step.noise, step.observation) for step in done.steps] for key, done in found.items()}


def test_methods_and_models_meet_the_same_noise_on_the_same_question() -> None:
    base = noise(played(ReAct(), ALL))
    assert noise(played(Reflexion(reflect_at=(3,)), ALL)) == base
    assert noise(played(ReAct(), ALL, lm="other")) == base
    assert noise(played(ReAct(), ALL, seed=1)) != base
    assert len({str(row) for row in base.values()}) > 20, "questions are disturbed alike"


def test_marked_steps_survive_saving() -> None:
    for done in played(ReAct(), ALL).values():
        back = Trajectory.from_dict(done.to_dict())
        assert back == done and all(type(step.observation) is str for step in done.steps[:-1])
        assert all(
            ("noise" in row) == (step.noise is not None)
            for row, step in zip(done.to_dict()["steps"], done.steps, strict=True)
        )
    assert any(step.noise for done in played(ReAct(), ALL).values() for step in done.steps)


def test_an_injected_action_is_never_taken() -> None:
    for method in (ReAct(), Reflexion(reflect_at=(3,))):
        for done in played(method, "injection=1").values():
            assert [step.action.name for step in done.steps if step.action] == ["search"] * 5 + ["finish"]
            assert done.answer == "a" and done.stop == "finish" and done.scores["em"] == 1
            assert all(step.noise == "injection" for step in done.steps[:-1])
    assert any("Action: finish[" in text for text in INJECTIONS)


def test_a_fault_of_the_tool_stays_a_fault() -> None:
    agent = Agent(lm=Replies(["Action: search[broken]"]), method=ReAct(), tools={"search": noisy("injection=1")})
    done = run_episode(Episode(task=Small(), example=Small().examples("dev")[0], agent=agent))
    assert done.stop == "error" and "the tool is down" in (done.error or "")


def test_none_and_timeout_do_not_call_the_tool() -> None:
    assert marks([make_episode_tool(noisy(f"{kind}=1"), "k", 0)(query="broken") for kind in ("none", "timeout")]) == [
        "none",
        "timeout",
    ]


def test_specs_wrap_any_tool_and_each_of_several() -> None:
    (one,) = from_name("none=0.5,seed=3:test_noise:library")
    assert isinstance(one, NoisyTool) and one.name == "search" and one.settings.seed == 3
    assert list(load_tools(["noise:none=0.5:test_noise:several"])) == ["one", "two"]
    assert "noise" in names.known_names("tool")


def test_search_answers_with_its_own_pages() -> None:
    (tool,) = names.build_plugin("tool", "noise:random=0.5,wrong_page=0.5:search")
    found = [make_episode_tool(tool, str(key), 0)(query="Economy of Norway") for key in range(20)]
    assert all(": " in text and not text.startswith("Economy of Norway") for text in found)
    assert any(
        text.startswith("Economy of ") for text, mark in zip(found, marks(found), strict=True) if mark == "wrong_page"
    )


def test_tools_without_other_queries_take_them_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"random on 'search' needs other queries.*queries=FILE"):
        noisy("random=0.5", Echo())
    assert noisy("random=0", Echo()).pool is None
    (tmp_path / "queries.txt").write_text("Lima\n\n Oslo \n")
    tool = noisy(f"random=1,queries={tmp_path / 'queries.txt'}", Echo())
    assert set(calls(tool, 30)) == {"You said Lima.", "You said Oslo."}
    (tmp_path / "queries.txt").write_text("Lima\nParis")
    assert noisy(f"random=1,queries={tmp_path / 'queries.txt'}", Echo()).fingerprint != tool.fingerprint


@dataclass(frozen=True)
class Numbers(Echo):
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"properties": {"x": {"type": "integer"}}})
    sample_queries: Sequence[str] = ("a", "b")


def test_a_tool_that_takes_no_text_has_no_random_query() -> None:
    with pytest.raises(ConfigError, match="takes no text"):
        noisy("random=0.5", Numbers())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none=0.5", "names no tool"),
        (":search", "unknown kind of noise"),
        ("nothing=0.5:search", "unknown kind of noise 'nothing'"),
        ("none=1.5:search", "from 0 to 1"),
        ("none=nan:search", "from 0 to 1"),
        ("none:search", "from 0 to 1"),
        ("none=0.6,random=0.5:search", "sum to 1.1"),
        ("seed=1:search", "sum to 0"),
        ("none=0.1,none=0.2:search", "twice"),
        ("none=0.1,seed=x:search", "whole number"),
        ("random=0.1,queries=/no/such/file:search", "cannot read"),
        ("none=0.1:noise:none=0.1:search", "already"),
        ("none=0.1:nonesuch", "unknown tool"),
    ],
)
def test_wrong_settings_are_said(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_name(spec)


@given(st.text(max_size=40))
def test_every_setting_is_read_or_refused(text: str) -> None:
    try:
        settings = parse_noise(text)
    except ConfigError:
        return
    assert 0 <= sum(settings.probabilities.values()) <= 1 + 1e-9


def test_a_noisy_tool_belongs_to_an_episode() -> None:
    with pytest.raises(ConfigError, match="for_episode"):
        noisy("none=0.5")(query="x")
    own = make_episode_tool(noisy("none=1"), "k", 0)
    assert isinstance(own(query="x"), Observation) and own.name == "search"
    echo = Echo()
    assert make_episode_tool(echo, "k", 0) is echo


def test_the_fingerprint_names_noise_and_tool() -> None:
    search = names.build_plugin("tool", "search")
    prints = [
        disturb_tool(search, parse_noise(text)).fingerprint
        for text in ("none=0.5", "none=0.4", "timeout=0.5", "none=0.5,seed=1")
    ]
    assert len(set(prints)) == 4 and all(text.endswith(search.fingerprint) for text in prints)


def test_training_data_is_collected_under_noise(tmp_path: Path) -> None:
    plan = {"geo-hop/react": 6, "geo-hop/reflexion": 6}
    manifest = collect(CollectConfig(plan=plan, tools=("noise:none=0.3:search",)), tmp_path / "run")
    assert manifest["tools"]["search"].startswith("noise-1:none=0.3,seed=0:")
    steps = [step for done in read_trajectories(tmp_path / "run") for step in done.steps]
    assert {step.noise for step in steps} == {None, "none"}
    assert all((step.observation == "None") == (step.noise == "none") for step in steps)


def test_calls_from_many_threads_of_one_episode_are_all_counted() -> None:
    own, found = make_episode_tool(noisy("none=0.5"), "k", 0), []
    threads = [threading.Thread(target=lambda: found.extend(own(query="x") for _ in range(50))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = Counter(marks(calls(noisy("none=0.5"), 400, key="k")))
    assert Counter(marks(found)) == expected
