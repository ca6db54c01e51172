"""The bounds against published worked examples, and the algebra they must obey."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from merging.gate.statistics import (
    POWER,
    examples_needed,
    fewest_examples,
    retention_interval,
    tango_interval,
    tango_statistic,
    wilson_interval,
)

TWO_SIDED_95 = 0.975
TWO_SIDED_90 = 0.95


@pytest.mark.parametrize(
    ("wins", "losses", "n", "confidence", "lower", "upper"),
    [
        # Tango 1998, the crossover trial of two lens disinfection systems, 90 % interval.
        (0, 1, 44, TWO_SIDED_90, -0.096, 0.037),
        # Tango 1998/1999 with Newcombe's data.
        (9, 3, 32, TWO_SIDED_95, -0.027, 0.390),
        # Agresti and Min, Statistics in Medicine 24:729-740 (2005).
        (16, 8, 86, TWO_SIDED_95, -0.020, 0.207),
        # Fagerland, Lydersen and Laake, Statistics in Medicine 33:2850-2875 (2014): airway
        # hyper-responsiveness before and after stem cell transplantation.
        (1, 7, 21, TWO_SIDED_95, -0.517, -0.026),
    ],
)
def test_tango_agrees_with_published_examples(wins, losses, n, confidence, lower, upper):
    interval = tango_interval(wins, losses, n, confidence)
    assert interval.lower == pytest.approx(lower, abs=5e-4)
    assert interval.upper == pytest.approx(upper, abs=5e-4)


@pytest.mark.parametrize(
    ("wins", "losses", "n", "lower", "upper"),
    [  # outputs of the R package PropCIs 0.3-0, scoreci.mp, which stops at about 1e-7
        (20, 40, 160, -0.21806423366, -0.03086458892),
        (0, 0, 100, -0.03699350357, 0.03699344397),
        (7, 1, 50, 0.01161968231, 0.24658078671),
        (5, 0, 25, 0.04016923904, 0.39130945206),
        (2, 2, 30, -0.16218006611, 0.16218000650),
        (0, 50, 50, -1.0, -0.85730475187),
        (4, 11, 320, -0.04968377873, 0.00209718328),
    ],
)
def test_tango_agrees_with_an_independent_implementation(wins, losses, n, lower, upper):
    interval = tango_interval(wins, losses, n, TWO_SIDED_95)
    assert interval.lower == pytest.approx(lower, abs=1e-6)
    assert interval.upper == pytest.approx(upper, abs=1e-6)


@st.composite
def paired_counts(draw):
    n = draw(st.integers(1, 3_000))
    wins = draw(st.integers(0, n))
    losses = draw(st.integers(0, n - wins))
    return wins, losses, n


@given(paired_counts(), st.floats(0.8, 0.999))
def test_bounds_contain_the_estimate_and_stay_in_range(counts, confidence):
    interval = tango_interval(*counts, confidence)
    assert -1 <= interval.lower <= interval.estimate <= interval.upper <= 1


@given(paired_counts())
def test_swapping_the_models_mirrors_the_bounds(counts):
    wins, losses, n = counts
    interval, mirrored = (
        tango_interval(wins, losses, n, 0.95),
        tango_interval(losses, wins, n, 0.95),
    )
    assert interval.lower == pytest.approx(-mirrored.upper, abs=1e-9)
    assert interval.upper == pytest.approx(-mirrored.lower, abs=1e-9)


@given(paired_counts(), st.floats(0.005, 0.4))
def test_the_bound_is_above_the_margin_exactly_when_the_test_rejects(counts, margin):
    wins, losses, n = counts
    interval = tango_interval(wins, losses, n, 0.95)
    statistic = tango_statistic(float(wins), float(losses), float(n), -margin)
    if abs(statistic - norm.ppf(0.95)) > 1e-6:
        assert (interval.lower > -margin) == (statistic > norm.ppf(0.95))


@given(paired_counts(), st.floats(0.005, 0.4))
def test_one_more_right_answer_is_never_held_against_a_candidate(counts, margin):
    wins, losses, n = map(float, counts)
    before = tango_statistic(wins, losses, n, -margin)
    if wins + losses < n:
        assert tango_statistic(wins + 1, losses, n, -margin) > before
    if losses > 0:
        assert tango_statistic(wins, losses - 1, n, -margin) > before


@pytest.mark.parametrize(("n", "disagreement"), [(100, 0.08), (500, 0.08), (500, 0.3)])
def test_a_loss_of_the_margin_passes_no_more_often_than_promised(n, disagreement):
    margin, draws = 0.03, 100_000
    cells = [(disagreement - margin) / 2, (disagreement + margin) / 2, 1 - disagreement]
    counts = np.random.default_rng(1).multinomial(n, cells, size=draws).astype(float)
    passed = tango_statistic(counts[:, 0], counts[:, 1], float(n), -margin) > norm.ppf(0.95)
    assert passed.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


@given(paired_counts())
def test_more_confidence_gives_a_lower_bound_that_is_lower(counts):
    assert tango_interval(*counts, 0.99).lower <= tango_interval(*counts, 0.9).lower


@pytest.mark.parametrize("counts", [(0, 0, 1), (1, 0, 1), (0, 1, 1), (5, 0, 5), (0, 5, 5)])
def test_the_smallest_tables_have_finite_bounds(counts):
    interval = tango_interval(*counts, 0.95)
    assert math.isfinite(interval.lower)
    assert math.isfinite(interval.upper)


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="paired comparison"):
        tango_interval(*counts, 0.95)


@given(st.floats(0.005, 0.3), st.floats(0.8, 0.99))
def test_fewest_examples_is_the_first_number_at_which_identical_answers_pass(margin, confidence):
    fewest = fewest_examples(margin, confidence)
    assert tango_interval(0, 0, fewest, confidence).lower > -margin - 1e-9
    if fewest > 1:
        assert tango_interval(0, 0, fewest - 1, confidence).lower <= -margin + 1e-9


@pytest.mark.parametrize(("discordance", "margin"), [(0.1, 0.03), (0.1, 0.02), (0.2, 0.05)])
def test_needed_examples_give_the_promised_power(discordance, margin):
    n = examples_needed(discordance, margin, 0.95)
    cells = [discordance / 2, discordance / 2, 1 - discordance]
    counts = np.random.default_rng(0).multinomial(n, cells, size=50_000).astype(float)
    passed = tango_statistic(counts[:, 0], counts[:, 1], float(n), -margin) > norm.ppf(0.95)
    assert passed.mean() == pytest.approx(POWER, abs=0.015)


@given(st.floats(0, 0.5), st.floats(0.01, 0.2))
def test_needed_examples_are_never_fewer_than_the_fewest(discordance, margin):
    assert examples_needed(discordance, margin, 0.95) >= fewest_examples(margin, 0.95)


def test_wilson_agrees_with_a_published_example():
    # Newcombe, Statistics in Medicine 17:857-872 (1998), table I: 81 of 263 and 0 of 20.
    interval = wilson_interval(81, 263, TWO_SIDED_95)
    assert (interval.lower, interval.upper) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    interval = wilson_interval(0, 20, TWO_SIDED_95)
    assert (interval.lower, interval.upper) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_retention_has_no_bounds_when_the_gain_is_not_shown():
    unsure = np.diag([0.01, 0.01])
    assert retention_interval(0.02, 0.05, unsure, 0.95) is None
    assert retention_interval(0.02, -0.05, np.zeros((2, 2)), 0.95) is None


def test_retention_without_error_is_the_ratio():
    interval = retention_interval(0.03, 0.05, np.zeros((2, 2)), 0.95)
    assert interval is not None
    assert (interval.lower, interval.estimate, interval.upper) == pytest.approx((0.6, 0.6, 0.6))


@given(
    st.floats(-0.1, 0.2),
    st.floats(0.05, 0.2),
    st.floats(1e-6, 1e-4),
    st.floats(1e-6, 1e-4),
    st.floats(-0.9, 0.9),
)
def test_a_retention_bound_is_where_the_linear_test_turns(kept, gain, var_kept, var_gain, rho):
    covariance = rho * math.sqrt(var_kept * var_gain)
    matrix = np.array([[var_kept, covariance], [covariance, var_gain]])
    interval = retention_interval(kept, gain, matrix, 0.95)
    assert interval is not None
    for bound, sign in ((interval.lower, 1), (interval.upper, -1)):
        error = math.sqrt(var_kept - 2 * bound * covariance + bound**2 * var_gain)
        assert (kept - bound * gain) / error == pytest.approx(sign * norm.ppf(0.95), abs=1e-4)
