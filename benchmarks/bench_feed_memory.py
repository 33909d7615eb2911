"""A million records through ring and dataset: does the model process grow?

A producer process puts the records; this process runs them through a `tf.function` in batches of 64, as
a server would, and looks at its own resident memory (without the ring's shared pages) along the way.
The first tenth is warm-up: TensorFlow's allocators and caches fill up.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringfeed import Ring

RECORDS = 1_000_000
SHAPE = (16, 16)
BATCH_SIZE = 64
LIMIT_MEGABYTES = 8.0


def produce(name: str, count: int) -> None:
    with Ring.attach(name) as ring:
        record = {"x": np.ones(SHAPE, np.float32)}
        for _ in range(count):
            ring.put(record)
        ring.finish()


def private_megabytes() -> float:
    """Return this process's resident memory but for shared memory, in MB."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return (int(status["RssAnon"].split()[0]) + int(status["RssFile"].split()[0])) / 1000


@pytest.mark.slow
@pytest.mark.benchmark(group="a million records through ring and dataset")
def bench_memory_of_a_million_records(benchmark: Any, request: pytest.FixtureRequest) -> None:
    tf = pytest.importorskip("tensorflow")
    import ringfeed.tf as feed

    records = 50_000 if request.config.getoption("benchmark_disable") else RECORDS
    total = tf.function(lambda element: tf.reduce_sum(element["x"]))

    def run() -> tuple[float, list[float]]:
        seen, done, sizes = 0.0, 0, []
        with Ring.create(None, {"x": (SHAPE, "float32")}, 1024) as ring:
            producer = multiprocessing.get_context("spawn").Process(target=produce, args=(ring.name, records))
            producer.start()
            for element in feed.dataset(ring, BATCH_SIZE, prefetch=2):
                seen += float(total(element))
                done += len(element["x"])
                if done >= records // 10 * (len(sizes) + 1):
                    sizes.append(private_megabytes())
                del element
            producer.join()
        return seen, sizes

    seen, sizes = benchmark.pedantic(run, rounds=1)
    assert seen == records * SHAPE[0] * SHAPE[1]
    growth = sizes[-1] - sizes[0]
    benchmark.extra_info["growth_megabytes"] = growth
    print(
        f"\nresident memory: {sizes[0]:.1f} MB after a tenth, {sizes[-1]:.1f} MB at the end, {growth:+.1f} MB", end=" "
    )
    print(f"(target: less than {LIMIT_MEGABYTES:g} MB)")
