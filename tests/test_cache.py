"""Calls by content: recorded once, replayed exactly, whatever asks for them."""

import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fakes import Echo
from fireact.errors import ConfigError, DataError
from fireact.rollout.call_cache import CallCache, load_replayed_lm
from fireact.rollout.collection import CollectConfig, collect
from fireact.types import LM, Action, Call, Completion, Message, Observation, Tool, Usage

ASKED = [Message("user", "Why?")]


@dataclass
class Counting:
    """An LM that counts how often it is called, takes its time, and can be held back."""

    name: str = "counting"
    calls: list[str] = field(default_factory=list)
    seconds: float = 0.0
    held: Mapping[str, threading.Event] = field(default_factory=dict)

    def complete(self, call: Call) -> Completion:
        text = call.messages[-1].content
        self.calls.append(text)
        time.sleep(self.seconds)
        if text in self.held:
            assert self.held[text].wait(600)
        usage = Usage(1, 2, 1, 3, None)
        text += f" {call.stop} {call.max_tokens} {call.temperature or 0.0} {call.seed} {call.tools}"
        return Completion(text, usage, "stop", 0.25, (Action("f", {"x": [1, "é"]}),))


def test_a_call_is_made_once_and_comes_back_exactly(tmp_path: Path) -> None:
    lm = Counting()
    first = CallCache(tmp_path / "c").wrap_lm("spec", lambda: lm).complete(Call(ASKED, stop=("\n",), max_tokens=5))
    again = CallCache(tmp_path / "c").wrap_lm("spec", lambda: lm).complete(Call(ASKED, stop=("\n",), max_tokens=5))
    alone = (
        CallCache(tmp_path / "c", "replay")
        .wrap_lm("spec", pytest.fail)
        .complete(Call(ASKED, stop=("\n",), max_tokens=5))
    )
    assert (
        first
        == again
        == alone
        == lm.complete(Call(ASKED, stop=("\n",), max_tokens=5, temperature=0.0, seed=0, tools=()))
    )
    assert len(lm.calls) == 2


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"temperature": 0.5}, {"max_tokens": 9}, {"stop": ("x",)}, {"tools": (Echo(),)}],
    ids=lambda change: next(iter(change)),
)
def test_whatever_an_answer_depends_on_makes_another_call(change: dict[str, Any], tmp_path: Path) -> None:
    lm = Counting()
    kept = CallCache(tmp_path / "c").wrap_lm("spec", lambda: lm)
    kept.complete(Call(ASKED))
    kept.complete(Call(ASKED, **change))
    kept.complete(Call([*ASKED, Message("assistant", "", calls=(Action("f", {}),))]))
    kept.complete(Call([*ASKED, Message("assistant", "", calls=(Action("f", {"x": 1}),))]))
    CallCache(tmp_path / "c").wrap_lm("other", lambda: Counting("other", lm.calls)).complete(Call(ASKED))
    assert len(lm.calls) == 5


def test_threads_that_ask_the_same_make_one_call(tmp_path: Path) -> None:
    lm = Counting(seconds=0.05)
    kept = CallCache(tmp_path / "c").wrap_lm("spec", lambda: lm)
    with ThreadPoolExecutor(16) as pool:
        said = set(pool.map(lambda at: kept.complete(Call([Message("user", str(at % 4))])).text, range(64)))
    assert len(said) == len(lm.calls) == 4


def _ask(path: Path, start: Any) -> None:
    kept = CallCache(path).wrap_lm("spec", Counting)
    start.wait(600)
    for index in range(50):
        kept.complete(Call([Message("user", str(index))]))


def test_processes_share_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    children = [context.Process(target=_ask, args=(tmp_path / "c", start)) for _ in range(3)]
    for child in children:
        child.start()
    start.set()
    for child in children:
        child.join(600)
    assert [child.exitcode for child in children] == [0, 0, 0]
    connection = sqlite3.connect(tmp_path / "c")
    assert connection.execute("SELECT count(*) FROM calls").fetchone() == (50,)
    connection.close()


def test_a_failed_call_is_not_kept(tmp_path: Path) -> None:
    (tool,) = CallCache(tmp_path / "c").wrap_tools("echo", lambda: [Echo()])
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            tool(query="broken")
    assert tool(query="x") == "You said x."


@dataclass
class Turns:
    """A tool that counts the calls of each episode, and says what noise it made."""

    name: str = "turns"
    description: str = "counts"
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"properties": {"query": {}}})
    made: list[str] = field(default_factory=list)
    turn: int = 0

    def __call__(self, **arguments: Any) -> str:
        self.turn += 1
        self.made.append("x")
        return Observation(f"call {self.turn}", noise="none" if self.turn == 2 else None)

    def for_episode(self, key: str, seed: int) -> Tool:
        return Turns(made=self.made)


