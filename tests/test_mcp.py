"""``mcp:``: the tools of a real server process, over stdio and HTTP, from many threads, and when it fails."""

from __future__ import annotations

import gc
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import Small
from fireact.base import names
from fireact.errors import ConfigError, FireactError, ProviderError
from fireact.methods.react import ReAct
from fireact.models.replies import Replies
from fireact.render.react import ReActRenderer
from fireact.rollout.episodes import Agent, Episode, run_episode
from fireact.rollout.loading import load_tools
from fireact.tools.mcp import MAX_CHARS, MCPTool, connect_server, parse_target, safe_name

SCRIPT = Path(__file__).with_name("mcp_server.py")
COMMAND = shlex.join([sys.executable, str(SCRIPT)])
Tools = dict[str, MCPTool]


def built(spec: str) -> Tools:
    return {tool.name: tool for tool in names.build_plugin("tool", spec)}


def gone(pid: int) -> bool:
    """Whether a process ends; a zombie has ended."""
    for _ in range(12_000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except OSError:
            return True
        time.sleep(0.05)
    return False


def pid(tools: Tools) -> int:
    """The process that answers, however often that takes longer than a tool may."""
    while True:
        try:
            return int(tools["now"]().split()[-1])
        except ProviderError as error:
            if "took longer" not in str(error):
                raise


def served(port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(port)], stdout=-3, stderr=-3)
    for _ in range(12_000):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def http(port: int) -> Iterator[Tools]:
    process = served(port)
    tools = built(f"mcp:http://127.0.0.1:{port}/mcp")
    yield tools
    tools["add"].close()
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def stdio() -> Iterator[Tools]:
    tools = built(f"mcp:{COMMAND}")
    yield tools
    tools["add"].close()


@pytest.fixture(params=["stdio", "http"])
def tools(request: pytest.FixtureRequest) -> Tools:
    found: Tools = request.getfixturevalue(request.param)
    return found


def test_tools_are_listed_under_names_that_actions_can_carry(tools: Tools) -> None:
    assert list(tools) == ["add", "square_of", "now", "environment", "fail", "slow", "meet", "crash", "picture", "many"]
    assert tools["add"].description == "Adds two numbers."
    assert tools["now"].parameters["properties"] == {}
    assert {tool.fingerprint for tool in tools.values()} == {tools["add"].fingerprint}
    assert tools["add"].fingerprint.startswith("mcp:sums-1.2:")


def test_what_tools_say(tools: Tools) -> None:
    assert tools["add"](a=1, b=2) == "3"
    assert tools["square_of"](number="4") == "16"
    assert tools["picture"](size=3) == "see\n[image image/png]\na note"
    assert tools["many"](letters=MAX_CHARS + 7) == "x" * MAX_CHARS + " [... 7 more characters]"
    assert tools["many"](letters=0) == "(no output)"


def test_what_a_tool_refuses_is_an_observation(tools: Tools) -> None:
    assert tools["fail"](why="too late").startswith("Error: ") and "too late" in tools["fail"](why="too late")
    assert tools["add"](a="one", b=2).startswith("Error: ")
    assert tools["add"](a=1).startswith("Error: ")


def test_many_threads_call_at_once(tools: Tools) -> None:
    with ThreadPoolExecutor(16) as pool:
        met = list(pool.map(lambda _: tools["meet"](count=8), range(16)))
        sums = list(pool.map(lambda number: tools["add"](a=number, b=1), range(320)))
    assert met == ["met 8"] * 16 and sums == [str(number + 1) for number in range(320)]


def test_the_program_is_started_once_and_ends_with_its_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMS_STARTED", str(tmp_path / "started"))
    tools = built(f"mcp:env=SUMS_STARTED {COMMAND}")
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: tools["now"](), range(64)))) == 1
    process = pid(tools)
    assert (tmp_path / "started").read_text().split() == [str(process)]
    tools.clear()
    gc.collect()
    assert gone(process)


