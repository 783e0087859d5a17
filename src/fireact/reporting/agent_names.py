"""Short names of the agents of a report: ``prompted``, ``fine-tuned``, ``script``, and what tells several apart.

Invariant: no two agents of a report share a short name, a script is called one, and an agent under noise has the name
that it has without noise, followed by the noise. The long name stands once, where the agents are listed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from fireact.reporting.wording import display_name

SCRIPT = "scripted:"
_WORD = re.compile(r"\s+|(?=\+)")
"""Where a long name is split: at spaces, and before the hash of an adapter."""
_ORIGIN = re.compile(r"^(?:[a-z]+:)?(?:[\w.-]+/)*(?=\w)")
"""The provider and organisation before the name of a model."""


class NamedAgent(Protocol):
    """What a short name depends on. ``tuned`` is None where nobody recorded it."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def noise(self) -> str: ...
    @property
    def tuned(self) -> bool | None: ...


def shorten_names(agents: Sequence[NamedAgent]) -> dict[str, str]:
    """Name -> short name. The only agent of a kind is called by its kind, others by the words that tell them apart."""
    kinds: dict[str, str] = {}
    for agent in agents:
        kinds[agent.model] = kinds.get(agent.model) or _name_kind(agent)
    models = {model: _tell_apart(model, kind, kinds) for model, kind in kinds.items()}
    labels = {
        agent.name: f"{models[agent.model]}, {agent.noise}" if agent.noise else models[agent.model] for agent in agents
    }
    counts = Counter(labels.values())
    return {name: display_name(name) if counts[label] > 1 else label for name, label in labels.items()}


def _name_kind(agent: NamedAgent) -> str:
    if agent.model.startswith(SCRIPT):
        return "script"
    return {True: "fine-tuned", False: "prompted", None: ""}[agent.tuned]


def _tell_apart(model: str, kind: str, kinds: Mapping[str, str]) -> str:
    """The kind of a model, with the words of its name that not all models of this kind have."""
    names = [name for name, other_kind in kinds.items() if other_kind == kind]
    if kind and len(names) == 1:
        return kind
    common = set.intersection(*(set(_split_words(name)) for name in names)) if len(names) > 1 else set()
    words = [word for word in _split_words(model) if word not in common]
    return " ".join(filter(None, [kind, *(word.lstrip("+") for word in words)])) or model


def _split_words(name: str) -> list[str]:
    return [word for word in _WORD.split(_ORIGIN.sub("", name)) if word]