def test_a_tool_with_a_state_is_kept_by_episode_and_call(tmp_path: Path) -> None:
    tool = Turns()
    for mode in ("record", "replay"):
        (kept,) = CallCache(tmp_path / "c", mode).wrap_tools("turns", lambda: [tool])
        for key in ("a", "b"):
            own = kept.for_episode(key, 0)  # type: ignore[attr-defined]
            said = [own(query="x") for _ in range(3)]
            assert said == ["call 1", "call 2", "call 3"]
            assert [one.noise for one in said] == [None, "none", None]
    assert len(tool.made) == 6


def test_replay_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is recorded"):
        CallCache(tmp_path / "c", "replay")
    CallCache(tmp_path / "c").wrap_lm("spec", Counting).complete(Call(ASKED))
    cache = CallCache(tmp_path / "c", "replay")
    with pytest.raises(ConfigError, match="cannot be replayed"):
        cache.wrap_lm("spec", Counting).complete(Call(ASKED, seed=7))
    with pytest.raises(ConfigError, match=r"no calls of the model 'gpt'.*It has: spec"):
        cache.wrap_lm("gpt", Counting)
    with pytest.raises(ConfigError, match="Known: off, record, replay"):
        CallCache(tmp_path / "c", "maybe")
    (tmp_path / "text").write_text("this is no database, and long enough to see so " * 20)
    with pytest.raises(DataError, match="cannot keep calls"):
        CallCache(tmp_path / "text").wrap_lm("spec", Counting).complete(Call(ASKED))


def test_off_keeps_nothing(tmp_path: Path) -> None:
    lm: LM = Counting()
    assert CallCache(tmp_path / "c", "off").wrap_lm("spec", lambda: lm) is lm
    assert not (tmp_path / "c").exists()


def test_a_whole_run_is_replayed_byte_for_byte_without_its_parts(tmp_path: Path) -> None:
    plan = {"geo-hop/react": 8, "geo-choice/reflexion": 4, "geo-yesno/cot": 2}
    collect(CollectConfig(plan=plan), tmp_path / "first")
    calls = str(tmp_path / "first" / "calls.sqlite")
    collect(CollectConfig(plan=plan, calls="replay", cache=calls, workers=3), tmp_path / "second")
    by_name = CollectConfig(plan=plan, teacher=f"replay:{tmp_path / 'first'}", workers=1)
    rows = (tmp_path / "first" / "trajectories.jsonl").read_bytes()
    assert (tmp_path / "second" / "trajectories.jsonl").read_bytes() == rows
    collect(by_name, tmp_path / "third")
    assert (tmp_path / "third" / "trajectories.jsonl").read_bytes().count(b"\n") == 14
    assert load_replayed_lm(str(tmp_path / "first")).name == "scripted:expert"


def test_nothing_waits_when_an_unrelated_call_is_under_way(tmp_path: Path) -> None:
    lm = Counting(held={"Why?": threading.Event()})
    kept = CallCache(tmp_path / "c").wrap_lm("spec", lambda: lm)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(kept.complete, Call(ASKED))
        other = pool.submit(kept.complete, Call([Message("user", "else")]))
        assert other.result(600).text.startswith("else") and not slow.done()
        lm.held["Why?"].set()
        assert slow.result(600).text.startswith("Why?")


def test_noise_is_replayed_too_and_pays_for_no_call_again(tmp_path: Path) -> None:
    plan, spec = {"geo-hop/react": 6}, "noise:none=0.3,random=0.3,injection=0.2:search"
    collect(CollectConfig(plan=plan, tools=(spec,)), tmp_path / "first")
    calls = str(tmp_path / "first" / "calls.sqlite")
    collect(CollectConfig(plan=plan, tools=(spec,), calls="replay", cache=calls), tmp_path / "second")
    rows = (tmp_path / "first" / "trajectories.jsonl").read_text()
    assert (tmp_path / "second" / "trajectories.jsonl").read_text() == rows and '"noise":"' in rows
    (quiet,) = CallCache(Path(calls), "replay").wrap_tools("search", pytest.fail)
    assert quiet.name == "search"


def test_force_does_not_answer_from_calls_that_it_deletes(tmp_path: Path) -> None:
    config = CollectConfig(plan={"geo-hop/react": 2}, budget="100calls")
    collect(config, tmp_path / "run")
    collect(config, tmp_path / "run", force=True)
    assert CallCache(tmp_path / "run" / "calls.sqlite").total_usage().calls > 2
