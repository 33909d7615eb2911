"""Rings by name: create, attach, close and unlink; the ring's attributes and its `repr`."""

import copy
import gc
import os
import pickle
import stat
import threading

import pytest

import ringfeed
from support import numbers, record, segment_path, segments, take_all

FIELDS = {"x": ((512,), "int64")}


def test_a_ring_is_created_with_at_least_the_slots_asked_for(ring_name):
    with ringfeed.Ring.create(ring_name, FIELDS, slots=5) as ring:
        assert ring.slots == 5
        assert ring.name == ring_name
        assert ring.is_owner
        assert ring.stats() == {**dict.fromkeys(ring.stats(), 0), "slots": 5, "free": 5, "participants": 1}


def test_a_ring_may_have_a_single_slot(make_ring):
    ring = make_ring(slots=1)
    for n in range(10):
        with ring.claim(timeout=0) as slot:
            slot["x"] = n
        with pytest.raises(ringfeed.RingFull):
            ring.claim(timeout=0)
        with ring.take(max_rows=5) as batch:
            assert numbers(batch) == [n]


def test_a_ring_without_a_name_gets_one_of_its_own():
    with ringfeed.Ring.create(None, FIELDS) as ring, ringfeed.Ring.create(None, FIELDS) as other:
        assert ring.name != other.name
        ringfeed.Ring.attach(ring.name).close()


def test_the_segment_is_private_to_its_user_with_any_umask(ring_name):
    before = os.umask(0)
    try:
        with ringfeed.Ring.create(ring_name, FIELDS):
            status = segment_path(ring_name).stat()
    finally:
        os.umask(before)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == os.getuid()


def test_the_memory_is_reserved_when_the_ring_is_created(ring):
    status = segment_path(ring.name).stat()
    assert status.st_size == ring.segment_bytes
    assert status.st_blocks * 512 >= ring.segment_bytes


def test_an_attached_ring_is_the_same_ring(ring):
    other = ringfeed.Ring.attach(ring.name)
    assert (other.name, other.slots, other.spec, other.segment_bytes) == (
        ring.name,
        ring.slots,
        ring.spec,
        ring.segment_bytes,
    )
    assert not other.is_owner
    other.put(record(4))
    assert take_all(ring) == [4]
    other.close()


def test_a_ring_that_does_not_exist_can_not_be_attached(ring_name):
    with pytest.raises(ringfeed.RingNotFound, match=rf"no ring '{ring_name}' exists\. Create it first, or"):
        ringfeed.Ring.attach(ring_name)
    with pytest.raises(ringfeed.RingNotFound, match="no ring"):
        ringfeed.Ring.attach(ring_name, timeout=0.01)


@pytest.mark.parametrize("timeout", [None, 1e6])
def test_attaching_can_wait_for_the_ring_to_be_created(ring_name, timeout):
    attached = []
    waiting = threading.Thread(target=lambda: attached.append(ringfeed.Ring.attach(ring_name, timeout=timeout)))
    waiting.start()
    with ringfeed.Ring.create(ring_name, FIELDS) as ring:
        waiting.join()
        attached[0].put(record(1))
        assert take_all(ring) == [1]
        attached[0].close()


def test_attaching_can_wait_for_a_new_owner_in_place_of_one_that_closed(ring_name):
    old = ringfeed.Ring.create(ring_name, FIELDS)
    old.close()
    attached = []
    waiting = threading.Thread(target=lambda: attached.append(ringfeed.Ring.attach(ring_name, timeout=1e6)))
    waiting.start()
    with ringfeed.Ring.create(ring_name, FIELDS):
        waiting.join()
        assert not attached[0].closed
        attached.clear()


def test_a_closed_ring_can_not_be_attached(ring_name):
    ring = ringfeed.Ring.create(ring_name, FIELDS)
    ring.close()
    for timeout in (0, 0.01):
        with pytest.raises(ringfeed.RingClosed, match=rf"ring '{ring_name}' is closed.*Create or attach it anew"):
            ringfeed.Ring.attach(ring_name, timeout=timeout)
    ring.unlink()


def test_waiting_for_a_ring_leaves_no_descriptor_open(ring_name):
    ring = ringfeed.Ring.create(ring_name, FIELDS)
    other = ringfeed.Ring.attach(ring_name)
    ring.close()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ringfeed.RingClosed):
        ringfeed.Ring.attach(ring_name, timeout=0.1)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the last handle on the segment closes this descriptor
    ring.unlink()
    other.close()


def test_rings_come_and_go_without_leaving_descriptors_or_mappings(ring_name):
    def come_and_go():
        with ringfeed.Ring.create(ring_name, FIELDS) as ring:
            for _ in range(3):
                other = ringfeed.Ring.attach(ring_name)
                other.put(record(1))
                other.close()
            take_all(ring)

    def open_now():
        gc.collect()
        with open("/proc/self/maps") as maps:
            return len(os.listdir("/proc/self/fd")), sum("ringfeed." in line for line in maps)

    come_and_go()
    before = open_now()
    for _ in range(50):
        come_and_go()
    assert open_now() == before


def test_a_name_that_is_taken_is_refused(ring):
    with pytest.raises(ringfeed.RingExists, match=rf"'{ring.name}' exists and its owner is alive\. Attach to it, or"):
        ringfeed.Ring.create(ring.name, FIELDS)
    ring.put(record(1))
    assert take_all(ring) == [1]


