"""Processor time while idle, resident memory, and growth of memory.

Each transport of `hops/` gets two separate processes, so that their resources belong to it alone.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np
import pytest

import pipelines.interface
import pipelines.mp_queue
import ringfeed
from hops.comparison import ONLY_IN_FULL, TransportComparison
from hops.interface import TRANSPORTS, Entry, Job
from measuring.processes import private_megabytes, processor_seconds, resident_megabytes, with_children
from measuring.rounds import Sample, Way, Work, role_by_name
from measuring.scale import Scale

SINGLY = [entry for entry in TRANSPORTS if entry.single]
RECORDS = 1_000_000
QUICK = ("RingFeed, put", "faster-fifo, put", "Pipe, send_bytes")  # a million records take these a few seconds
SLOW = ("shared_memory, a block a record", "PyTorch queue")
SPAWN = multiprocessing.get_context("spawn")
NOTHING = "limit: two processes that do nothing"

# ---- Transports: idle, and resident --------------------------------------------------------------


class TransportComparisons:
    """One comparison per transport."""

    def __init__(self, job: Job, entries: list[Entry], scale: Scale) -> None:
        self.each: dict[str, TransportComparison] = {}
        self.missing: dict[str, str] = {}
        with ExitStack() as stack:
            for entry in entries:
                comparison = stack.enter_context(
                    closing(TransportComparison(job, [entry], with_heavy=scale.name == "full"))
                )
                self.missing |= comparison.missing
                if comparison.ways:
                    self.each[entry.way] = comparison
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def comparisons(scale: Scale) -> Iterator[TransportComparisons]:
    with closing(TransportComparisons(Job(150_528), SINGLY, scale)) as comparisons:
        for way, comparison in comparisons.each.items():
            comparison.check(way)
        yield comparisons


@pytest.fixture(scope="module")
def idle(comparisons: TransportComparisons, scale: Scale, say: Callable[[str], None]) -> Work:
    """All receivers wait at the same time, because an idle wait disturbs no other process."""
    seconds = scale.of(0.1, 1.5, 5.0)
    work = Work("idle: a receiver waits for a record", "idle", {"what": "receiver"}, missing=comparisons.missing)
    work.quantity, work.unit = "processor time, of one core", "%"
    with closing(TransportComparison(Job(64), [])) as bare:
        every = comparisons.each | {NOTHING: bare}
        for _ in range(scale.of(1, 3, 5)):
            with ExitStack() as stack:
                for way, comparison in comparisons.each.items():
                    stack.enter_context(comparison.waiting(way))
                time.sleep(seconds / 4)
                before = {way: comparison.receiver_seconds() for way, comparison in every.items()}
                started = time.monotonic()
                time.sleep(seconds)
                elapsed = time.monotonic() - started
                for way, comparison in every.items():
                    used = comparison.receiver_seconds() - before[way]
                    work.add(way, role_by_name(way), Sample(used / elapsed * 100, elapsed))
            say(work.title)
    return work


@pytest.mark.parametrize("way", [*(entry.way for entry in SINGLY), NOTHING])
def bench_idle(tell: Any, idle: Work, way: str) -> None:
    tell(idle, way)


@pytest.fixture(scope="module")
def resident(comparisons: TransportComparisons, idle: Work, scale: Scale) -> Work:
    job = Job(150_528)
    title = f"memory: both ends of a transport with room for {job.capacity} records of 150 KB, after as many records"
    work = Work(title, "memory", {"record_bytes": job.record_bytes}, "resident memory, shared pages counted once", "MB")
    work.missing = comparisons.missing
    for way, comparison in comparisons.each.items():
        sample = comparison.carry(way, scale.of(1, job.capacity, job.capacity))
        work.add(way, role_by_name(way), Sample(resident_megabytes(comparison.pids()), sample.seconds))
    with closing(TransportComparison(job, [])) as bare:
        work.add(NOTHING, "limit", Sample(resident_megabytes(bare.pids()), 1e-9))
    return work


@pytest.mark.parametrize("way", [*(entry.way for entry in SINGLY), NOTHING])
def bench_resident(tell: Any, resident: Work, way: str) -> None:
    tell(resident, way)


# ---- Does anything grow? -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def growth(scale: Scale, say: Callable[[str], None]) -> Work:
    """The private memory of both processes after a tenth of the records, and after all of them."""
    records = scale.of(1000, RECORDS // 2, RECORDS)
    axes = {"what": "transport", "records": records}
    work = Work(f"growth: both ends over {records:,} records of 64 B", "memory_growth", axes)
    work.quantity, work.unit = "private memory gained", "MB"
    with closing(TransportComparison(Job(64), [])) as bare:
        started, before = time.perf_counter(), private_megabytes(bare.pids())
        _measure_growth(work, records, scale, say)
        work.add(NOTHING, "limit", Sample(private_megabytes(bare.pids()) - before, time.perf_counter() - started))
    return work


def _measure_growth(work: Work, records: int, scale: Scale, say: Callable[[str], None]) -> None:
    for entry in SINGLY:
        if entry.way in SLOW:
            work.missing[entry.way] = "a million records would take it minutes"
            continue
        if scale.name != "full" and entry.way not in QUICK:
            work.missing[entry.way] = ONLY_IN_FULL
            continue
        with closing(TransportComparison(Job(64), [entry])) as comparison:
            if not comparison.ways:
                work.missing |= comparison.missing
                continue
            comparison.carry(entry.way, records // 10)
            before = private_megabytes(comparison.pids())
            sample = comparison.carry(entry.way, records)
            work.add(
                entry.way,
                role_by_name(entry.way),
                Sample(private_megabytes(comparison.pids()) - before, sample.seconds),
            )
        say(f"{work.title}: {entry.way}")


@pytest.mark.parametrize("way", [*(entry.way for entry in SINGLY), NOTHING])
def bench_growth_of_transports(tell: Any, growth: Work, way: str) -> None:
    tell(growth, way)


def put_ones(name: str, count: int) -> None:
    with ringfeed.Ring.attach(name) as ring:
        record = {"x": np.ones(SHAPE, np.float32)}
        for _ in range(count):
            ring.put(record)
        ring.finish()


def send_ones(records: Any, count: int) -> None:
    record = np.ones(SHAPE, np.float32)
    for _ in range(count):
        records.put(record)


FROM_THE_RING, FROM_MEMORY = "RingFeed, dataset", "limit: the same batches from memory"
FROM_A_QUEUE = "multiprocessing.Queue, tf.constant"
BATCH, SHAPE = 64, (16, 16)


def gained(work: Work, way: str, batches: Iterable[Any], records: int) -> None:
    """Run batches of ones through a `tf.function`, like a server; record the added memory after the first tenth."""
    import tensorflow as tf

    total = tf.function(lambda x: tf.reduce_sum(x))
    started, done, seen, sizes = time.perf_counter(), 0, 0.0, list[float]()
    for x in batches:
        seen += float(total(x))
        done += len(x)
        if done >= records // 10 * (len(sizes) + 1):
            sizes.append(private_megabytes([os.getpid()]))
        del x
    assert seen == records * math.prod(SHAPE)
    work.add(way, role_by_name(way), Sample(sizes[-1] - sizes[0], time.perf_counter() - started))


@pytest.fixture(scope="module")
def growth_of_a_model_process(scale: Scale) -> Work:
    """This process takes a producer's records; for the limit it uses an existing tensor."""
    import tensorflow as tf

    records = scale.of(20_032, RECORDS // 5, RECORDS)
    axes = {"what": "model process", "records": records}
    title = f"growth: a model process over {records:,} records of 1 KB"
    work = Work(title, "memory_growth", axes, "private memory gained", "MB")
    gained(work, FROM_MEMORY, tf.data.Dataset.from_tensors(tf.ones((BATCH, *SHAPE))).repeat(records // BATCH), records)
    with ringfeed.Ring.create(None, {"x": (SHAPE, "float32")}, 1024) as ring, sending(put_ones, ring.name, records):
        gained(work, FROM_THE_RING, ringfeed.tf.dataset(ring, BATCH, structure="x", prefetch=2), records)
    queue = SPAWN.Queue(1024)
    with sending(send_ones, queue, records):
        batches = (tf.constant(np.stack([queue.get() for _ in range(BATCH)])) for _ in range(records // BATCH))
        gained(work, FROM_A_QUEUE, batches, records)
    queue.close()
    return work


@contextmanager
def sending(send: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Run the measurement in a separate process."""
    producer = SPAWN.Process(target=send, args=arguments, daemon=True)
    producer.start()
    try:
        yield
        producer.join()
    finally:
        producer.terminate()


@pytest.mark.parametrize("way", [FROM_THE_RING, FROM_A_QUEUE, FROM_MEMORY])
def bench_growth_of_a_model_process(tell: Any, growth_of_a_model_process: Work, way: str) -> None:
    tell(growth_of_a_model_process, way)


# ---- Model processes that wait -------------------------------------------------------------------

SLEEPING = "limit: a sleeping thread"
WAITING = (
    *("RingFeed, take in a graph", "RingFeed, engine and client", "RingFeed, predictor with two workers"),
    "multiprocessing.Queue, two workers",
)


@contextmanager
def waiting_op(seconds: float) -> Iterator[Callable[[], Any]]:
    import tensorflow as tf

    with ringfeed.Ring.create(None, {"x": ((16,), "float32")}, slots=64) as ring:
        take = tf.function(lambda: ringfeed.tf.take(ring, 64, timeout=seconds), autograph=False)

        def wait() -> None:
            with pytest.raises(tf.errors.UnknownError, match="RingEmpty"):
                take()

        yield wait


@contextmanager
def waiting_engine(seconds: float) -> Iterator[Callable[[], Any]]:
    with (
        ringfeed.Ring.create(None, {"x": ((16,), "float32")}, slots=64) as ring,
        ringfeed.Engine(ring, small_model(), batch_size=64),
        ringfeed.Client(ring.name) as client,
    ):
        client.predict({"x": np.ones(16, np.float32)})
        yield lambda: time.sleep(seconds)


@contextmanager
def waiting_predictor(seconds: float) -> Iterator[Callable[[], Any]]:
    with ringfeed.Predictor(small_model(), preprocess=ones, workers=2) as predictor:
        predictor.predict([0, 1, 2])
        yield lambda: time.sleep(seconds)


@contextmanager
def waiting_queue(seconds: float) -> Iterator[Callable[[], Any]]:
    job = pipelines.interface.Job(small_model(), ones, (16,), "float32", worker_count=2, batch_size=64)
    with closing(pipelines.mp_queue.MultiprocessingQueue(job)) as pipeline:
        pipeline.predict([0, 1, 2])  # type: ignore[list-item]
        yield lambda: time.sleep(seconds)


def ones(number: int) -> np.ndarray:
    return np.full(16, number, np.float32)


def small_model() -> Any:
    import keras

    return keras.Sequential([keras.Input((16,)), keras.layers.Dense(4)])


@contextmanager
def sleeping_thread(seconds: float) -> Iterator[Callable[[], Any]]:
    def sleep() -> None:
        thread = threading.Thread(target=time.sleep, args=(seconds,))
        thread.start()
        thread.join()

    yield sleep


@pytest.fixture(scope="module")
def waiting(scale: Scale, say: Callable[[str], None]) -> Work:
    """Each way is open during its own round alone, so that the processor time belongs to it."""
    seconds = scale.of(0.1, 0.7, 3.0)
    work = Work("idle: a model process waits", "idle", {"what": "model process"}, "processor time, of one core", "%")
    contexts = dict(zip(WAITING, (waiting_op, waiting_engine, waiting_predictor, waiting_queue), strict=True))

    def measure(opened: Callable[[float], Any]) -> Sample:
        with opened(seconds) as wait:
            wait()
            _, *children = with_children(os.getpid())
            of_children = processor_seconds(children)
            own, started = time.process_time(), time.monotonic()  # last here, first below: reading takes time
            wait()
            elapsed, own = time.monotonic() - started, time.process_time() - own
            used = own + processor_seconds(children) - of_children
            return Sample(used / elapsed * 100, elapsed)

    ways = [Way(name, role_by_name(name), lambda opened=opened: measure(opened)) for name, opened in contexts.items()]  # type: ignore[misc]
    ways.append(Way(SLEEPING, "limit", lambda: measure(sleeping_thread)))
    return work.measure(ways, scale.of(1, 2, 3), warm_up=0, say=say)


@pytest.mark.parametrize("way", [*WAITING, SLEEPING])
def bench_waiting_model_process(tell: Any, waiting: Work, way: str) -> None:
    tell(waiting, way)
