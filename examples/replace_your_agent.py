"""Put a student of your own in the place of the model behind an agent: only the agent's base URL changes.

    python examples/replace_your_agent.py CLIENT [--small] [--student NAME] -o DIR

CLIENT is the package that the agent is written with (--help lists them). The scripted teacher, served on the client's
own wire, stands for the hosted model, so that all of it runs offline. The agent answers questions while its calls are
recorded; its right episodes train a student; the student is served, and the same agent answers held-out questions with
both. Their calls are recorded too, so `fireact compare DIR/before DIR/after` pairs them by question. The last line is
one JSON object; its tokens are those of a question, as the teacher (words) and the student (tokens) report them.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fireact
from fireact.pipeline.functions import RecordedRun
from fireact.tasks.geo import geo_hop
from fireact.tools.search import build_geo_search
from fireact.types import Example

INSTRUCTIONS = "You answer questions on countries. Search, one fact at a time, then give the answer alone."
ARGUMENTS = {
    "type": "object",
    "properties": {"query": {"type": "string", "description": "what to look for"}},
    "required": ["query"],
}
DESCRIPTION = "Finds an article on countries and returns its best sentences."
ROUNDS, MAX_TOKENS = 8, 200
AT_ONCE = 8
"""Questions that are asked at the same time."""
NAMES = ("gpt-4o", "claude")
"""The names of models that the agents ask for."""
geo_search = build_geo_search()


def search(query: str) -> str:
    """The agent's tool."""
    return geo_search(query=query)


# --- the agents: each is one function, and its base URL is all that ever changes ---


def ask_chat(question: str, base_url: str) -> str:
    """An agent on OpenAI's chat completions."""
    import openai

    client = openai.OpenAI(base_url=base_url, api_key="none")
    function = {"name": "search", "description": DESCRIPTION, "parameters": ARGUMENTS}
    messages: list[Any] = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
    for _ in range(ROUNDS):
        reply = client.chat.completions.create(
            model="gpt-4o", messages=messages, tools=[{"type": "function", "function": function}],
            max_tokens=MAX_TOKENS, temperature=0,
        ).choices[0].message  # fmt: skip
        if not reply.tool_calls:
            return reply.content or ""
        messages.append(reply)
        for call in reply.tool_calls:
            result = search(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return ""


def ask_responses(question: str, base_url: str) -> str:
    """An agent on OpenAI's Responses."""
    import openai

    client = openai.OpenAI(base_url=base_url, api_key="none")
    tool = {"type": "function", "name": "search", "description": DESCRIPTION, "parameters": ARGUMENTS, "strict": False}
    items: list[Any] = [{"role": "user", "content": question}]
    for _ in range(ROUNDS):
        reply = client.responses.create(
            model="gpt-4o", instructions=INSTRUCTIONS, input=items, tools=[tool], max_output_tokens=MAX_TOKENS,
            temperature=0,
        )  # fmt: skip
        calls = [item for item in reply.output if item.type == "function_call"]
        if not calls:
            return reply.output_text
        items += [item.model_dump(exclude_none=True) for item in reply.output]
        for call in calls:
            result = search(**json.loads(call.arguments))
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    return ""


def ask_messages(question: str, base_url: str) -> str:
    """An agent on Anthropic's Messages."""
    import anthropic

    client = anthropic.Anthropic(base_url=base_url.removesuffix("/v1"), api_key="none")
    tool = {"name": "search", "description": DESCRIPTION, "input_schema": ARGUMENTS}
    messages: list[Any] = [{"role": "user", "content": question}]
    for _ in range(ROUNDS):
        reply = client.messages.create(
            model="claude", system=INSTRUCTIONS, messages=messages, tools=[tool], max_tokens=MAX_TOKENS
        )
        uses = [block for block in reply.content if block.type == "tool_use"]
        if not uses:
            return "".join(block.text for block in reply.content if block.type == "text")
        results = [{"type": "tool_result", "tool_use_id": use.id, "content": search(**use.input)} for use in uses]
        messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]
    return ""