def test_a_name_can_be_used_again_after_the_ring_is_gone(ring_name):
    for n in range(3):
        with ringfeed.Ring.create(ring_name, {"x": ((n + 1,), "uint8")}) as ring:
            assert ring.spec["x"].shape == (n + 1,)
    assert ring_name not in segments()


def test_a_name_can_be_used_again_when_the_owner_only_closed(ring_name):
    old = ringfeed.Ring.create(ring_name, FIELDS)
    old.close()
    with ringfeed.Ring.create(ring_name, FIELDS) as new:
        old.unlink()  # removes nothing: its own segment has no name any more, and the new one is not its own
        assert ring_name in segments()
        ringfeed.Ring.attach(ring_name).close()
        new.put(record(1))


def test_many_threads_that_create_one_name_make_one_ring(ring_name):
    made, refused = [], []
    start = threading.Barrier(8)

    def create():
        start.wait()
        try:
            made.append(ringfeed.Ring.create(ring_name, FIELDS))
        except ringfeed.RingExists:
            refused.append(True)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 7)
    with made.pop() as ring:
        ringfeed.Ring.attach(ring_name).close()
        ring.put(record(1))


def test_an_unlinked_ring_continues_for_its_participants(ring):
    other = ringfeed.Ring.attach(ring.name)
    ring.unlink()
    ring.unlink()
    assert ring.name not in segments()
    other.put(record(1))
    assert take_all(ring) == [1]
    with pytest.raises(ringfeed.RingNotFound):
        ringfeed.Ring.attach(ring.name)
    other.close()


def test_an_attached_ring_may_remove_the_name(ring):
    other = ringfeed.Ring.attach(ring.name)
    other.unlink()
    other.unlink()
    assert ring.name not in segments()
    other.close()


def test_an_attached_ring_does_not_remove_a_newer_one_of_the_same_name(ring_name):
    ring = ringfeed.Ring.create(ring_name, FIELDS)
    other = ringfeed.Ring.attach(ring_name)
    ring.close()
    ring.unlink()
    with ringfeed.Ring.create(ring_name, FIELDS):
        other.unlink()
        assert ring_name in segments()
    other.close()


def test_a_ring_can_be_opened_by_its_descriptor_after_its_name_is_gone(ring):
    ring.unlink()
    other = ringfeed.Ring.attach_descriptor(os.dup(ring.descriptor), ring.name)
    other.put(record(1))
    assert take_all(ring) == [1]
    other.close()


def test_the_block_of_an_owner_closes_and_removes_the_ring(ring_name):
    with ringfeed.Ring.create(ring_name, FIELDS) as ring:
        pass
    assert ring.closed
    assert ring_name not in segments()


def test_the_block_of_an_attached_ring_closes_its_handle_alone(ring):
    with ringfeed.Ring.attach(ring.name) as other:
        pass
    assert other.closed
    assert not ring.closed
    assert ring.name in segments()
    ring.put(record(1))


def test_a_ring_that_its_owner_forgot_is_removed(ring_name):
    ring = ringfeed.Ring.create(ring_name, FIELDS)
    other = ringfeed.Ring.attach(ring_name)
    del ring
    gc.collect()
    assert ring_name not in segments()
    assert other.closed
    with pytest.raises(ringfeed.RingClosed):
        other.put(record(1))
    other.close()


def test_an_owner_that_closes_closes_the_ring_for_everyone_after_what_is_in_it(ring):
    other = ringfeed.Ring.attach(ring.name)
    ring.put(record(1))
    ring.close()
    assert other.closed
    with pytest.raises(ringfeed.RingClosed):
        other.claim()
    assert numbers(other.take(max_rows=8)) == [1]
    with pytest.raises(ringfeed.RingClosed):
        other.take(max_rows=8)
    other.close()


def test_a_closed_handle_says_so_and_closing_twice_does_no_harm(ring):
    other = ringfeed.Ring.attach(ring.name)
    other.close()
    other.close()
    for use in (other.claim, lambda: other.put(record(0)), lambda: other.take(1), lambda: next(other.batches(1))):
        with pytest.raises(ringfeed.RingClosed, match=rf"ring '{ring.name}' is closed: by close\(\) here, or"):
            use()
    assert not ring.closed


def test_a_ring_shows_its_name_role_and_record(ring):
    other = ringfeed.Ring.attach(ring.name)
    assert repr(ring) == f"<Ring '{ring.name}', owner, 8 slots of RecordSpec('x': int64[512])>"
    assert ", participant, " in repr(other)
    other.close()
    assert ", closed participant, " in repr(other)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda ring: pickle.loads(pickle.dumps(ring))])
def test_a_pickled_ring_arrives_attached(ring, way):
    other = way(ring)
    assert not other.is_owner
    other.put(record(3))
    assert take_all(ring) == [3]
    other.close()


def test_a_pickled_ring_that_is_gone_says_so_where_it_arrives(ring_name):
    with ringfeed.Ring.create(ring_name, FIELDS) as ring:
        sent = pickle.dumps(ring)
    with pytest.raises(ringfeed.RingNotFound, match=ring_name):
        pickle.loads(sent)


def test_only_so_many_participants_as_were_allowed_join(make_ring):
    ring = make_ring(participants=3)
    others = [ringfeed.Ring.attach(ring.name) for _ in range(2)]
    with pytest.raises(ringfeed.RingFeedError, match="every participant entry is in use"):
        ringfeed.Ring.attach(ring.name)
    others.pop().close()
    gc.collect()
    ringfeed.Ring.attach(ring.name).close()
    others.pop().close()
