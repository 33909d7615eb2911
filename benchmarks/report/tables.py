"""The report as blocks: the circumstances of the run, the targets, and a table for every piece of work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from report import growth
from report.grids import Block, Grid, Heading, Listing, Paragraph, Picture
from report.results import QUOTABLE_OTHERS_SHARE, Results, Row, Table, ratio
from report.targets import Verdict, judge
from report.units import digits, duration, human, rate, roughly, span

# In reading order. A suite that is not listed comes last, under the name of its file.
SUITES = {
    "bench_ring.py": "The ring: records from process to process",
    "bench_feed.py": "The feed: from the ring to a tensor",
    "bench_predict.py": "The predictor: from items to predictions",
    "bench_predict_arrays.py": "The predictor on arrays in memory",
    "bench_engine.py": "The engine: requests in, replies out",
    "bench_memory.py": "Memory, and the cost of waiting",
    "bench_growth.py": "Growth: cost by slots, fields, bytes and producers",
    "bench_limits.py": "The machine's limits, and the ring in C beside them",
    "bench_devices.py": "Several devices",
}
LETTERS = "abcdefgh"  # distinguish several limits of a table
COMMANDS = {"full": "make bench-full", "quick": "make bench"}

HOW_TO_READ = (
    "Values are medians over the rounds. Less is better everywhere. RingFeed's rows are bold (a star in a terminal).",
    "All ways of a table take turns in each round. A ratio is the median of the ratios of each round, so it may differ "
    "from the quotient of the two medians.",
    "`x best peer`: the speed relative to the best peer of the table (in growth tables: of the same size). 3.0 x means "
    "a third of the peer's time, 0.50 x means twice its time. For memory and CPU it is how many times less is used.",
    "`of the limit`: the speed relative to the machine's limit, which is measured in the same rounds. 95 % means 95 % "
    "of the limit's speed.",
    f"Do not quote a table if other programs took more than {100 * QUOTABLE_OTHERS_SHARE:g} % of the machine during "
    "its measurement. Such a table says so.",
)

GROWTH_ROLES = ("ringfeed", "peer", "limit")
GROWING = {"record_bytes": "the size of a record in bytes", "fields": "the number of fields of a record"}

NEARLY_ALL = 90  # per cent of a limit: above it a ratio shows a third digit, because targets lie there
NO_RATE = ("latency", "round_trip", "stages")  # one request at a time: a rate would only repeat the time
COLUMN_NOTES = 3  # up to this many different notes get columns; more notes share one column
GIGABYTES_FROM = 4096  # bytes per unit: smaller units are counted per second, larger ones in GB/s


def blocks(results: Results, pictures: Mapping[str, Sequence[Picture]], why: str = "") -> Iterator[Block]:
    """Return the whole report.

    Parameters
    ----------
    pictures : dict
        Figure -> its pictures.
    why : str
        Markdown about the targets that were missed.
    """
    yield from head(results)
    yield from target_blocks(results, why)
    yield Heading("How to read the tables", 2)
    yield Listing(HOW_TO_READ)
    yield from sections(results, pictures)


def head(results: Results) -> Iterator[Block]:
    """The machine, versions, scale and commit that the figures depend on."""
    machine, commit = results.machine, results.commit
    versions = [f"{name} {version}" for name, version in results.versions.items() if version]
    facts = {
        "Date": results.surroundings.get("date"),
        "Machine": ", ".join(_machine_words(machine)),
        "Versions": ", ".join(versions),
        "Scale": f"{results.scale}, {duration(results.seconds)}",
        "Commit": str(commit.get("id", ""))[:12] + (", with changes" if commit.get("dirty") else ""),
        "Made by": f"`{COMMANDS[results.scale]}`" if results.scale in COMMANDS else None,
    }
    yield Heading("Benchmarks", 1)
    yield Listing([f"{name}: {fact}" for name, fact in facts.items() if fact])
    if disturbed := [table.title for table in results.tables if not table.quotable]:
        yield Paragraph(
            f"Other programs disturbed {len(disturbed)} of {len(results.tables)} tables. They are marked.", warning=True
        )


def _machine_words(machine: Mapping[str, object]) -> Iterator[str]:
    for name, words in (
        ("processor", "{}"),
        ("cores", "{} cores"),
        ("memory_gib", "{} GiB"),
        ("architecture", "{}"),
        ("system", "{}"),
    ):
        if machine.get(name):
            yield words.format(machine[name])


# ---- The targets -------------------------------------------------------------------------------------


def target_blocks(results: Results, why: str = "") -> Iterator[Block]:
    """The targets, the reached values, and the reasons of missed targets."""
    verdicts = judge(results)
    missed = frozenset(number for number, verdict in enumerate(verdicts) if verdict.met is False)
    yield Heading("Targets", 2)
    yield Paragraph(_count(verdicts))
    cells = [(verdict.name, verdict.target.wanted, verdict.shown, verdict.words) for verdict in verdicts]
    yield Grid(["target", "wanted", "got", ""], cells, missed, left=frozenset({0, 3}))
    if why:
        yield Heading("Why some were missed", 3)
        yield Paragraph(why)


def _count(verdicts: Sequence[Verdict]) -> str:
    met, missed = (sum(verdict.met is wanted for verdict in verdicts) for wanted in (True, False))
    return f"{met} met, {missed} missed, {len(verdicts) - met - missed} not measured in this run."


# ---- A section per suite -----------------------------------------------------------------------------


def sections(results: Results, pictures: Mapping[str, Sequence[Picture]]) -> Iterator[Block]:
    """One section per suite: its pictures, then a table per piece of work."""
    present = list(dict.fromkeys(table.suite for table in results.tables))
    for suite in sorted(present, key=lambda suite: (*SUITES, suite).index(suite)):
        tables = [table for table in results.tables if table.suite == suite]
        yield Heading(f"{SUITES[suite]} (`{suite}`)" if suite in SUITES else f"`{suite}`", 2)
        for figure in dict.fromkeys(table.figure for table in tables):
            yield from pictures.get(figure, ())
        if any(table.figure == growth.FIGURE for table in tables):
            yield from growth_blocks(results)
        for table in tables:
            if table.figure != growth.FIGURE:
                yield from table_blocks(table)
    titles = {table.title for table in results.tables}
    if unmeasured := {title: reasons for title, reasons in results.missing.items() if title not in titles}:
        yield Heading("Not measured", 2)
        yield Listing([f"{title}: {_reasons(reasons)}" for title, reasons in unmeasured.items()])


def table_blocks(table: Table) -> Iterator[Block]:
    """One piece of work: a row per way, and the missing ways."""
    yield Heading(table.title, 3)
    if not table.quotable:
        yield Paragraph(_disturbed(table), warning=True)
    strong = frozenset(number for number, row in enumerate(table.rows) if row.role == "ringfeed")
    note_names = list(dict.fromkeys(name for row in table.rows for name in row.notes))
    limits = table.of_role("limit")
    header = [
        *("way", f"{table.quantity}, median", "lowest - highest", "p50 / p99 / p99.9", _rate_name(table)),
        *("x best peer", *_limit_header(limits), *_note_header(note_names)),
    ]
    rows = [_cells(table, row, note_names) for row in table.rows]
    yield Grid(header, rows, strong).without_empty_columns()
    if below := list(_below(table)):
        yield Paragraph(" ".join(below))


def _disturbed(table: Table) -> str:
    return f"Do not quote: other programs took {digits(100 * table.others_share)} % of the machine meanwhile."


def _cells(table: Table, row: Row, note_names: Sequence[str]) -> list[str]:
    return [
        _way(row, table.of_role("limit")),
        human(row.median, row.unit),
        span(min(row.values), max(row.values), row.unit) if len(row.values) > 1 else "",
        _latency(row),
        _rate(row),
        _ratio_to(table.best("peer"), row, "x"),
        *(_ratio_to(limit, row, "%", scale=100) for limit in table.of_role("limit")),
        *_note_cells(row, note_names),
    ]


def _ratio_to(above: Row | None, below: Row, unit: str, scale: float = 1) -> str:
    found = ratio(above, below) if above else None
    if found is None:
        return ""
    shown = scale * found
    return f"{digits(shown) if shown >= NEARLY_ALL else roughly(shown)} {unit}"


def _limit_header(limits: Sequence[Row]) -> list[str]:
    """One column for each limit. Letters distinguish several limits; they also stand after the limits' names."""
    return ["of the limit"] if len(limits) == 1 else [f"of limit {LETTERS[number]}" for number in range(len(limits))]


