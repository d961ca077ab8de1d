"""How often a rare thing may happen after all."""

from __future__ import annotations

import math


def upper_bound(count: int, *, confidence: float = 0.95) -> float:
    """
    The greatest mean that a Poisson variable may have, if it came out as `count` or less by a chance of 1 - confidence.

    Of none it is 3.0: the rule of three.
    """
    least, most = max(float(count), 1e-9), 10.0 + 3 * count
    while most - least > 1e-9:
        mean = (least + most) / 2
        if _at_most(count, mean) > 1 - confidence:
            least = mean
        else:
            most = mean
    return most


def _at_most(count: int, mean: float) -> float:
    # By logarithms: the powers and factorials of some hundred overflow.
    return sum(math.exp(number * math.log(mean) - mean - math.lgamma(number + 1)) for number in range(count + 1))
