"""What is written reads back, and what does not is counted; Arrow mixes nothing; trainers are told the truth."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from command import fireact
from fakes import Echo
from fireact.errors import ConfigError, DataError
from fireact.formats.conversion import convert
from fireact.formats.dropped import KINDS, find_losses
from fireact.formats.read import read_any
from fireact.formats.trainers import build_trainer_config
from fireact.formats.write import WRITERS, write_episodes
from fireact.types import Action, Example, Step, Trajectory, Usage
from formats_cases import TOOL, WORDS, ragged_steps, trajectories

READABLE = [writer.name for writer in WRITERS if writer.name != "prompt-completion"]
FULL = Trajectory(
    task="small",
    example=Example("7", "Q?", "Paris", {"hops": 2}),
    method="react",
    model="teacher",
    seed=3,
    steps=(
        Step("I look both up.", Action("search", {"query": "France", "k": 2}), "F", "I look both up.", weight=0.5),
        Step("", Action("lookup", {"title": "Paris"}), "P", "", joined=True, weight=0.5, noise="none", repairs=1),
        Step(
            "It is Paris.", Action("finish", {"answer": "Paris"}), None, "Thought: It is Paris.\nAction: finish[Paris]"
        ),
    ),
    stop="finish",
    scores={"em": 1.0, "f1": 1.0},
    usage=Usage(3, 10, 0, 5, 0.1),
    seconds=2.0,
    meta={"system": "Be brief.", "tools": [TOOL], "note": 1},
)


def _said(step: Step) -> bool:
    return bool(step.action or (step.text + step.thought).strip())


def _says_something(steps: tuple[Step, ...]) -> bool:
    return any(map(_said, steps))


@pytest.mark.parametrize("name", READABLE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(episodes=st.lists(trajectories(), min_size=1, max_size=3, unique_by=lambda it: (it.key, it.model)))
def test_what_is_not_counted_as_dropped_reads_back(name: str, episodes: list[Trajectory], tmp_path: Path) -> None:
    assume(all(_says_something(it.steps) for it in episodes))  # others are left out
    out = tmp_path / {"parquet": "data.parquet", "dataset": "data", "sts": "data"}.get(name, "data.jsonl")
    written = write_episodes(episodes, out, name, force=True)
    losses: dict[str, int] = {}
    for before, after in zip(episodes, read_any(out, name), strict=True):
        for kind in find_losses(before, after):
            losses[kind] = losses.get(kind, 0) + 1
    assert losses == {kind: n for kind, n in written.dropped.items() if kind in KINDS}


@pytest.mark.parametrize("name", [name for name in READABLE if name not in ("parquet", "dataset")])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(steps=ragged_steps())
def test_steps_of_any_shape_are_written_and_what_is_lost_is_counted(
    name: str, steps: tuple[Step, ...], tmp_path: Path
) -> None:
    assume(_says_something(steps))
    said = [step for step in steps if _said(step)]
    episode = replace(FULL, steps=steps)
    counted = write_episodes([episode], tmp_path / "data.jsonl", name, force=True).dropped
    if any(step.weight for step in said):
        write_episodes([episode], tmp_path / "rows.jsonl", "prompt-completion", force=True)
    (back,) = read_any(tmp_path / "data.jsonl", name)
    assert set(find_losses(episode, back)) == counted.keys() & set(KINDS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(episode=trajectories())
def test_each_completion_follows_what_was_said_before_it(episode: Trajectory, tmp_path: Path) -> None:
    assume(any(step.weight for step in episode.steps))
    write_episodes([episode], tmp_path / "pc.jsonl", "prompt-completion", force=True)
    write_episodes([episode], tmp_path / "chat.jsonl", "gpt", force=True)
    chat = json.loads((tmp_path / "chat.jsonl").read_text())["messages"]
    rows = [json.loads(line) for line in (tmp_path / "pc.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [[*row["prompt"], *row["completion"]][-1] for row in rows] == [
        message for message in chat if message["role"] == "assistant" and message.get("weight", 1.0)
    ]
    plain = [{"role": message["role"], "content": message["content"]} for message in chat]
    assert all(plain[: len(row["prompt"]) + 1] == [*row["prompt"], *row["completion"]] for row in rows)


@pytest.mark.parametrize("name", ["messages", "parquet", "fireact"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(episode=trajectories())
def test_native_messages_hold_every_step(name: str, episode: Trajectory, tmp_path: Path) -> None:
    assert not write_episodes([episode], tmp_path / "data", name, force=True).dropped


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(episode=trajectories())
def test_sharegpt_holds_thoughts_calls_and_results(episode: Trajectory, tmp_path: Path) -> None:
    assume(episode.steps)
    dropped = write_episodes([episode], tmp_path / "data", "sharegpt", force=True).dropped
    assert "several calls in a turn" not in dropped and "tool schemas" not in dropped


LOSSES = {
    "fireact": set(),
    "messages": {"verbatim words", "noise", "repairs"},
    "parquet": {"verbatim words", "noise", "repairs"},
    "dataset": {"verbatim words", "noise", "repairs"},
    "openai": {"weights"},
    "sharegpt": {"weights"},
    "gpt": {"several calls in a turn", "tool schemas"},
    "alpaca": {"several calls in a turn", "tool schemas", "weights", "system prompt"},
    "prompt-completion": {"several calls in a turn", "tool schemas", "weights"},
    "atif": {"noise", "repairs"},
    "sts": {"noise", "repairs"},
    "inspect": {"noise", "repairs"},
    "otlp": {"noise", "repairs", "weights"},
}


@pytest.mark.parametrize("name", [writer.name for writer in WRITERS])
def test_the_page_says_what_a_format_drops(name: str, tmp_path: Path) -> None:
    dropped = set(write_episodes([FULL], tmp_path / "out", name).dropped)
    assert dropped >= LOSSES[name] and "steps" not in dropped and "question" not in dropped
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    page = page.partition("## What is written")[2]
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    said = row.split("|")[3].strip()
    assert said == (", ".join(kind for kind in KINDS if kind in dropped) or "nothing")


def test_arrow_leaks_no_key_from_one_tool_into_another(tmp_path: Path) -> None:
    from datasets import load_dataset

    other = {
        "name": "book",
        "description": "",
        "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}},
    }
    booked = replace(
        FULL, seed=4, steps=(Step("", Action("book", {"n": 1}), "ok", ""),), meta={"tools": [other]}, stop="max_steps"
    )
    write_episodes([FULL, booked], tmp_path / "set", "dataset")
    data = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    tools = [row["tools"] for row in data]
    assert [tool["function"]["name"] for tool in tools[1]] == ["book"]
    assert tools[1][0]["function"]["parameters"]["properties"] == {"n": {"type": "integer"}}
    calls = data[1]["messages"][-2]["tool_calls"]
    assert calls[0]["function"]["arguments"] == {"n": 1} and set(data[0]["messages"][1]) == {"role", "content"}
    assert "small / react" not in (tmp_path / "set" / "README.md").read_text() and data.num_rows == 2
    write_episodes([FULL, booked], tmp_path / "rows.jsonl", "messages")
    loaded = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    assert json.loads(loaded[1]["tools"]) == tools[1]
    assert [it.steps for it in read_any(tmp_path / "set")] == [it.steps for it in read_any(tmp_path / "rows.jsonl")]


def test_the_data_card_says_whence_it_comes(tmp_path: Path) -> None:
    import yaml

    run = tmp_path / "run"
    run.mkdir()
    write_episodes([FULL], run / "trajectories.jsonl", "fireact")
    (run / "manifest.json").write_text(json.dumps({"history": ["where correct: 500 -> 231"]}))
    convert(run, tmp_path / "set", to="dataset")
    card = (tmp_path / "set" / "README.md").read_text()
    digest = hashlib.sha256((run / "trajectories.jsonl").read_bytes()).hexdigest()
    assert f"source `run`, SHA-256 `{digest}`" in card and "where correct: 500 -> 231" in card
    assert "model `teacher`: 1" in card and yaml.safe_load(card.split("---")[1])["license"] == "unknown"


def test_tools_give_their_schemas_and_calls_make_them_up(tmp_path: Path) -> None:
    bare = replace(FULL, meta={})
    write_episodes([bare], tmp_path / "a", "messages", tools=[Echo()])
    write_episodes([bare], tmp_path / "b", "messages")
    given_tools, made_up = (json.loads(json.loads((tmp_path / name).read_text())["tools"]) for name in ("a", "b"))
    assert given_tools[0]["function"]["description"] == "says it back"
    assert [tool["function"]["name"] for tool in made_up] == ["search", "lookup", "finish"]


def test_prompt_and_completion_is_a_row_a_turn(tmp_path: Path) -> None:
    skipped = replace(FULL, steps=(replace(FULL.steps[0], weight=0.0), *FULL.steps[1:]))
    write_episodes([skipped], tmp_path / "pc.jsonl", "prompt-completion")
    rows = [json.loads(line) for line in (tmp_path / "pc.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and rows[-1]["completion"][0]["content"].endswith("finish[Paris]")
    assert [message["role"] for message in rows[-1]["prompt"]] == ["system", "user", *["assistant", "user"] * 2]


def roles(path: Path) -> list[list[str]]:
    return [[message["role"] for message in json.loads(line)["messages"]] for line in path.read_text().splitlines()]


def test_llama_factory_takes_scored_episodes_in_text(tmp_path: Path) -> None:
    """It skips rows whose last word is not the student's, as the closing line and a last observation are not."""
    ends = (replace(FULL, meta={}), replace(FULL, seed=4, meta={}, steps=FULL.steps[:1], stop="max_steps", scores={}))
    dropped = write_episodes(ends, tmp_path / "a.jsonl", "gpt", trainer="llama-factory").dropped
    assert roles(tmp_path / "a.jsonl") == [["user", "assistant"] * 3, ["user", "assistant"]]
    assert "row whose turns LLaMA-Factory refuses" not in dropped
    heard_first = replace(FULL, steps=(Step("", None, "hello?", ""), *FULL.steps))
    dropped = write_episodes([heard_first], tmp_path / "b.jsonl", "gpt", trainer="llama-factory").dropped
    assert dropped["row whose turns LLaMA-Factory refuses"] == 1
    write_episodes(ends, tmp_path / "c.jsonl", "gpt")
    assert [turns[-1] for turns in roles(tmp_path / "c.jsonl")] == ["user", "user"]