def _way(row: Row, limits: Sequence[Row]) -> str:
    if row.role != "limit":
        return row.way
    said = "" if row.way.startswith("limit") else "limit"
    letter = LETTERS[limits.index(row)] if len(limits) > 1 else ""
    return f"{row.way} ({' '.join(filter(None, (said, letter)))})" if said or letter else row.way


def _latency(row: Row) -> str:
    if not row.latency_us:
        return ""
    return " / ".join(human(row.latency_us[percent], "us") for percent in ("50", "99", "99.9"))


def _rate_name(table: Table) -> str:
    return "GB/s" if table.measured[0].bytes_per_unit >= GIGABYTES_FROM else "per second"


def _rate(row: Row) -> str:
    if row.figure in NO_RATE or not row.seconds or row.seconds <= 0:
        return ""
    if row.bytes_per_unit >= GIGABYTES_FROM:
        return digits(row.bytes_per_unit / row.seconds / 1e9)
    return rate(1 / row.seconds)


def _note_header(names: Sequence[str]) -> Sequence[str]:
    return names if len(names) <= COLUMN_NOTES else ["notes"]


def _note_cells(row: Row, names: Sequence[str]) -> list[str]:
    if len(names) <= COLUMN_NOTES:
        return [digits(row.notes[name]) if name in row.notes else "" for name in names]
    return ["; ".join(f"{name} {digits(value)}" for name, value in row.notes.items())]


