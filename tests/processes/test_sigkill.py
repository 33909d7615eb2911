"""Processes killed by SIGKILL: the slots that they held come back, and no other process loses anything."""

import ctypes
import os
import struct
from pathlib import Path

import numpy as np
import pytest

import ringfeed
from support import in_thread, numbers, record, segment_path, states, take_all, wait_until_waited


def look_after_the_dead(ring):
    """Recover dead participants, as each waiter does once per time slice; a waiter may have done it already."""
    ring.recover()
    assert ring.stats()["participants"] == 1


def claim_and_hold(pipe, name, rows=None, keep_a_published_view=False):
    ring = ringfeed.Ring.attach(name)
    claim = ring.claim(rows)
    view = claim["x"]
    view[...] = 7
    if keep_a_published_view:
        claim.publish()
    pipe.tell("held")
    pipe.hear()
    claim.publish()
    return view is None


def take_and_hold(pipe, name, rows):
    ring = ringfeed.Ring.attach(name)
    batch = ring.take(max_rows=rows)
    pipe.tell(numbers(batch))
    pipe.hear()
    batch.release()


def wait_for_ever(pipe, name, what):
    ring = ringfeed.Ring.attach(name)
    pipe.tell("waiting")
    if what == "take":
        ring.take(max_rows=1)
    else:
        ring.claim()


@pytest.mark.parametrize("rows", [None, 3])
def test_a_producer_killed_between_claim_and_publish_costs_only_its_own_slots(ring, start, rows):
    child = start(claim_and_hold, ring.name, rows)
    child.told()
    child.kill()
    assert states(ring)["claimed"] == (rows or 1)
    ring.put(record(1), timeout=0)
    assert take_all(ring) == [1]
    look_after_the_dead(ring)
    assert states(ring) == {"free": 8}
    assert ring.stats()["reclaimed"] == (rows or 1)


def test_a_waiting_producer_gets_the_slots_of_a_dead_one(ring, start):
    child = start(claim_and_hold, ring.name, 8)
    child.told()
    child.kill()
    ring.put(record(1))
    assert take_all(ring) == [1]


def test_a_waiting_taker_gets_the_records_of_a_dead_one(ring, start):
    for n in range(3):
        ring.put(record(n), tag=n)
    child = start(take_and_hold, ring.name, 3)
    assert child.told() == [0, 1, 2]
    child.kill()
    with ring.take(max_rows=8, min_rows=3) as batch:
        assert numbers(batch) == batch.tags.tolist() == [0, 1, 2]
        assert batch.records["deliveries"].tolist() == [2, 2, 2]
    assert ring.stats()["redelivered"] == 3


def test_the_records_of_a_dead_taker_can_be_dropped_and_counted_instead(make_ring, start):
    ring = make_ring(redeliver=False)
    for n in range(3):
        ring.put(record(n))
    child = start(take_and_hold, ring.name, 2)
    assert child.told() == [0, 1]
    child.kill()
    look_after_the_dead(ring)
    assert take_all(ring) == [2]
    assert ring.stats()["dropped"] == 2
    assert states(ring) == {"free": 8}


def test_the_pin_of_a_dead_producer_goes_and_its_record_stays(ring, start):
    child = start(claim_and_hold, ring.name, None, True)
    child.told()
    child.kill()
    look_after_the_dead(ring)
    assert take_all(ring) == [7]
    assert states(ring) == {"free": 8}


@pytest.mark.parametrize("what", ["take", "claim"])
def test_a_killed_waiter_takes_no_one_elses_wake_up_along(ring, start, what):
    if what == "claim":
        for n in range(8):
            ring.put(record(n))
    child = start(wait_for_ever, ring.name, what)
    child.told()
    wait_until_waited(ring, what)
    with in_thread(getattr(ring, what), 1) as waiting:
        wait_until_waited(ring, what)
        child.kill()
        if what == "take":
            ring.put(record(5))
            assert numbers(waiting.result()) == [5]
        else:
            ring.take(max_rows=1).release()
            waiting.result().discard()


def test_a_finished_ring_is_not_held_up_by_the_claim_of_a_dead_producer(ring, start):
    child = start(claim_and_hold, ring.name)
    child.told()
    ring.finish()
    with in_thread(ring.take, 1) as taken:
        wait_until_waited(ring, "take")
        child.kill()
        with pytest.raises(ringfeed.RingFinished):
            taken.result()


def put_without_end(pipe, name, rows):
    ring = ringfeed.Ring.attach(name)
    number = 0
    while True:
        with ring.claim(rows) as slots:
            slots.tags = np.arange(number, number + len(slots))
            slots["x"][...] = slots.tags[:, None]
        number += len(slots.tags)
        if number < 100:
            pipe.tell(number)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_producer_killed_at_any_moment_leaves_a_record_whole_or_not_at_all(ring, start, rows):
    for _ in range(5):
        child = start(put_without_end, ring.name, rows)
        child.told()
        found = []
        while len(found) < 200:
            with ring.take(max_rows=4) as batch:
                assert numbers(batch) == batch.tags.tolist()
                found += numbers(batch)
        child.kill()
        look_after_the_dead(ring)
        found += take_all(ring)
        assert found == list(range(len(found)))
        assert states(ring) == {"free": 8}


