"""Confidence intervals of a rate: exact, with nominal coverage."""

import numpy as np
import pytest
import scipy.stats

from arinv.errors import UserError
from arinv.metrics.accuracy import binomial_interval


@pytest.mark.parametrize("count, total", [(0, 10), (1, 10), (5, 10), (10, 10), (437, 1000), (9876, 10000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_binomial_interval_equals_clopper_pearson(count, total, confidence):
    expected = scipy.stats.binomtest(count, total).proportion_ci(confidence, method="exact")
    np.testing.assert_allclose(binomial_interval(count, total, confidence=confidence), expected, rtol=1e-9)


def test_binomial_interval_tails_have_nominal_weight():
    lower, upper = binomial_interval(30, 100)
    np.testing.assert_allclose(scipy.stats.binom.sf(29, 100, lower), 0.025, rtol=1e-6)
    np.testing.assert_allclose(scipy.stats.binom.cdf(30, 100, upper), 0.025, rtol=1e-6)


@pytest.mark.parametrize("count, total", [(0.6, 5), (1, 1.5)])
def test_binomial_interval_rejects_rates(count, total):
    with pytest.raises(UserError, match="must be a whole number; got .*multiply a rate"):
        binomial_interval(count, total)
    assert binomial_interval(3.0, np.int64(5)) == binomial_interval(3, 5)


@pytest.mark.parametrize("count, total, confidence", [(-1, 10, 0.95), (11, 10, 0.95), (0, 0, 0.95), (1, 2, 95)])
def test_binomial_interval_rejects_impossible_counts(count, total, confidence):
    with pytest.raises(UserError, match=f"got {count} of {total}|between 0 and 1; got 95"):
        binomial_interval(count, total, confidence=confidence)
