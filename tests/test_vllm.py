"""Serving by vLLM: a stand-in for it on the PATH, which checks what it is asked with and answers over the same wire."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("openai")
pytest.importorskip("starlette")

import transformers

from fireact.errors import ConfigError, ProviderError
from fireact.render.tokens import prompt_ids
from fireact.rollout.loading import load_renderer
from fireact.serving.vllm import _adapter_rank, run_vllm, vllm_arguments
from fireact.types import Message
from test_serve import ASK, Running
from tiny import tiny_model

STAND_IN = """#!{python}
import json, os, signal, sys, time
from pathlib import Path
from fireact.models.fake_endpoint import FakeEndpoint

args, seen = sys.argv[1:], Path({seen!r})
print("loading", flush=True)
if {fails}:
    sys.exit("CUDA out of memory")
assert args[0] == "serve" and Path(args[1], "config.json").is_file() and "--enable-lora" in args, args
after = lambda name: args[args.index(name) + 1]
name, _, adapter = after("--lora-modules").partition("=")
assert (Path(adapter) / "adapter_config.json").is_file() and "content" in Path(after("--chat-template")).read_text()
noted = {{"args": args, "key": os.environ["VLLM_API_KEY"], "pid": os.getpid(), "session": os.getsid(0)}}

def end(*_):
    noted["headers"], noted["requests"] = served.headers, served.requests
    seen.write_text(json.dumps(noted))
    sys.exit(0)

said = "Thought: it is so\\nAction: finish[ Paris]"
with FakeEndpoint(lambda r: said, models=[name], port=int(after("--port")), latency=lambda r: {latency}) as served:
    signal.signal(signal.SIGTERM, end)
    seen.write_text(json.dumps(noted))
    while True:
        time.sleep(1)
