"""A wrapper forwards every member of a tool that it does not define itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fakes import Echo
from fireact.rollout.call_cache import CallCache
from fireact.rollout.episodes import MeteredLM
from fireact.tools.guard import guard_tool
from fireact.tools.noise import disturb_tool, parse_noise
from fireact.tools.wrapper import ToolWrapper, make_episode_tool
from fireact.types import Tool


@dataclass(frozen=True)
class Session:
    """A tool with every optional member."""

    key: str = ""
    name: str = "search"
    description: str = "looks up"
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"properties": {"query": {}}})
    fingerprint: str = "session 1"
    sample_queries: tuple[str, ...] = ("red", "blue")
    keeps_time: bool = True
    closed: list[str] = field(default_factory=list)

    def for_episode(self, key: str, seed: int) -> Tool:
        return replace(self, key=f"{key} {seed}")

    def close(self) -> None:
        self.closed.append(self.key)

    def __call__(self, **arguments: Any) -> str:
        return f"{self.key}: {arguments}"


def wrap_in_each(tool: Tool, tmp_path: Path) -> dict[str, Any]:
    (cached,) = CallCache(tmp_path / "calls").wrap_tools("spec", lambda: [tool])
    return {
        "plain": ToolWrapper(tool),
        "guard": guard_tool(tool),
        "cache": cached,
        "noise": disturb_tool(tool, parse_noise("none=0.0")),
    }


@pytest.mark.parametrize("wrapper_name", ["plain", "guard", "cache", "noise"])
def test_every_wrapper_forwards_the_members_of_a_tool(wrapper_name: str, tmp_path: Path) -> None:
    session = Session()
    wrapper = wrap_in_each(session, tmp_path)[wrapper_name]
    assert (wrapper.name, wrapper.description, wrapper.parameters) == ("search", "looks up", session.parameters)
    assert wrapper.fingerprint.endswith("session 1") and wrapper.stateful
    assert wrapper.sample_queries == ("red", "blue") and wrapper.keeps_time
    assert not hasattr(wrapper, "unknown")
    episode_tool = make_episode_tool(wrapper, "k", 3)
    assert episode_tool(query="x") == "k 3: {'query': 'x'}"
    wrapper.close()
    assert session.closed == [""]


def test_a_tool_without_optional_members_is_shared_by_episodes(tmp_path: Path) -> None:
    wrappers = wrap_in_each(Echo(), tmp_path)
    for name in ("plain", "guard", "cache"):
        assert wrappers[name].fingerprint == "" and not wrappers[name].stateful
        assert make_episode_tool(wrappers[name], "k", 0) is wrappers[name]
    assert wrappers["noise"].stateful  # noise counts the calls of an episode


def test_the_tools_of_an_episode_have_all_members() -> None:
    from fakes import agent

    (timed,) = MeteredLM(replace(agent(), tools={"search": Session()})).timed_tools("k", 1).values()
    assert timed.sample_queries == ("red", "blue") and timed.fingerprint == "session 1"  # type: ignore[attr-defined]
