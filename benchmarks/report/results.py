"""Measured results, read from a JSON file: pytest-benchmark's own, or the smaller published form.

Knows no suite and no target. A smaller value is better everywhere, and values with the same index are from one round.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from measuring.rounds import Role, paired_ratio

QUOTABLE_OTHERS_SHARE = 0.05  # of the machine: figures under a larger load of other programs must not be quoted
FIGURE_DIGITS = 6  # of a published value: no clock is more precise, and the file is half as long

# The fields of a row that describe the row and its table; the names are those of `measuring.rounds.Work.as_json`.
ROW_KEYS = (
    *("way", "role", "figure", "axes", "quantity", "unit", "bytes_per_unit"),
    *("values", "latency_us", "notes", "others_share"),
)
COMMIT_KEYS = ("id", "time", "dirty")


@dataclass(frozen=True)
class Row:
    """One way to do a piece of work, and its value in each round."""

    suite: str
    group: str
    way: str
    role: Role
    figure: str
    axes: Mapping[str, float | str]
    quantity: str
    unit: str
    bytes_per_unit: int
    values: tuple[float, ...]
    latency_us: Mapping[str, float] | None
    notes: Mapping[str, float]
    others_share: float

    @cached_property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def seconds(self) -> float | None:
        """The median in seconds; None if the value is not a time."""
        scale = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}.get(self.unit)
        return None if scale is None else self.median * scale


def ratio(above: Row, below: Row) -> float | None:
    """Return the median of the ratios of paired rounds; None if a value is not positive."""
    if min(*above.values, *below.values) <= 0:
        return None
    return paired_ratio(above.values, below.values)


@dataclass(frozen=True)
class Table:
    """A piece of work and all ways to do it, in the order in which they were measured."""

    title: str
    measured: tuple[Row, ...]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def suite(self) -> str:
        return self.measured[0].suite

    @property
    def figure(self) -> str:
        return self.measured[0].figure

    @property
    def axes(self) -> Mapping[str, float | str]:
        return self.measured[0].axes

    @property
    def unit(self) -> str:
        return self.measured[0].unit

    @property
    def quantity(self) -> str:
        return self.measured[0].quantity

    @cached_property
    def rows(self) -> list[Row]:
        """The rows, the best first."""
        return sorted(self.measured, key=lambda row: row.median)

    def of_role(self, role: Role, starting_with: str = "") -> list[Row]:
        """Return the rows of one role whose name has this prefix, the best first."""
        return [row for row in self.rows if row.role == role and row.way.startswith(starting_with)]

    def best(self, role: Role, starting_with: str = "") -> Row | None:
        return next(iter(self.of_role(role, starting_with)), None)

    @property
    def limit(self) -> Row | None:
        """The tightest limit, which is the slowest one."""
        limits = self.of_role("limit")
        return limits[-1] if limits else None

    @property
    def others_share(self) -> float:
        return max(row.others_share for row in self.measured)

    @property
    def quotable(self) -> bool:
        return self.others_share <= QUOTABLE_OTHERS_SHARE

    def lies_at(self, figure: str, axes: Mapping[str, float | str]) -> bool:
        """Return whether the table belongs to a figure and has at least these axes."""
        return self.figure == figure and all(self.axes.get(name) == value for name, value in axes.items())


@dataclass(frozen=True)
class Results:
    """All measurements of one run of the benchmarks, with its machine, date and versions."""

    tables: tuple[Table, ...]
    surroundings: Mapping[str, Any]
    commit: Mapping[str, Any]
    scale: str
    seconds: float
    missing: Mapping[str, Mapping[str, str]]

    def of_figure(self, figure: str, **axes: float | str) -> list[Table]:
        return [table for table in self.tables if table.lies_at(figure, axes)]

    @property
    def machine(self) -> Mapping[str, Any]:
        return self.surroundings.get("machine", {})

    @property
    def versions(self) -> Mapping[str, str | None]:
        return self.surroundings.get("versions", {})

    def as_json(self) -> dict[str, Any]:
        """Return the published form: all figures, and nothing that names a machine, a folder or a branch."""
        return {
            "benchmarks": [_published(row) for table in self.tables for row in table.measured],
            "machine_info": dict(self.surroundings),
            "commit_info": dict(self.commit),
            "ringfeed": {"scale": self.scale, "seconds": self.seconds, "missing": self.missing},
        }


def _published(row: Row) -> dict[str, Any]:
    values = [float(f"{value:.{FIGURE_DIGITS}g}") for value in row.values]
    return {"group": row.group, "suite": row.suite} | {key: getattr(row, key) for key in ROW_KEYS} | {"values": values}


def load(path: Path) -> Results:
    """Read either form of the file. Benchmarks of another kind, which are no rows of a report, are left out."""
    found = json.loads(path.read_text(encoding="utf-8"))
    about = found.get("ringfeed", {})
    missing = about.get("missing", {})
    return Results(
        tables=tuple(_tables(_rows(found["benchmarks"]), missing)),
        surroundings=found.get("machine_info", {}),
        commit={key: value for key, value in found.get("commit_info", {}).items() if key in COMMIT_KEYS},
        scale=about.get("scale", "unknown"),
        seconds=about.get("seconds", 0),
        missing=missing,
    )


def _rows(entries: Iterable[Mapping[str, Any]]) -> Iterable[Row]:
    for entry in entries:
        said = entry.get("extra_info", entry)  # pytest-benchmark stores it one level deeper
        if "role" not in said or not said["values"]:
            continue
        suite = entry.get("suite") or PurePosixPath(entry["fullname"].split("::")[0]).name
        row = {key: said[key] for key in ROW_KEYS} | {"values": tuple(said["values"])}
        yield Row(suite=suite, group=entry["group"], **row)


def _tables(rows: Iterable[Row], missing: Mapping[str, Mapping[str, str]]) -> Iterable[Table]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    for title, members in groups.items():
        yield Table(title, tuple(members), missing.get(title, {}))


def write(results: Results, path: Path) -> None:
    """Write the published form with one row per line, so that a diff shows the changes of a newer result."""
    published = results.as_json()
    rows = ",\n".join("  " + json.dumps(row) for row in published.pop("benchmarks"))
    head = json.dumps(published, indent=1)[:-2]
    path.write_text(f'{head},\n "benchmarks": [\n{rows}\n ]\n}}\n', encoding="utf-8")
