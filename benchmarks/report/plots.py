"""The pictures of the report; a picture without data is left out. Knows figures and axes, but no way by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from report import figure_style, growth
from report.grids import Picture
from report.results import Results, Row, Table
from report.units import SECONDS, human, rate_tick, size

PERCENTILES = ("50", "99", "99.9")
GROWING = {"record_bytes": "size of a record", "fields": "fields of a record", "rows": "rows of a batch"}
ONE_PRODUCER, ONE_TAKER = {"producers": 1}, {"takers": 1}

Lines = dict[str, list[tuple[float, Row]]]


def draw_all(results: Results, out: Path) -> Mapping[str, Sequence[Picture]]:
    """Draw each picture that has data into the folder `out`; return the pictures of each figure."""
    pictures: dict[str, list[Picture]] = {}
    for figure_name, file_name, words, draw in PICTURES:
        with figure_style.settings():
            if figure := draw(results):
                if not all(table.quotable for table in results.of_figure(figure_name)):
                    figure_style.warn(figure, "other programs disturbed some of it: do not quote")
                figure_style.save(figure, out / file_name)
                pictures.setdefault(figure_name, []).append(Picture(file_name, words))
    return pictures


def lines_by(tables: Iterable[Table], axis: str) -> Lines:
    """Return for each way its rows, by their position on an axis."""
    found: Lines = {}
    for table in tables:
        for row in table.measured:
            found.setdefault(row.way, []).append((float(row.axes[axis]), row))
    return {way: sorted(points, key=lambda point: point[0]) for way, points in found.items()}


def styles_of(tables: Iterable[Table]) -> dict[str, figure_style.Style]:
    return figure_style.styles({row.way: row.role for table in tables for row in table.measured})


def has_several(tables: Sequence[Table], axis: str) -> bool:
    return len({table.axes[axis] for table in tables if axis in table.axes}) > 1


# ---- The ring ----------------------------------------------------------------------------------------


def hop_by_size(results: Results) -> Figure | None:
    """One line per way: the time of a record by its size."""
    tables = [table for table in results.of_figure("hop", **ONE_PRODUCER, **ONE_TAKER) if table.unit in SECONDS]
    if not has_several(tables, "record_bytes"):
        return None
    figure, (axes,) = figure_style.card(
        "A record from one process to another",
        "one producer, one taker; median time per record, less is better",
        height=5.2,
    )
    drawn = figure_style.pale_but(styles_of(tables), best_peers(tables))
    lines = lines_by(tables, "record_bytes")
    for way, style in drawn.items():
        axes.plot([x for x, _ in lines[way]], [row.seconds for _, row in lines[way]], label=way, **style.line)
    figure_style.measured_at(axes, [table.axes["record_bytes"] for table in tables], size)
    figure_style.seconds_up(axes)
    axes.set_xlabel("size of the record")
    figure_style.name_pale(figure, drawn)
    figure_style.name_ways(figure, [axes], drawn)
    return figure


def best_peers(tables: Iterable[Table]) -> set[str]:
    """Return the peers that are the fastest peer in at least one table."""
    peers = ([row for row in table.measured if row.role == "peer" and row.seconds] for table in tables)
    return {min(rows, key=lambda row: row.seconds or math.inf).way for rows in peers if rows}


def throughput_by_producers(results: Results) -> Figure | None:
    """A panel per record size: records per second by the number of producers."""
    tables = [table for table in results.of_figure("hop", **ONE_TAKER) if table.unit in SECONDS]
    panels = _panels(tables, "record_bytes", "producers")
    if not panels:
        return None
    figure, all_axes = figure_style.card(
        "Records per second, by the number of producers",
        "one taker; more is better, both axes are logarithmic",
        len(panels),
    )
    drawn = _lasting((table for members in panels.values() for table in members), "producers")
    for axes, (record_bytes, members) in zip(all_axes, panels.items(), strict=True):
        _draw_rates(axes, lines_by(members, "producers"), drawn)
        figure_style.measured_at(axes, [table.axes["producers"] for table in members], lambda value: f"{value:g}")
        figure_style.logarithmic_up(axes, rate_tick)
        axes.set_title(f"records of {size(float(record_bytes))}")
        axes.set_xlabel("producers")
    figure_style.name_ways(figure, all_axes, drawn)
    return figure


def _draw_rates(axes: Axes, lines: Lines, drawn: Mapping[str, figure_style.Style]) -> None:
    for way, points in lines.items():
        if way in drawn:
            axes.plot([x for x, _ in points], [1 / row.seconds for _, row in points], label=way, **drawn[way].line)


def _lasting(tables: Iterable[Table], axis: str) -> dict[str, figure_style.Style]:
    """Return styles for the ways with at least two positions on an axis, which make a line."""
    places: dict[str, set[float | str]] = {}
    roles = {}
    for table in tables:
        for row in table.measured:
            places.setdefault(row.way, set()).add(table.axes[axis])
            roles[row.way] = row.role
    return figure_style.styles({way: role for way, role in roles.items() if len(places[way]) > 1})


def _panels(tables: Sequence[Table], panel_axis: str, x_axis: str) -> dict[float | str, list[Table]]:
    """Return the tables of each value of one axis that has several values of the other axis."""
    values = dict.fromkeys(table.axes[panel_axis] for table in tables if panel_axis in table.axes)
    members = {value: [table for table in tables if table.axes.get(panel_axis) == value] for value in values}
    kept = {value: found for value, found in members.items() if has_several(found, x_axis)}
    return dict(list(kept.items())[: figure_style.PANELS])


def latency(results: Results) -> Figure | None:
    """A panel per percentile, by record size; if there is only one size, a panel per table, by percentile."""
    tables = [table for table in results.of_figure("latency") if any(row.latency_us for row in table.measured)]
    if not tables:
        return None
    drawn = styles_of(tables)
    by_size = has_several(tables, "record_bytes")
    words = "from send to receipt, by the size of a record; less is better"
    panels = len(PERCENTILES) if by_size else min(figure_style.PANELS, len(tables))
    figure, all_axes = figure_style.card("Latency of a record", words, panels, share_y=True)
    if by_size:
        _latency_by_size(all_axes, tables, drawn)
    else:
        _latency_by_percentile(all_axes, tables, drawn)
    for axes in all_axes:
        figure_style.seconds_up(axes)
    figure_style.legend(figure, drawn)
    return figure


def _latency_by_size(
    all_axes: Sequence[Axes], tables: Sequence[Table], drawn: Mapping[str, figure_style.Style]
) -> None:
    for axes, percent in zip(all_axes, PERCENTILES, strict=True):
        for way, points in lines_by(tables, "record_bytes").items():
            known = [(x, seconds) for x, row in points if (seconds := _percentile(row, percent)) is not None]
            axes.plot([x for x, _ in known], [y for _, y in known], label=way, **drawn[way].line)
        figure_style.measured_at(axes, [table.axes["record_bytes"] for table in tables], size, room=0.22)
        axes.set_title(f"p{percent}")
        axes.set_xlabel("size of the record")


def _percentile(row: Row, percent: str) -> float | None:
    """Return a percentile in seconds; a limit has one value for all percentiles."""
    if row.role == "limit":
        return row.seconds
    return row.latency_us[percent] * 1e-6 if row.latency_us else None


def _latency_by_percentile(
    all_axes: Sequence[Axes], tables: Sequence[Table], drawn: Mapping[str, figure_style.Style]
) -> None:
    for axes, table in zip(all_axes, tables, strict=False):
        for row in table.measured:
            known = {f"p{percent}": _percentile(row, percent) for percent in PERCENTILES}
            if None not in known.values():
                axes.plot(list(known), list(known.values()), label=row.way, **drawn[row.way].line)
        axes.set_title(table.title)
        axes.margins(x=0.12)


# ---- The predictor -----------------------------------------------------------------------------------


def predictor_by_workers(results: Results) -> Figure | None:
    """A panel per workload: items per second by the number of workers, and the machine's limit."""
    tables = [table for table in results.of_figure("predict") if table.unit in SECONDS]
    panels = _panels(tables, "workload", "workers")
    if not panels:
        return None
    figure, all_axes = figure_style.card(
        "Items per second, by the number of workers",
        "more is better; dashed: the machine's limit; each panel has its own scale",
        len(panels),
    )
    drawn = _lasting((table for members in panels.values() for table in members), "workers")
    for axes, (workload, members) in zip(all_axes, panels.items(), strict=True):
        _draw_rates(axes, lines_by(members, "workers"), drawn)
        workers = sorted({float(table.axes["workers"]) for table in members})
        axes.set_xticks(workers, [f"{count:g}" for count in workers])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        figure_style.named_up(axes, rate_tick)
        axes.set_title(str(workload))
        axes.set_xlabel("workers")
    figure_style.name_ways(figure, all_axes, drawn)
    return figure


