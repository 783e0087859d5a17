"""Refusals of endpoints: each is as wide as its cause, and the provider's own words are shown."""

import base64
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fakes import Echo, Small
from fireact.base import jsonl
from fireact.base.run_directory import read_trajectories
from fireact.errors import ConfigError, PromptError
from fireact.methods.react import ReAct
from fireact.models.adaptation import Adaptation
from fireact.models.fake_endpoint import FakeEndpoint, FakeReply, Fault
from fireact.models.openai import OpenAIModel
from fireact.models.refusals import read_refusal
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.rollout.call_cache import CallCache
from fireact.rollout.collection import CollectConfig, collect
from fireact.rollout.episodes import Agent, Episode, run_episode
from fireact.types import Call, Limits, Message, Step, Trajectory

ASK = [Message("user", "Why?")]
TOO_LONG = [
    {"error": {"message": "This model's maximum context length is 8192", "code": "context_length_exceeded"}},
    {"error": {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}},
    {"object": "error", "message": "The input (5000 tokens) is longer than the model's context length (4096)."},
    {"error": {"message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048575)."}},
    {"type": "error", "error": {"type": "invalid_request", "message": "prompt is too long: 210000 tokens > 200000"}},
    {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs`"},
    {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2048", "error_type": "x"},
    {"message": "too many tokens: total number of tokens in this request cannot exceed 4081"},
    {"error": {"message": "This model's maximum prompt length is 131072 but the request contains 140000 tokens."}},
    {"error": {"message": "Please reduce the length of the messages or completion."}},
    {"error": {"message": "Invalid request: Your request exceeded model token limit: 8192"}},
    {"error": {"message": "Range of input length should be [1, 30720]", "code": "invalid_parameter_error"}},
    {"object": "error", "message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096."},
    {"object": "error", "message": "max_tokens must be at least 1, got -904.", "param": "max_tokens"},
    {"error": {"message": "'max_tokens' is too large: 4096. This model's maximum context length is 4096 tokens and "
                          "your request has 200 input tokens", "param": "max_tokens"}},
    {"error": {"message": "a prompt of 4500 tokens and 256 to write: the model takes 1 to 4096. Use fewer examples or "
                          "steps, or a model with a longer context.", "code": None}},
    {"error": {"message": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"}},
    {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps(
        {"error": {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"}}
    )}}},
]  # fmt: skip
FLAGGED = [
    {"error": {"code": "400", "message": "It was filtered", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
    {"error": {"message": "Your prompt was flagged as potentially violating our policy.", "code": "invalid_prompt"}},
    {"error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}},
    {"error": {"message": "Input data may contain inappropriate content.", "code": "data_inspection_failed"}},
]  # fmt: skip


def refuse(body: Any, status: int = 400) -> Fault:
    return Fault(status=status, body=body if isinstance(body, str) else json.dumps(body))


def model(served: FakeEndpoint, **options: Any) -> OpenAIModel:
    return OpenAIModel("fake", served.url, pause=0.01, **options)


def run(lm: OpenAIModel, tools: Sequence[Any] = (), *, native: bool = False) -> Trajectory:
    renderer: Any = {"renderer": ToolCallsRenderer()} if native else {}
    agent = Agent(lm, ReAct(**renderer), {tool.name: tool for tool in tools}, Limits(max_steps=4))
    task = Small("small")
    return run_episode(Episode(task, task.examples("train")[0], agent))


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("seed", {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"],
                                                             "msg": "Extra inputs are not permitted"}]}}),
        ("seed", [{"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "seed"'}}]),
        ("temperature", {"error": {"message": "'temperature' does not support 0. Only 1 is allowed.", "param": "x"}}),
        ("stop", {"error": "stop sequences cannot be used with this model"}),
        ("stop", {"detail": [{"loc": ["body", "stop"], "msg": "value is not a valid list"}]}),
        ("temperature", "temperature must be positive"),
        ("stop", {"code": "Client specified an invalid argument", "error": "Argument not supported: stop"}),
        ("seed", {"errors": [{"message": "AiError: Bad input: oneOf at '/' not met: seed must be <= 9999"}]}),
        ("max_tokens", {"error": {"message": "max_tokens is too large: 9. It supports at most 4 completion tokens"}}),
        ("max_tokens", {"error": {"message": "max_tokens must be at most `8192`, less than the `context_window`"}}),
        ("seed", {"error": {"message": "Provider error", "metadata": {"raw": '{"message": "`seed` is forbidden"}'}}}),
        ("max_tokens", {"error": "Input validation error: `max_new_tokens` must be <= 64. Given: 99"}),
    ],
)  # fmt: skip
def test_a_refused_parameter_is_left_out_in_every_shape_and_wording(name: str, body: Any, status: int) -> None:
    with FakeEndpoint(lambda request: refuse(body, status) if name in request else "yes") as served:
        lm = model(served)
        assert [lm.complete(Call(ASK, stop=("x",), max_tokens=9)).text for _ in range(2)] == ["yes", "yes"]
        assert [name in request for request in served.requests] == [True, False, False]
        assert {"stop", "temperature", "seed", "max_tokens"} - {name} <= served.requests[-1].keys()


SENT = {"model": "m", "messages": [{"role": "user", "content": "q"}], "stop": ["a"], "temperature": 0.0, "seed": 1,
        "max_tokens": 99}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("seed", 400, {"title": "One or more errors occurred.", "errors": {"seed": ["It is not supported."]}}),
        ("seed", 400, {"message": "Validation failed", "violations": [{"propertyPath": "seed", "message": "no"}]}),
        ("seed", 400, {"errors": [{"title": "Bad", "source": {"pointer": "/seed"}}]}),
        ("seed", 400, {"error": {"message": "Invalid property", "pointer": "/seed"}}),
        ("seed", 400, {"error": {"message": "参数seed不支持"}}),
        ("seed", 400, {"error": "unsupported: --seed"}),
        ("seed", 400, json.dumps({"error": {"message": "seed not supported"}}).encode("utf-16")),
        ("seed", 0, {"error": {"message": "Bad", "param": "seed", "code": "unsupported_parameter"}}),
        ("max_tokens", 400, {"message": "maxTokens is not supported by this model"}),
        ("max_tokens", 400, {"error": {"message": "max_completion_tokens exceeds the limit of 64 tokens"}}),
        ("stop", 400, {"error": {"message": "stop_sequences is not supported"}}),
        ("stop", 400, {"error": {"message": "The stop parameter is not supported for this context length"}}),
        ("temperature", 400, {"error": {"message": "temperature is not allowed by the content policy"}}),
    ],
)  # fmt: skip
def test_a_refused_parameter_is_known_by_whatever_names_it(name: str, status: int, body: Any) -> None:
    adaptation = Adaptation("it")
    assert adaptation.learn(read_refusal(status, body if isinstance(body, bytes) else json.dumps(body)), SENT)
    assert SENT.keys() - adaptation.apply(SENT).keys() == {name}


def test_requests_under_way_are_all_adapted_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Sixteen workers send what the model refuses before the first of them learns it."""
    together = threading.Barrier(8, timeout=600)

    def answer(request: Mapping[str, Any]) -> FakeReply | Fault:
        for name in ("stop", "temperature"):
            if name in request:
                if name == "stop":
                    together.wait()
                return refuse({"error": {"message": f"Unsupported parameter: '{name}'", "param": name}})
        return "Thought: I know.\nAction: finish[Paris]"

    with FakeEndpoint(answer, models=["m"]) as served, caplog.at_level(logging.WARNING):
        config = CollectConfig({"geo-hop/react": 8}, teacher=f"openai:m@{served.url}", repairs=0)
        assert collect(config, tmp_path / "run")["counts"]["geo-hop/react"]["finished"] == 8
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and "refuses stop, so it is left out" in messages[0]
    assert "Unsupported parameter: 'stop'" in messages[0]


def test_max_tokens_is_renamed_then_left_out() -> None:
    def answer(request: Mapping[str, Any]) -> FakeReply | Fault:
        name = next((name for name in ("max_tokens", "max_completion_tokens") if name in request), None)
        return "yes" if name is None else refuse({"error": {"message": f"unknown field {name}"}}, 422)

    with FakeEndpoint(answer) as served:
        assert model(served).complete(Call(ASK, max_tokens=9)).text == "yes"
        assert len(served.requests) == 3


@pytest.mark.parametrize("body", TOO_LONG + FLAGGED)
def test_a_refused_prompt_ends_its_episode_alone_with_the_reason(body: Any) -> None:
    with FakeEndpoint(lambda request: refuse(body)) as served:
        lm = model(served)
        trajectory = run(lm)
        assert len(served.requests) == 1
        assert lm.adaptation.apply({"max_tokens": 1, "stop": []}) == {"max_tokens": 1, "stop": []}
    assert trajectory.stop == "refused" and trajectory.scores["em"] == 0.0
    assert read_refusal(400, json.dumps(body)).text in str(trajectory.error)
    assert Trajectory.from_dict(json.loads(jsonl.dumps(trajectory.to_dict()))) == trajectory


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"error": {"message": "Incorrect API key"}}, "Incorrect API key"),
        (402, {"error": {"message": "This requires more credits, or fewer max_tokens", "code": 402}}, "more credits"),
        (400, {"error": {"message": "Your credit balance is too low to access the API"}}, "credit balance"),
        (403, {"message": "Country not supported"}, "Country not supported"),
        (404, {"detail": "The model `x` does not exist"}, "The model `x` does not exist"),
        (429, {"error": {"message": "quota", "type": "insufficient_quota"}}, "quota"),
        (429, {"error": {"message": "Your account is suspended", "type": "exceeded_current_quota_error"}}, "suspended"),
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, "body.messages: field required"),
        (400, "<html><body><h1>Bad gateway to a model</h1></body></html>", "Bad gateway to a model"),
        (400, "", "without a word"),
    ],
)  # fmt: skip
def test_what_concerns_every_call_ends_the_run_after_the_first_answer(status: int, body: Any, words: str) -> None:
    with FakeEndpoint(lambda request: refuse(body, status) if body else Fault(status=status, body=" ")) as served:
        with pytest.raises(ConfigError, match=words):
            model(served).complete(Call(ASK, stop=("x",), max_tokens=9))
        assert len(served.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "is_about_prompt", "is_transient"),
    [
        (403, {"error": {"message": "Your input was flagged for violence"}}, True, False),
        (413, "Request Entity Too Large", True, False),
        (429, {"error": {"message": "Request too large for gpt-4 in organization x on tokens per min"}}, True, True),
        (429, {"error": {"message": "Too many tokens, please wait before trying again."}}, False, True),
        (429, {"error": {"message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED"}}, False, True),
        (500, {"error": {"message": "context size exceeded"}}, True, True),
        (0, {"code": 502, "message": "upstream"}, False, True),
        (0, {"code": 401, "message": "no key"}, False, False),
        (400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}, True, False),
        (403, {"error": "Content violates usage guidelines. API key ID: x. Failed: SAFETY_CHECK_TYPE_B"}, True, False),
        (400, {"message": "internal error happened, status code ResponseType.INPUT_LENGTH_ERROR"}, True, False),
        (400, {"error": {"message": "the max input characters is 20000"}}, True, False),
        (400, {"error": {"code": "1261", "message": "Prompt 超长"}}, True, False),
        (400, {"error": {"code": "10907", "message": "token数量超过上限"}}, True, False),
        (400, {"detail": "Violated guardrail policy"}, True, False),
        (400, {"error": {"message": "Blocked: prompt injection detected"}}, True, False),
        (400, {"error": "Sequence of 9000 positions does not fit in the cache of 8192"}, True, False),
        (503, {"error": {"message": "Request queue length exceeded, try again"}}, False, True),
        (503, {"error": {"message": "Your requests exceed the capacity: too many tokens in flight"}}, False, True),
        (503, {"error": {"message": "The moderation service is temporarily unavailable"}}, False, True),
        (400, {"error": {"message": "This would exceed your organization's monthly spend limit"}}, False, False),
        (400, {"error": {"message": "API key has been flagged as leaked."}}, False, False),
        (403, {"error": {"message": "Your account has been flagged for potential abuse."}}, False, False),
        (403, {"error": {"message": "Your account was terminated for violating our usage policies"}}, False, False),
        (400, {"error": {"message": "unknown model qwen; models with a longer context: a, b"}}, False, False),
        (422, {"error": "Input validation error: `max_new_tokens` must be <= 64. Given: 99"}, False, False),
        (429, {"error": "Your team has used all available credits or reached its spending limit"}, False, False),
        (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包,请充值。"}}, False, False),
        (500, {"error": {"message": "Incorrect API key provided: abc"}}, False, False),
        (0, {"error": {"message": "Wrong", "code": "invalid_api_key"}}, False, False),
        (0, {"error": {"message": "Bad value", "type": "invalid_request_error"}}, False, False),
    ],
)  # fmt: skip
def test_the_width_of_a_refusal(status: int, body: Any, is_about_prompt: bool, is_transient: bool) -> None:
    refusal = read_refusal(status, body if isinstance(body, str) else json.dumps(body))
    assert (refusal.is_about_prompt, refusal.is_transient) == (is_about_prompt, is_transient)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "I cannot help with that."},
        {"content": "Half a sen", "finish": "content_filter"},
        {"content": "", "finish": "SAFETY"},
    ],
)
def test_a_refusal_within_a_reply_ends_the_episode_and_is_paid_for_once(
    message: dict[str, Any], tmp_path: Path
) -> None:
    finish = message.pop("finish", "stop")
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    body = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    with FakeEndpoint(lambda request: Fault(body=json.dumps(body))) as served:
        for _ in range(2):
            cache = CallCache(tmp_path / "calls.sqlite")
            lm: Any = cache.wrap_lm("openai:fake", lambda: model(served))
            trajectory = run(lm)
            assert trajectory.stop == "refused" and trajectory.usage.prompt_tokens == 7
            assert str(message.get("refusal") or finish) in str(trajectory.error)
        assert len(served.requests) == 1


def test_an_error_within_a_reply_of_status_200_is_an_error() -> None:
    choice = {"error": {"code": 502, "message": "x"}, "message": {"content": "half a"}}
    bodies = iter([{"error": {"code": 429, "message": "slow down"}}, {"choices": [choice]}])
    with FakeEndpoint(
        lambda request: Fault(body=json.dumps(body)) if (body := next(bodies, None)) else "yes"
    ) as served:
        assert model(served).complete(Call(ASK)).text == "yes" and len(served.requests) == 3
    body = json.dumps({"error": {"code": 401, "message": "Invalid credentials"}})
    with FakeEndpoint(lambda request: Fault(body=body)) as served, pytest.raises(ConfigError, match="Invalid cred"):
        model(served).complete(Call(ASK))


def stream(*events: str, kind: str = "text/event-stream") -> Fault:
    return Fault(body="".join(f"data: {event}\n\n" for event in events), headers={"Content-Type": kind})


def delta(**choice: Any) -> str:
    return json.dumps({"choices": [{"index": 0, **choice}]}, ensure_ascii=False)


@pytest.mark.parametrize(
    "answer",
    [
        stream('{"choices": null}', delta(delta=None), delta(delta={"content": "Pa\u2028"}), "{torn",
               delta(delta={"content": "ris"}, finish_reason="stop"), "[DONE]"),
        stream(delta(delta={"content": "Pa\u2028ris"}), "[DONE]"),
        stream(delta(delta={"content": "Pa\u2028ris"}, finish_reason="stop")),
        Fault(body=json.dumps({"choices": [{"message": {"content": "Pa\u2028ris"}, "finish_reason": "stop"}]})),
        Fault(body=f": ping\r\n\r\ndata:{delta(delta={'content': 'Pa' + chr(0x2028) + 'ris'})}\r\n\r\ndata: [DONE]\r\n",
              headers={"Content-Type": "text/event-stream"}),
    ],
    ids=["null and torn chunks", "no finish reason", "no end mark", "not streamed", "CRLF and comments"],
)  # fmt: skip
def test_streams_are_read_as_totally_as_whole_replies(answer: Fault) -> None:
    deltas: list[str] = []
    with FakeEndpoint(lambda request: answer) as served:
        assert model(served).complete(Call(ASK, on_delta=deltas.append)).text == "Pa\u2028ris" == "".join(deltas)


def test_an_error_in_a_stream_is_an_error_and_refused_options_are_left_out() -> None:
    error = stream(json.dumps({"error": {"message": "overloaded", "code": 503}}))
    bodies = iter([error, refuse({"error": "unknown field `stream_options`"}, 422)])
    deltas: list[str] = []
    with FakeEndpoint(lambda request: next(bodies, "yes")) as served:
        assert model(served).complete(Call(ASK, on_delta=deltas.append)).text == "yes"
        assert ["stream_options" in request for request in served.requests] == [True, True, False]
    too_long = stream(json.dumps(TOO_LONG[0]))
    with FakeEndpoint(lambda request: too_long) as served, pytest.raises(PromptError, match="maximum context length"):
        model(served).complete(Call(ASK, on_delta=deltas.append))
    assert deltas == ["yes"]


def native_reply(**fields: Any) -> dict[str, Any]:
    call = {"id": "x", "type": "function", "index": 0, "function": {"name": "search", "arguments": '{"query": "a"}'}}
    return {"content": "", "tool_calls": [{**call, **fields.pop("call", {})}], **fields}


FINISH = {
    "content": "",
    "tool_calls": [{"id": "y", "type": "function", "function": {"name": "finish", "arguments": '{"answer": "x"}'}}],
}
SIGNATURE = {"google": {"thought_signature": "c2ln"}}


@pytest.mark.parametrize(
    ("fields", "sent_back"),
    [
        ({"call": {"extra_content": SIGNATURE}}, {"call": {"extra_content": SIGNATURE}}),
        ({"reasoning_content": "I look it up."}, {"reasoning_content": "I look it up."}),
        ({"reasoning": "I look.", "reasoning_details": [{"type": "reasoning.encrypted", "data": "e"}]},
         {"reasoning_content": "I look.", "reasoning_details": [{"type": "reasoning.encrypted", "data": "e"}]}),
    ],
    ids=["Gemini", "DeepSeek and Kimi", "OpenRouter"],
)  # fmt: skip
def test_what_a_reply_holds_besides_text_and_calls_is_sent_back(
    fields: dict[str, Any], sent_back: dict[str, Any]
) -> None:
    replies = iter([native_reply(**fields, annotations=[{"type": "x"}])])
    with FakeEndpoint(lambda request: next(replies, FINISH)) as served:
        trajectory = run(model(served), [Echo()], native=True)
        turn = served.requests[1]["messages"][1]
    assert trajectory.stop == "finish"
    assert trajectory.steps[0].thought == sent_back.get("reasoning_content", "")
    expected_call = {
        "id": "call00001",
        "type": "function",
        "function": {"name": "search", "arguments": '{"query": "a"}'},
    }
    call, message = sent_back.get("call", {}), {name: value for name, value in sent_back.items() if name != "call"}
    assert turn == {"role": "assistant", "content": "", **message, "tool_calls": [expected_call | call]}
    assert Step.from_dict(json.loads(json.dumps(trajectory.steps[0].to_dict()))) == trajectory.steps[0]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Function call is missing a thought_signature in functionCall parts.", "extra_content"),
        ("thinking is enabled but reasoning_content is missing in tool call message at index 2", "reasoning_content"),
        ("Missing `reasoning_content` field in the assistant message at message index 1", "reasoning_content"),
    ],
)  # fmt: skip
def test_what_an_endpoint_demands_of_turns_that_it_never_wrote_gets_a_stand_in(words: str, name: str) -> None:
    example = Step(
        "I look.", ToolCallsRenderer().parse('{"name": "search", "arguments": {"query": "b"}}').action, "b", ""
    )
    messages = ToolCallsRenderer().prompt("Why?", [example])

    def answer(request: Mapping[str, Any]) -> FakeReply | Fault:
        turn = request["messages"][1]
        return FINISH if name in turn or name in turn["tool_calls"][0] else refuse({"error": {"message": words}})

    with FakeEndpoint(answer) as served:
        assert model(served).complete(Call(messages, tools=[Echo()])).calls[0].name == "finish"
        assert len(served.requests) == 2
    with FakeEndpoint(lambda request: refuse({"error": {"message": words}})) as served:
        with pytest.raises(ConfigError, match=name if "extra" not in name else "thought_signature"):
            model(served).complete(Call(messages, tools=[Echo()]))
        assert len(served.requests) == 2


def test_a_field_that_an_endpoint_does_not_take_back_is_left_out() -> None:
    def answer(request: Mapping[str, Any]) -> FakeReply | Fault:
        if any("reasoning_content" in message for message in request["messages"]):
            return refuse({"error": {"message": "property 'reasoning_content' is unsupported"}})
        return FINISH if len(request["messages"]) > 1 else native_reply(reasoning_content="hm")

    with FakeEndpoint(answer) as served:
        assert run(model(served), [Echo()], native=True).stop == "finish" and len(served.requests) == 3


def test_refused_episodes_are_not_run_again_and_are_counted(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    def answer(request: Mapping[str, Any]) -> FakeReply | Fault:
        is_long = len(request["messages"][-1]["content"]) > 60
        return refuse(TOO_LONG[1]) if is_long else "Thought: I know.\nAction: finish[Paris]"

    with FakeEndpoint(answer, models=["m"]) as served, caplog.at_level(logging.WARNING):
        config = CollectConfig({"geo-hop/react": 6}, teacher=f"openai:m@{served.url}", repairs=0)
        collect(config, tmp_path / "run")
        stops = [trajectory.stop for trajectory in read_trajectories(tmp_path / "run")]
        (tmp_path / "run" / "manifest.json").unlink()
        request_count = len(served.requests)
        collect(config, tmp_path / "run")
        assert len(served.requests) == request_count
    assert 0 < stops.count("refused") < 6 and set(stops) == {"refused", "finish"}
    assert f"{stops.count('refused')} of 6 episodes ended with a prompt that was refused" in caplog.text


@pytest.mark.parametrize("status", [400, 401, 403, 422, 429, 500])
@pytest.mark.parametrize(
    "form", ["wrong key {}", "maximum context length exceeded {}", "Basic {base64}", "/x?key={quoted}"]
)
def test_a_key_that_an_endpoint_repeats_is_neither_raised_nor_stored(
    status: int, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "a key+of/nobody-0123456789"
    forms = (key, base64.b64encode(f"user:{key}".encode()).decode(), quote(key, safe=""))
    monkeypatch.setenv("OPENAI_API_KEY", key)
    words = form.format(key, base64=forms[1], quoted=forms[2])
    with FakeEndpoint(lambda request: refuse({"error": {"message": words}}, status), models=["m"]) as served:
        trajectory_text, error_text = "", ""
        lm = OpenAIModel("m", served.url, pause=0.001)
        assert served.url and "nobody" not in lm.name
        try:
            trajectory_text = jsonl.dumps(run(lm).to_dict())
        except ConfigError as error:
            error_text = f"{error} {error.__cause__}"
    assert form.split()[0].split("?")[0] in trajectory_text + error_text
    assert "0123456789" not in trajectory_text + error_text and forms[1][4:-4] not in trajectory_text + error_text
