"""Two results side by side: `python -m report.compare OLD.json NEW.json`, with benchmarks/ on the path.

Which changes are larger than the noise? The rounds of two runs are not paired. Each way has 5 to 30 rounds with
outliers: too few to assume a normal distribution, and a bootstrap of five values has only five medians. Therefore an
exact Mann-Whitney test decides by ranks, without assumptions on the distribution, at 1 %. With five rounds each, it
requires that every round of one run is faster than every round of the other; fewer rounds cannot show a change. Many
rounds make any difference significant, so the medians must also differ by 5 %. Among a hundred unchanged ways, the test
may name one by chance.

The test sees only the noise within a run. If the machine was slower during a whole run, or during one table, every way
is slower. Therefore the output also shows the change of the limits and peers, which no commit of ours affects, and
beside each way the change of its table's limit, or of its best peer.
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
LEAST_ROUNDS = 5  # with four rounds each, the test's least p is 0.029
LEAST_CHANGE = 0.05  # of the larger median

FASTER, SLOWER, SAME, TOO_FEW = "faster", "slower", "within the noise", "too few rounds to say"


@dataclass(frozen=True)
class Pair:
    """One way in both results."""

    old: Row
    new: Row
    beside: float | None = None  # new / old of the limit, or of the best peer, of the same table

    @cached_property
    def verdict(self) -> str:
        """The change. Less is better in every table, so "faster" may also mean less memory."""
        if min(len(self.old.values), len(self.new.values)) < LEAST_ROUNDS:
            return TOO_FEW
        if not self.changed_enough or self.p_value >= SIGNIFICANCE:
            return SAME
        return FASTER if self.new.median < self.old.median else SLOWER

    @property
    def changed_enough(self) -> bool:
        """Relative to the larger median, so that a new cost that was zero before also counts."""
        larger = max(abs(self.old.median), abs(self.new.median))
        return abs(self.new.median - self.old.median) >= LEAST_CHANGE * larger > 0

    @property
    def p_value(self) -> float:
        # Equal values make the exact test conservative: it finds no false change, but may need more rounds.
        return float(mannwhitneyu(self.old.values, self.new.values, method="exact").pvalue)

    @property
    def factor(self) -> float | None:
        return _factor(self.old, self.new)


def _factor(old: Row, new: Row) -> float | None:
    """Return new / old; None if one of them is not positive."""
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
    """Yield the differences of the two runs other than their figures."""
    if old.scale != new.scale:
        yield f"scale: {old.scale}, then {new.scale}"
    for what, before, after in (("machine", old.machine, new.machine), ("version", old.versions, new.versions)):
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                yield f"{what}: {name} {before.get(name)}, then {after.get(name)}"


def blocks(old: Results, new: Results) -> Iterator[Block]:
    """Return the printed blocks."""
    found = pairs(old, new)
    yield Heading("What changed", 1)
    if told := list(differences(old, new)):
        yield Paragraph("The two runs differ in these points, which may explain the changes.", warning=True)
        yield Listing(told)
    if lone := list(_only_in_one(old, new)):
        yield Paragraph("Only in one of the results:")
        yield Listing(lone)
    for verdict in (SLOWER, FASTER):
        if changed := [pair for pair in found if pair.verdict == verdict]:
            yield Heading(f"{verdict}: {len(changed)}".capitalize(), 2)
            yield _grid(changed)
    yield Paragraph(count(found))
    if any(pair.beside for pair in found if pair.verdict in (FASTER, SLOWER)):
        yield Paragraph("Beside it: new / old of the limit of the same table, or of its best peer if it has no limit.")
    if moved := list(_movements(found)):
        yield Paragraph(f"Overall new / old, the median of each kind: {', '.join(moved)}.")


def _only_in_one(old: Results, new: Results) -> Iterator[str]:
    before, after = _rows(old), _rows(new)
    for words, keys in (("old", before.keys() - after.keys()), ("new", after.keys() - before.keys())):
        groups: dict[str, list[str]] = {}
        for group, way in sorted(keys):
            groups.setdefault(group, []).append(way)
        for group, ways in groups.items():
            yield f"{words}: {group}: {', '.join(ways)}"


def _grid(changed: Sequence[Pair]) -> Grid:
    """One row per change, the largest factor first."""
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
    """Return the number of ways with each verdict: `3 faster, 1 slower, 80 within the noise`."""
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
