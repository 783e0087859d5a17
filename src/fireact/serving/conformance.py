"""Checks that a served student sees the tokens of its training, and counts what merging its adapter changes.

The prompt of every turn in the training data is built as the agent builds it and, where actions are text, as the server
reads it from an OpenAI client. Both are compared with the token ids before that turn in training. For a student of a
recorded agent, each recorded request is read as the server reads it, and what it refuses is counted. Merged weights
round differently from an adapter applied at run time, so the check counts the greedy answers that differ.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import (
    CONFIG,
    read_config,
    read_trajectories,
    relative_path,
    shell_path,
)
from fireact.data.recorded_calls import (
    RENDERER,
    RecordedRuns,
    RecordedTurn,
    find_recorded_runs,
    load_recorded_runs,
)
from fireact.errors import ConfigError, FormatError, missing_path_error
from fireact.methods.react import ReAct, offered_tools, stop_strings
from fireact.models.hf import HFModel, load_merged_student
from fireact.models.quiet import silence_libraries
from fireact.models.stops import cut_at_stop
from fireact.render.requests import drop_prompt, has_prompt_of
from fireact.render.tokens import Chat, prompt_ids
from fireact.rollout.loading import load_renderer, load_tools
from fireact.rollout.students import training_fields, tuned_directory, tuned_renderer, tuned_tools, tuned_weights
from fireact.serving.wire import read_request
from fireact.training.fitting import find_max_length
from fireact.training.preference import pair_by_outcome
from fireact.training.samples import Encoder, load_tool_schemas, render_trajectory
from fireact.training.train import load_learnable
from fireact.training.trained_tools import drop_chat_prompt
from fireact.types import Call, Message, Tool, Trajectory
from fireact.wire.dialects import DIALECTS
from fireact.wire.schemas import Schema, tool_schema

TOO_LONG = "calls of samples longer than max_length"
MAX_NAMED = 8
"""Runs of a directory that a message names."""
ANSWER_TOKENS = 64
"""The maximum length in tokens of a compared answer."""


@dataclass(frozen=True, slots=True)
class Conformance:
    """Compared turns and those with equal tokens; prompts answered by both weights, and answers that differ.

    ``left_out`` says which recorded requests of the data were not compared, since they were not trained on, and why.
    ``refused`` says which the server refuses without ``--lenient``, by their field; they are compared as with it.
    """

    turns: int
    equal: int
    unequal: tuple[str, ...]
    prompts: int
    differing: int
    left_out: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return self.turns > 0 and self.equal == self.turns


@dataclass(frozen=True, slots=True)
class _TrainedTurn:
    """A trained turn: the agent's prompt for it, and the chat of the training up to its end."""

    prompt: list[Message]
    chat: Chat
    recorded: RecordedTurn | None = None
    """The recorded call whose reply the turn is, for a student of a recorded agent."""


