"""Idle engines and clients use almost no processor time, as the kernel measures it for their threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from serving import x_of

from ringfeed.testing import ManualPolicy
from support import in_thread, wait_until

WATCHED_NS = 1_000_000_000
ALMOST_NOTHING = 0.05  # of one core. Measured: 0.002 to 0.01; a spinning wait uses 1.


def processor_ns(threads):
    return sum(int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]) for thread in threads)


def new_threads(before, count):
    return wait_until(lambda: len(found := set(threading.enumerate()) - before) == count and found)


@pytest.mark.parametrize("priorities", [1, 2])
def test_an_engine_that_waits_uses_almost_no_processor_time(make_ring, serve, make_client, priorities):
    ring = make_ring(slots=8, priorities=priorities)
    engine = serve(ring)
    assert make_client(ring.name).predict(x_of(1)) == 1
    before = processor_ns(engine._threads)
    started = engine.stats().uptime_seconds
    wait_until(lambda: engine.stats().uptime_seconds - started >= WATCHED_NS / 1e9)
    assert processor_ns(engine._threads) - before < ALMOST_NOTHING * WATCHED_NS


def test_clients_that_wait_for_answers_use_almost_no_processor_time(make_ring, serve, make_client):
    ring = make_ring(slots=64)
    policy = ManualPolicy(64)
    engine = serve(ring, policy=policy)
    client = make_client(ring.name)
    there = set(threading.enumerate())
    futures = [client.submit(x_of(number)) for number in range(40)]
    with in_thread(client.predict, x_of(40)) as one, in_thread(client.predict, x_of(41), timeout=1000) as two:
        wait_until(lambda: ring.ready == 42)
        waiting = new_threads(there, 3)
        before = processor_ns(waiting)
        started = engine.stats().uptime_seconds
        wait_until(lambda: engine.stats().uptime_seconds - started >= WATCHED_NS / 1e9)
        used = processor_ns(waiting) - before
        policy.release(42)
        assert [int(future.result()) for future in [*futures, one, two]] == list(range(42))
    assert used < ALMOST_NOTHING * WATCHED_NS * 3


def test_a_client_that_has_nothing_under_way_has_no_thread(ring, serve, make_client):
    serve(ring)
    client = make_client(ring.name)
    there = set(threading.enumerate())
    for number in range(3):
        assert client.submit(x_of(number)).result() == number
        wait_until(lambda: set(threading.enumerate()) == there)
