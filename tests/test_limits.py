"""Rates, budgets and prices by themselves."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.errors import BudgetError, ConfigError
from fireact.models.limits import Budget, BudgetAmount, RateLimit
from fireact.models.prices import find_price
from fireact.types import Usage


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(st.integers(1, 20), st.lists(st.integers(1, 400), min_size=1, max_size=80), st.integers(400, 2000))
def test_no_minute_holds_more_than_the_rates(requests: int, calls: list[int], tokens: int) -> None:
    clock = Clock()
    limit = RateLimit(requests, tokens, clock=clock, sleep=clock.sleep)
    made = []
    for count in calls:
        limit.enter(count)
        made.append((clock.now, count))
    for start, _ in made:
        window = [count for at, count in made if start <= at < start + 60]
        assert len(window) <= requests and sum(window) <= tokens


def test_a_call_above_the_rate_of_a_minute_still_comes_through() -> None:
    clock = Clock()
    RateLimit(0, 100, clock=clock, sleep=clock.sleep).enter(5000)
    assert clock.now == 0.0


def test_what_a_call_took_takes_the_place_of_what_was_expected() -> None:
    clock = Clock()
    limit = RateLimit(0, 1000, clock=clock, sleep=clock.sleep)
    for _ in range(10):
        limit.settle(limit.enter(300), 50)
    assert clock.now == 0.0


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [("5usd", 5, "usd"), ("$2.50", 2.5, "usd"), ("200_000tokens", 200000, "tokens"), (" 10 calls ", 10, "calls")],
)
def test_budgets_are_read(text: str, value: float, unit: str) -> None:
    assert BudgetAmount.parse(text) == BudgetAmount(value, unit)


@pytest.mark.parametrize("text", ["", "5", "usd", "-5usd", "5eur", "$5tokens", "1e3usd"])
def test_a_budget_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="200000tokens"):
        BudgetAmount.parse(text)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=60), st.integers(1, 500))
def test_a_budget_is_never_passed(calls: list[tuple[int, int]], limit: int) -> None:
    budget = Budget(BudgetAmount(limit, "tokens"))
    for worst, used in calls:
        try:
            share = budget.reserve(Usage(1, worst, 0, 0))
        except BudgetError:
            continue
        budget.settle(share, Usage(1, min(used, worst), 0, 0))
        assert budget.spent <= limit


def test_threads_wait_for_what_is_reserved_and_use_what_is_given_back() -> None:
    budget = Budget(BudgetAmount(100, "tokens"))
    gate = threading.Barrier(4)

    def call(_: int) -> bool:
        gate.wait(600)
        try:
            share = budget.reserve(Usage(1, 60, 0, 0))
        except BudgetError:
            return False
        budget.settle(share, Usage(1, 10, 0, 0))
        return True

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == [True] * 4
    assert budget.spent == 40


def test_known_prices_come_from_the_package_and_unknown_ones_are_said() -> None:
    usage = Usage(1, 1_000_000, 0, 0)
    known = find_price("gpt-4o", "https://api.openai.com/v1")
    assert known.is_known and 0 < (known.cost(usage) or 0) < 100
    assert (known.cost(Usage(1, 1_000_000, 1_000_000, 0)) or 0) < (known.cost(usage) or 0)
    for model, url in (("gpt-4o", "http://127.0.0.1:8000/v1"), ("no-such-model", "https://api.openai.com/v1")):
        assert not find_price(model, url).is_known


def test_the_user_s_own_table_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.toml").write_text('[prices."gpt-4o"]\ninput_per_million = 7\noutput_per_million = 0\n')
    monkeypatch.setenv("FIREACT_PRICES", str(tmp_path / "p.toml"))
    assert find_price("gpt-4o", "http://127.0.0.1/v1").cost(Usage(1, 1_000_000, 5, 9)) == 7.0


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[prices.m]\ninput_per_million = 1",
        '[prices.m]\ninput_per_million = "a"\noutput_per_million = 1',
        "prices = 3",
        "[prices.m]\ninput_per_million = -1\noutput_per_million = 1",
        "[m]\ninput_per_million = 1\noutput_per_million = 1",
        "[price.m]\ninput_per_million = 1\noutput_per_million = 1",
    ],
)
def test_a_wrong_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(ConfigError, match="prices"):
        find_price("m", "http://127.0.0.1/v1", table=tmp_path / "p.toml")
