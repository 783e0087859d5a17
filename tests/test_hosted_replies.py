"""Whatever a provider replies, and whatever is left of ``job.json``: a value or a FireactError, never anything else."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from arbitrary import json_values
from fake_tuning import FakeTuning
from fireact.base.verbs import resume
from fireact.errors import DataError, FireactError, ProviderError
from fireact.hosted.openai_compatible import OpenAICompatibleProvider
from fireact.hosted.provider import Job, JobRequest, Provider
from fireact.hosted.tune import cancel_job, load_provider, tune
from test_hosted import KINDS, STATES, config, data, short  # noqa: F401

ORDER = JobRequest(model="base", name="fireact-1", epochs=2)
WORDS = (
    "id", "data", "status", "error", "has_more", "name", "state", "message", "training_file", "suffix", "jobProgress",
)  # fmt: skip
REPLIES = json_values(keys=WORDS, words=WORDS, most=12)


class _Says:
    """A server that gives the same JSON to every request."""

    def __init__(self) -> None:
        self.body: Any = {}
        says = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet: apart, each reply waits 40 ms

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                raw = json.dumps(says.body).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextmanager
def saying() -> Iterator[_Says]:
    says = _Says()
    threading.Thread(target=says.server.serve_forever, daemon=True).start()
    try:
        yield says
    finally:
        says.server.shutdown()
        says.server.server_close()


@pytest.fixture(scope="module")
def said() -> Iterator[_Says]:
    with saying() as says:
        yield says


@pytest.fixture(autouse=True)
def account(short: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("FIREWORKS_ACCOUNT_ID", "acme")


def provider(kind: str, said: _Says) -> Provider:
    return load_provider(f"{kind}:base@http://127.0.0.1:{said.server.server_address[1]}/v1", pause=0.0)[0]


def asked(one: Provider, file: Path) -> Iterator[Any]:
    """What each request of a run gives."""
    for request in (
        lambda: (
            one.upload(file, ORDER.name) if isinstance(one, OpenAICompatibleProvider) else ""
        ),  # Fireworks' waits for readiness
        lambda: one.quote("file-1", ORDER),
        lambda: one.create("file-1", ORDER),
        lambda: one.find("file-1", ORDER.name),
        lambda: one.job("job-1"),
        lambda: one.events("job-1", {"e1"}),
        lambda: one.cancel("job-1"),
    ):
        try:
            yield request()
        except FireactError as error:
            yield error


@pytest.mark.parametrize("kind", KINDS)
def test_any_reply_is_a_value_or_an_error_of_ours(
    kind: str, said: _Says, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("file") / "training.jsonl"
    file.write_text("{}\n")
    one = provider(kind, said)

    @given(REPLIES)
    def check(reply: Any) -> None:
        said.body = reply
        for made in asked(one, file):
            if isinstance(made, Job):
                assert isinstance(made.id, str) and made.id and isinstance(made.error, str)

    check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reply", [{}, {"status": "queued"}, {"id": None}, [], None])
def test_a_reply_without_an_id_is_said(kind: str, reply: Any, said: _Says) -> None:
    said.body = reply
    with pytest.raises(ProviderError, match="reply"):
        provider(kind, said).create("file-1", ORDER)


def test_a_list_whose_next_page_is_the_same_one_ends(said: _Says) -> None:
    said.body = {"data": [{"id": "job-1", "suffix": "theirs"}], "has_more": True}
    assert provider("openai", said).find("file-1", "nobody") is None


@pytest.mark.parametrize("left", ["", '{"name": "fire', "[]", "5"])
def test_a_torn_note_of_the_job_is_said_and_nothing_is_ordered(left: str, data: str, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "run"
    with FakeTuning(states=STATES["openai"]) as served:
        tune(config(data, served), out)
        (out / "manifest.json").unlink()
        (out / "job.json").write_text(left)
        for again in (resume, cancel_job):
            with pytest.raises(DataError, match=r"cannot read .*job\.json .*Look the job up"):
                again(out)
        assert len(served.jobs) == len(served.files) == 1
