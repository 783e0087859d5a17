"""Samples of a dataset as training sees them: encoded for the trainer, shown to a person, or written for other trainers.

Invariant: what is shown and written is what ``train`` would train on; nothing is cut, and what is over a length limit is
the trainer's business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.agents import load_renderer
from fireact.errors import ConfigError, FormatError
from fireact.render.chat import dress
from fireact.render.tokens import IGNORED, Chat, Sample, encode, spans
from fireact.render.tool_calls import exported
from fireact.store import read_trajectories
from fireact.training.run import offered, rendered
from fireact.types import Renderer, Trajectory

FORMS = ("tokens", "messages")
"""What ``write`` writes: ids and labels for one student, or messages that say which of them are trained."""


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
        made = encode(chat.messages, self.tokenizer, ends=self.ends, tools=chat.tools)
        if not self.everything:
            return made
        if len(made) > 1:
            raise ConfigError(
                "the student's chat template rewrites earlier turns, so a trajectory is one sample a step and its "
                'observations would be trained once a step. Leave train_on = "all" out, or choose --renderer alpaca.'
            )
        return [Sample(sample.input_ids, (IGNORED, *sample.input_ids[1:])) for sample in made]

    def all(self, chats: Iterable[Chat]) -> tuple[list[Sample], int]:
        """The samples of all chats, and how many chats are one sample a step."""
        made = [self.samples(chat) for chat in chats]
        return [sample for group in made for sample in group], sum(len(group) > 1 for group in made)

    def whole(self, chat: Chat) -> Sample:
        """The one sample of a chat. Raises FormatError where the template rewrites what came before."""
        found = self.samples(chat)
        if len(found) > 1:
            raise FormatError(
                f"the chat template of {self.tokenizer.name_or_path or 'this tokenizer'} rewrites earlier turns, so a "
                "trajectory is no single text that could be preferred. Choose another student or --renderer alpaca."
            )
        return found[0]


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
    """A file of trajectories, and how they are rendered."""

    data: Path
    renderer: str = "react"
    student: str = "smollm2-135m"
    tools: Sequence[str] = ("search",)

    def peek(self) -> Iterator[Peek]:
        """Every sample, one after the other."""
        for key, group, encoder in self._encoded():
            for part, sample in enumerate(group, 1):
                pieces = spans(sample, encoder.tokenizer)
                yield Peek(key, part, len(group), len(sample.input_ids), sample.targets, pieces)

    def write(self, out: Path, form: str = "tokens") -> dict[str, Any]:
        """Write every sample to a JSONL file, and return the counts. Raises ConfigError for an unknown form."""
        if form not in FORMS:
            raise ConfigError(f"form {form!r} is not known. Known: {', '.join(FORMS)}.")
        counts = {"trajectories": 0, "samples": 0, "rewritten": 0, "tokens": 0, "trained": 0}
        rows = self._tokens(counts) if form == "tokens" else self._messages(counts)
        jsonl.write(out, rows)
        return {"form": form, "renderer": self.renderer, **counts}

    def _tokens(self, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
        for key, group, _ in self._encoded():
            counts["trajectories"] += 1
            counts["samples"] += len(group)
            counts["rewritten"] += len(group) > 1
            for sample in group:
                counts["tokens"] += len(sample.input_ids)
                counts["trained"] += sample.targets
                yield {"key": key, "input_ids": list(sample.input_ids), "labels": list(sample.labels)}

    def _messages(self, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
        for trajectory, chat in self._chats():
            counts["trajectories"] += 1
            counts["samples"] += 1
            messages = exported(chat.messages, marked=True)
            yield {"key": trajectory.key, "messages": list(messages), **({"tools": chat.tools} if chat.tools else {})}

    def _encoded(self) -> Iterator[tuple[str, list[Sample], Encoder]]:
        from fireact.training.student import load_tokenizer

        tokenizer, ends = load_tokenizer(self.student)
        encoder = Encoder(tokenizer, ends, load_renderer(self.renderer))
        for trajectory, chat in self._chats():
            yield trajectory.key, encoder.samples(chat), encoder

    def _chats(self) -> Iterator[tuple[Trajectory, Chat]]:
        renderer = load_renderer(self.renderer)
        tools = offered(renderer, self.tools)
        for trajectory in read_trajectories(self.data):
            yield trajectory, rendered(trajectory, renderer, tools=tools)
