"""Open coding agents of package registries, recorded while a scripted endpoint repairs a file through them.

Each is hundreds of megabytes, so no extra holds them; a test is skipped where its command is not on the PATH.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from fireact.base.run_directory import read_manifest, read_trajectories
from fireact.methods.react import ReAct
from fireact.models.fake_endpoint import FakeEndpoint
from fireact.recording.recorder import RecordConfig, record_calls
from fireact.types import Action
from test_serve import listening
from test_serve_tools import Ending, Writer, call_text

pytestmark = pytest.mark.slow
REPAIR = "sed -i s/-/+/ add.py && cat add.py"
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && echo add.py adds now."
TASK, ANSWER = "Repair add.py.", "add.py adds now."
INSTALL = {"codex": "npm install -g @openai/codex", "mini": "pip install mini-swe-agent"}


def repair(request: Mapping[str, Any]) -> dict[str, Any]:
    """A model that repairs the file by the agent's tool for commands, and says so."""
    text = json.dumps(request)
    is_repaired = "call_output" in text or '"role": "tool"' in text
    names = [tool.get("function", tool).get("name") for tool in request["tools"]]
    if is_repaired and "bash" not in names:
        return {"content": ANSWER}
    name, argument = ("bash", "command") if "bash" in names else ("exec_command", "cmd")
    arguments = json.dumps({argument: SUBMIT if is_repaired else REPAIR})
    call = {"id": f"call_{is_repaired:d}", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"content": "I repair the sign.", "tool_calls": [call]}


def run_agent(name: str, base_url: str, home: Path, work: Path) -> None:
    """Give the agent its task in a directory; all that it stores goes to its home."""
    command = shutil.which(name)
    if command is None:
        pytest.skip(f"{name} is not on the PATH: {INSTALL[name]}")
    environment = {
        "CODEX_HOME": str(home), "LOCAL_KEY": "none", "OPENAI_API_BASE": base_url, "OPENAI_API_KEY": "none",
        "MSWEA_GLOBAL_CONFIG_DIR": str(home), "MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }  # fmt: skip
    provider = {"name": "local", "base_url": base_url, "wire_api": "responses", "env_key": "LOCAL_KEY"}
    lines = ['model = "gpt-5"', 'model_provider = "local"', "[model_providers.local]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in provider.items()]
    (home / "config.toml").write_text("\n".join([*lines, "request_max_retries = 0", "stream_max_retries = 0"]))
    options = {
        "codex": ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK],
        "mini": ["-m", "openai/gpt-5", "-t", TASK, "-y", "--exit-immediately", "-o", str(home / "trajectory.json")],
    }[name]
    done = subprocess.run(
        [command, *options], env={**os.environ, **environment}, cwd=work, capture_output=True, text=True, timeout=300,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "dialect"), [("codex", "responses"), ("mini", "chat completions")])
def test_a_session_of_a_coding_agent_is_recorded(name: str, dialect: str, tmp_path: Path) -> None:
    home, work, run = (tmp_path / part for part in ("home", "work", "run"))
    home.mkdir(), work.mkdir()
    (work / "add.py").write_text("def add(a, b):\n    return a - b\n")
    with (
        FakeEndpoint(repair, models=("gpt-5",)) as endpoint,
        record_calls(RecordConfig(upstream=endpoint.url, port=0), run) as address,
    ):
        run_agent(name, f"{address}/e/fix/v1", home, work)
        if name == "mini":  # it submits by a command, so its answer is in no reply
            address.feedback("fix", answer=ANSWER)
    assert (work / "add.py").read_text() == "def add(a, b):\n    return a + b\n"
    (trajectory,) = read_trajectories(run)
    assert TASK in trajectory.example.question and trajectory.answer == ANSWER and trajectory.stop == "finish"
    first = trajectory.steps[0]
    assert isinstance(first.action, Action) and REPAIR in first.action.arguments.values()
    assert "return a + b" in str(first.observation) and first.thought == "I repair the sign."
    manifest = read_manifest(run)
    assert manifest["calls_by_dialect"] == {dialect: 2} and manifest["endings"] == []


def test_codex_works_on_a_student(tmp_path: Path) -> None:
    """Of Codex's tools, those that only a provider can run are left out by a lenient server."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(), work.mkdir()
    (work / "add.py").write_text("def add(a, b):\n    return a - b\n")
    student = Writer(f"I repair the sign.\n{call_text('exec_command', cmd=REPAIR)}", ANSWER)
    with listening(student, method=ReAct(renderer=Ending()), runs_tools=False, lenient=True) as port:
        run_agent("codex", f"http://127.0.0.1:{port}/v1", home, work)
    assert (work / "add.py").read_text() == "def add(a, b):\n    return a + b\n"
    assert len(student.calls) == 2 and "return a + b" in student.calls[1].messages[-1].content
