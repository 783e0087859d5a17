"""Students of recorded agents: what is trained is what the agent sends, token by token, and what the server encodes."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from command import fireact
from fake_tuning import FakeTuning
from fakes import Small
from fireact.base import jsonl
from fireact.base.progress import Progress
from fireact.base.run_directory import RunDir, read_config, read_manifest
from fireact.data.doctor import DoctorConfig, diagnose_data
from fireact.data.mixture import MixConfig, mix
from fireact.data.recorded_calls import find_recorded_runs, load_recorded_runs
from fireact.errors import ConfigError, DataError
from fireact.evaluation.evaluate import EvalConfig, evaluate
from fireact.hosted.tune import TuneConfig, estimate_job, tune
from fireact.methods.react import ReAct, offered_tools
from fireact.models.weights import load_tokenizer
from fireact.recording.recorder import RecordConfig, conclude, read_calls
from fireact.recording.scores import score
from fireact.render.requests import RecordedRenderer, has_prompt_of, hash_prompt
from fireact.render.tokens import IGNORED, Chat, prompt_ids
from fireact.rollout.agents import build_agent, equip_student
from fireact.rollout.loading import load_renderer, load_tools
from fireact.rollout.models import Model, load_model
from fireact.rollout.students import TrainedTool
from fireact.serving.conformance import check_conformance
from fireact.serving.export import ExportConfig, export
from fireact.serving.service import ServeConfig, _equip_served_model
from fireact.serving.wire import read_request
from fireact.training.fitting import select_fitting
from fireact.training.preference import PreferConfig, prepare_start
from fireact.training.recipe import MAX_LENGTH, Recipe
from fireact.training.samples import Encoder, Rendering
from fireact.training.train import TrainConfig, load_training_data, train
from fireact.types import Message, Trajectory
from fireact.wire.schemas import hash_schema, tool_schema
from small_tokenizers import FAMILIES, ends, tokenizer
from test_serve import Running, listening
from test_serve_tools import Writer, client_of
from test_train import RECIPE
from tiny import tiny_model

SYSTEM = {"role": "system", "content": "You are Ada. <|im_end|> Use the tools, then answer in plain text."}
POPULATION = {
    "type": "function",
    "function": {
        "name": "population", "description": "people in a country", "strict": True,
        "parameters": {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]},
    },
}  # fmt: skip
COUNTRIES = ["Chad", "Kenya", "Mali", "Togo"]


def call_message(*countries: str, text: str | None = None) -> dict[str, Any]:
    calls = [
        {
            "id": f"call_{name}",
            "type": "function",
            "function": {"name": "population", "arguments": json.dumps({"country": name})},
        }
        for name in countries
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


def result(country: str, text: str = "many") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{country}", "content": text}


def recorded_call(episode: str, messages: list[Any], reply: dict[str, Any], **changes: Any) -> dict[str, Any]:
    finish = "tool_calls" if reply.get("tool_calls") else "stop"
    body = {
        "choices": [{"index": 0, "message": reply, "finish_reason": changes.pop("finish", finish)}],
        "model": "teacher",
    }
    request = {"model": "teacher", "messages": messages, "tools": [POPULATION], **changes.pop("request", {})}
    row = {
        "episode": episode,
        "named": True,
        "at": 1.0,
        "seconds": 0.1,
        "status": 200,
        "request": request,
        "reply": body,
    }
    return {**row, **changes}


def plain_episode(country: str) -> Iterator[dict[str, Any]]:
    """An agent that keeps its history: two calls at once, then the answer; the results come in another order."""
    question = {"role": "user", "content": f"Where live more, in {country} or in Peru?"}
    messages: list[Any] = [SYSTEM, question]
    first = call_message(country, "Peru", text="Both.")
    yield recorded_call(country, messages, first)
    messages = [*messages, first, result("Peru", "33"), result(country, "17")]
    yield recorded_call(country, messages, {"role": "assistant", "content": "In Peru."})


def rewriting_episode() -> Iterator[dict[str, Any]]:
    """An agent that compacts its history: its second request does not extend the first."""
    question = {"role": "user", "content": "Where live more, in Oman or in Fiji?"}
    yield recorded_call("rewriting", [SYSTEM, question], call_message("Oman"))
    summary = {"role": "user", "content": f"{question['content']} Known so far: Oman has 5."}
    yield recorded_call("rewriting", [SYSTEM, summary], {"role": "assistant", "content": "In Oman."})


class Lines(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def record_rows(out: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """A run of ``record`` that logged these calls."""
    config = RecordConfig(upstream="http://127.0.0.1:9/v1")
    with RunDir(out, verb="record", settings=config):
        jsonl.write_objects(out / "calls.jsonl", rows)
    conclude(config, out)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "rec"
    rows = [row for country in COUNTRIES for row in plain_episode(country)] + list(rewriting_episode())
    record_rows(out, rows)
    score(out, by=lambda trajectory: 1.0)
    return out


def samples_of(run: Path, family: str) -> dict[str, list[list[int]]]:
    """The ids of the samples of each episode."""
    encoder = Encoder(tokenizer(family), ends(family), load_renderer("recorded"))
    chats = load_training_data(TrainConfig(data=str(run))).chats
    found: dict[str, list[list[int]]] = {}
    for chat in chats:
        found.setdefault(chat.key.split("/")[1], []).extend(list(s.input_ids) for s in encoder.encode_chat(chat))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_each_recorded_request_as_the_server_encodes_it_begins_a_sample(run: Path, family: str) -> None:
    """The parity property, over every template: the served ids are the prefix, and the next id is trained."""
    samples, encoder = samples_of(run, family), Encoder(tokenizer(family), ends(family))
    calls = list(read_calls(run / "calls.jsonl"))
    assert len(calls) == 10
    trained = [
        sample for chat in load_training_data(TrainConfig(data=str(run))).chats for sample in encoder.encode_chat(chat)
    ]
    for call in calls:
        served = read_request(json.dumps(call.request).encode())
        ids = prompt_ids(served.messages, tokenizer(family), tools=[tool_schema(tool) for tool in served.tools])
        assert any(sample[: len(ids)] == ids for sample in samples[call.episode]), call.request["messages"][-1]
        assert any(
            list(sample.input_ids[: len(ids)]) == ids
            and sample.labels[len(ids)] != IGNORED
            and sample.labels[len(ids) - 1] == IGNORED
            for sample in trained
        )


def test_a_conversation_is_a_sample_and_a_rewritten_history_begins_a_new_one(run: Path) -> None:
    data = load_training_data(TrainConfig(data=str(run)))
    chats = {chat.key: [other for other in data.chats if other.key == chat.key] for chat in data.chats}
    assert sorted(len(group) for group in chats.values()) == [1, 1, 1, 1, 2]
    (chat,) = chats["recorded/Chad/recorded/0"]
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert [message.train for message in chat.messages] == [False, False, True, False, False, True]
    assert [message.content for message in chat.messages[2:]] == [
        "Both.",
        "17",
        "33",
        "In Peru.",
    ]  # in the calls' order
    assert chat.tools == [POPULATION]  # as it was sent: with strict, and without a finish tool
    first, second = chats["recorded/rewriting/recorded/0"]
    assert [[message.train for message in chat.messages] for chat in (first, second)] == [[False, False, True]] * 2
    assert second.messages[1].content.endswith("Known so far: Oman has 5.")


def test_the_manifest_names_the_tools_and_the_prompt(run: Path) -> None:
    data = load_training_data(TrainConfig(data=str(run)))
    (tool,) = data.tools
    assert tool["name"] == "population" and tool["schema"] == POPULATION and len(tool["sha256"]) == 64
    assert data.prompt["system"] == SYSTEM["content"] and list(data.prompt["sha256"].values()) == [6]


def test_recordings_and_mixtures_of_them_are_learned_as_recorded(run: Path, tmp_path: Path) -> None:
    mix(MixConfig(sources=[str(run)], weigh_bad=0.0), tmp_path / "mix")
    assert find_recorded_runs(tmp_path / "mix") == [run]
    assert TrainConfig(data=str(tmp_path / "mix")).renderer == TrainConfig(data=str(run)).renderer == "recorded"
    assert len(load_training_data(TrainConfig(data=str(tmp_path / "mix"))).chats) == 6
    row = next(iter(jsonl.read_objects(run / "trajectories.jsonl")))
    jsonl.write_objects(tmp_path / "other.jsonl", [{**row, "task": "elsewhere"}])
    assert TrainConfig(data=str(tmp_path / "other.jsonl")).renderer == "react"
    mix(MixConfig(sources=[str(run), str(tmp_path / "other.jsonl")]), tmp_path / "both")
    assert TrainConfig(data=str(tmp_path / "both")).renderer == "react"
    progress = Lines()
    load_training_data(TrainConfig(data=str(tmp_path / "both")), progress)
    assert any("trajectories are recorded" in line and "--renderer recorded" in line for line in progress.lines)
    with pytest.raises(DataError, match="needs recorded calls"):
        load_training_data(TrainConfig(data=str(tmp_path / "other.jsonl"), renderer="recorded"))


def test_what_is_not_learned_is_counted(run: Path, tmp_path: Path) -> None:
    question = {"role": "user", "content": "Where?"}
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
    cut = recorded_call("cut", [question], {"role": "assistant", "content": "It is in"}, finish="length")
    seen = recorded_call("image", [image], {"role": "assistant", "content": "A cat."})
    provider = recorded_call(
        "web", [question], {"role": "assistant", "content": "There."}, request={"tools": [{"type": "web_search"}]}
    )
    record_rows(tmp_path, [cut, seen, provider, *plain_episode("Niue")])
    runs = load_recorded_runs([tmp_path])
    trajectories = {
        row["example"]["id"]: Trajectory.from_dict(row) for row in jsonl.read_objects(tmp_path / "trajectories.jsonl")
    }
    assert [len(runs.render(trajectories[name])) for name in ("cut", "image", "web", "Niue")] == [0, 0, 1, 1]
    told = "\n".join(runs.describe_left_out())
    assert "replies that were cut off or say nothing: 1" in told
    assert "parts that are not text" in told and "tools that only a provider can run, web_search: 1" in told
    elsewhere = Trajectory.from_dict({**trajectories["Niue"].to_dict(), "steps": []})
    assert (
        runs.render(elsewhere) == [] and "trajectories differ from their recorded calls: 1" in runs.describe_left_out()
    )


def test_the_order_of_tools_does_not_change_a_prompt() -> None:
    other = {"type": "function", "function": {"name": "area", "parameters": {"type": "object"}}}
    messages = [Message("system", "You are Ada."), Message("user", "Where?")]
    assert hash_prompt(messages, [POPULATION, other]) == hash_prompt(messages, [other, POPULATION])
    assert hash_prompt(messages, [POPULATION]) != hash_prompt(messages, [other])
    earlier_hash = "0ab4cedd11ce0f09c5816d104ad33f55e0098aad48bcc8260ef5e5548b8619e4"
    assert has_prompt_of({earlier_hash}, messages, [POPULATION, other])
    assert not has_prompt_of({earlier_hash}, messages, [POPULATION])


def test_weights_of_steps_count(run: Path) -> None:
    (row,) = [row for row in jsonl.read_objects(run / "trajectories.jsonl") if row["example"]["id"] == "Chad"]
    row["steps"][0]["weight"] = row["steps"][1]["weight"] = 0.0
    row["steps"][2]["weight"] = 0.5
    (chat,) = load_recorded_runs([run]).render(Trajectory.from_dict(row))
    assert [(message.train, message.weight) for message in chat.messages if message.role == "assistant"] == [
        (False, 1.0),
        (True, 0.5),
    ]


def test_a_repeated_request_is_learned_once_with_its_last_reply(tmp_path: Path) -> None:
    question = {"role": "user", "content": "Where?"}
    rows = [recorded_call("twice", [question], {"role": "assistant", "content": text}) for text in ("Here.", "There.")]
    record_rows(tmp_path, rows)
    (trajectory,) = [Trajectory.from_dict(row) for row in jsonl.read_objects(tmp_path / "trajectories.jsonl")]
    (chat,) = load_recorded_runs([tmp_path]).render(trajectory)
    assert [message.content for message in chat.messages] == ["Where?", "There."]


def attempt(country: str, answer: str) -> Iterator[dict[str, Any]]:
    question = {"role": "user", "content": "Where live most?"}
    yield recorded_call("1", [question], call_message(country))
    messages = [question, call_message(country), result(country)]
    yield recorded_call("1", messages, {"role": "assistant", "content": answer})


def test_a_trajectory_is_learned_from_the_recording_that_holds_its_replies(tmp_path: Path) -> None:
    wrong, right = list(attempt("Chad", "WRONG")), list(attempt("Mali", "RIGHT"))
    runs = [record_rows(tmp_path / name, rows) for name, rows in (("a", wrong), ("b", right), ("c", wrong + right))]
    for recordings in (runs[:2], runs[2:]):
        (row,) = jsonl.read_objects(recordings[-1] / "trajectories.jsonl")
        trajectory, recorded_runs = Trajectory.from_dict(row), load_recorded_runs(recordings)
        (chat,) = recorded_runs.render(trajectory)
        assert trajectory.answer == chat.messages[-1].content == "RIGHT" and len(chat.messages) == 4
        assert len(recorded_runs.learned_calls(trajectory)) == 2 and not recorded_runs.describe_ambiguity()
    assert "calls of an attempt that was started over: 2" in recorded_runs.describe_left_out()
    recorded_runs = load_recorded_runs([runs[1], runs[2]])
    assert len(recorded_runs.render(trajectory)) == 1 and "1 traj" in recorded_runs.describe_ambiguity()[0]


def test_samples_of_recordings_are_as_long_as_the_data_needs(run: Path) -> None:
    family = next(iter(FAMILIES))
    encoder = Encoder(tokenizer(family), ends(family), load_renderer("recorded"))
    chats, progress = load_training_data(TrainConfig(data=str(run))).chats, Lines()
    long_chats = [Chat([*chat.messages, *chat.messages[1:] * 6], chat.tools, chat.key) for chat in chats[:1]]
    longest = max(len(sample.input_ids) for chat in long_chats for sample in encoder.encode_chat(chat))
    options: dict[str, Any] = {"encoder": encoder, "progress": progress}
    fitting = select_fitting([*chats, *long_chats], [], recipe=Recipe(), context=longest, **options)
    assert fitting.max_length == longest > MAX_LENGTH and not fitting.dropped
    assert f"up to {longest} tokens" in progress.lines[-1]
    assert select_fitting([*chats, *long_chats], [], recipe=Recipe(), context=longest - 1, **options).dropped
    assert f"--max-length {longest} takes all" in progress.lines[-1]
    assert select_fitting(chats, [], recipe=Recipe(), **options).max_length == MAX_LENGTH


def test_samples_are_shown_and_written_as_they_are_trained(run: Path, tmp_path: Path) -> None:
    rendering = Rendering(run)  # recorded, as train does
    counts = rendering.write(tmp_path / "out.jsonl", "messages")
    assert counts.trajectories == 5 and counts.samples == 6
    row = next(iter(jsonl.read_objects(tmp_path / "out.jsonl")))
    assert row["tools"] == [POPULATION] and row["messages"][0]["content"] == SYSTEM["content"]


def test_a_trajectory_alone_is_no_sample() -> None:
    trajectory = Trajectory.from_dict(
        {"task": "t", "example": {"id": "1", "question": "q", "answer": "", "meta": {}}, "method": "m", "model": "m",
         "seed": 0, "steps": [], "stop": "finish", "scores": {}, "usage": {}, "seconds": 0.0, "error": None}
    )  # fmt: skip
    with pytest.raises(ConfigError, match="fireact record"):
        load_renderer("recorded").sample(trajectory)


# --- a student that learned from the recording ---


@pytest.fixture(scope="module")
def trained(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    student = tiny_model(folder / "student", positions=2048)
    train(TrainConfig(data=str(run), student=str(student), recipe=replace(RECIPE, max_length=2048)), folder / "train")
    return folder / "train"


def test_validate_compares_each_recorded_request(trained: Path) -> None:
    found = check_conformance(str(trained), prompts=1)
    assert found.holds and found.turns == 10


def test_a_student_is_run_with_the_tools_of_its_training_or_refused(trained: Path) -> None:
    manifest = read_manifest(trained)
    assert manifest["renderer"] == "recorded" and [tool["name"] for tool in manifest["tools"]] == ["population"]
    model = load_model(str(trained), slots=1)
    with pytest.raises(ConfigError, match="trained with population, which is not here: --tool module:population"):
        equip_student(model, ())
    with pytest.raises(ConfigError, match="trained with population"):
        equip_student(model, ("search",))
    assert list(equip_student(model, ("search",), other_tools=True)) == ["search"]
    tools = equip_student(model, ("test_recorded_renderer:population",))
    agent = build_agent(model, Small(), method="react", tools=tools)
    assert isinstance(agent.method, ReAct)
    messages = agent.method.prompt_messages("How many live in Chad?", [])
    assert [message.content for message in messages] == [SYSTEM["content"], "How many live in Chad?"]
    offered = offered_tools(agent.method.renderer, tools)
    assert [tool_schema(tool) for tool in offered] == [POPULATION]  # the agent's own schema, and no finish
    model.close()


def test_a_tool_of_ours_is_never_taken_for_one_of_the_same_name(trained: Path) -> None:
    model = load_model(str(trained), slots=1)
    assert model.training is not None
    ours = tool_schema(load_tools(("search",))["search"])

    def trained_with(*tools: TrainedTool) -> Model:
        return replace(model, tools=("search",), training=replace(model.training, tools=tools))

    with pytest.raises(ConfigError, match="trained with search, which is not here"):
        equip_student(trained_with(TrainedTool("search", POPULATION, hash_schema(POPULATION))), ())
    assert list(equip_student(trained_with(TrainedTool("search", ours, hash_schema(ours))), ())) == ["search"]
    config = ServeConfig(str(trained))
    assert [_equip_served_model(case, config, print)[1] for case in (trained_with(), model)] == [False, False]
    model.close()


def test_an_eval_of_other_tools_is_refused_before_it_begins(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trained with population"):
        evaluate(EvalConfig(agent=str(trained), tasks=("geo-hop",), n=1), tmp_path / "eval")


def test_the_command_serves_the_student_alone_under_every_name(trained: Path) -> None:
    running = Running(str(trained), "--name", "mine")
    try:
        client = running.client()
        assert [model.id for model in client.models.list()] == ["mine"]
        question = {"role": "user", "content": "Where live more, in Chad or in Peru?"}
        tool = json.loads(json.dumps(POPULATION))
        tool["function"]["parameters"]["properties"]["country"]["maxLength"] = 12  # it hardly learned to end a name
        reply = client.chat.completions.create(
            model="gpt-4o", messages=[SYSTEM, question], tools=[tool], tool_choice="required", max_tokens=400,
            parallel_tool_calls=False,
        )  # fmt: skip
        call = reply.choices[0].message.tool_calls[0].function
        assert call.name == "population" and list(json.loads(call.arguments)) == ["country"]
    finally:
        running.stop()
    assert "served without an agent" in running.said and "--tool module:population" in running.said


def test_other_prompts_and_tools_than_the_recording_had_are_named(trained: Path) -> None:
    training = load_model(str(trained), slots=1).training
    assert training is not None and training.known is not None
    question = {"role": "user", "content": "Where?"}
    other = {**POPULATION, "function": {**POPULATION["function"], "description": "anything else"}}
    options: dict[str, Any] = {"method": ReAct(renderer=RecordedRenderer()), "known": training.known}
    with listening(Writer("I know."), **options) as port, client_of(port) as client:
        ask = client.chat.completions.with_raw_response.create
        replies = [
            ask(model="s", messages=messages, tools=tools)
            for messages in ([SYSTEM, question], [question])
            for tools in ([POPULATION], [other])
        ]
    assert ["x-fireact-prompt" in reply.headers for reply in replies] == [False, True, True, True]
    refused = pytest.raises(openai.BadRequestError, match="none of the student's training")
    with listening(Writer("I know."), **options, strict=True) as port, client_of(port) as client, refused:
        client.chat.completions.create(model="s", messages=[SYSTEM, question], tools=[other])


# --- a student that learned without its agent's prompt ---


def test_a_dropped_prompt_is_neither_trained_nor_served(run: Path, tmp_path: Path) -> None:
    student = tiny_model(tmp_path / "student", positions=2048)
    settings = TrainConfig(data=str(run), student=str(student), recipe=RECIPE, prompt="drop")
    data = load_training_data(settings)
    assert all(chat.messages[0].role == "user" and not chat.tools for chat in data.chats)
    assert data.prompt["mode"] == "drop" and len(data.prompt["dropped"]) == 1
    tokens = data.prompt["tokens_a_question"]
    assert 0 < tokens["drop"] < tokens["keep"]
    train(settings, tmp_path / "train")
    found = check_conformance(str(tmp_path / "train"), prompts=1)
    assert found.holds and found.turns == 10
    with pytest.raises(ConfigError, match="--prompt keep"):
        export(ExportConfig(run=str(tmp_path / "train")), tmp_path / "export")
    model = load_model(str(tmp_path / "train"), slots=1)
    assert model.training is not None
    writer = Writer("I know.")
    options: dict[str, Any] = {"method": ReAct(renderer=RecordedRenderer()), "dropped": model.training.dropped}
    question = {"role": "user", "content": "Where?"}
    with listening(writer, **options) as port, client_of(port) as client:
        ask = client.chat.completions.with_raw_response.create
        known = ask(model="s", messages=[SYSTEM, question], tools=[POPULATION])
        other = ask(model="s", messages=[question], tools=[POPULATION])
    assert "x-fireact-prompt" not in known.headers and "served as sent" in other.headers["x-fireact-prompt"]
    assert [(len(call.messages), len(call.tools)) for call in writer.calls] == [(1, 0), (1, 1)]
    with listening(writer, **options, strict=True) as port, client_of(port) as client:
        client.chat.completions.create(model="s", messages=[SYSTEM, question], tools=[POPULATION])
        with pytest.raises(openai.BadRequestError, match="without --strict"):
            client.chat.completions.create(model="s", messages=[question], tools=[POPULATION])
    with pytest.raises(ConfigError, match="needs the renderer recorded"):
        TrainConfig(data=str(run), renderer="react", prompt="drop")


def test_an_export_shows_tools_as_the_training_did(trained: Path, tmp_path: Path) -> None:
    import transformers

    export(ExportConfig(run=str(trained)), tmp_path / "merged")
    exported = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert [tool["name"] for tool in read_manifest(tmp_path / "merged")["tools"]] == ["population"]
    settings = read_config(trained)
    encoder = Encoder(*load_tokenizer(str(settings["student"])), load_renderer("recorded"))
    samples = [
        list(sample.input_ids)
        for chat in load_training_data(TrainConfig(data=str(settings["data"]))).chats
        for sample in encoder.encode_chat(chat)
    ]
    for call in read_calls(Path(str(settings["data"])) / "calls.jsonl"):
        # A template breaks up no special tokens and orders no results.
        messages = json.loads(json.dumps(call.request["messages"]).replace("<|im_end|>", "< |im_end|>"))
        messages[3:5] = reversed(messages[3:5])
        for function in [made["function"] for message in messages for made in message.get("tool_calls", ())]:
            function["arguments"] = json.loads(function["arguments"])
        ids = exported.apply_chat_template(
            messages, tools=call.request["tools"], add_generation_prompt=True, return_dict=False
        )
        assert any(sample[: len(ids)] == ids for sample in samples)


def population(country: str) -> str:
    """People in a country."""
    return "many"


def test_a_student_is_asked_its_teacher_s_questions_with_its_teacher_s_tools(
    run: Path, trained: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"agent": str(trained), "questions_of": str(run), "tools": (f"recorded:{run}",), "n": 1}
    with pytest.raises(ConfigError, match="trained on 1 of 1 questions of recorded"):
        evaluate(EvalConfig(**settings), tmp_path / "refused")
    manifest = evaluate(EvalConfig(**settings, allow=("trained",)), tmp_path / "eval")
    assert manifest["prompt"]["mode"] == "keep" and "replayed" in manifest and manifest["left_out"] == {"recorded": 0}
    (episode,) = [Trajectory.from_dict(row) for row in jsonl.read_objects(tmp_path / "eval" / "trajectories.jsonl")]
    assert episode.meta == {"trained": True} and episode.example.answer == "In Peru."
    assert len(list(jsonl.read_objects(trained / "questions.jsonl"))) == 5


def test_preference_learns_from_recorded_calls(run: Path, trained: Path, tmp_path: Path) -> None:
    rows = [{**row, "episode": episode} for episode in ("Chad", "again") for row in plain_episode("Chad")]
    record_rows(tmp_path / "rec", rows)
    score(tmp_path / "rec", by=lambda trajectory: float(trajectory.example.id == "Chad"))
    config = PreferConfig(data=str(tmp_path / "rec"), start=str(trained))
    start, [[(success,), (failure,)]] = prepare_start(config)
    assert start.renderer_name == "recorded" and success.messages == failure.messages and success.tools == [POPULATION]
    assert [message.role for message in success.messages][:2] == ["system", "user"]
    with pytest.raises(DataError, match="needs recorded calls"):
        jsonl.write_objects(tmp_path / "file.jsonl", jsonl.read_objects(tmp_path / "rec" / "trajectories.jsonl"))
        prepare_start(replace(config, data=str(tmp_path / "file.jsonl")))


def test_validate_says_what_it_takes_and_what_it_was_given(run: Path, trained: Path, tmp_path: Path) -> None:
    for name, message in (
        (str(run), "is a directory of 'fireact record'. Give validate one student"),
        (str(run.parent), "is a directory that holds 1 runs: rec (record). Give validate one student"),
        (str(tmp_path), "is no run directory. Give validate one student"),
        (str(run / "calls.sqlite"), "there is no"),
        (str(run / "trajectories.jsonl"), "holds trajectories, not questions"),
    ):
        done = fireact("validate", name)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "the directory of one student alone" in fireact("validate", "geo-hop", trained).stderr
    refused = fireact("export", trained, "--to", "ollama", "-o", tmp_path / "out")
    assert "Export with --to gguf" in refused.stderr and not (tmp_path / "out").exists()


def test_validate_names_the_requests_that_were_not_trained_on(run: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "train")
    config = tmp_path / "train" / "config.toml"
    config.write_text(config.read_text().replace("max_length = 2048", "max_length = 650"))
    conformance = check_conformance(str(tmp_path / "train"), prompts=0)
    assert conformance.equal == conformance.turns < 10
    assert conformance.left_out == (f"calls of samples longer than max_length: {10 - conformance.turns}",)


def test_validate_counts_what_the_server_refuses(run: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "train")
    shutil.copytree(run, tmp_path / "rec")
    config = tmp_path / "train" / "config.toml"
    config.write_text(config.read_text().replace(str(run), str(tmp_path / "rec")))
    first, *others = jsonl.read_objects(run / "calls.jsonl")
    first["request"]["presence_penalty"] = 0.5
    jsonl.write_objects(tmp_path / "rec" / "calls.jsonl", [first, *others])
    conformance = check_conformance(str(tmp_path / "train"), prompts=0)
    assert conformance.holds  # a lenient server encodes it alike
    assert conformance.refused == ("presence_penalty is 0.5, which this endpoint cannot do: 1",)


def test_a_provider_is_sent_the_recorded_requests_with_their_tools(run: Path, tmp_path: Path) -> None:
    with FakeTuning("together", states=("pending", "completed")) as served:
        config = TuneConfig(data=str(run), model=f"together:base@{served.url}", poll=0.01)
        manifest = tune(config, tmp_path / "tune")
        (uploaded,) = served.files.values()
    assert (tmp_path / "tune" / "training.jsonl").read_bytes() in uploaded
    rows = list(jsonl.read_objects(tmp_path / "tune" / "training.jsonl"))
    assert len(rows) == 6 == estimate_job(config).details["samples"]
    assert rows[0]["tools"] == [POPULATION] and rows[0]["messages"][0]["content"] == SYSTEM["content"]
    call, *results = rows[0]["messages"][2:5]
    assert [made["id"] for made in call["tool_calls"]] == [result["tool_call_id"] for result in results]
    assert manifest["renderer"] == "recorded" and manifest["prompt"]["system"] == SYSTEM["content"]
    model = load_model(str(tmp_path / "tune"))
    with pytest.raises(ConfigError, match="trained with population"):
        equip_student(model, ())
    tools = equip_student(model, (f"recorded:{run}",))
    agent = build_agent(model, Small(), method="react", tools=tools)
    assert isinstance(agent.method, ReAct)
    assert agent.method.prompt_messages("How many?", [])[0].content == SYSTEM["content"]
    as_text = TuneConfig(data=str(run), model="together:base", renderer="react")
    assert estimate_job(as_text).details["samples"] == 5  # one a trajectory, with actions as text


def test_doctor_counts_the_tokens_that_are_trained(run: Path, tmp_path: Path) -> None:
    diagnosis = diagnose_data(DoctorConfig(data=str(run), student="smollm2-135m"))
    encoder = Encoder(*load_tokenizer("smollm2-135m"), load_renderer("recorded"))
    chats = load_training_data(TrainConfig(data=str(run))).chats
    assert diagnosis.tokens.total == sum(
        len(sample.input_ids) for chat in chats for sample in encoder.encode_chat(chat)
    )
    assert "empty thought" not in [finding.kind for finding in diagnosis.findings]
    done = fireact("doctor", run, "--fix", "-o", tmp_path / "fixed")
    assert done.returncode == 0, done.stderr
    assert TrainConfig(data=str(tmp_path / "fixed")).renderer == "recorded"