@pytest.mark.parametrize(
    "last",
    ["", "raise SystemExit(3)", "threading.Thread(target=slow, daemon=True).start(); time.sleep(0.2)"],
)
def test_the_program_ends_with_this_one(last: str) -> None:
    code = (
        "import sys, threading, time; from fireact.base import names\n"
        "tools = {tool.name: tool for tool in names.build_plugin('tool', sys.argv[1])}\n"
        "def slow():\n    try: tools['slow'](seconds=9)\n    except Exception: pass\n"
        f"print(tools['now'](), flush=True)\n{last}"
    )
    done = subprocess.run([sys.executable, "-c", code, f"mcp:{COMMAND}"], capture_output=True, text=True, timeout=600)
    assert done.stderr == "" and gone(int(done.stdout.split()[-1]))


def test_a_killed_parent_takes_the_program_with_it() -> None:
    code = (
        "import sys, time; from fireact.base import names\n"
        "tools = {tool.name: tool for tool in names.build_plugin('tool', sys.argv[1])}\n"
        "print(tools['now'](), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, f"mcp:{COMMAND}"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline().split()[-1])
        parent.send_signal(signal.SIGKILL)
    assert gone(process)


def test_a_crash_is_one_clear_error_and_the_next_call_connects_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMS_KEY", "hush-hush")
    tools = built(f"mcp:env=SUMS_KEY {COMMAND}")
    before = pid(tools)
    with pytest.raises(ProviderError) as caught:
        tools["crash"](code=3)
    message = str(caught.value)
    assert SCRIPT.name in message and "'crash'" in message and "all is lost" in message
    assert "hush-hush" not in message and "hush-hush" not in repr(tools)
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: tools["now"](), range(32)))) == 1
    assert pid(tools) != before and gone(before)
    tools["add"].close()


def test_calls_in_flight_fail_with_a_crash_and_none_hangs(stdio: Tools) -> None:
    def outcome(number: int) -> str:
        try:
            return stdio["crash"](code=1) if number == 0 else stdio["slow"](seconds=600)
        except ProviderError as error:
            return str(error)

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(outcome, range(8)))
    assert all("was lost during" in text for text in said)
    assert stdio["add"](a=1, b=1) == "2"


def test_a_server_that_stays_away_or_comes_back_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port_of_another = int(free.getsockname()[1])
    process = served(port_of_another)
    tools = built(f"mcp:http://127.0.0.1:{port_of_another}/mcp")
    process.kill()
    process.wait()
    for said in ("was lost during 'now'", "cannot be reached", "cannot be reached"):
        with pytest.raises(ProviderError, match=said):
            tools["now"]()
    process = served(port_of_another)
    assert tools["add"](a=1, b=1) == "2"
    process.kill()
    process.wait()
    with pytest.raises(ProviderError, match="was lost"):
        tools["now"]()
    monkeypatch.setenv("SUMS_VERSION", "2.0")
    other = served(port_of_another)
    with pytest.raises(ProviderError, match=r"another server .*sums-2\.0.*sums-1\.2"):
        tools["now"]()
    tools["add"].close()
    other.kill()
    other.wait()


@pytest.mark.parametrize("where", ["stdio", "http"])
def test_a_slow_tool_is_given_up_and_the_connection_stands(where: str, port: int, http: Tools) -> None:
    tools = built(f"mcp:timeout=0.3 {COMMAND if where == 'stdio' else f'http://127.0.0.1:{port}/mcp'}")
    before = pid(tools)
    with pytest.raises(ProviderError, match=r"'slow' took longer than 0\.3 s"):
        tools["slow"](seconds=600)
    assert pid(tools) == before
    tools["add"].close()


def test_a_closed_server_says_so() -> None:
    tools = built(f"mcp:{COMMAND}")
    process = pid(tools)
    tools["add"].close()
    tools["add"].close()
    assert gone(process)
    with pytest.raises(ProviderError, match="is closed"):
        tools["now"]()


