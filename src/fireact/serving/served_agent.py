"""A student and the agent around it as they are served, and the answer to one request.

Invariant: a request reaches the model through the same function as training samples. A request whose client has left
stops. The question to an agent is the last user message. Its text, as it is written, and its observations come as
reasoning, its answer as text. This module knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from fireact.base.listening import required_key
from fireact.errors import FireactError, FormatError
from fireact.methods.react import FinishTool
from fireact.render.requests import KnownPrompts, drop_prompt, has_prompt_of
from fireact.rollout.episodes import Agent, Cancelled, MeteredLM, complete_streaming
from fireact.serving.stream import EpisodeStream, iterate_steps
from fireact.serving.student_reply import StudentReply
from fireact.serving.wire import StudentRequest, write_logprobs
from fireact.types import FINISH, Call, Completion, OnDelta, ReplyForm, Step, answer_of
from fireact.wire.dialect import StreamDelta, StreamWriter, WireReply

BODY_SECONDS = 30
"""Seconds within which the body of a request must arrive."""
MAX_BODY = 4_000_000
"""Bytes; a longer request is refused before it is read."""


@dataclass(frozen=True, slots=True)
class ServedAgent:
    """An agent and its student, with the names under which they are served.

    ``tuned`` tells whether we trained the student. ``runs_tools`` tells whether the agent is served, too. With
    ``constrain`` calls and JSON are valid by construction. A ``lenient`` server ignores fields that it cannot serve.
    Of a student of a recorded agent, a ``strict`` server refuses prompts and tools other than those of the recording.
    """

    name: str
    agent: Agent
    max_body: int = MAX_BODY
    body_seconds: float = BODY_SECONDS
    key: str | None = field(default=None, repr=False)
    aliases: tuple[str, ...] = ()
    tuned: bool = True
    runs_tools: bool = True
    constrain: bool = True
    lenient: bool = False
    strict: bool = False
    dropped: frozenset[str] = frozenset()
    """The hashes of prompts that the student was trained without."""
    known: KnownPrompts | None = None
    """The prompts that the student was trained with; None where they are not known."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models: those of the student, then that of the agent."""
        return (self.name, *self.aliases, *([f"{self.name}-agent"] if self.runs_tools else []))

    def serves(self, model: str) -> bool:
        """Whether a model is served under this name; a student that is served alone has every name."""
        return model in self.names or not self.runs_tools

    def is_agent(self, model: str) -> bool:
        """Whether this is the name of the agent, not of the student."""
        return self.runs_tools and model == f"{self.name}-agent"

    @property
    def takes_tools(self) -> bool:
        """Whether the student reads its client's tools: one of native calls does, as does a model not trained here."""
        return bool(getattr(self._renderer, "native", False)) or not self.tuned

    @property
    def answers_by_finish(self) -> bool:
        """Whether the student was trained to give its answer by the finish action."""
        native, ends_itself = (getattr(self._renderer, name, False) for name in ("native", "ends_itself"))
        return self.tuned and native and not ends_itself

    @property
    def _renderer(self) -> Any:
        return getattr(self.agent.method, "renderer", None)


OnReplyDelta = Callable[[StreamDelta], None]
"""Receives the deltas of a streamed reply as they arrive."""


def make_served_agent(name: str, agent: Agent, *, host: str, **options: Any) -> ServedAgent:
    """The served agent with its key. Raises ConfigError when other machines could use it without a key."""
    return ServedAgent(name, agent, key=required_key(host), **options)


