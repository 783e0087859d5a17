"""Intervals and tests: right on known cases, ordered and bounded on any, and honest on degenerate ones."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fakes import trajectory
from fireact.errors import DataError
from fireact.evaluation.comparison import compare_scores
from fireact.evaluation.statistics import (
    bootstrap_mean,
    compare_paired,
    estimate_amount,
    estimate_change,
    estimate_quantile,
)
from fireact.evaluation.summary import summarise_trajectories
from fireact.types import Usage

SCORES = st.lists(st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.8, 1.0]), min_size=1, max_size=40)
BINARY = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(SCORES)
def test_the_order_of_the_values_changes_no_interval(values: list[float]) -> None:
    turned = values[::-1]
    assert bootstrap_mean(values, resamples=999) == bootstrap_mean(turned, resamples=999)
    assert estimate_quantile(values, 0.5, resamples=99) == estimate_quantile(turned, 0.5, resamples=99)
    assert values == turned[::-1]


@settings(max_examples=40, deadline=None)
@given(SCORES)
def test_an_interval_holds_the_mean_lies_in_the_bounds_and_is_never_a_point(values: list[float]) -> None:
    found = bootstrap_mean(values, resamples=999)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high
    assert found == bootstrap_mean(values, resamples=999)


@pytest.mark.parametrize("n", [1, 10, 60])
def test_equal_scores_get_the_wilson_interval(n: int) -> None:
    for value in (0.0, 1.0):
        wilson = stats.binomtest(int(value * n), n).proportion_ci(method="wilson")
        found = bootstrap_mean([value] * n)
        assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))


def test_a_bootstrap_covers_what_it_should() -> None:
    inside = 0
    for seed in range(200):
        draw = random.Random(seed)
        found = bootstrap_mean([draw.betavariate(2, 1) for _ in range(40)], resamples=999)
        inside += found.low <= 2 / 3 <= found.high
    assert 182 <= inside <= 198  # 95 % of 200, and two and a half standard deviations


def test_more_questions_make_a_narrower_interval() -> None:
    few, many = bootstrap_mean([0.0, 1.0] * 15), bootstrap_mean([0.0, 1.0] * 150)
    assert many.high - many.low < 0.5 * (few.high - few.low)


@pytest.mark.parametrize(("values", "said"), [([], "no values"), ([0.5, 1.5], "1.5"), ([0.5, float("nan")], "nan")])
def test_what_has_no_mean_or_no_place_is_an_error(values: list[float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        bootstrap_mean(values)


def test_binary_scores_get_mcnemars_exact_test() -> None:
    before, after = [0.0] * 12 + [1.0] * 5 + [0.0] * 3, [1.0] * 10 + [0.0] * 2 + [0.0] * 2 + [1.0] * 3 + [0.0] * 3
    found = compare_paired(before, after)
    assert (found.wins, found.losses, found.n) == (10, 2, 20)
    assert found.p == pytest.approx(stats.binomtest(10, 12).pvalue)
    assert found.difference.mean == pytest.approx(8 / 20)


def test_fractional_scores_get_a_sign_flip_test() -> None:
    assert compare_paired([0.1, 0.2, 0.3], [0.4, 0.5, 0.9]).p == pytest.approx(2 / 8)
    many = compare_paired([0.1] * 60, [0.1 + 0.01 * (index % 7) for index in range(60)])
    assert many.p == pytest.approx(1 / 10_001)


@pytest.mark.parametrize("n", [20, 30, 50, 100, 200])
@pytest.mark.parametrize("flips", range(1, 9))
def test_a_few_flips_in_one_direction_are_a_difference_only_where_the_test_says_so(flips: int, n: int) -> None:
    found = compare_paired([1.0] * flips + [0.0] * (n - flips), [0.0] * n)
    assert (found.difference.high < 0) == (found.p < 0.05) == (flips > 5)
    assert found.difference.low < -flips / n < found.difference.high


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0])] * 2), min_size=1, max_size=60), st.booleans(), st.booleans())
def test_an_interval_leaves_0_out_where_p_is_below_5_percent(
    pairs: list[tuple[float, float]], one_sided: bool, halves: bool
) -> None:
    before, after = ([pair[side] / (1 + halves) for pair in pairs] for side in (0, 1))
    if one_sided:
        after = [max(one, other) for one, other in zip(before, after, strict=True)]
    found = compare_paired(before, after)
    assert (found.difference.low > 0 or found.difference.high < 0) == (found.p < 0.05)
    assert -1 <= found.difference.low <= found.difference.mean <= found.difference.high <= 1
    assert found.difference.low < found.difference.high
    turned = compare_paired(after, before).difference
    assert (turned.low, turned.high) == pytest.approx((-found.difference.high, -found.difference.low))


def test_as_many_wins_as_losses_give_an_interval_that_is_the_same_from_both_sides() -> None:
    for flips in (1, 2, 7):
        difference = compare_paired([0.0, 1.0] * flips + [1.0] * 9, [1.0, 0.0] * flips + [1.0] * 9).difference
        assert difference.mean == 0 and difference.low == pytest.approx(-difference.high) and difference.high > 0


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_of_a_difference_covers_what_it_should(seeds: int) -> None:
    inside = 0
    for seed in range(100):
        draw = random.Random(seed)
        before, after = ([sum(draw.random() < p for _ in range(seeds)) / seeds for _ in range(60)] for p in (0.3, 0.5))
        found = compare_paired(before, after, seed=seed).difference
        inside += found.low <= 0.2 <= found.high
    assert 90 <= inside <= 100  # 95 % and two and a half standard deviations


def test_agents_that_agree_everywhere_differ_by_nothing_yet_not_for_certain() -> None:
    found = compare_paired([0.0, 1.0, 1.0], [0.0, 1.0, 1.0])
    assert found.p == 1.0 and found.difference.mean == 0.0
    assert found.difference.low < 0 < found.difference.high


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.3, 1.0])), min_size=1, max_size=20))
def test_a_comparison_is_antisymmetric(pairs: list[tuple[float, float]]) -> None:
    before, after = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    one, other = compare_paired(before, after), compare_paired(after, before)
    assert one.difference.mean == pytest.approx(-other.difference.mean)
    assert (one.wins, one.losses) == (other.losses, other.wins)
    assert one.p == pytest.approx(other.p, abs=0.05)
    assert 0 < one.p <= 1


def test_samples_of_unequal_length_cannot_be_paired() -> None:
    with pytest.raises(DataError, match="2 scores against 1"):
        compare_paired([0.0, 1.0], [1.0])


def test_a_summary_counts_faults_apart_and_has_the_promised_keys() -> None:
    episodes = [replace(trajectory(index, em=float(index < 3), steps=2), seconds=float(index)) for index in range(4)]
    fault = replace(trajectory(9), stop="error", scores={}, error="down", usage=Usage(9, 999, 0, 999), seconds=999.0)
    found = summarise_trajectories([*episodes, fault], wall_seconds=2.0).to_dict()
    assert (found["n"], found["faults"], found["em"], found["steps"]) == (4, 1, 0.75, 2.0)
    assert found["tokens_per_question"] == found["prompt_tokens"] + found["completion_tokens"] == 5
    assert (found["seconds_per_question"], found["latency_mean"], found["latency_p50"]) == (0.5, 1.5, 1.5)
    assert found["stops"] == {"finish": 4}
    for name in ("em", "f1", "finished"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
    assert json.loads(json.dumps(found)) == found


def test_without_a_wall_time_seconds_are_those_of_an_episode() -> None:
    assert summarise_trajectories([trajectory()]).seconds_per_question == 0.5


def test_a_task_of_faults_alone_has_no_summary() -> None:
    with pytest.raises(DataError, match="none is left to score"):
        summarise_trajectories([replace(trajectory(), stop="error", scores={})])


def test_a_missing_score_is_named() -> None:
    with pytest.raises(DataError, match="no score 'f1'"):
        summarise_trajectories([replace(trajectory(), scores={"em": 1.0})])


def test_agents_are_compared_on_the_questions_that_both_answered() -> None:
    before = [trajectory(index, em=0.0) for index in range(6)]
    after = [trajectory(index, em=1.0) for index in (5, 3, 1, 7)]
    after[0] = replace(after[0], stop="error", scores={})
    found = compare_scores(before, after)
    assert (found.em.n, found.em.wins, found.em.losses) == (2, 2, 0)
    with pytest.raises(DataError, match="share no scored question"):
        compare_scores(before, after[3:])
    with pytest.raises(DataError, match="answered twice"):
        compare_scores([*before, before[0]], after)


def test_amounts_without_bounds_have_finite_intervals() -> None:
    same = estimate_amount([3.0] * 5)
    assert (same.mean, same.low, same.high) == (3.0, 3.0, 3.0)
    found = estimate_amount([1.0, 2.0, 900.0, 4.0] * 5)
    assert 0 < found.low < found.mean < found.high < 900
    fewer = estimate_change([5.0, 6.0, 7.0] * 4, [1.0, 2.0, 2.0] * 4)
    assert fewer.low < fewer.mean < fewer.high < 0 and fewer.mean == pytest.approx(-13 / 3)
    for values in ([-1.0], [math.inf]):
        with pytest.raises(DataError, match="outside"):
            estimate_amount(values)
    with pytest.raises(DataError, match="1 amounts against 2"):
        estimate_change([1.0], [1.0, 2.0])


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_a_quantile_lies_in_its_interval_and_in_the_sample(values: list[float]) -> None:
    for share in (0.5, 0.95):
        found = estimate_quantile(values, share, resamples=200)
        assert min(values) <= found.low <= found.mean <= found.high <= max(values)
    assert estimate_quantile([1.0, 2.0, 3.0], 0.5).mean == 2.0
