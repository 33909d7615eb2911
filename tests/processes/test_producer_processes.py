"""`producing` in separate processes: they raise, die, stop or fork, and takers learn of each end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

import pytest

import ringfeed
from support import in_thread, numbers, record, run_program, wait_until, wait_until_waited


def produce(pipe, name, count, first=0):
    """Put records in a `producing` block; report its begin, and wait for permission to leave it."""
    with ringfeed.Ring.attach(name) as ring, ring.producing():
        for number in range(first, first + count):
            ring.put(record(number))
        pipe.tell("inside")
        if pipe.hear() == "raise":
            raise ValueError(f"no picture {first}")


def taken_from(ring):
    return [number for batch in ring.batches(4) for number in numbers(batch)]


def test_several_processes_produce_and_the_last_one_ends_the_ring(make_ring, start):
    ring = make_ring(slots=64, producers=3)
    children = [start(produce, ring.name, 5, first) for first in (0, 100, 200)]
    for child in children:
        assert child.told() == "inside"
    for child in children:
        assert not ring.finished
        child.tell("leave")
        child.result()
    assert sorted(taken_from(ring)) == [*range(5), *range(100, 105), *range(200, 205)]


def test_a_process_that_raises_is_told_with_its_number_and_traceback(make_ring, start):
    ring = make_ring()
    child = start(produce, ring.name, 2)
    child.told()
    with in_thread(taken_from, ring) as taken:
        wait_until_waited(ring, "take")
        child.tell("raise")
        with pytest.raises(ringfeed.ProducerFailed, match=r"(?s)ValueError: no picture 0\n.*in produce") as raised:
            taken.result()
    assert f"In process {child.pid}:" in str(raised.value)


def test_the_text_stays_when_the_process_is_gone(make_ring, start):
    ring = make_ring(producers=2)
    child = start(produce, ring.name, 0)
    child.told()
    child.tell("raise")
    wait_until(lambda: child.process.poll() is not None)
    with pytest.raises(ringfeed.RingEmpty), ring.producing():
        ring.take(1, timeout=0)
    with pytest.raises(ringfeed.ProducerFailed, match="no picture 0"):
        ring.take(1)


@pytest.mark.parametrize("waiting", ["take", "batches", "linger", "take_urgent"])
def test_a_producer_that_is_killed_has_left(make_ring, start, waiting):
    ring = make_ring(priorities=2 if waiting == "take_urgent" else 1)
    child = start(produce, ring.name, 2)
    child.told()
    wait = {
        "take": lambda: numbers(ring.take(4, min_rows=4)),
        "batches": lambda: next(numbers(batch) for batch in ring.batches(4, min_rows=4)),
        "linger": lambda: numbers(ring.take(4, linger=100.0)),
        "take_urgent": lambda: numbers(ring.take_urgent(4, min_rows=4)),
    }[waiting]
    with in_thread(wait) as taken:
        if waiting != "take_urgent":
            wait_until_waited(ring, "take")
        child.kill()
        assert taken.result() == [0, 1]
    with pytest.raises(ringfeed.RingFinished):
        ring.take_urgent(1)


def claim_and_wait(pipe, name):
    with ringfeed.Ring.attach(name) as ring, ring.producing(), ring.claim(rows=2):
        pipe.tell("inside")
        pipe.hear()


def test_a_killed_producers_claims_show_in_the_stats(ring, start):
    child = start(claim_and_wait, ring.name)
    child.told()
    child.kill()
    with pytest.raises(ringfeed.RingFinished):
        ring.take(1)
    assert ring.stats()["reclaimed"] == 2


def test_of_two_that_are_killed_the_second_ends_the_ring(ring, start):
    children = [start(produce, ring.name, 0) for _ in range(2)]
    for child in children:
        child.told()
    children[0].kill()
    with pytest.raises(ringfeed.RingEmpty):
        ring.take(1, timeout=0.2)
    children[1].kill()
    with pytest.raises(ringfeed.RingFinished):
        ring.take(1)


def test_a_killed_producer_counts_among_those_that_come(make_ring, start):
    ring = make_ring(producers=2)
    child = start(produce, ring.name, 0)
    child.told()
    child.kill()
    with pytest.raises(ringfeed.RingEmpty):
        ring.take(1, timeout=0.2)
    with ring.producing():
        ring.put(record(5))
    assert taken_from(ring) == [5]


def test_a_stopped_producer_is_alive(ring, start):
    child = start(produce, ring.name, 0)
    child.told()
    child.stop()
    child.tell("leave")
    with pytest.raises(ringfeed.RingEmpty):
        ring.take(1, timeout=0.3)
    child.resume()
    child.result()
    with pytest.raises(ringfeed.RingFinished):
        ring.take(1)


def sleep_in_a_block(pipe, name):
    with ringfeed.Ring.attach(name) as ring, ring.producing():
        pipe.tell("inside")
        time.sleep(1000)


def test_ctrl_c_in_a_producer_goes_to_takers(ring, start):
    child = start(sleep_in_a_block, ring.name)
    child.told()
    child.signal(signal.SIGINT)
    with pytest.raises(ringfeed.ProducerFailed, match="KeyboardInterrupt"):
        ring.take(1)


def test_sigterm_is_a_kill(ring, start):
    child = start(sleep_in_a_block, ring.name)
    child.told()
    child.signal(signal.SIGTERM)
    with pytest.raises(ringfeed.RingFinished):
        ring.take(1)


ENDS = {
    "sys.exit(0)": None,
    "sys.exit()": None,
    "sys.exit('no disk')": "SystemExit: no disk",
    "os._exit(3)": None,
    "os.abort()": None,
    "int('x')": "ValueError: invalid literal",
    "ring.close(); ring.put({})": "RecordMismatch|RingClosed",
}


@pytest.mark.parametrize("end", ENDS)
def test_any_end_of_a_program_ends_its_block(ring, end):
    source = f"""
    ring = ringfeed.Ring.attach({ring.name!r})
    with ring.producing():
        {end}
    """
    run_program(source)
    error = ringfeed.ProducerFailed if ENDS[end] else ringfeed.RingFinished
    with pytest.raises(error, match=ENDS[end]):
        ring.take(1)


def test_a_thread_that_is_inside_when_its_program_ends_has_left(ring):
    status, _, error = run_program(
        f"""
        import threading, time
        ring = ringfeed.Ring.attach({ring.name!r})
        inside = threading.Event()
        def produce():
            with ring.producing():
                inside.set()
                time.sleep(1000)
        threading.Thread(target=produce, daemon=True).start()
        inside.wait()
        """
    )
    assert status == 0, error
    with pytest.raises(ringfeed.RingFinished):
        ring.take(1)


# ---- Forks -------------------------------------------------------------------------------------------

fork = multiprocessing.get_context("fork")


def in_fork(function):
    """Run a function in a forked child that then exits at once; return its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_that_leaves_its_parents_block_leaves_it_open(ring):
    def raise_out_of_it(block):
        try:
            raise ValueError("in the child")
        except ValueError:
            block.__exit__(*sys.exc_info())

    block = ring.producing()
    with block:
        assert in_fork(lambda: raise_out_of_it(block)) == 0
        with pytest.raises(ringfeed.RingEmpty):
            ring.take(1, timeout=0.2)
        ring.put(record(1))
    assert taken_from(ring) == [1]


