"""Faults of our own disk and files: nothing is lost or paid twice, and each is said with its file and line."""

import base64
import json
import logging
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fakes import trajectory
from fireact.base import jsonl
from fireact.base.redact import guard_secret, hide_secrets, redact, secret_forms
from fireact.base.run_directory import RunDir, read_manifest, read_trajectories
from fireact.data.doctor import DoctorConfig
from fireact.data.mixture import MixConfig, mix
from fireact.data.repair import write_repaired_copy
from fireact.errors import ConfigError, DataError, DiskError
from fireact.models.limits import Endpoint
from fireact.rollout.call_cache import CallCache
from fireact.rollout.collection import CollectConfig, collect
from fireact.types import Call, Completion, Message, Usage

SHORT_WRITES = """
import resource, signal, sys
from pathlib import Path
from fireact.base import jsonl
from fireact.errors import DiskError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = Path(sys.argv[1])
log, returned = jsonl.Appender(file), []
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
try:
    for number in range(20):
        log.append({"number": number, "words": "y" * 150})
        returned.append(number)
except DiskError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
log.append({"number": 99})
print([*returned, 99])
"""


def test_a_line_that_is_not_written_whole_raises_and_leaves_no_trace(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    run = subprocess.run([sys.executable, "-c", SHORT_WRITES, file], capture_output=True, text=True, check=True)
    error, returned = run.stdout.splitlines()
    assert str(file) in error and "Make room" in error
    assert [row["number"] for row in jsonl.read_objects(file)] == json.loads(returned)
    assert len(json.loads(returned)) > 2


def test_a_file_that_replaces_another_leaves_it_where_the_disk_is_full(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    jsonl.replace_text(file, "old")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(DiskError, match=r"manifest\.json: File too large"):
            jsonl.replace_text(file, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"a": float("nan"), "b": [float("inf"), 1.5]}, '{"a":null,"b":[null,1.5]}'),
        ({"a": "x\ud83dy"}, '{"a":"x\N{REPLACEMENT CHARACTER}y"}'),
        ({"\udc00": "\ud83d\ude00"}, '{"\N{REPLACEMENT CHARACTER}":"\U0001f600"}'),
        ({"a": "NaN"}, '{"a":"NaN"}'),
    ],
)
def test_what_json_and_utf_8_cannot_hold_never_leaves_in_a_file(tmp_path: Path, value: Any, line: str) -> None:
    jsonl.write_objects(tmp_path / "a.jsonl", [value])
    with jsonl.Appender(tmp_path / "b.jsonl") as appender:
        appender.append(value)
    for name in ("a.jsonl", "b.jsonl"):
        assert (tmp_path / name).read_text(encoding="utf-8") == f"{line}\n"
    raw = json.dumps(value).encode()
    assert jsonl.loads(jsonl.mend_line(raw)) == json.loads(line)
    if json.loads(raw) == json.loads(line):
        assert jsonl.mend_line(raw) == raw


