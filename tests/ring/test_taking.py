"""Taking: contiguous runs, `min_rows`, `linger`, and the end of the ring."""

import time

import pytest

import ringfeed
from support import in_thread, numbers, record, states, take_all, wait_until_waited

FOREVER = 1e6  # seconds, longer than any test: a call that returns did so for another reason


def put_numbers(ring, *given):
    for number in given:
        ring.put(record(number), timeout=0)


# ---- Runs --------------------------------------------------------------------------------------------


def test_a_batch_is_the_oldest_records_at_most_max_rows_of_them(ring):
    put_numbers(ring, *range(5))
    with ring.take(max_rows=3) as batch:
        assert numbers(batch) == [0, 1, 2]
        assert len(batch) == 3
        assert states(ring) == {"free": 3, "ready": 2, "taken": 3}
    assert states(ring) == {"free": 6, "ready": 2}
    assert take_all(ring) == [3, 4]


def test_max_rows_may_be_more_than_the_ring_has(ring):
    put_numbers(ring, *range(8))
    with ring.take(max_rows=10**30) as batch:
        assert numbers(batch) == list(range(8))


def test_a_held_slot_parts_a_run_and_nothing_is_lost_or_doubled(ring):
    put_numbers(ring, 0, 1)
    held = ring.claim()
    put_numbers(ring, 2, 3)
    with ring.take(max_rows=8, timeout=0) as batch:
        assert numbers(batch) == [0, 1]
    with ring.take(max_rows=8, timeout=0) as batch:
        assert numbers(batch) == [2, 3]
    held["x"][...] = 4
    held.publish()
    assert take_all(ring) == [4]


def test_batches_can_be_released_in_any_order(ring):
    put_numbers(ring, *range(8))
    batches = [ring.take(max_rows=2) for _ in range(4)]
    for i in (2, 0, 3, 1):
        batches[i].release()
        put_numbers(ring, 10 + i)
    assert take_all(ring) == [12, 10, 13, 11]


def test_two_handles_in_one_process_share_the_records(ring):
    other = ringfeed.Ring.attach(ring.name)
    put_numbers(ring, 1, 2)
    put_numbers(other, 3)
    with other.take(max_rows=2) as batch:
        assert numbers(batch) == [1, 2]
    assert take_all(ring) == [3]
    assert ring.stats()["participants"] == 2
    assert ring.stats()["published"] == other.stats()["published"] == 3
    other.close()


# ---- Waiting -----------------------------------------------------------------------------------------


def test_a_take_that_does_not_wait_finds_what_is_there_or_says_that_nothing_is(ring):
    with pytest.raises(ringfeed.RingEmpty, match="0 of 1 records ready;"):
        ring.take(max_rows=8, timeout=0)
    put_numbers(ring, 1)
    assert len(ring.take(max_rows=8, timeout=0)) == 1


def test_a_take_waits_as_long_as_it_was_told(ring):
    started = time.monotonic()
    with pytest.raises(ringfeed.RingEmpty, match=r"0 of 1 records ready after 0\.12 s; the producers are slower"):
        ring.take(max_rows=8, timeout=0.12)
    assert time.monotonic() - started >= 0.12


def test_a_claim_waits_as_long_as_it_was_told(ring):
    put_numbers(ring, *range(8))
    started = time.monotonic()
    with pytest.raises(ringfeed.RingFull, match=r"0 of 8 slots free after 0\.12 s; the model is slower"):
        ring.claim(timeout=0.12)
    with pytest.raises(ringfeed.RingFull, match=r"0 of 8 slots free after 0\.12 s; the model is slower"):
        ring.put(record(0), timeout=0.12)
    assert time.monotonic() - started >= 0.24


def test_a_waiting_take_is_woken_by_the_record(ring):
    with in_thread(ring.take, max_rows=8) as taken:
        wait_until_waited(ring, "take")
        put_numbers(ring, 5)
        assert numbers(taken.result()) == [5]


@pytest.mark.parametrize("way", ["claim", "put"])
def test_a_waiting_producer_is_woken_by_the_release(ring, way):
    put_numbers(ring, *range(8))
    with in_thread(*([ring.claim] if way == "claim" else [ring.put, record(8)])) as produced:
        wait_until_waited(ring, "claim")
        ring.take(max_rows=1).release()
        if way == "claim":
            claim = produced.result()
            claim["x"][...] = 8
            claim.publish()
    assert take_all(ring) == list(range(1, 9))


