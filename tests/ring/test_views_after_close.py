"""Views, batches and claims stay valid after their ring was closed, removed or collected."""

import gc
import weakref

import pytest
from views import MINE, keeping, lap

import ringfeed
from support import numbers, record, take_all

pytestmark = pytest.mark.usefixtures("quick_collection")


def end_by_close(ring):
    ring.close()


def end_by_closing_and_removing(ring):
    ring.close()
    ring.unlink()


def end_by_block(ring):
    with ring:
        pass


ENDS = [end_by_close, end_by_closing_and_removing, end_by_block]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@keeping
def test_views_stay_valid_when_the_ring_is_closed(ring, end, keep):
    ring.put(record(MINE))
    batch, slot = ring.take(max_rows=1), ring.claim()
    slot["x"] = MINE + 1
    arrays = batch["x"], slot["x"]
    views = keep(batch), keep(slot)
    end(ring)
    slot.publish()
    batch.release()
    assert (arrays[0] == MINE).all()
    assert (arrays[1] == MINE + 1).all()
    del views


@keeping
def test_views_stay_valid_when_nothing_else_is_left_of_the_ring(ring_name, keep):
    ring = ringfeed.Ring.create(ring_name, {"x": ((512,), "int64")}, slots=4)
    ring.put(record(MINE))
    batch = ring.take(max_rows=1)
    view, array = keep(batch), batch["x"]
    gone = weakref.ref(ring)
    del ring, batch
    gc.collect()
    assert gone() is None
    assert (array == MINE).all()
    array[...] = 3
    del array
    gc.collect()
    del view


def test_a_closed_handles_views_keep_their_slots_from_the_other_handles(ring):
    other = ringfeed.Ring.attach(ring.name)
    ring.put(record(MINE))
    view = other.take(max_rows=1)["x"]
    other.close()
    del other
    gc.collect()
    for _ in range(3):
        lap(ring, slots=7)
    assert (view == MINE).all()
    del view
    lap(ring, slots=8)


def test_a_claim_can_be_published_after_its_handle_was_closed(ring):
    other = ringfeed.Ring.attach(ring.name)
    slot = other.claim()
    slot["x"] = MINE
    other.close()
    slot.publish()
    assert take_all(ring) == [MINE]


def test_a_ring_that_is_dropped_with_a_batch_alive_is_kept_by_it(ring_name):
    ring = ringfeed.Ring.create(ring_name, {"x": ((512,), "int64")}, slots=4)
    ring.put(record(MINE))
    batch = ring.take(max_rows=1)
    del ring
    assert numbers(batch) == [MINE]
    batch.ring.put(record(1))
    assert take_all(batch.ring) == [1]
