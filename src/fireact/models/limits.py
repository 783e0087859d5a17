"""How fast and how much: requests and tokens a minute, and a budget that is never passed.

Both count before a call is made, by what it may take at most, and settle by what it took. Safe under many threads; a
thread that must wait sleeps until its turn, in the order of coming.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fireact.errors import BudgetError, ConfigError
from fireact.models.prices import Price
from fireact.types import LM, Completion, Message, Tool, Usage

WINDOW = 60.0
"""Seconds over which requests and tokens are counted."""
_UNITS = {"usd": "usd", "$": "usd", "tokens": "tokens", "calls": "calls"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How an endpoint is used: requests and tokens a minute (0: no limit), seconds a request, a table of prices."""

    rpm: int = 0
    tpm: int = 0
    timeout: float = 120.0
    prices: str | None = None


class RateLimit:
    """At most ``requests`` and ``tokens`` in any minute; 0 is no limit."""

    def __init__(
        self,
        requests: int = 0,
        tokens: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._requests, self._tokens = requests, tokens
        self._clock, self._sleep = clock, sleep
        self._turn = threading.Lock()  # held by the one thread that waits for room; the others queue for it
        self._seen: deque[list[float]] = deque()

    def enter(self, tokens: int) -> list[float]:
        """Wait until a call of about that many tokens may be made; returns its entry, to be settled."""
        entry = [0.0, float(min(tokens, self._tokens) if self._tokens else tokens)]
        if not self._requests and not self._tokens:
            return entry
        with self._turn:
            while (wait := self._wait(entry[1])) > 0:
                self._sleep(wait)
            entry[0] = self._clock()
            self._seen.append(entry)
        return entry

    def settle(self, entry: list[float], tokens: int) -> None:
        """Put what a call took in place of what was expected."""
        entry[1] = float(tokens)

    def _wait(self, tokens: float) -> float:
        """Seconds until there is room, 0 when there is now."""
        now = self._clock()
        while self._seen and self._seen[0][0] <= now - WINDOW:
            self._seen.popleft()
        waits = [0.0]
        if self._requests and len(self._seen) >= self._requests:
            waits.append(self._seen[len(self._seen) - self._requests][0] + WINDOW - now)
        if self._tokens:
            over = sum(entry[1] for entry in self._seen) + tokens - self._tokens
            for entry in self._seen:
                if over <= 0:
                    break
                over -= entry[1]
                waits.append(entry[0] + WINDOW - now)
        return max(waits)


@dataclass(frozen=True, slots=True)
class Amount:
    """A budget as it is written: 5usd, 200000tokens or 1000calls."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Amount:
        """Read a budget. Raises ConfigError saying how one is written."""
        match = re.fullmatch(r"\s*(\$?)\s*(\d[\d_]*(?:\.\d+)?)\s*(usd|\$|tokens|calls)?\s*", text.lower())
        if match is None or not (match[1] or match[3]) or (match[1] and match[3] not in (None, "usd")):
            raise ConfigError(f"budget {text!r} is not of the form 5usd, 200000tokens or 1000calls.")
        return cls(float(match[2].replace("_", "")), _UNITS[match[3] or match[1]])

    def of(self, usage: Usage) -> float:
        """How much of this unit a usage is; an unknown cost counts as none."""
        tokens = usage.prompt_tokens + usage.completion_tokens
        return {"usd": usage.cost or 0.0, "tokens": tokens, "calls": usage.calls}[self.unit]

    def __str__(self) -> str:
        return self.written(self.value)

    def written(self, value: float) -> str:
        """Some of it in words."""
        return f"${value:.4f}" if self.unit == "usd" else f"{value:,.0f} {self.unit}"


@dataclass
class Budget:
    """What is left of an amount; each call reserves the most that it can take before it is made."""

    amount: Amount
    spent: float = 0.0
    _reserved: float = 0.0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def reserve(self, worst: Usage) -> float:
        """Reserve for a call; waits for calls under way where they decide. Raises BudgetError when it would not fit."""
        share = self.amount.of(worst)
        with self._changed:
            while self.spent + self._reserved + share > self.amount.value:
                if not self._reserved or self.spent + share > self.amount.value:
                    raise BudgetError(
                        f"the budget of {self.amount} is spent as far as it goes: {self.amount.written(self.spent)} so far, "
                        f"and the next call may take {self.amount.written(share)}. What was paid for is kept; "
                        "go on with a larger one: fireact resume DIR --budget N."
                    )
                self._changed.wait()
            self._reserved += share
        return share

    def settle(self, share: float, used: Usage) -> None:
        """Give a reservation back and count what was used."""
        with self._changed:
            self._reserved -= share
            self.spent += self.amount.of(used)
            self._changed.notify_all()


class Budgeted:
    """An LM whose calls fit into a budget. Raises ConfigError for dollars at an unknown price."""

    def __init__(self, lm: LM, budget: Budget, price: Price | None) -> None:
        if budget.amount.unit == "usd" and price is not None and not price.known:
            raise ConfigError(
                f"the price of {lm.name} is not known, so a budget in dollars cannot be kept. Give its price with --prices, "
                "or a budget in tokens or calls."
            )
        self.name = lm.name
        self._lm, self._budget, self._price = lm, budget, price
        self._ratio = 0.5  # tokens a letter of a prompt: far above English until calls have shown better

    def complete(
        self,
        messages: Sequence[Message],
        *,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        tools: Sequence[Tool] = (),
    ) -> Completion:
        """As the LM's own. Raises BudgetError instead of passing the budget."""
        letters = letters_in(messages, tools)
        share = self._budget.reserve(self._worst(letters, max_tokens))
        used = Usage()
        try:
            completion = self._lm.complete(
                messages, stop=stop, max_tokens=max_tokens, temperature=temperature, seed=seed, tools=tools
            )
            used = completion.usage
        finally:
            self._budget.settle(share, used)
        self._ratio = max(1.1 * used.prompt_tokens / max(1, letters), 0.1)
        return completion

    def close(self) -> None:
        """Free what the LM holds."""
        close = getattr(self._lm, "close", None)
        if close is not None:
            close()

    def _worst(self, letters: int, max_tokens: int | None) -> Usage:
        usage = Usage(1, int(self._ratio * letters) + 16, 0, max_tokens or 1024)
        cost = self._price.cost(usage) if self._price is not None else 0.0
        return Usage(1, usage.prompt_tokens, 0, usage.completion_tokens, cost)


def letters_in(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
    """How long a prompt is, tool descriptions included."""
    said = sum(len(one.content) + sum(len(str(call)) for call in one.calls) + 8 for one in messages)
    return said + sum(len(tool.description) + len(str(tool.parameters)) for tool in tools)
