"""One model on two devices, in every supported way: rows per second, and each device's share of the work.

A device is one core: TensorFlow's processor is split into two logical devices with one thread each
(`devices/engines.py`). A client sends some hundred rows at a time, which keeps every way busy. The benchmark compares
the answers with those of the model alone. All ways live through the whole run, idle outside their own rounds, and the
rounds alternate. Prints the rows of the table in docs/devices.md.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

import ringfeed
from devices import engines
from devices.engines import ALONE, MIRRORED, ONE, PIPELINE, PROCESSES, REPLICAS, WAYS
from devices.model import FIELDS, pictures
from measuring.other_load import OtherLoad
from servers.server_process import SPAWN, ServerProcess

pytestmark = pytest.mark.slow  # `make test-slow` runs it once: six engines and a Keras model in three processes

BATCH_SIZE = 32
ROWS, ROUNDS = 1024, 15
SLOTS = 512
START_SECONDS = 90.0


class Ways:
    """Two serving processes, and a client for each way."""

    def __init__(self, stack: ExitStack, rows: int) -> None:
        rings = {way: stack.enter_context(ringfeed.Ring.create(None, FIELDS, SLOTS)) for way in WAYS}
        names = {way: ring.name for way, ring in rings.items()}
        self._orders: list[Connection] = []
        processes = [self._process(stack, rows, each) for each in (names, {PROCESSES: names[PROCESSES]})]
        self._pictures = pictures(rows)
        for process in processes:
            process.address()
        self._clients = {way: stack.enter_context(ringfeed.Client(ring)) for way, ring in rings.items()}
        self.rows_per_second: dict[str, list[float]] = {way: [] for way in [ALONE, *WAYS]}

    def _process(self, stack: ExitStack, rows: int, rings: dict[str, str]) -> ServerProcess:
        orders, theirs = SPAWN.Pipe()
        process = ServerProcess(engines.serve, rings, rows, BATCH_SIZE, theirs)
        stack.callback(process.close)
        theirs.close()
        self._orders.append(orders)
        return process

    def answers(self, way: str) -> tuple[np.ndarray, float]:
        """Return the answers to all pictures, and the time in seconds."""
        if way == ALONE:
            return self._order(self._orders[0], ALONE)
        started = time.perf_counter()
        answers = self._clients[way].predict(self._pictures)
        return answers, time.perf_counter() - started

    def measure(self, rounds: int) -> None:
        """Measure all ways in turn. The first round does not count."""
        expected, _ = self.answers(ALONE)
        for number in range(rounds + 1):
            for way in sorted(self.rows_per_second, key=lambda _: random.random()):
                answers, seconds = self.answers(way)
                np.testing.assert_allclose(answers, expected, rtol=1e-3, atol=1e-5)
                if number:
                    self.rows_per_second[way].append(len(answers) / seconds)

    def stats(self, way: str) -> list[Any]:
        """Return the figures of each engine of a way."""
        orders = self._orders if way == PROCESSES else self._orders[:1]
        return [stats for each in orders for stats in self._order(each, way)]

    @staticmethod
    def _order(orders: Connection, way: str) -> Any:
        orders.send(way)
        if not orders.poll(START_SECONDS):
            raise RuntimeError(f"no answer within {START_SECONDS:g} s")
        return orders.recv()

    def shares(self, way: str) -> list[float]:
        """Return each device's share of the rows; for the stages of a pipeline, its share of the time."""
        engines = self.stats(way)
        if way == PIPELINE:
            done = [stage.busy_seconds for stage in engines]
        else:
            done = [rows for stats in engines for rows in stats.device_rows]
        return [each / sum(done) for each in done]

    def shares_as_text(self, way: str) -> str:
        if way in (ONE, ALONE):
            return ""
        if way == MIRRORED:  # not measurable
            return "half of each batch"
        return " / ".join(f"{share:.1%}" for share in self.shares(way)) + (" of the time" if way == PIPELINE else "")


@pytest.fixture(scope="module")
def ways(request: pytest.FixtureRequest) -> Iterator[Ways]:
    quick = request.config.getoption("benchmark_disable")
    with ExitStack() as stack:
        made = Ways(stack, 2 * BATCH_SIZE if quick else ROWS)
        load = OtherLoad()
        made.measure(1 if quick else ROUNDS)
        print_table(made, load)
        yield made


def print_table(ways: Ways, load: OtherLoad) -> None:
    """Print the table of docs/devices.md as Markdown."""
    print(f"\n\n| {BATCH_SIZE} rows a batch | rows/s | beside one device | share of each device |\n|---|---|---|---|")
    for way, measured in ways.rows_per_second.items():
        ratios = [own / one for own, one in zip(measured, ways.rows_per_second[ONE], strict=True)]
        shares = ways.shares_as_text(way)
        print(f"| {way} | {statistics.median(measured):,.0f} | {statistics.median(ratios):.2f} | {shares} |")
    first, second = ways.shares(REPLICAS)
    print(f"two replicas differ by {abs(first - second):.1%} of the rows (target: 5 %)")
    print(f"other programs took {load.cores():.2f} cores")


@pytest.mark.benchmark(group="rows of 32x32x3 float32 through one model on two logical CPU devices")
@pytest.mark.parametrize("way", [ALONE, *WAYS])
def bench_devices(benchmark: Any, ways: Ways, way: str) -> None:
    benchmark.pedantic(ways.answers, (way,), rounds=3)
    benchmark.extra_info |= {
        "rows_per_second": statistics.median(ways.rows_per_second[way]),
        "shares": ways.shares_as_text(way),
    }