def test_a_take_waits_for_min_rows(ring):
    with in_thread(ring.take, max_rows=8, min_rows=4) as taken:
        put_numbers(ring, 0, 1, 2)
        wait_until_waited(ring, "take")
        assert not taken.done()
        put_numbers(ring, 3)
        assert numbers(taken.result()) == [0, 1, 2, 3]


def test_too_few_records_stay_when_the_time_is_over(ring):
    put_numbers(ring, 0, 1, 2)
    with pytest.raises(ringfeed.RingEmpty, match="3 of 4 records ready after"):
        ring.take(max_rows=8, min_rows=4, timeout=0.01)
    assert take_all(ring) == [0, 1, 2]


def test_a_batch_may_be_short_when_the_ring_was_finished(ring):
    put_numbers(ring, 0, 1)
    ring.finish()
    assert numbers(ring.take(max_rows=8, min_rows=4)) == [0, 1]


def test_a_batch_may_be_short_when_no_slot_is_free_to_publish_in(ring):
    put_numbers(ring, *range(8))
    held = ring.take(max_rows=6)
    with ring.take(max_rows=8, min_rows=4) as batch:
        assert numbers(batch) == [6, 7]
    held.release()


def test_enough_records_on_both_sides_of_a_held_slot_go_in_two_batches(ring):
    put_numbers(ring, 0, 1)
    held = ring.claim()
    put_numbers(ring, 2, 3)
    with ring.take(max_rows=8, min_rows=4) as batch:
        assert numbers(batch) == [0, 1]
    held.discard()


# ---- Lingering ---------------------------------------------------------------------------------------


def test_a_full_batch_does_not_linger(ring):
    put_numbers(ring, *range(4))
    assert len(ring.take(max_rows=4, linger=FOREVER)) == 4


def test_a_batch_lingers_for_more_and_goes_when_it_is_full(ring):
    put_numbers(ring, 0)
    with in_thread(ring.take, max_rows=3, linger=FOREVER) as taken:
        wait_until_waited(ring, "take")
        put_numbers(ring, 1)
        wait_until_waited(ring, "take")
        assert not taken.done()
        put_numbers(ring, 2)
        assert numbers(taken.result()) == [0, 1, 2]


def test_a_batch_goes_with_what_it_has_when_the_linger_is_over(ring):
    put_numbers(ring, 0)
    started = time.monotonic()
    assert len(ring.take(max_rows=8, linger=0.06)) == 1
    assert time.monotonic() - started >= 0.06


def test_the_timeout_cuts_the_linger_short(ring):
    put_numbers(ring, 0)
    assert len(ring.take(max_rows=8, linger=FOREVER, timeout=0.01)) == 1
    put_numbers(ring, 1)
    assert len(ring.take(max_rows=8, linger=FOREVER, timeout=0)) == 1


def test_the_linger_begins_when_min_rows_are_there(ring):
    with in_thread(ring.take, max_rows=8, min_rows=2, linger=0.01) as taken:
        put_numbers(ring, 0)
        wait_until_waited(ring, "take")  # longer than the linger
        assert not taken.done()
        put_numbers(ring, 1)
        assert numbers(taken.result()) == [0, 1]


def test_a_batch_that_can_not_grow_does_not_linger(ring):
    put_numbers(ring, 0, 1)
    held = [ring.take(max_rows=1)]
    put_numbers(ring, 2, 3)
    held.append(ring.take(max_rows=1))  # 2 and 3 are ready and the next slot is free, so the batch could grow
    assert numbers(ring.take(max_rows=3, linger=0)) == [2, 3]
    put_numbers(ring, 4, 5, 6, 7)
    assert numbers(ring.take(max_rows=8, linger=FOREVER)) == [4, 5, 6, 7]  # the next slot is held by this test
    del held


# ---- The end -----------------------------------------------------------------------------------------


def test_a_finished_ring_is_drained_and_then_says_so(ring):
    put_numbers(ring, 0, 1)
    ring.finish()
    assert ring.finished
    assert len(ring.take(max_rows=1)) == 1
    assert len(ring.take(max_rows=1)) == 1
    for _ in range(2):
        with pytest.raises(ringfeed.RingFinished, match=f"ring '{ring.name}' was finished"):
            ring.take(max_rows=1)


