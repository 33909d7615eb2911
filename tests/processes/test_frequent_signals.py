"""A signal every millisecond, with a Python handler: no wait ends early and no result changes."""

import signal
import time

import pytest

import ringfeed
from support import numbers, record, run_program, take_all

FIELDS = {"x": ((512,), "int64")}


def under_fire(pipe, name, count, what, restart):
    """Run the calls while a Python handler is due every millisecond and the kernel restarts no system call."""
    ring = ringfeed.Ring.attach(name)
    handled = []

    def handle(number, frame):
        handled.append(number)
        if what == "the handler takes" and len(handled) % 8 == 0:
            try:
                with ring.take(1, timeout=0) as batch:
                    found.extend(numbers(batch))
            except ringfeed.RingEmpty:
                pass

    signal.signal(signal.SIGALRM, handle)
    signal.siginterrupt(signal.SIGALRM, not restart)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    pipe.tell("ready")
    found = []
    if what == "put":
        for n in range(count):
            ring.put(record(n))
    elif what == "claim":
        for n in range(count):
            with ring.claim(rows=1) as slots:
                slots["x"] = n
    elif what == "take":
        for batch in ring.batches(max_rows=4, linger=0.002):
            found += numbers(batch)
    elif what == "the handler takes":
        while len(found) < count:
            try:
                with ring.take(max_rows=2, timeout=0.01) as batch:
                    found += numbers(batch)
            except ringfeed.RingEmpty:
                pass
    else:
        for turn in range(count):
            with ringfeed.Ring.create(f"{name}-{turn}", FIELDS, slots=64) as own:
                ringfeed.Ring.attach(own.name, timeout=None).put(record(turn))
                found += take_all(own)
                ringfeed.list_segments(own.name)
                ringfeed.clean(own.name)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return len(handled), found


@pytest.mark.parametrize("restart", [False, True], ids=["interrupting", "restarting"])
@pytest.mark.parametrize("what", ["put", "claim", "take", "the handler takes", "create and attach"])
def test_a_signal_every_millisecond_changes_no_result(ring, start, what, restart):
    child = start(under_fire, ring.name, 200, what, restart)
    child.told()
    found = []
    if what in ("put", "claim"):
        # Slowly, with one free slot at a time, so that the child waits again and again.
        while len(found) < 200:
            with ring.take(max_rows=1) as batch:
                found += numbers(batch)
                time.sleep(0.001)
    elif "take" in what:
        for n in range(200):
            ring.put(record(n))
            if n % 10 == 0:
                time.sleep(0.003)
        if what == "take":
            ring.finish()
    handled, by_child = child.result()
    assert handled > 0
    # A handler that takes during a take gets its records before or after those of the interrupted take.
    assert sorted(found or by_child) == list(range(200))
    if what != "the handler takes":
        assert (found or by_child) == list(range(200))


def test_a_signal_every_millisecond_beside_threads_that_wait_in_the_core(ring_name):
    program = f"""
        import signal, threading
        ring = ringfeed.Ring.create({ring_name!r}, {{"x": ((512,), "int64")}}, slots=4)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        found, lock = [], threading.Lock()
        def take():
            for batch in ring.batches(2):
                with lock:
                    found.extend(batch["x"][:, 0].tolist())
        def put(start):
            for n in range(start, start + 500):
                ring.put({{"x": np.full(512, n)}})
        takers = [threading.Thread(target=take) for _ in range(2)]
        putters = [threading.Thread(target=put, args=(1000 * k,)) for k in range(2)]
        for thread in takers + putters: thread.start()
        for thread in putters: thread.join()
        ring.finish()
        for thread in takers: thread.join()
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert sorted(found) == [*range(500), *range(1000, 1500)]
        """
    assert run_program(program) == (0, "", "")