def test_half_a_surrogate_pair_is_mended_where_a_file_is_read(tmp_path: Path) -> None:
    row = {**trajectory().to_dict(), "model": "half \ud83d of a pair"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    assert [episode.model for episode in read_trajectories(tmp_path / "t.jsonl")] == [
        "half \N{REPLACEMENT CHARACTER} of a pair"
    ]


STEP = {"thought": "", "action": None, "observation": None, "text": ""}
GOOD_STEP = {**STEP, "thought": "t", "action": {"name": "search", "arguments": {"query": "x"}}, "observation": "o"}
FINISH_STEP = {**STEP, "action": {"name": "finish", "arguments": {"answer": "a"}}, "text": "Action: finish[a]"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seconds": "3"}, "seconds is '3'; it must be a number"),
        ({"seconds": float("nan")}, "seconds is nan; it must be a finite number"),
        ({"seed": [1]}, r"seed is \[1\]; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"error": ["x"]}, r"error is \['x'\]; it must be text or null"),
        ({"stop": "tired"}, "stop is 'tired'; it must be one of finish"),
        ({"scores": {"em": 10**400}}, "score em is 1000.*finite number"),
        ({"scores": {"em": "1"}}, "score em is '1'"),
        ({"scores": [1]}, r"scores is \[1\]; it must be an object"),
        ({"usage": {"calls": -1}}, "usage.calls is -1; it must be a finite number from 0"),
        ({"usage": {"calls": "x"}}, "usage.calls is 'x'; it must be a whole number"),
        ({"example": {"id": 1, "question": "q", "answer": "a"}}, "example.id is 1; it must be text"),
        ({"meta": [1]}, "meta is"),
        ({"steps": [{**STEP, "observation": 3}]}, "steps.observation is 3"),
        ({"steps": [{**STEP, "repairs": "2"}]}, "steps.repairs is '2'"),
        ({"steps": [{**STEP, "action": {"name": 1, "arguments": {}}}]}, "steps.action.name is 1"),
    ],
)  # fmt: skip
def test_a_field_of_a_wrong_type_is_named_with_file_and_line(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    row = {**trajectory().to_dict(), **change}
    (tmp_path / "t.jsonl").write_text(jsonl.dumps(trajectory().to_dict()) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"t\.jsonl, line 2: .*{words}"):
        list(read_trajectories(tmp_path / "t.jsonl"))


def test_deep_json_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    deep = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
    (tmp_path / "rows.jsonl").write_text('{"a":1}\n' + deep + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: not JSON \(it is nested too deeply\)"):
        list(jsonl.read_objects(tmp_path / "rows.jsonl"))
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1"):
        list(read_trajectories(tmp_path / "rows.jsonl"))
    (tmp_path / "manifest.json").write_text(deep)
    with pytest.raises(DataError, match="nested too deeply"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("clock", ["", "\x00\x00", "soon"])
def test_a_torn_clock_costs_only_its_seconds(tmp_path: Path, clock: str) -> None:
    with RunDir(tmp_path / "run", verb="x", settings={}):
        pass
    (tmp_path / "run" / ".seconds").write_text(clock)
    with RunDir(tmp_path / "run", verb="x", settings={}) as run:
        assert 0 <= run.seconds < 60


@pytest.mark.parametrize("build", [
    lambda: CollectConfig({"geo-hop/react": -5}), lambda: CollectConfig({"geo-hop/react": 0}),
    lambda: CollectConfig(start=-3), lambda: CollectConfig(workers=0), lambda: CollectConfig(repairs=-1),
    lambda: CollectConfig(temperature=-1.0), lambda: Endpoint(rpm=-1), lambda: Endpoint(timeout=0),
])  # fmt: skip
def test_counts_are_checked_in_the_config(build: Any) -> None:
    with pytest.raises(ConfigError, match=r"must (have at least 1|be (0 or more|at least 1|above 0))"):
        build()


@pytest.mark.parametrize(
    "facts", [{"counts": [1]}, {"counts": {"a": 1}}, {"counts": {"a": {"n": "x"}}}, {"seconds": "fast"}, {"usage": 3},
              {"results": {"geo-hop": []}}, {"history": "where"}, {"agent": {}}],
)  # fmt: skip
def test_an_odd_manifest_is_named_with_its_fact(facts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"verb": "collect", **facts}))
    with pytest.raises(DataError, match=rf"manifest\.json: {next(iter(facts))}\S* is .*; it must be"):
        read_manifest(tmp_path)


SECRET = 'sk/a"b+c=d e\\f-0123456789'


def test_a_secret_is_hidden_in_every_form_in_which_a_text_may_hold_it(tmp_path: Path) -> None:
    guard_secret(f"{SECRET}\n")
    texts = [
        f"Bearer {SECRET}", quote(SECRET), quote(SECRET, safe=""), json.dumps({"key": SECRET}), repr(SECRET),
        *(base64.b64encode(f"{'u' * length}:{SECRET}{'x' * length}".encode()).decode() for length in range(6)),
        base64.urlsafe_b64encode(SECRET.encode()).decode(), str(SECRET.encode()),
        quote(quote(SECRET, safe=""), safe=""),
        quote(SECRET, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d").replace("%5C", "%5c"),
        json.dumps(SECRET).replace("/", "\\u002f"), json.dumps(json.dumps({"key": SECRET})),
    ]  # fmt: skip
    for text in texts:
        hidden = hide_secrets(f"before {text} after")
        assert "[key removed]" in hidden and hidden.startswith("before ") and hidden.endswith(" after")
        assert "0123456789" not in hidden and base64.b64encode(b"0123456789").decode()[3:-4] not in hidden
    assert redact({"a": [SECRET]}) == {"a": ["[key removed]"]}
    jsonl.write_objects(tmp_path / "a.jsonl", [{"error": f"wrong key {SECRET}"}])
    assert (tmp_path / "a.jsonl").read_text() == '{"error":"wrong key [key removed]"}\n'
    guard_secret("begin-0123"), guard_secret("begin-0123-and-more")
    assert hide_secrets("a begin-0123-and-more b") == "a [key removed] b"
    assert guard_secret("none") == "none" and hide_secrets("none of them") == "none of them"
    assert SECRET in secret_forms(SECRET)


def run_settings(**changes: Any) -> CollectConfig:
    return CollectConfig({"geo-hop/react": 4}, **changes)


def test_a_second_and_a_blank_line_are_mended_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    collect(run_settings(), tmp_path / "run")
    file = tmp_path / "run" / "trajectories.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    (tmp_path / "run" / "manifest.json").unlink()
    file.write_bytes(b"".join([lines[2], b"\n", lines[0], lines[2], b" \n", lines[1]]))
    with caplog.at_level(logging.WARNING):
        assert collect(run_settings(), tmp_path / "run")["counts"]["geo-hop/react"]["n"] == 4
    assert file.read_bytes() == b"".join(lines) and "holds 1 episodes a second time" in caplog.text


def test_an_episode_of_another_run_is_refused_before_anything_is_called(tmp_path: Path) -> None:
    collect(run_settings(), tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    with (tmp_path / "run" / "trajectories.jsonl").open("a") as file:
        file.write(jsonl.dumps(trajectory().to_dict()) + "\n")
    with pytest.raises(DataError, match=r"trajectories\.jsonl holds the episode small/train-0/react/0"):
        collect(run_settings(), tmp_path / "run")


class CountingLM:
    """An LM that counts its calls."""

    name = "counting"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def complete(self, call: Call) -> Completion:
        self.calls.append(call.messages[-1].content)
        return Completion("half \ud83d of a pair" + "x" * 3000, Usage(1, 1, 0, 1), "stop", 0.1)


def test_no_call_is_made_once_an_answer_cannot_be_stored(tmp_path: Path) -> None:
    cache, lm = CallCache(tmp_path / "calls.sqlite"), CountingLM()
    cached: Any = cache.wrap_lm("counting", lambda: lm)
    assert cached.complete(Call([Message("user", "0")])).text.startswith("half \N{REPLACEMENT CHARACTER} of")
    assert (tmp_path / "calls.sqlite.reserve").stat().st_size == 1 << 20
    page_count = cache._execute("PRAGMA page_count")[0][0]
    cache._execute(f"PRAGMA max_page_count = {page_count}")
    with pytest.raises(DiskError, match=r"cannot keep calls in .*calls\.sqlite: database or disk is full"):
        for number in range(1, 1000):
            cached.complete(Call([Message("user", str(number))]))
    calls = list(lm.calls)
    with pytest.raises(DiskError):
        cached.complete(Call([Message("user", "another")]))
    assert lm.calls == calls
    del cached, cache
    again: Any = CallCache(tmp_path / "calls.sqlite").wrap_lm("counting", lambda: lm)
    for content in calls[:-1]:
        again.complete(Call([Message("user", content)]))
    assert lm.calls == calls, "what was answered before is not paid for again"


def test_a_damaged_file_of_calls_ends_the_run_with_its_path(tmp_path: Path) -> None:
    collect(run_settings(), tmp_path / "run")
    file = tmp_path / "run" / "calls.sqlite"
    content = bytearray(file.read_bytes())
    for start in range(4096, len(content), 4096):
        content[start : start + 64] = b"\xff" * 64
    file.write_bytes(content)
    (tmp_path / "run" / "manifest.json").unlink()
    (tmp_path / "run" / "trajectories.jsonl").unlink()
    with pytest.raises(DiskError, match=r"cannot keep calls in .*calls\.sqlite: .*damaged\. Move it away"):
        collect(run_settings(), tmp_path / "run")
    file.write_bytes(b"no database at all")
    with pytest.raises(DataError, match=r"calls\.sqlite: file is not a database"):
        collect(run_settings(), tmp_path / "run")
    file.unlink()
    assert collect(run_settings(), tmp_path / "run")["counts"]["geo-hop/react"]["n"] == 4


@pytest.mark.parametrize(
    ("step", "is_mended"),
    [
        ({"observation": "half \ud83d", "text": "t"}, True),
        ({"action": {"name": "search", "arguments": {"query": "x", "limit": float("inf")}}}, True),
        ({"text": "NaN and \\ud83d are words here"}, False),
    ],
)
def test_copies_of_lines_are_mended_and_said_too(tmp_path: Path, step: dict[str, Any], is_mended: bool) -> None:
    row = {**trajectory(steps=2).to_dict(), "steps": [{**GOOD_STEP, **step}, FINISH_STEP]}
    raw = json.dumps(row) + "\n"
    (tmp_path / "t.jsonl").write_text(raw)
    write_repaired_copy(DoctorConfig(str(tmp_path / "t.jsonl")), tmp_path / "fixed")
    mix(MixConfig([str(tmp_path / "t.jsonl")], where=["finished"]), tmp_path / "mix")
    changes = (tmp_path / "fixed" / "changes.jsonl").read_text()
    assert ("values mended" in changes) == is_mended
    for copy in (tmp_path / "fixed" / "trajectories.jsonl", tmp_path / "mix" / "trajectories.jsonl"):
        assert (copy.read_text() == raw) == (not is_mended)
        assert is_mended == ("\N{REPLACEMENT CHARACTER}" in copy.read_text() or '"limit":null' in copy.read_text())
