"""A 64-byte record from one process to another: RingFeed beside faster-fifo.

One producer process puts single records as fast as it can; this process takes up to 64 at a time.
Each round moves RECORDS records; the producer runs already and starts on a signal, so no start-up
is in the time. Both queues have room for as many records.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import numpy as np
import pytest

from ringfeed import Ring, RingFinished

RECORDS = 200_000
RECORD_BYTES = 64
TAKE_AT_MOST = 64
SLOTS = 4096
SPAWN = multiprocessing.get_context("spawn")


def produce_into_ring(name: str, connection: Any, rows: int) -> None:
    ring = Ring.attach(name)
    record = {"x": np.zeros(RECORD_BYTES, np.uint8)}
    connection.send("ready")
    while connection.recv() == "go":
        if rows == 1:
            for _ in range(RECORDS):
                ring.put(record)
        else:
            written = 0
            while written < RECORDS:
                with ring.claim(rows=min(rows, RECORDS - written)) as claim:
                    claim["x"][...] = record["x"]
                    written += len(claim)


def produce_into_fifo(queue: Any, connection: Any, rows: int) -> None:
    record = bytes(RECORD_BYTES)
    connection.send("ready")
    while connection.recv() == "go":
        if rows == 1:
            for _ in range(RECORDS):
                queue.put(record, timeout=60.0)
        else:
            for start in range(0, RECORDS, rows):
                queue.put_many([record] * min(rows, RECORDS - start), timeout=60.0)


class Producer:
    """A process that produces RECORDS records, `rows` at a time, each time it is told to."""

    def __init__(self, target: Callable[..., None], queue: Any, rows: int) -> None:
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=target, args=(queue, theirs, rows), daemon=True)
        self.process.start()
        assert self.connection.recv() == "ready"

    def go(self) -> None:
        self.connection.send("go")

    def stop(self) -> None:
        self.connection.send("stop")
        self.process.join()


def note_time_per_record(benchmark: Any) -> None:
    if benchmark.stats is not None:  # None where benchmarks are only run, not measured
        benchmark.extra_info["ns_per_record"] = benchmark.stats.stats.median / RECORDS * 1e9


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(None, {"x": ((RECORD_BYTES,), "uint8")}, SLOTS) as ring:
        yield ring


@pytest.mark.benchmark(group="64-byte records, one producer process, takes of up to 64")
@pytest.mark.parametrize("rows", [1, TAKE_AT_MOST], ids=["put", "claim(rows=64)"])
def bench_ringfeed(benchmark: Any, ring: Ring, rows: int) -> None:
    producer = Producer(produce_into_ring, ring.name, rows)

    def hop() -> None:
        producer.go()
        received = 0
        while received < RECORDS:
            with ring.take(TAKE_AT_MOST) as batch:
                received += len(batch)

    benchmark.pedantic(hop, rounds=7, warmup_rounds=1)
    note_time_per_record(benchmark)
    producer.stop()
    ring.finish()
    with pytest.raises(RingFinished):
        ring.take(1)


@pytest.mark.benchmark(group="64-byte records, one producer process, takes of up to 64")
@pytest.mark.parametrize("rows", [1, TAKE_AT_MOST], ids=["put", "put_many"])
def bench_faster_fifo_get_many(benchmark: Any, rows: int) -> None:
    faster_fifo = pytest.importorskip("faster_fifo")
    queue = faster_fifo.Queue(max_size_bytes=SLOTS * (RECORD_BYTES + 64))
    producer = Producer(produce_into_fifo, queue, rows)

    def hop() -> None:
        producer.go()
        received = 0
        while received < RECORDS:
            with contextlib.suppress(Empty):
                received += len(queue.get_many(max_messages_to_get=TAKE_AT_MOST, timeout=10.0))

    benchmark.pedantic(hop, rounds=7, warmup_rounds=1)
    note_time_per_record(benchmark)
    producer.stop()
    queue.close()