def test_a_finished_ring_takes_no_more_records(ring):
    ring.finish()
    with pytest.raises(ringfeed.RingFinished):
        ring.claim()
    with pytest.raises(ringfeed.RingFinished):
        ring.put(record(0))
    assert states(ring) == {"free": 8}


def test_a_claim_under_way_when_the_ring_was_finished_is_waited_for(ring):
    claim = ring.claim()
    claim["x"][...] = 3
    ring.finish()
    with in_thread(ring.take, max_rows=8) as taken:
        wait_until_waited(ring, "take")
        claim.publish()
        assert numbers(taken.result()) == [3]
    with pytest.raises(ringfeed.RingFinished):
        ring.take(max_rows=8)


def test_a_claim_under_way_when_the_ring_was_finished_may_be_discarded(ring):
    claim = ring.claim()
    ring.finish()
    with in_thread(ring.take, max_rows=8) as taken:
        wait_until_waited(ring, "take")
        claim.discard()
        with pytest.raises(ringfeed.RingFinished):
            taken.result()


@pytest.mark.parametrize("min_rows", [1, 4])
def test_a_waiting_taker_learns_that_the_ring_was_finished(ring, min_rows):
    with in_thread(ring.take, max_rows=8, min_rows=min_rows) as taken:
        wait_until_waited(ring, "take")
        ring.finish()
        with pytest.raises(ringfeed.RingFinished):
            taken.result()


def test_a_lingering_taker_goes_with_what_it_has_when_the_ring_is_finished(ring):
    put_numbers(ring, 0)
    with in_thread(ring.take, max_rows=8, linger=FOREVER) as taken:
        wait_until_waited(ring, "take")
        ring.finish()
        assert numbers(taken.result()) == [0]


@pytest.mark.parametrize(("end", "error"), [("finish", ringfeed.RingFinished), ("close", ringfeed.RingClosed)])
def test_a_waiting_producer_learns_of_the_end(ring, end, error):
    put_numbers(ring, *range(8))
    with in_thread(ring.claim) as claimed, in_thread(ring.put, record(0)) as put:
        wait_until_waited(ring, "claim")
        getattr(ring, end)()
        for produced in (claimed, put):
            with pytest.raises(error):
                produced.result()


def test_a_waiting_taker_learns_that_the_handle_was_closed(ring):
    with in_thread(ring.take, max_rows=8) as taken:
        wait_until_waited(ring, "take")
        ring.close()
        with pytest.raises(ringfeed.RingClosed, match="is closed: by close"):
            taken.result()


def test_batches_ends_when_the_ring_is_finished_and_releases_each_batch(ring):
    put_numbers(ring, *range(8))
    ring.finish()
    taken = []
    for batch in ring.batches(max_rows=3):
        taken.append(numbers(batch))
        assert states(ring).get("taken") == len(batch)
    assert taken == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert states(ring) == {"free": 8}


def test_leaving_the_loop_over_batches_releases_the_last(ring):
    put_numbers(ring, *range(8))
    for batch in ring.batches(max_rows=3):
        assert not batch.released
        break
    assert batch.released
    assert states(ring) == {"free": 3, "ready": 5}


def test_batches_passes_its_patience_on(ring):
    put_numbers(ring, 0)
    with pytest.raises(ringfeed.RingEmpty, match="1 of 2 records ready after"):
        next(ring.batches(max_rows=3, min_rows=2, timeout=0.01))


# ---- Messages of a full ring -------------------------------------------------------------------------


def test_the_error_of_a_full_ring_names_the_holders_of_the_slots(ring):
    held = [ring.claim() for _ in range(8)]
    with pytest.raises(ringfeed.RingFull, match=r"0 of 8 slots free; 8 are claimed and not published yet\. Publish"):
        ring.claim(timeout=0)
    for claim in held:
        claim["x"][...] = 0
        claim.publish()
    with pytest.raises(ringfeed.RingFull, match=r"the model is slower than the producers\. Take larger batches"):
        ring.claim(timeout=0)
    del held, claim
    batch = ring.take(max_rows=8)
    with pytest.raises(ringfeed.RingFull, match=r"8 are held by batches or arrays that are alive\. Release"):
        ring.claim(timeout=0)
    batch.release()
