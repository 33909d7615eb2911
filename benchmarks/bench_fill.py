"""Two producers fill 224x224x3 float32 samples: slots of the ring beside memory of their own.

The limit is what the same two processes reach when they fill private memory of the same size, lap
after lap, and tell nobody. Each round each producer fills FILLS samples; this process takes and
releases batches of BATCH_ROWS. Rounds of both kinds alternate, so that the machine's moods hit both.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import Any

import numpy as np
import pytest

from ringfeed import Ring

SHAPE = (224, 224, 3)
PRODUCERS = 2
FILLS = 3000
SLOTS = 256
BATCH_ROWS = 64
ROUNDS = 9
SPAWN = multiprocessing.get_context("spawn")


def produce(name: str, connection: Any) -> None:
    ring = Ring.attach(name)
    own = np.zeros((SLOTS // PRODUCERS, *SHAPE), np.float32)
    connection.send("ready")
    while (order := connection.recv()) != "stop":
        if order == "ring":
            for number in range(FILLS):
                with ring.claim() as slot:
                    slot["image"][...] = number
        else:
            for number in range(FILLS):
                own[number % len(own)][...] = number
        connection.send("done")


def one_round(ring: Ring, connections: list[Any], order: str) -> float:
    started = time.perf_counter()
    for connection in connections:
        connection.send(order)
    if order == "ring":
        received = 0
        while received < PRODUCERS * FILLS:
            with ring.take(BATCH_ROWS, min_rows=min(BATCH_ROWS, PRODUCERS * FILLS - received)) as batch:
                received += len(batch)
    for connection in connections:
        assert connection.recv() == "done"
    return time.perf_counter() - started


@pytest.mark.benchmark(group="224x224x3 float32 filled by two producers")
def bench_fill_in_place_beside_private_memory(benchmark: Any) -> None:
    pairs = [SPAWN.Pipe() for _ in range(PRODUCERS)]
    connections = [ours for ours, _ in pairs]
    seconds: dict[str, list[float]] = {"ring": [], "private": []}
    with Ring.create(None, {"image": (SHAPE, "float32")}, SLOTS) as ring:
        processes = [SPAWN.Process(target=produce, args=(ring.name, theirs), daemon=True) for _, theirs in pairs]
        for process in processes:
            process.start()
        assert [connection.recv() for connection in connections] == ["ready"] * PRODUCERS
        for order in ("ring", "private"):
            one_round(ring, connections, order)  # first touch
        for _ in range(ROUNDS):
            seconds["private"].append(one_round(ring, connections, "private"))
            seconds["ring"].append(one_round(ring, connections, "ring"))
        benchmark.pedantic(one_round, args=(ring, connections, "ring"), rounds=1)
        for connection in connections:
            connection.send("stop")
        for process in processes:
            process.join()
    gigabytes = PRODUCERS * FILLS * np.prod(SHAPE) * 4 / 1e9
    ratio = statistics.median(p / r for p, r in zip(seconds["private"], seconds["ring"], strict=True))
    for kind, rounds in seconds.items():
        benchmark.extra_info[f"{kind}_gigabytes_per_second"] = gigabytes / statistics.median(rounds)
    benchmark.extra_info["ring_to_private_ratio"] = ratio
    rates = ", ".join(f"{kind} {gigabytes / statistics.median(rounds):.2f} GB/s" for kind, rounds in seconds.items())
    print(f"\nfill in place: {rates}; median of paired ratios {ratio:.3f} (target 0.9)")
