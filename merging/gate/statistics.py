"""Bounds on how two models differ when both answered the same examples.

Scores are shares in [0, 1]; `confidence` is one-sided throughout: with probability `confidence` the
true value lies above a lower bound (and, separately, below an upper bound).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Number = TypeVar("Number", float, Floats)

# A margin is called decidable when a model that is truly as good passes it this often.
POWER = 0.8


def quantile(confidence: float) -> float:
    """The standard normal quantile."""
    return NormalDist().inv_cdf(confidence)


@dataclass(frozen=True)
class Interval:
    """An estimate with its one-sided lower and its one-sided upper bound."""

    estimate: float
    lower: float
    upper: float


def tango_statistic(wins: Number, losses: Number, n: Number, difference: Number) -> Number:
    """Tango's score statistic for paired proportions, standard normal when `difference` is true.

    Equations of Tango, Statistics in Medicine 17:891-908 (1998), section 3: the difference of the
    two discordant shares, standardised by its variance at the maximum-likelihood estimate of the
    nuisance parameter under the hypothesis. Unlike McNemar's it exists without discordant pairs.

    Args:
        wins: Examples that only the candidate has right.
        losses: Examples that only the reference has right.
        n: All examples.
        difference: Hypothetical candidate − reference, in (−1, 1).
    """
    b = -(wins + losses) + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    loss_share = (np.sqrt(np.maximum(b**2 - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * loss_share + difference * (1 - difference))
    distance = wins - losses - n * difference
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = distance / np.sqrt(np.maximum(variance, 0.0))
    # At difference 0 without discordant pairs both are 0: the hypothesis fits perfectly.
    return np.where(distance == 0, 0.0, statistic)  # type: ignore[return-value]


def tango_interval(wins: int, losses: int, n: int, confidence: float) -> Interval:
    """Bounds of candidate − reference from the counts of a paired comparison (Tango 1998).

    Raises:
        ValueError: No examples, negative counts, or more discordant examples than examples.
    """
    if n < 1 or wins < 0 or losses < 0 or wins + losses > n:
        raise ValueError(f"not the counts of a paired comparison: {wins=}, {losses=}, {n=}")
    return Interval(
        estimate=(wins - losses) / n,
        lower=_tango_lower(wins, losses, n, confidence),
        upper=-_tango_lower(losses, wins, n, confidence),
    )


def _tango_lower(wins: int, losses: int, n: int, confidence: float) -> float:
    if losses == n:
        return -1.0
    z = quantile(confidence)
    # The statistic falls from +inf at -1 to 0 at the estimate, so z lies between them.
    low, high = -1.0, (wins - losses) / n
    for _ in range(50):  # halves an interval of at most 2: exact to 2e-15
        middle = (low + high) / 2
        if tango_statistic(float(wins), float(losses), float(n), middle) > z:
            low = middle
        else:
            high = middle
    return low


def fewest_examples(margin: float, confidence: float) -> int:
    """Examples below which not even a candidate identical to its reference passes `margin`.

    Without discordant pairs the score statistic at −margin is sqrt(n·margin / (1 − margin)).
    """
    z = quantile(confidence)
    return math.floor(z**2 * (1 - margin) / margin) + 1


def examples_needed(discordance: float, margin: float, confidence: float) -> int:
    """Examples at which an equally good candidate passes `margin` with probability `POWER`.

    Nam, Biometrics 53:1422-1430 (1997): standard errors of the score statistic under the hypothesis
    (difference = −margin) and under the alternative (difference = 0).

    Args:
        discordance: Share of examples that exactly one of the two models has right.
        margin: Allowed loss, a share.
        confidence: Of the bound that has to be above −margin.
    """
    half = discordance / 2
    b = -discordance - 2 * margin
    c = half * margin * (1 + margin)
    loss_share = (math.sqrt(b**2 - 8 * c) - b) / 4
    under_hypothesis = math.sqrt(2 * loss_share - margin * (1 + margin))
    reach = quantile(confidence) * under_hypothesis + quantile(POWER) * math.sqrt(discordance)
    return max(math.ceil((reach / margin) ** 2), fewest_examples(margin, confidence))


def wilson_interval(successes: int, n: int, confidence: float) -> Interval:
    """Bounds of one proportion (Wilson, JASA 22:209-212, 1927)."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"not the counts of a proportion: {successes=}, {n=}")
    z = quantile(confidence)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def retention_interval(
    kept: float, gain: float, covariance: Floats, confidence: float
) -> Interval | None:
    """Bounds of kept / gain, the share of the expert's gain that a candidate keeps (Fieller 1954).

    Fieller, JRSS B 16:175-185: the ratio r is inside when kept − r·gain is within its error. That
    is the test of "preserves at least the share r of the effect" of active-control trials.

    Args:
        kept: candidate − base.
        gain: expert − base.
        covariance: Of the two estimates above, float64 [2, 2].
        confidence: One-sided, for each bound.

    Returns:
        None when the gain itself is not shown to be positive: then no ratio is excluded.
    """
    z2 = quantile(confidence) ** 2
    a = gain**2 - z2 * covariance[1, 1]
    if gain <= 0 or a <= 0:
        return None
    b = kept * gain - z2 * covariance[0, 1]
    c = kept**2 - z2 * covariance[0, 0]
    root = math.sqrt(max(b**2 - a * c, 0.0))
    return Interval(kept / gain, (b - root) / a, (b + root) / a)
