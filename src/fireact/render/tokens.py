"""Messages to token ids, and which of them are trained: the one path to the model for training and inference both.

Invariant: the ids of ``prompt_ids(messages[:i])`` are a prefix of the sample that trains message i, so a student is asked
exactly what it was trained on; the labels are the student's words and what ends its turn. A chat is one sample, or one a
turn, where its template rewrites what came before or its tokenizer merges across the end of a turn. Nothing is ever cut.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fireact.errors import FormatError
from fireact.render.chat import Schema, after, folded, plain, special_tokens, text_of, written
from fireact.types import Action, Message

__all__ = ["IGNORED", "Chat", "Sample", "encode", "plain", "prompt_ids", "spans", "special_tokens"]

IGNORED = -100
"""The label of a token that is not trained."""
REWRITTEN = "the chat template rewrites earlier turns, or the tokenizer merges across their ends"
"""Why a chat is one sample a turn."""


class Chat(NamedTuple):
    """A trajectory as messages, with the tools that its template shows to the student (for native calls), and its key."""

    messages: Sequence[Message]
    tools: Sequence[Schema] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids and labels, of equal length; ``IGNORED`` marks what is not trained. ``key`` names the trajectory, where it is known.

    ``weights`` are those of the trained tokens, in their order, with which their loss counts; none where all are 1.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    key: str = field(default="", compare=False)
    weights: tuple[float, ...] = ()

    @property
    def targets(self) -> int:
        return sum(label != IGNORED for label in self.labels)

    @property
    def weight(self) -> float:
        """The weights of all trained tokens together."""
        return sum(self.weights) if self.weights else self.targets


@dataclass(frozen=True, slots=True)
class _Turn:
    """What the student is asked with, and what it then writes, to the token that ends its turn, and its weight."""

    asked: list[int]
    written: list[int]
    weight: float


def prompt_ids(messages: Sequence[Message], tokenizer: Any, *, tools: Sequence[Schema] = ()) -> list[int]:
    """The ids that ask for the next turn of the student. Raises ConfigError for a tokenizer without chat template."""
    return _ids(text_of(messages, tokenizer, tools=tools, ask=True), tokenizer)


def encode(
    messages: Sequence[Message], tokenizer: Any, *, ends: Collection[int | str] = (), tools: Sequence[Schema] = ()
) -> list[Sample]:
    """The training samples of a chat: one, or one a trained turn where later prompts do not begin with earlier turns.

    ``ends`` are the ids, or the strings, that end a turn at inference (default: the tokenizer's EOS). Raises FormatError
    when the chat template does not close a turn with one of them.
    """
    stops = _stops(ends, tokenizer)
    turns = [
        _turn(messages, at, tokenizer, stops=stops, tools=tools) for at, message in enumerate(messages) if message.train
    ]
    whole = _joined(turns)
    return [_joined([turn]) or Sample((), ()) for turn in turns] if whole is None else [whole]


def spans(sample: Sample, tokenizer: Any) -> list[tuple[str, bool]]:
    """A sample as pieces of text, each with whether it is trained on."""
    pieces: list[tuple[list[int], bool]] = []
    for token, label in zip(sample.input_ids, sample.labels, strict=True):
        trained = label != IGNORED
        if not pieces or pieces[-1][1] != trained:
            pieces.append(([], trained))
        pieces[-1][0].append(token)
    return [(tokenizer.decode(ids, clean_up_tokenization_spaces=False), trained) for ids, trained in pieces]


def _joined(turns: Sequence[_Turn]) -> Sample | None:
    """The turns as one sample; None where a turn is not asked with what the turns before it left."""
    ids: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for turn in turns:
        if turn.asked[: len(ids)] != ids:
            return None
        labels += [IGNORED] * (len(turn.asked) - len(ids)) + turn.written
        weights += [turn.weight] * len(turn.written)
        ids = turn.asked + turn.written
    return Sample(tuple(ids), tuple(labels), weights=tuple(weights) if set(weights) - {1.0} else ())


def _turn(
    messages: Sequence[Message], at: int, tokenizer: Any, *, stops: Mapping[str, int | str], tools: Sequence[Schema]
) -> _Turn:
    """How message ``at`` is trained. What follows it tells how the template ends it (GLM: with the next message's token)."""
    prompt = text_of(messages[:at], tokenizer, tools=tools, ask=True)
    following = messages[at + 1] if at + 1 < len(messages) else _reply(messages[at])
    whole = text_of([*messages[: at + 1], following], tokenizer, tools=tools, ask=False)
    tail = after(prompt, whole, stops)
    found = [(tail.find(stop), -len(stop), stop) for stop in stops if stop in tail]
    if not found:
        raise FormatError(
            f"the chat template does not end message {at} with one of {sorted(stops)}; an agent trained so would never "
            "stop. Use a tokenizer whose template closes a turn with its EOS token."
        )
    end, _, stop = min(found)
    words = _words(messages[: at + 1], tail[:end], tokenizer, tools)
    asked = _ids(prompt, tokenizer)
    together = _ids(prompt + words + stop, tokenizer)
    closing = stops[stop]
    kept = together[: len(asked)] == asked and (isinstance(closing, str) or together[-1] == closing)
    if not kept:  # the first token would grow into the prompt, or the words into the token that ends them
        said = _ids(words, tokenizer)
        end_ids = _ids(closing, tokenizer) if isinstance(closing, str) else [closing]
        together = [*asked, *said, *end_ids]
    return _Turn(asked, together[len(asked) :], messages[at].weight)


def _words(messages: Sequence[Message], said: str, tokenizer: Any, tools: Sequence[Schema]) -> str:
    """What the student writes of a turn, given what the template makes of it as history."""
    entry = folded(messages, tokenizer, tools=tools)[-1]
    own: str = entry["content"]
    if "tool_calls" not in entry:
        return said if said.strip() == own.strip() else own  # a template may drop a thought, or add an empty one
    made = [Action(call["function"]["name"], call["function"]["arguments"]) for call in entry["tool_calls"]]
    if own.strip() in said and all(call.name in said for call in made):
        return said
    return "\n".join(part for part in (own, written(made, tokenizer)) if part)


def _reply(message: Message) -> Message:
    """A message such as may follow this one."""
    return Message("tool", "-", name=message.calls[-1].name) if message.calls else Message("user", "-")


def _stops(ends: Collection[int | str], tokenizer: Any) -> dict[str, int | str]:
    """The strings that end a turn, each with what inference looks for: an id, or the string, whatever tokens write it."""
    wanted = list(ends) or [tokenizer.eos_token_id]
    found = {end if isinstance(end, str) else tokenizer.decode([end]): end for end in wanted if end is not None}
    return {text: end for text, end in found.items() if text}


def _ids(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
