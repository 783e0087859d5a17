"""Serving a student to an agent that has its own tools: the real client, over real HTTP."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

pytest.importorskip("torch")
openai = pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("llguidance")

from fireact.methods.react import ReAct  # noqa: E402
from fireact.models.hf import HFModel  # noqa: E402
from fireact.render.tool_calls import ToolCallsRenderer  # noqa: E402
from fireact.types import FINISH, Call, Completion, Usage  # noqa: E402
from test_serve import listening  # noqa: E402
from tiny import tiny_model  # noqa: E402

POPULATION = {
    "type": "function",
    "function": {
        "name": "population",
        "description": "people in a country",
        "parameters": {
            "type": "object",
            "properties": {"country": {"enum": ["Chad", "Kenya"]}, "year": {"type": "integer", "minimum": 2000}},
            "required": ["country", "year"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "the time", "parameters": {}}}
TOOLS = [POPULATION, CLOCK]
ASK = [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "How many live in Chad and Kenya?"}]


def call_text(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


class Writer:
    """A student that writes the text whose number is that of the turns so far, a few characters at a time."""

    name = "writer"

    def __init__(self, *texts: str, finish: Literal["stop", "length"] = "stop") -> None:
        self.texts, self.finish, self.calls = texts, finish, list[Call]()

    def complete(self, call: Call) -> Completion:
        self.calls.append(call)
        text = self.texts[min(sum(message.role == "assistant" for message in call.messages), len(self.texts) - 1)]
        if call.on_delta is not None:
            for start in range(0, len(text), 3):
                call.on_delta(text[start : start + 3])
        return Completion(text, Usage(1, 10, 4, 5), self.finish, 0.0)


class Ending(ToolCallsRenderer):
    """The calls of a student that ends in its own way."""

    ends_itself = True


def run_loop(client: Any, tools: dict[str, Callable[..., str]], *, stream: bool = False, **options: Any) -> list[Any]:
    """An agent as its engineer writes it, with the openai package alone; returns its messages."""
    messages: list[Any] = list(ASK)
    for _ in range(5):
        request = {"model": "gpt-4o", "messages": messages, "tools": TOOLS, **options}
        reply = read_stream(client, request) if stream else client.chat.completions.create(**request).choices[0].message
        messages.append(reply.to_dict())
        if not reply.tool_calls:
            return messages
        for call in reply.tool_calls:
            result = tools[call.function.name](**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise AssertionError("the loop does not end")


def read_stream(client: Any, request: dict[str, Any]) -> Any:
    """The message that a stream adds up to, by the client's own accumulator."""
    with client.chat.completions.stream(**request) as events:
        return events.get_final_completion().choices[0].message


def client_of(port: int) -> Any:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)


