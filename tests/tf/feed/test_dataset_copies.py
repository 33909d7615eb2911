"""`copy=True`: elements hold no slots, so steps that keep many elements do not stall; a stall names its steps."""

from __future__ import annotations

import gc
import warnings

import numpy as np
import pytest
import tensorflow as tf
from feeding import address, fill, first_numbers, produce, random_samples, same_bits, slot_of

from ringfeed.tf import TAGS, StalledFeedWarning, dataset, element_spec, generator, why_not_native
from support import DTYPES, in_thread, states, wait_until

pytestmark = pytest.mark.usefixtures("way", "quick_collection")

RECORDS = 300
PADDED = {"x": ((5, 3), "float32"), "y": ((), "int64"), "z": ((64,), "uint8")}


@pytest.mark.parametrize("prefetch", [0, 3])
def test_copies_hold_no_slots_however_many_are_kept(ring, start, prefetch):
    producer = start(produce, ring.name, RECORDS)
    kept = list(dataset(ring, 4, structure=("x", TAGS), copy=True, prefetch=prefetch))
    assert states(ring) == {"free": 8}
    numbers = [number for x, _ in kept for number in first_numbers(x)]
    assert numbers == [int(tag) for _, tags in kept for tag in tags] == list(range(RECORDS))
    producer.result()


def test_a_copy_is_not_the_rings_memory_and_its_slots_are_free_at_once(ring):
    fill(ring, range(4))
    elements = iter(dataset(ring, 2, structure="x", copy=True))
    element = next(elements)
    assert slot_of(ring, "x", address(element)) is None
    assert address(element) % 64 == 0
    assert states(ring) == {"free": 6, "ready": 2}
    fill(ring, range(10, 14))
    fill(ring, [14, 15])  # into the slots that the copied records had
    assert first_numbers(element) == [0, 1]


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("drop_remainder", [True, False])
def test_copies_have_every_shape_that_elements_have(make_ring, cut, drop_remainder):
    ring = make_ring(PADDED, slots=64)
    fill(ring, range(7))
    ring.finish()
    options = {"cut": cut, "drop_remainder": drop_remainder}
    kept = list(dataset(ring, 3, copy=True, prefetch=1, **options))
    spec = element_spec(ring, 3, **options)
    assert [len(each["y"]) for each in kept] == ([3, 3] if drop_remainder else [3, 3, 1])
    for number, element in enumerate(kept):
        for name in "xyz":
            assert spec[name].is_compatible_with(element[name])
            rows = element[name].numpy().reshape(len(element[name]), -1)[:, 0]
            assert rows.tolist() == list(range(3 * number, 3 * number + len(rows)))
    assert states(ring) == {"free": 64}


def test_records_that_are_not_contiguous_are_copied_into_whole_batches(make_ring):
    ring = make_ring(slots=4)
    elements = iter(dataset(ring, 2, structure=("x", TAGS), drop_remainder=True, copy=True))
    fill(ring, range(4))
    held = [ring.take(1), ring.take(1), ring.take(1), ring.take(1)]
    held[1].release()
    held[3].release()
    fill(ring, [4, 5])  # into slots 1 and 3
    x, tags = next(elements)
    assert sorted(first_numbers(x)) == tags.numpy().tolist() == [4, 5]
    assert ring.stats()["taken"] == 2
    del held


def test_a_copy_may_be_as_long_as_the_ring(ring):
    for start in (0, 8):
        fill(ring, range(start, start + 8))
        (element,) = dataset(ring, 8, structure="x", copy=True, min_rows=8).take(1)
        assert first_numbers(element) == list(range(start, start + 8))
        assert states(ring) == {"free": 8}


def test_copies_that_do_not_fit_are_refused_at_once(ring):
    with pytest.raises(ValueError, match=r"batch_size 9: .* at most all of them"):
        dataset(ring, 9, copy=True)
    with pytest.raises(ValueError, match=r"min_rows 5: .* at most 4 rows"):
        dataset(ring, 4, copy=True, min_rows=5)