def ask_agents(question: str, base_url: str, *, chat: bool = False) -> str:
    """An agent of openai-agents, on Responses as it comes or on chat completions."""
    import agents
    import openai

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
            model_class = agents.OpenAIChatCompletionsModel if chat else agents.OpenAIResponsesModel
            tool = agents.FunctionTool(
                name="search", description=DESCRIPTION, params_json_schema=ARGUMENTS,
                on_invoke_tool=_search_for_agents, strict_json_schema=False,
            )  # fmt: skip
            agent = agents.Agent(
                name="geographer", instructions=INSTRUCTIONS, tools=[tool], model=model_class("gpt-4o", client),
                model_settings=agents.ModelSettings(temperature=0, max_tokens=MAX_TOKENS),
            )  # fmt: skip
            return str((await agents.Runner.run(agent, question, max_turns=ROUNDS)).final_output)

    agents.set_tracing_disabled(True)
    return asyncio.run(run())


async def _search_for_agents(context: Any, arguments: str) -> str:
    return search(**json.loads(arguments))


def ask_langgraph(question: str, base_url: str) -> str:
    """An agent of LangChain on LangGraph, over its client of chat completions."""
    from langchain.agents import create_agent
    from langchain_core.tools import StructuredTool
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model="gpt-4o", base_url=base_url, api_key="none", temperature=0, max_completion_tokens=MAX_TOKENS
    )
    tool = StructuredTool(name="search", description=DESCRIPTION, args_schema=ARGUMENTS, func=search)
    agent = create_agent(model, [tool], system_prompt=INSTRUCTIONS)
    state = agent.invoke({"messages": [("user", question)]}, {"recursion_limit": 2 * ROUNDS + 1})
    return str(state["messages"][-1].content)


def ask_pydantic(question: str, base_url: str, *, structured: bool = False) -> str:
    """An agent of Pydantic AI, whose output is a text or an object that it gives by a call of ``final_result``."""
    import openai
    from pydantic_ai import Agent, Tool, UsageLimits
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    @dataclass
    class Reply:
        answer: str

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
            agent: Agent[None, Any] = Agent(
                OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client)), instructions=INSTRUCTIONS,
                tools=[Tool.from_schema(search, "search", DESCRIPTION, ARGUMENTS)],
                output_type=Reply if structured else str,
                model_settings={"temperature": 0, "max_tokens": MAX_TOKENS},
            )  # fmt: skip
            output = (await agent.run(question, usage_limits=UsageLimits(request_limit=ROUNDS))).output
            return output.answer if isinstance(output, Reply) else str(output)

    return asyncio.run(run())


def ask_smolagents(question: str, base_url: str, *, code: bool = False) -> str:
    """An agent of smolagents, which acts by tool calls and ends by ``final_answer``, or acts in code."""
    import smolagents

    class Search(smolagents.Tool):
        name, description, output_type = "search", DESCRIPTION, "string"
        inputs = ARGUMENTS["properties"]

        def forward(self, query: str) -> str:
            return search(query)

    model = smolagents.OpenAIModel("gpt-4o", api_base=base_url, api_key="none", temperature=0, max_tokens=MAX_TOKENS)
    agent_class = smolagents.CodeAgent if code else smolagents.ToolCallingAgent
    agent = agent_class(tools=[Search()], model=model, instructions=INSTRUCTIONS, max_steps=ROUNDS, verbosity_level=-1)
    return str(agent.run(question))


CLIENTS: Mapping[str, Callable[[str, str], str]] = {
    "openai": ask_chat,
    "openai-responses": ask_responses,
    "anthropic": ask_messages,
    "openai-agents": ask_agents,
    "openai-agents-chat": partial(ask_agents, chat=True),
    "langgraph": ask_langgraph,
    "pydantic-ai": ask_pydantic,
    "pydantic-ai-structured": partial(ask_pydantic, structured=True),
    "smolagents": ask_smolagents,
    "smolagents-code": partial(ask_smolagents, code=True),
}


# --- the circle ---

LONG_PROMPTS = ("smolagents", "smolagents-code")
"""Clients whose system prompt has many times the tokens of an episode, and comes with each call."""
CODE_CLIENTS = ("smolagents-code",)
"""Clients whose answer is computed in their own process, so that no reply of the model holds it."""


