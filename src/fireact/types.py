"""The nouns of every other module: frozen data, and Protocols for tasks, tools, models, methods and renderers.

Invariant: nothing here does I/O, and every dataclass survives ``to_dict`` -> JSON -> ``from_dict`` unchanged.
This module does not parse LM text (``render``), score (``tasks``) or save (``base.run_directory``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, Literal, Protocol

FINISH = "finish"
"""The action that every agent has: it ends the episode and carries the answer."""

Role = Literal["system", "user", "assistant", "tool"]
Stop = Literal["finish", "max_steps", "format", "refused", "error"]
"""Why an episode ended: it answered, ran out of steps, wrote no action, the model or its provider refused the prompt
(too long, flagged, filtered), or an infrastructure fault ended it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question of a task; ``meta`` holds further facts about it (kind, hops, entities, ...)."""

    id: str
    question: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Action:
    """A call of a tool by name; ``search[query]`` is only its text form."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the LM's thought and action, the observation, and the text as the LM wrote it."""

    thought: str
    action: Action | None
    observation: str | None
    text: str
    noise: str | None = None
    """What a ``noise:`` tool did to the observation, or None where it came through as it was."""
    repairs: int = 0
    """How often the LM was called again before it wrote an action."""
    joined: bool = False
    """Written in the same turn as the step before it: one of several calls that the LM made at once."""
    weight: float = 1.0
    """How much the loss of each token of this step counts, relative to the others'; 0 keeps it as context only."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the reply held besides text and calls, in the fields of its message; the endpoint gets it back."""

    def to_dict(self) -> dict[str, Any]:
        """The step as JSON holds it; fields at their defaults are left out."""
        action = self.action
        data: dict[str, Any] = {
            "thought": self.thought,
            "action": None if action is None else {"name": action.name, "arguments": dict(action.arguments)},
            "observation": None if self.observation is None else str(self.observation),
            "text": self.text,
        }
        if self.noise is not None:
            data["noise"] = self.noise
        if self.repairs:
            data["repairs"] = self.repairs
        if self.joined:
            data["joined"] = True
        if self.weight != 1.0:
            data["weight"] = self.weight
        if self.extra:
            data["extra"] = dict(self.extra)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Step:
        """Build from parsed JSON. Raises KeyError or TypeError where a field is missing or not of its shape."""
        action = data["action"]
        return cls(**{**data, "action": None if action is None else Action(action["name"], action["arguments"])})


class Observation(str):
    """The text that a tool returned, with the ``noise`` that changed it and the ``seconds`` that the call took.

    A tool may return a plain ``str`` as well; then there was no noise, and the caller measures the time.
    """

    noise: str | None
    seconds: float | None

    def __new__(cls, text: str, noise: str | None = None, seconds: float | None = None) -> Observation:
        self = super().__new__(cls, text)
        self.noise, self.seconds = noise, seconds
        return self


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written in a number of LM calls; ``cached_tokens`` of the prompt were not encoded again.

    ``cost`` is in US dollars: 0 for a local model, None where the price of a call is not known.
    """

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0

    def __add__(self, added: Usage) -> Usage:
        return Usage(
            self.calls + added.calls,
            self.prompt_tokens + added.prompt_tokens,
            self.cached_tokens + added.cached_tokens,
            self.completion_tokens + added.completion_tokens,
            None if self.cost is None or added.cost is None else self.cost + added.cost,
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A chat message; ``train`` is true where the student wrote it and shall learn it, each token with that ``weight``.

    ``calls`` are the native tool calls of an assistant's turn. A message of the role ``tool`` holds one observation of
    the tool ``name``; tool messages answer the calls before them in order. ``extra`` is that of its step.
    """

    role: Role
    content: str
    train: bool = False
    calls: tuple[Action, ...] = ()
    name: str = ""
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token as text, the natural logarithm of its probability, and the likeliest tokens with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer of an LM to one call. ``finish``: it stopped by itself, was cut, or refused; ``seconds`` is wall time.

    ``calls`` are the native tool calls that it made, where ``tools`` were offered to it. ``reasoning`` is what it wrote
    apart from the text. ``extra`` holds the fields of the message that the endpoint wants back, reasoning among them,
    and under ``tool_calls`` those of each call. A refused completion has the reason as its text. ``logprobs`` has each
    token, where the call asked for it.
    """

    text: str
    usage: Usage
    finish: Literal["stop", "length", "refused"]
    seconds: float
    calls: tuple[Action, ...] = ()
    reasoning: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of an episode: steps, tokens a completion, and the steps at which Reflexion reflects (paper, 3.2)."""

    max_steps: int = 11
    max_tokens: int = 256
    reflect_at: tuple[int, ...] = (6, 10)


