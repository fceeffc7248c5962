"""Tests and intervals, each against scipy, a slow plain version or a case by hand, and their error rates."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy

from benchmark.results.statistics import bootstrap, holm, paired_t, randomisation, wilcoxon


def hits(rng, users, columns, rate=0.3):
    return (rng.random((users, columns)) < rate).astype(float)


def test_paired_t_is_scipys():
    d = [0.4, 1.2, -0.3, 2.0, 0.9]
    found = scipy.ttest_1samp(d, 0)
    assert paired_t(d) == pytest.approx((found.statistic, found.pvalue))


def test_paired_t_without_spread_or_without_enough():
    assert paired_t([0.0, 0.0]) == (0.0, 1.0)
    assert paired_t([-0.5, -0.5, -0.5]) == (-np.inf, 0.0)
    with pytest.raises(ValueError, match="two differences"):
        paired_t([1.0])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_randomisation_nears_the_exact_test_of_all_sign_flips():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(10, 2))
    d = values[:, 0] - values[:, 1]
    sums = np.array([abs(np.dot(signs, d)) for signs in product((-1, 1), repeat=10)])
    exact = np.mean(sums >= abs(d.sum()) - 1e-12)
    (p,) = randomisation(values, [(0, 1)], flips=40_000)
    assert p == pytest.approx(exact, abs=0.01)


def test_randomisation_counts_ties_as_extreme():
    values = np.array([[1.0, 0.0]] * 3 + [[0.0, 0.0]] * 50)  # |sum| is 3 in a quarter of all flips
    (p,) = randomisation(values, [(0, 1)], flips=40_000)
    assert p == pytest.approx(0.25, abs=0.01)


def test_randomisation_of_averages_is_not_thrown_by_the_last_digit():
    values = np.array([[0.1 + 0.2, 0.0]] * 4 + [[0.0, 0.3]])  # .1 + .2 is not .3
    (p,) = randomisation(values, [(0, 1)], flips=20_000)
    assert p == pytest.approx(2 * 6 / 32, abs=0.015)  # of five signs one or none is unlike the others


def test_many_pairs_at_once_are_each_pair_alone_and_the_same_every_time():
    values = hits(np.random.default_rng(1), 200, 4)
    pairs = [(0, 1), (2, 3), (3, 0)]
    together = randomisation(values, pairs, flips=500)
    assert list(together) == [randomisation(values, [pair], flips=500)[0] for pair in pairs]
    assert list(together) == list(randomisation(values, pairs, flips=500))


def test_of_equal_columns_nothing_is_shown():
    values = np.ones((30, 2))
    assert randomisation(values, [(0, 1)], flips=200)[0] == 1.0
    assert bootstrap(values, [(0, 1)], draws=200).tolist() == [[0.0, 0.0]]
    assert wilcoxon(np.zeros(30)) == 1.0


def test_the_bootstrap_is_the_plain_one():
    rng = np.random.default_rng(2)
    values = hits(rng, 400, 2) * rng.random((400, 2))
    d = values[:, 0] - values[:, 1]
    means = [d[rng.integers(0, len(d), len(d))].mean() for _ in range(4000)]
    (interval,) = bootstrap(values, [(0, 1)])
    assert interval == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.0015)


def test_wilcoxon_ranks_zeros_and_drops_them():
    rng = np.random.default_rng(3)
    d = np.where(rng.random(300) < 0.8, 0.0, rng.normal(0.3, 1, 300))
    assert wilcoxon(d) == scipy.wilcoxon(d, zero_method="pratt", method="asymptotic").pvalue
    assert wilcoxon(d) != scipy.wilcoxon(d, zero_method="wilcox", method="asymptotic").pvalue


def seed_means(rng, users, seeds, rate):
    """Users of unlike rates, each the mean over `seeds` runs."""
    return rng.binomial(seeds, rate) / seeds


@pytest.mark.parametrize("seeds", [(1, 1), (2, 1), (3, 3)])
def test_under_the_null_one_in_twenty_is_below_five_hundredths(seeds):
    """Methods that are equally good, users that are not alike; also with unlike numbers of seeds."""
    rng = np.random.default_rng(4)
    p_values, covered = [], []
    for _ in range(400):
        rate = rng.beta(0.4, 2.0, 300)
        values = np.stack([seed_means(rng, 300, n, rate) for n in seeds], axis=1)
        p_values.append(randomisation(values, [(0, 1)], flips=199)[0])
        low, high = bootstrap(values, [(0, 1)], draws=300)[0]
        covered.append(low <= 0 <= high)
    p = np.array(p_values)
    for level in (0.05, 0.2, 0.5):  # sums that tie make p larger than need be, never smaller
        error = (level * (1 - level) / len(p)) ** 0.5
        assert 0.6 * level - 3 * error < np.mean(p <= level) < level + 3 * error
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)


def test_users_and_seeds_pooled_would_reject_too_often():
    """Why seeds are averaged: stacking them calls differences among users real that are one draw's."""
    rng = np.random.default_rng(5)
    stacked = []
    for _ in range(300):
        rate_a, rate_b = rng.beta(0.4, 2.0, 100), rng.beta(0.4, 2.0, 100)  # users lean, by chance, either way
        runs = [np.stack([rng.binomial(1, r) for r in (rate_a, rate_b)], axis=1) for _ in range(5)]
        stacked.append(randomisation(np.concatenate(runs).astype(float), [(0, 1)], flips=199)[0])
    assert np.mean(np.array(stacked) < 0.05) > 0.1


def test_holm_keeps_the_chance_of_any_false_claim():
    rng = np.random.default_rng(6)
    pairs = [(a, b) for a in range(5) for b in range(a)]
    wrong = 0
    for _ in range(200):
        p = randomisation(hits(rng, 150, 5), pairs, flips=999)
        wrong += min(holm(list(p))) < 0.05
    assert wrong / 200 < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
