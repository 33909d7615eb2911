"""Two results side by side: `python -m report.compare OLD.json NEW.json`, with benchmarks/ on the path.

What is beyond the noise? The rounds of two runs are not paired, and there are 5 to 30 of them per way, with outliers:
too few for a normal distribution, and a bootstrap of the median of five values knows only five medians. So the ranks
decide: an exact Mann-Whitney test, which asks nothing of the distribution, at 1 %: with five rounds each that is no
less than that all rounds of one run are faster than all of the other. With fewer nothing can be said. And since many
rounds make any difference significant, the medians must differ by 5 % as well. Of a hundred ways that did not change,
one may be named by chance.

The test knows the noise within a run. A machine that was slower all the time slows everyone, and so does one that was
slower while a table was measured: so it is also said by how much the limits and the peers changed, which nobody worked
on, and beside each way the limit, or else the best peer, of its own table.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scipy.stats import mannwhitneyu

from report.grids import Block, Grid, Heading, Listing, Paragraph, as_text
from report.results import Results, Row, Table, load
from report.units import digits, human

SIGNIFICANCE = 0.01
LEAST_ROUNDS = 5  # with four each, the test's least p is 0.029
LEAST_CHANGE = 0.05  # of the larger median

FASTER, SLOWER, SAME, TOO_FEW = "faster", "slower", "within the noise", "too few rounds to say"


@dataclass(frozen=True)
class Pair:
    """One way in both results."""

    old: Row
    new: Row
    beside: float | None = None  # new by old of its table's limit or best peer

    @cached_property
    def verdict(self) -> str:
        """What became of it: less is better in every table, also where "faster" means less memory."""
        if min(len(self.old.values), len(self.new.values)) < LEAST_ROUNDS:
            return TOO_FEW
        if not self.changed_enough or self.p_value >= SIGNIFICANCE:
            return SAME
        return FASTER if self.new.median < self.old.median else SLOWER

    @property
    def changed_enough(self) -> bool:
        """Compared with the larger one, so that a cost that came from nothing counts, too."""
        larger = max(abs(self.old.median), abs(self.new.median))
        return abs(self.new.median - self.old.median) >= LEAST_CHANGE * larger > 0

    @property
    def p_value(self) -> float:
        # Equal values make the exact test more careful than it says: they hide no change, they only need more rounds.
        return float(mannwhitneyu(self.old.values, self.new.values, method="exact").pvalue)

    @property
    def factor(self) -> float | None:
        return _factor(self.old, self.new)


def _factor(old: Row, new: Row) -> float | None:
    """New by old; None where one of them is not positive."""
    return new.median / old.median if min(old.median, new.median) > 0 else None


def pairs(old: Results, new: Results) -> list[Pair]:
    """Return the ways that are in both results, in the order of the new one."""
    before = _rows(old)
    return [
        Pair(before[key], row, _beside(before, table, row))
        for table in new.tables
        for row in table.rows
        if (key := (row.group, row.way)) in before
    ]


def _beside(before: Mapping[tuple[str, str], Row], table: Table, row: Row) -> float | None:
    for other in (*table.of_role("limit"), *table.of_role("peer")):
        if other is not row and (old := before.get((other.group, other.way))):
            return _factor(old, other)
    return None


def _rows(results: Results) -> dict[tuple[str, str], Row]:
    return {(row.group, row.way): row for table in results.tables for row in table.rows}


def differences(old: Results, new: Results) -> Iterator[str]:
    """Say in what the two runs differ beside their figures."""
    if old.scale != new.scale:
        yield f"scale: {old.scale}, then {new.scale}"
    for what, before, after in (("machine", old.machine, new.machine), ("version", old.versions, new.versions)):
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                yield f"{what}: {name} {before.get(name)}, then {after.get(name)}"


def blocks(old: Results, new: Results) -> Iterator[Block]:
    """Return what is printed."""
    found = pairs(old, new)
    yield Heading("What changed", 1)
    if told := list(differences(old, new)):
        yield Paragraph("The two runs are not alike; what changed may come from that.", warning=True)
        yield Listing(told)
    if lone := list(_only_in_one(old, new)):
        yield Paragraph("Only in one of them:")
        yield Listing(lone)
    for verdict in (SLOWER, FASTER):
        if changed := [pair for pair in found if pair.verdict == verdict]:
            yield Heading(f"{verdict}: {len(changed)}".capitalize(), 2)
            yield _grid(changed)
    yield Paragraph(count(found))
    if any(pair.beside for pair in found if pair.verdict in (FASTER, SLOWER)):
        yield Paragraph("Beside it: new / old of the limit, or else of the best peer, of the same table.")
    if moved := list(_movements(found)):
        yield Paragraph(f"All in all, new by old, the median of each kind: {', '.join(moved)}.")


def _only_in_one(old: Results, new: Results) -> Iterator[str]:
    before, after = _rows(old), _rows(new)
    for words, keys in (("old", before.keys() - after.keys()), ("new", after.keys() - before.keys())):
        groups: dict[str, list[str]] = {}
        for group, way in sorted(keys):
            groups.setdefault(group, []).append(way)
        for group, ways in groups.items():
            yield f"{words}: {group}: {', '.join(ways)}"


def _grid(changed: Sequence[Pair]) -> Grid:
    """The furthest from what it was comes first."""
    ordered = sorted(changed, key=lambda pair: abs(math.log(pair.factor)) if pair.factor else math.inf, reverse=True)
    rows = [
        [
            f"{pair.new.group}: {pair.new.way}",
            human(pair.old.median, pair.old.unit),
            human(pair.new.median, pair.new.unit),
            _times(pair.factor),
            _times(pair.beside),
            f"{len(pair.old.values)}, {len(pair.new.values)}",
        ]
        for pair in ordered
    ]
    strong = frozenset(number for number, pair in enumerate(ordered) if pair.new.role == "ringfeed")
    return Grid(["way", "old", "new", "new / old", "beside it", "rounds"], rows, strong)


def _times(factor: float | None) -> str:
    return "" if factor is None else f"{digits(factor)} x"


def count(found: Sequence[Pair]) -> str:
    """Return how many ways became what: `3 faster, 1 slower, 80 within the noise`."""
    verdicts = Counter(pair.verdict for pair in found)
    always = [f"{verdicts[verdict]} {verdict}" for verdict in (FASTER, SLOWER, SAME)]
    few = [f"{verdicts[TOO_FEW]} with {TOO_FEW}"] if verdicts[TOO_FEW] else []
    return f"{', '.join(always + few)}."


def _movements(found: Iterable[Pair]) -> Iterator[str]:
    factors: dict[str, list[float]] = {"ringfeed": [], "peer": [], "limit": []}
    for pair in found:
        if pair.factor is not None:
            factors[pair.new.role].append(pair.factor)
    for role, words in (("ringfeed", "RingFeed"), ("peer", "peers"), ("limit", "limits")):
        if factors[role]:
            yield f"{words} {_times(statistics.median(factors[role]))}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m report.compare", description="Name what changed between results.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--fail-on-slower", action="store_true", help="exit with 1 when one of RingFeed's ways is slower"
    )
    arguments = parser.parse_args()
    old, new = load(arguments.old), load(arguments.new)
    print(as_text(blocks(old, new)), end="")
    slower = [pair for pair in pairs(old, new) if pair.verdict == SLOWER and pair.new.role == "ringfeed"]
    sys.exit(arguments.fail_on_slower and bool(slower))


if __name__ == "__main__":
    main()
