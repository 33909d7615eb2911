"""Processes exit, and handles are garbage-collected, while they hold batches, claims and views."""

import gc
import itertools
from typing import ClassVar

import numpy as np
import pytest

import ringfeed
from support import record, run_program, segment_path, states, take_all

FIELDS = {"x": ((512,), "int64")}


# ---- Process exit ------------------------------------------------------------------------------------

HELD = """
ring = ringfeed.Ring.attach({name!r})
batch, claim, pinned = ring.take(max_rows=2), ring.claim(rows=2), ring.claim()
pinned["x"][...] = 9
kept = [batch["x"], claim["x"], pinned["x"], np.from_dlpack(batch), batch.__dlpack__(), memoryview(batch["x"])[1:]]
pinned.publish()
circle = [ring, batch, claim, kept]
circle.append(circle)
sys.modules["kept"] = circle
"""
ENDS = {
    "the end of the program": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "an exception": ("with claim: 1 / 0", 1),
    "an exception in a thread": (
        "import threading\nt = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
        0,
    ),
    "SIGTERM": ("import signal; os.kill(os.getpid(), signal.SIGTERM)", -15),
    "SIGABRT": ("import signal; os.kill(os.getpid(), signal.SIGABRT)", -6),
    "another program": ("os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(5)'])", 5),
    "a thread that waits": (
        "import threading\nring.take(1, timeout=5).release()\n"
        "threading.Thread(target=ring.take, args=(8,), kwargs={'min_rows': 8}, daemon=True).start()",
        0,
    ),
    "collection in the end": ("del circle, kept, batch; import gc; gc.set_threshold(1, 1, 1)", 0),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends_with_everything_in_its_hands_gives_it_back(ring, end):
    for n in range(3):
        ring.put(record(n))
    last_words, status = ENDS[end]
    code, _, complaint = run_program(HELD.format(name=ring.name) + last_words)
    assert code == status, complaint
    assert complaint == "" or "exception" in end
    ring.recover()
    assert ring.stats()["participants"] == 1
    left = take_all(ring)
    # Taken records came back if the process had no time to release them; published records stay.
    assert set(left) <= {0, 1, 2, 9}
    assert 9 in left or end == "a thread that waits"
    assert states(ring) == {"free": 8}
    for n in range(20):
        ring.put(record(n), timeout=0)
        assert take_all(ring) == [n]


def test_a_claim_that_an_exception_leaves_goes_back_also_in_other_processes(ring, start):
    def fail_again_and_again(pipe, name):
        ring = ringfeed.Ring.attach(name)
        for n in range(100):
            try:
                with ring.claim(rows=3) as slots:
                    slots["x"] = n
                    raise LookupError
            except LookupError:
                pass
        return ring.stats()["discarded"]

    assert start(fail_again_and_again, ring.name).result() == 300
    assert states(ring) == {"free": 8}


# ---- Garbage collection in any order -----------------------------------------------------------------


class Node:
    """Holds an object, is part of reference cycles, and inspects the object in its finalizer."""

    seen: ClassVar[list[int]] = []

    def __init__(self, held):
        self.held = held
        self.others = []

    def __del__(self):
        if isinstance(self.held, np.ndarray):
            Node.seen.append(int(self.held.flat[0]))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_circles_of_ring_batch_claim_and_arrays_go_in_any_order(ring_name, order):
    ring = ringfeed.Ring.create(ring_name, FIELDS, slots=8)
    watch = ringfeed.Ring.attach(ring_name)
    for _ in range(3):
        ring.put(record(7))
    batch, claim = ring.take(max_rows=2), ring.claim()
    claim["x"][...] = 7
    parts = [ring, batch, claim, batch["x"]]
    del ring, batch, claim
    nodes = [Node(parts[place]) for place in order]
    del parts
    for one, other in itertools.permutations(nodes, 2):
        one.others.append(other)
    Node.seen.clear()
    del one, other
    gc.disable()
    try:
        nodes.clear()
        assert states(watch) == {"free": 4, "claimed": 1, "ready": 1, "taken": 2}
        assert segment_path(ring_name).exists()
    finally:
        gc.enable()
    gc.collect()
    assert Node.seen == [7]
    # The owner is gone: its ring is closed and has no name, and the slots that it held came back.
    assert not segment_path(ring_name).exists()
    assert watch.closed
    assert states(watch) == {"free": 7, "ready": 1}
    watch.close()
