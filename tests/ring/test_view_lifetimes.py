"""A slot of a batch is not reused while any view still shows its memory.

Each way of keeping a view is tried with each way of letting go of the batch. While the view lives,
producers go around the ring lap after lap; afterwards the slot is free.
"""

import copy
import gc
import itertools
import pickle

import numpy as np
import pytest
from views import MINE, WAYS_TO_KEEP, keeping, lap

import ringfeed
from support import numbers, record, states

pytestmark = pytest.mark.usefixtures("quick_collection")


def in_a_circle(array):
    """Put an array into a reference cycle, which only the garbage collector frees."""
    circle = [array]
    circle.append(circle)


def released(ring):
    batch = ring.take(max_rows=1)
    view = yield batch
    assert batch.release() is False
    assert batch.release() is False
    yield view


def out_of_the_block(ring):
    with ring.take(max_rows=1) as batch:
        view = yield batch
    assert batch.released
    yield view


def dropped(ring):
    batch = ring.take(max_rows=1)
    view = yield batch
    del batch
    gc.collect()
    yield view


def past_in_a_loop(ring):
    batches = ring.batches(max_rows=1, timeout=0)
    view = yield next(batches)
    with pytest.raises(ringfeed.RingEmpty):
        next(batches)
    yield view


WAYS_TO_LET_GO = [released, out_of_the_block, dropped, past_in_a_loop]


@keeping
@pytest.mark.parametrize("let_go", WAYS_TO_LET_GO, ids=lambda way: way.__name__)
def test_a_slot_is_not_reused_while_a_view_of_its_batch_lives(ring, let_go, keep):
    ring.put(record(MINE))
    steps = let_go(ring)
    batch = next(steps)
    witness = np.array(batch["x"])
    address = batch["x"].__array_interface__["data"][0]
    view = keep(batch)
    del batch
    view = steps.send(view)
    steps.close()
    for _ in range(3):
        assert states(ring) == {"free": 7, "taken": 1}
        lap(ring, slots=7)
    memory = np.frombuffer((np.ctypeslib.ctypes.c_int64 * 512).from_address(address), np.int64)
    assert (memory == witness).all()
    del view
    gc.collect()
    assert states(ring) == {"free": 8}
    lap(ring, slots=8)


def test_the_last_of_many_views_frees_the_slot_in_any_order(ring):
    ring.put(record(MINE))
    with ring.take(max_rows=1) as batch:
        views = [keep(batch) for keep in WAYS_TO_KEEP.values()]
    for position in np.random.default_rng(0).permutation(len(views)):
        assert states(ring) == {"free": 7, "taken": 1}
        views[position] = None
        gc.collect()
    assert states(ring) == {"free": 8}


def test_one_view_of_a_batch_keeps_all_its_slots(ring):
    for n in range(4):
        ring.put(record(n))
    with ring.take(max_rows=3) as batch:
        view = batch["x"][1]
    assert states(ring) == {"free": 4, "ready": 1, "taken": 3}
    del view
    assert states(ring) == {"free": 7, "ready": 1}


def test_a_view_in_a_circle_of_references_keeps_the_slot_until_the_garbage_collector_comes(ring):
    ring.put(record(MINE))
    gc.disable()
    try:
        with ring.take(max_rows=1) as batch:
            in_a_circle(batch["x"])
        assert states(ring) == {"free": 7, "taken": 1}
    finally:
        gc.enable()
    gc.collect()
    assert states(ring) == {"free": 8}


def test_a_batch_and_a_claim_in_a_circle_of_references_are_let_go_by_the_garbage_collector(ring):
    ring.put(record(MINE))
    in_a_circle(ring.take(max_rows=1))
    in_a_circle(ring.claim())
    gc.collect()
    assert states(ring) == {"free": 8}


def test_a_release_without_views_recycles_at_once_and_says_so(ring):
    ring.put(record(MINE))
    batch = ring.take(max_rows=1)
    numbers(batch)
    assert batch.release() is True
    assert batch.release() is True
    assert states(ring) == {"free": 8}


def test_a_release_says_that_a_dlpack_tensor_still_holds_the_slots(ring):
    ring.put(record(MINE))
    batch = ring.take(max_rows=1)
    tensor = np.from_dlpack(batch)
    assert batch.release() is False
    del tensor
    assert states(ring) == {"free": 8}


def test_a_released_batch_says_so(ring):
    ring.put(record(MINE))
    batch = ring.take(max_rows=1)
    batch.release()
    reads = (lambda: batch["x"], lambda: batch.tags, lambda: batch.records, batch.only_record, lambda: len(batch))
    for use in (*reads, batch.__dlpack__):
        with pytest.raises(
            ringfeed.RingFeedError, match=f"ring '{ring.name}': this batch was released; take a new one"
        ):
            use()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_batch_and_a_claim_can_not_be_copied(ring, duplicate):
    ring.put(record(MINE))
    for rows in (ring.take(max_rows=1), ring.claim()):
        with pytest.raises(TypeError, match=rf"a {type(rows).__name__} is memory that this process holds.*Send copies"):
            duplicate(rows)


def test_views_by_the_thousand_come_and_go(ring):
    ring.put(record(MINE))
    batch = ring.take(max_rows=1)
    ways = itertools.cycle(WAYS_TO_KEEP.values())
    for _ in range(2000):
        next(ways)(batch)
    gc.collect()  # ctypes makes reference cycles
    assert batch.release() is True
    assert states(ring) == {"free": 8}
