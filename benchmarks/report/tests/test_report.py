"""The benchmarks' report, from made-up results and from the results of a tiny suite that really runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_results import BENCHMARKS, HOP, HOP_TITLE, PLACES, entry, everything, hop, rounds, written

from measuring.rounds import role_by_name
from report import growth, results, tables, targets, units
from report.__main__ import make
from report.grids import as_markdown, as_text


@pytest.fixture
def measured(tmp_path: Path) -> results.Results:
    return results.load(written(tmp_path / "raw.json", everything()))


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., results.Results]:
    """Return results made of entries."""
    return lambda entries, **about: results.load(written(tmp_path / "raw.json", entries, **about))


def verdict_of(found: results.Results, name: str) -> targets.Verdict:
    return next(verdict for verdict in targets.judge(found) if verdict.name.startswith(name))


# ---- Tables ------------------------------------------------------------------------------------------


def test_ratios_are_medians_of_the_ratios_of_the_same_rounds(loaded: Callable[..., results.Results]) -> None:
    entries = [
        entry("paired", "RingFeed", "ringfeed", [1.0, 2.0, 10.0]),
        entry("paired", "peer", "peer", [3.0, 8.0, 20.0]),
        entry("paired", "limit", "limit", [0.5, 1.8, 9.0]),
    ]
    table = loaded(entries).tables[0]
    text = as_text(tables.table_blocks(table))
    ringfeed = next(line for line in text.splitlines() if line.startswith("* RingFeed"))
    assert ringfeed.split()[-4:] == ["3.0", "x", "90.0", "%"]  # not 4.0 x and 90 %, the quotients of the medians


def test_the_best_way_comes_first_and_every_row_has_its_ratios(measured: results.Results) -> None:
    table = next(table for table in measured.tables if table.title == HOP_TITLE)
    assert [row.way for row in table.rows] == ["memory", "RingFeed put", "faster-fifo", "multiprocessing.Queue"]
    markdown = as_markdown(tables.table_blocks(table))
    assert "| **RingFeed put** | **100 ns** |" in markdown
    assert "x best peer | of the limit |" in markdown
    assert "| **20 x** | **50 %** |" in markdown


def test_of_several_limits_each_has_a_column_of_its_own(loaded: Callable[..., results.Results]) -> None:
    entries = [*hop(), entry(HOP_TITLE, "a slower limit", "limit", rounds(9e-8), axes=HOP)]
    table = loaded(entries).tables[0]
    markdown = as_markdown(tables.table_blocks(table))
    assert "of limit a | of limit b" in markdown
    assert "| memory (limit a) |" in markdown
    assert "| **50 %** | **90.0 %** |" in markdown


def test_missing_ways_are_named_with_the_reason(measured: results.Results) -> None:
    assert "Missing: ray (ray is not installed)." in as_markdown(tables.blocks(measured, {}))


def test_work_that_was_not_measured_is_named_too(loaded: Callable[..., results.Results]) -> None:
    missing = {"a race of peers": {"mosec": "mosec is not installed"}}
    found = loaded(hop(), missing=missing)
    assert "- a race of peers: mosec (mosec is not installed)" in as_markdown(tables.blocks(found, {}))


def test_a_table_that_others_disturbed_says_that_it_is_not_to_be_quoted(measured: results.Results) -> None:
    busy = next(table for table in measured.tables if table.title == "busy")
    assert "Do not quote: other programs took 12.0 %" in as_markdown(tables.table_blocks(busy))
    assert "Do not quote" not in as_markdown(tables.table_blocks(measured.tables[0]))


def test_a_table_of_limits_says_that_they_have_no_peers(loaded: Callable[..., results.Results]) -> None:
    found = loaded([entry("fills", "1 core", "limit", rounds(2.0)), entry("fills", "2 cores", "limit", rounds(1.0))])
    assert "A limit has no peers." in as_markdown(tables.table_blocks(found.tables[0]))
    with_ringfeed = [entry("fill", "RingFeed", "ringfeed", rounds(2.0)), entry("fill", "copy", "limit", rounds(1.0))]
    assert "no peers" not in as_markdown(tables.table_blocks(loaded(with_ringfeed).tables[0]))


def test_memory_that_did_not_grow_has_no_ratio_and_no_rate(measured: results.Results) -> None:
    table = next(table for table in measured.tables if table.unit == "MB")
    shown = as_markdown(tables.table_blocks(table))
    assert "| **dataset** | **0 MB** | **-0.100 - 0.200 MB** |" in shown
    assert "Best peer: queue. No ratio to a value of zero: queue." in shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (6.4e-8, "s", "64.0 ns"),
        (9.996e-7, "s", "1.00 us"),
        (0.0123, "s", "12.3 ms"),
        (1234.0, "us", "1.23 ms"),
        (75.0, "s", "75.0 s"),
        (0.0, "MB", "0 MB"),
        (0.31, "%", "0.310 %"),
        (1234.5, "MB", "1,234 MB"),
    ],
)
def test_figures_have_three_digits_and_the_unit_that_suits_them(value: float, unit: str, shown: str) -> None:
    assert units.human(value, unit) == shown


# ---- Growth ------------------------------------------------------------------------------------------


def test_a_step_that_is_more_than_linear_is_named(measured: results.Results) -> None:
    family = next(family for family in growth.families(measured) if family.of == "slots")
    first, second = family.steps
    assert first.against_linear == pytest.approx(1.025)
    assert not first.suspicious
    assert second.against_linear == pytest.approx(40 / 4.1 / 4)
    assert second.suspicious
    shown = as_markdown(tables.growth_blocks(measured))
    assert "2.44: more than linear from 4 to 16" in shown
    assert "| create: of the limit | 50 % | 50 % | 50 % |  |" in shown


def test_growth_is_shown_beside_the_best_peer_of_each_size(loaded: Callable[..., results.Results]) -> None:
    costs = {"RingFeed": (1.0, 2.0), "even": (3.0, 3.0), "steep": (2.0, 40.0), "limit: a copy": (0.5, 0.5)}
    entries = [
        entry(f"growth: {n}", way, role_by_name(way), rounds(cost[at]), "growth", {"of": "slots", "n": n})
        for at, n in enumerate((64, 256))
        for way, cost in costs.items()
    ]
    missing = {"growth: 256": {"absent": "absent is not installed"}}
    found = loaded(entries, missing=missing)
    assert "### growth: 64" not in as_markdown(tables.blocks(found, {}))  # the quantity is a column, not also a table
    shown = as_markdown(tables.growth_blocks(found))
    assert "| RingFeed: x best peer | 2.0 x | 1.5 x |  |" in shown
    assert "| RingFeed: of the limit | 50 % | 25 % |  |" in shown
    assert "steep: of the limit" not in shown
    assert "Best peer: steep at 64; even at 256. Missing: absent (absent is not installed)." in shown


# ---- Targets -----------------------------------------------------------------------------------------


def test_the_batch_in_c_is_judged_by_its_64_slots(loaded: Callable[..., results.Results]) -> None:
    costs = {
        "RingFeed, C, 64 slots": ("ringfeed", 3.5),
        "RingFeed, C, all 64 in one slot": ("ringfeed", 1.2),
        "one flag per batch, no protocol": ("limit", 1.0),
        "a pipe": ("peer", 1.8),
    }
    entries = [entry("batch", way, role, rounds(cost), "c_hop") for way, (role, cost) in costs.items()]
    verdict = verdict_of(loaded(entries), "64 records of 64 bytes in C")
    assert (verdict.shown, verdict.words) == ("3.50 x", "missed by 17 %")


def test_a_target_that_is_reached_is_met(measured: results.Results) -> None:
    verdict = verdict_of(measured, "64-byte hop")
    assert verdict.got == pytest.approx(20)
    assert verdict.words == "met"


def test_a_target_that_is_not_reached_is_missed_by_so_much(loaded: Callable[..., results.Results]) -> None:
    found = loaded(hop(ringfeed=4e-7))
    assert verdict_of(found, "64-byte hop").words == "missed by 50 %"


def test_a_bound_from_above_is_missed_by_what_is_beyond_it(loaded: Callable[..., results.Results]) -> None:
    entries = [entry("idle", way, "ringfeed", [share], "idle", unit="%") for way, share in (("a", 0.1), ("b", 0.6))]
    verdict = verdict_of(loaded(entries), "CPU")
    assert (verdict.shown, verdict.words) == ("0.600 %", "missed by 20 %")


def test_the_other_targets_look_at_their_tables(measured: results.Results) -> None:
    words = {verdict.name: (verdict.shown, verdict.words) for verdict in targets.judge(measured)}
    assert words["predictor, two workers, of the limit with TensorFlow's usual threads"] == ("96.0 %", "met")
    gil = "predictor, two workers, preprocessing that holds the GIL, times as fast as tf.data numpy_function"
    assert words[gil] == ("1.90 x", "met")
    assert words["memory gained over a million records"] == ("0 MB", "met")
    assert words["64 producers, the slowest against their mean"] == ("40.0 %", "missed by 20 %")


def test_a_target_of_one_way_looks_at_no_other(loaded: Callable[..., results.Results]) -> None:
    costs = {
        "RingFeed, put": ("ringfeed", 4e-6),
        "RingFeed, put, a ring of 1 MiB": ("ringfeed", 1e-6),
        "iceoryx2, polling": ("peer", 8e-6),
        "Pipe, send_bytes": ("peer", 2e-6),
    }
    axes = {"record_bytes": 150_528, "producers": 1, "takers": 1}
    entries = [entry("pictures", way, role, rounds(cost), "hop", axes) for way, (role, cost) in costs.items()]
    verdict = verdict_of(loaded(entries), "150 KB by put into a default ring")
    assert verdict.got == pytest.approx(2)
    assert verdict.words == "met"


def test_a_target_without_data_was_not_measured(measured: results.Results) -> None:
    verdict = verdict_of(measured, "engine, 16 clients")
    assert (verdict.met, verdict.words) == (None, "not measured in this run")


def test_a_target_of_several_workloads_has_a_verdict_for_each(loaded: Callable[..., results.Results]) -> None:
    entries = [
        entry(workload, way, role, rounds(value), "predict", {"workload": workload, "workers": 2})
        for workload, value in (("digits", 1.0), ("photographs", 0.9))
        for way, role, value in (("RingFeedPredictor", "ringfeed", 1.0), ("limit", "limit", value))
    ]
    found = loaded(entries)
    target = "predictor, two workers, of the limit with TensorFlow's usual threads"
    assert verdict_of(found, f"{target}: digits").met is True
    assert verdict_of(found, f"{target}: photographs").met is False


def test_a_verdict_on_a_disturbed_table_is_not_to_be_quoted(loaded: Callable[..., results.Results]) -> None:
    entries = [entry("idle", "take", "ringfeed", [0.1], "idle", unit="%", others_share=0.3)]
    verdict = verdict_of(loaded(entries), "CPU")
    assert verdict.words == "met, but do not quote it"


# ---- Files -------------------------------------------------------------------------------------------


def test_the_report_has_pictures_words_on_missed_targets_and_no_place(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    out.mkdir()
    (out / "why.md").write_text("The machine was tired.\n", encoding="utf-8")
    text = make(written(tmp_path / "raw.json", everything()), out)
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "### Why some were missed\n\nThe machine was tired.\n" in report
    assert "met, " in text
    pictures = sorted(path.name for path in out.glob("*.svg"))
    names = ["growth", "hop", "latency", "predictor", "stages", "throughput"]
    assert pictures == [f"{name}.svg" for name in names]
    assert all(f"]({name})" in report for name in pictures)
    for path in out.iterdir():
        assert not any(place in path.read_text(encoding="utf-8") for place in [*PLACES, str(tmp_path)])


def test_the_picture_of_hop_times_names_the_best_peers_and_has_the_others_in_grey(
    loaded: Callable[..., results.Results],
) -> None:
    pytest.importorskip("matplotlib")
    from report import figure_style, plots

    times = {"RingFeed": [1.0, 9.0], "fast, small": [2.0, 8.0], "fast, large": [3.0, 5.0], "middling": [2.5, 6.0]}
    entries = [
        entry(f"hop of {size}", way, "ringfeed" if way == "RingFeed" else "peer", [times[way][place]], "hop", axes)
        for way in times
        for place, size in enumerate((64, 4096))
        for axes in [{"record_bytes": size, "producers": 1, "takers": 1}]
    ]
    measured = loaded(entries)
    assert plots.best_peers(measured.tables) == {"fast, small", "fast, large"}
    with figure_style.settings():
        figure = plots.hop_by_size(measured)
    assert figure is not None
    words = [text.get_text() for text in figure.findobj(match=lambda part: hasattr(part, "get_text"))]
    assert {"RingFeed", "fast, small", "fast, large"} <= {*words}
    assert "middling" not in words
    assert any("grey" in each and "middling" in each for each in words)
    colors = {line.get_label(): line.get_color() for line in figure.axes[0].get_lines()}
    assert [way for way, color in colors.items() if color == figure_style.PALE] == ["middling"]


def test_pictures_are_svg_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    raw = written(tmp_path / "raw.json", everything())
    for out in ("once", "twice"):
        make(raw, tmp_path / out)
    for path in (tmp_path / "once").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert path.read_bytes() == (tmp_path / "twice" / path.name).read_bytes()


def test_what_has_no_data_is_not_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    make(written(tmp_path / "raw.json", hop()), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.svg"))


def test_what_no_stage_explains_is_drawn_as_the_rest(loaded: Callable[..., results.Results]) -> None:
    pytest.importorskip("matplotlib")
    from report.plots import stage_bars

    entries = [
        entry("noted", "RingFeed", "ringfeed", [1.0], "stages", {"clients": 2}, notes={"copy": 10.0, "total": 25.0}),
        entry("measured", "copy", "ringfeed", [3.0], "stages", unit="us"),
        entry("measured", "compute", "ringfeed", [5.0], "stages", unit="us"),
    ]
    bars = dict(stage_bars(loaded(entries).tables))
    assert bars["2 clients"] == pytest.approx({"copy": 10e-6, "the rest": 15e-6})
    assert bars["measured"] == pytest.approx({"copy": 3e-6, "compute": 5e-6})


def test_names_beside_lines_move_apart_as_little_as_possible() -> None:
    pytest.importorskip("matplotlib")
    from report.figure_style import spread

    assert spread([0.2, 0.5], 0.1, 1.0) == [0.2, 0.5]
    assert spread([0.5, 0.5, 0.9], 0.1, 1.0) == pytest.approx([0.45, 0.55, 0.9])
    assert spread([0.99, 1.0], 0.1, 1.0) == pytest.approx([0.9, 1.0])
    assert spread([0.0, 0.01, 0.15], 0.1, 1.0) == pytest.approx([0.0, 0.1, 0.2])


def test_the_published_result_says_the_same_as_the_raw_one(tmp_path: Path) -> None:
    raw = written(tmp_path / "raw.json", everything())
    make(raw, tmp_path / "out")
    published = tmp_path / "out" / "results.json"
    first, second = (as_markdown(tables.blocks(results.load(path), {})) for path in (raw, published))
    assert first == second
    assert set(json.loads(published.read_text(encoding="utf-8"))["benchmarks"][0]) == {
        *results.ROW_KEYS,
        "group",
        "suite",
    }


def test_a_result_in_the_folder_of_its_report_stays_as_it_is(tmp_path: Path) -> None:
    raw = written(tmp_path / "results.json", everything())
    before = raw.read_bytes()
    make(raw, tmp_path)
    assert raw.read_bytes() == before


# ---- From the suites' side ---------------------------------------------------------------------------

TINY_SUITE = """
    import pytest
    from measuring.rounds import Way, Work, timed

    @pytest.fixture(scope="module")
    def work():
        work = Work("adding up", "adding", {"numbers": 10}, missing={"abacus": "no abacus at hand"})
        ways = [("RingFeed", "ringfeed", 10), ("peer", "peer", 5000), ("limit", "limit", 1)]
        return work.measure([Way(name, role, lambda n=n: timed(lambda: sum(range(n)))) for name, role, n in ways], 5)

    @pytest.mark.parametrize("way", ["RingFeed", "peer", "limit", "abacus"])
    def bench_adding(tell, work, way):
        tell(work, way)

    def bench_something_else(benchmark):
        benchmark(len, "abc")
"""


def test_what_a_real_suite_tells_pytest_benchmark_becomes_a_table(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    (tmp_path / "bench_tiny.py").write_text(textwrap.dedent(TINY_SUITE), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_files = bench_*.py\npython_functions = bench_*\n")
    raw = tmp_path / "raw.json"
    # pytest-benchmark measures nothing in a run under pytest-xdist, so this environment must not look like one.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", f"--benchmark-json={raw}"],
        env=ours | {"PYTHONPATH": str(BENCHMARKS)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=True,
    )
    found = results.load(raw)
    assert [table.title for table in found.tables] == ["adding up"]
    table = found.tables[0]
    assert table.suite == "bench_tiny.py"
    assert {row.way: len(row.values) for row in table.measured} == {"RingFeed": 5, "peer": 5, "limit": 5}
    assert "Best peer: peer. Missing: abacus (no abacus at hand)." in as_markdown(tables.table_blocks(table))
