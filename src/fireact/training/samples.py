"""Samples of a dataset as training uses them: encoded for the trainer, previewed, or written for other trainers.

Invariant: previews and files contain what ``train`` would train on. Nothing is cut; the limit on length is the
trainer's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import read_trajectories, trajectory_file
from fireact.base.settings import replace_fields
from fireact.data.lines import (
    BLOCK_BYTES,
    SINGLE_PROCESS_BYTES,
    Block,
    choose_worker_count,
    map_in_order,
    read_entries,
    read_raw_lines,
    split_into_blocks,
)
from fireact.data.recorded_calls import RENDERER, RecordedRuns, find_recorded_runs, load_recorded_runs, resolve_renderer
from fireact.data.sources import TrajectoryFile, open_trajectory_files
from fireact.errors import ConfigError, DataError, FormatError, unknown_name_error
from fireact.methods.react import offered_schemas, offered_tools
from fireact.render.chat import apply_renderer_template
from fireact.render.tokens import IGNORED, REWRITTEN, Chat, Sample, encode_chat, text_spans
from fireact.render.tool_calls import export_messages
from fireact.rollout.loading import SEARCH, load_renderer, load_tools
from fireact.training.trained_tools import choose_training_tools, drop_chat_prompt, require_tools
from fireact.types import Renderer, Trajectory
from fireact.wire.schemas import Schema, tool_schema

FORMS = ("tokens", "messages")
"""The forms that ``write`` knows: ids and labels for one student, or messages that are marked for training."""


def load_tool_schemas(renderer: Renderer, tools: Sequence[str]) -> list[Schema]:
    """The tool schemas in a native renderer's prompt, with finish; none where actions are text."""
    return [tool_schema(tool) for tool in offered_tools(renderer, load_tools(tools))] if renderer.native else []


def render_trajectory(trajectory: Trajectory, renderer: Renderer, *, tools: Sequence[Schema] = ()) -> Chat:
    """Render a trajectory to training messages and the schemas of their tools.

    Raises FormatError where the messages differ from those that inference would send.
    """
    sample = renderer.sample(trajectory)
    for step_index, step in enumerate(trajectory.steps):
        if step.joined:
            continue  # part of the turn before, so inference sends no prompt here
        prompt = renderer.prompt(trajectory.example.question, trajectory.steps[:step_index])
        if sample[: len(prompt)] != prompt:
            raise FormatError(
                f"{trajectory.key}: the sample differs from what inference sends at step {step_index + 1}, so the "
                f"student would see prompts that it was not trained on. The renderer {renderer.name!r} must build both "
                "alike."
            )
    own_tools = trajectory.meta.get("tools") if renderer.native else None
    shown_schemas = offered_schemas(own_tools) if isinstance(own_tools, list | tuple) and own_tools else tuple(tools)
    return Chat(sample, shown_schemas, trajectory.key)


@dataclass(frozen=True, slots=True)
class ChatSource:
    """Renders trajectories with one renderer; ``recorded`` holds the calls that the renderer ``recorded`` needs.

    With ``drops_prompt`` recorded chats are without the agent's system prompt and tools.
    """

    renderer: Renderer
    tools: Sequence[Schema]
    recorded: RecordedRuns | None
    drops_prompt: bool = False

    @classmethod
    def load(cls, renderer: str, *, data: Path, tools: Sequence[str], drops_prompt: bool = False) -> ChatSource:
        """The source of the chats of a run or a mixture. Raises DataError without the recorded calls that it needs."""
        loaded_renderer = load_renderer(renderer)
        if renderer == RENDERER:
            return cls(loaded_renderer, (), load_recorded_runs(find_recorded_runs(data)), drops_prompt)
        return cls(loaded_renderer, load_tool_schemas(loaded_renderer, tools), None)

    def render(self, trajectory: Trajectory) -> list[Chat]:
        """The chats of a trajectory: one, or several where a recorded agent rewrites its history."""
        if self.recorded is not None:
            chats = self.recorded.render(trajectory)
            return list(map(drop_chat_prompt, chats)) if self.drops_prompt else chats
        if self.renderer.native:
            require_tools(trajectory, self.tools)
        return [render_trajectory(trajectory, self.renderer, tools=self.tools)]

    def describe_left_out(self) -> list[str]:
        """What was left out so far, a line for each reason."""
        return [] if self.recorded is None else self.recorded.describe_left_out()

    def describe_ambiguity(self) -> list[str]:
        """A line where trajectories fit several recorded episodes."""
        return [] if self.recorded is None else self.recorded.describe_ambiguity()


