"""Who may use the servers of this process: programs here, whoever has the key, no page of another site."""

import base64
import http.client
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.base.listening import bind_socket, find_stranger, has_key, is_json, is_loopback
from fireact.errors import ConfigError
from fireact.models.fake_endpoint import FakeEndpoint
from fireact.recording.recorder import RecordConfig, record_calls

LOCAL = {"host": "127.0.0.1:8000"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "[::1"},
        {"host": "192.168.0.7"},
        {**LOCAL, "origin": "http://evil.example"},
        {**LOCAL, "origin": "https://localhost.evil.example"},
        {**LOCAL, "origin": "null"},
        {**LOCAL, "origin": ""},
        {**LOCAL, "origin": "http://[x"},
    ],
)
def test_a_stranger_is_known_by_its_host_or_its_origin(headers: dict[str, str]) -> None:
    assert find_stranger(headers)


@pytest.mark.parametrize(
    "headers",
    [
        LOCAL,
        {"host": "localhost"},
        {"host": "[::1]:80"},
        {"host": "127.8.9.1:1"},
        {**LOCAL, "origin": "http://localhost:3000"},
        {**LOCAL, "origin": "http://127.0.0.1"},
    ],
)
def test_programs_and_pages_of_this_machine_are_none(headers: dict[str, str]) -> None:
    assert find_stranger(headers) == ""


def test_beyond_loopback_the_host_may_be_any_and_the_origin_may_not() -> None:
    assert find_stranger({"host": "box.lan"}, check_host=False) == ""
    assert find_stranger({"host": "box.lan", "origin": "http://box.lan"}, check_host=False)


@pytest.mark.parametrize("key", ["secret", "ключ", "a b:c"])
def test_a_key_is_known_in_each_form_that_clients_have(key: str) -> None:
    sent = key.encode().decode("latin-1")
    basic = base64.b64encode(b"anyone:" + key.encode()).decode()
    for headers in ({"authorization": f"Bearer {sent}"}, {"x-api-key": sent}, {"authorization": f"Basic {basic}"}):
        assert has_key(headers, key) and not has_key(headers, key + "x")
    for wrong in ({}, {"authorization": sent}, {"authorization": "Basic %%%"}, {"authorization": f"Digest {sent}"}):
        assert not has_key(wrong, key)


@given(st.text())
def test_no_header_but_the_key_is_let_in(header: str) -> None:
    assert not has_key({"authorization": header}, "a key that nobody guesses")


def test_json_is_known_by_its_type() -> None:
    assert is_json({"content-type": "Application/JSON; charset=utf-8"})
    for sent in ({}, {"content-type": "text/plain"}, {"content-type": "text/plain; application/json"}):
        assert not is_json(sent)


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_port_out_of_range_is_named(port: int) -> None:
    with pytest.raises(ConfigError, match=f"the port is {port}; it must be from 0"):
        bind_socket("127.0.0.1", port)


def test_an_address_is_of_this_machine_by_its_number() -> None:
    assert is_loopback("127.1.2.3") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("localhost.example") and not is_loopback("")


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[str, FakeEndpoint]]:
    with (
        FakeEndpoint(lambda request: "Lima.") as endpoint,
        record_calls(RecordConfig(upstream=endpoint.url, port=0), tmp_path / "run") as address,
    ):
        yield str(address), endpoint


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/e/7/feedback", "/v1/files"])
@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_no_page_gets_through_the_proxy(
    path: str, headers: dict[str, str], proxy: tuple[str, FakeEndpoint], tmp_path: Path
) -> None:
    address, endpoint = proxy
    status, _ = post(address + path, {"answer": "x"}, {"Content-Type": "application/json", **headers})
    assert status == 403 and endpoint.requests == []
    assert not (tmp_path / "run/feedback.jsonl").exists() or not (tmp_path / "run/feedback.jsonl").read_text()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/e/7/feedback"])
def test_what_is_recorded_must_be_json_by_its_type(path: str, proxy: tuple[str, FakeEndpoint]) -> None:
    address, endpoint = proxy
    status, body = post(address + path, {"model": "m", "messages": []}, {"Content-Type": "text/plain"})
    assert status == 415 and "it must be application/json" in json.dumps(body) and endpoint.requests == []


def test_a_program_gets_through_it(proxy: tuple[str, FakeEndpoint]) -> None:
    address, endpoint = proxy
    request = {"model": "fake", "messages": [{"role": "user", "content": "Where?"}]}
    status, body = post(f"{address}/v1/chat/completions", request, {"Content-Type": "application/json"})
    assert status == 200, body
    assert body["choices"][0]["message"]["content"] == "Lima." and len(endpoint.requests) == 1


def post(url: str, body: object, headers: dict[str, str]) -> tuple[int, Any]:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=600)
    try:
        connection.request("POST", parts.path, json.dumps(body), headers)
        reply = connection.getresponse()
        return reply.status, json.load(reply)
    finally:
        connection.close()
