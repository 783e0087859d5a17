"""Limits on calls: requests and tokens a minute, and a budget that is never exceeded.

Both reserve the most that a call may take before it is made, and settle by what it took. Many threads may use them; a
thread that must wait sleeps until its turn, first come, first served.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from fireact.base.run_directory import absolute_path
from fireact.base.settings import CheckedSettings, setting
from fireact.errors import BudgetError, ConfigError
from fireact.models.prices import TokenPrice
from fireact.types import LM, Call, Completion, Message, Tool, Usage

WINDOW = 60.0
"""Seconds over which requests and tokens are counted."""
HOSTED = "Hosted models"
"""The heading of the options about hosted models."""
_UNITS = {"usd": "usd", "$": "usd", "tokens": "tokens", "calls": "calls"}


@dataclass(frozen=True, slots=True)
class Endpoint(CheckedSettings):
    """Settings of an endpoint."""

    rpm: int = setting(0, panel=HOSTED, low=0)
    """Requests a minute at a hosted model; 0 is no limit."""
    tpm: int = setting(0, panel=HOSTED, low=0)
    """Tokens a minute at a hosted model; 0 is no limit."""
    timeout: float = setting(120.0, panel=HOSTED, above=0)
    """Seconds that a request to a hosted model may take."""
    replicas: Sequence[str] = setting((), flags=("--replica",), panel=HOSTED)
    """Base URL of a further endpoint that serves the same hosted model; repeatable. --rpm and --tpm hold for each."""
    prices: str | None = setting(None, panel=HOSTED, is_path=True, normalise=absolute_path)
    """TOML file with prices of your own. Default: FIREACT_PRICES, then genai-prices."""


_MAKE_RATE = ContextVar["Callable[[Endpoint, str], RateLimit] | None"]("make_rate", default=None)


@contextmanager
def sharing_rates(make: Callable[[Endpoint, str], RateLimit]) -> Iterator[None]:
    """Build models in this context with the rates that ``make`` returns for an endpoint and its address."""
    token = _MAKE_RATE.set(make)
    try:
        yield
    finally:
        _MAKE_RATE.reset(token)


def make_rate(endpoint: Endpoint, url: str) -> RateLimit:
    """The limit of the rates of an endpoint: its own, unless the context shares them."""
    make = _MAKE_RATE.get()
    if make is None or not (endpoint.rpm or endpoint.tpm):
        return RateLimit(endpoint.rpm, endpoint.tpm)
    return make(endpoint, url)


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
        self._entries: deque[list[float]] = deque()

    def enter(self, tokens: int) -> list[float]:
        """Wait until a call of about this many tokens may be made, and return its entry, which must be settled."""
        entry = [0.0, float(min(tokens, self._tokens) if self._tokens else tokens)]
        if not self._requests and not self._tokens:
            return entry
        with self._turn:
            while (wait := self._wait(entry[1])) > 0:
                self._sleep(wait)
            entry[0] = self._clock()
            self._entries.append(entry)
        return entry

    def settle(self, entry: list[float], tokens: int) -> None:
        """Replace the expected tokens of a call by those that it took."""
        entry[1] = float(tokens)

    def _wait(self, tokens: float) -> float:
        """Seconds until there is room; 0 when there is room now."""
        now = self._clock()
        while self._entries and self._entries[0][0] <= now - WINDOW:
            self._entries.popleft()
        waits = [0.0]
        if self._requests and len(self._entries) >= self._requests:
            waits.append(self._entries[len(self._entries) - self._requests][0] + WINDOW - now)
        if self._tokens:
            excess = sum(entry[1] for entry in self._entries) + tokens - self._tokens
            # Wait until enough of the oldest calls have left the window to make room for the new tokens.
            for entry in self._entries:
                if excess <= 0:
                    break
                excess -= entry[1]
                waits.append(entry[0] + WINDOW - now)
        return max(waits)


@dataclass(frozen=True, slots=True)
class BudgetAmount:
    """The amount of a budget, written as 5usd, 200000tokens or 1000calls."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> BudgetAmount:
        """Read an amount. Raises ConfigError that shows the form."""
        match = re.fullmatch(r"(\$?)\s*(\d[\d_]*(?:\.\d+)?)\s*(usd|\$|tokens|calls)?", text.strip().lower())
        if match is None or not (match[1] or match[3]) or (match[1] and match[3] not in (None, "usd")):
            raise ConfigError(f"budget {text!r} is not of the form 5usd, 200000tokens or 1000calls.")
        return cls(float(match[2].replace("_", "")), _UNITS[match[3] or match[1]])

    def measure(self, usage: Usage) -> float:
        """A usage in this unit; an unknown cost counts as 0."""
        tokens = usage.prompt_tokens + usage.completion_tokens
        return {"usd": usage.cost or 0.0, "tokens": tokens, "calls": usage.calls}[self.unit]

    def __str__(self) -> str:
        return self.format_value(self.value)

    def format_value(self, value: float) -> str:
        """A value with its unit, as text."""
        return f"${value:.4f}" if self.unit == "usd" else f"{value:,.0f} {self.unit}"


