"""How a student writes native tool calls: the text around names and arguments, as its chat template renders them.

The form is measured on probe calls by the function that makes training samples. Invariant: calls that fill the form
are, byte for byte, the text that the student is trained to write for them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from fireact.errors import FormatError
from fireact.render.tokens import split_turn
from fireact.types import Action, Message

_PROBES = (Action("probe_first", {"probe_key": "first value"}), Action("probe_second", {"probe_key": "second value"}))


@dataclass(frozen=True, slots=True)
class CallForm:
    """The text of a turn of calls: ``opening NAME middle ARGUMENTS``, further calls after ``separator``, ``closing``.

    The arguments are JSON as ``json.dumps`` writes it. ``separator`` is None where the template cannot be asked for
    several calls at once.
    """

    opening: str
    middle: str
    separator: str | None
    closing: str

    @property
    def trigger(self) -> str:
        """The beginning of ``opening`` that no text without a call may hold: its first line."""
        return self.opening.strip().split("\n", 1)[0]


def find_call_form(tokenizer: Any, ends: Collection[int | str] = ()) -> CallForm | None:
    """The form of a tokenizer's chat template; None where names and JSON arguments do not stand in its text."""
    try:
        single, double = (_render_calls_alone(_PROBES[:count], tokenizer, ends) for count in (1, 2))
    except FormatError:
        return None
    pieces = _split_at_calls(single, _PROBES[:1])
    if pieces is None:
        return None
    opening, middle, closing = pieces
    double_pieces = _split_at_calls(double, _PROBES)
    if double_pieces is None or (*double_pieces[:2], *double_pieces[3:]) != (opening, middle, middle, closing):
        return CallForm(opening, middle, None, closing)
    return CallForm(opening, middle, double_pieces[2], closing)


def _render_calls_alone(calls: tuple[Action, ...], tokenizer: Any, ends: Collection[int | str]) -> str:
    messages = [Message("user", "probe question"), Message("assistant", "", calls=calls)]
    return split_turn(messages, 1, tokenizer, ends=ends)[1]


def _split_at_calls(text: str, calls: tuple[Action, ...]) -> list[str] | None:
    """The text before, between and after the names and arguments of calls; None where one of them is missing."""
    pieces = []
    for value in [value for call in calls for value in (call.name, json.dumps(call.arguments))]:
        before, separator, text = text.partition(value)
        if not separator:
            return None
        pieces.append(before)
    return [*pieces, text]
