"""Against the table of exact limits in textbooks (chi-square quantiles)."""

from __future__ import annotations

import pytest

from tests.diagnosis.poisson import upper_bound


@pytest.mark.parametrize(
    ("count", "bound"), [(0, 2.9957), (1, 4.7439), (2, 6.2958), (10, 16.9622), (50, 63.287), (300, 330.1)]
)
def test_upper_bound(count: int, bound: float) -> None:
    assert upper_bound(count) == pytest.approx(bound, rel=1e-4)
