"""Records from process to process: RingFeed compared with its peers (`hops/`) and with the speed of memory.

Each table is one piece of work: a number of senders and receivers, and records of one size, which are handed over and
not read. The rounds of all ways alternate. Before the timing each transport proves that every record arrives once and
whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

import limits
from hops import ray_store
from hops.comparison import ONLY_IN_FULL, TransportComparison
from hops.interface import TRANSPORTS, Entry, Job
from hops.private_memory import ENTRY as OWN_MEMORY
from hops.ringfeed_ring import small_ring
from measuring.rounds import Sample, Way, Work, role_by_name
from measuring.scale import Scale, scale_of

SIZES = {64: "64 B", 4096: "4 KB", 150_528: "150 KB", 602_112: "602 KB", 4_194_304: "4 MB"}
LARGE_BYTES = 1 << 20  # bytes; some peers carry only a hundred of these records per second
COPY = "limit: one copy into own memory, as much as the rings"
COPY_IN_CACHE = "limit: one copy into own memory, 1 MiB"
WAKING = "limit: a sleeping process woken, and one copy into own memory"
WAYS = [entry.way for entry in TRANSPORTS]
SINGLY = [entry.way for entry in TRANSPORTS if entry.single]


def jobs(scale: Scale) -> list[Job]:
    """All record sizes with one sender; several senders and receivers with a small and a large record."""
    sizes = scale.of([64, 150_528], list(SIZES), list(SIZES))
    crowds = scale.of([(2, 1)], [(4, 1), (2, 2)], [(2, 1), (4, 1), (8, 1), (2, 2), (8, 2)])
    crowded = scale.of([64], [64], [64, 150_528])
    return [Job(size) for size in sizes] + [Job(size, *crowd) for size in crowded for crowd in crowds]


def title(job: Job) -> str:
    many = f"{job.senders} sender{'s' * (job.senders > 1)}, {job.receivers} receiver{'s' * (job.receivers > 1)}"
    return f"{SIZES[job.record_bytes]} records, {many}"


def copying(job: Job, slots: int, seconds: float) -> Sample:
    """Copy records into private memory, a batch at a time: the least work of any sender."""
    source = np.zeros(job.record_bytes, np.uint8)
    target = np.zeros((slots, job.record_bytes), np.uint8)
    rows = min(job.batch, slots)
    firsts = [*range(0, slots - rows + 1, rows)]
    started, copied = time.perf_counter(), 0
    while not copied or time.perf_counter() - started < seconds:
        for first in firsts:
            target[first : first + rows] = source
        copied += len(firsts) * rows
    elapsed = time.perf_counter() - started
    return Sample(elapsed / copied, elapsed)


def waking(job: Job, hundredths: int) -> Sample:
    """The least wait of a sleeping receiver: a copy by the sender, and a wake-up."""
    copy = copying(job, small_ring(job), hundredths / 1000)
    seconds = limits.wake_up_seconds(hundredths) + copy.value
    return Sample(seconds, seconds)


class Table:
    """The measurements of one job, each made at its first use."""

    def __init__(self, job: Job, scale: Scale, say: Callable[[str], None]) -> None:
        self._comparison = TransportComparison(
            job, with_heavy=scale.name == "full" and job.senders + job.receivers <= 3
        )
        self.job, self._scale, self._say = job, scale, say
        self._works: dict[str, Work] = {}
        for way in self._comparison.ways:
            self._comparison.check(way)

    def close(self) -> None:
        self._comparison.close()

    def hop(self) -> Work:
        job, seconds = self.job, self._scale.of(0.0, 0.05, 0.1)
        work = Work(f"hop: {title(job)}", "hop", self._axes(), bytes_per_unit=job.record_bytes)
        ways = self._ways(lambda way: self._comparison.throughput(way, seconds))
        ways.append(Way(COPY, "limit", lambda: copying(job, job.capacity, seconds)))
        ways.append(Way(COPY_IN_CACHE, "limit", lambda: copying(job, small_ring(job), seconds)))
        return self._measured(work, ways, self._scale.of(1, 5, 11), self._ask_ray)

    def latency(self) -> Work:
        axes, quantity = self._axes(), "time from send to receipt, p50"
        work = Work(f"latency: {title(self.job)}", "latency", axes, quantity=quantity)
        large = self.job.record_bytes >= LARGE_BYTES
        count = self._scale.of(2, 50 if large else 200, 350 if large else 700)
        ways = [way for way in self._ways(lambda way: self._comparison.latency(way, count)) if way.name in SINGLY]
        if reason := limits.why_missing():
            work.missing[WAKING] = reason
        else:
            ways.append(Way(WAKING, "limit", lambda: waking(self.job, self._scale.of(1, 5, 15))))
        return self._measured(work, ways, self._scale.of(1, 3, 5))

    def _ways(self, measure: Callable[[str], Sample]) -> list[Way]:
        return [Way(way, role_by_name(way), lambda way=way: measure(way)) for way in self._comparison.ways]  # type: ignore[misc]

    def _ask_ray(self, work: Work) -> None:
        """Measure Ray after the others; only in a full run."""
        reason = ray_store.missing(self.job) or (None if self._scale.name == "full" else ONLY_IN_FULL)
        if reason:
            work.missing[ray_store.WAY] = reason
            return
        others_share = work.others_share  # Ray's own processes count as other programs
        with ray_store.started(self.job) as ray:
            ray.check()
            work.measure([Way(ray_store.WAY, "peer", lambda: ray.throughput(0.2))], 5, say=self._say)
        work.others_share = others_share

    def _measured(self, work: Work, ways: list[Way], rounds: int, then: Callable[[Work], None] | None = None) -> Work:
        if work.title not in self._works:
            work.missing |= self._comparison.missing
            work.measure(ways, rounds, warm_up=self._scale.of(0, 1, 1), say=self._say)
            if then:
                then(work)
            self._works[work.title] = work
        return self._works[work.title]

    def _axes(self) -> dict[str, float | str]:
        return {"record_bytes": self.job.record_bytes, "producers": self.job.senders, "takers": self.job.receivers}


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest, scale: Scale, say: Callable[[str], None]) -> Iterator[Table]:
    with closing(Table(request.param, scale, say)) as table:
        yield table


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The jobs of this scale; latencies only from one sender to one receiver."""
    if "table" in metafunc.fixturenames:
        every = jobs(scale_of(metafunc.config))
        if metafunc.function is bench_latency:
            sizes = scale_of(metafunc.config).of(SIZES, (64, 150_528, 4_194_304), SIZES)
            every = [job for job in every if job.senders == job.receivers == 1 and job.record_bytes in sizes]
        metafunc.parametrize("table", every, ids=title, indirect=True, scope="module")
    if "in_place" in metafunc.fixturenames:
        sizes = scale_of(metafunc.config).of(IN_PLACE_SIZES[:1], IN_PLACE_SIZES, IN_PLACE_SIZES)
        metafunc.parametrize("in_place", sizes, ids=lambda size: SIZES[size], indirect=True, scope="module")