class Encoder:
    """Encodes chats to samples for one student, with its tokenizer, its end-of-turn ids, and the renderer's own ends.

    ``everything`` puts a label on every token but the first, not on the student's alone.
    """

    def __init__(
        self, tokenizer: Any, ends: Collection[int], renderer: Renderer | None = None, *, everything: bool = False
    ) -> None:
        self.tokenizer = tokenizer if renderer is None else apply_renderer_template(tokenizer, renderer)
        self.ends: set[int | str] = {*ends, *getattr(renderer, "ends", ())}
        self.everything = everything

    def encode_chat(self, chat: Chat) -> list[Sample]:
        """The samples of a chat: one, or one per step where the template rewrites earlier turns."""
        encoded = encode_chat(chat.messages, self.tokenizer, ends=self.ends, tools=chat.tools)
        samples = [replace(sample, key=chat.key) for sample in encoded]
        if not self.everything:
            return samples
        if len(samples) > 1:
            raise ConfigError(
                f"a trajectory is one sample a step ({REWRITTEN}), and its observations would be trained once a step. "
                'Leave train_on = "all" out, or choose another renderer (alpaca rewrites nothing).'
            )
        return [replace(sample, labels=(IGNORED, *sample.input_ids[1:]), weights=()) for sample in samples]

    def encode_chats(self, chats: Iterable[Chat]) -> tuple[list[Sample], int]:
        """The samples of all chats, and how many chats have one sample per step."""
        groups = [self.encode_chat(chat) for chat in chats]
        return [sample for group in groups for sample in group], sum(len(group) > 1 for group in groups)


@dataclass(frozen=True, slots=True)
class SamplePreview:
    """A preview of one sample: the episode's key, the sample's number in it, and the text in spans, trained or not."""

    key: str
    sample_number: int
    sample_count: int
    tokens: int
    trained: int
    spans: Sequence[tuple[str, bool]]

    @property
    def share(self) -> float:
        """The share of tokens that are trained on."""
        return self.trained / max(1, self.tokens)

    def to_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "part": self.sample_number,
            "parts": self.sample_count,
            "tokens": self.tokens,
            "trained": self.trained,
            "share": round(self.share, 4),
            "spans": [list(span) for span in self.spans],
        }