class ServedRequest:
    """One request, answered on a thread; once ``client_left`` is set, the next delta raises Cancelled.

    Raises FormatError for a request that the student or the agent cannot answer.
    """

    def __init__(
        self, served: ServedAgent, request: StudentRequest, on_reply_delta: OnReplyDelta = lambda delta: None
    ) -> None:
        self.served, self.request, self.on_reply_delta = served, request, on_reply_delta
        self.client_left = threading.Event()
        self._check()

    def answer(self) -> WireReply:
        """The reply; an agent's steps are its reasoning."""
        return self._agent() if self.served.is_agent(self.request.model) else self._student()

    def _check(self) -> None:
        served, request = self.served, self.request
        chooses_tools = request.tool_choice.mode in ("required", "tool") or request.allowed_tools is not None
        needs_constraint = request.json_schema is not None or chooses_tools
        if served.is_agent(request.model):
            if request.tools:
                raise FormatError(f"tools: {request.model} runs its own tools here; ask {served.name} with yours")
            if needs_constraint or request.top_logprobs is not None:
                raise FormatError(
                    f"{request.model} answers in its own form. Leave response_format, tool_choice and logprobs out"
                )
        elif request.tools and not served.takes_tools:
            raise FormatError(
                f"tools: the student {served.name} was trained to write its actions as text. Ask {served.name}-agent, "
                "whose tools run here, or train a student with --renderer recorded or tool_calls"
            )
        elif served.strict and self.has_unknown_prompt:
            raise FormatError(
                "the system prompt and the tools are none of the student's training. Send those of the recording, or "
                "serve without --strict"
            )
        elif needs_constraint and not self._constrains:
            raise FormatError(
                "tool_choice and response_format need constrained decoding, which is off here. Leave them out, or "
                "serve a student of this machine without --no-constrain"
            )

        if request.top_logprobs is not None and not getattr(served.agent.lm, "reports_logprobs", False):
            raise FormatError("logprobs: this model reports none. Leave it out, or serve a student of this machine")

    @cached_property
    def drops_prompt(self) -> bool:
        """Whether the student was trained without the system prompt and the tools of this request."""
        tools = [tool.schema for tool in self.request.tools]
        return has_prompt_of(self.served.dropped, self.request.messages, tools)

    @property
    def has_unknown_prompt(self) -> bool:
        """Whether this request has another system prompt or other tools than the student's agent had."""
        if self.served.is_agent(self.request.model) or self.drops_prompt:
            return False
        known, tools = self.served.known, [tool.schema for tool in self.request.tools]
        return bool(self.served.dropped) or (known is not None and not known.holds(self.request.messages, tools))

    @property
    def prompt(self) -> Call:
        """The messages and the tools that the student is given."""
        request = self.request
        if self.drops_prompt:
            return Call(drop_prompt(request.messages))
        return Call(request.messages, (*request.tools, FinishTool()) if self._has_finish else request.tools)

    @property
    def _has_finish(self) -> bool:
        names = [tool.name for tool in self.request.tools]
        return self.served.answers_by_finish and bool(names) and FINISH not in names

    @property
    def _constrains(self) -> bool:
        return self.served.constrain and getattr(self.served.agent.lm, "constrains", False)

    def _student(self) -> WireReply:
        served, request = self.served, self.request
        form = self._reply_form()
        student_reply = StudentReply(
            lambda delta: self.on_reply_delta(delta), callable=form.callable, finish=self._has_finish,
            call_seed=json.dumps(request.body, sort_keys=True),
        )  # fmt: skip

        def on_delta(delta: str) -> None:
            if self.client_left.is_set():
                raise Cancelled
            if request.stream:  # else the whole text is read at once
                student_reply.add(delta)

        call = replace(
            self.prompt,
            stop=request.stop,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
            on_delta=on_delta,
            top_p=request.top_p,
            form=form if self._constrains else None,
            top_logprobs=request.top_logprobs,
        )
        completion = complete_streaming(served.agent.lm, call)
        reply = student_reply.end(completion)
        return reply if request.top_logprobs is None else replace(reply, extra=write_logprobs(completion.logprobs))

    def _reply_form(self) -> ReplyForm:
        """What the reply may be. A student that answers by the finish action may do so instead of writing text."""
        request = self.request
        choice, names = request.tool_choice, tuple(tool.name for tool in request.tools)
        if request.allowed_tools is not None:
            names = tuple(name for name in names if name in request.allowed_tools)
        callable_names = {"none": (), "tool": (choice.name,)}.get(choice.mode, names)
        may_answer = choice.mode in ("auto", "none")
        if self._has_finish and may_answer and request.json_schema is None:
            callable_names = (*callable_names, FINISH)
        schemas = tuple(tool.schema for tool in request.tools) if self.drops_prompt else ()
        return ReplyForm(callable_names, may_answer, request.parallel_tool_calls, request.json_schema, schemas)

    def _agent(self) -> WireReply:
        chat_request, agent = self.request, self.served.agent
        question = next((message.content for message in reversed(chat_request.messages) if message.role == "user"), "")
        if not question.strip():
            raise FormatError("an agent is asked the last message of the role user; there is none")
        if chat_request.stop:
            raise FormatError("stop: an agent ends its turns itself. Leave it out.")
        steps, deltas = list[Step](), list[str]()

        def add_delta(delta: str) -> None:
            deltas.append(delta)
            self.on_reply_delta(StreamDelta(reasoning=delta))

        stream = EpisodeStream(add_delta)
        meter = _TokenLimitedLM(
            replace(agent, temperature=chat_request.temperature),
            self.client_left,
            token_limit=chat_request.max_tokens,
            on_delta=stream.on_delta,
        )
        for step in iterate_steps(agent, question, meter, seed=chat_request.seed):
            steps.append(step)
            stream.on_step(step)
            if not meter.remaining_tokens:
                break
        answer = answer_of(steps)
        if answer:
            self.on_reply_delta(StreamDelta(answer))
        finish = "length" if answer is None else "stop"
        return WireReply((answer or "",), reasoning="".join(deltas), finish=finish, usage=meter.usage)


