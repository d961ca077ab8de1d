"""Sizes and times in words."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def human_bytes(size: int) -> str:
    """`536870912` -> `512 MiB`, `50233344` -> `47.9 MiB`: one decimal, and none where it would be 0."""
    value, power = float(size), 0
    # Rounded first: what would print as 1024 is 1 of the next unit.
    while abs(round(value, 1)) >= 1024 and power < len(_UNITS) - 1:
        value /= 1024
        power += 1
    return f"{value:.1f}".removesuffix(".0") + f" {_UNITS[power]}"


def human_seconds(seconds: float) -> str:
    """`7320` -> `2.0 h`, `90` -> `90 s`, `260000` -> `3.0 days`: to two figures or so."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.{unit == 3600 and seconds < 36000:d}f} {name}"
    return f"{seconds / 86400:.1f} days"
