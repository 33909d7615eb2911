"""From a ready run of the ring to a tensor and a finished call of a trivial model, in every way.

The producers publish batches without writing into them, so that no payload is touched and no batch is waited for. The
remaining time is the hand-over. The limit is the same model called with an existing tensor. `bench_busy_interpreter`
measures batches beside a busy interpreter; `bench_memory.py` measures the cost of an idle wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import ringfeed
from measuring.rounds import Sample, Way, Work, role_by_name
from measuring.scale import Scale

ROWS = 64
BATCHES = 2  # records published at a time
HELD = 2  # batches that a way may still hold after its call of the model
SHAPES = [(16,), (56, 56, 3), (224, 224, 3)]
READY = "limit: the model with a ready tensor"
REPEATED = "limit: a dataset of one tensor, again and again"


class Hand:
    """A ring, and every way to bring a batch of it to the model.

    A way is a function without arguments that takes the next batch and calls the model, like a user's loop.
    """

    def __init__(self, shape: tuple[int, ...], stack: ExitStack) -> None:
        import tensorflow as tf

        self.tf = tf
        spec = {"x": (shape, "float32")}
        self.ring = stack.enter_context(ringfeed.Ring.create(None, spec, slots=(BATCHES + HELD) * ROWS))
        signature = [tf.TensorSpec((None, *shape), tf.float32)]
        self.model = tf.function(on_host(first_column), input_signature=signature, autograph=False)
        self.concrete = self.model.get_concrete_function()
        self.ready = tf.zeros((ROWS, *shape))

    def fused(self) -> Callable[[], Any]:
        return ringfeed.tf.fuse(self.ring, first_column, ROWS)

    def native_dataset(self) -> Callable[[], Any]:
        return self._next(ringfeed.tf.dataset(self.ring, ROWS, structure="x", native=True))

    def python_dataset(self) -> Callable[[], Any]:
        return self._next(ringfeed.tf.dataset(self.ring, ROWS, structure="x", native=False))

    def from_generator(self) -> Callable[[], Any]:
        return self._next(from_generator(self.ring))

    def dlpack(self) -> Callable[[], Any]:
        def call() -> Any:
            with self.ring.take(ROWS) as batch:
                return self.concrete(ringfeed.tf.tensors(batch, "x"))

        return call

    def convert_to_tensor(self) -> Callable[[], Any]:
        def call() -> Any:
            with self.ring.take(ROWS) as batch:
                return self.concrete(self.tf.convert_to_tensor(batch["x"]))

        return call

    def constant(self) -> Callable[[], Any]:
        def call() -> Any:
            with self.ring.take(ROWS) as batch:
                return self.concrete(self.tf.constant(batch["x"]))

        return call

    def _next(self, elements: Any) -> Callable[[], Any]:
        iterator = iter(elements)
        return lambda: self.concrete(next(iterator))

    def measure(self, call: Callable[[], Any], times: int) -> Sample:
        """Fill and empty the ring repeatedly; the value is the time of one batch."""
        elapsed = 0.0
        for _ in range(times):
            self.fill()
            started = time.perf_counter()
            for _ in range(BATCHES):
                call()
            elapsed += time.perf_counter() - started
        return Sample(elapsed / (times * BATCHES), elapsed)

    def measure_ready(self, times: int) -> Sample:
        """The model alone."""
        started = time.perf_counter()
        for _ in range(times * BATCHES):
            self.concrete(self.ready)
        elapsed = time.perf_counter() - started
        return Sample(elapsed / (times * BATCHES), elapsed)

    def fill(self) -> None:
        for _ in range(BATCHES):
            self.ring.claim(ROWS).publish()


WAYS = {
    "RingFeed, fused": Hand.fused,
    "RingFeed, native dataset": Hand.native_dataset,
    "RingFeed, dataset in Python code": Hand.python_dataset,
    "RingFeed, DLPack": Hand.dlpack,
    "Dataset.from_generator over the ring": Hand.from_generator,
    "tf.convert_to_tensor": Hand.convert_to_tensor,
    "tf.constant": Hand.constant,
}


def first_column(x: Any) -> Any:
    return x[:, :1]


def on_host(model: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        import tensorflow as tf

        with tf.device("/CPU:0"):
            return tf.identity(model(x))

    return call


def from_generator(ring: ringfeed.Ring) -> Any:
    """Like the documentation's example, but without prefetching, which would take batches before the clock starts."""
    import tensorflow as tf

    def batches() -> Iterator[Any]:
        while True:
            tf.constant(0)  # empties TensorFlow's list of arrays to free
            with ring.take(ROWS) as batch:
                yield batch["x"]

    signature = tf.TensorSpec((None, *ring.spec["x"].shape), tf.float32)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return tf.data.Dataset.from_generator(batches, output_signature=signature).with_options(options)


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def handed_over(request: pytest.FixtureRequest, scale: Scale, say: Callable[[str], None]) -> Work:
    """Each way gets a separate ring, because a dataset takes batches ahead and would take those of another way."""
    shape = request.param
    title = f"feed: a ready run of {ROWS} rows {shape} float32 to a finished call of a trivial model"
    work = Work(title, "feed", {"shape": str(shape), "rows": ROWS})
    times, rounds = scale.of(1, 5, 10), scale.of(1, 30, 100)
    with ExitStack() as stack:
        ways = []
        for way, make in WAYS.items():
            hand = Hand(shape, stack)
            call = make(hand)
            ways.append(Way(way, role_by_name(way), lambda hand=hand, call=call: hand.measure(call, times)))  # type: ignore[misc]
        ways.append(Way(READY, "limit", lambda: hand.measure_ready(times)))
        return work.measure(ways, rounds, warm_up=scale.of(1, 3, 3), say=None)


