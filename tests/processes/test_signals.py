"""Signals during a wait: Ctrl-C ends the wait; other handlers run, and the wait continues."""

import os
import signal
import threading

import psutil
import pytest

import ringfeed
from support import numbers, record, states, take_all, wait_until, wait_until_waited


def wait(pipe, name, what):
    ring = ringfeed.Ring.attach(name)
    try:
        if what == "take":
            ring.take(max_rows=1)
        elif what == "lingering take":
            ring.take(max_rows=8, linger=1e6)
        elif what == "batches":
            for _ in ring.batches(max_rows=1):
                pass
        elif what == "claim":
            ring.claim()
        elif what == "claim of rows":
            ring.claim(rows=3)
        elif what == "put":
            ring.put(record(1))
    except KeyboardInterrupt:
        return "interrupted", states(ring)


def fill(ring, count):
    for n in range(count):
        ring.put(record(n))


@pytest.mark.parametrize("what", ["take", "lingering take", "batches", "claim", "claim of rows", "put"])
def test_ctrl_c_ends_a_wait_and_changes_nothing(ring, start, what):
    taking = "take" in what or what == "batches"
    fill(ring, {"lingering take": 1}.get(what, 0 if taking else 8))
    before = states(ring)
    child = start(wait, ring.name, what)
    wait_until_waited(ring, "take" if taking else "claim")
    child.signal(signal.SIGINT)
    assert child.result() == ("interrupted", before)


def claim_and_wait(pipe, name):
    ring = ringfeed.Ring.attach(name)
    try:
        with ring.claim() as slot:
            slot["x"] = 1
            pipe.tell("claimed")
            pipe.hear()
    except KeyboardInterrupt:
        return states(ring)


def test_ctrl_c_in_the_block_of_a_claim_discards_it(ring, start):
    child = start(claim_and_wait, ring.name)
    child.told()
    child.signal(signal.SIGINT)
    assert child.result() == {"free": 8}


def wait_for_a_ring(pipe, name):
    try:
        pipe.tell("waiting")
        ringfeed.Ring.attach(name, timeout=None)
    except KeyboardInterrupt:
        return "interrupted"


def test_ctrl_c_ends_the_wait_for_a_ring_to_be_created(ring_name, start):
    child = start(wait_for_a_ring, ring_name)
    child.told()
    naps = psutil.Process(child.pid).num_ctx_switches().voluntary
    wait_until(lambda: psutil.Process(child.pid).num_ctx_switches().voluntary > naps + 5)
    child.signal(signal.SIGINT)
    assert child.result() == "interrupted"


def wait_with_a_handler(pipe, name, what):
    ring = ringfeed.Ring.attach(name)

    def handle(number, frame):
        pipe.tell("handled")
        if what == "puts":
            ring.put(record(5))
        elif what == "raises":
            raise LookupError("by the handler")
        elif what == "closes":
            ring.close()

    signal.signal(signal.SIGUSR1, handle)
    try:
        return numbers(ring.take(max_rows=1))
    except (LookupError, ringfeed.RingClosed) as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("what", "result"), [("puts", [5]), ("raises", "LookupError"), ("closes", "RingClosed"), ("nothing", [9])]
)
def test_a_signal_handler_runs_in_the_wait_and_may_use_the_ring(ring, start, what, result):
    child = start(wait_with_a_handler, ring.name, what)
    wait_until_waited(ring, "take")
    child.signal(signal.SIGUSR1)
    assert child.told() == "handled"
    if what == "nothing":
        wait_until_waited(ring, "take")  # the wait continues
        ring.put(record(9))
    assert child.result() == result


def wait_under_fire(pipe, name, count):
    """Wait while a timer interrupts every interruptible system call."""
    ring = ringfeed.Ring.attach(name)
    fired = []
    signal.signal(signal.SIGALRM, lambda *_: fired.append(True))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    pipe.tell("ready")
    found = []
    while len(found) < count:
        with ring.take(max_rows=4, min_rows=min(2, count - len(found)), linger=0.001) as batch:
            found += numbers(batch)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return found, bool(fired)


def test_a_storm_of_signals_loses_nothing(ring, start):
    child = start(wait_under_fire, ring.name, 300)
    child.told()
    for n in range(300):
        ring.put(record(n))
    assert child.result() == (list(range(300)), True)


def wait_in_a_thread(pipe, name):
    """Python delivers a signal to the main thread; the wait of another thread continues."""
    ring = ringfeed.Ring.attach(name)
    found = []
    thread = threading.Thread(target=lambda: found.append(numbers(ring.take(max_rows=1))))
    thread.start()
    try:
        pipe.tell("waiting")
        pipe.hear()
    except KeyboardInterrupt:
        pipe.tell("interrupted")
    thread.join()
    return found


def test_ctrl_c_reaches_the_main_thread_while_another_one_waits(ring, start):
    child = start(wait_in_a_thread, ring.name)
    child.told()
    wait_until_waited(ring, "take")
    child.signal(signal.SIGINT)
    assert child.told() == "interrupted"
    ring.put(record(3))
    assert child.result() == [[3]]


def count_while_another_thread_waits(pipe, name, what):
    """Report the progress of Python code beside a waiting thread; a wait that held the GIL would block it."""
    ring = ringfeed.Ring.attach(name)
    thread = threading.Thread(target=lambda: (ring.take if what == "take" else ring.claim)(1), daemon=True)
    thread.start()
    wait_until_waited(ring, what)
    found = []
    for _ in range(8):
        found.append(0)
        started = ring.stats()[f"{what}_wait_ns"]
        while ring.stats()[f"{what}_wait_ns"] < started + 100_000_000:
            found[-1] += 1
    pipe.tell(found)
    os._exit(0)


@pytest.mark.parametrize("what", ["take", "claim"])
def test_python_runs_on_beside_a_thread_that_waits(ring, start, what):
    if what == "claim":
        fill(ring, 8)
    # Several reports, because the process itself may be preempted. With the GIL held, none of them shows progress.
    assert any(steps > 100 for steps in start(count_while_another_thread_waits, ring.name, what).told())


def test_what_an_interrupted_child_left_is_a_ring_that_works(ring, start):
    child = start(wait, ring.name, "take")
    wait_until_waited(ring, "take")
    child.signal(signal.SIGINT)
    child.result()
    fill(ring, 8)
    assert take_all(ring) == list(range(8))
