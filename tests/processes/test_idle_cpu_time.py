"""A waiting process uses almost no processor time, as the kernel measures it."""

from pathlib import Path

import psutil
import pytest

import ringfeed
from support import record, wait_until, wait_until_waited

WATCHED_NS = 1_000_000_000
ALMOST_NOTHING = 0.05  # of one core. A measured wait uses 0.001, a spinning wait uses 1.


def processor_ns(pid):
    """Return the processor time of all threads of a process."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def wait(pipe, name, what):
    ring = ringfeed.Ring.attach(name)
    if what == "take":
        ring.take(max_rows=8)
    elif what == "take of more rows than are ready":
        ring.take(max_rows=8, min_rows=4)
    elif what == "lingering take":
        ring.take(max_rows=8, linger=1e6)
    elif what == "take around a held slot":
        ring.take(max_rows=8, min_rows=3)
    elif what == "claim":
        ring.claim()
    elif what == "put":
        ring.put(record(1))


@pytest.mark.parametrize(
    ("what", "records"),
    [
        ("take", 0),
        ("take of more rows than are ready", 3),
        ("lingering take", 3),
        ("take around a held slot", 2),
        ("claim", 8),
        ("put", 8),
    ],
)
@pytest.mark.parametrize("waiters", [1, 3])
def test_a_wait_uses_almost_no_processor_time(ring, start, what, records, waiters):
    held = []
    for n in range(records):
        if what == "take around a held slot" and n == 1:
            held.append(ring.claim())
        ring.put(record(n))
    children = [start(wait, ring.name, what) for _ in range(waiters)]
    for _ in range(3):
        wait_until_waited(ring, "claim" if what in ("claim", "put") else "take")
    wait_until(lambda: ring.stats()["participants"] == waiters + 1)
    pids = [child.pid for child in children]
    wait_until(lambda: all(psutil.Process(pid).status() == psutil.STATUS_SLEEPING for pid in pids))
    before = [processor_ns(pid) for pid in pids]
    started = ring.stats()
    waited = "claim_wait_ns" if what in ("claim", "put") else "take_wait_ns"
    wait_until(lambda: ring.stats()[waited] - started[waited] >= WATCHED_NS * waiters)
    for pid, then in zip(pids, before, strict=True):
        assert processor_ns(pid) - then < ALMOST_NOTHING * WATCHED_NS
    for claim in held:
        claim.discard()