NOT_LEARNED = replace(
    FULL, steps=(replace(FULL.steps[0], weight=0.0), replace(FULL.steps[1], weight=0.0), FULL.steps[2])
)


@pytest.mark.parametrize(
    ("trainer", "name"),
    [("llama-factory", "gpt"), ("llama-factory", "sharegpt"), ("llama-factory", "alpaca"), ("axolotl", "alpaca"),
     ("trl", "gpt"), ("trl", "dataset")],
)  # fmt: skip
def test_no_trainer_is_given_a_turn_to_learn_that_is_none(trainer: str, name: str, tmp_path: Path) -> None:
    written = write_episodes([FULL, replace(NOT_LEARNED, seed=9)], tmp_path / "out", name, trainer=trainer)
    assert (written.trajectories, written.rows) == (2, 1)
    assert written.dropped[f"episode with a turn of weight 0, which {trainer} would learn (left out)"] == 1


@pytest.mark.parametrize(
    ("trainer", "name", "said"),
    [("axolotl", "gpt", True), ("axolotl", "dataset", True), ("trl", "gpt", True), ("trl", "prompt-completion", False),
     ("llama-factory", "sharegpt", False), ("", "gpt", False)],
)  # fmt: skip
def test_a_weight_that_a_trainer_takes_for_one_is_said(trainer: str, name: str, said: bool, tmp_path: Path) -> None:
    """Where the row itself does not hold the weight, that is said as for any other loss."""
    whole, halved = (replace(FULL, steps=tuple(replace(step, weight=w) for step in FULL.steps)) for w in (1.0, 0.5))
    written = write_episodes([whole, halved], tmp_path / "out", name, trainer=trainer or None)
    assert written.rows >= 2
    told = written.dropped.get(f"weights between 0 and 1 (turns that {trainer} learns in full)", 0)
    assert (told, written.dropped.get("weights", 0)) == ((1, 0) if said else (0, 1 if trainer else 0))