@dataclass(frozen=True, slots=True, repr=False)
class Trajectory:
    """A stored episode, also a failed one; ``scores`` is empty where an infrastructure fault ended it.

    ``meta`` holds further facts: the system prompt and tool schemas of an imported episode, say.
    """

    task: str
    example: Example
    method: str
    model: str
    seed: int
    steps: tuple[Step, ...]
    stop: Stop
    scores: Mapping[str, float]
    usage: Usage
    seconds: float
    error: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Identifies the episode in a run directory: a resumed run skips the keys that are stored."""
        return name_episode(self.task, self.example.id, self.method, self.seed)

    @property
    def answer(self) -> str | None:
        """The argument of the finish action, or None where the episode has none."""
        return answer_of(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """The trajectory as JSON holds it; ``meta`` is left out where it is empty."""
        example, usage = self.example, self.usage
        data: dict[str, Any] = {
            "task": self.task,
            "example": {
                "id": example.id, "question": example.question, "answer": example.answer, "meta": dict(example.meta),
            },
            "method": self.method,
            "model": self.model,
            "seed": self.seed,
            "steps": [step.to_dict() for step in self.steps],
            "stop": self.stop,
            "scores": dict(self.scores),
            "usage": {
                "calls": usage.calls, "prompt_tokens": usage.prompt_tokens, "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens, "cost": usage.cost,
            },
            "seconds": self.seconds,
            "error": self.error,
        }  # fmt: skip
        if self.meta:
            data["meta"] = dict(self.meta)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trajectory:
        """Build from parsed JSON. Raises KeyError or TypeError where a field is missing or not of its shape."""
        steps = tuple(Step.from_dict(step) for step in data["steps"])
        values = {**data, "example": Example(**data["example"]), "usage": Usage(**data["usage"]), "steps": steps}
        return cls(**values)

    def with_scores(self, scores: Mapping[str, float]) -> Trajectory:
        return replace(self, scores=dict(scores))

    def __repr__(self) -> str:
        answer = repr(self.answer) if len(self.answer or "") <= 60 else f"{(self.answer or '')[:60]!r}..."
        return (
            f"<Trajectory {self.key} of {self.model}: {len(self.steps)} steps, {self.stop}, {answer}, {self._outcome}>"
        )

    @property
    def _outcome(self) -> str:
        """The scores, or the fault, in a few words."""
        scores = ", ".join(f"{name} {value:.3g}" for name, value in self.scores.items())
        return self.error or scores or "not scored"

    def _repr_html_(self) -> str:
        """The episode as a notebook shows it. Text of models, tools and files is escaped."""
        gold = f"; gold answer: {self.example.answer}" if self.example.answer else ""
        lines = [("Question", self.example.question)]
        for number, step in enumerate(self.steps, 1):
            lines += [(f"{number}. {label}", text) for label, text in _label_step(step) if text]
        lines.append(("Ended", f"{self.stop}, {self._outcome}{gold}"))
        rows = (f"<div><b>{escape(label)}:</b> {escape(text)}</div>" for label, text in lines)
        heading = f"<div><code>{escape(self.key)}</code> {escape(self.model)}</div>"
        return f'<div style="white-space: pre-wrap; text-align: left">{heading}{"".join(rows)}</div>'


def _label_step(step: Step) -> list[tuple[str, str]]:
    """The texts of a step, each under its label; what is no action is shown as it was written."""
    if step.action is None:
        return [("Text", step.text.strip()), ("Observation", step.observation or "")]
    arguments = ", ".join(f"{name}={value!r}" for name, value in step.action.arguments.items())
    call = f"{step.action.name}({arguments})"
    return [("Thought", step.thought), ("Action", call), ("Observation", step.observation or "")]


def name_episode(task: str, example_id: str, method: str, seed: int) -> str:
    """The key of an episode in a run."""
    return f"{task}/{example_id}/{method}/{seed}"


def answer_of(steps: Sequence[Step]) -> str | None:
    """The argument of the finish action that the steps end in, or None where they do not."""
    last_action = steps[-1].action if steps else None
    if last_action is None or last_action.name != FINISH:
        return None
    return str(last_action.arguments.get("answer", ""))


class Task(Protocol):
    """A named set of Examples in splits, and how an answer is scored (``em`` and ``f1`` at least, in [0, 1]).

    It may have ``splits``, the names of its splits. Its few-shot examples come from ``few_shot(method)``, a sequence
    of (question, steps), where it has that; else from the package, under the name in ``prompts`` or its own name.
    """

    @property
    def name(self) -> str: ...

    @property
    def limits(self) -> Limits: ...

    def examples(self, split: str) -> Sequence[Example]: ...

    def score(self, example: Example, answer: str | None) -> dict[str, float]: ...


class Tool(Protocol):
    """Something an agent may call: JSON-schema ``parameters`` in, text out.

    It may have these members: ``fingerprint`` identifies all that its answers depend on. ``for_episode(key, seed)``
    returns the tool for one episode (``key`` identifies the task and question), and ``stateful`` tells whether that
    tool remembers earlier calls (true where there is ``for_episode``). ``sample_queries`` are queries that noise draws
    from. ``keeps_time`` and ``keeps_length`` tell that it limits the time and the length of its answers itself.
    ``close()`` frees what it holds.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Any]: ...

    def __call__(self, **arguments: Any) -> str: ...