def ask_all(client: str, examples: Iterable[Example], recording: RecordedRun) -> dict[str, str]:
    """The answers of the agent by question id; one that fails gives an empty answer, and the error is printed."""

    def ask_one(example: Example) -> str:
        try:
            answer = CLIENTS[client](example.question, recording.episode_url(example.id))
        except Exception as error:  # each package raises its own; the next question is asked all the same
            print(f"{example.id}: {type(error).__name__}: {error}")
            return ""
        if client in CODE_CLIENTS and answer:
            recording.feedback(example.id, answer=answer)
        return answer

    examples = list(examples)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip([example.id for example in examples], pool.map(ask_one, examples), strict=True))


@dataclass
class Outcome:
    """What the agent did on the held-out questions: its answers, and the run that recorded its calls."""

    answers: Mapping[str, str]
    run: RecordedRun

    def measure(self, examples: Sequence[Example]) -> float:
        """The exact match, in per cent."""
        scores = [geo_hop().score(example, self.answers[example.id])["em"] for example in examples]
        return round(100 * sum(scores) / len(scores), 1)

    @property
    def finished(self) -> float:
        """The share of questions with an answer, in per cent."""
        return round(100 * sum(map(bool, self.answers.values())) / len(self.answers), 1)

    @property
    def tokens(self) -> float:
        """Tokens a question, of prompts and of replies, as the endpoint counts them."""
        return round((self.run.usage.prompt_tokens + self.run.usage.completion_tokens) / len(self.answers), 1)

    @property
    def refused(self) -> int:
        """Requests that the endpoint did not answer."""
        calls = (self.run.path / "calls.jsonl").read_text(encoding="utf-8").splitlines()
        return sum(json.loads(call)["status"] != 200 for call in calls)


def measure_agent(client: str, examples: Sequence[Example], base_url: str, out: Path) -> Outcome:
    """Ask the agent the held-out questions with the model at a base URL."""
    with fireact.record(upstream=base_url, port=0, out=out) as recording:
        answers = ask_all(client, examples, recording)
    return Outcome(answers, recording)


def replace_model(client: str, out: Path, *, trained: int, asked: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Record the agent with the teacher, train a student, and ask the agent with both."""
    started = time.monotonic()
    train_examples, test_examples = (geo_hop().examples(split) for split in ("train", "test"))
    examples, held_out = list(train_examples[:trained]), list(test_examples[:asked])
    with fireact.serve("scripted:expert", port=0, aliases=NAMES) as teacher:
        with fireact.record(upstream=teacher.url, port=0, out=out / "record") as recording:
            ask_all(client, examples, recording)
        before = measure_agent(client, held_out, teacher.url, out / "before")
    rows = [{"question": example.question, "answer": example.answer} for example in examples + held_out]
    (out / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fireact.score(recording, answers=out / "answers.jsonl")
    mixed = fireact.mix(recording, where="correct", out=out / "mix")
    student = fireact.train(mixed, out=out / "train", **settings)
    with fireact.serve(student, port=0, aliases=NAMES) as served:
        after = measure_agent(client, held_out, served.url, out / "after")
    for outcome in (before, after):
        fireact.score(outcome.run, answers=out / "answers.jsonl")
    return {
        "client": client, "asked": len(held_out), "recorded": len(recording.trajectories), "refused": after.refused,
        "em_before": before.measure(held_out), "em_after": after.measure(held_out), "finished_after": after.finished,
        "tokens_before": before.tokens, "tokens_after": after.tokens,
        "minutes": round((time.monotonic() - started) / 60, 2),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("-o", "--out", type=Path, required=True, help="directory for all that is made")
    parser.add_argument("--small", action="store_true", help="6 questions and one epoch, to see that it works")
    parser.add_argument("--student", default="smollm2-135m", help="the model that is trained")
    parser.add_argument(
        "--prompt", choices=("keep", "drop"),
        help="train and serve with the agent's prompt, or without it, which is the default for smolagents",
    )  # fmt: skip
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    sizes = {"trained": 6, "asked": 2} if words.small else {"trained": 200, "asked": 100}
    epochs = {"epochs": 1} if words.small else {}
    prompt = words.prompt or ("drop" if words.client in LONG_PROMPTS else "keep")
    settings = {"student": words.student, "max_length": 4096, "prompt": prompt, **epochs}
    print(json.dumps(replace_model(words.client, words.out, **sizes, settings=settings)))
