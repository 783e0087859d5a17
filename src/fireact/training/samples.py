"""Samples of a dataset as training sees them: encoded for the trainer, shown to a person, or written for other trainers.

Invariant: what is shown and written is what ``train`` would train on; nothing is cut, and what is over a length limit is
the trainer's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.agents import load_renderer, load_tools
from fireact.data.lines import ALONE, BLOCK, Block, blocks, entries, in_order, processes, raw_lines
from fireact.data.sources import Own, own_files
from fireact.errors import ConfigError, DataError, FormatError
from fireact.methods.react import schemas_shown, tools_shown
from fireact.progress import SILENT, Progress
from fireact.render.chat import Schema, dress, schema
from fireact.render.tokens import IGNORED, REWRITTEN, Chat, Sample, encode, spans
from fireact.render.tool_calls import exported
from fireact.store import read_trajectories, trajectory_file
from fireact.types import Renderer, Trajectory

FORMS = ("tokens", "messages")
"""What ``write`` writes: ids and labels for one student, or messages that say which of them are trained."""


def offered(renderer: Renderer, tools: Sequence[str]) -> list[Schema]:
    """What a native renderer's student is shown, finish among them; nothing where actions are text."""
    return [schema(tool) for tool in tools_shown(renderer, load_tools(tools))] if renderer.native else []


def rendered(trajectory: Trajectory, renderer: Renderer, *, tools: Sequence[Schema] = ()) -> Chat:
    """The training messages, and the tools that they are shown with. Raises FormatError where inference would ask with other messages than these."""
    sample = renderer.sample(trajectory)
    for done, step in enumerate(trajectory.steps):
        if step.joined:
            continue  # written in the turn before, so nothing is asked here
        prompt = renderer.prompt(trajectory.example.question, trajectory.steps[:done])
        if sample[: len(prompt)] != prompt:
            raise FormatError(
                f"{trajectory.key}: the sample differs from what inference sends at step {done + 1}, so the student "
                f"would be asked what it was not trained on. The renderer {renderer.name!r} must build both alike."
            )
    own = trajectory.meta.get("tools") if renderer.native else None
    shown = schemas_shown(own) if isinstance(own, list | tuple) and own else tuple(tools)
    return Chat(sample, shown, trajectory.key)


class Encoder:
    """Chats to samples for one student: its tokenizer, the ids that end its turns, and the renderer's own ends.

    ``everything`` puts a label on every token but the first, whoever wrote it.
    """

    def __init__(
        self, tokenizer: Any, ends: Collection[int], renderer: Renderer | None = None, *, everything: bool = False
    ) -> None:
        self.tokenizer = tokenizer if renderer is None else dress(tokenizer, renderer)
        self.ends: set[int | str] = {*ends, *getattr(renderer, "ends", ())}
        self.everything = everything

    def samples(self, chat: Chat) -> list[Sample]:
        """The samples of a chat: one, or one a step where the template rewrites what came before."""
        found = encode(chat.messages, self.tokenizer, ends=self.ends, tools=chat.tools)
        made = [replace(sample, key=chat.key) for sample in found]
        if not self.everything:
            return made
        if len(made) > 1:
            raise ConfigError(
                f"a trajectory is one sample a step ({REWRITTEN}), and its observations would be trained once a step. "
                'Leave train_on = "all" out, or choose another renderer (alpaca rewrites nothing).'
            )
        return [replace(sample, labels=(IGNORED, *sample.input_ids[1:]), weights=()) for sample in made]

    def all(self, chats: Iterable[Chat]) -> tuple[list[Sample], int]:
        """The samples of all chats, and how many chats are one sample a step."""
        made = [self.samples(chat) for chat in chats]
        return [sample for group in made for sample in group], sum(len(group) > 1 for group in made)


