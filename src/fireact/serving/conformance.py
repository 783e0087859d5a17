"""Whether a served student is asked what it was trained on, token by token, and what merging its adapter changes.

Every turn of the training data is asked for as the agent asks for it, and (where actions are text) as an OpenAI client
would send it and the server reads it; both are compared with the ids that training saw before that turn. Merged weights
round otherwise than an adapter applied at run time; how often their greedy answers differ is counted, not proved to be never.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.agents import load_renderer, load_tools, tuned_directory, tuned_renderer, tuned_tools, tuned_weights
from fireact.errors import ConfigError
from fireact.methods.react import ReAct, stops, tools_shown
from fireact.models.hf import HFModel, merged_student
from fireact.models.quiet import quiet
from fireact.models.stops import before
from fireact.progress import SILENT, Progress
from fireact.render.chat import Schema, schema
from fireact.render.tokens import Chat, prompt_ids
from fireact.serving.wire import read_request
from fireact.store import read_config, read_trajectories
from fireact.training.preference import pairs
from fireact.training.run import learnable
from fireact.training.samples import Encoder, offered, rendered
from fireact.types import Message, Tool, Trajectory

ANSWER = 64
"""Tokens of an answer that is compared."""


@dataclass(frozen=True, slots=True)
class Conformance:
    """Turns compared and those whose tokens are equal; prompts answered both ways, and how many answers differ."""

    turns: int
    equal: int
    unequal: tuple[str, ...]
    prompts: int
    differing: int

    @property
    def holds(self) -> bool:
        return self.turns > 0 and self.equal == self.turns


@dataclass(frozen=True, slots=True)
class _Turn:
    """A trained turn: the messages before it as the agent has them, and what training has up to its end, with its tools."""

    asked: list[Message]
    learnt: Chat


class _Served:
    """A student as it is served: what it is shown, and the ids that it is fed."""

    def __init__(self, lm: HFModel, agent: ReAct, tools: Mapping[str, Tool]) -> None:
        self.lm, self.agent, self.renderer = lm, agent, agent.renderer
        self.tools = tools_shown(self.renderer, tools)
        self.encoder = Encoder(lm.tokenizer, lm.ends, self.renderer)

    def ids(self, asked: Sequence[Message]) -> list[int]:
        """What the agent's messages are to the student."""
        return prompt_ids(asked, self.lm.tokenizer, tools=[schema(tool) for tool in self.tools])

    def wired(self, asked: Sequence[Message]) -> list[int]:
        """What the same messages are when an OpenAI client sends them."""
        body = {"model": "student", "messages": [{"role": one.role, "content": one.content} for one in asked]}
        return prompt_ids(list(read_request(json.dumps(body).encode()).messages), self.lm.tokenizer)

    def turns(self, trajectory: Trajectory, shown: Sequence[Schema], longest: int) -> Iterator[_Turn]:
        """The trained turns of a trajectory; none where training left it out as too long."""
        chat = rendered(trajectory, self.renderer, tools=shown)
        if max((len(one.input_ids) for one in self.encoder.samples(chat)), default=0) > longest:
            return
        for done, step in enumerate(trajectory.steps):
            if not step.joined:
                asked = self.agent.asked(trajectory.example.question, trajectory.steps[:done])
                learnt = Chat(chat.messages[: len(asked) + 1], chat.tools, chat.key)
                if learnt.messages[-1].train:
                    yield _Turn(asked, learnt)

    def differs(self, turn: _Turn) -> bool:
        """Whether the ids that training has before the turn are not those that the student is fed, either way."""
        sample = self.encoder.samples(turn.learnt)[-1]
        fed = [self.ids(turn.asked)] + ([] if self.renderer.native else [self.wired(turn.asked)])
        return any(list(sample.input_ids[: len(ids)]) != ids or not _begins(sample.labels, len(ids)) for ids in fed)


def conformance(run: str, *, tools: Sequence[str] = (), prompts: int = 20, progress: Progress = SILENT) -> Conformance:
    """Check a directory of ``train``, served with ``tools`` (default: those of the training). Raises ConfigError where there is none."""
    directory = tuned_directory(run)
    if directory is None:
        raise ConfigError(f"{run} is no directory of 'fireact train' or 'fireact quickstart'.")
    settings = read_config(directory)
    if "data" not in settings:
        raise ConfigError(
            f"{run} is an export, which holds no training data to compare with. Check what it was made from: "
            f"fireact doctor {settings.get('run', 'RUN')} --serve"
        )
    agent = ReAct(renderer=load_renderer(tuned_renderer(directory)))
    trained_with = tuned_tools(directory)
    shown, longest = offered(agent.renderer, trained_with), int(settings.get("recipe", settings)["max_length"])
    place, adapter, name = tuned_weights(directory)
    lm = HFModel(place, adapter=adapter, slots=8, name=name, renderer=agent.renderer)
    try:
        served = _Served(lm, agent, load_tools(tools or trained_with) if agent.renderer.native else {})
        turns = [turn for one in _learnt(settings) for turn in served.turns(one, shown, longest)]
        unequal = []
        progress.start("doctor --serve: turns", total=len(turns))
        for turn in turns:
            unequal += [turn.asked[-1].content[-80:]] if served.differs(turn) else []
            progress.advance()
        progress.end()
        roomy = [turn.asked for turn in turns if adapter and len(served.ids(turn.asked)) + ANSWER <= longest]
        chosen = roomy[:: max(1, len(roomy) // max(1, prompts))][:prompts]
        differing = _differing(chosen, served, place, adapter, progress) if adapter and chosen else 0
    finally:
        lm.close()
    return Conformance(len(turns), len(turns) - len(unequal), tuple(unequal[:5]), len(chosen), differing)


def _learnt(settings: Mapping[str, Any]) -> Iterator[Trajectory]:
    """The trajectories that a run learned from: of preference both sides of each pair."""
    data = Path(str(settings["data"]))
    if "start" in settings:
        yield from (one for pair in pairs(read_trajectories(data), seed=int(settings["seed"])) for one in pair)
    else:
        yield from learnable(data)


def _begins(labels: Sequence[int], at: int) -> bool:
    """Whether the last trained turn of a sample begins at a token: from there on all is trained up to its end."""
    last = max((place for place, label in enumerate(labels) if label >= 0), default=-1)
    return at <= last and all(label >= 0 for label in labels[at : last + 1])


def _differing(prompts: Sequence[list[Message]], served: _Served, place: str, adapter: Path, progress: Progress) -> int:
    """How many greedy answers differ between merged weights and the adapter at run time."""
    import peft
    import torch

    stop, count = stops(served.renderer), 0
    progress.start("doctor --serve: answers", total=len(prompts))
    with quiet():
        model, tokenizer = merged_student(place, None)
        adapted: Any = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
        for messages in prompts:
            ids = torch.tensor([served.ids(messages)])
            with torch.inference_mode():
                found = adapted.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER, do_sample=False
                )
            text = tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)
            answer = served.lm.complete(messages, stop=stop, max_tokens=ANSWER, tools=served.tools).text
            count += before(text, stop) != answer
            progress.advance()
    progress.end()
    return count
