"""The cost of waiting: the processor time of many idle takers of one ring, and of many clients of one slow engine.

    python benchmarks/manual/idle_waiters.py [processes] [seconds]

Prints percent of one core for all waiting processes together. They are forked, so that 500 of them need little memory.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ringfeed
from ringfeed.client.reply_pool import PoolSettings, ReplyPool
from ringfeed.record_spec import RecordSpec

FIELDS = {"x": ((512,), "int64")}


def processor_ns(pids: list[int]) -> int:
    """Return the processor time of all threads of these processes."""
    return sum(
        int(task.read_text().split()[0]) for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def waiting(count: int, seconds: float, wait: Callable[[], object], settled: Callable[[], bool]) -> float:
    """Return the percent of a core that `count` waiting processes take together."""
    pids = []
    for _ in range(count):
        if (pid := os.fork()) == 0:
            try:
                wait()
            finally:
                os._exit(0)
        pids.append(pid)
    try:
        while not settled():
            time.sleep(0.1)
        time.sleep(3.0)
        before, began = processor_ns(pids), time.monotonic_ns()
        time.sleep(seconds)
        return 100.0 * (processor_ns(pids) - before) / (time.monotonic_ns() - began)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def idle_takers(count: int, seconds: float) -> float:
    """Measure takers of an empty ring."""
    with ringfeed.Ring.create_nameless(FIELDS, slots=256, participants=count + 8) as ring:
        return waiting(count, seconds, lambda: ring.take(max_rows=8), lambda: ring.stats()["participants"] == count + 1)


def waiting_clients(count: int, seconds: float, ask: Callable[[ringfeed.Client, Any], object]) -> float:
    """Measure clients that wait for an engine that never answers; the engine's own time does not count."""
    name = f"bench-waiting-{os.getpid()}"
    record = {"x": np.zeros(512, np.int64)}
    with ringfeed.Ring.create(name, FIELDS, slots=2 * count, participants=count + 8) as ring:
        pool = ReplyPool.make(
            ring, RecordSpec({"y": ((), "int64")}), 2 * count, count + 8, PoolSettings(single_output=True)
        )
        pool.serve(ring)
        try:

            def wait() -> None:
                with ringfeed.Client(name, timeout=None, max_in_flight=1) as client:
                    ask(client, record)

            return waiting(count, seconds, wait, lambda: ring.stats()["ready"] == count)
        finally:
            pool.close()


def main() -> None:
    """Print the figures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    print(f"{count} idle takers: {idle_takers(count, seconds):.2f} % of a core", flush=True)
    ways = {
        "that wait in predict": lambda client, record: client.predict(record),
        "that wait for a future": lambda client, record: client.submit(record).result(),
    }
    for way, ask in ways.items():
        print(f"{count} clients {way}: {waiting_clients(count, seconds, ask):.2f} % of a core", flush=True)


if __name__ == "__main__":
    main()
