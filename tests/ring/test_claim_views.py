"""Views of a claim: when publishing makes a copy, when arrays become read-only, and when the slot is free again."""

import gc
import weakref

import numpy as np
import pytest
from views import MINE, deriving, keeping, keeping_as_it_is, lap

import ringfeed
from support import numbers, states, take_all

pytestmark = pytest.mark.usefixtures("quick_collection")


@keeping_as_it_is
def test_a_view_of_a_claim_pins_the_slot_which_is_published_and_taken_but_not_reused(ring, keep):
    with ring.claim() as slot:
        slot["x"] = MINE
        view = keep(slot)
    assert states(ring) == {"free": 7, "ready": 1}
    with ring.take(max_rows=1) as batch:
        assert numbers(batch) == [MINE]
    for _ in range(3):
        assert states(ring) == {"free": 7, "kept": 1}
        lap(ring, slots=7)
    del view, slot, batch
    gc.collect()
    assert states(ring) == {"free": 8}
    lap(ring, slots=8)


@deriving
def test_a_record_is_published_as_a_copy_while_a_view_could_still_write_into_its_slot(ring, derive):
    with ring.claim() as slot:
        slot["x"] = MINE
        slot.tag = 5
        view = derive(slot)
    assert states(ring) == {"free": 6, "kept": 1, "ready": 1}
    batch = ring.take(max_rows=1)
    if isinstance(view, np.ndarray) and view.flags.writeable:
        view[...] = 0
    assert numbers(batch) == [MINE]
    assert (batch["x"] == MINE).all()
    assert batch.tags.tolist() == [5]
    batch.release()
    for _ in range(3):
        assert states(ring) == {"free": 7, "kept": 1}
        lap(ring, slots=7)
    del view, slot
    gc.collect()
    assert states(ring) == {"free": 8}
    lap(ring, slots=8)


def test_rows_are_published_as_copies_in_their_order(ring):
    with ring.claim(rows=3) as slots:
        for number, row in enumerate(slots["x"]):
            row[...] = number
        slots.tags = range(3)
    assert states(ring) == {"free": 2, "kept": 3, "ready": 3}
    row[...] = MINE
    with ring.take(max_rows=8) as batch:
        assert numbers(batch) == batch.tags.tolist() == [0, 1, 2]
    del row
    assert states(ring) == {"free": 8}


def test_fewer_rows_are_published_as_copies(ring):
    slots = ring.claim(rows=3)
    slots["x"] = MINE
    row = slots["x"][0]
    slots.publish(rows=1)
    row[...] = 0
    assert take_all(ring) == [MINE]
    del row
    assert states(ring) == {"free": 8}


def test_a_claim_of_every_slot_is_not_published_while_a_view_could_write_into_it(ring):
    slots = ring.claim(rows=8)
    row = slots["x"][3]
    with pytest.raises(ringfeed.RingFull, match="Drop such views"):
        slots.publish()
    del row, slots
    assert states(ring) == {"free": 8}


def test_takers_of_a_finished_ring_do_not_wait_for_a_claim_that_was_not_published_for_its_views(ring):
    claim = ring.claim(rows=8)
    keep = claim["x"][1:]
    with pytest.raises(ringfeed.RingFull):
        claim.publish()
    ring.finish()
    with pytest.raises(ringfeed.RingFinished):
        ring.take(1, timeout=0)
    assert states(ring) == {"kept": 8}
    del keep, claim
    assert states(ring) == {"free": 8}


def test_a_dropped_capsule_without_a_consumer_costs_no_copy(ring):
    claim = ring.claim(rows=8)  # no slot is free for a copy
    claim.dlpack("x").__dlpack__()
    claim.publish()
    assert states(ring) == {"ready": 8}


def test_a_record_is_published_as_a_copy_also_when_the_ring_was_finished_meanwhile(ring):
    slot = ring.claim()
    slot["x"] = MINE
    view = slot["x"][3:]
    ring.finish()
    slot.publish()
    view[...] = 0
    assert [numbers(batch) for batch in ring.batches(max_rows=4)] == [[MINE]]