class _TokenLimitedLM(MeteredLM):
    """A metered LM that lets an episode write ``token_limit`` tokens in total; None is no limit."""

    def __init__(self, agent: Agent, cancelled: threading.Event, *, token_limit: int | None, on_delta: OnDelta) -> None:
        super().__init__(agent, cancelled, on_delta=on_delta)
        self._token_limit, self._turn_limit = token_limit, agent.limits.max_tokens

    @property
    def remaining_tokens(self) -> int:
        """The tokens that the next turn may write; 0 when the limit is reached."""
        return (
            self._turn_limit
            if self._token_limit is None
            else max(0, min(self._turn_limit, self._token_limit - self.usage.completion_tokens))
        )

    def complete(self, call: Call) -> Completion:
        max_tokens = max(1, self.remaining_tokens) if call.max_tokens is None else call.max_tokens
        return super().complete(replace(call, max_tokens=max_tokens))


async def stream_events(
    served_request: ServedRequest,
    writer: StreamWriter,
    threads: Executor,
    watch: asyncio.Task[None],
    on_reply: Callable[[WireReply], object] = lambda reply: None,
) -> AsyncIterator[bytes]:
    """The events of a reply, as they come from the thread that answers the request; ``on_reply`` gets the whole."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[StreamDelta | WireReply | BaseException] = asyncio.Queue()

    def put(item: StreamDelta | WireReply | BaseException) -> None:
        loop.call_soon_threadsafe(events.put_nowait, item)

    def work() -> None:
        try:
            put(served_request.answer())
        except BaseException as error:  # the client gets any error instead of waiting for ever
            put(error)

    served_request.on_reply_delta = put
    try:
        working = loop.run_in_executor(threads, work)
        yield writer.start()
        while isinstance(item := await events.get(), StreamDelta):
            yield writer.add(item)
        if isinstance(item, WireReply):
            on_reply(item)
            yield writer.end(finish=item.finish, usage=item.usage if served_request.request.stream_usage else None)
        else:
            error_text = str(item) if isinstance(item, FireactError) else f"{type(item).__name__}: {item}"
            yield writer.fail(error_text)
        await working
    finally:  # nobody reads the reply from here on
        served_request.client_left.set()
        watch.cancel()
