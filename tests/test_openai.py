"""Hosted teachers: the real client over real HTTP to an endpoint that does what endpoints do."""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from arbitrary import json_values
from fakes import Echo
from fireact.base import jsonl
from fireact.base.keys import KEY_VARIABLES
from fireact.base.verbs import resume
from fireact.errors import BudgetError, ConfigError, ProviderError
from fireact.models.fake_endpoint import FakeEndpoint, FakeReply, Fault
from fireact.models.limits import BudgetAmount, Endpoint
from fireact.models.openai import OpenAIModel, from_name, read_reply
from fireact.models.scripted import Expert
from fireact.rollout.call_cache import CallCache
from fireact.rollout.collection import CollectConfig, collect
from fireact.types import Action, Call, Message
from fireact.wire.chat_completions import write_message
from fireact.wire.dialect import number_calls

ASK = [Message("user", "Why?")]
PRICES = """
[prices."fake"]
input_per_million = 1000.0
cached_per_million = 100.0
output_per_million = 2000.0
"""


def expert(request: Mapping[str, Any]) -> FakeReply:
    """The scripted expert behind an endpoint."""
    messages = [Message(one["role"], one["content"]) for one in request["messages"]]
    return Expert().complete(Call(messages)).text


def model(served: FakeEndpoint, **options: Any) -> OpenAIModel:
    return OpenAIModel("fake", served.url, pause=0.01, **options)


def test_a_chat_goes_there_and_back() -> None:
    with FakeEndpoint(lambda request: "Because.\nObservation: no") as served:
        done = model(served).complete(Call(ASK, stop=("\nObservation",), max_tokens=7, temperature=0.5, seed=3))
        (request,) = served.requests
    assert done.text == "Because." and done.finish == "stop" and done.seconds > 0
    assert (done.usage.calls, done.usage.completion_tokens, done.usage.cost) == (1, 1, None)
    assert request["messages"] == [{"role": "user", "content": "Why?"}]
    assert [request[name] for name in ("max_tokens", "temperature", "seed", "stop")] == [7, 0.5, 3, ["\nObservation"]]


def test_stop_strings_hold_where_the_server_ignores_them() -> None:
    with FakeEndpoint(lambda request: {"content": "a STOP b"}) as served:
        lm = model(served)
        lm.adaptation.leave_out("stop")
        assert lm.complete(Call(ASK, stop=("STOP",))).text == "a "


def test_cached_tokens_are_counted_apart_and_cost_less(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(PRICES)
    counts = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}}
    said = json.dumps({"choices": [{"message": {"content": "one two"}}], "usage": counts})
    with FakeEndpoint(lambda request: "", faults=[Fault(body=said)]) as served:
        counted = model(served, endpoint=Endpoint(prices=str(tmp_path / "prices.toml"))).complete(Call(ASK)).usage
    assert (counted.prompt_tokens, counted.cached_tokens) == (100, 60)
    assert counted.cost == pytest.approx((40 * 1000 + 60 * 100 + 10 * 2000) / 1e6)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, headers={"Retry-After": "0"}), Fault(status=500), Fault(status=503), Fault(cut=True),
        Fault(body="{not json"), Fault(body='{"choices": []}'), Fault(body='"text"'),
    ],
    ids=["429", "500", "503", "cut connection", "malformed JSON", "no choices", "no object"],
)  # fmt: skip
def test_faults_that_pass_are_tried_again(fault: Fault) -> None:
    with FakeEndpoint(lambda request: "yes", faults=[fault, fault]) as served:
        assert model(served).complete(Call(ASK)).text == "yes"
        assert len(served.requests) == 3


def test_a_fault_that_does_not_pass_is_a_fault_of_the_provider() -> None:
    with FakeEndpoint(lambda request: "yes", faults=[Fault(status=500)] * 20) as served:
        with pytest.raises(ProviderError, match=r"failed 6 times.*500"):
            model(served).complete(Call(ASK))
        assert len(served.requests) == 6


