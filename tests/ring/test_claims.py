"""Claiming and publishing: in place, out of order, several rows at a time, with tags; discarding a claim."""

import sys
import threading
from types import MappingProxyType

import numpy as np
import pytest

import ringfeed
from support import in_thread, numbers, record, states, take_all


def test_a_claimed_slot_is_written_in_place_and_published_at_the_end_of_the_block(ring):
    with ring.claim() as slot:
        slot["x"][...] = 7
        assert states(ring) == {"free": 7, "claimed": 1}
    assert states(ring) == {"free": 7, "ready": 1}
    assert take_all(ring) == [7]


def test_a_slot_has_the_samples_shape_and_rows_have_an_axis_more(ring):
    with ring.claim() as slot:
        assert slot["x"].shape == (512,)
        assert slot.rows == len(slot) == 1
    with ring.claim(rows=1) as slots:
        assert slots["x"].shape == (1, 512)
    with ring.claim(rows=3) as slots:
        assert slots["x"].shape == (3, 512)
        assert slots.rows == len(slots) == 3


def test_a_field_can_be_assigned_to(ring):
    with ring.claim() as slot:
        slot["x"] = range(512)
    with ring.claim(rows=2) as slots:
        slots["x"] = [[1] * 512, [2] * 512]
    with ring.take(max_rows=3) as batch:
        assert batch["x"][:, :3].tolist() == [[0, 1, 2], [1, 1, 1], [2, 2, 2]]


def test_an_exception_discards_the_claim_and_goes_on(ring):
    with pytest.raises(ZeroDivisionError), ring.claim() as slot:
        slot["x"][...] = 1 / 0
    assert states(ring) == {"free": 8}
    assert ring.stats()["discarded"] == 1


def test_a_claim_that_is_dropped_is_discarded(ring):
    slot = ring.claim()
    assert states(ring) == {"free": 7, "claimed": 1}
    del slot
    assert states(ring) == {"free": 8}


def test_discarding_twice_or_after_publishing_does_nothing(ring):
    slot = ring.claim()
    slot.discard()
    slot.discard()
    slot = ring.claim()
    slot["x"][...] = 1
    slot.publish()
    slot.discard()
    assert take_all(ring) == [1]
    assert ring.stats()["discarded"] == 1


@pytest.mark.parametrize("end", ["publish", "discard"])
def test_an_ended_claim_says_so(ring, end):
    slot = ring.claim()
    getattr(slot, end)()
    ended = "published" if end == "publish" else "discarded"
    for use in (slot.publish, lambda: slot["x"], lambda: slot.records, lambda: len(slot), lambda: slot.padded("x")):
        with pytest.raises(
            ringfeed.RingFeedError, match=f"ring {ring.name!r}: this claim was {ended}.*claim a new one"
        ):
            use()
    with pytest.raises(ringfeed.RingFeedError, match="was"):
        slot.tag = 1
    with pytest.raises(ringfeed.RingFeedError, match="was"):
        slot["x"] = 1


def test_publishing_inside_the_block_is_allowed(ring):
    with ring.claim() as slot:
        slot["x"][...] = 5
        slot.publish()
    assert take_all(ring) == [5]


def test_a_claim_publishes_when_another_record_has_been_before(ring):
    first, second = ring.claim(), ring.claim()
    second["x"][...] = 2
    second.publish()
    assert take_all(ring) == [2]
    first["x"][...] = 1
    first.publish()
    assert take_all(ring) == [1]


def test_slots_that_are_held_are_gone_around_lap_after_lap(ring):
    held = [ring.claim() for _ in range(3)]
    for lap in range(10):
        for n in range(5):
            ring.put(record(10 * lap + n), timeout=0)
        assert take_all(ring) == [10 * lap + n for n in range(5)]
    for claim in held:
        claim.discard()
    assert states(ring) == {"free": 8}


def test_a_held_batch_delays_only_its_own_slots(ring):
    for n in range(4):
        ring.put(record(n))
    held = ring.take(max_rows=2)
    for lap in range(10):
        assert len(take_all(ring)) == (2 if lap == 0 else 6)
        for n in range(6):
            ring.put(record(n), timeout=0)
    assert numbers(held) == [0, 1]
    held.release()


def test_one_producers_records_are_taken_in_the_order_of_publishing_around_skipped_slots(ring):
    held = []
    for position in range(8):
        claim = ring.claim()
        if position in (1, 4, 5):
            held.append(claim)
        else:
            claim.discard()
    for n in range(5):
        ring.put(record(n), timeout=0)
    assert take_all(ring) == [0, 1, 2, 3, 4]
    for claim in held:
        claim.discard()