class _ServedStudent:
    """A student as it is served: its model, the agent around it, the offered tools and the encoder of its training.

    ``prompt`` is what its manifest tells of the prompt. ``refused`` counts requests that the server refuses, by reason.
    """

    def __init__(self, lm: HFModel, agent: ReAct, tools: Mapping[str, Tool], *, prompt: Mapping[str, Any]) -> None:
        self.lm, self.agent, self.renderer = lm, agent, agent.renderer
        self.drops_prompt = prompt.get("mode") == "drop"
        self._dropped, self.refused = frozenset[str](prompt.get("dropped", ())), Counter[str]()
        self.tools = offered_tools(self.renderer, tools)
        self.encoder = Encoder(lm.tokenizer, lm.ends, self.renderer)

    def agent_prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt ids of the agent's messages."""
        return prompt_ids(messages, self.lm.tokenizer, tools=[tool_schema(tool) for tool in self.tools])

    def request_prompt_ids(self, recorded_turn: RecordedTurn) -> list[int] | None:
        """The prompt ids of a recorded request when its client sends it; None where even ``--lenient`` refuses it."""
        dialect = DIALECTS[recorded_turn.call.dialect]
        body = json.dumps(dialect.write_request(recorded_turn.request)).encode()
        try:
            request = read_request(body, dialect)
        except FormatError as error:
            self.refused[str(error).split(". ")[0]] += 1
            try:
                request = read_request(body, dialect, lenient=True)
            except FormatError:
                return None
        schemas = [tool_schema(tool) for tool in request.tools]
        if has_prompt_of(self._dropped, request.messages, schemas):
            return prompt_ids(drop_prompt(request.messages), self.lm.tokenizer)
        return prompt_ids(request.messages, self.lm.tokenizer, tools=schemas)

    def recorded_turns(self, runs: RecordedRuns, trajectory: Trajectory, longest: int) -> Iterator[_TrainedTurn]:
        """The learned calls of a recorded trajectory; none where training left them out as too long."""
        chats = [drop_chat_prompt(chat) if self.drops_prompt else chat for chat in runs.render(trajectory)]
        samples = [sample for chat in chats for sample in self.encoder.encode_chat(chat)]
        for recorded_turn, call in runs.learned_calls(trajectory):
            chat = Chat([*call.messages, replace(call.reply, train=True)], call.tools, trajectory.key)
            chat = drop_chat_prompt(chat) if self.drops_prompt else chat
            (sample,) = self.encoder.encode_chat(chat)
            is_trained = any(
                other.input_ids[: len(sample.input_ids)] == sample.input_ids and len(other.input_ids) <= longest
                for other in samples
            )
            if not is_trained:
                runs.left_out[TOO_LONG] += 1
            else:
                yield _TrainedTurn(list(chat.messages[:-1]), chat, recorded_turn)

    def client_prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt ids of the same messages when an OpenAI client sends them."""
        body = {
            "model": "student",
            "messages": [{"role": message.role, "content": message.content} for message in messages],
        }
        return prompt_ids(list(read_request(json.dumps(body).encode()).messages), self.lm.tokenizer)

    def trained_turns(self, trajectory: Trajectory, schemas: Sequence[Schema], longest: int) -> Iterator[_TrainedTurn]:
        """The trained turns of a trajectory; none where training left it out as too long."""
        chat = render_trajectory(trajectory, self.renderer, tools=schemas)
        if max((len(sample.input_ids) for sample in self.encoder.encode_chat(chat)), default=0) > longest:
            return
        for step_index, step in enumerate(trajectory.steps):
            if not step.joined:
                prompt = self.agent.prompt_messages(trajectory.example.question, trajectory.steps[:step_index])
                turn_chat = Chat(chat.messages[: len(prompt) + 1], chat.tools, chat.key)
                if turn_chat.messages[-1].train:
                    yield _TrainedTurn(prompt, turn_chat)

    def is_served_differently(self, turn: _TrainedTurn) -> bool:
        """Whether the ids before the turn in training differ from those in serving, in either way of serving."""
        sample = self.encoder.encode_chat(turn.chat)[-1]
        if turn.recorded is not None:
            both_prompt_ids: list[list[int] | None] = [self.request_prompt_ids(turn.recorded)]
        else:
            both_prompt_ids = [self.agent_prompt_ids(turn.prompt)]
        if not self.renderer.native:
            both_prompt_ids.append(self.client_prompt_ids(turn.prompt))
        return any(
            ids is None
            or list(sample.input_ids[: len(ids)]) != ids
            or not _is_start_of_last_turn(sample.labels, len(ids))
            for ids in both_prompt_ids
        )


def check_conformance(
    run: str, *, tools: Sequence[str] = (), prompts: int = 20, progress: Progress = SILENT
) -> Conformance:
    """Check a directory of ``train``, served with ``tools`` (default: those of the training).

    Raises ConfigError for any other directory.
    """
    directory = _require_student(run)
    settings = read_config(directory)
    if "data" not in settings:
        raise ConfigError(
            f"{run} is an export, which holds no training data to compare with. Check what it was made from: "
            f"fireact validate {settings.get('run', 'RUN')}"
        )
    agent = ReAct(renderer=load_renderer(tuned_renderer(directory)))
    trained_with = tuned_tools(directory)
    schemas, longest = (
        load_tool_schemas(agent.renderer, trained_with) if agent.renderer.name != RENDERER else [],
        find_max_length(directory),
    )
    weights_source, adapter, name = tuned_weights(directory)
    lm = HFModel(weights_source, adapter=adapter, slots=8, name=name, renderer=agent.renderer)
    try:
        needs_tools = agent.renderer.native and agent.renderer.name != RENDERER
        served = _ServedStudent(
            lm,
            agent,
            load_tools(tools or trained_with) if needs_tools else {},
            prompt=training_fields(directory).get("prompt", {}),
        )
        data = Path(str(settings["data"]))
        runs = load_recorded_runs(find_recorded_runs(data)) if agent.renderer.name == RENDERER else None
        turns = list(_list_turns(served, settings, schemas, longest, runs))
        unequal = []
        progress.start("validate: turns", total=len(turns))
        for turn in turns:
            unequal += [turn.prompt[-1].content[-80:]] if served.is_served_differently(turn) else []
            progress.advance()
        progress.end()
        fitting_prompts = [
            turn.prompt
            for turn in turns
            if adapter and len(served.agent_prompt_ids(turn.prompt)) + ANSWER_TOKENS <= longest
        ]
        chosen = fitting_prompts[:: max(1, len(fitting_prompts) // max(1, prompts))][:prompts]
        differing = (
            _count_differing_answers(chosen, served, weights_source, adapter, progress) if adapter and chosen else 0
        )
    finally:
        lm.close()
    left_out = () if runs is None else tuple(runs.describe_left_out())
    refused = tuple(f"{reason}: {count}" for reason, count in served.refused.most_common(MAX_NAMED))
    equal_turns = len(turns) - len(unequal)
    return Conformance(len(turns), equal_turns, tuple(unequal[:5]), len(chosen), differing, left_out, refused)


def _require_student(run: str) -> Path:
    """The directory of a student. Raises ConfigError that says what there is instead, DataError where is nothing."""
    path = Path(run)
    if not path.exists():
        raise missing_path_error(path)
    try:
        directory = tuned_directory(run)
    except ConfigError:
        directory = None
    if directory is None:
        raise ConfigError(
            f"{relative_path(path)} is {_describe_path(path)}. Give validate one student: a directory of 'fireact "
            f"train', 'prefer' or 'quickstart'. Trajectories are checked by: fireact doctor {shell_path(path)}"
        )
    return directory


def _describe_path(path: Path) -> str:
    """What a path is, to follow "is": a file, a run of a verb, a set of runs with their verbs, or neither."""
    if path.is_file():
        return "a file"
    if (path / CONFIG).is_file():
        return f"a directory of 'fireact {read_config(path).get('verb')}'"
    runs = [f"{file.parent.name} ({read_config(file.parent).get('verb')})" for file in sorted(path.glob(f"*/{CONFIG}"))]
    more = f" and {len(runs) - MAX_NAMED} more" if len(runs) > MAX_NAMED else ""
    return (
        f"a directory that holds {len(runs)} runs: {', '.join(runs[:MAX_NAMED])}{more}" if runs else "no run directory"
    )


def _list_turns(
    served: _ServedStudent,
    settings: Mapping[str, Any],
    schemas: Sequence[Schema],
    longest: int,
    runs: RecordedRuns | None,
) -> Iterator[_TrainedTurn]:
    """The turns that a run learned; of a recorded agent (``runs``), those of its recorded calls."""
    for trajectory in _training_trajectories(settings):
        if runs is None:
            yield from served.trained_turns(trajectory, schemas, longest)
        else:
            yield from served.recorded_turns(runs, trajectory, longest)


def _training_trajectories(settings: Mapping[str, Any]) -> Iterator[Trajectory]:
    """The trajectories that a run learned from; for preference both sides of each pair."""
    data = Path(str(settings["data"]))
    if "start" in settings:
        yield from (
            trajectory
            for pair in pair_by_outcome(read_trajectories(data), seed=int(settings["seed"]))
            for trajectory in pair
        )
    else:
        yield from load_learnable(data)


def _is_start_of_last_turn(labels: Sequence[int], position: int) -> bool:
    """Whether the last trained turn of a sample begins at ``position``: all tokens from there on are trained."""
    last_position = max((index for index, label in enumerate(labels) if label >= 0), default=-1)
    return position <= last_position and all(label >= 0 for label in labels[position : last_position + 1])


def _count_differing_answers(
    prompts: Sequence[list[Message]], served: _ServedStudent, weights_source: str, adapter: Path, progress: Progress
) -> int:
    """How many greedy answers differ between merged weights and the adapter at run time."""
    import peft
    import torch

    stop, count = stop_strings(served.renderer), 0
    progress.start("validate: answers", total=len(prompts))
    with silence_libraries():
        model, tokenizer = load_merged_student(weights_source, None)
        adapted: Any = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
        for messages in prompts:
            ids = torch.tensor([served.agent_prompt_ids(messages)])
            with torch.inference_mode():
                output_ids = adapted.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS, do_sample=False
                )
            text = tokenizer.decode(output_ids[0, ids.shape[1] :], skip_special_tokens=True)
            answer = served.lm.complete(Call(messages, served.tools, stop=stop, max_tokens=ANSWER_TOKENS)).text
            count += cut_at_stop(text, stop) != answer
            progress.advance()
    progress.end()
    return count
