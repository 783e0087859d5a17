"""Opening a run or an agent of somebody else runs nothing and sends no key, and one's own runs go on as before."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fireact.base.foreign_names import find_foreign_names
from fireact.base.run_directory import RunDir
from fireact.base.verbs import resume
from fireact.errors import ConfigError, DataError
from fireact.models.fake_endpoint import FakeEndpoint
from fireact.rollout.agents import load_agent
from fireact.rollout.collection import CollectConfig, collect
from fireact.rollout.loading import load_renderer
from fireact.rollout.models import load_model
from fireact.rollout.students import tuned_renderer, tuned_tools
from fireact.training.train import TrainConfig

MODULE = '''
from pathlib import Path
Path({mark!r}).touch()


def shout(text: str) -> str:
    """Shouts."""
    return text.upper()
'''


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREACT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("settings", "foreign"),
    [
        ({"tools": ["mcp:sh -c 'touch x'"]}, ["mcp:sh -c 'touch x'"]),
        ({"tools": ["noise:none=0.2:mcp:sh", "noise:none=0.2:search"]}, ["noise:none=0.2:mcp:sh"]),
        ({"plan": {"tasks.mine:Task/react": 3}}, ["tasks.mine:Task"]),
        ({"plan": {"geo-hop/own.methods:Method": 3}}, ["own.methods:Method"]),
        ({"recipe": {"renderer": "evil:R"}}, ["evil:R"]),
        ({"teacher": "openai:m@http://evil.example/v1"}, ["openai:m@http://evil.example/v1"]),
        ({"teacher": "openai:m@https://api.openai.com.evil.example/v1"}, ["openai:m@https://api.openai.com.evil.example/v1"]),
        ({"teacher": "openai:gpt-4o", "agent": "openai:m@https://api.together.xyz/v1", "x": "hf:a/b"}, []),
        ({"teacher": "openai:m@http://127.0.0.1:8000/v1", "data": "runs/a.jsonl:question,answer", "n": 3}, []),
        ({"tools": ["evil-mod:make", "pkg.json:make", " sp:make", "fireact:base", "evil:make/x"]},
         ["evil-mod:make", "pkg.json:make", " sp:make", "fireact:base", "evil:make/x", "evil:make"]),
        ({"plan": {"pkg.json:make/react": 1, "geo-hop/pkg.json:make": 1, "/a/b.csv:q,a/react": 1}}, ["pkg.json:make"]),
        ({"data": "pkg.json:make", "at": "https://h:80/v1", "values": {"data": "q.csv:q", "name": "e:m"}}, ["e:m"]),
        ({"tasks": ["q.jsonl:question", "hotpotqa:dev"], "tools": ["search:PATH", "snippets:runs/x"], "b": "5usd"}, []),
    ],
)  # fmt: skip
def test_names_that_run_code_or_get_a_key_are_told_from_others(settings: dict[str, Any], foreign: list[str]) -> None:
    assert find_foreign_names(settings) == foreign


def test_a_run_of_somebody_else_is_not_resumed_and_one_s_own_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "shouting.py").write_text(MODULE.format(mark=str(tmp_path / "RAN")))
    config = CollectConfig({"geo-hop/react": 2}, tools=("search", "shouting:shout"))
    collect(config, tmp_path / "own")
    (tmp_path / "own" / "manifest.json").unlink()
    shutil.copytree(tmp_path / "own", tmp_path / "moved")
    assert resume(tmp_path / "moved")["counts"]["geo-hop/react"]["n"] == 2
    (tmp_path / "RAN").unlink()
    shutil.copytree(tmp_path / "own", tmp_path / "theirs")
    shutil.rmtree(tmp_path / "cache")  # another machine
    with pytest.raises(DataError, match=r"theirs names 'shouting:shout', which would run code .*command that made"):
        resume(tmp_path / "theirs")
    assert not (tmp_path / "RAN").exists()
    collect(config, tmp_path / "theirs")  # the user gives the names
    (tmp_path / "theirs" / "manifest.json").unlink()
    assert resume(tmp_path / "theirs")["verb"] == "collect"


@pytest.mark.parametrize("module", ["evil-mod", "pkg.json", " sp"])
def test_odd_names_of_modules_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / f"{module.replace('.', '/')}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(MODULE.format(mark=str(tmp_path / "RAN")))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.toml").write_text(
        f'verb = "collect"\nteacher = "{module}:shout"\n[plan]\n"geo-hop/react" = 1\n'
    )
    with pytest.raises(DataError, match="would run code"):
        resume(tmp_path / "theirs")
    with pytest.raises(DataError, match="would run code"):
        tuned_renderer(agent_of_somebody_else(tmp_path / "agent", tmp_path / "x", renderer=f"{module}:shout"))
    (tmp_path / "agent" / "config.toml").write_text(f'verb = "train"\ntools = ["{module}:shout"]\n')
    with pytest.raises(DataError, match="would run code"):
        load_agent(str(tmp_path / "agent"), "geo-hop", None, slots=1)
    assert not (tmp_path / "RAN").exists()


def test_a_study_s_own_file_is_read_for_names_too(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text('title = "Two: one"\n[shared]\ntools = ["evil:make"]\n[axes]\nbase = [{label = "a: b"}]\n')
    assert find_foreign_names({"study": str(study), "values": {"teacher": "bad:m"}}) == ["evil:make", "bad:m"]


@pytest.mark.parametrize("spec", ["search:make", "mcp:make", "geo-hop:make"])
def test_the_name_of_a_plug_in_is_never_a_module(spec: str) -> None:
    with pytest.raises(ConfigError, match="the name of a plug-in that is no renderer"):
        load_renderer(spec)


def agent_of_somebody_else(path: Path, mark: Path, **manifest: Any) -> Path:
    path.mkdir()
    (path / "config.toml").write_text(f'verb = "train"\ntools = ["mcp:sh -c \'touch {mark}\'"]\n')
    facts = {"verb": "train", "student": "org/tiny", "adapter_sha256": "0" * 64, "renderer": "tool_calls", **manifest}
    (path / "manifest.json").write_text(json.dumps(facts))
    return path


def test_an_agent_of_somebody_else_starts_no_program(tmp_path: Path) -> None:
    mark = tmp_path / "RAN"
    agent = agent_of_somebody_else(tmp_path / "agent", mark)
    with pytest.raises(DataError, match=r"names \"mcp:sh .*name it yourself: --tool NAME"):
        tuned_tools(agent)
    assert load_model(str(agent)).tools == (f"mcp:sh -c 'touch {mark}'",), "it is named, and not started"
    with pytest.raises(DataError, match="name it yourself"):
        load_agent(str(agent), "geo-hop", None, slots=1)
    assert list(load_agent(str(agent), "geo-hop", ["search"], slots=1).tools) == ["search"] and not mark.exists()
    with pytest.raises(DataError, match="names 'evil:Renderer', which would run code"):
        tuned_renderer(agent_of_somebody_else(tmp_path / "second", mark, renderer="evil:Renderer"))
    with pytest.raises(DataError, match=r"has None as its 'student'; it must be a text"):
        load_model(str(agent_of_somebody_else(tmp_path / "third", mark, student=None)))


def test_a_hosted_agent_of_somebody_else_gets_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-nobody")
    (tmp_path / "config.toml").write_text('verb = "tune"\n')
    (tmp_path / "manifest.json").write_text('{"verb": "tune", "agent": "openai:m@http://evil.example/v1"}')
    with pytest.raises(DataError, match=r"get a key.* -a openai:m@http://evil\.example/v1"):
        load_model(str(tmp_path))
    with FakeEndpoint(lambda request: "yes") as served:
        (tmp_path / "manifest.json").write_text(json.dumps({"verb": "tune", "agent": f"openai:fake@{served.url}"}))
        assert load_model(str(tmp_path)).tuned


def test_what_a_run_writes_at_its_end_is_its_own_user_s(tmp_path: Path) -> None:
    settings = TrainConfig(str(tmp_path))
    with RunDir(tmp_path / "run", verb="train", settings=settings) as run:
        run.finish(renderer="own_module:Renderer", student="tiny")
    assert tuned_renderer(tmp_path / "run") == "own_module:Renderer"