@pytest.mark.parametrize("way", [*WAYS, ray_store.WAY, COPY, COPY_IN_CACHE])
def bench_hop(tell: Any, table: Table, way: str) -> None:
    tell(table.hop(), way)


@pytest.mark.parametrize("way", [*SINGLY, WAKING])
def bench_latency(tell: Any, table: Table, way: str) -> None:
    tell(table.latency(), way)


HUGE_PAGES = Entry("RingFeed, claim of many rows, huge_pages=True", "hops.ringfeed_ring", "RingFeedHugePages")
FILLED = Job(602_112, senders=2)
FILLING = [
    "RingFeed, put",
    "RingFeed, claim of many rows",
    "shared_memory, pool by hand",
    "shared_memory, a block a record",
    "iceoryx2, events",
    "multiprocessing.Queue",
    "PyTorch queue",
]


@pytest.fixture(scope="module")
def filling(scale: Scale, say: Callable[[str], None]) -> Iterator[Work]:
    """Two processes make samples, in place if the transport allows it; one process receives contiguous batches."""
    entries = [*(entry for entry in TRANSPORTS if entry.way in FILLING), HUGE_PAGES, OWN_MEMORY]
    with closing(TransportComparison(FILLED, entries, with_heavy=scale.name == "full")) as comparison:
        work = Work(
            f"fill: 224x224x3 float32 made by two senders, received as contiguous batches of {FILLED.batch}",
            "fill",
            {"record_bytes": FILLED.record_bytes, "producers": FILLED.senders, "takers": 1},
            bytes_per_unit=FILLED.record_bytes,
            missing=comparison.missing,
        )
        seconds = scale.of(0.0, 0.2, 0.4)
        ways = [
            Way(way, role_by_name(way), lambda way=way: comparison.filling(way, seconds)) for way in comparison.ways
        ]  # type: ignore[misc]
        yield work.measure(ways, scale.of(1, 7, 21), warm_up=scale.of(0, 1, 1), say=say)


@pytest.mark.parametrize("way", [*FILLING, HUGE_PAGES.way, OWN_MEMORY.way])
def bench_fill(tell: Any, filling: Work, way: str) -> None:
    tell(filling, way)


IN_PLACE = [
    Entry("RingFeed, claim of one row", "hops.ringfeed_ring", "RingFeedPut"),
    Entry("RingFeed, claim of many rows", "hops.ringfeed_ring", "RingFeedClaim"),
    Entry("iceoryx2, loan, polling", "hops.iceoryx", "IceoryxPolling", "iceoryx2"),
    Entry("iceoryx2, loan, events", "hops.iceoryx", "IceoryxEvents", "iceoryx2"),
]
IN_PLACE_SIZES = (150_528, 602_112, 4_194_304)


@pytest.fixture(scope="module")
def in_place(request: pytest.FixtureRequest, scale: Scale, say: Callable[[str], None]) -> Iterator[Work]:
    """One process makes records in the transport's own memory; another one receives them."""
    job = Job(request.param)
    with closing(TransportComparison(job, IN_PLACE)) as comparison:
        work = Work(
            f"in place: {title(job)}, a number written all over each",
            "in_place",
            {"record_bytes": job.record_bytes, "producers": 1, "takers": 1},
            bytes_per_unit=job.record_bytes,
            missing=comparison.missing,
        )
        seconds = scale.of(0.0, 0.1, 0.2)
        ways = [
            Way(way, role_by_name(way), lambda way=way: comparison.in_place(way, seconds)) for way in comparison.ways
        ]  # type: ignore[misc]
        yield work.measure(ways, scale.of(1, 7, 21), warm_up=scale.of(0, 1, 1), say=say)


@pytest.mark.parametrize("way", [entry.way for entry in IN_PLACE])
def bench_in_place(tell: Any, in_place: Work, way: str) -> None:
    tell(in_place, way)
