"""What one endpoint refuses or demands, learned from its refusals and applied to every request.

A parameter that it refuses is left out, or renamed (``max_tokens``); so is a field of a reply that it does not take
back. Fields that it demands of every turn with calls, also of turns that it never wrote, get a stand-in. Invariant:
what was sent is compared with what is refused, so that all requests under way are adapted; each change is said once.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

from fireact.models.refusals import Refusal

_OPTIONAL: Mapping[str, str | None] = {
    "stop": None, "temperature": None, "seed": None, "stream_options": None,
    "max_tokens": "max_completion_tokens", "max_completion_tokens": None,
}  # fmt: skip
"""Parameters that a request can do without, and the name that takes the place of each."""
_LIMITS = ("max_tokens", "max_completion_tokens")
_MESSAGE_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "name")
_SIGNATURE = {"google": {"thought_signature": "skip_thought_signature_validator"}}
"""What Google documents for calls that Gemini did not write."""
_DEMANDS = {
    name: re.compile(rf"(?:missing|required|must)\b.{{0,80}}{name}|{name}\b.{{0,80}}(?:missing|required|must)", re.I)
    for name in ("reasoning_content", "thought_signature")
}
_LOGGER = logging.getLogger("fireact")


class Adaptation:
    """The changes of requests to one endpoint; many threads use it. ``service`` names the endpoint in messages."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._replacements: dict[str, str | None] = {}
        self._refused_fields: set[str] = set()
        self._demanded: set[str] = set()

    def leave_out(self, name: str) -> None:
        """Leave a parameter out of every request, or rename it."""
        self._replacements[name] = _OPTIONAL[name]

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request as the endpoint takes it."""
        adapted = {name: value for key, value in body.items() if (name := self._rename(key)) is not None}
        if self._refused_fields or self._demanded:
            adapted["messages"] = [self._adapt_message(message) for message in adapted["messages"]]
        return adapted

    def learn(self, refusal: Refusal, sent: Mapping[str, Any]) -> bool:
        """Learn from the refusal of what was sent; whether the request is to be sent again, changed."""
        if refusal.status not in (0, 400, 422) or refusal.is_about_account:
            return False
        change = self._find_demand(refusal) or self._find_refused(refusal, sent)
        if change is None:
            return False
        kind, name = change
        with self._lock:
            is_new = self._note(kind, name)
        if is_new:
            advice = "it gets a stand-in" if kind == "demand" else "it is left out"
            if kind == "parameter" and _OPTIONAL[name]:
                advice = f"{_OPTIONAL[name]} takes its place"
            verb = "demands" if kind == "demand" else "refuses"
            _LOGGER.warning("%s %s %s, so %s from now on: %s", self._service, verb, name, advice, refusal.text)
        return self.apply(sent) != sent

    def _find_demand(self, refusal: Refusal) -> tuple[str, str] | None:
        return next((("demand", name) for name, demand in _DEMANDS.items() if demand.search(refusal.text)), None)

    def _find_refused(self, refusal: Refusal, sent: Mapping[str, Any]) -> tuple[str, str] | None:
        """What is refused of what was sent. A limit on tokens named beside a prompt that is too long is not."""
        fields = {name for message in sent["messages"] for name in message if name not in _MESSAGE_FIELDS}
        parameters = [name for name in _OPTIONAL if name in sent]
        calls = [call for message in sent["messages"] for call in message.get("tool_calls") or ()]
        fields |= {name for call in calls for name in call if name not in ("id", "type", "function")}
        candidates = [*sorted(fields), *parameters]
        name = refusal.find_refused_name(candidates)
        if name is None:
            name = refusal.find_name(candidates)
            if name is None or (refusal.is_about_prompt and name in _LIMITS):
                return None
        return ("field" if name in fields else "parameter"), name

    def _note(self, kind: str, name: str) -> bool:
        """Keep a change; false where it is known."""
        if kind == "parameter":
            is_new = name not in self._replacements
            self.leave_out(name)
            return is_new
        names = self._demanded if kind == "demand" else self._refused_fields
        is_new = name not in names
        names.add(name)
        return is_new

    def _rename(self, name: str | None) -> str | None:
        while name is not None and name in self._replacements:
            name = self._replacements[name]
        return name

    def _adapt_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        adapted = {name: value for name, value in message.items() if name not in self._refused_fields}
        if not adapted.get("tool_calls"):
            return adapted
        calls = [
            {name: value for name, value in call.items() if name not in self._refused_fields}
            for call in adapted["tool_calls"]
        ]
        if "thought_signature" in self._demanded and not any("extra_content" in call for call in calls):
            calls[0]["extra_content"] = _SIGNATURE
        if "reasoning_content" in self._demanded:  # an empty one counts as absent at some endpoints
            adapted.setdefault("reasoning_content", adapted.get("content") or "I call the tool.")
        return {**adapted, "tool_calls": calls}
