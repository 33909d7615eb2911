"""Zeroed claims: no data of an older record remains, in padding too, also across the ring's end."""

import numpy as np
import pytest

import ringfeed
from ringfeed.record_spec import as_dtype
from support import DTYPES, in_thread, states, wait_until_waited

FULL = {"image": ((7, 5, 3), "uint8"), "mean": ((), "float64"), "big": ((1000, 33), "float32")}


def fill(ring):
    """Fill every slot, and its padding, with ones."""
    for _ in range(ring.slots):
        with ring.claim() as slot:
            for name in slot:
                slot.padded(name)[...] = 1
    while states(ring) != {"free": ring.slots}:
        ring.take(ring.slots).release()


@pytest.mark.parametrize("rows", [None, 1, 3])
def test_a_zeroed_claim_has_zeros_in_every_field_and_its_padding(make_ring, rows):
    ring = make_ring(FULL)
    fill(ring)
    with ring.claim(rows) as slots:
        assert all(slots[name].all() for name in FULL), "a slot holds data of an older record"
    with ring.claim(rows, zero=True) as slots:
        assert slots.rows == (rows or 1)
        for name in FULL:
            assert not slots[name].any()
            assert not slots.padded(name).any()
            assert slots[name].flags.writeable


def test_a_zeroed_claim_touches_no_slot_of_another(make_ring):
    ring = make_ring({"x": ((100,), "uint8")}, slots=64)
    fill(ring)
    before, zeroed, behind = ring.claim(), ring.claim(rows=2, zero=True), ring.claim()
    assert before["x"].all()
    assert not zeroed["x"].any()
    assert behind.padded("x").all()


def test_a_zeroed_claim_over_the_rings_end_is_zero_all_through(ring):
    fill(ring)
    for _ in range(6):
        ring.claim().publish()
        ring.take(1).release()
    with ring.claim(rows=5, zero=True) as slots:
        assert slots.rows == 5
        assert not slots["x"].any()
        slots["x"] = np.arange(5 * 512).reshape(5, 512)
    with ring.take(5, min_rows=5) as batch:
        assert batch["x"].ravel().tolist() == list(range(5 * 512))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_zeroed(make_ring, dtype):
    ring = make_ring({"x": ((9,), dtype)})
    fill(ring)
    with ring.claim(zero=True) as slot:
        assert slot["x"].tolist() == np.zeros(9, as_dtype(dtype)).tolist()


def test_a_claim_of_a_nameless_ring_is_zeroed_too():
    with ringfeed.Ring.create_nameless(FULL, slots=4) as ring:
        fill(ring)
        with ring.claim(2, zero=True) as slots:
            assert not slots["big"].any()


def test_a_zeroed_claim_waits_for_a_slot_as_any(ring):
    kept = [ring.claim() for _ in range(8)]
    for slot in kept:
        slot["x"] = 1
    with pytest.raises(ringfeed.RingFull):
        ring.claim(timeout=0, zero=True)
    with in_thread(ring.claim, zero=True) as claim:
        wait_until_waited(ring, "claim")
        kept.pop().discard()
        assert not claim.result()["x"].any()
