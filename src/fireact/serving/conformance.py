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
from fireact.render.tokens import encode, prompt_ids
from fireact.serving.wire import read_request
from fireact.store import read_config, read_trajectories
from fireact.training.preference import pairs
from fireact.training.run import learnable
from fireact.training.samples import offered, rendered
from fireact.types import Message, Renderer, Tool, Trajectory

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
    """A trained turn: the messages before it as the agent has them, those that training has with it, and its tools."""

    asked: list[Message]
    learnt: list[Message]
    tools: Sequence[Schema]
    room: bool
    """Whether an answer of ``ANSWER`` tokens has room."""


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
    served_with = load_tools(tools or trained_with) if agent.renderer.native else {}
    shown = offered(agent.renderer, trained_with)
    place, adapter, name = tuned_weights(directory)
    lm = HFModel(place, adapter=adapter, slots=8, name=name, renderer=agent.renderer)
    try:
        longest = int(settings.get("recipe", settings)["max_length"])
        turns = [turn for one in _learnt(settings) for turn in _turns(one, agent, shown, lm, longest)]
        seen = tools_shown(agent.renderer, served_with)
        progress.start("doctor --serve: turns", total=len(turns))
        unequal = []
        for turn in turns:
            unequal += [turn.asked[-1].content[-80:]] if _differs(turn, lm, seen, agent.renderer) else []
            progress.advance()
        progress.end()
        chosen: list[list[Message]] = []
        if adapter is not None:
            answered = [turn.asked for turn in turns if turn.room]
            chosen = answered[:: max(1, len(answered) // max(1, prompts))][:prompts]
        differing = _differing(chosen, lm, place, adapter, tools=seen, progress=progress) if adapter and chosen else 0
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


def _turns(trajectory: Trajectory, agent: ReAct, shown: Sequence[Schema], lm: HFModel, longest: int) -> Iterator[_Turn]:
    """The trained turns of a trajectory; none where training left it out as too long."""
    chat = rendered(trajectory, agent.renderer, tools=shown)
    ends = lm.ends | frozenset(getattr(agent.renderer, "ends", ()))
    sizes = [len(one.input_ids) for one in encode(chat.messages, lm.tokenizer, ends=ends, tools=chat.tools)]
    if max(sizes, default=0) > longest:
        return
    for done, step in enumerate(trajectory.steps):
        if not step.joined:
            asked = agent.asked(trajectory.example.question, trajectory.steps[:done])
            learnt = list(chat.messages[: len(asked) + 1])
            if learnt[-1].train:
                size = len(prompt_ids(asked, lm.tokenizer, tools=chat.tools))
                yield _Turn(asked, learnt, chat.tools, room=size + ANSWER <= longest)


def _differs(turn: _Turn, lm: HFModel, tools: Sequence[Tool], renderer: Renderer) -> bool:
    """Whether the ids that training has before the turn are not those that the student is fed, by the agent or by the wire."""
    ends = lm.ends | frozenset(getattr(renderer, "ends", ()))
    sample = encode(turn.learnt, lm.tokenizer, ends=ends, tools=turn.tools)[-1]
    fed = [prompt_ids(turn.asked, lm.tokenizer, tools=[schema(tool) for tool in tools])]
    if not renderer.native:
        body = {"model": "student", "messages": [{"role": one.role, "content": one.content} for one in turn.asked]}
        fed.append(prompt_ids(list(read_request(json.dumps(body).encode()).messages), lm.tokenizer))
    return any(list(sample.input_ids[: len(ids)]) != ids or not _begins(sample.labels, len(ids)) for ids in fed)


def _begins(labels: Sequence[int], at: int) -> bool:
    """Whether the last trained turn of a sample begins at a token: from there on all is trained up to its end."""
    last = max((place for place, label in enumerate(labels) if label >= 0), default=-1)
    return at <= last and all(label >= 0 for label in labels[at : last + 1])


def _differing(
    prompts: Sequence[list[Message]],
    lm: HFModel,
    place: str,
    adapter: Path,
    *,
    tools: Sequence[Tool],
    progress: Progress,
) -> int:
    """How many greedy answers differ between merged weights and the adapter at run time."""
    import peft
    import torch

    stop = () if tools else stops(ReAct().renderer)
    progress.start("doctor --serve: answers", total=len(prompts))
    with quiet():
        model, tokenizer = merged_student(place, None)
        adapted: Any = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
        count = 0
        for messages in prompts:
            ids = torch.tensor([prompt_ids(messages, lm.tokenizer, tools=[schema(tool) for tool in tools])])
            with torch.inference_mode():
                found = adapted.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER, do_sample=False
                )
            text = tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)
            answer = lm.complete(messages, stop=stop, max_tokens=ANSWER, tools=tools).text
            count += before(text, stop) != answer
            progress.advance()
    progress.end()
    return count