def test_the_program_sees_the_variables_that_were_named_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMS_KEY", "hush-hush")
    monkeypatch.setenv("OTHER_KEY", "no business of a tool")
    plain, given = built(f"mcp:only=environment {COMMAND}"), built(f"mcp:env=SUMS_KEY,only=environment {COMMAND}")
    assert list(plain) == ["environment"]
    assert plain["environment"](name="SUMS_KEY") == "not set"
    assert given["environment"](name="SUMS_KEY") == "[key removed]", "it sees the value, which leaves with no text"
    assert given["environment"](name="OTHER_KEY") == "not set"
    assert given["environment"].fingerprint == plain["environment"].fingerprint
    plain["environment"].close()
    given["environment"].close()


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        ("nonesuch-program x", ConfigError, "no program 'nonesuch-program'"),
        ("FOO=hush-hush python x", ConfigError, "mcp:env=FOO"),
        ("'", ConfigError, "quotes"),
        ("", ConfigError, "needs a command or a URL"),
        ("env=NOT_THERE_X cat", ConfigError, "NOT_THERE_X"),
        ("timeout=0 cat", ConfigError, "number of seconds"),
        ("timeout=nan cat", ConfigError, "number of seconds"),
        ("https://me:hush-hush@host/mcp", ConfigError, "env=TOKEN"),
        ("https://host/mcp?exaApiKey=hush-hush", ConfigError, "env=TOKEN"),
        ("http://", ConfigError, "no host"),
        ("http://host:port/", ConfigError, "no host"),
        ("env=A,env=B https://host/mcp", ConfigError, "one variable"),
        (f"only=divide {COMMAND}", ConfigError, "no tool divide"),
        ("http://127.0.0.1:1/mcp?project=hush-hush", ProviderError, "http://127.0.0.1:1/mcp cannot be reached"),
        ("http://nowhere.invalid/mcp", ProviderError, "nowhere.invalid"),
        ("false", ProviderError, "mcp:false cannot be reached"),
        ("cat", ProviderError, "mcp:cat cannot be reached"),
    ],
)
def test_what_cannot_be_used_is_said(spec: str, kind: type[FireactError], said: str) -> None:
    with pytest.raises(kind) as caught:
        names.build_plugin("tool", f"mcp:{spec}")
    assert said in str(caught.value) and "hush-hush" not in str(caught.value)


def test_a_wrong_path_of_a_server(port: int, http: Tools) -> None:
    with pytest.raises(ProviderError, match="Not Found"):
        names.build_plugin("tool", f"mcp:http://127.0.0.1:{port}/wrong")


CLASHING = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("clash")
for name in {names!r}:
    server.tool(name=name)(lambda x: x)
