"""Rows per batch with eight producer threads: with one shared handle, and with a handle for each thread.

The program prints figures and asserts nothing: ``python benchmarks/manual/shared_handle.py``.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import ringfeed

THREADS, RECORDS, ROUNDS = 8, 12, 20


def measure(shared: bool) -> tuple[float, float]:
    """Return the rows per batch, and the milliseconds until all records of a round are taken."""
    batches, spent = 0, 0.0
    with ringfeed.Ring.create(None, {"x": ((512,), "int64")}, slots=128) as ring:
        handles = [ring if shared else ringfeed.Ring.attach(ring.name) for _ in range(THREADS)]

        def produce(handle: ringfeed.Ring) -> None:
            for _ in range(RECORDS):
                with handle.claim() as slot:
                    slot["x"] = 1
                    time.sleep(0.0005)

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in range(ROUNDS):
                list(pool.map(produce, handles))
                begun = time.monotonic()
                while left := ring.ready:
                    ring.take(ring.slots, min_rows=left).release()
                    batches += 1
                spent += time.monotonic() - begun
        for handle in [] if shared else handles:
            handle.close()
    return ROUNDS * THREADS * RECORDS / batches, spent / ROUNDS * 1e3


if __name__ == "__main__":
    for shared in (True, False):
        rows, milliseconds = measure(shared)
        name = "one handle" if shared else "a handle each"
        print(f"{name:14} {rows:6.1f} rows a batch, {milliseconds:6.2f} ms to take 96")