def _below(table: Table) -> Iterator[str]:
    """The best peer, ways without a ratio, and missing ways."""
    if peer := table.best("peer"):
        yield f"Best peer: {peer.way}."
    elif not table.of_role("ringfeed"):
        yield "A limit has no peers."
    if nothing := [row.way for row in (peer, *table.of_role("limit")) if row and min(row.values) <= 0]:
        yield f"No ratio to a value of zero: {'; '.join(nothing)}."
    if table.missing:
        yield f"Missing: {_reasons(table.missing)}."


def _reasons(missing: Mapping[str, str]) -> str:
    return "; ".join(f"{way} ({reason})" for way, reason in missing.items())


# ---- Growth ------------------------------------------------------------------------------------------


def growth_blocks(results: Results) -> Iterator[Block]:
    """One table for each growing quantity: the cost by n, and the steepest step."""
    families = growth.families(results)
    yield Paragraph(
        "RingFeed's costs should grow at most linearly. The steepest step has the largest factor of the cost relative "
        f"to the factor of n: 1.00 is linear, less is better. Steps above {growth.SUSPICIOUS} are named."
    )
    for of in dict.fromkeys(family.of for family in families):
        members = [family for family in families if family.of == of]
        yield Heading(f"By {GROWING.get(of, f'the number of {of}')}", 3)
        disturbed = [table for table in results.of_figure(growth.FIGURE, of=of) if not table.quotable]
        if disturbed:
            yield Paragraph(_disturbed(max(disturbed, key=lambda table: table.others_share)), warning=True)
        yield _growth_grid(members)
        if below := list(_below_growth(members, results.of_figure(growth.FIGURE, of=of))):
            yield Paragraph(" ".join(below))


def _growth_grid(families: Sequence[growth.Family]) -> Grid:
    """RingFeed's rows first; below each, its ratios to the best peer and to each limit."""
    numbers = sorted({n for family in families for n, _ in family.points})
    families = sorted(families, key=lambda family: GROWTH_ROLES.index(family.role))
    limits = [family for family in families if family.role == "limit"]
    best = growth.best_peers(families)
    rows, strong = [], set()
    for family in families:
        points = dict(family.points)
        if family.role == "ringfeed":
            strong.add(len(rows))
        costs = [human(points[n].median, points[n].unit) if n in points else "" for n in numbers]
        rows.append([family.way, *costs, _steepest(family)])
        for name in dict.fromkeys(name for row in points.values() for name in row.notes):
            notes = [points[n].notes.get(name) if n in points else None for n in numbers]
            rows.append([f"{family.way}: {name}", *("" if note is None else digits(note) for note in notes), ""])
        if family.role == "ringfeed":
            if best:
                rows.append([f"{family.way}: x best peer", *_ratios(best, points, numbers, "x"), ""])
            for limit in limits:
                parts = _ratios(dict(limit.points), points, numbers, "%", scale=100)
                rows.append([f"{family.way}: of the limit", *parts, ""])
    header = ["way", *(f"{n:,.0f}" for n in numbers), "steepest step"]
    return Grid(header, rows, frozenset(strong), left=frozenset({0, len(header) - 1}))


def _ratios(
    above: Mapping[float, Row], below: Mapping[float, Row], numbers: Sequence[float], unit: str, scale: float = 1
) -> list[str]:
    return [_ratio_to(above.get(n), below[n], unit, scale) if n in below else "" for n in numbers]


def _below_growth(families: Sequence[growth.Family], tables: Sequence[Table]) -> Iterator[str]:
    """The best peer at each n, and the missing ways."""
    where: dict[str, list[str]] = {}
    for n, row in growth.best_peers(families).items():
        where.setdefault(row.way, []).append(f"{n:,.0f}")
    if len(where) == 1:
        yield f"Best peer: {next(iter(where))}."
    elif where:
        yield "Best peer: " + "; ".join(f"{way} at {', '.join(at)}" for way, at in where.items()) + "."
    if missing := {way: reason for table in tables for way, reason in table.missing.items()}:
        yield f"Missing: {_reasons(missing)}."


def _steepest(family: growth.Family) -> str:
    step = family.steepest
    if step is None:
        return ""
    named = f": more than linear from {step.lower:,.0f} to {step.upper:,.0f}" if step.suspicious else ""
    return f"{step.against_linear:.2f}{named}"


def terminal_blocks(results: Results, report: str) -> Iterable[Block]:
    """The report for a terminal, with the targets last, where the reader looks."""
    yield from head(results)
    yield Listing(HOW_TO_READ)
    yield from sections(results, {})
    yield from target_blocks(results)
    yield Paragraph(f"The same with pictures: {report}")
