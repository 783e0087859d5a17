"""A student is trained with a renderer and run with the same; samples are shown and written as they are trained."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fireact.base import jsonl
from fireact.base.progress import Progress
from fireact.base.run_directory import read_manifest
from fireact.cli import app
from fireact.errors import ConfigError, DataError
from fireact.rollout.agents import build_agent
from fireact.rollout.loading import load_tools
from fireact.rollout.models import load_model
from fireact.types import Action, Call, Example, Step, Trajectory, Usage

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from fakes import Echo, Small  # noqa: E402
from fireact.methods.react import FinishTool  # noqa: E402
from fireact.models.weights import load_tokenizer  # noqa: E402
from fireact.render.tokens import prompt_ids  # noqa: E402
from fireact.rollout.episodes import MeteredLM  # noqa: E402
from fireact.training.recipe import Recipe  # noqa: E402
from fireact.training.samples import Encoder, Rendering, load_tool_schemas, render_trajectory  # noqa: E402  # noqa: E402
from fireact.training.student import load_student  # noqa: E402
from fireact.training.train import TrainConfig, train  # noqa: E402
from fireact.wire.schemas import tool_schema  # noqa: E402
from small_tokenizers import TEMPLATES  # noqa: E402
from tiny import tiny_model  # noqa: E402

RECIPE = Recipe(rank=4, alpha=8, blocks=2, epochs=1, batch_size=4, learning_rate=0.02)
RENDERERS = ("react", "tool_calls", "alpaca")


def echo() -> Echo:
    return Echo()


def episode(index: int) -> Trajectory:
    look = Step("look", Action("search", {"query": f"{index}"}), "it is written", "")
    done = Step("so", Action("finish", {"answer": f"{index}"}), None, "")
    example = Example(str(index), f"Question {index}?", f"{index}")
    return Trajectory("t", example, "react", "m", 0, (look, done), "finish", {"em": 1.0, "f1": 1.0}, Usage(), 0.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("renderers")
    tiny_model(folder / "student", layers=3, hidden=32)
    tiny_model(folder / "rewriting", layers=3, hidden=32)
    thinker = (TEMPLATES / "thinker.jinja").read_text().replace("<|end|>", "<|im_end|>").replace("{{- bos_token }}", "")
    (folder / "rewriting" / "chat_template.jinja").write_text(thinker)
    jsonl.write_objects(folder / "data.jsonl", (episode(index).to_dict() for index in range(6)))
    return folder


def config(place: Path, renderer: str, student: str = "student") -> TrainConfig:
    return TrainConfig(
        data=str(place / "data.jsonl"),
        student=str(place / student),
        recipe=RECIPE,
        renderer=renderer,
        tools=("test_renderers_train:echo",),
    )


@pytest.fixture(scope="module")
def run_of(place: Path) -> Callable[..., Path]:
    """Trains a student with a renderer, once for each pair, and returns the run directory."""

    def run_of(renderer: str, student: str = "student") -> Path:
        out = place / f"{renderer}-{student}"
        train(config(place, renderer, student), out)  # a complete run is not trained again
        return out

    return run_of


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_student_is_run_with_the_renderer_it_was_trained_with(
    renderer: str, place: Path, run_of: Callable[..., Path]
) -> None:
    settings, out = config(place, renderer), run_of(renderer)
    manifest = read_manifest(out)
    assert (manifest["renderer"], manifest["rewritten"], manifest["samples"]) == (renderer, 0, 6)
    model = load_model(str(out), slots=1)
    tools = load_tools(settings.tools)
    agent = build_agent(model, Small(), method="react", tools=tools)
    assert model.renderer == renderer and agent.method.renderer.name == renderer  # type: ignore[attr-defined]
    heard = Asked(model.lm)
    next(iter(agent.method.run("Question 0?", MeteredLM(replace(agent, lm=heard)), tools, 0)))
    begin = heard.prompts[0]
    encoder, renders = Encoder(*load_tokenizer(settings.student), agent.method.renderer), agent.method.renderer  # type: ignore[attr-defined]
    (sample,) = encoder.encode_chat(
        render_trajectory(episode(0), renders, tools=load_tool_schemas(renders, settings.tools))
    )
    assert list(sample.input_ids[: len(begin)]) == begin
    model.close()


@pytest.mark.parametrize(
    ("renderer", "student"), [*((renderer, "student") for renderer in RENDERERS), ("react", "rewriting")]
)
def test_what_is_served_is_what_was_trained(renderer: str, student: str, run_of: Callable[..., Path]) -> None:
    from fireact.serving.conformance import check_conformance

    out = str(run_of(renderer, student))
    found = check_conformance(out, prompts=2)
    assert found.holds and (found.turns, found.prompts) == (12, 2)
    if renderer == "tool_calls":  # with other tools it is asked what it never saw
        other = check_conformance(out, tools=("search",), prompts=1)
        assert not other.holds and other.equal == 0 and len(other.unequal) == 5


def test_what_was_left_out_as_too_long_is_not_compared(place: Path, tmp_path: Path) -> None:
    from fireact.serving.conformance import check_conformance

    wordy = replace(episode(7), steps=(replace(episode(7).steps[0], observation="word " * 900), episode(7).steps[1]))
    jsonl.write_objects(tmp_path / "data.jsonl", [one.to_dict() for one in (episode(0), wordy)])
    manifest = train(replace(config(place, "react"), data=str(tmp_path / "data.jsonl")), tmp_path / "train")
    found = check_conformance(str(tmp_path / "train"), prompts=4)
    assert manifest["dropped"] == 1 and found.holds and (found.turns, found.prompts) == (2, 2)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_call_that_was_not_answered_is_asked_as_it_was_trained(renderer: str, place: Path, tmp_path: Path) -> None:
    from fireact.serving.conformance import check_conformance

    one = episode(0)
    silent = replace(one, steps=(replace(one.steps[0], observation=None), one.steps[1]))
    jsonl.write_objects(tmp_path / "data.jsonl", [silent.to_dict()])
    train(replace(config(place, renderer), data=str(tmp_path / "data.jsonl")), tmp_path / "train")
    found = check_conformance(str(tmp_path / "train"), prompts=1)
    assert found.holds and found.turns == 2


def test_preference_and_serving_show_the_tools_that_were_trained_with(
    run_of: Callable[..., Path], tmp_path: Path
) -> None:
    from fireact.rollout.students import tuned_tools
    from fireact.serving.conformance import check_conformance
    from fireact.training.preference import PreferConfig, prefer

    run = run_of("tool_calls")
    tries = [replace(episode(at), scores={"em": em, "f1": em}, seed=int(em)) for at in range(4) for em in (0.0, 1.0)]
    jsonl.write_objects(tmp_path / "tries.jsonl", [one.to_dict() for one in tries])
    for name, start in (("dpo", run), ("dpo-of-dpo", tmp_path / "dpo")):
        settings = PreferConfig(data=str(tmp_path / "tries.jsonl"), start=str(start), epochs=1)
        prefer(settings, tmp_path / name)
        assert tuned_tools(tmp_path / name) == ("test_renderers_train:echo",)
    found = check_conformance(str(tmp_path / "dpo-of-dpo"), prompts=1)
    assert found.holds and found.turns == 16
    assert load_model(str(tmp_path / "dpo")).tools == ("test_renderers_train:echo",)


def test_weights_without_an_adapter_have_no_answers_to_compare(place: Path, tmp_path: Path) -> None:
    from fireact.serving.conformance import check_conformance

    full = replace(config(place, "react"), recipe=replace(RECIPE, kind="full"))
    train(full, tmp_path / "train")
    found = check_conformance(str(tmp_path / "train"))
    assert found.holds and (found.prompts, found.differing) == (0, 0)


class Asked:
    """Passes on what it is asked, and keeps the ids that the model is given."""

    def __init__(self, lm: Any) -> None:
        self.lm, self.name = lm, lm.name
        self.prompts: list[list[int]] = []

    def complete(self, call: Call) -> Any:
        done = self.lm.complete(replace(call, max_tokens=4))
        shown = [tool_schema(tool) for tool in call.tools]
        self.prompts.append(prompt_ids(call.messages, self.lm._load().tokenizer, tools=shown))
        assert done.usage.prompt_tokens == len(self.prompts[-1])
        return done


def test_native_is_refused_for_a_student_of_text(run_of: Callable[..., Path]) -> None:
    model = load_model(str(run_of("react")), slots=1)
    with pytest.raises(ConfigError, match="trained with the renderer react"):
        build_agent(model, Small(), method="react", tools={}, native=True)


def test_a_template_that_rewrites_is_said_once_and_in_the_manifest(place: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Listen(Progress):
        def say(self, line: str) -> None:
            said.append(line)

    manifest = train(config(place, "react", "rewriting"), tmp_path / "train", progress=Listen())
    assert (manifest["samples"], manifest["rewritten"]) == (12, 6)
    assert [line for line in said if "one sample a step" in line] == said


def test_the_tokenizer_alone_knows_where_turns_end(place: Path) -> None:
    _, _, ends = load_student(str(place / "student"))
    assert load_tokenizer(str(place / "student"))[1] == ends
    (place / "student" / "generation_config.json").rename(place / "kept.json")
    try:
        assert load_tokenizer(str(place / "student"))[1] == ends
    finally:
        (place / "kept.json").rename(place / "student" / "generation_config.json")


def test_tools_of_an_imported_episode_go_before_those_of_the_run(place: Path) -> None:
    from fireact.render.tool_calls import ToolCallsRenderer

    own = [{"type": "function", "function": {"name": "look", "description": "looks", "parameters": {}}}]
    chat = render_trajectory(replace(episode(0), meta={"tools": own}), ToolCallsRenderer(), tools=[tool_schema(Echo())])
    assert [*chat.tools] == [*own, tool_schema(FinishTool())]  # as inference offers them


# --- the command ---


def test_the_tools_of_a_training_are_those_of_its_data(place: Path, tmp_path: Path) -> None:
    """Nobody gets the search of the embedded world for data of another."""
    foreign, ours = tmp_path / "foreign.jsonl", tmp_path / "ours.jsonl"
    trajectory = replace(episode(0), task="capitals")
    jsonl.write_objects(foreign, [trajectory.to_dict()])
    jsonl.write_objects(ours, [replace(trajectory, task="geo-hop").to_dict()])
    collected, evaluated, mixed = (tmp_path / verb for verb in ("collected", "evaluated", "mixed"))
    for run_path, settings in (
        (collected, 'verb = "collect"\ntools = ["noise:empty=0.5:wikipedia", "mcp:server"]\n'),
        (evaluated, 'verb = "eval"\ntools = ["noise:none=0.5:recorded:/runs/a"]\n'),
        (mixed, f'verb = "mix"\nsources = ["{collected}"]\n'),
    ):
        run_path.mkdir()
        (run_path / "config.toml").write_text(settings)
    expected = ((foreign, ()), (ours, ("search",)), (collected, ("wikipedia",)), (mixed, ("wikipedia",)))
    for data, tools in (*expected, (evaluated, ("recorded:/runs/a",))):
        assert TrainConfig(str(data)).tools == tools, data
    assert TrainConfig(str(collected), tools=["search"]).tools == ("search",)
    with pytest.raises(
        ConfigError, match=r"calls search, and neither the data nor its runs name the tools. Give --tool"
    ):
        Rendering(foreign, renderer="tool_calls").write(tmp_path / "out.jsonl", "messages")


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["render", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_peek_shows_what_is_trained(place: Path) -> None:
    data, student = str(place / "data.jsonl"), str(place / "student")
    text = run(data, "--student", student, "--peek", "2")
    assert text.count("tokens,") == 2 and "Question 1?" in text and "Question 2?" not in text
    rows = [json.loads(line) for line in run(data, "--student", student, "--peek", "2", "--json").splitlines()]
    assert [row["key"] for row in rows] == ["t/0/react/0", "t/1/react/0"]
    own = [text for text, trained in rows[0]["spans"] if trained]
    assert own == ["Thought: look\nAction: search[ 0]<|im_end|>", "Thought: so\nAction: finish[ 0]<|im_end|>"]
    assert rows[0]["share"] == pytest.approx(rows[0]["trained"] / rows[0]["tokens"], abs=1e-4)
    parts = [json.loads(line) for line in run(data, "--student", str(place / "rewriting"), "--json").splitlines()]
    assert [(row["part"], row["parts"]) for row in parts] == [(1, 2), (2, 2), (1, 2)]


def test_tokens_and_messages_are_written_for_other_trainers(place: Path, tmp_path: Path) -> None:
    data, student = str(place / "data.jsonl"), str(place / "student")
    for renderer in RENDERERS:
        out = tmp_path / f"{renderer}.jsonl"
        options = ["--student", student, "--renderer", renderer, "--tool", "test_renderers_train:echo"]
        counts = json.loads(run(data, *options, "-o", str(out), "--json"))
        rows = list(jsonl.read_objects(out))
        assert counts["samples"] == counts["trajectories"] == len(rows) == 6
        assert counts["tokens"] == sum(len(row["input_ids"]) for row in rows)
        assert counts["trained"] == sum(label != -100 for row in rows for label in row["labels"])
    assert "6 samples of 6 trajectories" in run(data, "--student", student, "-o", str(tmp_path / "again.jsonl"))
    run(data, "--renderer", "tool_calls", "-o", str(out), "--form", "messages", "--tool", "test_renderers_train:echo")
    first = next(iter(jsonl.read_objects(out)))
    assert [message["train"] for message in first["messages"]] == [False, True, False, True]
    assert [tool["function"]["name"] for tool in first["tools"]] == ["search", "finish"]
    with pytest.raises(ConfigError, match=r"unknown form 'text'. Known: messages, tokens"):
        Rendering(place / "data.jsonl").write(out, "text")


@pytest.mark.parametrize("data", ["data.jsonl", "run"])
def test_what_is_rendered_is_not_written_over(data: str, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl" if data == "data.jsonl" else tmp_path / data / "trajectories.jsonl"
    file.parent.mkdir(exist_ok=True)
    jsonl.write_objects(file, [episode(0).to_dict()])
    (tmp_path / "link").symlink_to(file)
    before = file.read_bytes()
    for out in (file, tmp_path / "link"):
        with pytest.raises(ConfigError, match="is what is rendered"):
            Rendering(tmp_path / data).write(out, "messages")
    assert file.read_bytes() == before


def test_lines_that_cannot_be_read_are_left_out_only_where_it_is_asked_for(place: Path, tmp_path: Path) -> None:
    whole = (place / "data.jsonl").read_text().splitlines()
    (tmp_path / "torn.jsonl").write_text("\n".join([whole[0], '{"task": "t', whole[1]]) + "\n")
    data, student, out = str(tmp_path / "torn.jsonl"), str(place / "student"), str(tmp_path / "out.jsonl")
    for arguments in ([], ["-o", out]):
        with pytest.raises(DataError, match="line 2: not JSON"):
            run(data, "--student", student, *arguments)
    assert run(data, "--student", student, "--skip-bad").count("tokens,") == 2
    counts = json.loads(run(data, "--student", student, "--skip-bad", "-o", out, "--json"))
    assert (counts["samples"], counts["skipped"]) == (2, 1)
