"""How many slots a ring gets: rounding up to whole pages when that is cheap, and batches that stay contiguous."""

import os

import numpy as np
import pytest

import ringfeed
from support import run_program, take_all

MIB = 1 << 20
IMAGE_AND_LABEL = {"image": ((64, MIB), "uint8"), "label": ((), "int64")}


def image_and_label(image_bytes):
    return {"image": ((image_bytes,), "uint8"), "label": ((), "int64")}


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_two_slots_of_a_large_sample_beside_a_number_take_the_memory_of_two(slots):
    with ringfeed.Ring.create_nameless(IMAGE_AND_LABEL, slots=slots, participants=8) as ring:
        assert ring.slots == ring.stats()["slots"] == slots
        assert ring.segment_bytes < slots * 64 * MIB + MIB
        assert os.fstat(ring.descriptor).st_blocks * 512 < slots * 64 * MIB + MIB
        assert not ring.mirrored


def test_batches_of_a_padded_ring_are_in_one_piece_and_right_lap_after_lap():
    with ringfeed.Ring.create_nameless(image_and_label(MIB), slots=5, participants=8) as ring:
        assert (ring.slots, ring.mirrored) == (5, False)
        other = ringfeed.Ring.attach_descriptor(os.dup(ring.descriptor), "same")
        assert (other.slots, other.mirrored, other.spec) == (5, False, ring.spec)
        put = taken = 0
        sizes = set()
        for round_ in range(40):
            for _ in range(1 + round_ % 5):
                other.put({"image": np.full(MIB, put % 251, np.uint8), "label": put})
                put += 1
            while taken < put:
                with ring.take(max_rows=5) as batch:
                    sizes.add(len(batch))
                    assert batch["image"].flags["C_CONTIGUOUS"]
                    for number, image in zip(batch["label"].tolist(), batch["image"], strict=True):
                        assert number == taken
                        assert (image == number % 251).all()
                        taken += 1
                    del image  # this view would hold the slot
        assert max(sizes) == 5
        other.close()


def test_claims_of_rows_end_at_the_end_of_a_padded_ring():
    with ringfeed.Ring.create_nameless(image_and_label(MIB), slots=5, participants=8) as ring:
        for number in range(30):
            with ring.claim(rows=3) as slots:
                slots["label"] = number
                slots["image"] = number
                rows = len(slots)
            found = []
            while ring.ready:
                with ring.take(max_rows=5) as batch:
                    found += batch["label"].tolist()
                    assert (batch["image"] == batch["label"][:, None]).all()
            assert found == [number] * rows


def test_a_take_of_all_rows_waits_no_longer_than_they_lie_ready():
    """Five ready rows across the ring's end are two runs; a take with `min_rows=5` must not wait for a single run."""
    with ringfeed.Ring.create_nameless(image_and_label(MIB), slots=5, participants=8) as ring:
        for number in range(3):
            ring.put({"image": np.zeros(MIB, np.uint8), "label": number})
        ring.take(3).release()
        for number in range(5):
            ring.put({"image": np.zeros(MIB, np.uint8), "label": number})
        found = []
        while len(found) < 5:
            with ring.take(max_rows=5, min_rows=5 - len(found), timeout=None) as batch:
                found += batch["label"].tolist()
        assert found == list(range(5))


@pytest.mark.parametrize(
    ("sample", "slots", "real"),
    [(1000, 2, 64), (4096, 8, 64), (224 * 224 * 3, 100, 128), (224 * 224 * 3, 256, 256), (224 * 224 * 3, 50, 64)],
)
def test_ordinary_rings_are_rounded_up_as_ever_so_that_batches_pass_the_end(sample, slots, real):
    with ringfeed.Ring.create_nameless(image_and_label(sample), slots=slots, participants=8) as ring:
        assert (ring.slots, ring.mirrored) == (real, True)
        ring.finish()
        assert take_all(ring) == []


@pytest.mark.parametrize("fields", [{"x": ((MIB,), "uint8")}, {"x": ((4096,), "uint8"), "y": ((1024,), "float32")}])
def test_a_ring_of_whole_pages_has_exactly_the_slots_that_were_asked_for_and_is_mirrored(fields):
    for slots in (1, 2, 3, 7, 13):
        with ringfeed.Ring.create_nameless(fields, slots=slots, participants=8) as ring:
            assert (ring.slots, ring.mirrored) == (slots, True)


def test_with_huge_pages_two_slots_stay_two():
    program = """
        import warnings
        warnings.simplefilter("ignore")
        fields = {"image": ((2 << 20,), "uint8"), "label": ((), "int64")}
        with ringfeed.Ring.create_nameless(fields, slots=2, participants=8, huge_pages=True) as ring:
            print(ring.slots, ring.segment_bytes <= 16 << 20)
            ring.put({"image": np.ones(2 << 20, np.uint8), "label": 3})
            with ring.take(1) as batch:
                print(batch["label"].tolist(), int(batch["image"].sum()) == 2 << 20)
        """
    assert run_program(program) == (0, "2 True\n[3] True\n", "")


def test_no_space_says_what_was_asked_what_rounding_made_of_it_and_why():
    fields = {"x": ((1 << 36,), "uint8"), "label": ((), "int64")}
    for slots, message in (
        (
            8,
            r"8 slots of 68719476800 bytes \(each field padded to whole pages of 4096 bytes\) need 549\d+ bytes of ",
        ),
        (
            100,
            r"100 slots of 68719476800 bytes \(rounded up to 128 slots, with which every field fills whole pages of "
            r"4096 bytes, so that a batch may pass the ring's end\) need 879\d+ bytes of memory",
        ),
    ):
        with pytest.raises(ringfeed.NoSpace, match=message):
            ringfeed.Ring.create_nameless(fields, slots=slots)
    with pytest.raises(ringfeed.NoSpace, match=r"8 slots of 68719476736 bytes need \d+ bytes of memory"):
        ringfeed.Ring.create_nameless({"x": ((1 << 36,), "uint8")}, slots=8)
