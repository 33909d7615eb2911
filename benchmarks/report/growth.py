"""Does a cost grow faster than n? The report shows it and no test asserts it, because machine noise also makes steps.

A family is one way, measured with several n and all else equal. Each n is a separate piece of work, so the rounds of
two n are not paired, and a step compares medians. A step is linear if the cost grows by the same factor as n. A cost
that does not depend on n has the step 1 / (factor of n).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from measuring.rounds import Role
from report.results import Results, Row

FIGURE = "growth"
SUSPICIOUS = 1.25  # the report names steps above this multiple of the linear one; smaller ones are noise


@dataclass(frozen=True)
class Step:
    """From one n to the next: the factor of the cost divided by the factor of n. 1 is linear."""

    lower: float
    upper: float
    against_linear: float

    @property
    def suspicious(self) -> bool:
        return self.against_linear > SUSPICIOUS


@dataclass(frozen=True)
class Family:
    """One way's cost, by n: `points` are (n, row), sorted by n."""

    of: str
    way: str
    points: tuple[tuple[float, Row], ...]

    @property
    def role(self) -> Role:
        return self.points[0][1].role

    @property
    def has_times(self) -> bool:
        """Whether all values are positive times."""
        return all(row.seconds is not None and row.seconds > 0 for _, row in self.points)

    @property
    def steps(self) -> Iterator[Step]:
        for (lower, before), (upper, after) in itertools.pairwise(self.points):
            if before.median > 0 and lower > 0:
                yield Step(lower, upper, (after.median / before.median) / (upper / lower))

    @property
    def steepest(self) -> Step | None:
        return max(self.steps, key=lambda step: step.against_linear, default=None)


def families(results: Results) -> list[Family]:
    """Return the families of the growth figure, sorted by the quantity that n counts."""
    found: dict[tuple[str, str], dict[float, Row]] = {}
    for table in results.of_figure(FIGURE):
        for row in table.measured:
            key = str(row.axes.get("of", "n")), row.way
            found.setdefault(key, {})[float(row.axes["n"])] = row
    return [Family(of, way, tuple(sorted(points.items()))) for (of, way), points in sorted(found.items())]


def best_peers(families: Iterable[Family]) -> dict[float, Row]:
    """Return the fastest peer's row at each n, among families with the same quantity n."""
    best: dict[float, Row] = {}
    for n, row in sorted(
        (point for family in families if family.role == "peer" for point in family.points), key=lambda point: point[0]
    ):
        if n not in best or row.median < best[n].median:
            best[n] = row
    return best