@pytest.mark.parametrize("name", ["gpt", "messages", "openai"])
def test_axolotl_is_told_which_turns_are_not_learned(name: str, tmp_path: Path) -> None:
    import yaml

    write_episodes([NOT_LEARNED], tmp_path / "out.jsonl", name, trainer="axolotl")
    (stanza,) = yaml.safe_load(build_trainer_config("axolotl", name, tmp_path / "out.jsonl"))["datasets"]
    said = [
        message.get(stanza["message_field_training"])
        for message in json.loads((tmp_path / "out.jsonl").read_text())["messages"]
        if message["role"] == "assistant"
    ]
    assert said == ([0, 0, None] if name == "gpt" else [0, None])


def test_a_lost_step_hides_no_other_loss() -> None:
    other = replace(NOT_LEARNED, steps=(*(replace(step, weight=1.0) for step in NOT_LEARNED.steps), FULL.steps[0]))
    assert {"steps", "weights"} <= set(find_losses(NOT_LEARNED, other))


def test_words_without_an_action_lose_their_mark_in_native_turns(tmp_path: Path) -> None:
    told = replace(FULL, steps=(Step("No idea.", None, "Go on.", "Thought: No idea."), *FULL.steps))
    assert "steps" not in write_episodes([told], tmp_path / "out.jsonl", "messages").dropped
    assert json.loads((tmp_path / "out.jsonl").read_text())["messages"][2]["content"] == "No idea."


@pytest.mark.parametrize("name", [writer.name for writer in WRITERS])
def test_an_episode_in_which_nothing_is_said_is_no_row_to_learn(name: str, tmp_path: Path) -> None:
    written = write_episodes([FULL, replace(FULL, seed=9, steps=())], tmp_path / "out", name)
    kept = name in ("fireact", "messages", "parquet", "dataset")
    assert sum(written.counts.values()) == 1 + kept and written.trajectories == 2
    assert written.dropped.get("episode without a turn of the student (left out)", 0) == (not kept)


