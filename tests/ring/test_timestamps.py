"""`records` of a batch: timestamps, producer and deliveries of each record; and the ring's counters."""

import time

import pytest

import ringfeed
from support import record


def test_the_times_of_a_record_are_in_the_order_of_what_happened(ring):
    times = [time.monotonic_ns()]
    claim = ring.claim()
    times.append(time.monotonic_ns())
    claim.publish()
    times.append(time.monotonic_ns())
    batch = ring.take(max_rows=1)
    times.append(time.monotonic_ns())
    (row,) = batch.records
    assert times[0] <= row["claimed_ns"] <= times[1] <= row["published_ns"] <= times[2] <= row["taken_ns"] <= times[3]
    assert row["released_ns"] == 0


def test_a_slot_tells_when_it_was_given_back_before(ring):
    for _ in range(ring.slots):
        ring.put(record(0))
    ring.take(max_rows=8)
    before = time.monotonic_ns()
    ring.put(record(0))
    ring.take(max_rows=8).release()
    for _ in range(ring.slots):
        ring.put(record(0))
    batch = ring.take(max_rows=8)
    assert all(0 < released <= before for released in batch.records["released_ns"][:-1])
    assert before <= batch.records["released_ns"].max() <= time.monotonic_ns()


def test_a_claim_knows_its_slots_but_no_times_yet(ring):
    with ring.claim(rows=3) as slots:
        assert slots.records.shape == (3,)


def test_records_keep_their_tag_producer_and_deliveries(ring):
    other = ringfeed.Ring.attach(ring.name)
    ring.put(record(0), tag=5)
    other.put(record(1), tag=6)
    ring.put(record(2), tag=7)
    with ring.take(max_rows=3) as batch:
        rows = batch.records
    assert rows["tag"].tolist() == [5, 6, 7]
    assert rows["producer"][0] == rows["producer"][2] != rows["producer"][1]
    assert rows["deliveries"].tolist() == [1, 1, 1]
    other.close()


def test_the_counters_count(ring):
    other = ringfeed.Ring.attach(ring.name)
    for _ in range(3):
        other.put(record(0))
    other.claim().discard()
    other.take(max_rows=2).release()
    batch = ring.take(max_rows=1)
    expected = {"published": 3, "discarded": 1, "taken_total": 3, "released": 2, "batches": 2, "participants": 2}
    assert {name: ring.stats()[name] for name in expected} == expected
    batch.release()
    other.close()
    del other
    expected |= {"released": 3, "participants": 1}
    assert {name: ring.stats()[name] for name in expected} == expected


def test_the_time_of_waits_is_counted(ring):
    with pytest.raises(ringfeed.RingEmpty):
        ring.take(max_rows=1, timeout=0.02)
    assert ring.stats()["take_wait_ns"] >= 20_000_000
    assert ring.stats()["claim_wait_ns"] == 0
    for _ in range(ring.slots):
        ring.put(record(0))
    with pytest.raises(ringfeed.RingFull):
        ring.claim(timeout=0.02)
    assert ring.stats()["claim_wait_ns"] >= 20_000_000


def test_the_only_record_of_a_batch_is_its_tag_and_deliveries(ring):
    for tag in (2**64 - 1, 1, 2):
        ring.put(record(tag % 5), tag=tag)
    with ring.take(max_rows=1) as batch:
        assert batch.only_record() == (2**64 - 1, 1)
    with (
        ring.take(max_rows=8) as batch,
        pytest.raises(ringfeed.RingFeedError, match=f"ring '{ring.name}': the batch has 2 records, not one"),
    ):
        batch.only_record()