def test_slow_bytes_end_in_a_time_out() -> None:
    with FakeEndpoint(lambda request: "yes", latency=lambda request: 0.6) as served:
        lm = model(served, endpoint=Endpoint(timeout=0.2))
        lm._reached = True
        with pytest.raises(ProviderError, match="Timeout"):
            lm.complete(Call(ASK))
    with FakeEndpoint(lambda request: "yes", faults=[Fault(seconds_a_byte=0.001)]) as served:
        assert model(served).complete(Call(ASK)).text == "yes"


def test_a_server_says_how_long_to_wait() -> None:
    with FakeEndpoint(lambda request: "yes", faults=[Fault(status=429, headers={"Retry-After": "1"})]) as served:
        started = time.monotonic()
        model(served).complete(Call(ASK))
        assert time.monotonic() - started >= 1.0


def test_what_would_end_every_episode_stops_at_once() -> None:
    with FakeEndpoint(lambda request: "yes", models=["other"]) as served:
        lm = model(served)
        with pytest.raises(ConfigError, match=r"404.*Check the model's name"):
            lm.complete(Call(ASK))
    with FakeEndpoint(lambda request: "yes", faults=[Fault(status=401)]) as served:
        with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
            model(served).complete(Call(ASK))
        assert len(served.requests) == 1
    quota = json.dumps({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
    with FakeEndpoint(lambda request: "yes", faults=[Fault(status=429, body=quota)]) as served:
        lm = model(served)
        with pytest.raises(ConfigError, match="quota"):
            lm.complete(Call(ASK))


def test_a_prompt_that_is_refused_ends_its_own_episode_only() -> None:
    said = json.dumps(
        {"error": {"message": "This model's maximum context length is 8192", "code": "context_length_exceeded"}}
    )
    with FakeEndpoint(lambda request: "yes", faults=[Fault(status=400, body=said)]) as served:
        lm = model(served)
        with pytest.raises(ProviderError, match="maximum context length"):
            lm.complete(Call(ASK))
        assert lm.complete(Call(ASK)).text == "yes"


def test_an_address_where_nobody_listens_is_said() -> None:
    with FakeEndpoint(lambda request: "yes") as served:
        url = served.url
    with pytest.raises(ConfigError, match="cannot be reached"):
        OpenAIModel("fake", url, pause=0.001).complete(Call(ASK))


def test_an_empty_completion_is_empty_text() -> None:
    with FakeEndpoint(lambda request: {"content": None}) as served:
        assert model(served).complete(Call(ASK)).text == ""


@pytest.mark.parametrize("name", ["stop", "temperature", "seed"])
def test_a_parameter_that_a_model_refuses_is_left_out_from_then_on(name: str) -> None:
    said = json.dumps({"error": {"message": f"Unsupported parameter: '{name}'", "param": name}})
    with FakeEndpoint(lambda request: "yes", faults=[Fault(status=400, body=said)]) as served:
        lm = model(served)
        lm.complete(Call(ASK, stop=("x",)))
        lm.complete(Call(ASK, stop=("x",)))
        assert [name in request for request in served.requests] == [True, False, False]


def test_max_tokens_has_another_name_at_some_models() -> None:
    said = json.dumps({"error": {"message": "'max_tokens' is not supported, use 'max_completion_tokens'"}})
    with FakeEndpoint(lambda request: "yes", faults=[Fault(status=400, body=said)]) as served:
        model(served).complete(Call(ASK, max_tokens=9))
        assert served.requests[1]["max_completion_tokens"] == 9 and "max_tokens" not in served.requests[1]


def test_native_calls_go_both_ways() -> None:
    call = {"id": "x", "type": "function", "function": {"name": "search", "arguments": '{"query": "é"}'}}
    broken = {"id": "y", "type": "function", "function": {"name": "search", "arguments": "not json"}}
    with FakeEndpoint(lambda request: {"content": "look", "tool_calls": [call, broken]}) as served:
        done = model(served).complete(Call(ASK, tools=[Echo()]))
        offered = served.requests[0]["tools"][0]["function"]
    assert done.text == "look" and offered["name"] == "search" and offered["parameters"]["type"] == "object"
    assert done.calls == (Action("search", {"query": "é"}), Action("search", {"input": "not json"}))
    told = [*ASK, Message("assistant", "look", calls=done.calls), Message("tool", "1"), Message("tool", "2")]
    sent = [write_message(message) for message in number_calls(told)]
    assert (
        [one["id"] for one in sent[1]["tool_calls"]]
        == [one["tool_call_id"] for one in sent[2:]]
        == ["call00001", "call00002"]
    )


@pytest.mark.parametrize(
    "content", ["plain", [{"type": "text", "text": "pl"}, {"type": "text", "text": "ain"}, 3, {"type": "x"}]]
)
def test_words_may_come_in_parts(content: Any) -> None:
    assert read_reply(json.dumps({"choices": [{"message": {"content": content}}]})).plain_text == "plain"


JSON = json_values(
    keys=("choices", "message", "content", "usage", "prompt_tokens", "tool_calls", "function", "x"), most=12
)


@given(JSON, JSON, JSON, JSON)
def test_any_reply_is_read_totally(content: Any, calls: Any, usage: Any, whole: Any) -> None:
    message = {"content": content, "tool_calls": calls}
    reply = read_reply(json.dumps({"choices": [{"message": message}], "usage": usage}))
    assert isinstance(reply.plain_text, str) and reply.total_tokens >= 0
    try:
        read_reply(json.dumps(whole))
    except ValueError as error:
        assert "no choice" in str(error)


def test_words_are_heard_as_they_come_and_no_stop_string_among_them() -> None:
    heard: list[str] = []
    with FakeEndpoint(lambda request: "one two three STOP four") as served:
        lm = model(served)
        done = lm.complete(Call(ASK, on_delta=heard.append))
        assert "".join(heard) == done.text == "one two three STOP four" and len(heard) > 2
        assert done.usage.completion_tokens == 5 and done.finish == "stop"
        heard.clear()
        lm.adaptation.leave_out("stop")  # a server that ignores stop strings
        assert lm.complete(Call(ASK, stop=("STOP four", " three ST"), on_delta=heard.append)).text == "one two"
        assert "".join(heard) == "one two"


def test_a_stream_that_is_cut_is_not_told_twice() -> None:
    heard: list[str] = []
    with FakeEndpoint(lambda request: "one two three four", faults=[Fault(cut=True)]) as served:
        with pytest.raises(ProviderError, match="the stream was cut"):
            model(served).complete(Call(ASK, on_delta=heard.append))
        assert "".join(heard).startswith("one") and len(served.requests) == 1
    with FakeEndpoint(lambda request: "one two", faults=[Fault(status=500)]) as served:
        assert (
            model(served).complete(Call(ASK, on_delta=heard.append)).text == "one two"
        )  # nothing was told: tried again


def test_keys_come_from_the_environment_and_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEY_VARIABLES.values(), "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for spec, name in (
        ("gpt-4o", "OPENAI_API_KEY"),
        ("claude@https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        ("gemini@https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
        ("llama@https://api.together.ai/v1", "TOGETHER_API_KEY"),
        ("llama@https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        ("gpt@https://mine.openai.azure.com/openai/v1", "AZURE_OPENAI_API_KEY"),
        ("gpt@https://notanthropic.com/v1", "OPENAI_API_KEY"),
    ):
        with pytest.raises(ConfigError, match=name):
            from_name(spec)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with FakeEndpoint(lambda request: "yes", faults=[Fault(status=403)]) as served:
        lm = model(served)
        with pytest.raises(ConfigError) as refused:
            lm.complete(Call(ASK))
        assert served.headers[0]["authorization"] == "Bearer sk-very-secret"
    assert "secret" not in str(refused.value) + repr(lm) + str(vars(lm))


@pytest.mark.parametrize("spec", ["", "@http://x", "gpt@nowhere", "gpt@ftp://x/v1"])
def test_a_wrong_spec_is_refused_in_words(spec: str) -> None:
    with pytest.raises(ConfigError):
        from_name(spec)


def test_rates_hold_over_many_threads() -> None:
    with FakeEndpoint(lambda request: "yes") as served:
        lm = model(served, endpoint=Endpoint(rpm=100_000, tpm=10_000_000))
        with ThreadPoolExecutor(64) as pool:
            assert set(pool.map(lambda _: lm.complete(Call(ASK)).text, range(128))) == {"yes"}


# --- whole runs ---


def config(served: FakeEndpoint, **changes: Any) -> CollectConfig:
    return CollectConfig(plan={"geo-hop/react": 6}, teacher=f"openai:fake@{served.url}", workers=3, **changes)


def test_a_run_over_http_equals_the_expert_s_own(tmp_path: Path) -> None:
    with FakeEndpoint(expert, faults=[Fault(status=500), Fault(cut=True)]) as served:
        manifest = collect(config(served), tmp_path / "http")
    collect(CollectConfig(plan={"geo-hop/react": 6}), tmp_path / "here")
    rows, own = (list(jsonl.read_objects(tmp_path / name / "trajectories.jsonl")) for name in ("http", "here"))
    assert [row["steps"] for row in rows] == [row["steps"] for row in own]
    assert manifest["usage"]["cost"] is None and rows[0]["model"] == "openai:fake"


def test_no_call_is_paid_twice(tmp_path: Path) -> None:
    failing = Fault(status=500, headers={"Retry-After": "0"})  # pauses get short, and there are as many
    with FakeEndpoint(expert, faults=[Fault()] * 8 + [failing] * 30) as served:
        settings = config(served)
        with pytest.raises(ProviderError, match="ended in a fault"):
            collect(settings, tmp_path / "run")
    rows = list(jsonl.read_objects(tmp_path / "run" / "trajectories.jsonl"))
    faults = [row for row in rows if row["stop"] == "error"]
    assert faults and all(row["scores"] == {} for row in faults)
    asked = {json.dumps(request["messages"]) for request in served.requests[:8]}
    with FakeEndpoint(expert, port=int(served.url.split(":")[2].split("/")[0])) as again:
        collect(config(again), tmp_path / "run")
        assert not asked & {json.dumps(request["messages"]) for request in again.requests}
    assert len(list(jsonl.read_objects(tmp_path / "run" / "trajectories.jsonl"))) == 6


@pytest.mark.parametrize("budget", ["7calls", "3000tokens", "2.5usd"])
def test_a_budget_is_never_passed_and_what_was_paid_for_is_kept(budget: str, tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(PRICES)
    priced = Endpoint(prices=str(tmp_path / "prices.toml"))
    with FakeEndpoint(expert) as served:
        with pytest.raises(BudgetError, match="resume DIR --budget"):
            collect(config(served, budget=budget, endpoint=priced), tmp_path / "run")
        amount, calls = BudgetAmount.parse(budget), CallCache(tmp_path / "run" / "calls.sqlite")
        until = time.monotonic() + 600
        while calls.total_usage().calls < len(served.requests) and time.monotonic() < until:
            time.sleep(0.01)  # a call that was under way is finished, and kept
        spent = calls.total_usage()
        assert 0 < amount.measure(spent) <= amount.value and spent.calls == len(served.requests)
        resume(tmp_path / "run", budget="100000calls")
        texts = [json.dumps(request["messages"]) for request in served.requests]
        assert len(texts) == len(set(texts))


def test_dollars_at_an_unknown_price_are_refused(tmp_path: Path) -> None:
    with FakeEndpoint(expert) as served:
        with pytest.raises(ConfigError, match="price of openai:fake is not known"):
            collect(config(served, budget="1usd"), tmp_path / "run")
        assert not served.requests


@pytest.mark.parametrize(
    "url", ["http://h/v1?key=QUERYSECRET99", "http://h/v1?QUERYSECRET99", "http://h/v1#QUERYSECRET99",
            "ftp://h/v1?key=QUERYSECRET99", "ftp://me:QUERYSECRET99@h/v1"],
)  # fmt: skip
def test_a_key_in_an_address_is_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="address of an endpoint") as refusal:
        collect(CollectConfig({"geo-hop/react": 1}, teacher=f"openai:m@{url}"), tmp_path / "run")
    assert "QUERYSECRET99" not in str(refusal.value)
    assert not any(b"QUERYSECRET99" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert from_name("m@http://127.0.0.1:9/v1?api-version=1").name == "openai:m"


def test_a_password_in_an_address_is_refused() -> None:

    with pytest.raises(ConfigError, match="name or password"):
        from_name("b@http://user:word@127.0.0.1:9/v1")