def test_records_of_overlapping_claims_are_taken_in_one_batch_in_any_order_of_publishing(ring):
    claims = [ring.claim() for _ in range(5)]
    for n, claim in enumerate(claims):
        claim["x"][...] = n
    for n in (3, 0, 4, 1, 2):
        claims[n].publish()
    assert numbers(ring.take(max_rows=8, min_rows=5, timeout=0)) == [0, 1, 2, 3, 4]


def test_several_rows_are_claimed_as_many_as_lie_free_in_a_row(ring):
    between = [ring.claim() for _ in range(3)]
    between[0].discard()
    between[2].discard()
    with ring.claim(rows=8) as slots:  # from the third slot on, up to the held second slot
        assert len(slots) == 6
    between[1].discard()


def test_a_claim_of_rows_gets_at_least_one(ring):
    held = [ring.claim() for _ in range(7)]
    with ring.claim(rows=8, timeout=0) as slots:
        assert len(slots) == 1
    del held


def test_rows_are_published_in_order_with_their_tags(ring):
    with ring.claim(rows=4) as slots:
        slots["x"][...] = np.arange(4)[:, None]
        slots.tags[:] = [10, 11, 12, 13]
    with ring.take(max_rows=8) as batch:
        assert numbers(batch) == [0, 1, 2, 3]
        assert batch.tags.tolist() == [10, 11, 12, 13]


def test_only_the_first_rows_may_be_published(ring):
    slots = ring.claim(rows=5)
    slots["x"][...] = np.arange(5)[:, None]
    slots.publish(rows=2)
    assert states(ring) == {"free": 6, "ready": 2}
    assert take_all(ring) == [0, 1]


def test_publishing_no_rows_is_discarding(ring):
    slots = ring.claim(rows=5)
    slots.publish(rows=0)
    assert states(ring) == {"free": 8}


@pytest.mark.parametrize("tag", [0, 1, 17, 2**63, 2**64 - 1])
def test_a_tag_of_64_bits_travels_with_the_record(ring, tag):
    with ring.claim() as slot:
        slot.tag = tag
        assert slot.tag == tag
    ring.put(record(0), tag=tag)
    ring.put(record(0), tag=np.uint64(tag))
    with ring.take(max_rows=3) as batch:
        assert batch.tags.tolist() == [tag] * 3
        assert batch.tags.dtype == np.uint64


def test_a_record_without_a_tag_has_tag_0_also_in_a_slot_that_had_one(ring):
    for _ in range(ring.slots):
        ring.put(record(0), tag=5)
    take_all(ring)
    with ring.claim(rows=4):
        pass
    with ring.claim():
        pass
    ring.put(record(0))
    with ring.take(max_rows=8) as batch:
        assert batch.tags.tolist() == [0] * 6


def test_one_tag_for_a_claim_of_rows_is_every_rows(ring):
    with ring.claim(rows=3) as slots:
        slots.tag = 9
        assert slots.tags.tolist() == [9, 9, 9]
    with ring.claim(rows=3) as slots:
        slots.tags = [1, 2, 3]
        slots.tag = 8
        assert slots.tag == 8
    with ring.claim(rows=2) as slots:
        slots.tags = [1, 2]
        assert slots.tag == 1
    with ring.take(max_rows=8) as batch:
        assert batch.tags.tolist() == [9, 9, 9, 8, 8, 8, 1, 2]


def test_tags_stay_readable_when_the_batch_is_gone(ring):
    ring.put(record(0), tag=4)
    with ring.take(max_rows=1) as batch:
        tags = batch.tags
    ring.put(record(0), tag=5)
    assert tags.tolist() == [4]
    assert states(ring) == {"free": 7, "ready": 1}


def test_a_claim_and_a_batch_show_what_they_are(ring):
    with ring.claim(rows=3) as slots:
        assert repr(slots) == f"<Claim of ring '{ring.name}', 3 rows>"
    assert repr(slots) == f"<Claim of ring '{ring.name}', ended>"
    with ring.take(max_rows=2) as batch:
        assert repr(batch) == f"<Batch of ring '{ring.name}', 2 rows>"


def test_a_claim_that_two_threads_end_is_ended_once(ring):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for n in range(300):
            slots = ring.claim(rows=2)
            slots["x"] = n
            slots.tag = n
            barrier = threading.Barrier(2)

            def publish(slots=slots, barrier=barrier):
                barrier.wait()
                try:
                    slots.publish()
                except ringfeed.RingFeedError:
                    return "refused"
                return "published"

            with in_thread(publish) as other:
                said = [publish(), other.result()]
            assert sorted(said) == ["published", "refused"]
            assert take_all(ring) == [n, n]
    finally:
        sys.setswitchinterval(before)


def test_asking_for_a_field_again_and_again_makes_one_array(ring):
    with ring.claim() as slot:
        assert slot["x"] is slot["x"]
        for i in range(512):
            slot["x"][i] = 3
    assert take_all(ring) == [3]