OnDelta = Callable[[str], None]
"""Takes the text of an LM in deltas; an exception that it raises ends the text."""


@dataclass(frozen=True, slots=True)
class ReplyForm:
    """What a completion may be: text, calls of some of the offered tools, or JSON; all else is impossible.

    ``callable`` names the tools that may be called, ``text`` tells whether a completion without a call may be text.
    With ``parallel`` several tools may be called at once. ``json_schema`` is the schema of the text. ``schemas`` are
    those of the callable tools, where the prompt does not show the tools.
    """

    callable: tuple[str, ...] = ()
    text: bool = True
    parallel: bool = True
    json_schema: Mapping[str, Any] | None = None
    schemas: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_free(self) -> bool:
        """Whether any text fits."""
        return not self.callable and self.text and self.json_schema is None


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an LM: a prompt, and how the LM shall complete it.

    ``tools`` are offered for native tool calling. ``max_tokens`` of None leaves the length to the LM, ``temperature``
    of None is that of the agent, and 0 without an agent. ``on_delta`` gets the text as it is written, without any
    part of a stop string; an LM that cannot stream ignores it. ``top_p`` is the share of likely tokens that are sampled
    from. ``form`` constrains the completion; only an LM whose ``constrains`` is true takes it. ``top_logprobs`` is how
    many likely tokens to report for each token; None reports nothing.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    stop: Sequence[str] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int = 0
    on_delta: OnDelta | None = field(default=None, compare=False)
    top_p: float | None = None
    form: ReplyForm | None = None
    top_logprobs: int | None = None


class LM(Protocol):
    """A chat language model. The returned text does not include ``stop`` strings. Safe to call from many threads.

    The native tool calls that it makes come back in ``Completion.calls``. An LM that does not support ``tools``
    raises ConfigError.
    """

    @property
    def name(self) -> str: ...

    def complete(self, call: Call) -> Completion: ...


class Renderer(Protocol):
    """Turns structure into messages and LM text into structure; inference and training share it.

    A ``native`` renderer uses tool calls instead of text actions. ``read`` returns the steps of a completion: one, or
    several (all but the first ``joined``) where the LM made several calls at once; never none.
    """

    @property
    def name(self) -> str: ...

    @property
    def native(self) -> bool: ...

    def prompt(
        self,
        question: str,
        steps: Sequence[Step] = (),
        *,
        instructions: str = "",
        examples: Sequence[tuple[str, Sequence[Step]]] = (),
    ) -> list[Message]: ...

    def parse(self, text: str) -> Step: ...

    def read(self, completion: Completion) -> list[Step]: ...

    def sample(self, trajectory: Trajectory) -> list[Message]: ...


class Method(Protocol):
    """A prompting method: yields the Steps of one episode. It gets the question, never the gold answer."""

    @property
    def name(self) -> str: ...

    def run(self, question: str, lm: LM, tools: Mapping[str, Tool], seed: int) -> Iterator[Step]: ...
