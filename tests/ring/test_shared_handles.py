"""Threads that share a handle: overlapping claims form contiguous batches; other claims keep their order."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ringfeed
from support import record, take_all

THREADS = 8


@pytest.fixture
def large(make_ring):
    return make_ring(slots=128)


def publish_together(claims):
    """Publish each claim in a thread of its own, in no fixed order."""
    start = threading.Barrier(len(claims))

    def publish(claim):
        start.wait()
        claim.publish()

    with ThreadPoolExecutor(len(claims)) as pool:
        list(pool.map(publish, claims))


def test_claims_that_threads_publish_at_once_are_one_batch(large):
    for _ in range(20):
        claims = [large.claim() for _ in range(THREADS)]
        for number, claim in enumerate(claims):
            claim["x"] = number
        publish_together(claims)
        with large.take(max_rows=128, min_rows=THREADS, timeout=0) as batch:
            assert batch["x"][:, 0].tolist() == list(range(THREADS))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[1::5], ids=str)
def test_one_thread_may_publish_its_claims_in_any_order(ring, order):
    claims = [ring.claim(rows=2) for _ in range(4)]
    for claim in claims:
        claim["x"] = 1
    for which in order:
        claims[which].publish()
    assert len(ring.take(max_rows=8, min_rows=8, timeout=0)) == 8


def test_threads_that_claim_work_and_publish_leave_few_batches(large):
    """A late claim alone breaks a contiguous run: 96 records arrive in a few batches, not in 96."""

    def produce(_):
        for _ in range(12):
            with large.claim() as slot:
                slot["x"] = 1
                threading.Event().wait(0.0005)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(produce, range(THREADS)))
    batches = 0
    while large.ready:
        large.take(max_rows=96, min_rows=large.ready, timeout=0).release()
        batches += 1
    assert batches <= 4


def test_puts_that_copy_without_the_gil_leave_few_batches(make_ring):
    ring = make_ring({"x": ((20_000,), "float64")}, slots=96)
    sample = {"x": np.ones(20_000)}

    def produce(_):
        for _ in range(12):
            ring.put(sample)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(produce, range(THREADS)))
    batches = 0
    while ring.ready:
        ring.take(max_rows=96, timeout=0).release()
        batches += 1
    assert batches <= 4


def test_what_a_thread_publishes_behind_what_another_told_it_of_is_taken_behind_it(large):
    """A hand-over between threads is an order that users observe: a thread passes on the number it published."""
    told = [threading.Event() for _ in range(40)]

    def relay(start):
        for step in range(start, 40, 2):
            if step:
                told[step - 1].wait()
            large.put(record(step))
            told[step].set()

    late = [large.claim() for _ in range(3)]  # overlaps every other claim
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(relay, [0, 1]))
    for claim in late:
        claim["x"] = 1000
        claim.publish()
    taken = [number for number in take_all(large) if number != 1000]
    assert taken == list(range(40))


def test_a_take_with_min_rows_does_not_wait_beside_records_that_lie_in_a_row(ring):
    claims = [ring.claim() for _ in range(4)]
    for claim in reversed(claims):
        claim["x"] = 0
        claim.publish()
    with pytest.raises(ringfeed.RingEmpty):
        ring.take(max_rows=8, min_rows=5, timeout=0)
    assert len(ring.take(max_rows=8, min_rows=4, timeout=0)) == 4