def check_budget(text: str) -> str:
    """A text that is a budget, as it is. Raises ConfigError that shows the form."""
    BudgetAmount.parse(text)
    return text


@dataclass
class Budget:
    """A budget and its spending; each call reserves the most that it can take before it is made."""

    amount: BudgetAmount
    spent: float = 0.0
    _reserved: float = 0.0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def reserve(self, worst: Usage) -> float:
        """Reserve for a call, after calls in flight where their cost decides. Raises BudgetError when it cannot fit."""
        share = self.amount.measure(worst)
        with self._changed:
            while self.spent + self._reserved + share > self.amount.value:
                if not self._reserved or self.spent + share > self.amount.value:
                    raise BudgetError(
                        f"the budget of {self.amount} is spent as far as it goes: "
                        f"{self.amount.format_value(self.spent)} so far, and the next call may take "
                        f"{self.amount.format_value(share)}. Finished work is kept; "
                        "resume with a larger one: fireact resume DIR --budget N."
                    )
                self._changed.wait()
            self._reserved += share
        return share

    def settle(self, share: float, used: Usage) -> None:
        """Release a reservation and count the actual usage."""
        with self._changed:
            self._reserved -= share
            self.spent += self.amount.measure(used)
            self._changed.notify_all()


class BudgetedLM:
    """An LM whose calls stay within a budget. Raises ConfigError for dollars at an unknown price."""

    def __init__(self, lm: LM, budget: Budget, price: TokenPrice | None) -> None:
        if budget.amount.unit == "usd" and price is not None and not price.is_known:
            raise ConfigError(
                f"the price of {lm.name} is not known, so a budget in dollars cannot be kept. "
                "Give its price with --prices, or a budget in tokens or calls."
            )
        self.name = lm.name
        self._lm, self._budget, self._price = lm, budget, price
        self._ratio = 0.5  # tokens a character of a prompt: far above English, until a call gives the real ratio

    def complete(self, call: Call) -> Completion:
        """Complete a chat with the LM. Raises BudgetError instead of exceeding the budget."""
        prompt_chars = count_prompt_chars(call.messages, call.tools)
        share = self._budget.reserve(self._worst_case(prompt_chars, call.max_tokens))
        used = Usage()
        try:
            completion = self._lm.complete(call)
            used = completion.usage
        finally:
            self._budget.settle(share, used)
        self._ratio = max(1.1 * used.prompt_tokens / max(1, prompt_chars), 0.1)
        return completion

    def close(self) -> None:
        """Free what the LM holds."""
        close = getattr(self._lm, "close", None)
        if close is not None:
            close()

    def _worst_case(self, prompt_chars: int, max_tokens: int | None) -> Usage:
        usage = Usage(1, int(self._ratio * prompt_chars) + 16, 0, max_tokens or 1024)
        cost = self._price.cost(usage) if self._price is not None else 0.0
        return Usage(1, usage.prompt_tokens, 0, usage.completion_tokens, cost)


def count_prompt_chars(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
    """The length of a prompt in characters, including its tools."""
    message_chars = sum(
        len(message.content) + sum(len(str(call)) for call in message.calls) + 8 for message in messages
    )
    return message_chars + sum(len(tool.description) + len(str(tool.parameters)) for tool in tools)