@pytest.mark.skipif(why_not_native() is not None, reason=f"no op: {why_not_native()}")
def test_prefetched_copies_of_a_deleted_iterator_go_to_the_next(make_ring):
    ring = make_ring(slots=32)
    fill(ring, range(30))
    ring.finish()
    elements = dataset(ring, 2, structure="x", copy=True, prefetch=3, native=True)
    seen = []
    for count in (1, 2, 3, 4, 5):
        iterator = iter(elements)
        seen += [number for _ in range(count) for number in first_numbers(next(iterator))]
        del iterator
        gc.collect()
    assert sorted(seen) == list(range(30))
    assert states(ring) == {"free": 32}


# ---- Steps that keep elements ------------------------------------------------------------------------

KEEPING = {
    ".shuffle(64)": lambda ds: ds.shuffle(64),
    ".cache()": lambda ds: ds.cache(),
    ".batch(64)": lambda ds: ds.batch(64),
    ".window(64)": lambda ds: ds.window(64).flat_map(lambda window: window.batch(64)),
    ".batch(63)": lambda ds: ds.ragged_batch(63),
    ".group_by_window()": lambda ds: ds.group_by_window(
        lambda x: tf.constant(0, tf.int64), lambda key, window: window.batch(64), 64
    ),
}
FEEDS = {
    "dataset": dataset,
    "from_generator": lambda ring, size, structure, **options: tf.data.Dataset.from_generator(
        generator(ring, size, structure=structure, **options),
        output_signature=element_spec(ring, structure=structure),
    ),
}


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("keeping", KEEPING)
def test_a_step_that_keeps_more_elements_than_there_are_slots_runs_on_copies(ring, start, keeping, feed):
    producer = start(produce, ring.name, RECORDS)
    elements = KEEPING[keeping](FEEDS[feed](ring, 1, structure="x", copy=True))
    for _ in range(2 if keeping == ".cache()" else 1):
        found = [number for element in elements for number in tf.reshape(element, [-1, 512])[:, 0].numpy().tolist()]
        assert sorted(found) == list(range(RECORDS))
    producer.result()
    assert states(ring) == {"free": 8}


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("keeping", KEEPING)
def test_a_step_that_stalls_the_feed_is_named_with_its_remedies(ring, monkeypatch, keeping, feed):
    monkeypatch.setattr("ringfeed.tf.feed.dataset.waiting.STALL_SECONDS", 0.0)
    fill(ring, range(8))
    elements = KEEPING[keeping](FEEDS[feed](ring, 1, structure="x").prefetch(1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with in_thread(lambda: [None for _ in elements]) as reading:
            wait_until(lambda: said)
            ring.close()
    assert "RingClosed" in str(reading.exception())
    (warning,) = said
    assert warning.category is StalledFeedWarning
    text = str(warning.message)
    assert f"ring {ring.name!r}: a feed waits for records, but all 8 slots are held" in text
    assert f"stands .prefetch(1), {keeping}. " in text
    assert "copy=True" in text
    assert "shuffle before" in text
    assert "more slots" in text


def test_steps_behind_a_copy_and_those_of_other_rings_are_not_blamed(ring, make_ring, monkeypatch):
    monkeypatch.setattr("ringfeed.tf.feed.dataset.waiting.STALL_SECONDS", 0.0)
    other = dataset(make_ring(), 1, structure="x").shuffle(77)
    fill(ring, range(8))
    elements = dataset(ring, 1, structure="x").batch(9).shuffle(33)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with in_thread(lambda: [None for _ in elements]):
            wait_until(lambda: said)
            ring.close()
    text = str(said[0].message)
    assert "stands .batch(9). " in text
    assert ".shuffle(" not in text
    del other


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_copied_bit_by_bit(make_ring, dtype):
    ring = make_ring({"x": ((3,), dtype), "y": ((64,), dtype)}, slots=64)
    samples = {name: random_samples(field, 20, np.random.default_rng(1)) for name, field in ring.spec.items()}
    for row in range(20):
        ring.put({name: rows[row] for name, rows in samples.items()})
    ring.finish()
    (element,) = dataset(ring, 20, copy=True)
    assert all(same_bits(element[name], samples[name]) for name in "xy")