server.run()
"""


@pytest.mark.parametrize(
    ("own", "said"), [(["a.b", "A_b"], "'a_b', as 'a.b' is"), (["Finish"], "ends an episode"), ([], "no tool at all")]
)
def test_names_that_clash_are_refused(own: list[str], said: str, tmp_path: Path) -> None:
    script = tmp_path / "clash.py"
    script.write_text(CLASHING.format(names=own).replace("lambda x: x", "lambda: 'x'"))
    with pytest.raises(ConfigError) as caught:
        names.build_plugin("tool", f"mcp:{shlex.join([sys.executable, str(script)])}")
    assert said in str(caught.value)


@given(st.text(max_size=100))
def test_every_safe_name_is_one_that_an_action_carries(name: str) -> None:
    action = ReActRenderer().parse(f"Action: {safe_name(name)}[x]").action
    assert action is not None and action.name == safe_name(name) and len(action.name) <= 64


@given(st.text(max_size=60))
def test_every_spec_is_read_or_refused(spec: str) -> None:
    try:
        target = parse_target(spec)
    except ConfigError:
        return
    assert bool(target.command) != bool(target.url)


def test_options_stand_before_the_command() -> None:
    target = parse_target("env=PATH,env=HOME,timeout=2.5,only=add cat --env=x 'two words'")
    assert target.env == ("PATH", "HOME") and target.timeout == 2.5 and target.only == ("add",)
    assert target.command == ("cat", "--env=x", "two words")
    assert parse_target("https://host/mcp?env=x").url == "https://host/mcp?env=x"


def test_an_agent_uses_them_in_text(stdio: Tools) -> None:
    lm = Replies(
        [
            "Thought: a\nAction: Square_Of[4]",
            'Thought: b\nAction: add[{"a": 1, "b": 2}]',
            "Thought: c\nAction: now[]",
            "Thought: d\nAction: environment[NO_SUCH]",
            "Thought: e\nAction: add[1]",
            "Thought: f\nAction: finish[a]",
        ]
    )
    task = Small()
    agent = Agent(lm=lm, method=ReAct(), tools=stdio)
    done = run_episode(Episode(task=task, example=task.examples("test")[0], agent=agent))
    said = [step.observation for step in done.steps]
    assert said[:2] == ["16", "3"] and (said[2] or "").startswith("process ")
    assert said[3] == "not set"
    assert said[4] == 'add takes a, b; it was given input. Write add[{"a": "...", "b": "..."}].'
    assert done.stop == "finish" and done.scores["em"] == 1


def test_a_crash_is_a_fault_of_the_episode_and_not_a_wrong_answer(stdio: Tools) -> None:
    task = Small()
    agent = Agent(lm=Replies(["Thought: a\nAction: crash[1]"]), method=ReAct(), tools=stdio)
    done = run_episode(Episode(task=task, example=task.examples("test")[0], agent=agent))
    assert done.stop == "error" and not done.scores and "was lost during 'crash'" in (done.error or "")


def test_load_tools_takes_them_beside_others() -> None:
    found = load_tools(["search", f"mcp:only=add,only=now {COMMAND}"])
    assert list(found) == ["search", "add", "now"]
    assert str(found["add"](a=2, b=2)) == "4"
    close: Callable[[], None] = found["add"].close  # type: ignore[attr-defined]
    close()


def test_a_python_caller_has_the_same() -> None:
    tools = connect_server(parse_target(COMMAND))
    assert tools[0](a=2, b=2) == "4"
    tools[0].close()


def test_the_example_runs() -> None:
    example = Path(__file__).parents[1] / "examples" / "mcp_tool.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.splitlines() == ["Lima None Lima", "None none Lima"]


RAW = shlex.join([sys.executable, str(Path(__file__).with_name("mcp_raw_server.py"))])


def call_raw(mode: str, options: str = "timeout=20") -> tuple[MCPTool, str]:
    """A tool of the server that speaks badly, and what it says."""
    tool = next(iter(built(f"mcp:{options} {RAW} {mode}").values()))
    try:
        return tool, tool(q="x")
    finally:
        tool.close()


@pytest.mark.parametrize(
    ("mode", "observation"),
    [
        ("structured", 'Warm.\n{"temperature": 21}'), ("only", '{"temperature": 21}'),
        ("repeated", '{"temperature":21}'), ("wrapped", "21"), ("escapes", "plain[2J"),
        ("bytes", "half \N{REPLACEMENT CHARACTER}"),
    ],
)  # fmt: skip
def test_what_a_result_holds_is_shown_once_and_gives_no_orders(mode: str, observation: str) -> None:
    assert call_raw(mode)[1] == observation


def test_banners_on_stdout_are_ignored_and_said_once(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call_raw("banner")[1] == "fine"
    messages = [record.getMessage() for record in caplog.records if record.name == "fireact"]
    assert len(messages) == 1 and "such as: Welcome!" in messages[0]
    assert "Traceback" not in capfd.readouterr().err


def test_long_descriptions_are_cut_and_said_and_long_schemas_refused(caplog: pytest.LogCaptureFixture) -> None:
    tool, _ = call_raw("long")
    assert len(tool.description) < 2100 and tool.description.endswith("[... 2998000 characters more]")
    assert len(tool.parameters["properties"]["q"]["description"]) < 2100
    assert "t0: a description of 3000000 characters is cut" in caplog.text
    tool, _ = call_raw("plain")
    assert tool.description == "[31mred text" == tool.parameters["properties"]["q"]["description"]
    with pytest.raises(ConfigError, match=r"t0: its parameters take .* characters of every prompt"):
        call_raw("wide")


def test_more_than_a_hundred_pages_of_tools_are_said(caplog: pytest.LogCaptureFixture) -> None:
    assert len(built(f"mcp:{RAW} pages")) == 100
    assert "more than 100 pages of tools; the first 100 tools are used" in caplog.text


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("surrogate", "its answer cannot be read as JSON"),
        ("invalid", "its answer does not follow the protocol: content.0.TextContent.text: Field required"),
    ],
)
def test_an_invalid_answer_is_an_error_of_one_line_without_a_wait(mode: str, words: str) -> None:
    with pytest.raises(ProviderError, match=words) as caught:
        call_raw(mode)
    assert "\n" not in str(caught.value)


def test_the_value_of_a_variable_leaves_in_no_observation_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAW_KEY", "hush-hush-0123")
    assert call_raw("key", "env=RAW_KEY")[1] == "the key is [key removed]"
    with pytest.raises(ProviderError, match=r"failed at 't0' \(no \[key removed\]\[31m\)"):
        call_raw("refuses", "env=RAW_KEY")
