"""Messages to token ids, and which of them are trained: the one path to the model for training and inference both.

Invariant: the ids of ``prompt_ids(messages[:i])`` are a prefix of the sample's ids at every trained message i, so a
student is asked exactly what it was trained on; the labels are the student's words and the token that ends its turn.
Text that looks like a special token is broken up first: an observation cannot end a turn. Nothing is ever cut.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.errors import ConfigError, FormatError
from fireact.types import Message

IGNORED = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids and labels of one trajectory, of equal length; ``IGNORED`` marks what is not trained."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def targets(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def prompt_ids(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """The ids that ask for the next turn of the student. Raises ConfigError for a tokenizer without chat template."""
    return _ids(messages, tokenizer, ask=True)


def encode(messages: Sequence[Message], tokenizer: Any, *, ends: Collection[int] = ()) -> Sample:
    """One training sample. ``ends`` are the ids that end a turn at inference (default: the tokenizer's EOS).

    Raises FormatError when the chat template rewrites what came before, or does not close a turn with such an id.
    """
    stops = set(ends) or {tokenizer.eos_token_id}
    ids: list[int] = []
    labels: list[int] = []
    for at, message in enumerate(messages):
        if not message.train:
            continue
        prompt = _ids(messages[:at], tokenizer, ask=True)
        whole = _ids(messages[: at + 1], tokenizer, ask=False)
        _check_prefix(ids, prompt, at, tokenizer)
        _check_prefix(prompt, whole, at, tokenizer)
        end = max((i for i in range(len(prompt), len(whole)) if whole[i] in stops), default=None)
        if end is None:
            raise FormatError(
                f"the chat template does not end message {at} with one of the ids {sorted(stops)}; "
                "an agent trained so would never stop. Use a tokenizer whose template closes a turn with its EOS token."
            )
        labels += [IGNORED] * (len(prompt) - len(labels)) + whole[len(prompt) : end + 1]
        ids = whole[: end + 1]
    return Sample(tuple(ids), tuple(labels))


def plain(text: str, tokenizer: Any) -> str:
    """The text with every string that the tokenizer takes for a special token broken up by a space.

    Both the samples and the prompts go through it, the student's own words too; it changes nothing when done again.
    """
    for token in special_tokens(tokenizer):
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def special_tokens(tokenizer: Any) -> list[str]:
    """The strings that the tokenizer never splits, longest first; single characters are left alone."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(
        {token for token in added | set(tokenizer.all_special_tokens) if len(token) > 1}, key=len, reverse=True
    )


def _ids(messages: Sequence[Message], tokenizer: Any, *, ask: bool) -> list[int]:
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{tokenizer.name_or_path} has no chat template. Choose an instruct or chat model as student."
        )
    chat = [{"role": message.role, "content": plain(message.content, tokenizer)} for message in messages]
    ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=ask, tokenize=True, return_dict=False)
    return ids


def _check_prefix(before: Sequence[int], after: Sequence[int], at: int, tokenizer: Any) -> None:
    if list(after[: len(before)]) == list(before):
        return
    template = f"the chat template of {tokenizer.name_or_path or 'this tokenizer'}"
    if tokenizer.decode(after).startswith(tokenizer.decode(before)):
        raise FormatError(
            f"{template}: the first token of message {at} grows into the prompt before it, so the student would be "
            "trained on other tokens than it is asked with. Do not begin the student's words with a space or a newline."
        )
    raise FormatError(
        f"{template} rewrites earlier turns when message {at} is added, so the student would be trained on "
        "other tokens than it is asked with. Use a template that only appends."
    )