def test_an_array_that_was_given_another_shape_or_dtype_is_not_the_next_claims(ring):
    for change in ({"shape": (2, 256)}, {"dtype": np.uint8}):
        with ring.claim() as slot:
            array = slot["x"]
            for name, value in change.items():
                setattr(array, name, value)
            del array
        with ring.claim() as slot:
            assert (slot["x"].shape, slot["x"].dtype, slot["x"].strides) == ((512,), np.int64, (8,))
            slot["x"] = MINE
        with ring.take(max_rows=2) as batch:
            assert (batch["x"][-1] == MINE).all()


def test_views_that_are_gone_by_then_cost_no_copy(ring):
    with ring.claim(rows=2) as slots:
        for row in slots["x"]:
            row[...] = MINE
        del row
    assert states(ring) == {"free": 6, "ready": 2}
    assert take_all(ring) == [MINE, MINE]


@pytest.mark.parametrize("step", ["ready", "taken", "released"])
def test_a_pin_that_goes_at_any_step_leaves_the_slot_as_it_should_be(ring, step):
    with ring.claim() as slot:
        slot["x"] = MINE
        view = slot["x"]
    if step == "ready":
        del view
    batch = ring.take(max_rows=1)
    if step == "taken":
        del view
    batch.release()
    if step == "released":
        assert states(ring) == {"free": 7, "kept": 1}
        del view
    assert states(ring) == {"free": 8}


@keeping
@pytest.mark.parametrize("end", ["discard", "drop", "raise"])
def test_a_discarded_claim_holds_the_slot_until_its_last_view_is_gone(ring, end, keep):
    slot = ring.claim()
    slot["x"] = MINE
    view = keep(slot)
    if end == "discard":
        slot.discard()
    elif end == "raise":
        with pytest.raises(ZeroDivisionError), slot:
            raise ZeroDivisionError
    del slot
    gc.collect()
    assert states(ring) == {"free": 7, "claimed": 1}
    lap(ring, slots=7)
    del view
    gc.collect()
    assert states(ring) == {"free": 8}


def test_rows_that_were_not_published_are_free_when_the_last_view_is_gone(ring):
    slots = ring.claim(rows=4)
    slots["x"][...] = [[0], [1], [2], [3]]
    view = slots["x"]
    slots.publish(rows=2)
    assert states(ring) == {"free": 4, "claimed": 2, "ready": 2}
    assert take_all(ring) == [0, 1]
    assert states(ring) == {"free": 4, "claimed": 2, "kept": 2}
    del view
    assert states(ring) == {"free": 8}


# ---- Read-only after publishing ----------------------------------------------------------------------


def test_arrays_of_a_claim_become_read_only_when_it_is_published(ring):
    with ring.claim() as slot:
        array, dense = slot["x"], slot.padded("x")
        assert array.flags.writeable
        array[...] = 0
    for view in (array, dense):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 1
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            view.flags.writeable = True


def test_arrays_of_a_claim_become_read_only_when_it_is_discarded(ring):
    slot = ring.claim()
    array = slot["x"]
    slot.discard()
    assert not array.flags.writeable


# ---- A claim that ends ------------------------------------------------------------------------------


def test_a_claim_that_is_ended_by_a_weak_reference_while_it_ends_is_ended_once(ring):
    slot = ring.claim()
    slot["x"] = MINE
    ended = []

    def again(_):
        with pytest.raises(ringfeed.RingFeedError, match="was published"):
            slot.publish()
        slot.discard()
        ended.append(True)

    watch = weakref.ref(slot["x"], again)
    slot.publish()
    assert ended == [True]
    assert watch() is None
    assert take_all(ring) == [MINE]


def test_tags_that_were_resized_are_not_read(ring):
    slots = ring.claim(rows=4)
    slots.tags.resize(1, refcheck=False)
    with pytest.raises(ValueError, match="tags were resized; leave them 4 long"):
        slots.publish()
    assert states(ring) == {"free": 8}
