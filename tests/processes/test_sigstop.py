"""Processes stopped by SIGSTOP count as alive, keep the slots that they hold, and delay no other process."""

import itertools

import numpy as np
import pytest

import ringfeed
from support import in_thread, numbers, record, states, take_all, wait_until_waited


def claim_and_publish(pipe, name):
    ring = ringfeed.Ring.attach(name)
    with ring.claim() as slot:
        pipe.tell("claimed")
        pipe.hear()
        slot["x"] = 7
    return True


def take_and_release(pipe, name, rows):
    ring = ringfeed.Ring.attach(name)
    with ring.take(max_rows=rows) as batch:
        pipe.tell(numbers(batch))
        pipe.hear()
        return numbers(batch)


def lap(ring, slots):
    """Go around the ring: put and take one record for each remaining slot, without a wait."""
    for n in range(slots):
        ring.put(record(n), timeout=0)
    assert take_all(ring) == list(range(slots))


def test_a_stopped_producer_keeps_its_slot_and_delays_no_other(ring, start):
    child = start(claim_and_publish, ring.name)
    child.told()
    child.stop()
    for _ in range(20):
        lap(ring, slots=7)
    assert ring.recover() == 0
    assert states(ring) == {"free": 7, "claimed": 1}
    child.tell()
    child.resume()
    assert child.result() is True
    assert take_all(ring) == [7]


def test_a_stopped_taker_keeps_its_batch_and_delays_no_other(ring, start):
    for n in range(3):
        ring.put(record(10 + n))
    child = start(take_and_release, ring.name, 3)
    assert child.told() == [10, 11, 12]
    child.stop()
    for _ in range(20):
        lap(ring, slots=5)
    assert ring.recover() == 0
    child.tell()
    child.resume()
    assert child.result() == [10, 11, 12]
    assert states(ring) == {"free": 8}


def wait_for_ever(pipe, name, what):
    ring = ringfeed.Ring.attach(name)
    if what == "take":
        return numbers(ring.take(max_rows=1))
    ring.claim().discard()
    return "claimed"


@pytest.mark.parametrize("what", ["take", "claim"])
def test_a_stopped_waiter_does_not_keep_others_from_being_woken(ring, start, what):
    if what == "claim":
        for n in range(8):
            ring.put(record(n))
    child = start(wait_for_ever, ring.name, what)
    wait_until_waited(ring, what)
    child.stop()
    with in_thread(getattr(ring, what), 1) as waiting:
        wait_until_waited(ring, what)
        if what == "take":
            ring.put(record(5))
            assert numbers(waiting.result()) == [5]
            ring.put(record(6))
        else:
            ring.take(max_rows=1).release()
            waiting.result().discard()
        child.resume()
        assert child.result() == ([6] if what == "take" else "claimed")


def put_without_end(pipe, name):
    ring = ringfeed.Ring.attach(name)
    pipe.tell("ready")
    for number in itertools.count():
        with ring.claim(rows=2) as slots:
            slots["x"] = number
            slots.tag = 2**63


def take_without_end(pipe, name):
    ring = ringfeed.Ring.attach(name)
    pipe.tell("ready")
    for batch in ring.batches(max_rows=2):
        numbers(batch)


@pytest.mark.parametrize("way", [put_without_end, take_without_end], ids=lambda way: way.__name__)
def test_a_process_stopped_at_any_instruction_keeps_no_other_from_finishing(make_ring, start, way):
    ring = make_ring(slots=16)
    child = start(way, ring.name)
    child.told()
    rng = np.random.default_rng(0)
    for _ in range(40):
        for _ in range(rng.integers(1, 100)):  # stops it at an arbitrary point of its work
            if way is put_without_end:
                ring.take(max_rows=4).release()
            else:
                ring.put(record(1))
        child.stop()
        take_all(ring)
        left = states(ring)["free"]
        assert left >= 14
        for _ in range(5):
            lap(ring, slots=left)
        child.resume()
    child.kill()
    ring.recover()
    take_all(ring)
    assert states(ring) == {"free": 16}
