"""An LM as the judge of answers, where exact match is too strict. It is used only where a user asks for it.

Invariant: every call is counted in ``usage``; a reply without a verdict counts as wrong and in ``unclear``; an empty
answer is wrong without a call. An error of the LM is raised, never scored. The judge's scores complement EM and F1 and
never replace them.
"""

from __future__ import annotations

import re
import threading

from fireact.render.prompts import fill_prompt
from fireact.tasks.scoring import gold_answers
from fireact.types import LM, Call, Example, Message, Usage

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
        """1.0 where the LM judges that the answer means one of the gold answers."""
        if not (answer or "").strip():
            return 0.0
        text = fill_prompt("judge", question=example.question, golds=list(gold_answers(example)), answer=answer)
        completion = self._lm.complete(Call([Message("user", text)], max_tokens=MAX_TOKENS))
        verdicts = list(_VERDICT.finditer(completion.text))
        with self._lock:
            self.usage += completion.usage
            self.unclear += not verdicts
        return float(bool(verdicts) and not verdicts[-1][1])