# ---- Where the time goes -----------------------------------------------------------------------------


def stages(results: Results) -> Figure | None:
    """A bar per way or per piece of work, divided into the stages of its time."""
    bars = dict(stage_bars(results.of_figure("stages")))
    if not bars:
        return None
    figure, (axes,) = figure_style.card(
        "Where the time goes",
        "RingFeed: parts of the time of an item or a request, with the total at the right",
        height=2.0 + 0.62 * len(bars),
    )
    names = list(dict.fromkeys(name for stages_ in bars.values() for name in stages_))
    colors = figure_style.distinct(names)
    for position, seconds in enumerate(bars.values()):
        _draw_stages(axes, position, seconds, colors)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.tick_params(axis="y", length=0, labelcolor=figure_style.INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside lower left", ncols=min(5, len(names)), fontsize=9, handlelength=1.0, handleheight=1.0)
    return figure


def stage_bars(tables: Iterable[Table]) -> Iterable[tuple[str, dict[str, float]]]:
    """Return the stages of each bar in seconds, from the notes of a row (microseconds) or the rows of a table."""
    for table in tables:
        rows = [row for row in table.measured if row.role == "ringfeed"]
        noted = [row for row in rows if row.notes]
        for row in noted:
            yield _bar_name(table, row.way if len(noted) > 1 else ""), _with_the_rest(row.notes)
        if rows and not noted:
            unit = SECONDS.get(table.unit, 1e-6)
            yield _bar_name(table, ""), {row.way: row.median * unit for row in rows}


def _with_the_rest(notes: Mapping[str, float]) -> dict[str, float]:
    """Return stages in seconds; if the notes have a total, the unexplained rest of it is one more stage."""
    seconds = {name: value * 1e-6 for name, value in notes.items() if name != "total"}
    rest = notes.get("total", 0.0) * 1e-6 - sum(seconds.values())
    return seconds | ({"the rest": rest} if rest > 0 else {})


def _bar_name(table: Table, way: str) -> str:
    """The position of a table in its family: `corners, 16 clients`."""
    axes = [value if isinstance(value, str) else f"{value:g} {name}" for name, value in table.axes.items()]
    return ", ".join([*([way] if way else []), *axes]) or table.title


def _draw_stages(axes: Axes, position: int, seconds: Mapping[str, float], colors: Mapping[str, str]) -> None:
    whole, left = sum(seconds.values()), 0.0
    for name, part in seconds.items():
        known = name in axes.get_legend_handles_labels()[1]
        axes.barh(
            position,
            part / whole,
            left=left,
            height=0.62,
            color=colors[name],
            edgecolor=figure_style.PAPER,
            linewidth=1,
            label=None if known else name,
        )
        if part / whole > 0.07:
            middle = left + part / whole / 2
            axes.text(
                middle, position, human(part, "s"), ha="center", va="center", color=figure_style.ink_on(colors[name])
            )
        left += part / whole
    axes.annotate(
        human(whole, "s"), (1.01, position), xycoords=("axes fraction", "data"), va="center", fontweight="bold"
    )


# ---- Growth ------------------------------------------------------------------------------------------


def growth_by_number(results: Results) -> Figure | None:
    """A panel for each growing quantity: the cost by n, beside lines of linear growth."""
    families = [family for family in growth.families(results) if len(family.points) > 1 and family.has_times]
    things = list(dict.fromkeys(family.of for family in families))
    if not things:
        return None
    figure, all_axes = figure_style.card(
        "What more of everything costs",
        "time by number, both logarithmic; dotted: as fast as the number, which RingFeed is not to outgrow",
        len(things),
        columns=3,
        height=1.6 + 2.75 * math.ceil(len(things) / 3),
    )
    drawn = figure_style.styles({family.way: family.points[0][1].role for family in families})
    for axes, of in zip(all_axes, things, strict=True):
        _draw_growth(axes, [family for family in families if family.of == of], drawn)
        axes.set_title(GROWING.get(of, of))
    figure_style.legend(figure, drawn)
    return figure


def _draw_growth(axes: Axes, families: Sequence[growth.Family], drawn: Mapping[str, figure_style.Style]) -> None:
    for family in families:
        numbers, costs = zip(*((n, row.seconds) for n, row in family.points), strict=True)
        axes.plot(numbers, costs, label=family.way, **drawn[family.way].line)
    points = [point for family in families for point in family.points]
    numbers = [n for n, _ in points]
    figure_style.show_growth(axes, numbers, [row.seconds for _, row in points])
    figure_style.measured_at(axes, numbers, size if families[0].of == "record_bytes" else "{:,.0f}".format, room=0.2)
    figure_style.seconds_up(axes)


# Figure -> file, its description, and the function that draws it.
PICTURES: tuple[tuple[str, str, str, Callable[[Results], Figure | None]], ...] = (
    ("hop", "hop.svg", "The time of a record from one process to another, by its size", hop_by_size),
    ("hop", "throughput.svg", "Records a second by the number of producers", throughput_by_producers),
    ("latency", "latency.svg", "Latency of a record: p50, p99 and p99.9", latency),
    (
        "predict",
        "predictor.svg",
        "Items a second by the number of workers, beside the machine's limit",
        predictor_by_workers,
    ),
    ("stages", "stages.svg", "Where the time of one item goes", stages),
    ("growth", "growth.svg", "The cost of more slots, producers, fields, bytes and rows", growth_by_number),
)
