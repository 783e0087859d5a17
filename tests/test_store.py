"""Run directories and JSONL: nothing finished is lost or overwritten, and what is wrong is said with its place."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import trajectory
from fireact.base import jsonl
from fireact.base.machine import require_disk, require_memory
from fireact.base.run_directory import RunDir, read_config, read_manifest, read_trajectories
from fireact.errors import ConfigError, DataError
from fireact.types import Action, Example, Step, Trajectory, Usage

text = st.text(st.characters(blacklist_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=5,
)
stored = st.builds(
    Trajectory,
    task=text,
    example=st.builds(Example, text, text, text, st.dictionaries(text, json_values)),
    method=text,
    model=text,
    seed=st.integers(),
    steps=st.lists(
        st.builds(
            Step, text, st.none() | st.builds(Action, text, st.dictionaries(text, json_values)), st.none() | text, text
        )
    ).map(tuple),
    stop=st.sampled_from(["finish", "max_steps", "format", "error"]),
    scores=st.dictionaries(text, st.floats(0, 1)),
    usage=st.builds(Usage, st.integers(0), st.integers(0), st.integers(0), st.integers(0)),
    seconds=st.floats(0, 1e6),
    error=st.none() | text,
)


@given(stored)
def test_a_trajectory_survives_json(tmp_path_factory: pytest.TempPathFactory, value: Trajectory) -> None:
    file = tmp_path_factory.mktemp("jsonl") / "t.jsonl"
    jsonl.write_objects(file, [value.to_dict()])
    assert list(read_trajectories(file)) == [value]


def test_a_torn_line_is_named_when_read_and_cut_when_appended(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(b'{"a":1}\n{"a":2')
    with pytest.raises(DataError, match="line 2: not JSON"):
        list(jsonl.read_objects(file))
    with jsonl.Appender(file) as appender:
        appender.append({"a": 3})
    assert [row["a"] for row in jsonl.read_objects(file)] == [1, 3]


@pytest.mark.parametrize("line", [b"[1]", b"\xff\xfe", b"nul"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(b'{"a":1}\n' + line + b"\n")
    with pytest.raises(DataError, match="line 2"):
        list(jsonl.read_objects(file))


def test_a_row_that_is_no_trajectory_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    jsonl.write_objects(file, [trajectory().to_dict(), {"question": "?"}])
    with pytest.raises(DataError, match="line 2: not a trajectory"):
        list(read_trajectories(file))


def test_an_unreadable_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        list(jsonl.read_objects(tmp_path / "absent.jsonl"))


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    with RunDir(tmp_path / "r", verb="collect", settings={"n": 1, "x": None}) as run:
        jsonl.write_objects(run.path / "trajectories.jsonl", [])
    with RunDir(tmp_path / "r", verb="collect", settings={"n": 1}) as run:
        assert not run.complete
    with pytest.raises(DataError, match="n: 1 there, 2 now"), RunDir(tmp_path / "r", verb="collect", settings={"n": 2}):
        pass


def test_a_run_that_wrote_nothing_binds_nobody(tmp_path: Path) -> None:
    for verb, settings in (("mix", {"n": 1}), ("mix", {"n": 2}), ("train", {"n": 3})):
        with pytest.raises(KeyError), RunDir(tmp_path / "r", verb=verb, settings=settings):
            raise KeyError("refused before anything was written")
        assert read_config(tmp_path / "r") == {"verb": verb, **settings}


def test_force_starts_anew_but_only_in_a_run_directory(tmp_path: Path) -> None:
    with RunDir(tmp_path / "r", verb="collect", settings={"n": 1}) as run:
        run.finish(count=1)
    with RunDir(tmp_path / "r", verb="collect", settings={"n": 2}, force=True) as run:
        assert not run.complete
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    for force in (True, False):
        with (
            pytest.raises(DataError, match="no run directory"),
            RunDir(tmp_path / "mine", verb="mix", settings={}, force=force),
        ):
            pass
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("force", [True, False])
def test_a_run_of_another_verb_is_never_emptied(tmp_path: Path, force: bool) -> None:
    with RunDir(tmp_path / "r", verb="eval", settings={"n": 1}) as run:
        run.finish(count=1)
    with (
        pytest.raises(DataError, match=r"is a run of 'fireact eval'\. Choose another -o\.$"),
        RunDir(tmp_path / "r", verb="report", settings={"runs": ["r"]}, force=force),
    ):
        pass
    assert read_manifest(tmp_path / "r")["count"] == 1


@pytest.mark.parametrize("read", ["", "inner", "trajectories.jsonl"])
def test_force_deletes_nothing_that_is_yet_to_be_read(tmp_path: Path, read: str) -> None:
    out = tmp_path / "r"
    with RunDir(out, verb="mix", settings={}) as run:
        (out / "inner").mkdir()
        jsonl.write_objects(out / "trajectories.jsonl", [trajectory().to_dict()])
        run.finish()
    (tmp_path / "link").symlink_to(out)
    for place in (out / read, tmp_path / "link" / read):
        with (
            pytest.raises(DataError, match=r"would delete .* before it is read"),
            RunDir(out, verb="mix", settings={"given": {"sources": ["/elsewhere", str(place)]}}, force=True),
        ):
            pass
    assert len(list(read_trajectories(out))) == 1


def test_a_file_where_a_run_is_asked_for_is_said_to_be_one(tmp_path: Path) -> None:
    jsonl.write_objects(tmp_path / "t.jsonl", [trajectory().to_dict()])
    with pytest.raises(DataError, match=r"is a file\. Give the directory of a run"):
        read_config(tmp_path / "t.jsonl")


def test_a_second_writer_is_told_and_stops(tmp_path: Path) -> None:
    with RunDir(tmp_path, verb="mix", settings={}), pytest.raises(DataError, match="another process"):
        RunDir(tmp_path, verb="mix", settings={}).__enter__()


def test_a_manifest_means_complete(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fireact resume"):
        read_manifest(tmp_path)
    with RunDir(tmp_path, verb="mix", settings={}) as run:
        jsonl.write_objects(tmp_path / "trajectories.jsonl", [trajectory().to_dict()])
        manifest = run.finish(count=1)
    assert read_manifest(tmp_path) == manifest
    assert (
        set(manifest) == {"verb", "seconds", "count", "sha256", "versions"}
        and len(manifest["sha256"]["trajectories.jsonl"]) == 64
    )


def test_seconds_add_up_over_interrupted_runs(tmp_path: Path) -> None:
    with RunDir(tmp_path, verb="mix", settings={}):
        pass
    (tmp_path / ".seconds").write_text("100.0\n")
    with RunDir(tmp_path, verb="mix", settings={}) as run:
        assert run.finish()["seconds"] >= 100.0


def test_too_little_disk_or_memory_is_said_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="GB of free disk"):
        require_disk(tmp_path / "not" / "yet", gigabytes=1e9)
    with pytest.raises(ConfigError, match=r"1.0 GB of memory are available; this needs about 2.0 GB"):
        require_memory(gigabytes=2.0, available=lambda: 1.0)


def test_a_command_to_go_on_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    own = tmp_path / "my runs" / "a|b"
    own.mkdir(parents=True)
    with pytest.raises(DataError) as raised:
        read_manifest(own)
    assert shlex.split(str(raised.value).partition("Run: ")[2]) == ["fireact", "resume", str(own)]
