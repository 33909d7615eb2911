"""Views keep the slot: whatever still shows its memory, on whatever way, it is not written under it.

Each way of keeping a view is tried with each way of letting go of what it came from. While the view
lives, producers go around the ring lap after lap; afterwards the slot is free.
"""

import copy
import gc
import itertools
import pickle
import weakref

import numpy as np
import pytest

import ringfeed
from support import numbers, record, states, take_all

pytestmark = pytest.mark.usefixtures("quick_collection")

MINE = 7


def in_a_circle(array):
    """Put an array where only the garbage collector finds it."""
    circle = [array]
    circle.append(circle)


# Each keeps a view of the rows (a Batch or a Claim) and returns it.
WAYS_TO_KEEP = {
    "an array": lambda rows: rows["x"],
    "a slice": lambda rows: rows["x"][..., 10:20],
    "a slice of a slice": lambda rows: rows["x"][..., 10:][..., ::2],
    "a reshaped array": lambda rows: rows["x"].reshape(-1, 2),
    "a transposed array": lambda rows: rows["x"].T,
    "an array of another dtype": lambda rows: rows["x"].view(np.uint8),
    "an array of another class": lambda rows: rows["x"].view(np.matrix),
    "the padded array": lambda rows: rows.padded("x"),
    "a memoryview": lambda rows: memoryview(rows["x"]),
    "a slice of a memoryview": lambda rows: memoryview(rows["x"])[:1],
    "an array over a memoryview": lambda rows: np.asarray(memoryview(rows["x"])),
    "an iterator": lambda rows: rows["x"].flat,
    "what the array is based on": lambda rows: rows["x"].base,
    "an array over the array interface": lambda rows: np.asarray(
        type("I", (), {"__array_interface__": rows["x"].__array_interface__, "a": rows["x"]})()
    ),
    "a ctypes object": lambda rows: np.ctypeslib.as_ctypes(rows["x"]),
    "an exporter": lambda rows: rows.dlpack("x"),
    "a padded exporter": lambda rows: rows.dlpack("x", padded=True),
    "a capsule": lambda rows: rows.dlpack("x").__dlpack__(),
    "a versioned capsule": lambda rows: rows.__dlpack__(max_version=(1, 0)),
    "a capsule of an array": lambda rows: rows["x"].__dlpack__(),
    "an array from DLPack": lambda rows: np.from_dlpack(rows),
    "an array from an exporter": lambda rows: np.from_dlpack(rows.dlpack("x")),
}
keeping = pytest.mark.parametrize("keep", WAYS_TO_KEEP.values(), ids=WAYS_TO_KEEP)

# Of a claim: what could write into the slot when it is published, and looks unlike the claim's own arrays.
DERIVED = [
    "a slice",
    "a slice of a slice",
    "a reshaped array",
    "a transposed array",
    "an array of another dtype",
    "what the array is based on",
    "an array from DLPack",
    "an array from an exporter",
]
deriving = pytest.mark.parametrize("derive", [WAYS_TO_KEEP[name] for name in DERIVED], ids=DERIVED)
keeping_as_it_is = pytest.mark.parametrize(
    "keep",
    [way for name, way in WAYS_TO_KEEP.items() if name not in DERIVED],
    ids=[name for name in WAYS_TO_KEEP if name not in DERIVED],
)


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


def lap(ring, slots):
    """Fill what is free, see that it is as much as it should be, and take it again."""
    count = 0
    while True:
        try:
            ring.put(record(1000 + count), timeout=0)
        except ringfeed.RingFull:
            break
        count += 1
    assert count == slots
    assert take_all(ring) == [1000 + n for n in range(count)]


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


@keeping_as_it_is
def test_a_view_of_a_claim_pins_the_slot_which_is_published_and_taken_but_not_reused(ring, keep):
    with ring.claim() as slot:
        slot["x"] = MINE
        view = keep(slot)
    assert states(ring) == {"free": 7, "ready": 1}
    with ring.take(max_rows=1) as batch:
        assert numbers(batch) == [MINE]
    for _ in range(3):
        assert states(ring) == {"free": 7, "pinned": 1}
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
    assert states(ring) == {"free": 6, "pinned": 1, "ready": 1}
    batch = ring.take(max_rows=1)
    if isinstance(view, np.ndarray) and view.flags.writeable:
        view[...] = 0
    assert numbers(batch) == [MINE]
    assert (batch["x"] == MINE).all()
    assert batch.tags.tolist() == [5]
    batch.release()
    for _ in range(3):
        assert states(ring) == {"free": 7, "pinned": 1}
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
    assert states(ring) == {"free": 2, "pinned": 3, "ready": 3}
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
    assert states(ring) == {"pinned": 8}
    del keep, claim
    assert states(ring) == {"free": 8}


def test_a_capsule_that_nobody_took_over_and_nobody_has_costs_no_copy(ring):
    claim = ring.claim(rows=8)  # there is no room for a copy
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
        assert states(ring) == {"free": 7, "pinned": 1}
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
    assert states(ring) == {"free": 4, "claimed": 2, "pinned": 2}
    del view
    assert states(ring) == {"free": 8}


def test_the_last_of_many_views_frees_the_slot_in_whatever_order_they_go(ring):
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


# ---- The ring goes first -----------------------------------------------------------------------------


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


# ---- No way around -----------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_batch_and_a_claim_can_not_be_copied(ring, duplicate):
    ring.put(record(MINE))
    for rows in (ring.take(max_rows=1), ring.claim()):
        with pytest.raises(TypeError, match=rf"a {type(rows).__name__} is memory that this process holds.*send copies"):
            duplicate(rows)


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


def test_views_by_the_thousand_come_and_go(ring):
    ring.put(record(MINE))
    batch = ring.take(max_rows=1)
    ways = itertools.cycle(WAYS_TO_KEEP.values())
    for _ in range(2000):
        next(ways)(batch)
    gc.collect()  # ctypes makes circles
    assert batch.release() is True
    assert states(ring) == {"free": 8}