def take_without_end(pipe, name):
    ring = ringfeed.Ring.attach(name)
    pipe.tell("ready")
    for batch in ring.batches(max_rows=3):
        numbers(batch)


def test_a_taker_killed_at_any_moment_loses_no_record(ring, start):
    lost_by_release = 0
    for _ in range(5):
        child = start(take_without_end, ring.name)
        child.told()
        for n in range(100):
            ring.put(record(n))
        child.kill()
        look_after_the_dead(ring)
        left = take_all(ring)
        assert left == list(range(100 - len(left), 100))
        assert states(ring) == {"free": 8}
        lost_by_release += len(left)
    stats = ring.stats()
    assert stats["published"] == stats["released"] == 500
    assert stats["taken_total"] == 500 + stats["redelivered"]


def seem_dead(name):
    """Destroy both signs of this process's life, the lock and the mark, as code that corrupts memory could.

    The lock belongs to the one inaccessible page of the segment. The mark stands in the segment itself.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(f"ringfeed.{name}") and " ---s " in line:
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            assert ctypes.CDLL(None).munmap(ctypes.c_void_p(first), ctypes.c_size_t(last - first)) == 0
    mark = struct.pack("<II", os.getpid(), os.stat("/proc/self/ns/pid").st_ino)
    with segment_path(name).open("r+b") as file:
        file.seek(file.read().index(mark))
        file.write(bytes(8))


def publish_too_late(pipe, name):
    ring = ringfeed.Ring.attach(name)
    claim = ring.claim()
    claim["x"] = 1
    seem_dead(name)
    pipe.tell("seems dead")
    pipe.hear()
    try:
        claim.publish()
    except ringfeed.SlotLost as error:
        return str(error)


@pytest.mark.parametrize("reused", [False, True])
def test_a_claim_that_was_taken_back_can_not_be_published_any_more_and_says_so(ring, start, reused):
    child = start(publish_too_late, ring.name)
    child.told()
    look_after_the_dead(ring)
    if reused:
        for n in range(8):
            ring.put(record(10 + n), tag=n)
    child.tell()
    assert "the claim was taken back before it was published" in child.result()
    assert take_all(ring) == ([10 + n for n in range(8)] if reused else [])
    assert states(ring) == {"free": 8}


def release_too_late(pipe, name):
    ring = ringfeed.Ring.attach(name)
    batch = ring.take(max_rows=1)
    seem_dead(name)
    pipe.tell("seems dead")
    pipe.hear()
    batch.release()


def test_a_batch_that_was_given_to_another_taker_is_not_released_by_the_first(ring, start):
    ring.put(record(1))
    child = start(release_too_late, ring.name)
    child.told()
    look_after_the_dead(ring)
    batch = ring.take(max_rows=1)
    child.tell()
    child.result()
    assert states(ring) == {"free": 7, "taken": 1}
    for n in range(7):
        ring.put(record(2 + n), timeout=0)
    assert numbers(batch) == [1]
    assert batch.release() is True
    assert take_all(ring) == list(range(2, 9))


def own_a_ring(pipe, name):
    ring = ringfeed.Ring.create(name, {"x": ((512,), "int64")}, slots=8)
    ring.put(record(3))
    pipe.tell("created")
    pipe.hear()


def test_the_death_of_the_owner_closes_the_ring_for_everyone_after_what_is_in_it(ring_name, start):
    child = start(own_a_ring, ring_name)
    child.told()
    ring = ringfeed.Ring.attach(ring_name)
    assert take_all(ring) == [3]
    with in_thread(ring.take, 1) as taken:
        wait_until_waited(ring, "take")
        child.kill()
        with pytest.raises(ringfeed.RingClosed, match=f"ring '{ring_name}' is closed: .*its owner closed it or died"):
            taken.result()
    with pytest.raises(ringfeed.RingClosed):
        ring.put(record(0))
    assert ring.closed
    ring.close()
    ring.unlink()


def test_the_segment_of_a_killed_owner_is_replaced_by_the_next_ring_of_that_name(ring_name, start):
    child = start(own_a_ring, ring_name)
    child.told()
    child.kill()
    assert segment_path(ring_name).exists()
    with pytest.raises(ringfeed.RingClosed):
        ringfeed.Ring.attach(ring_name)
    with ringfeed.Ring.create(ring_name, {"y": ((3,), "float32")}) as ring:
        assert list(ring.spec) == ["y"]
        assert ring.stats()["published"] == 0


def test_a_client_that_waits_for_the_ring_gets_the_one_of_the_new_owner(ring_name, start):
    child = start(own_a_ring, ring_name)
    child.told()
    child.kill()
    with (
        in_thread(ringfeed.Ring.attach, ring_name, timeout=1e6) as attached,
        ringfeed.Ring.create(ring_name, {"x": ((512,), "int64")}) as ring,
    ):
        attached.result().put(record(4))
        assert take_all(ring) == [4]
        attached.result().close()


def test_the_places_of_dead_participants_are_used_again(make_ring, start):
    ring = make_ring(participants=3)
    for _ in range(4):
        child = start(claim_and_hold, ring.name)
        child.told()
        child.kill()
        look_after_the_dead(ring)
    assert ring.stats()["reclaimed"] == 4