@dataclass(frozen=True, slots=True)
class RenderCounts:
    """What was written: samples of so many trajectories, their tokens and trained tokens; lines that were skipped.

    ``rewritten`` trajectories have one sample per step.
    """

    form: str
    renderer: str
    trajectories: int
    samples: int
    rewritten: int
    tokens: int
    trained: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Rendering:
    """Trajectories in any known format, and how to render them; ``workers`` 0 means: by the size of the data.

    A line that is no trajectory is an error, unless ``skip_bad`` leaves such lines out and counts them.
    """

    data: Path
    renderer: str = "auto"
    student: str = "smollm2-135m"
    tools: Sequence[str] = SEARCH
    workers: int = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        tools = choose_training_tools(self.tools, self.data)
        replace_fields(self, renderer=resolve_renderer(self.renderer, self.data), tools=tuple(tools))

    def preview_samples(self) -> Iterator[SamplePreview]:
        """Every sample, one after the other."""
        with open_trajectory_files([self.data], skip=self.skip_bad) as (source_file,):
            encoder = _load_encoder(self.student, self.renderer)
            for trajectory in self._read_trajectories(source_file):
                group = [sample for chat in self.render_chats(trajectory) for sample in encoder.encode_chat(chat)]
                for sample_number, sample in enumerate(group, 1):
                    pieces = text_spans(sample, encoder.tokenizer)
                    yield SamplePreview(
                        trajectory.key, sample_number, len(group), len(sample.input_ids), sample.targets, pieces
                    )

    def _read_trajectories(self, source_file: TrajectoryFile) -> Iterator[Trajectory]:
        if not self.skip_bad:
            yield from read_trajectories(source_file.file)
            return
        for block in split_into_blocks(source_file.file):
            yield from (entry.trajectory for entry in read_entries(block) if entry.trajectory is not None)

    def write(self, out: Path, form: str = "tokens", *, progress: Progress = SILENT) -> RenderCounts:
        """Write every sample to a JSONL file and return the counts.

        Raises ConfigError for an unknown form, or where ``out`` is the input file.
        """
        if form not in FORMS:
            raise unknown_name_error("form", form, FORMS)
        if out.resolve() in (self.data.resolve(), trajectory_file(self.data).resolve()):
            raise ConfigError(f"{out} is what is rendered; its trajectories would be written over. Choose another -o.")
        counts = Counter(dict.fromkeys(("trajectories", "samples", "rewritten", "tokens", "trained"), 0))
        with (
            open_trajectory_files([self.data], skip=self.skip_bad) as (source_file,),
            jsonl.open_replacement(out) as file,
        ):
            counts["skipped"] = len(source_file.bad)
            block_bytes = BLOCK_BYTES if form == "messages" else BLOCK_BYTES // 8
            jobs = [(block, self, form) for block in split_into_blocks(source_file.file, block_bytes)]
            workers = choose_worker_count(
                self.workers,
                [source_file.file],
                single_below=SINGLE_PROCESS_BYTES if form == "messages" else SINGLE_PROCESS_BYTES // 16,
            )
            lines_before = 0
            progress.start(f"render: {source_file.named_path.name}", total=len(jobs))
            for rendered_block in map_in_order(render_block, jobs, workers=workers):
                for line, reason in rendered_block.bad:
                    problem = f"{source_file.describe_line(lines_before + line)}: {reason}"
                    if not self.skip_bad:
                        raise DataError(
                            f"{problem}. Repair or delete that line, or leave such lines out with --skip-bad."
                        )
                    progress.say(f"skipped: {problem}")
                counts["skipped"] += len(rendered_block.bad)
                file.write(rendered_block.lines)
                counts.update(rendered_block.counts)
                lines_before += rendered_block.end
                progress.advance()
            progress.end()
        return RenderCounts(form, self.renderer, **counts)

    def render_chats(self, trajectory: Trajectory) -> list[Chat]:
        """The messages of one trajectory, and the schemas of their tools: one chat, or several of a recorded agent."""
        return _load_chat_source(self.renderer, self.data, tuple(self.tools)).render(trajectory)


@dataclass(frozen=True, slots=True)
class RenderedBlock:
    """A rendered block of lines: its JSON lines, counts, number of input lines, and lines that cannot be read."""

    lines: bytes
    counts: Mapping[str, int]
    end: int
    bad: Sequence[tuple[int, str]] = ()


def render_block(block: Block, rendering: Rendering, form: str) -> RenderedBlock:
    """Render the trajectories of a block."""
    lines: list[str] = []
    rows: list[dict[str, Any]]
    counts, bad = Counter[str](), list[tuple[int, str]]()
    raw = read_raw_lines(block)
    for entry in read_entries(block, raw):
        if entry.trajectory is None:
            bad.append((entry.line, entry.reason))
            if rendering.skip_bad:
                continue
            break
        chats, key = rendering.render_chats(entry.trajectory), entry.trajectory.key
        if form == "messages":
            rows = [
                {"key": key, "messages": list(export_messages(chat.messages, marked=True))}
                | ({"tools": chat.tools} if chat.tools else {})
                for chat in chats
            ]
        else:
            encoder = _load_encoder(rendering.student, rendering.renderer)
            group = [sample for chat in chats for sample in encoder.encode_chat(chat)]
            rows = [
                {"key": key, "input_ids": list(sample.input_ids), "labels": list(sample.labels)}
                | ({"weights": list(sample.weights)} if sample.weights else {})
                for sample in group
            ]
            counts["rewritten"] += len(group) > len(chats)
            counts["tokens"] += sum(len(sample.input_ids) for sample in group)
            counts["trained"] += sum(sample.targets for sample in group)
        counts["trajectories"] += 1
        counts["samples"] += len(rows)
        lines += map(jsonl.dumps, rows)
    return RenderedBlock("".join(f"{line}\n" for line in lines).encode(), counts, len(raw), bad)


@cache
def _load_encoder(student: str, renderer: str) -> Encoder:
    from fireact.models.weights import load_tokenizer

    tokenizer, ends = load_tokenizer(student)
    return Encoder(tokenizer, ends, _load_renderer(renderer))


@cache
def _load_chat_source(renderer: str, data: Path, tools: tuple[str, ...]) -> ChatSource:
    return ChatSource.load(renderer, data=data, tools=tools)


@cache
def _load_renderer(name: str) -> Renderer:
    return load_renderer(name)
