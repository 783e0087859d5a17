"""How long a sample is, in tokens: by a student's own tokenizer and chat template, or as an estimate that is called one.

Invariant: with a student the lengths are those of the samples that ``train`` would make by the same renderer.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from fireact.agents import load_renderer, load_tools
from fireact.errors import missing_extra
from fireact.methods.react import schemas_shown, tools_shown
from fireact.names import known
from fireact.render.chat import Schema, dress, schema
from fireact.render.react import call
from fireact.types import Message, Renderer, Trajectory

CHARACTERS = 4
"""Characters of English in a token, about."""


def lengths(
    trajectory: Trajectory, student: str, *, renderer: str = "react", tools: Sequence[str] = ()
) -> tuple[int, int, int]:
    """Tokens of the trajectory's samples, how many are trained on, and the longest sample; estimates without ``student``."""
    messages = _renderer(renderer).sample(trajectory)
    if not student:
        whole = _estimate(messages)
        return whole, _estimate([message for message in messages if message.train]), whole
    from fireact.render.tokens import encode

    if not any(message.train for message in messages):
        return (whole := _estimate(messages)), 0, whole
    tokenizer, ends = _dressed(student, renderer)
    samples = encode(messages, tokenizer, ends=ends, tools=_shown(trajectory, renderer, tuple(tools)))
    sizes = [len(sample.input_ids) for sample in samples]
    return sum(sizes), sum(sample.targets for sample in samples), max(sizes)


def _estimate(messages: Sequence[Message]) -> int:
    texts = [text for message in messages for text in (message.content, *map(call, message.calls))]
    return sum(-(-len(text) // CHARACTERS) for text in texts)


def _shown(trajectory: Trajectory, renderer: str, tools: tuple[str, ...]) -> Sequence[Schema]:
    """The tools that a native renderer's template shows: the episode's own, or else those named and loadable."""
    own = trajectory.meta.get("tools") if _renderer(renderer).native else None
    return schemas_shown(own) if isinstance(own, list) and own else _offered(renderer, tools)


@cache
def _offered(renderer: str, tools: tuple[str, ...]) -> Sequence[Schema]:
    if not _renderer(renderer).native:
        return ()
    names = [name for name in tools if name in known("tool")] or ["search"]
    return tuple(schema(tool) for tool in tools_shown(_renderer(renderer), load_tools(names)))


@cache
def _renderer(name: str) -> Renderer:
    return load_renderer(name)


@cache
def _dressed(student: str, renderer: str) -> tuple[Any, frozenset[int | str]]:
    tokenizer, ends = load_tokenizer(student)
    own = _renderer(renderer)
    return dress(deepcopy(tokenizer), own), ends | frozenset(getattr(own, "ends", ()))


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
