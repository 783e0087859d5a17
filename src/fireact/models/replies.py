"""An LM with fixed replies: the fake for tests of agents and tools, without a key, weights or a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fireact.types import Action, Call, Completion, Usage


@dataclass(frozen=True, slots=True)
class Replies:
    """Returns the reply whose index is the number of assistant turns so far, or the last reply.

    It keeps no state, so episodes may share it. Its usage counts words, not tokens. A reply with tool calls is a pair
    of its text and its calls.
    """

    replies: Sequence[str | tuple[str, tuple[Action, ...]]]
    name: str = "scripted:replies"

    def complete(self, call: Call) -> Completion:
        turns = sum(message.role == "assistant" for message in call.messages)
        reply = self.replies[min(turns, len(self.replies) - 1)]
        text, calls = (reply, ()) if isinstance(reply, str) else reply
        for string in call.stop:
            text = text.split(string, 1)[0]
        prompt_words = sum(len(message.content.split()) for message in call.messages)
        usage = Usage(calls=1, prompt_tokens=prompt_words, completion_tokens=len(text.split()))
        return Completion(text=text, usage=usage, finish="stop", seconds=0.0, calls=calls)
