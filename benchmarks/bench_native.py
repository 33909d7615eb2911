"""The native op: what it costs beside the call that no one can avoid, and what it spares beside `from_generator`.

Batches are published without writing into them, so that no payload is touched and none is waited for. What is compared
alternates, so that the machine's moods hit both; a ratio is the median of paired rounds.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import ringfeed
from bench_feed_step import ROWS, from_generator

SHAPES = [(16,), (56, 56, 3), (224, 224, 3)]
BATCHES = 4  # in the ring
HOGGED_BATCHES = 500


def rounds(request: pytest.FixtureRequest, many: int) -> int:
    return 3 if request.config.getoption("benchmark_disable") else many


def microseconds_per_call(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    for _ in range(BATCHES):
        call()
    return (time.perf_counter() - started) / BATCHES * 1e6


def paired(ours: Callable[[], float], reference: Callable[[], float], count: int) -> tuple[list[float], list[float]]:
    pairs = [(reference(), ours()) for _ in range(count)]
    return [own for _, own in pairs], [theirs for theirs, _ in pairs]


@pytest.mark.benchmark(group=f"ready run of {ROWS} rows to finished model call, {BATCHES} of them")
@pytest.mark.parametrize("pad", [None, "ring"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_fused_beside_a_ready_tensor(benchmark: Any, request: Any, shape: tuple[int, ...], pad: str | None) -> None:
    import tensorflow as tf

    def model(x: Any) -> Any:
        return x[:, :1]

    def on_host(x: Any) -> Any:
        with tf.device("/CPU:0"):
            return tf.identity(model(x))

    with ringfeed.Ring.create(None, {"x": (shape, "float32")}, slots=BATCHES * ROWS) as ring:
        fused = ringfeed.tf.fuse(ring, model, ROWS, pad=pad)
        signature = [tf.TensorSpec((None, *shape), tf.float32)]
        concrete = tf.function(on_host, input_signature=signature, autograph=False).get_concrete_function()
        tensor = tf.zeros((ROWS, *shape))

        def fill() -> None:
            for _ in range(BATCHES):
                ring.claim(ROWS).publish()

        def run_fused() -> float:
            fill()
            return microseconds_per_call(fused)

        def run_ready() -> float:
            return microseconds_per_call(lambda: concrete(tensor))

        paired(run_fused, run_ready, rounds(request, 20))
        ours, theirs = paired(run_fused, run_ready, rounds(request, 400))
        count = rounds(request, 100)
        benchmark.pedantic(lambda: [fused() for _ in range(BATCHES)], setup=fill, rounds=count)
    ratio = statistics.median(own / other for own, other in zip(ours, theirs, strict=True))
    benchmark.extra_info |= {
        "fused_us": statistics.median(ours),
        "ready_us": statistics.median(theirs),
        "ratio_to_a_ready_tensor": ratio,
    }
    print(
        f"\n{shape}, pad={pad}: fused {statistics.median(ours):.0f} us, the same function with a ready tensor "
        f"{statistics.median(theirs):.0f} us; median of paired ratios {ratio:.2f} (target 1.3)"
    )


@pytest.mark.benchmark(group=f"{HOGGED_BATCHES} batches in a graph, beside a Python thread that computes without end")
@pytest.mark.parametrize("side", [0, 384], ids=["nothing between batches", "a millisecond's model between batches"])
def bench_native_dataset_beside_a_busy_interpreter(benchmark: Any, request: Any, side: int) -> None:
    """What a batch is waited for, by the graph's own clock, from the end of one step to the begin of the next."""
    import tensorflow as tf

    count = 3 if request.config.getoption("benchmark_disable") else HOGGED_BATCHES
    weights = tf.random.uniform((max(side, 1), max(side, 1)))
    stop = threading.Event()

    def hog() -> None:
        while not stop.is_set():
            for _ in range(1000):
                pass

    @tf.function(reduce_retracing=True)
    def seconds_waited(elements: Any) -> Any:
        waited, before, rows = tf.zeros((), tf.float64), tf.timestamp(), 0
        for element in elements:
            with tf.control_dependencies([element]):
                now = tf.timestamp()
            waited += now - before
            rows += tf.shape(element)[0]
            with tf.control_dependencies([tf.matmul(weights, weights + element[0, 0, 0])]):
                before = tf.timestamp()
        return waited, rows

    # All batches are there before a round begins: no producer needs a core.
    with ringfeed.Ring.create(None, {"x": ((8, 8), "float32")}, slots=count * ROWS) as ring:
        ways = {
            "native": ringfeed.tf.dataset(ring, ROWS, structure="x", native=True).take(count),
            "Python code": ringfeed.tf.dataset(ring, ROWS, structure="x", native=False).take(count),
            "from_generator": from_generator(ring).take(count),
        }

        def milliseconds_per_batch(way: str) -> float:
            for _ in range(count):
                ring.claim(ROWS).publish()
            waited, rows = seconds_waited(ways[way])
            assert rows == count * ROWS
            return float(waited) * 1e3 / count

        def in_turn() -> dict[str, float]:
            return {way: milliseconds_per_batch(way) for way in ways}

        in_turn()
        alone = [in_turn() for _ in range(rounds(request, 5))]
        hogging = threading.Thread(target=hog)
        hogging.start()
        try:
            hogged = [in_turn() for _ in range(rounds(request, 9))]
            benchmark.pedantic(milliseconds_per_batch, ("native",), rounds=1)
        finally:
            stop.set()
            hogging.join()
    for name, measured in (("alone", alone), ("beside a busy interpreter", hogged)):
        medians = {way: statistics.median(each[way] for each in measured) for way in ways}
        ratio = statistics.median(each["from_generator"] / each["native"] for each in measured)
        benchmark.extra_info |= {f"{way} {name}, ms": value for way, value in medians.items()}
        benchmark.extra_info[f"times faster {name}"] = ratio
        texts = ", ".join(f"{way} {value:.3f} ms" for way, value in medians.items())
        where = f"\nwait for a batch in a graph, {'a model' if side else 'nothing'} between, {name}"
        print(f"{where}: {texts}; from_generator {ratio:.0f} times native")


@pytest.mark.benchmark(group="processor time of a second's wait for records")
def bench_idle(benchmark: Any, request: Any) -> None:
    import tensorflow as tf

    seconds = 0.2 if request.config.getoption("benchmark_disable") else 2.0
    used: dict[str, list[float]] = {"a waiting op": [], "a sleeping thread": []}
    with ringfeed.Ring.create(None, {"x": ((16,), "float32")}, slots=ROWS) as ring:
        waiting = tf.function(lambda: ringfeed.tf.take(ring, ROWS, timeout=seconds), autograph=False)

        def wait() -> None:
            with pytest.raises(tf.errors.UnknownError, match="RingEmpty"):
                waiting()

        wait()
        for _ in range(rounds(request, 5)):
            for name, idle in (("a waiting op", wait), ("a sleeping thread", lambda: time.sleep(seconds))):
                before = time.process_time()
                idle()
                used[name].append((time.process_time() - before) / seconds * 100)
        benchmark.pedantic(wait, rounds=1)
    for name, percents in used.items():
        benchmark.extra_info[f"{name}, percent of a core"] = statistics.median(percents)
    print("\nidle: " + ", ".join(f"{name} {statistics.median(each):.2f} % of a core" for name, each in used.items()))
