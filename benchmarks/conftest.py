"""The scale of the benchmarks, and the way of their results into pytest-benchmark's JSON. Knows no suite.

With `--benchmark-disable`, as in CI, everything runs once and nothing is measured. `--full` measures more sizes, more
peers and more rounds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from measuring.machine import surroundings
from measuring.rounds import Sample, Work
from measuring.scale import Scale, scale_of

STARTED = time.monotonic()
MISSING = pytest.StashKey[dict[str, dict[str, str]]]()


class ReplayClock:
    """A timer for pytest-benchmark that replays durations measured earlier."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def play(self, durations: Iterator[Sample]) -> None:
        self._now += next(durations).seconds


CLOCK = ReplayClock()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="benchmarks: all sizes, all peers, more rounds")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MISSING] = {}


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> Scale:
    return scale_of(request.config)


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line of progress to the terminal, past pytest's capture, if a person watches."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        if sys.stderr.isatty() or request.config.getoption("verbose") > 0:
            with capture.global_and_fixture_disabled():
                print(f"\n  {time.monotonic() - STARTED:5.0f} s  {line}", end="", flush=True)

    return say


@pytest.fixture
def tell(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Work, str], None]:
    """Give pytest-benchmark the samples of one way of a piece of work; skip a missing way, with the reason in the JSON.

    Tests that use it are marked `pytest.mark.benchmark(timer=CLOCK)` below, because the rounds are already over.
    """

    def tell(work: Work, way: str) -> None:
        request.config.stash[MISSING].setdefault(work.title, {}).update(work.missing)
        if way not in work.samples:
            pytest.skip(work.missing.get(way, "not part of this piece of work"))
        benchmark.group = work.title
        benchmark.name = way
        benchmark.extra_info |= work.as_json(way)
        samples = work.samples[way]
        benchmark.pedantic(CLOCK.play, (iter(samples),), rounds=len(samples))

    return tell


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tell" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=CLOCK))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Describe the circumstances of the figures, without the names of this machine."""
    machine_info.clear()
    machine_info.update(surroundings())


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any], **_: Any) -> None:
    output_json["ringfeed"] = {
        "scale": scale_of(config).name,
        "seconds": round(time.monotonic() - STARTED),
        "missing": {title: reasons for title, reasons in config.stash[MISSING].items() if reasons},
    }
