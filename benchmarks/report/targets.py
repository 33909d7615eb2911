"""RingFeed's performance targets, as data, and whether a result reaches them.

A target applies to every table of its figure that has its axes. The best RingFeed row and the best peer count. Ratios
are medians of paired rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from report.results import Results, Row, Table, ratio
from report.units import digits, roughly

Measure = Callable[[Table], float | None]


# ---- Measures ----------------------------------------------------------------------------------------


def times_as_fast_as(role: str, starting_with: str = "") -> Measure:
    """Compare RingFeed with the best way of a role whose name has this prefix: 2.0 means half its time."""

    def measure(table: Table) -> float | None:
        return _ratio(table.best(role, starting_with), table.best("ringfeed"))

    return measure


def times_as_fast_as_one(peer: str, ringfeed: str) -> Measure:
    """Compare one way of RingFeed with the best peer whose name has this prefix."""

    def measure(table: Table) -> float | None:
        own = next((row for row in table.of_role("ringfeed") if row.way == ringfeed), None)
        return _ratio(table.best("peer", peer), own)

    return measure


def of_the_limit(table: Table) -> float | None:
    """RingFeed's part of the limit: 0.95 means 95 % of its speed."""
    return _ratio(table.limit, table.best("ringfeed"))


def times_the_limit(ringfeed: str, limit: str) -> Measure:
    """Compare RingFeed's way with the limit whose name has this prefix: 3.0 means three times its time."""

    def measure(table: Table) -> float | None:
        return _ratio(table.best("ringfeed", ringfeed), table.best("limit", limit))

    return measure


def largest_value(unit: str) -> Measure:
    """The median of RingFeed's worst row, if its unit is this one."""

    def measure(table: Table) -> float | None:
        return max((row.median for row in table.of_role("ringfeed") if row.unit == unit), default=None)

    return measure


def smallest_note(name: str) -> Measure:
    """The worst value of a note of RingFeed's rows."""

    def measure(table: Table) -> float | None:
        return min((row.notes[name] for row in table.of_role("ringfeed") if name in row.notes), default=None)

    return measure


def _ratio(above: Row | None, below: Row | None) -> float | None:
    return ratio(above, below) if above and below else None


