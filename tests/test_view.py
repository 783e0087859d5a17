"""The live view: new lines come once and whole, whatever happens to the files, and nobody reads along from
elsewhere."""

from __future__ import annotations

import base64
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from arbitrary import json_values
from fakes import trajectory
from fireact.base import jsonl
from fireact.base.jsonl import Appender, dumps
from fireact.base.run_directory import RunDir
from fireact.errors import ConfigError, DataError
from fireact.evaluation.summary import summarise_trajectories
from fireact.reporting.watch import find_watched_runs, read_updates

pytest.importorskip("starlette")
from fireact.reporting.view import _render_page, start_view
from launches import ForkedCommand


def run_dir(path: Path, verb: str = "eval", **settings: Any) -> Path:
    with RunDir(path, verb=verb, settings={"agent": "m", "tasks": ["small"], "n": 4, "tools": ["search"], **settings}):
        pass
    return path


def append(path: Path, *indexes: int) -> None:
    with Appender(path / "trajectories.jsonl") as file:
        for index in indexes:
            file.append(trajectory(index).to_dict())


def ids(update: dict[str, Any]) -> list[str]:
    return [episode["id"] for episode in update["episodes"]]


def test_each_line_comes_once_and_a_torn_one_when_it_is_whole(tmp_path: Path) -> None:
    path = run_dir(tmp_path / "eval")
    append(path, 0, 1)
    runs = find_watched_runs([path])
    first = read_updates(runs, {})
    assert ids(first) == ["train-0", "train-1"] and first["runs"][0]["total"] == 4 and not first["runs"][0]["complete"]
    line = dumps(trajectory(2).to_dict()).encode() + b"\n"
    with (path / "trajectories.jsonl").open("ab") as file:
        file.write(line[:40])
    second = read_updates(runs, first["seen"])
    assert ids(second) == [] and not second["dropped"]
    with (path / "trajectories.jsonl").open("ab") as file:
        file.write(line[40:])
    third = read_updates(runs, second["seen"])
    assert ids(third) == ["train-2"] and ids(read_updates(runs, third["seen"])) == []


def test_a_file_that_was_put_in_order_is_read_again(tmp_path: Path) -> None:
    path = run_dir(tmp_path / "eval")
    append(path, 1, 0)
    runs = find_watched_runs([path])
    seen = read_updates(runs, {})["seen"]
    file = path / "trajectories.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    (path / "new").write_bytes(b"".join(reversed(lines)))
    (path / "new").replace(file)
    again = read_updates(runs, seen)
    assert again["dropped"] == ["eval"] and ids(again) == ["train-0", "train-1"]


def test_what_is_no_trajectory_is_counted_and_passed_over(tmp_path: Path) -> None:
    path = run_dir(tmp_path / "eval")
    (path / "trajectories.jsonl").write_text('{"task": 3}\nnonsense\n' + dumps(trajectory(0).to_dict()) + "\n")
    update = read_updates(find_watched_runs([path]), {})
    assert ids(update) == ["train-0"] and update["runs"][0]["unreadable"] == 2
    assert read_updates(find_watched_runs([path]), update["seen"])["runs"][0]["unreadable"] == 2


def test_much_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_dir(tmp_path / "eval")
    append(path, *range(20))
    monkeypatch.setattr("fireact.reporting.watch.AT_A_TIME", 2000)
    found: list[str] = []
    update: dict[str, Any] = {"seen": {}, "more": True}
    while update["more"]:
        update = read_updates(find_watched_runs([path]), update["seen"])
        assert len(update["episodes"]) < 20
        found += ids(update)
    assert found == [f"train-{index}" for index in range(20)]