@pytest.mark.parametrize("way", [*WAYS, READY])
def bench_feed(tell: Any, handed_over: Work, way: str) -> None:
    tell(handed_over, way)


# ---- Beside a busy interpreter -------------------------------------------------------------------

BUSY_WAYS = {
    "RingFeed, native dataset": lambda ring: ringfeed.tf.dataset(ring, ROWS, structure="x", native=True),
    "RingFeed, dataset in Python code": lambda ring: ringfeed.tf.dataset(ring, ROWS, structure="x", native=False),
    "Dataset.from_generator over the ring": from_generator,
}


def hog(stop: threading.Event) -> None:
    while not stop.is_set():
        for _ in range(1000):
            pass


def seconds_waited(elements: Any) -> Any:
    """Return the seconds between the end of each step and the begin of the next, by the graph's clock, and the rows."""
    import tensorflow as tf

    waited, before, rows = tf.zeros((), tf.float64), tf.timestamp(), 0
    for element in elements:
        with tf.control_dependencies([element]):
            waited += tf.timestamp() - before
        rows += tf.shape(element)[0]
        with tf.control_dependencies([waited]):
            before = tf.timestamp()
    return waited, rows


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "beside a busy interpreter"])
def in_a_graph(request: pytest.FixtureRequest, scale: Scale, say: Callable[[str], None]) -> Work:
    import tensorflow as tf

    count = scale.of(3, 100, 500)
    where = "beside a Python thread that computes without end" if request.param else "with nothing else to do"
    axes: dict[str, float | str] = {"interpreter": "busy" if request.param else "idle"}
    work = Work(f"feed: wait for each of {count} ready batches in a graph, {where}", "feed in a graph", axes)
    wait = tf.function(seconds_waited, reduce_retracing=True)
    # All batches are ready before a round begins, so that no producer needs a core.
    with ringfeed.Ring.create(None, {"x": ((8, 8), "float32")}, slots=count * ROWS) as ring:
        datasets = {way: make(ring).take(count) for way, make in BUSY_WAYS.items()}
        datasets[REPEATED] = tf.data.Dataset.from_tensors(tf.zeros((ROWS, 8, 8))).repeat(count)

        def measure(way: str) -> Sample:
            for _ in range(count if way != REPEATED else 0):
                ring.claim(ROWS).publish()
            started = time.perf_counter()
            waited, rows = wait(datasets[way])
            assert rows == count * ROWS
            return Sample(float(waited) / count, time.perf_counter() - started)

        stop = threading.Event()
        hogging = threading.Thread(target=hog, args=(stop,))
        if request.param:
            hogging.start()
        try:
            ways = [Way(way, role_by_name(way), lambda way=way: measure(way)) for way in datasets]  # type: ignore[misc]
            return work.measure(ways, scale.of(1, 5, 9), say=say)
        finally:
            stop.set()
            if request.param:
                hogging.join()


@pytest.mark.parametrize("way", [*BUSY_WAYS, REPEATED])
def bench_busy_interpreter(tell: Any, in_a_graph: Work, way: str) -> None:
    tell(in_a_graph, way)
