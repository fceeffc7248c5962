"""Tests and intervals, each against scipy, a slow plain version or a case by hand, and their error rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy

from benchmark.results.statistics import all_pairs, bootstrap, interval, p_value, paired_t


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


def one_seed(values):
    """Rows of one seed and one column, from `[U, R]`."""
    return [{0: values[:, [row]]} for row in range(values.shape[1])]


def difference(rows, draws=4000, seed=0):
    """Samples of the difference of two rows, `[draws]`."""
    samples = bootstrap(rows, draws, seed)
    return samples[:, 0, 0] - samples[:, 1, 0]


def test_with_one_seed_the_interval_is_scipys():
    rng = np.random.default_rng(2)
    values = hits(rng, 400, 2) * rng.random((400, 2))
    expected = scipy.bootstrap(
        (values[:, 0] - values[:, 1],), np.mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    found = interval(difference(one_seed(values), 20_000))
    assert found == pytest.approx(expected, abs=0.0007)


def plain(rows, draws, seed):
    """The bootstrap over users and seeds, slowly: `[draws, R, C]`."""
    rng = np.random.default_rng(seed)
    users = len(next(iter(rows[0].values())))
    samples = []
    for _ in range(draws):
        drawn, by_seeds = rng.integers(0, users, users), {}
        for row in rows:
            seeds = tuple(sorted(row))
            if seeds not in by_seeds:
                by_seeds[seeds] = rng.choice(seeds, len(seeds))
        samples.append(
            [
                np.mean([row[seed][drawn].mean(0) for seed in by_seeds[tuple(sorted(row))]], axis=0)
                for row in rows
            ]
        )
    return np.array(samples)


@pytest.mark.parametrize("seeds", [[(0, 1, 2), (2, 1, 0)], [(0, 1), (5,)], [(0, 1, 2), (0, 1)]])
def test_the_bootstrap_over_users_and_seeds_is_the_plain_one(seeds):
    """Shared seeds, unlike numbers of seeds, in any order; the seeds of a row differ much."""
    rng = np.random.default_rng(1)
    rows = [{seed: hits(rng, 200, 2, 0.2 + 0.05 * seed) for seed in names} for names in seeds]
    fast, slow = (sample(rows, 4000, 3) for sample in (bootstrap, plain))
    for quantity in (lambda samples: samples, lambda samples: samples[:, 0] - samples[:, 1]):
        assert quantity(fast).mean(0) == pytest.approx(quantity(slow).mean(0), abs=0.002)
        assert quantity(fast).std(0) == pytest.approx(quantity(slow).std(0), rel=0.08)
        assert np.ravel(interval(quantity(fast))) == pytest.approx(
            np.ravel(interval(quantity(slow))), abs=0.007
        )


def test_a_row_has_the_same_samples_whatever_the_other_rows():
    rng = np.random.default_rng(1)
    a, b, c = ({seed: hits(rng, 150, 2) for seed in seeds} for seeds in ((0, 1), (0, 1), (3,)))
    together = bootstrap([a, b, c], 300)
    assert together[:, 1:] == pytest.approx(bootstrap([b, c], 300), abs=1e-12)
    assert np.array_equal(together, bootstrap([a, b, c], 300))


def test_of_equal_rows_nothing_is_shown():
    samples = bootstrap(one_seed(np.ones((30, 2))), 200)[:, :, 0]
    (test,) = all_pairs(samples, np.ones(2)).values()
    assert test == (0, 0, 0, 1, 1)


def test_p_is_below_five_hundredths_where_the_interval_excludes_zero_and_only_there():
    rng = np.random.default_rng(7)
    for shift in np.linspace(1.5, 2.4, 60):
        samples = rng.normal(shift, 1, 10_000) * rng.choice([-1, 1])
        low, high = interval(samples)
        assert (p_value(samples) < 0.05) == (low > 0 or high < 0)


def test_p_nears_that_of_the_randomisation_test():
    """The test that is exact where methods do not differ (Smucker et al. 2007 find the two alike)."""
    rng = np.random.default_rng(0)
    rate = rng.beta(0.4, 2.0, 600)
    for lift in (0.0, 0.02, 0.04):
        values = np.stack([rng.random(600) < rate, rng.random(600) < rate + lift], axis=1).astype(float)
        exact = scipy.permutation_test(
            (values[:, 0], values[:, 1]), lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples", n_resamples=3000, random_state=0, vectorized=True,
        ).pvalue  # fmt: skip
        assert p_value(difference(one_seed(values), 10_000)) == pytest.approx(exact, abs=0.04)


def seed_means(rng, users, seeds, rate):
    """Users of unlike rates, each under some seeds."""
    return {seed: (rng.random((users, 1)) < rate[:, None]).astype(float) for seed in range(seeds)}


@pytest.mark.parametrize("seeds", [(1, 1), (2, 1), (3, 3)])
def test_intervals_of_equal_methods_cover_zero(seeds):
    """Methods that are equally good, users that are not alike; also with unlike numbers of seeds."""
    rng = np.random.default_rng(4)
    covered = []
    for trial in range(300):
        rate = rng.beta(0.4, 2.0, 300)
        rows = [seed_means(rng, 300, n, rate) for n in seeds]
        low, high = interval(difference(rows, 300, trial))
        covered.append(low <= 0 <= high)
    assert np.mean(covered) > 0.91  # with several seeds the intervals are somewhat too wide


def test_differences_between_seeds_widen_the_interval():
    """Seeds that differ more than users do: over users alone, nearly every interval would miss 0."""
    rng = np.random.default_rng(5)
    both, users_alone = [], []
    for trial in range(100):
        rates = rng.normal(0.3, 0.1, (2, 5))
        rows = [
            {seed: hits(rng, 250, 1, rate) for seed, rate in enumerate(rates_of_row)}
            for rates_of_row in rates
        ]
        averaged = [{0: np.mean(list(row.values()), axis=0)} for row in rows]
        for covered, compared in ((both, rows), (users_alone, averaged)):
            low, high = interval(difference(compared, 300, trial))
            covered.append(low <= 0 <= high)
    assert np.mean(both) > 0.85 and np.mean(users_alone) < 0.6


def test_the_correction_keeps_the_chance_of_any_false_claim():
    rng = np.random.default_rng(6)
    wrong = 0
    for trial in range(200):
        values = hits(rng, 150, 5)
        tests = all_pairs(bootstrap(one_seed(values), 500, trial)[:, :, 0], values.mean(0))
        wrong += min(test.p_corrected for test in tests.values()) < 0.05
    assert wrong / 200 < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_the_correction_costs_less_where_rows_are_alike():
    """Equal rows are no further chance of a false claim; Holm's correction would count each of them."""
    rng = np.random.default_rng(8)
    values = hits(rng, 400, 2, 0.3)
    values[:, 1] = np.maximum(values[:, 1], rng.random(400) < 0.1)
    alone = all_pairs(bootstrap(one_seed(values))[:, :, 0], values.mean(0))
    copies = np.concatenate([values] + [values[:, :1]] * 5, axis=1)
    many = all_pairs(bootstrap(one_seed(copies))[:, :, 0], copies.mean(0))
    assert many[0, 1].p == alone[0, 1].p
    assert many[0, 1].p_corrected == pytest.approx(alone[0, 1].p_corrected, rel=0.01)