TOOLS_HERE: dict[str, Callable[..., str]] = {
    "population": lambda country, year: {"Chad": "17 million", "Kenya": "53 million"}[country],
    "clock": lambda: "noon",
}
LOOK = "I look both up.\n" + "\n".join(call_text("population", country=name, year=2020) for name in ("Chad", "Kenya"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("finish", [False, True])
def test_an_agent_of_the_openai_package_runs_on_a_student(stream: bool, finish: bool) -> None:
    answer = "I know it.\n" + call_text(FINISH, answer="70 million") if finish else "70 million"
    student, renderer = Writer(LOOK, answer), ToolCallsRenderer() if finish else Ending()
    with listening(student, method=ReAct(renderer=renderer), runs_tools=False) as port, client_of(port) as client:
        messages = run_loop(client, TOOLS_HERE, stream=stream)
    _, _, first, chad, kenya, last = messages
    assert first["content"] == "I look both up."
    assert [call["function"]["name"] for call in first["tool_calls"]] == ["population"] * 2
    assert [chad["content"], kenya["content"]] == ["17 million", "53 million"] and last["content"] == "70 million"
    assert len({call["id"] for call in first["tool_calls"]}) == 2 and all(
        call["type"] == "function" for call in first["tool_calls"]
    )
    offered = [tool.name for tool in student.calls[0].tools]
    assert offered == ["population", "clock", *([FINISH] if finish else [])]
    if finish:
        assert last["reasoning_content"] == "I know it."


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_of_the_responses_api_runs_on_a_student(stream: bool) -> None:
    student = Writer(LOOK, "70 million")
    tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
    items: list[Any] = [ASK[1]]
    with listening(student, method=ReAct(renderer=Ending()), runs_tools=False) as port, client_of(port) as client:
        for _ in range(2):
            request = {"model": "gpt-4o", "instructions": "Use tools.", "input": items, "tools": tools, "store": False}
            if stream:
                with client.responses.stream(**request) as events:
                    reply = events.get_final_response()
            else:
                reply = client.responses.create(**request)
            items += [item.to_dict() for item in reply.output]
            for call in [item for item in reply.output if item.type == "function_call"]:
                result = TOOLS_HERE[call.name](**json.loads(call.arguments))
                items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    assert reply.output_text == "70 million" and reply.usage.output_tokens == 5
    assert [message.role for message in student.calls[1].messages] == ["system", "user", "assistant", "tool", "tool"]
    assert [message.content for message in student.calls[1].messages[2:]] == [
        "I look both up.",
        "17 million",
        "53 million",
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_may_name_an_earlier_response_instead_of_sending_it(stream: bool) -> None:
    student = Writer(call_text("clock"), "noon")
    tools = [{"type": "function", **CLOCK["function"]}]
    with listening(student, method=ReAct(renderer=Ending()), runs_tools=False) as port, client_of(port) as client:

        def ask(**options: Any) -> Any:
            request = {"model": "m", "tools": tools, **options}
            if not stream:
                return client.responses.create(**request)
            with client.responses.stream(**request) as events:
                return events.get_final_response()

        first = ask(input="What time is it?")
        (call,) = first.output
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "12:00"}
        second = ask(input=[result], previous_response_id=first.id)
        assert second.output_text == "noon"
        forgotten = ask(input="Hm?", store=False)
        for id in ("resp_nowhere", forgotten.id):
            with pytest.raises(openai.BadRequestError, match="no response that this server holds"):
                ask(input="And now?", previous_response_id=id)
    assert [message.content for message in student.calls[1].messages] == ["What time is it?", "", "12:00"]
    assert [message.role for message in student.calls[1].messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("dialect", ["responses", "chat completions"])
def test_an_agent_of_openai_agents_runs_on_a_student(dialect: str) -> None:
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)

    @agents.function_tool
    def population(country: str, year: int) -> str:
        """People in a country."""
        return {"Chad": "17 million", "Kenya": "53 million"}[country]

    student = Writer(LOOK, "70 million")

    async def run(port: int) -> str:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
            kind = agents.OpenAIResponsesModel if dialect == "responses" else agents.OpenAIChatCompletionsModel
            model = kind(model="gpt-4o", openai_client=client)
            agent = agents.Agent(name="clerk", instructions="Use tools.", tools=[population], model=model)
            return str((await agents.Runner.run(agent, ASK[1]["content"])).final_output)

    with listening(student, method=ReAct(renderer=Ending()), runs_tools=False) as port:
        assert asyncio.run(run(port)) == "70 million"
    assert [message.content for message in student.calls[1].messages[-3:]] == [
        "I look both up.",
        "17 million",
        "53 million",
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_of_anthropics_package_runs_on_a_student(stream: bool) -> None:
    anthropic = pytest.importorskip("anthropic")
    student = Writer(LOOK, "70 million")
    tools = [
        {"name": tool["function"]["name"], "description": "d", "input_schema": tool["function"]["parameters"]}
        for tool in TOOLS
    ]
    messages: list[Any] = [ASK[1]]
    with (
        listening(student, method=ReAct(renderer=Ending()), runs_tools=False, key="secret") as port,
        anthropic.Anthropic(base_url=f"http://127.0.0.1:{port}", api_key="secret", max_retries=0) as client,
    ):
        for _ in range(2):
            request = {
                "model": "claude",
                "max_tokens": 100,
                "system": "Use tools.",
                "messages": messages,
                "tools": tools,
            }
            if stream:
                with client.messages.stream(**request) as events:
                    reply = events.get_final_message()
            else:
                reply = client.messages.create(**request)
            messages.append({"role": "assistant", "content": [block.to_dict() for block in reply.content]})
            results = [
                {"type": "tool_result", "tool_use_id": block.id, "content": TOOLS_HERE[block.name](**block.input)}
                for block in reply.content
                if block.type == "tool_use"
            ]
            messages += [{"role": "user", "content": results}] if results else []
        with pytest.raises(anthropic.BadRequestError) as refused:
            client.messages.create(**request, extra_body={"top_k": 5})
        assert refused.value.body["type"] == "error" and "--lenient" in refused.value.message
    assert reply.content[-1].text == "70 million" and reply.stop_reason == "end_turn"
    assert [message.role for message in student.calls[1].messages] == ["system", "user", "assistant", "tool", "tool"]
    assert [message.content for message in student.calls[1].messages[2:]] == [
        "I look both up.",
        "17 million",
        "53 million",
    ]


def test_the_student_reads_the_results_in_the_order_of_its_calls() -> None:
    student = Writer(LOOK, "done")
    with listening(student, method=ReAct(renderer=Ending()), runs_tools=False) as port, client_of(port) as client:
        first = client.chat.completions.create(model="m", messages=ASK, tools=TOOLS).choices[0].message
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": json.loads(call.function.arguments)["country"]}
            for call in reversed(first.tool_calls)
        ]
        client.chat.completions.create(model="m", messages=[*ASK, first, *results], tools=TOOLS)
    messages = student.calls[1].messages
    assert [message.content for message in messages] == [
        "Use tools.",
        ASK[1]["content"],
        "I look both up.",
        "Chad",
        "Kenya",
    ]
    assert [message.name for message in messages[3:]] == ["population"] * 2 and len(messages[2].calls) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_was_cut_off_is_neither_call_nor_text(stream: bool) -> None:
    student = Writer("I look.\n" + call_text("population", country="Chad", year=2020)[:40], finish="length")
    with listening(student, method=ReAct(renderer=Ending())) as port, client_of(port) as client:
        if stream:
            events = list(client.chat.completions.create(model="s", messages=ASK, tools=TOOLS, stream=True))
            text = "".join(event.choices[0].delta.content or "" for event in events)
            finish = events[-1].choices[0].finish_reason
        else:
            (choice,) = client.chat.completions.create(model="s", messages=ASK, tools=TOOLS).choices
            text, finish = choice.message.content, choice.finish_reason
    assert (text, finish) == ("I look.", "length")


def test_a_text_is_no_call_where_no_tool_may_be_called() -> None:
    student = Writer(LOOK)
    with listening(student, method=ReAct(renderer=Ending()), constrain=False) as port, client_of(port) as client:
        ask = client.chat.completions.create
        for options in ({}, {"tools": TOOLS, "tool_choice": "none"}):
            reply = ask(model="s", messages=ASK, **options).choices[0]
            assert reply.message.content == LOOK and not reply.message.tool_calls and reply.finish_reason == "stop"


def test_a_student_of_text_actions_refuses_tools_and_says_what_to_do() -> None:
    with (
        listening(Writer("x")) as port,
        client_of(port) as client,
        pytest.raises(openai.BadRequestError, match="s-agent"),
    ):
        client.chat.completions.create(model="s", messages=ASK, tools=TOOLS)


@pytest.mark.parametrize(
    "options", [{"tools": TOOLS, "tool_choice": "required"}, {"response_format": {"type": "json_object"}}]
)
def test_a_form_that_cannot_be_kept_is_refused(options: dict[str, Any]) -> None:
    refused = pytest.raises(openai.BadRequestError, match="constrained decoding, which is off")
    with listening(Writer("x"), method=ReAct(renderer=Ending())) as port, client_of(port) as client, refused:
        client.chat.completions.create(model="s", messages=ASK, **options)


def test_a_lenient_server_ignores_fields_and_names_them() -> None:
    with listening(Writer("x"), lenient=True) as port, client_of(port) as client:
        ask = client.chat.completions.with_raw_response.create
        reply = ask(model="s", messages=ASK, presence_penalty=0.5, user="me", extra_body={"top_k": 4, "min_p": 0})
        assert reply.headers["x-fireact-ignored"] == "presence_penalty, top_k"
        assert "x-fireact-ignored" not in ask(model="s", messages=ASK, user="me").headers
        with pytest.raises(openai.BadRequestError, match="n must be 1"):
            ask(model="s", messages=ASK, n=2)
    with listening(Writer("x")) as port, client_of(port) as client:
        harmless = {
            "prompt_cache_options": {"x": 1},
            "moderation": {"model": "x"},
            "cache_control": {},
            "mcp_servers": [],
        }
        ask = client.chat.completions.with_raw_response.create
        assert "x-fireact-ignored" not in ask(model="s", messages=ASK, extra_body=harmless).headers
        thinking = ask(model="s", messages=ASK, extra_body={"thinking": {"type": "enabled", "budget_tokens": 9}})
        assert thinking.headers["x-fireact-ignored"] == "thinking"
        reply = client.responses.with_raw_response.create(
            model="s", input="When?", truncation="auto", instructions="Be short.", metadata={"run": "7"}
        )
        assert reply.headers["x-fireact-ignored"] == "truncation"
        assert reply.parse().instructions == "Be short." and reply.parse().metadata == {"run": "7"}
        with client.responses.stream(model="s", input="When?", instructions="Be short.") as events:
            assert next(iter(events)).response.instructions == "Be short."
        for options, message in (({"logprobs": True}, "reports none"),):
            with pytest.raises(openai.BadRequestError, match=message):
                ask(model="s", messages=ASK, **options)
        with pytest.raises(openai.BadRequestError, match="'conv_1' is no conversation that this"):
            client.responses.create(model="s", input="When?", conversation="conv_1")
    student = Writer(call_text("clock"))
    with listening(student, method=ReAct(renderer=Ending()), lenient=True) as port, client_of(port) as client:
        ask = client.responses.with_raw_response.create
        clock = {"type": "function", "name": "clock", "parameters": {}, "strict": False}
        group = {"type": "namespace", "name": "agents", "tools": [clock]}
        reply = ask(model="s", input="When?", tools=[{"type": "web_search"}, clock, group])
        assert reply.headers["x-fireact-ignored"] == "tools: web_search, tools: agents"
        assert [tool.name for tool in student.calls[0].tools] == ["clock"]
        assert [item.name for item in reply.parse().output if item.type == "function_call"] == ["clock"]
        with pytest.raises(openai.BadRequestError, match="tool_choice names 'agents'; tools has clock"):
            ask(model="s", input="When?", tools=[clock, group], tool_choice={"type": "function", "name": "agents"})


# --- a real model of random weights: what it writes is valid by construction alone ---


@pytest.fixture(scope="module")
def random_student(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HFModel]:
    lm = HFModel(tiny_model(tmp_path_factory.mktemp("tools"), seed=3, positions=8192), slots=4, dtype="float32")
    yield lm
    lm.close()


@pytest.fixture(scope="module")
def ask(random_student: HFModel) -> Iterator[Callable[..., Any]]:
    with (
        listening(random_student, method=ReAct(renderer=Ending()), runs_tools=False) as port,
        client_of(port) as client,
    ):
        yield lambda **options: client.chat.completions.create(
            **{"model": "any", "messages": ASK, "tools": TOOLS, "max_tokens": 400, **options}
        )


@pytest.mark.parametrize("seed", range(4))
def test_calls_are_valid_by_construction(ask: Callable[..., Any], seed: int) -> None:
    choice = ask(tool_choice="required", temperature=1.5, seed=seed, parallel_tool_calls=False).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name in ("population", "clock")
    if call.function.name == "population":
        assert (
            arguments["country"] in ("Chad", "Kenya") and type(arguments["year"]) is int and arguments["year"] >= 2000
        )
        assert set(arguments) == {"country", "year"}
    else:
        assert arguments == {}


@pytest.mark.parametrize("seed", range(3))
def test_the_tool_that_is_chosen_is_called(ask: Callable[..., Any], seed: int) -> None:
    choice = {"type": "function", "function": {"name": "clock"}}
    reply = ask(tool_choice=choice, temperature=1.0, seed=seed).choices[0].message
    assert {call.function.name for call in reply.tool_calls} == {"clock"}


def test_only_allowed_tools_are_called(ask: Callable[..., Any]) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    reply = ask(parallel_tool_calls=False, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [call.function.name for call in reply.choices[0].message.tool_calls][:1] == ["clock"]


def test_json_fits_its_schema(ask: Callable[..., Any]) -> None:
    schema = {
        "type": "object", "properties": {"n": {"type": "integer"}, "kind": {"enum": ["a", "b"]}},
        "required": ["n", "kind"], "additionalProperties": False,
    }  # fmt: skip
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    reply = json.loads(ask(response_format=asked, tool_choice="none").choices[0].message.content)
    assert type(reply["n"]) is int and reply["kind"] in ("a", "b")


def test_a_schema_that_is_none_is_refused_in_words(ask: Callable[..., Any]) -> None:
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    with pytest.raises(openai.BadRequestError, match="cannot be constrained"):
        ask(response_format=broken)


def test_top_p_narrows_what_is_drawn(ask: Callable[..., Any]) -> None:
    options: dict[str, Any] = {"tool_choice": "none", "max_tokens": 12, "seed": 5}
    greedy = ask(temperature=0, **options).choices[0].message.content
    assert ask(temperature=2, top_p=1e-9, **options).choices[0].message.content == greedy
    assert ask(temperature=2, **options).choices[0].message.content != greedy


def test_log_probabilities_are_of_the_tokens_written(ask: Callable[..., Any]) -> None:
    choice = ask(tool_choice="none", max_tokens=6, logprobs=True, top_logprobs=2).choices[0]
    tokens = choice.logprobs.content
    assert len(tokens) == 6 and all(item.logprob == item.top_logprobs[0].logprob <= 0 for item in tokens)
    assert all(len(item.top_logprobs) == 2 for item in tokens)
    readable = [item.token for item in tokens if item.token.isascii()]
    assert readable and all(token in choice.message.content for token in readable)
    assert all(bytes(item.bytes).decode() == item.token for item in tokens)


def test_text_and_calls_share_a_batch(ask: Callable[..., Any]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    kinds = [{"tool_choice": "required", "parallel_tool_calls": False}, {"tool_choice": "none", "max_tokens": 20}] * 3
    alone = [ask(**options).choices[0].message for options in kinds[:2]]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda options: ask(**options).choices[0].message, kinds))
    assert [reply.content for reply in together] == [reply.content for reply in alone] * 3
    assert [reply.tool_calls for reply in together] == [reply.tool_calls for reply in alone] * 3