"""


def stand_in(folder: Path, *, fails: bool = False, latency: float = 0.0) -> Path:
    """A folder for the PATH with an executable ``vllm``; what it has seen lies beside it."""
    folder.mkdir(exist_ok=True)
    program = folder / "vllm"
    seen = str(folder / "seen.json")
    program.write_text(STAND_IN.format(python=sys.executable, seen=seen, fails=fails, latency=latency))
    program.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("student"), seed=3, positions=8192)


@pytest.fixture
def run(student: Path, tmp_path: Path) -> Path:
    """What ``fireact train`` leaves, as far as serving reads it."""
    directory = tmp_path / "train"
    (directory / "adapter").mkdir(parents=True)
    (directory / "config.toml").write_text('verb = "train"\n')
    facts = {"student": str(student), "adapter_sha256": "0" * 64, "renderer": "react"}
    (directory / "manifest.json").write_text(json.dumps(facts))
    (directory / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 12}))
    return directory


@pytest.fixture
def behind(run: Path, tmp_path: Path) -> Iterator[Running]:
    path = f"{stand_in(tmp_path / 'bin', latency=0.4)}:{os.environ['PATH']}"
    running = Running(str(run), "--engine", "vllm", "--name", "geo", "--slots", "7", PATH=path, FIREACT_API_KEY="outer")
    yield running
    if running.child.poll() is None:
        running.stop()


def noted(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "bin" / "seen.json").read_text())


def test_the_student_and_the_agent_are_served_in_front_of_vllm(behind: Running, run: Path, tmp_path: Path) -> None:
    client = behind.client("outer")
    whole = client.chat.completions.create(model="geo", messages=ASK, max_tokens=9, temperature=0.5, stop=["!"])
    assert whole.choices[0].message.content == "Thought: it is so\nAction: finish[ Paris]"
    pieces = [
        event.choices[0].delta.content or ""
        for event in client.chat.completions.create(model="geo", messages=ASK, stream=True)
    ]
    assert "".join(pieces) == whole.choices[0].message.content and len([piece for piece in pieces if piece]) > 2
    agent = client.chat.completions.create(model="geo-agent", messages=ASK)
    assert agent.choices[0].message.content == "Paris"
    with pytest.raises(Exception, match="401"):
        behind.client("wrong").chat.completions.create(model="geo", messages=ASK)
    assert behind.stop() == 0
    seen = noted(tmp_path)
    args = dict(zip(seen["args"][2::2], seen["args"][3::2], strict=False))
    assert args["--host"] == "127.0.0.1" and args["--max-num-seqs"] == "7" and args["--generation-config"] == "vllm"
    assert seen["args"][-3:] == ["16", "--lora-modules", f"geo={run / 'adapter'}"]
    assert {one["authorization"] for one in seen["headers"]} == {f"Bearer {seen['key']}"} and seen["key"] != "outer"
    asked = next(one for one in seen["requests"] if one.get("temperature") == 0.5)
    assert (asked["model"], asked["max_tokens"], asked["stop"]) == ("geo", 9, ["!"])
    log = (run / "vllm.log").read_text()
    assert "vllm serve" in log and "loading" in log and seen["key"] not in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_in_flight_is_finished_and_vllm_ends_too(behind: Running, tmp_path: Path, number: int) -> None:
    stream = behind.client("outer").chat.completions.create(model="geo", messages=ASK, stream=True)
    next(iter(stream))
    behind.child.send_signal(number)
    said = "".join(event.choices[0].delta.content or "" for event in stream)
    assert said.endswith("finish[ Paris]")
    assert behind.child.wait(600) == 0
    assert behind.child.stderr is not None
    behind.child.stderr.close()
    seen = noted(tmp_path)
    assert "requests" in seen and seen["session"] == seen["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(seen["pid"], 0)


def test_what_keeps_vllm_from_starting_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="Run: pip install vllm"), run_vllm(str(run), name="x", slots=1, say=print):
        pass
    monkeypatch.setenv("PATH", str(stand_in(tmp_path / "bin", fails=True)))
    with (
        pytest.raises(ProviderError, match=r"(?s)vllm ended with 1.*CUDA out of memory"),
        run_vllm(str(run), name="x", slots=1, say=print),
    ):
        pass
    with pytest.raises(ConfigError, match="Start vLLM yourself"), run_vllm("org/model", name="x", slots=1, say=print):
        pass


def test_vllm_is_asked_for_what_the_student_needs(run: Path, student: Path) -> None:
    for rank, needed in ((1, 8), (16, 16), (17, 32), (300, 320)):
        (run / "adapter" / "adapter_config.json").write_text(json.dumps({"r": rank, "rank_pattern": {}}))
        assert _adapter_rank(run / "adapter") == needed
    for config, said in (({"r": 600}, "at most 512"), ({"r": 8, "modules_to_save": ["x"]}, "--to merged")):
        (run / "adapter" / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=said):
            vllm_arguments(run, name="x", port=1, slots=1)
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text((student / "config.json").read_text())
    for file in student.glob("token*"):
        (run / "model" / file.name).write_bytes(file.read_bytes())
    assert vllm_arguments(run, name="whole", port=1, slots=1)[-2:] == ["--served-model-name", "whole"]
    (run / "manifest.json").write_text(
        json.dumps({"student": "x", "adapter_sha256": "0" * 64, "renderer": "tool_calls"})
    )
    with pytest.raises(ConfigError, match="native calls"):
        vllm_arguments(run, name="x", port=1, slots=1)


DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today is {{ date_string }} or {{ strftime_now('%Y-%m-%d') }}.\n"
)


@pytest.mark.parametrize("dated", [False, True])
@pytest.mark.parametrize("renderer", ["react", "alpaca"])
def test_the_template_makes_the_tokens_that_were_trained_on(
    dated: bool, renderer: str, run: Path, student: Path, tmp_path: Path
) -> None:
    """As vLLM does it: the template on the chat as it came, no special tokens added."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(student)
    if dated:
        tokenizer.chat_template = DATED + tokenizer.chat_template
    transformers.AutoModelForCausalLM.from_pretrained(student).save_pretrained(tmp_path / "dated")
    tokenizer.save_pretrained(tmp_path / "dated")
    facts = {"student": str(tmp_path / "dated"), "adapter_sha256": "0" * 64, "renderer": renderer}
    (run / "manifest.json").write_text(json.dumps(facts))
    command = vllm_arguments(run, name="x", port=1, slots=1)
    template = Path(command[command.index("--chat-template") + 1]).read_text()
    chosen = load_renderer(renderer)
    chat: list[Message] = chosen.prompt("What is it?")
    from fireact.render.chat import apply_renderer_template

    plain = transformers.AutoTokenizer.from_pretrained(tmp_path / "dated")
    text = plain.apply_chat_template(
        [{"role": one.role, "content": one.content} for one in chat],
        chat_template=template, tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    assert plain(text, add_special_tokens=False)["input_ids"] == prompt_ids(
        chat, apply_renderer_template(tokenizer, chosen)
    )
