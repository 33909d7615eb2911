"""Does a cost grow faster than what it grows with? Reported, not asserted: a machine with moods has steps of its own.

A family is one way measured with several n, all else equal. Each n is a piece of work of its own, so the rounds of two
n are not paired: a step compares medians. It is linear when the cost grows by the same factor as n; a cost that does
not depend on n at all has the step 1 / (factor of n).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from measuring.rounds import Role
from report.results import Results, Row

FIGURE = "growth"
SUSPICIOUS = 1.25  # a step beyond this many times the linear one is named: less is noise


@dataclass(frozen=True)
class Step:
    """From one n to the next: how the cost's factor compares with n's, 1 being linear."""

    lower: float
    upper: float
    against_linear: float

    @property
    def suspicious(self) -> bool:
        return self.against_linear > SUSPICIOUS


@dataclass(frozen=True)
class Family:
    """One way's cost, by n: `points` are (n, row), n rising."""

    of: str
    way: str
    points: tuple[tuple[float, Row], ...]

    @property
    def role(self) -> Role:
        return self.points[0][1].role

    @property
    def has_times(self) -> bool:
        """Whether it is times that grow, and all are positive."""
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
    """Return the families of the growth figure, those that grow with the same thing together."""
    found: dict[tuple[str, str], dict[float, Row]] = {}
    for table in results.of_figure(FIGURE):
        for row in table.measured:
            key = str(row.axes.get("of", "n")), row.way
            found.setdefault(key, {})[float(row.axes["n"])] = row
    return [Family(of, way, tuple(sorted(points.items()))) for (of, way), points in sorted(found.items())]


def best_peers(families: Iterable[Family]) -> dict[float, Row]:
    """Return the quickest peer's row at each n, of families that grow with the same thing."""
    best: dict[float, Row] = {}
    for n, row in sorted(
        (point for family in families if family.role == "peer" for point in family.points), key=lambda point: point[0]
    ):
        if n not in best or row.median < best[n].median:
            best[n] = row
    return best
