"""Figures as people read them: three digits, and the unit that suits them."""

from __future__ import annotations

import math

TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
SECONDS = {unit: scale for scale, unit in TIMES}
LARGE = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def digits(value: float, significant: int = 3) -> str:
    """Return three digits, or all in front of the point, never an exponent: 1,234, 12.3, 0.0123."""
    if not math.isfinite(value):
        return str(value)
    rounded = abs(float(f"{value:.{significant}g}"))  # first, since 0.9996 has a digit in front of the point then
    if rounded < 1e-6:
        return "0"
    places = max(0, significant - 1 - math.floor(math.log10(rounded)))
    return f"{value:,.{places}f}"


def roughly(value: float) -> str:
    """Return two digits, or all in front of the point: 141, 26, 4.9, 0.71. For ratios, which are not known better."""
    return digits(value, significant=2)


def human(value: float, unit: str) -> str:
    """Return a figure with its unit: 0.0000123 s are 12.3 us."""
    if unit not in SECONDS:
        return f"{digits(value)} {unit}"
    seconds = value * SECONDS[unit]
    scale, name = next((entry for entry in TIMES if abs(seconds) >= 0.9995 * entry[0]), TIMES[-1])
    return f"{digits(seconds / scale)} {name}"


def tick(value: float, unit: str) -> str:
    """Return a figure for an axis, where values are round: 10 us."""
    number, _, name = human(value, unit).partition(" ")
    return f"{float(number.replace(',', '')):g} {name}"


def span(low: float, high: float, unit: str) -> str:
    """Return a range, with its unit once where both ends have the same."""
    lower, upper = human(low, unit), human(high, unit)
    number, _, name = lower.partition(" ")
    return f"{number if upper.endswith(f' {name}') else lower} - {upper}"


def rate(per_second: float) -> str:
    """Return how many a second: 4,350,000 are 4.35 M."""
    scale, name = next((entry for entry in LARGE if per_second >= 0.9995 * entry[0]), (1.0, ""))
    return f"{digits(per_second / scale)} {name}".rstrip()


def rate_tick(value: float) -> str:
    """Return how many, for an axis, where values are round: 10 M."""
    scale, name = next((entry for entry in LARGE if value >= 0.9995 * entry[0]), (1.0, ""))
    return f"{value / scale:.4g} {name}".rstrip()


def size(byte_count: float) -> str:
    """Return a size in bytes as people call it: powers of two in powers of 1,024; 64 B, 4 KB, 602 KB."""
    step = 1024 if math.log2(byte_count).is_integer() else 1000
    power = min(3, int(math.log(byte_count, step) + 1e-9))
    number = byte_count / step**power
    return f"{int(number) if number >= 100 else f'{number:.2g}'} {('B', 'KB', 'MB', 'GB')[power]}"


def duration(seconds: float) -> str:
    """Return how long it took, in words for people: 45 s, 12 min, 2 h 5 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
