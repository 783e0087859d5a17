"""A typed function as a tool, and the limits around every tool that an agent is given."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from fakes import GOOD, Echo, agent, episodes
from fireact.errors import ConfigError, ToolError
from fireact.methods.react import execute_action
from fireact.render.react import ReActRenderer
from fireact.rollout.collection import tool_fingerprints
from fireact.rollout.episodes import run_episode
from fireact.rollout.loading import load_tools
from fireact.tools.function import FunctionTool
from fireact.tools.guard import MAX_CHARS, GuardedTool, guard_tool
from fireact.types import Observation, Tool


def weather(
    city: str,
    days: int = 1,
    unit: Literal["C", "F"] = "C",
    places: list[str] | None = None,
    options: dict[str, float] | None = None,
    exact: bool = False,
) -> str:
    """Tells the weather
    of a city.

    It is always fine.

    Args:
        city: its name,
            in English
        days (int): how many

    Returns:
        a sentence
    """
    return f"{city} {days!r} {unit} {places} {options} {exact}"


def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number


def joined(words: list[str]) -> str:
    """Joins words."""
    return "+".join(words)


def shadows(schema: str, model_config: str, json: int = 1) -> str:
    """Has parameters named like parts of a pydantic model."""
    return f"{schema} {model_config} {json}"


def now() -> str:
    """Tells the time."""
    return "noon"


def undocumented(city: str) -> str:
    return city


class Thing: ...


def odd(thing: Thing) -> str:
    """Takes what no JSON can hold."""
    return str(thing)


def echo() -> Echo:
    return Echo()


def nothing() -> int:
    return 3


def test_name_description_and_schema_come_from_the_function() -> None:
    tool = FunctionTool(weather)
    assert (tool.name, tool.description) == ("weather", "Tells the weather of a city.")
    properties = tool.parameters["properties"]
    assert properties["city"] == {"type": "string", "description": "its name, in English"}
    assert properties["days"] == {"type": "integer", "description": "how many", "default": 1}
    assert properties["unit"] == {"type": "string", "enum": ["C", "F"], "default": "C"}
    assert properties["places"]["anyOf"][0] == {"type": "array", "items": {"type": "string"}}
    assert tool.parameters["required"] == ["city"] and tool.parameters["type"] == "object"


def test_arguments_are_given_their_types() -> None:
    tool = FunctionTool(weather)
    assert tool(city="3") == "3 1 C None None False"
    assert tool(city="Oslo", days="2", unit="F", places='["a", "b"]', options='{"x": 1}', exact="true") == (
        "Oslo 2 F ['a', 'b'] {'x': 1.0} True"
    )
    assert FunctionTool(double)(number="21") == "42"
    assert FunctionTool(shadows)(schema="a", model_config="b", json="2") == "a b 2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "weather: city is missing."),
        ({"city": "Oslo", "days": "many"}, "days: input should be a valid integer.*many"),
        ({"city": "Oslo", "unit": "K"}, "unit: input should be 'C' or 'F', not \"K\""),
        ({"city": "Oslo", "places": "a, b"}, "places: input should be a valid list"),
        ({"city": "Oslo", "days": "x", "exact": "perhaps"}, "days: .*; exact: "),
        ({"city": "Oslo", "county": "x"}, "it takes no county"),
    ],
)
def test_what_does_not_fit_is_told_to_the_agent(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolError, match=message):
        FunctionTool(weather)(**arguments)


def test_functions_are_wrapped_and_factories_are_called() -> None:
    module = __name__
    specs = [f"{module}:{name}" for name in ("weather", "double", "now", "echo")]
    tools = load_tools(specs)
    assert list(tools) == ["weather", "double", "now", "search"]
    assert tools["now"]() == "noon" and tools["search"](query="x") == "You said x."
    assert load_tools([f"{module}:Echo"])["search"](query="x") == "You said x."
    assert len(set(tool_fingerprints(tools).values())) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [("undocumented", "no docstring"), ("odd", "Annotate its parameters"), ("nothing", "which is not a tool")],
)
def test_what_cannot_be_a_tool_says_why(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_tools([f"{__name__}:{name}"])


@pytest.mark.parametrize(
    ("text", "observation"),
    [
        ("Action: double[ 21]", "42"),
        ('Action: double[{"number": 4}]', "8"),
        (
            "Action: double[few]",
            'double: number: input should be a valid integer, unable to parse string as an integer, not "few".',
        ),
        ('Action: joined[["a", "b"]]', "a+b"),
        ('Action: double[{"n": 4}]', "double takes number; it was given n."),
    ],
)
def test_actions_in_text_reach_the_function(text: str, observation: str) -> None:
    tools = load_tools([f"{__name__}:double", f"{__name__}:joined"])
    assert execute_action(ReActRenderer().parse(text), tools).observation == observation


def test_a_function_from_the_users_own_module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent('''
            from __future__ import annotations

            def shout(text: str) -> str:
                """Says it loudly."""
                return text.upper()
        ''')
    )
    code = "from fireact.rollout.loading import load_tools; print(load_tools(['mine:shout'])['shout'](text='hm'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "HM\n"


@dataclass
class Odd:
    """A tool that does one of several things that tools do."""

    does: str
    name: str = "search"
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"properties": {"query": {}}, "required": ["query"]})
    fingerprint: str = "odd 1"

    def for_episode(self, key: str, seed: int) -> Tool:
        return replace(self, does=f"say {key} {seed}") if self.does == "fine" else self

    def __call__(self, **arguments: Any) -> str:
        if self.does == "hang":
            time.sleep(20)
        if self.does == "refuse":
            raise ToolError("there is no such page")
        if self.does == "break":
            raise OSError("the tool is down")
        return Observation("x" * 5000, "duplicated") if self.does == "much" else self.does


def test_an_error_of_the_agent_is_an_observation_and_a_fault_of_the_tool_ends_the_episode() -> None:
    (episode,) = episodes(1)

    def run(does: str, **limits: Any) -> Any:
        tools = {"search": guard_tool(Odd(does), **limits)}
        return run_episode(replace(episode, agent=replace(agent(*GOOD), tools=tools)))

    refused = run("refuse")
    assert (refused.stop, refused.steps[0].observation) == ("finish", "there is no such page")
    broken = run("break")
    assert (broken.stop, broken.scores, broken.error) == ("error", {}, "OSError: the tool is down")
    started = time.perf_counter()
    hung = run("hang", seconds=0.1)
    assert (hung.stop, hung.scores) == ("error", {}) and "longer than 0.1 s" in hung.error
    assert time.perf_counter() - started < 5


def test_long_observations_are_cut_with_a_note_and_keep_their_noise() -> None:
    said = guard_tool(Odd("much"))(query="x")
    assert said == "x" * MAX_CHARS + " [cut: 1000 more characters were left out]"
    assert isinstance(said, Observation) and said.noise == "duplicated"
    assert guard_tool(Odd("fine"))(query="x") == "fine"


def test_a_guard_is_otherwise_the_tool() -> None:
    tool = guard_tool(Odd("fine"))
    assert (tool.name, tool.parameters, tool.fingerprint) == ("search", Odd("").parameters, "odd 1")
    assert guard_tool(tool, max_chars=10).fingerprint == "odd 1 30s 10 characters"
    assert not isinstance(guard_tool(tool).tool, GuardedTool)
    assert tool.for_episode("small/1", 7)(query="x") == "say small/1 7"
    assert guard_tool(Echo()).fingerprint == "" and guard_tool(Echo()).for_episode("k", 0)(query="x") == "You said x."


async def tide(harbour: str) -> str:
    """Looks up the tide."""
    await asyncio.sleep(0.01)
    return f"{harbour}: 2.1 metres"


async def tides(harbour: str) -> AsyncIterator[str]:
    """Looks up two tides."""
    for height in (2.1, 0.6):
        await asyncio.sleep(0)
        yield f"{harbour}: {height} metres"


def lines(harbour: str) -> Iterator[Any]:
    """Lists the tides."""
    yield {"harbour": harbour}
    yield Path("a")


@dataclass
class Tide:
    metres: float
    day: datetime.date


def facts(harbour: str) -> Any:
    """A dataclass."""
    return [Tide(2.1, datetime.date(2026, 1, 2)), np.array([1, 2]), {"harbour"}, float("nan")]


@pytest.mark.parametrize(
    ("function", "observation"),
    [
        (tide, "Oban: 2.1 metres"), (tides, "Oban: 2.1 metres\nOban: 0.6 metres"),
        (lines, '[{"harbour": "Oban"}, "a"]'),
        (facts, '[{"metres": 2.1, "day": "2026-01-02"}, [1, 2], ["harbour"], NaN]'),
    ],
)  # fmt: skip
def test_async_functions_and_generators_run_and_values_become_json(function: Any, observation: str) -> None:
    assert guard_tool(FunctionTool(function))(harbour="Oban") == observation
    assert guard_tool(Returning(lambda: function("Oban")))(query="x") == observation


@dataclass
class Returning:
    """A tool of the user's own that returns anything."""

    make: Any
    name: str = "odd"
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, **arguments: Any) -> Any:
        return self.make()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (object, "builtins.object"), (lambda: [{"a": object()}], "builtins.object"), (lambda: len, "builtin_function"),
        (lambda: dataclass, "builtins.function"), (lambda: [tide("x")], "builtins.coroutine"),
        (lambda: itertools.count(), "more than 10,000 values"), (lambda: threading.Lock(), "_thread.lock"),
    ],
)  # fmt: skip
def test_an_object_that_is_no_observation_is_refused_by_name(make: Any, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"the tool odd .*{kind}"):
        guard_tool(Returning(make))(query="x")
