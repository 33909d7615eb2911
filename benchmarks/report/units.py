"""Figures as text for readers: three digits and a suitable unit."""

from __future__ import annotations

import math

TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
SECONDS = {unit: scale for scale, unit in TIMES}
LARGE = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def digits(value: float, significant: int = 3) -> str:
    """Return three digits, or all digits before the point, without an exponent: 1,234, 12.3, 0.0123."""
    if not math.isfinite(value):
        return str(value)
    rounded = abs(float(f"{value:.{significant}g}"))  # round first: 0.9996 becomes 1.00
    if rounded < 1e-6:
        return "0"
    places = max(0, significant - 1 - math.floor(math.log10(rounded)))
    return f"{value:,.{places}f}"


def roughly(value: float) -> str:
    """Return two digits, or all digits before the point: 141, 26, 4.9, 0.71. Ratios are not more precise."""
    return digits(value, significant=2)


def human(value: float, unit: str) -> str:
    """Return a figure with a suitable unit: 0.0000123 s becomes 12.3 us."""
    if unit not in SECONDS:
        return f"{digits(value)} {unit}"
    seconds = value * SECONDS[unit]
    scale, name = next((entry for entry in TIMES if abs(seconds) >= 0.9995 * entry[0]), TIMES[-1])
    return f"{digits(seconds / scale)} {name}"


def tick(value: float, unit: str) -> str:
    """Return a figure for an axis, whose values are round: 10 us."""
    number, _, name = human(value, unit).partition(" ")
    return f"{float(number.replace(',', '')):g} {name}"


def span(low: float, high: float, unit: str) -> str:
    """Return a range; the unit stands once if both ends have the same."""
    lower, upper = human(low, unit), human(high, unit)
    number, _, name = lower.partition(" ")
    return f"{number if upper.endswith(f' {name}') else lower} - {upper}"


def rate(per_second: float) -> str:
    """Return a rate per second: 4,350,000 becomes 4.35 M."""
    scale, name = next((entry for entry in LARGE if per_second >= 0.9995 * entry[0]), (1.0, ""))
    return f"{digits(per_second / scale)} {name}".rstrip()


def rate_tick(value: float) -> str:
    """Return a count for an axis, whose values are round: 10 M."""
    scale, name = next((entry for entry in LARGE if value >= 0.9995 * entry[0]), (1.0, ""))
    return f"{value / scale:.4g} {name}".rstrip()


def size(byte_count: float) -> str:
    """Return a size in bytes, with powers of two in units of 1,024: 64 B, 4 KB, 602 KB."""
    step = 1024 if math.log2(byte_count).is_integer() else 1000
    power = min(3, int(math.log(byte_count, step) + 1e-9))
    number = byte_count / step**power
    return f"{int(number) if number >= 100 else f'{number:.2g}'} {('B', 'KB', 'MB', 'GB')[power]}"


def duration(seconds: float) -> str:
    """Return a duration in words: 45 s, 12 min, 2 h 5 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