@dataclass(frozen=True, slots=True)
class Peek:
    """One sample to look at: the episode's key, which of its samples it is, and its text by what is trained."""

    key: str
    part: int
    parts: int
    tokens: int
    trained: int
    spans: Sequence[tuple[str, bool]]

    @property
    def share(self) -> float:
        """The share of tokens that is trained."""
        return self.trained / max(1, self.tokens)

    def to_dict(self) -> dict[str, Any]:
        return {
            "key": self.key, "part": self.part, "parts": self.parts, "tokens": self.tokens, "trained": self.trained,
            "share": round(self.share, 4), "spans": [list(span) for span in self.spans],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rendering:
    """Trajectories in any known format, and how they are rendered; ``workers`` 0 is by the size of the data.

    A line that is no trajectory is an error, unless ``skip_bad`` leaves such lines out and counts them.
    """

    data: Path
    renderer: str = "react"
    student: str = "smollm2-135m"
    tools: Sequence[str] = ("search",)
    workers: int = 0
    skip_bad: bool = False

    def peek(self) -> Iterator[Peek]:
        """Every sample, one after the other."""
        with own_files([self.data], skip=self.skip_bad) as (own,):
            encoder = _encoder(self.student, self.renderer)
            for trajectory in self._read(own):
                group = encoder.samples(self.chat(trajectory))
                for part, sample in enumerate(group, 1):
                    pieces = spans(sample, encoder.tokenizer)
                    yield Peek(trajectory.key, part, len(group), len(sample.input_ids), sample.targets, pieces)

    def _read(self, own: Own) -> Iterator[Trajectory]:
        if not self.skip_bad:
            yield from read_trajectories(own.file)
            return
        for block in blocks(own.file):
            yield from (entry.trajectory for entry in entries(block) if entry.trajectory is not None)

    def write(self, out: Path, form: str = "tokens", *, progress: Progress = SILENT) -> dict[str, Any]:
        """Write every sample to a JSONL file, and return the counts. Raises ConfigError for an unknown form or what is read as ``out``."""
        if form not in FORMS:
            raise ConfigError(f"form {form!r} is not known. Known: {', '.join(FORMS)}.")
        if out.resolve() in (self.data.resolve(), trajectory_file(self.data).resolve()):
            raise ConfigError(f"{out} is what is rendered; its trajectories would be written over. Choose another -o.")
        counts = Counter(dict.fromkeys(("trajectories", "samples", "rewritten", "tokens", "trained"), 0))
        with own_files([self.data], skip=self.skip_bad) as (own,), jsonl.replacing(out) as file:
            counts["skipped"] = len(own.bad)
            jobs = [(block, self, form) for block in blocks(own.file, BLOCK if form == "messages" else BLOCK // 8)]
            workers = processes(self.workers, [own.file], alone=ALONE if form == "messages" else ALONE // 16)
            before = 0
            progress.start(f"render: {own.source.name}", total=len(jobs))
            for part in in_order(render, jobs, workers=workers):
                for line, reason in part.bad:
                    said = f"{own.place(before + line)}: {reason}"
                    if not self.skip_bad:
                        raise DataError(f"{said}. Repair or delete that line, or leave such lines out with --skip-bad.")
                    progress.say(f"skipped: {said}")
                counts["skipped"] += len(part.bad)
                file.write(part.lines)
                counts.update(part.counts)
                before += part.end
                progress.advance()
            progress.end()
        return {"form": form, "renderer": self.renderer, **counts}

    def chat(self, trajectory: Trajectory) -> Chat:
        """The messages of one trajectory, and the tools that they are shown with."""
        return rendered(trajectory, _renderer(self.renderer), tools=_offered(self.renderer, tuple(self.tools)))


@dataclass(frozen=True, slots=True)
class Part:
    """What a block of lines was rendered to: JSON lines, counts, how many lines it had, and those that cannot be read."""

    lines: bytes
    counts: Mapping[str, int]
    end: int
    bad: Sequence[tuple[int, str]] = ()


def render(block: Block, rendering: Rendering, form: str) -> Part:
    """Render the trajectories of a block."""
    lines: list[str] = []
    rows: list[dict[str, Any]]
    counts, bad = Counter[str](), list[tuple[int, str]]()
    raw = raw_lines(block)
    for entry in entries(block, raw):
        if entry.trajectory is None:
            bad.append((entry.line, entry.reason))
            if rendering.skip_bad:
                continue
            break
        chat, key = rendering.chat(entry.trajectory), entry.trajectory.key
        if form == "messages":
            tools = {"tools": chat.tools} if chat.tools else {}
            rows = [{"key": key, "messages": list(exported(chat.messages, marked=True)), **tools}]
        else:
            group = _encoder(rendering.student, rendering.renderer).samples(chat)
            rows = [
                {"key": key, "input_ids": list(sample.input_ids), "labels": list(sample.labels)}
                | ({"weights": list(sample.weights)} if sample.weights else {})
                for sample in group
            ]
            counts["rewritten"] += len(group) > 1
            counts["tokens"] += sum(len(sample.input_ids) for sample in group)
            counts["trained"] += sum(sample.targets for sample in group)
        counts["trajectories"] += 1
        counts["samples"] += len(rows)
        lines += map(jsonl.dumps, rows)
    return Part("".join(f"{line}\n" for line in lines).encode(), counts, len(raw), bad)


@cache
def _encoder(student: str, renderer: str) -> Encoder:
    from fireact.training.student import load_tokenizer

    tokenizer, ends = load_tokenizer(student)
    return Encoder(tokenizer, ends, _renderer(renderer))


@cache
def _offered(renderer: str, tools: tuple[str, ...]) -> tuple[Schema, ...]:
    return tuple(offered(_renderer(renderer), tools))


@cache
def _renderer(name: str) -> Renderer:
    return load_renderer(name)