@given(json_values())
def test_whatever_is_said_to_be_seen_is_taken(value: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = run_dir(Path(folder) / "eval")
        append(path, 0)
        assert len(read_updates(find_watched_runs([path]), {"eval": value})["episodes"]) <= 1


def test_runs_are_found_below_a_directory_and_named_apart(tmp_path: Path) -> None:
    for name in ("a/eval", "b/eval", "b/train"):
        run_dir(tmp_path / name)
        append(tmp_path / name, 0)
    (tmp_path / "b/train/trajectories.jsonl").rename(tmp_path / "b/train/log.jsonl")
    (tmp_path / "b/train/log.jsonl").write_text('{"step": 7, "loss": 0.5}\n{"st')
    assert {run.name for run in find_watched_runs([tmp_path])} == {"a/eval", "b/eval", "b/train"}
    assert {run.name for run in find_watched_runs([tmp_path / "a", tmp_path / "b"])} == {"a/eval", "b/eval", "b/train"}
    states = {run["name"]: run for run in read_updates(find_watched_runs([tmp_path]), {})["runs"]}
    assert states["b/train"]["steps"] == 7 and states["b/train"]["loss"] == 0.5
    assert find_watched_runs([run_dir(tmp_path / "new")]) == []  # begun, and nothing written yet
    with pytest.raises(DataError, match=r"there is no .*nothing"):
        find_watched_runs([tmp_path / "nothing"])


class Viewing:
    """``fireact view`` in a child process, on a free port."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.child = ForkedCommand("view", *arguments, "--port", "0", **environment)
        assert self.child.stderr is not None
        line = self.child.stderr.readline()
        assert " at http" in line, line + self.child.stderr.read()
        self.url = line.split(" at ")[1].split()[0]

    def ask(self, path: str = "", data: Any = None, **headers: str) -> tuple[int, str]:
        body = None if data is None else json.dumps(data).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, body, named), timeout=600) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self) -> int:
        self.child.send_signal(signal.SIGINT)
        status = self.child.wait(600)
        assert self.child.stderr is not None
        self.child.stderr.close()
        return status


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[tuple[Path, Viewing]]:
    path = run_dir(tmp_path / "eval")
    append(path, 0)
    viewing = Viewing(str(path))
    yield path, viewing
    if viewing.child.poll() is None:
        viewing.stop()


def test_the_page_is_served_and_follows_the_run(growing: tuple[Path, Viewing]) -> None:
    path, viewing = growing
    status, page = viewing.ask()
    assert status == 200 and "connect-src &#39;self&#39;" in page and 'id="report"' not in page
    first = json.loads(viewing.ask("updates", {"seen": {}})[1])
    append(path, 1, 2)
    second = json.loads(viewing.ask("updates", {"seen": first["seen"]})[1])
    assert ids(first) == ["train-0"] and ids(second) == ["train-1", "train-2"]
    own = [trajectory(index) for index in range(3)]
    with RunDir(path, verb="eval", settings={"agent": "m", "tasks": ["small"], "n": 4, "tools": ["search"]}) as run:
        results = {"small": summarise_trajectories(own).to_dict()}
        run.finish(agent="m", description="a model", tuned=False, tools={"search": "x"}, results=results)
    assert json.loads(viewing.ask("updates", {"seen": second["seen"]})[1])["runs"][0]["complete"]
    assert 'id="report"' in viewing.ask()[1]
    assert viewing.ask("updates")[0] == 405 and viewing.ask("elsewhere")[0] == 404
    assert viewing.ask("updates", "x" * 2_000_000)[0] == 413
    assert viewing.stop() == 0


def complete(path: Path, *, tools: str = "x", wrong: int = 0) -> Path:
    """A complete evaluation of four questions, the first of them answered wrong."""
    run_dir(path)
    own = [trajectory(index, em=float(index >= wrong)) for index in range(4)]
    with Appender(path / "trajectories.jsonl") as file:
        for one in own:
            file.append(one.to_dict())
    with RunDir(path, verb="eval", settings={"agent": "m", "tasks": ["small"], "n": 4, "tools": ["search"]}) as run:
        results = {"small": summarise_trajectories(own).to_dict()}
        run.finish(agent="scripted:expert", description="m", tuned=False, tools={"search": tools}, results=results)
    return path


def embedded_in(page: str) -> Any:
    return json.loads(page.partition('id="report-data">')[2].partition("</script>")[0])


def test_a_run_of_the_report_has_the_name_of_its_agent_and_no_section_is_empty(tmp_path: Path) -> None:
    page = _render_page([complete(tmp_path / "one", wrong=1), run_dir(tmp_path / "two")])
    data = embedded_in(page)
    assert data["measures"] == {"one": "scripted:expert"} and data["complete"] == ["one"]
    assert data["browser"]["runs"] == [{"name": "scripted:expert", "label": "script", "series": 0}]
    assert "agent=scripted%3Aexpert" in page and 'id="cases"' not in page and 'href="#cases"' not in page


def test_runs_that_do_not_compare_are_said_and_the_others_reported(tmp_path: Path) -> None:
    page = _render_page([complete(tmp_path / "one"), complete(tmp_path / "two", tools="other")])
    assert 'id="report"' in page and "different tools" in page.partition("</main>")[0]
    data = embedded_in(page)
    assert data["measures"] == {"one": "scripted:expert"} and data["complete"] == ["one", "two"]


def test_a_study_that_is_complete_is_seen_as_its_cells(tmp_path: Path) -> None:
    with RunDir(tmp_path, verb="study", settings={"study": "s", "size": "small"}) as run:
        for name in ("a", "b"):
            complete(tmp_path / "eval" / name)
        rows = [{"cell": f"cell {name}", "axes": {}, "against": {}, "stages": [f"eval/{name}"]} for name in ("a", "b")]
        (tmp_path / "results.jsonl").write_text("".join(dumps(row) + "\n" for row in rows))
        run.finish(title="Two cells")
    assert embedded_in(_render_page([tmp_path]))["measures"] == {"eval/a": "cell a", "eval/b": "cell b"}


def test_a_file_of_episodes_is_read_once_and_again_where_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "scored.jsonl"
    jsonl.write_objects(file, [trajectory(index).to_dict() for index in range(2)])
    (run,) = find_watched_runs([file])
    first = read_updates([run], {})
    assert len(ids(first)) == 2 and first["runs"] == [{"name": "scored.jsonl", "complete": True}]
    assert not read_updates([run], first["seen"])["episodes"]
    jsonl.write_objects(file, [trajectory(index).to_dict() for index in range(3)])
    again = read_updates([run], first["seen"])
    assert len(ids(again)) == 3 and again["dropped"] == ["scored.jsonl"]


def test_only_the_names_of_this_machine_are_answered(growing: tuple[Path, Viewing]) -> None:
    _, viewing = growing
    assert viewing.ask(Host="evil.example")[0] == 403
    assert viewing.ask("updates", {"seen": {}}, Host="evil.example:80")[0] == 403


def test_beyond_loopback_a_key_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_dir(tmp_path / "eval")
    append(path, 0)
    monkeypatch.delenv("FIREACT_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="FIREACT_API_KEY"):
        start_view([path], host="0.0.0.0", port=0)
    viewing = Viewing(str(path), "--host", "0.0.0.0", FIREACT_API_KEY="öpen")
    viewing.url = viewing.url.replace("0.0.0.0", "127.0.0.1")
    try:
        basic = base64.b64encode("anyone:öpen".encode()).decode()
        assert viewing.ask()[0] == 401 and viewing.ask("updates", {})[0] == 401
        assert viewing.ask(Authorization="Basic " + basic)[0] == 200
        assert viewing.ask(Authorization="Basic " + basic[:-4])[0] == 401
        assert viewing.ask("updates", {"seen": {}}, Authorization="Bearer nope")[0] == 401
    finally:
        viewing.stop()


def test_new_episodes_come_into_an_open_page(growing: tuple[Path, Viewing], chromium: Any) -> None:
    import time

    path, viewing = growing
    browser = chromium
    browser.get(viewing.url)
    deadline = time.monotonic() + 600

    def shown(count: int) -> bool:
        return bool(browser.execute_script("return document.querySelectorAll('.row').length === arguments[0]", count))

    while not shown(1) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert shown(1)
    browser.find_element("css selector", ".row").click()
    browser.execute_script("document.querySelector('#detail .question').dataset.read = 1")
    bad = replace(trajectory(1), error="<img src=x onerror='window.hit = 1'>", stop="error", scores={})
    with Appender(path / "trajectories.jsonl") as file:
        file.append(bad.to_dict())
    while not shown(2) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert shown(2) and "1 of 2" in browser.execute_script("return document.getElementById('detail').innerText")
    assert browser.find_elements("css selector", "#detail [data-read]"), "what is being read was drawn again"
    texts = "return [...document.querySelectorAll('#runs tr > *')].map(cell => cell.innerText)"
    cells = browser.execute_script(texts)  # at once: the table is drawn again whenever the run goes on
    assert cells[0] == "eval" and cells[1] == "2 of 4" and "100.0%" in cells[3] and cells[4] == "1"
    assert browser.execute_script("return window.hit ?? null") is None


def test_a_number_of_the_report_leads_to_its_episodes(tmp_path: Path, chromium: Any) -> None:
    import time

    viewing = Viewing(str(complete(tmp_path / "directory", wrong=1)))
    browser = chromium
    try:
        browser.get(viewing.url)
        count, deadline = "return document.getElementById('count').textContent", time.monotonic() + 600
        while "of 4" not in browser.execute_script(count) and time.monotonic() < deadline:
            time.sleep(0.1)
        browser.execute_script("document.querySelector('#failures a').click()")
        while "1 of 4" not in browser.execute_script(count) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert browser.execute_script(count) == "1 of 4 trajectories"
        assert browser.execute_script("return document.getElementById('f-agent').value") == "scripted:expert"
        assert "reload" not in browser.execute_script("return document.getElementById('state').textContent")
    finally:
        viewing.stop()


def test_the_page_of_a_large_run_comes_without_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its episodes come in parts, as always; a shard has its own share of them to come."""
    path = run_dir(tmp_path / "eval", shard="2/3")
    append(path, 0, 1)
    (path / "manifest.json").write_text('{"verb": "eval"}')
    assert read_updates(find_watched_runs([path]), {})["runs"][0]["total"] == 1
    monkeypatch.setattr("fireact.reporting.view.MAX_REPORTED", 100)
    page = _render_page([path])
    assert (
        "MB of episodes; &#39;fireact report&#39; writes a report of so many" in page and '"complete":["eval"]' in page
    )
