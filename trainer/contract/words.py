"""Numbers, times and sizes as a person reads them. Standard library only."""

from __future__ import annotations

import math

NOTHING = "–"
PLAIN = 1e7
"""Larger numbers are written with an exponent."""
UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with `digits` significant digits, an int in full; a dash for None or NaN."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    # "g" rounds correctly but has no thousands separators, and "," has no significant digits; so
    # round with the one and print with the other.
    short = f"{value:.{digits}g}"
    shown = float(short)
    if not 1000 <= abs(shown) < PLAIN:
        return short
    decimals = 0 if "e" in short else len(short.partition(".")[2])
    return f"{shown:,.{decimals}f}"


def rounded(value: float) -> float:
    """Return a number with four significant digits, for tables that want numbers."""
    return float(f"{value:.4g}")


def duration(seconds: float | None) -> str:
    """Return a duration as 0:42, 12:05 or 3:04:05."""
    if seconds is None or seconds < 0:
        return NOTHING
    # Rounded first: 59.7 s would otherwise print as 0:60.
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_taken(seconds: float) -> str:
    """Return a duration with its unit: 0:42 min, 12:05 min or 3:04:05 h."""
    if 0 <= seconds < 0.5:
        return "less than a second"
    return f"{duration(seconds)} {'h' if round(seconds) >= 3600 else 'min'}"


def size(count: int) -> str:
    """Return a number of bytes as 512 bytes, 2.629 MB or 15.31 GB, each unit 1000 of the one before."""
    amount, unit = float(count), 0
    while amount >= 1000 and unit < len(UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{number(amount)} {UNITS[unit]}"
