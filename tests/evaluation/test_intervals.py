from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evoray.errors import StageError
from evoray.evaluation.intervals import (
    bootstrap_mean,
    compare_scores,
    paired_difference,
    paired_difference_seeds,
    summarise,
)

RNG = np.random.default_rng(7)
VALUES = RNG.exponential(size=120)


def test_the_interval_of_a_mean_agrees_with_scipy() -> None:
    mean, low, high = bootstrap_mean(VALUES, seed=0, n=4000)
    expected = stats.bootstrap((VALUES,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert mean == pytest.approx(VALUES.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    assert bootstrap_mean(VALUES, seed=3) == bootstrap_mean(VALUES, seed=3)
    assert bootstrap_mean(VALUES, seed=3) != bootstrap_mean(VALUES, seed=4)


def test_a_higher_level_gives_a_wider_interval() -> None:
    _, low, high = bootstrap_mean(VALUES, seed=0, level=0.8)
    _, lower, higher = bootstrap_mean(VALUES, seed=0, level=0.99)
    assert lower < low < high < higher


def test_constant_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_mean([2.0] * 5, seed=0) == (2.0, 2.0, 2.0)
    assert bootstrap_mean([3.0], seed=0) == (3.0, 3.0, 3.0)


def test_pairing_removes_what_both_models_share() -> None:
    shared = RNG.normal(scale=10, size=200)
    difference, low, high = paired_difference(shared + 1.0, shared, seed=0)
    assert (difference, low, high) == pytest.approx((1.0, 1.0, 1.0))


def test_a_paired_difference_is_the_bootstrap_of_differences() -> None:
    a, b = RNG.normal(size=80), RNG.normal(size=80)
    expected = stats.bootstrap((a - b,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    difference, low, high = paired_difference(a, b, seed=0, n=4000)
    assert difference == pytest.approx((a - b).mean())
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_two_way_resampling_agrees_with_a_plain_loop() -> None:
    a_SR, b_SR = RNG.normal(size=(4, 30)) + RNG.normal(size=(4, 1)), RNG.normal(size=(4, 30))
    rng = np.random.default_rng(0)
    means = []
    for _ in range(4000):
        seeds, rows = rng.integers(4, size=4), rng.integers(30, size=30)
        means.append((a_SR - b_SR)[np.ix_(seeds, rows)].mean())
    difference, low, high = paired_difference_seeds(a_SR, b_SR, seed=1, n=4000)
    assert difference == pytest.approx((a_SR - b_SR).mean())
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.06)


def test_a_spread_between_seeds_widens_the_interval() -> None:
    rows = RNG.normal(size=100)
    spread_SR = rows + np.array([[-1.0], [0.0], [1.0]])
    flat_SR = np.tile(rows, (3, 1))
    _, low, high = paired_difference_seeds(spread_SR, np.zeros((3, 100)), seed=0)
    _, flat_low, flat_high = paired_difference_seeds(flat_SR, np.zeros((3, 100)), seed=0)
    assert high - low > 2 * (flat_high - flat_low)


def test_one_seed_gives_the_interval_of_rows() -> None:
    a = RNG.normal(size=100)
    _, low, high = paired_difference_seeds(a[None], np.zeros((1, 100)), seed=0, n=4000)
    _, row_low, row_high = bootstrap_mean(a, seed=0, n=4000)
    assert (low, high) == pytest.approx((row_low, row_high), abs=0.03)


def test_rows_without_a_value_are_left_out_on_both_sides() -> None:
    assert paired_difference([1.0, math.nan, 5.0], [0.0, 3.0, math.nan], seed=0) == (1.0, 1.0, 1.0)
    assert paired_difference_seeds([[1.0, math.nan], [1.0, 9.0]], [[0.0, 0.0], [0.0, 0.0]], seed=0)[0] == 1.0


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_no_values_and_infinite_ones_are_refused(values: list[float]) -> None:
    with pytest.raises(StageError):
        bootstrap_mean(values, seed=0)


def test_different_rows_cannot_be_paired() -> None:
    with pytest.raises(StageError, match="same rows"):
        paired_difference([1.0, 2.0], [1.0], seed=0)


def test_a_summary_holds_means_and_says_what_could_not_be_judged() -> None:
    summary = summarise([1.0, 2.0, math.nan], [True, False, None])
    assert (summary.loss, summary.accuracy, summary.rows) == (1.5, 0.5, 3)
    assert summary.facts == {"rows without loss": "1", "rows without verdict": "1"}
    assert summary.loss_low <= summary.loss <= summary.loss_high


def test_verdicts_may_lie_between_right_and_wrong() -> None:
    summary = summarise([1.0, 2.0, 3.0], [1.0, 0.25, None])
    assert summary.accuracy == 0.625
    assert summary.accuracy_low is not None and summary.accuracy_high is not None
    assert 0.25 <= summary.accuracy_low <= 0.625 <= summary.accuracy_high <= 1.0


def test_a_comparison_holds_both_summaries_and_differences_over_the_rows_that_both_have() -> None:
    first = ([1.0, 2.0, math.nan, 4.0], [1.0, 0.5, 0.0, None])
    second = ([3.0, 1.0, 5.0, 4.5], [0.0, 0.5, None, 1.0])
    found = compare_scores(*first, *second)
    assert (found.model, found.against) == (summarise(*first), summarise(*second))
    assert found.loss == pytest.approx(np.mean([-2.0, 1.0, -0.5]))
    assert (found.loss, found.loss_low, found.loss_high) == paired_difference(first[0], second[0], seed=0)
    assert found.accuracy == pytest.approx(np.mean([1.0, 0.0]))
    assert (found.rows, found.verdicts) == (3, 2)


def test_a_comparison_without_verdicts_in_common_is_one_of_losses_alone() -> None:
    found = compare_scores([1.0, 2.0], [1.0, None], [1.0, 1.0], [None, 1.0])
    assert (found.accuracy, found.accuracy_low, found.accuracy_high, found.verdicts) == (None, None, None, 0)
    assert found.loss == 0.5


def test_a_summary_without_verdicts_has_no_accuracy() -> None:
    summary = summarise([1.0, 2.0], [None, None])
    assert (summary.accuracy, summary.accuracy_low, summary.accuracy_high, summary.facts) == (None, None, None, None)