def test_a_forked_child_does_not_produce_until_it_enters(ring):
    with ring.producing():
        pid = os.fork()
        if pid == 0:
            time.sleep(1000)
    try:
        with pytest.raises(ringfeed.RingFinished):
            ring.take(1)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_forked_child_that_enters_inside_its_parents_block_is_a_producer_of_its_own(make_ring):
    ring = make_ring(producers=2)

    def put_in_a_block():
        with ring.producing():
            ring.put(record(2))

    with ring.producing():
        assert in_fork(put_in_a_block) == 0
        assert not ring.finished
        ring.put(record(1))
    assert sorted(taken_from(ring)) == [1, 2]


def test_a_forked_child_that_fails_is_told(make_ring):
    ring = make_ring(producers=2)

    def fail():
        with ring.producing():
            raise ValueError("in the child")

    with ring.producing():
        assert in_fork(fail) == 1
    with pytest.raises(ringfeed.ProducerFailed, match="in the child"):
        ring.take(1)


# ---- Pools of processes ------------------------------------------------------------------------------


def produce_share(name, first):
    with ringfeed.Ring.attach(name) as ring, ring.producing():
        for number in range(first, first + 10):
            ring.put(record(number))
        if first == 20:
            raise ValueError("the share of 20")


def take_into(ring, taken):
    for batch in ring.batches(4):
        taken += numbers(batch)


@pytest.mark.parametrize("shares", [[0, 10], [0, 10, 20]], ids=len)
def test_shares_of_a_pool_end_the_ring_whichever_process_makes_them(make_ring, shares):
    ring = make_ring(slots=4, producers=len(shares))
    with fork.Pool(2) as pool:
        made = pool.starmap_async(produce_share, [(ring.name, first) for first in shares], chunksize=1)
        taken: list[int] = []
        if 20 in shares:
            with pytest.raises(ringfeed.ProducerFailed, match="ValueError: the share of 20"):
                take_into(ring, taken)
            with pytest.raises(ValueError, match="the share of 20"):
                made.get()
        else:
            take_into(ring, taken)
            made.get()
    assert sorted(taken) == [number for first in shares for number in range(first, first + 10)]