def test_a_thought_without_words_is_written_as_text(tmp_path: Path) -> None:
    planned = replace(FULL, steps=(Step("A plan.", None, "Go on.", ""), *FULL.steps))
    assert "steps" not in write_episodes([planned], tmp_path / "a", "gpt").dropped
    written = write_episodes([planned], tmp_path / "b", "prompt-completion")
    assert written.rows == 4 and "steps" not in written.dropped


@pytest.mark.parametrize("name", [writer.name for writer in WRITERS])
def test_what_fails_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    def torn() -> Iterator[Trajectory]:
        yield FULL
        raise DataError("torn")

    with pytest.raises(DataError, match="torn"):
        write_episodes(torn(), tmp_path / "out", name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_entries_for_trainers() -> None:
    import yaml

    entry = json.loads(build_trainer_config("llama-factory", "sharegpt", Path("data/train.jsonl")))
    assert entry["train"]["columns"] == {"messages": "conversations", "tools": "tools"}
    stanza = yaml.safe_load(build_trainer_config("axolotl", "messages", Path("train.jsonl")))
    assert stanza["datasets"][0]["field_tools"] == "tools"
    with pytest.raises(ConfigError, match="text beside a tool call"):
        build_trainer_config("llama-factory", "messages", Path("x"))
    with pytest.raises(ConfigError, match=r"'train' ends in neither .json nor .jsonl"):
        build_trainer_config("llama-factory", "gpt", Path("train"))
    with pytest.raises(ConfigError, match="a string in a string"):
        build_trainer_config("trl", "messages", Path("x"))
    assert "load_dataset('set', split='train')" in build_trainer_config("trl", "dataset", Path("set"))
    with pytest.raises(ConfigError, match="Known: axolotl, llama-factory, trl"):
        build_trainer_config("unsloth", "messages", Path("x"))


def test_nothing_is_overwritten_and_nothing_is_written_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(DataError, match="--force"):
        write_episodes([FULL], tmp_path / "there", "gpt")
    with pytest.raises(DataError, match="no episodes"):
        write_episodes([], tmp_path / "new", "gpt")
    with pytest.raises(ConfigError, match="Did you mean 'sharegpt'"):
        write_episodes([FULL], tmp_path / "new", "share-gpt")
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="only if it is ours"):
        write_episodes([FULL], tmp_path / "mine", "dataset", force=True)


def test_a_corrupt_row_is_named_and_skipped_only_on_request(tmp_path: Path) -> None:
    write_episodes([FULL], tmp_path / "good.jsonl", "gpt")
    bad = tmp_path / "bad.jsonl"
    bad.write_text((tmp_path / "good.jsonl").read_text() + '{"messages": [}\n')
    with pytest.raises(DataError, match="row 2"):
        list(read_any(bad, "gpt"))
    report = convert(bad, tmp_path / "out.jsonl", to="gpt", format="gpt", skip=True)
    assert report.trajectories == 1 and report.damage["unreadable"] == 1
    assert report.to_dict()["damage"]["unreadable"]["first"][0]["row"] == 2


@given(WORDS)
def test_no_text_file_breaks_the_reader(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "some"
        file.write_text(text, encoding="utf-8", newline="")
        try:
            list(read_any(file))
        except DataError as error:
            assert str(file) in str(error)


@pytest.mark.parametrize("name", ["messages", "parquet"])
def test_half_a_character_does_not_stop_a_file(name: str, tmp_path: Path) -> None:
    half = replace(FULL, example=replace(FULL.example, question="What is \ud83d?"))
    dropped = write_episodes([half], tmp_path / "out", name).dropped
    assert ("characters that are no Unicode" in dropped) == (name == "parquet")
    (back,) = read_any(tmp_path / "out") if name == "messages" else read_any(tmp_path / "out", "messages")
    assert back.steps[0].action == half.steps[0].action


def test_the_command_tells_what_it_did(tmp_path: Path) -> None:
    write_episodes([FULL], tmp_path / "in.jsonl", "fireact")
    command = ["convert", "in.jsonl", "--to", "sharegpt", "-o", "out.jsonl"]
    done = fireact(*command, "--for", "llama-factory", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["out"]["formatting"] == "sharegpt"
    assert "fireact -> sharegpt: 1 episodes" in done.stderr and "dropped: gold answer: 1 of 1" in done.stderr
    done = fireact(*command, "--json", "--force", cwd=tmp_path)
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["counts"] == {"small/react": 1} and report["dropped"]["noise"] == 1