def test_a_claim_and_a_batch_are_mappings_of_their_fields(make_ring):
    ring = make_ring({"x": ((), "int64"), "y": ((2,), "float32")})
    with ring.claim() as slot:
        assert list(slot) == list(slot.keys()) == ["x", "y"]
        assert "x" in slot
        assert "z" not in slot
        slot["x"][...] = 1
        slot["y"][...] = 2
    with ring.take(max_rows=1) as batch:
        assert {name: array.tolist() for name, array in dict(batch).items()} == {"x": [1], "y": [[2, 2]]}


@pytest.mark.parametrize("rows", [1, 3])
def test_a_claim_and_a_batch_know_their_rows_and_their_items(make_ring, rows):
    """`len` counts rows, but iterating yields names; two explicit attributes tell them apart."""
    ring = make_ring({"x": ((), "int64"), "y": ((2,), "float32")})
    with ring.claim(rows) as slots:
        assert slots.rows == len(slots) == rows
        for number, (name, array) in enumerate(slots.items()):
            array[...] = number
            assert array is slots[name]
        assert [array.shape for array in slots.values()] == [(rows,), (rows, 2)]
    with ring.take(max_rows=4, min_rows=rows) as batch:
        assert batch.rows == len(batch) == rows
        assert {name: array.tolist() for name, array in batch.items()} == {"x": [0] * rows, "y": [[1, 1]] * rows}
        assert [array.tolist() for array in batch.values()] == [[0] * rows, [[1, 1]] * rows]
    for ended in (slots, batch):
        for ask in (lambda of: of.rows, lambda of: of.items(), lambda of: of.values()):
            with pytest.raises(ringfeed.RingFeedError, match="was"):
                ask(ended)


def test_items_keep_no_array_that_was_gone_past(ring):
    for number in range(4):
        ring.put(record(number))
    batch = ring.take(4)
    for _, array in batch.items():
        assert array.shape == (4, 512)
    del _, array
    assert batch.release() is True


def test_put_copies_so_that_the_array_can_be_used_again(ring):
    sample = record(1)
    ring.put(sample)
    sample["x"][...] = 2
    ring.put(sample)
    assert take_all(ring) == [1, 2]


@pytest.mark.parametrize(
    "sample",
    [
        np.arange(1024)[::2],
        np.arange(511, -1, -1)[::-1] * 2,
        np.lib.stride_tricks.as_strided(np.arange(1024), (512,), (16,)),
        (np.arange(512) * 2).astype(">i8").astype("<i8"),
        list(range(0, 1024, 2)),
        range(0, 1024, 2),
        np.ma.masked_array(np.arange(512) * 2),
    ],
    ids=["sliced", "reversed", "strided", "swapped", "list", "range", "masked"],
)
def test_put_takes_any_form_of_the_same_sample(ring, sample):
    ring.put({"x": sample})
    with ring.take(max_rows=1) as batch:
        assert (batch["x"][0] == np.arange(0, 1024, 2)).all()


def test_put_takes_memory_that_is_not_aligned(ring):
    raw = np.zeros(512 * 8 + 1, np.uint8)
    unaligned = raw[1:].view(np.int64)
    unaligned[...] = np.arange(512)
    assert not unaligned.flags.aligned
    ring.put({"x": unaligned})
    with ring.take(max_rows=1) as batch:
        assert (batch["x"][0] == np.arange(512)).all()


def test_put_takes_pythons_own_numbers_where_they_stay_what_they_are(make_ring):
    ring = make_ring(
        {"i": ((), "uint8"), "f": ((2,), "float16"), "b": ((), "bool"), "c": ((), "complex64"), "h": ((), "bfloat16")}
    )
    ring.put({"i": 255, "f": (1, 2.5), "b": True, "c": 2, "h": 1.5})
    with ring.take(max_rows=1) as batch:
        assert batch["i"].tolist() == [255]
        assert batch["f"].tolist() == [[1, 2.5]]
        assert batch["b"].tolist() == [True]
        assert batch["c"].tolist() == [2]
        assert batch["h"].astype(float).tolist() == [1.5]


def test_put_takes_any_mapping(ring):
    ring.put(MappingProxyType(record(3)))
    assert take_all(ring) == [3]


def test_put_keeps_samples_alive_that_a_mapping_makes_as_they_are_asked_for(make_ring, tmp_path):
    fields = dict.fromkeys("abcd", ((100000,), "int64"))
    ring = make_ring(fields, slots=2)
    np.savez(tmp_path / "record.npz", **{name: np.full(100_000, ord(name)) for name in fields})
    with np.load(tmp_path / "record.npz") as lazily_loaded:
        ring.put(lazily_loaded)
    with ring.take(max_rows=1) as batch:
        for name in fields:
            assert (batch[name] == ord(name)).all()
