"""How long a sample is, in tokens: by a student's own tokenizer and chat template, or as an estimate that is called one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from fireact.errors import missing_extra
from fireact.render.react import ReActRenderer
from fireact.types import Message, Trajectory

CHARACTERS = 4
"""Characters of English in a token, about."""


def lengths(trajectory: Trajectory, student: str) -> tuple[int, int, int]:
    """Tokens of the trajectory's samples, how many are trained on, and the longest sample; estimates without ``student``."""
    messages = ReActRenderer().sample(trajectory)
    if not student:
        whole = _estimate(messages)
        return whole, _estimate([message for message in messages if message.train]), whole
    from fireact.render.tokens import encode

    if not any(message.train for message in messages):
        return (whole := _estimate(messages)), 0, whole
    tokenizer, ends = load_tokenizer(student)
    samples = encode(messages, tokenizer, ends=ends)
    sizes = [len(sample.input_ids) for sample in samples]
    return sum(sizes), sum(sample.targets for sample in samples), max(sizes)


def _estimate(messages: Sequence[Message]) -> int:
    return sum(-(-len(message.content) // CHARACTERS) for message in messages)


@cache
def load_tokenizer(student: str) -> tuple[Any, frozenset[int]]:
    """The tokenizer of a student and the ids that end its turn. Raises ConfigError for an unknown student."""
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("transformers", "train") from error
    from fireact.models.quiet import quiet
    from fireact.models.weights import student_directory

    with quiet():
        place = student_directory(student)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        try:
            ends = transformers.GenerationConfig.from_pretrained(place).eos_token_id
        except OSError:  # a model need not have one
            ends = None
    ids = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    return tokenizer, frozenset(ids)
