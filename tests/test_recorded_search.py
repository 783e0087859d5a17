"""Search answered from a recorded run: the same query gets its answer, any other the one that fits best."""

import json
from pathlib import Path

import pytest

from fireact.base import jsonl
from fireact.errors import ConfigError, DataError
from fireact.rollout.loading import load_tools
from fireact.tools.recorded import RecordedSearch, from_name
from fireact.types import Action, Example, Step, Trajectory, Usage

ANSWERS = {
    "capital of Norway": "Oslo is the capital of Norway.",
    "Capital  of norway": "a later answer to the same query",
    "ferries from Kiel": "Ferries leave Kiel for Oslo every day.",
    "height of Mount Nowhere": "None",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREACT_CACHE", str(tmp_path / "cache"))


def trajectory(**searches: str) -> Trajectory:
    steps = tuple(Step("", Action("search", {"query": query}), said, "") for query, said in searches.items())
    other = Step("", Action("lookup", {"query": "capital"}), "not a search", "")
    return Trajectory("t", Example("1", "q", "a"), "react", "m", 0, (*steps, other), "finish", {}, Usage(), 0.0)


def test_a_recorded_query_gets_its_own_first_answer() -> None:
    tool = RecordedSearch(ANSWERS)
    assert tool(query="Capital of  Norway") == "Oslo is the capital of Norway."
    assert tool(query="height of mount nowhere") == "None"
    assert tool.is_recorded("ferries from kiel") and not tool.is_recorded("ferries")


def test_any_other_query_gets_what_fits_best_and_never_an_empty_answer() -> None:
    tool = RecordedSearch(ANSWERS)
    assert tool(query="which ferries leave Kiel?") == ANSWERS["ferries from Kiel"]
    assert tool(query="Mount Nowhere") == "No results found for 'Mount Nowhere'."
    assert "None" not in {tool(query=f"{word} Norway") for word in ("height", "mount")}


def test_a_file_of_trajectories_is_a_tool_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    jsonl.write_objects(path, [trajectory(**{"who was first": "George"}).to_dict()])
    (tool,) = load_tools([f"snippets:{path}"]).values()
    assert tool.name == "search" and tool(query="Who was first") == "George"
    assert tool(query="capital") == "No results found for 'capital'."
    other = tmp_path / "other.jsonl"
    jsonl.write_objects(other, [trajectory(**{"who was first": "John"}).to_dict()])
    assert from_name(str(other)).fingerprint != tool.fingerprint  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["{}", '{"1": {"traj": "x", "gt": "y"}}'])
def test_a_file_that_is_no_run_is_refused_in_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError):
        from_name(str(tmp_path / "run.json"))
    (tmp_path / "run.jsonl").write_text(json.dumps({"task": "t"}) + "\n")
    with pytest.raises(DataError, match="line 1: not a trajectory"):
        from_name(str(tmp_path / "run.jsonl"))
    with pytest.raises(ConfigError, match="snippets:FILE"):
        from_name(str(tmp_path / "absent.json"))


def test_the_released_run_answers_its_own_queries(shared_data: Path) -> None:
    (path,) = (shared_data / "fireact" / "trajs").glob("*.json")
    tool = from_name(str(path))
    said = tool(query="who created the show with Wendy Schaal doing the voice of Francine")
    assert "Seth MacFarlane" in said
    assert "MacFarlane" in tool(query="Wendy Schaal voice of Francine creator")
