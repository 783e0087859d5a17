"""Messages to token ids and labels: training and inference both reach the model through this module.

Invariant: ``prompt_ids(messages[:i])`` is a prefix of the sample that trains message i, so inference sees exactly the
tokens of training. The labels are the student's text and the token that ends its turn. No text becomes a special token,
however the tokenizer normalises it. A chat is one sample; it is one
sample a turn where the template rewrites earlier turns or the tokenizer merges across the end of one. Nothing is cut.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, NamedTuple

from fireact.errors import FormatError
from fireact.render.chat import (
    break_special_tokens,
    fold_messages,
    render_calls,
    render_chat,
    reserved_tokens,
    special_tokens,
    text_after,
)
from fireact.types import Message
from fireact.wire.chat_completions import read_template_calls
from fireact.wire.schemas import Schema

__all__ = [
    "IGNORED",
    "Chat",
    "Sample",
    "break_special_tokens",
    "encode_chat",
    "prompt_ids",
    "special_tokens",
    "split_turn",
    "text_spans",
    "tokenize",
]

IGNORED = -100
"""The label of a token that is not trained."""
_MAX_PASSES = 4
"""How often a text is read to break up what becomes a special token."""
REWRITTEN = "the chat template rewrites earlier turns, or the tokenizer merges across their ends"
"""Why a chat is one sample a turn."""


class Chat(NamedTuple):
    """A trajectory as messages, with the tool schemas for the template (for native calls) and its key."""

    messages: Sequence[Message]
    tools: Sequence[Schema] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids and labels, of equal length; ``IGNORED`` marks tokens that are not trained.

    ``key`` is the key of the trajectory, where it is known. ``weights`` are the loss weights of the trained tokens, in
    order; empty where all are 1.
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
        """The sum of the weights of all trained tokens."""
        return sum(self.weights) if self.weights else self.targets


@dataclass(frozen=True, slots=True)
class _TokenizedTurn:
    """The prompt of a turn, the tokens that the student writes (with the one that ends its turn), and the weight."""

    prompt_tokens: list[int]
    turn_tokens: list[int]
    weight: float


def prompt_ids(messages: Sequence[Message], tokenizer: Any, *, tools: Sequence[Schema] = ()) -> list[int]:
    """The ids that ask for the next turn of the student. Raises ConfigError for a tokenizer without chat template."""
    return tokenize(render_chat(messages, tokenizer, tools=tools, ask=True), tokenizer)


def encode_chat(
    messages: Sequence[Message], tokenizer: Any, *, ends: Collection[int | str] = (), tools: Sequence[Schema] = ()
) -> list[Sample]:
    """The training samples of a chat: one, or one a trained turn where a later prompt does not extend earlier turns.

    ``ends`` are the ids or strings that end a turn at inference (default: the tokenizer's EOS). Raises FormatError
    when the chat template does not close a turn with one of them.
    """
    turns = [
        _tokenize_turn(messages, index, tokenizer, ends=ends, tools=tools)
        for index, message in enumerate(messages)
        if message.train
    ]
    joined_sample = _join_turns(turns)
    return [_join_turns([turn]) or Sample((), ()) for turn in turns] if joined_sample is None else [joined_sample]


def text_spans(sample: Sample, tokenizer: Any) -> list[tuple[str, bool]]:
    """A sample as spans of text, each with whether it is trained on."""
    runs: list[tuple[list[int], bool]] = []
    for token, label in zip(sample.input_ids, sample.labels, strict=True):
        trained = label != IGNORED
        if not runs or runs[-1][1] != trained:
            runs.append(([], trained))
        runs[-1][0].append(token)
    return [(tokenizer.decode(ids, clean_up_tokenization_spaces=False), trained) for ids, trained in runs]


def _join_turns(turns: Sequence[_TokenizedTurn]) -> Sample | None:
    """The turns as one sample; None where a turn's prompt does not begin with the tokens of the turns before."""
    ids: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for turn in turns:
        if turn.prompt_tokens[: len(ids)] != ids:
            return None
        labels += [IGNORED] * (len(turn.prompt_tokens) - len(ids)) + turn.turn_tokens
        weights += [turn.weight] * len(turn.turn_tokens)
        ids = turn.prompt_tokens + turn.turn_tokens
    return Sample(tuple(ids), tuple(labels), weights=tuple(weights) if set(weights) - {1.0} else ())


def split_turn(
    messages: Sequence[Message],
    index: int,
    tokenizer: Any,
    *,
    ends: Collection[int | str] = (),
    tools: Sequence[Schema] = (),
) -> tuple[str, str, str]:
    """The prompt of message ``index``, the text that the student writes after it, and the string that ends the text.

    The following message shows how the template ends a turn (GLM: with that message's token). Raises FormatError when
    the chat template does not close the turn with one of ``ends``.
    """
    prompt = render_chat(messages[:index], tokenizer, tools=tools, ask=True)
    following = messages[index + 1] if index + 1 < len(messages) else _following_message(messages[index])
    continued_text = render_chat([*messages[: index + 1], following], tokenizer, tools=tools, ask=False)
    stops = _stop_strings(ends, tokenizer)
    tail = text_after(prompt, continued_text, stops)
    # The earliest stop string ends the turn; of several at one position the longest.
    stop_matches = [(tail.find(stop), -len(stop), stop) for stop in stops if stop in tail]
    if not stop_matches:
        raise FormatError(
            f"the chat template does not end message {index} with one of {sorted(stops)}; an agent trained so would "
            "never stop. Use a tokenizer whose template closes a turn with its EOS token."
        )
    end, _, stop = min(stop_matches)
    return prompt, _student_text(messages[: index + 1], tail[:end], tokenizer, tools), stop


def _tokenize_turn(
    messages: Sequence[Message], index: int, tokenizer: Any, *, ends: Collection[int | str], tools: Sequence[Schema]
) -> _TokenizedTurn:
    prompt, turn_text, stop = split_turn(messages, index, tokenizer, ends=ends, tools=tools)
    prompt_tokens = tokenize(prompt, tokenizer)
    # Tokenizing the whole text at once gives the tokens that the student writes after this prompt, unless a token
    # merges across one of the two borders: inference never produces such a token, so training must not either.
    all_tokens = tokenize(prompt + turn_text + stop, tokenizer)
    closing = _stop_strings(ends, tokenizer)[stop]
    is_split_cleanly = all_tokens[: len(prompt_tokens)] == prompt_tokens and (
        isinstance(closing, str) or all_tokens[-1] == closing
    )
    if not is_split_cleanly:
        turn_tokens = tokenize(turn_text, tokenizer)
        end_ids = tokenize(closing, tokenizer) if isinstance(closing, str) else [closing]
        all_tokens = [*prompt_tokens, *turn_tokens, *end_ids]
    return _TokenizedTurn(prompt_tokens, all_tokens[len(prompt_tokens) :], messages[index].weight)


def _student_text(messages: Sequence[Message], templated_text: str, tokenizer: Any, tools: Sequence[Schema]) -> str:
    """The text of a turn as the student writes it, given how the template renders the turn as history."""
    message_entry = fold_messages(messages, tokenizer, tools=tools)[-1]
    own_text: str = message_entry["content"]
    calls = read_template_calls(message_entry)
    if not calls:
        # A template may drop a thought from earlier turns, or add an empty one: then the message's text counts.
        return templated_text if templated_text.strip() == own_text.strip() else own_text
    if own_text.strip() in templated_text and all(call.name in templated_text for call in calls):
        return templated_text
    return "\n".join(text for text in (own_text, render_calls(calls, tokenizer)) if text)


def _following_message(message: Message) -> Message:
    """A message that may follow this one."""
    return Message("tool", "-", name=message.calls[-1].name) if message.calls else Message("user", "-")


def _stop_strings(ends: Collection[int | str], tokenizer: Any) -> dict[str, int | str]:
    """The strings that end a turn, each with what inference stops at: a token id, or the string in any tokens."""
    wanted_ends = list(ends) or [tokenizer.eos_token_id]
    ends_by_text = {
        end if isinstance(end, str) else tokenizer.decode([end]): end for end in wanted_ends if end is not None
    }
    return {text: end for text, end in ends_by_text.items() if text}


def tokenize(text: str, tokenizer: Any) -> list[int]:
    """The ids of a rendered chat, in which the special tokens are those that the chat template spells.

    What stands from one special token to the next is read by itself and kept, so a chat whose turns are asked for one
    after the other takes linear time. Raises FormatError for a text that becomes a special token and cannot be changed.
    """
    borders = reserved_tokens(tokenizer).borders.finditer(text)
    starts = [0, *(match.start() for match in borders if match.start()), len(text)]
    template, size = str(tokenizer.chat_template), len(tokenizer)  # both decide which tokens are reserved
    parts = [_tokenize_part(text[start:end], tokenizer, template, size) for start, end in pairwise(starts)]
    return list(chain.from_iterable(parts))


@lru_cache(maxsize=2048)
def _tokenize_part(text: str, tokenizer: Any, template: str, size: int) -> array[int]:
    """The ids of a part.

    Text becomes a special token without spelling it where a tokenizer first normalises it (NFKC, lower case); it gets
    a space within. Raises FormatError where that does not help.
    """
    reserved = reserved_tokens(tokenizer)
    guarded_texts = set(reserved.guarded.values())
    disguised_text = ""
    for _ in range(_MAX_PASSES):
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        read_tokens = [reserved.guarded[token_id] for token_id in ids if token_id in reserved.guarded]
        if read_tokens == [token for token in reserved.pattern.findall(text) if token in guarded_texts]:
            return array("i", ids)
        spans = _find_disguised_tokens(text, tokenizer, reserved.guarded)
        if not spans:  # the template's own, in a spelling that the tokenizer does not read
            return array("i", ids)
        disguised_text = text[slice(*spans[0])]
        for start, _ in reversed(spans):
            text = f"{text[: start + 1]} {text[start + 1 :]}"
    raise FormatError(
        f"{tokenizer.name_or_path or 'the tokenizer'} reads {disguised_text!r} in a text as a special token. Choose a "
        "student with another tokenizer, or leave the text out."
    )


def _find_disguised_tokens(text: str, tokenizer: Any, guarded: Mapping[int, str]) -> list[tuple[int, int]]:
    """The spans of a text that become a special token without spelling it."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    if not tokenizer.is_fast:
        counts = Counter(guarded[token_id] for token_id in encoding["input_ids"] if token_id in guarded)
        return [(0, len(text)) for token, count in counts.items() if count > text.count(token)][:1]
    return [
        (end - len(text[start:end].lstrip()), end)
        for token_id, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        if token_id in guarded and guarded[token_id] not in text[start:end]
    ]
