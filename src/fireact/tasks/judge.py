"""An LM as the judge of answers, for what exact match is too strict about. Never used unless it is asked for.

Invariant: every call is counted in ``usage``; a reply that is no verdict counts as wrong and in ``unclear``; an empty answer is
wrong without a call. A fault of the LM is raised, never scored. Figures of a judge stand beside EM and F1, not in their place.
"""

from __future__ import annotations

import re
import threading

from fireact.render.prompts import filled
from fireact.tasks.scoring import golds
from fireact.types import LM, Example, Message, Usage

_VERDICT = re.compile(r"\b(IN)?CORRECT\b")
MAX_TOKENS = 512
"""Room for an LM that thinks before its verdict."""


class Judge:
    """Scores answers 0 or 1 by asking an LM; safe to call from many threads."""

    def __init__(self, lm: LM) -> None:
        self.name = lm.name
        self.usage = Usage()
        self.unclear = 0
        self._lm = lm
        self._lock = threading.Lock()

    def __call__(self, example: Example, answer: str | None) -> float:
        """1.0 where the LM holds that the answer means one of the golds."""
        if not (answer or "").strip():
            return 0.0
        text = filled("judge", question=example.question, golds=list(golds(example)), answer=answer)
        completion = self._lm.complete([Message("user", text)], max_tokens=MAX_TOKENS)
        verdicts = list(_VERDICT.finditer(completion.text))
        with self._lock:
            self.usage += completion.usage
            self.unclear += not verdicts
        return float(bool(verdicts) and not verdicts[-1][1])
