"""What a batch costs on its way from the ring into TensorFlow, beside `Dataset.from_generator` over the same ring.

A producer process publishes batches of 64 without writing into them, so that none is waited for and no
payload is touched: what is left is the hand-over. `tensors` is the way of a loop of one's own, without `tf.data`.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ringfeed

ROWS = 64
BATCHES = 1000
SHAPES = [(8, 8), (224, 224, 3)]


def publish(name: str) -> None:
    with ringfeed.Ring.attach(name) as ring:
        while True:
            try:
                ring.claim(ROWS).publish()
            except ringfeed.RingClosed:
                return


@pytest.fixture(params=SHAPES, ids=str)
def fed_ring(request: pytest.FixtureRequest) -> Iterator[ringfeed.Ring]:
    with ringfeed.Ring.create(None, {"x": (request.param, "float32")}, slots=4 * ROWS) as ring:
        producer = multiprocessing.get_context("spawn").Process(target=publish, args=(ring.name,))
        producer.start()
        yield ring
    producer.join()


def ours(ring: ringfeed.Ring) -> Any:
    return ringfeed.tf.dataset(ring, ROWS, structure="x")


def from_generator(ring: ringfeed.Ring) -> Any:
    import tensorflow as tf

    def batches() -> Iterator[Any]:
        while True:
            tf.constant(0)  # empties TensorFlow's list of arrays that it is done with
            with ring.take(ROWS) as batch:
                yield batch["x"]

    signature = tf.TensorSpec((None, *ring.spec["x"].shape), tf.float32)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return tf.data.Dataset.from_generator(batches, output_signature=signature).with_options(options)


def rounds(request: pytest.FixtureRequest) -> int:
    return 3 if request.config.getoption("benchmark_disable") else BATCHES


@pytest.mark.benchmark(group=f"next(iterator) of a batch of {ROWS}")
@pytest.mark.parametrize("make", [ours, from_generator])
def bench_next(benchmark: Any, request: pytest.FixtureRequest, fed_ring: Any, make: Callable[..., Any]) -> None:
    benchmark.pedantic(next, (iter(make(fed_ring)),), rounds=rounds(request), warmup_rounds=10)


@pytest.mark.benchmark(group=f"{BATCHES} batches of {ROWS} in a loop in a graph")
@pytest.mark.parametrize("make", [ours, from_generator])
def bench_loop(benchmark: Any, request: pytest.FixtureRequest, fed_ring: Any, make: Callable[..., Any]) -> None:
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def read(elements: Any) -> Any:
        rows = 0
        for element in elements:
            rows += tf.shape(element)[0]
        return rows

    elements = make(fed_ring).take(rounds(request))
    benchmark.pedantic(read, (elements,), rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group=f"an eager tensor of a batch of {ROWS}")
def bench_tensors(benchmark: Any, request: pytest.FixtureRequest, fed_ring: Any) -> None:
    def take() -> None:
        with fed_ring.take(ROWS) as batch:
            ringfeed.tf.tensors(batch, "x")

    benchmark.pedantic(take, rounds=rounds(request), warmup_rounds=10)