# ---- The targets -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A bound on a figure.

    Attributes
    ----------
    name : str
        The two compared quantities, and the unit.
    figure, axes : str, dict
        The tables that the target applies to.
    measure : callable
        Table -> the figure; None if the table lacks the rows.
    bound, at_least : float, bool
        The least figure, or, with `at_least` false, the largest.
    unit, shown_scale : str, float
        How figures are shown: a part of a limit, for example, in hundredths, `"%"`.
    """

    name: str
    figure: str
    measure: Measure
    bound: float
    unit: str = "x"
    shown_scale: float = 1
    at_least: bool = True
    axes: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def wanted(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.shown_scale * self.bound:g} {self.unit}"

    def written(self, figure: float) -> str:
        return f"{digits(self.shown_scale * figure)} {self.unit}"


ONE_TO_ONE = {"producers": 1, "takers": 1}
PERCENT = ("%", 100)
IN_PLACE = {"record_bytes": 602112}
PICTURES = {150_528: "150 KB", 602_112: "602 KB", 4_194_304: "4 MB"}

TARGETS = (
    Target(
        "64-byte hop in Python, times as fast as the best peer",
        *("hop", times_as_fast_as("peer"), 10),
        axes={"record_bytes": 64} | ONE_TO_ONE,
    ),
    Target(
        "64 records of 64 bytes in C, times what their cache lines take",
        "c_hop",
        times_the_limit("RingFeed, C, 64 slots", "one flag per batch"),
        3,
        at_least=False,
    ),
    *(
        Target(
            f"{size} by put into a default ring, times as fast as iceoryx2",
            *("hop", times_as_fast_as_one("iceoryx2", "RingFeed, put"), 1.8 if size == "150 KB" else 1.2),
            axes={"record_bytes": record_bytes} | ONE_TO_ONE,
        )
        for record_bytes, size in PICTURES.items()
    ),
    *(
        Target(
            f"latency of {size}, times as fast as iceoryx2",
            *("latency", times_as_fast_as_one("iceoryx2", "RingFeed, put"), 1.2),
            axes={"record_bytes": record_bytes} | ONE_TO_ONE,
        )
        for record_bytes, size in PICTURES.items()
    ),
    Target("602 KB filled in place, of the memory's fill rate", "fill", of_the_limit, 0.95, *PERCENT, axes=IN_PLACE),
    Target(
        "602 KB filled in place, times as fast as hand-written shared memory",
        *("fill", times_as_fast_as("peer", "shared_memory"), 2),
        axes=IN_PLACE,
    ),
    Target(
        "predictor, two workers, of the limit with TensorFlow's usual threads",
        *("predict", of_the_limit, 0.95, *PERCENT),
        axes={"workers": 2},
    ),
    Target(
        "predictor, two workers, preprocessing that holds the GIL, times as fast as tf.data numpy_function",
        *("predict", times_as_fast_as("peer", "tf.data numpy_function"), 1.8),
        axes={"workers": 2, "holds_gil": "yes"},
    ),
    Target("CPU of a process that waits", "idle", largest_value("%"), 0.5, "%", at_least=False),
    Target(
        "memory gained over a million records",
        *("memory_growth", largest_value("MB"), 1, "MB"),
        at_least=False,
        axes={"records": 1_000_000},
    ),
    Target(
        "engine, one client, a trivial model, times as fast as gRPC",
        *("round_trip", times_as_fast_as("peer", "gRPC"), 5),
        axes={"model": "corners"},
    ),
    Target(
        "engine, one client, a trivial model, times as fast as a Pipe",
        *("round_trip", times_as_fast_as("peer", "Pipe"), 2),
        axes={"model": "corners"},
    ),
    Target("engine, 16 clients, times as fast as gRPC", "many_clients", times_as_fast_as("peer", "gRPC"), 5),
    Target(
        "64 producers, the slowest against their mean",
        *("growth", smallest_note("slowest / mean"), 0.5, *PERCENT),
        axes={"of": "producers", "n": 64},
    ),
)


@dataclass(frozen=True)
class Verdict:
    """A target and the figure of one table; `got` is None if it was not measured."""

    target: Target
    got: float | None
    where: str = ""
    quotable: bool = True

    @property
    def name(self) -> str:
        return f"{self.target.name}: {self.where}" if self.where else self.target.name

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None if it was not measured."""
        if self.got is None:
            return None
        return self.got >= self.target.bound if self.target.at_least else self.got <= self.target.bound

    @property
    def shown(self) -> str:
        return "" if self.got is None else self.target.written(self.got)

    @property
    def words(self) -> str:
        if self.got is None:
            return "not measured in this run"
        said = "met" if self.met else f"missed by {roughly(100 * abs(self.got / self.target.bound - 1))} %"
        return said if self.quotable else f"{said}, but do not quote it"


def judge(results: Results, targets: Iterable[Target] = TARGETS) -> list[Verdict]:
    """Return a verdict for each target, or one per table if several tables have its axes."""
    return [verdict for target in targets for verdict in _judge(results, target)]


def _judge(results: Results, target: Target) -> Iterator[Verdict]:
    tables = results.of_figure(target.figure, **target.axes)
    measured = [(table, got) for table in tables if (got := target.measure(table)) is not None]
    if not measured:
        yield Verdict(target, None)
    for table, got in measured:
        where = _difference(table, [other for other, _ in measured])
        yield Verdict(target, got, where, table.quotable)


def _difference(table: Table, tables: list[Table]) -> str:
    """The axes that distinguish a table from others of the same target; else its title."""
    if len(tables) == 1:
        return ""
    telling = [name for name in table.axes if len({other.axes.get(name) for other in tables}) > 1]
    words = [str(table.axes[name]) for name in telling if name != "holds_gil"]
    return ", ".join(words) or table.title
