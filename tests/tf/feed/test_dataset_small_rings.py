"""A feed never hangs because of too few slots: rings of two batches or of one, with any prefetch."""

from __future__ import annotations

import gc
import threading
import warnings

import pytest
import tensorflow as tf
from feeding import drain, fill, first_numbers, produce, read_eagerly, read_in_graph

import ringfeed
from ringfeed.tf import StalledFeedWarning, dataset
from support import in_thread, states, wait_until

pytestmark = pytest.mark.usefixtures("way", "quick_collection")

RECORDS = 300


@pytest.mark.parametrize("read", [read_in_graph, read_eagerly])
@pytest.mark.parametrize("later_prefetch", [0, 1, 4])
@pytest.mark.parametrize("prefetch", [0, 1, 2, 5])
@pytest.mark.parametrize("batches", [2, 1])
def test_a_ring_of_few_batches_feeds_everything_in_order(make_ring, start, batches, prefetch, later_prefetch, read):
    ring = make_ring(slots=4)
    producer = start(produce, ring.name, RECORDS)
    elements = dataset(ring, 4 // batches, structure="x", prefetch=prefetch)
    if later_prefetch:
        elements = elements.prefetch(later_prefetch)
    assert read(elements).numpy().tolist() == list(range(RECORDS))
    producer.result()
    assert states(ring) == {"free": 4}


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_ring_of_one_slot_feeds_a_loop_in_a_graph(make_ring, start, prefetch):
    ring = make_ring(slots=1)
    producer = start(produce, ring.name, RECORDS)
    elements = dataset(ring, 1, structure="x", prefetch=prefetch)
    assert read_in_graph(elements).numpy().tolist() == list(range(RECORDS))
    producer.result()


def test_a_ring_of_one_slot_feeds_a_loop_that_deletes_each_element(make_ring, start):
    ring = make_ring(slots=1)
    producer = start(produce, ring.name, RECORDS)
    found = []
    for element in drain(dataset(ring, 1, structure="x")):
        found += first_numbers(element)
        del element
    assert found == list(range(RECORDS))
    producer.result()


def test_an_element_that_is_held_for_long_delays_only_its_own_slots(make_ring, start):
    ring = make_ring(slots=8)
    producer = start(produce, ring.name, RECORDS)
    elements = iter(dataset(ring, 2, structure="x", prefetch=1))
    held = next(elements)
    found = first_numbers(held)
    for element in elements:
        found += first_numbers(element)
    assert found == list(range(RECORDS))
    assert first_numbers(held) == found[: len(held)]
    producer.result()


def test_a_feed_whose_slots_are_all_held_warns_and_continues_when_they_are_free(make_ring, monkeypatch):
    monkeypatch.setattr("ringfeed.tf.feed.dataset.waiting.STALL_SECONDS", 0.0)
    ring = make_ring(slots=4)
    fill(ring, range(4))
    elements = iter(dataset(ring, 2, structure="x"))
    held = [next(elements), next(elements)]
    found = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        waiting = threading.Thread(target=lambda: found.append(first_numbers(next(elements))))
        waiting.start()
        wait_until(lambda: said)
        held.clear()
        fill(ring, [4])
        waiting.join()
    assert found == [[4]]
    (warning,) = said
    assert warning.category is StalledFeedWarning
    assert f"ring {ring.name!r}: a feed waits for records, but all 4 slots are held" in str(warning.message)


def test_slots_that_garbage_holds_are_freed(make_ring):
    """Keras leaves a batch in a cycle of references; two of them would fill this ring for ever."""
    ring = make_ring(slots=4)
    fill(ring, range(4))
    elements = iter(dataset(ring, 2, structure="x"))
    gc.disable()
    try:
        for _ in range(2):
            circle = [next(elements)]
            circle.append(circle)
        del circle
        assert ring.stats()["taken"] == 4
        found = []
        waiting = threading.Thread(target=lambda: found.append(first_numbers(next(elements))))
        waiting.start()
        wait_until(lambda: ring.stats()["free"] == 4)
        fill(ring, [4])
        waiting.join()
    finally:
        gc.enable()
    assert found == [[4]]


def test_a_wait_that_times_out_because_no_slot_is_free_names_that_cause(make_ring):
    ring = make_ring(slots=4)
    fill(ring, range(4))
    elements = iter(dataset(ring, 2, structure="x", timeout=0.1))
    held = [next(elements), next(elements)]
    with pytest.raises(
        tf.errors.UnknownError, match=r"RingEmpty: .*0 of 1 records ready after 0.1 s.*hold their slots"
    ):
        next(elements)
    assert len(held) == 2


def test_a_waiting_feed_occupies_no_thread_of_the_pipeline(make_ring, monkeypatch):
    """With a single thread, the pipeline still delivers taken elements while the feed waits for more."""
    monkeypatch.setattr(
        "ringfeed.tf.feed.dataset.waiting.ROUND_SECONDS", 1e9
    )  # no end of a round, which would hide the fault
    ring = make_ring(slots=4)
    one_thread = tf.data.Options()
    one_thread.threading.private_threadpool_size = 1
    elements = iter(dataset(ring, 2, structure="x", prefetch=2).map(lambda x: x + 1).with_options(one_thread))
    for number in range(10):
        fill(ring, [number])
        assert first_numbers(next(elements)) == [number + 1]
    ring.close()  # ends the wait


def test_two_iterators_share_the_records(make_ring, start):
    ring = make_ring(slots=8)
    elements = dataset(ring, 2, structure="x")
    found: list[list[int]] = [[], []]

    def read(numbers):
        for element in elements:
            numbers += first_numbers(element)

    readers = [threading.Thread(target=read, args=[numbers]) for numbers in found]
    for reader in readers:
        reader.start()
    producer = start(produce, ring.name, RECORDS)
    for reader in readers:
        reader.join()
    producer.result()
    assert sorted(found[0] + found[1]) == list(range(RECORDS))
    assert all(numbers == sorted(numbers) for numbers in found)


@pytest.mark.parametrize("copy", [False, True])
def test_two_iterators_of_whole_batches_lose_no_more_than_one_remainder(make_ring, start, copy):
    ring = make_ring(slots=4)
    elements = dataset(ring, 3, structure="x", drop_remainder=True, copy=copy)
    read = lambda: [number for element in drain(elements) for number in first_numbers(element)]  # noqa: E731
    with in_thread(read) as one, in_thread(read) as other:
        producer = start(produce, ring.name, RECORDS + 2)
    found = one.result() + other.result()
    producer.result()
    assert len(found) == RECORDS
    assert len(set(found)) == RECORDS
    assert states(ring) == {"free": 4}


def test_two_datasets_of_one_ring_share_the_records(make_ring, start):
    ring = make_ring(slots=8)
    other = ringfeed.Ring.attach(ring.name)
    producer = start(produce, ring.name, RECORDS)
    pairs = tf.data.Dataset.zip((dataset(ring, 2, structure="x"), dataset(other, 2, structure="x")))
    found: list[int] = []
    for pair in pairs:
        found += first_numbers(pair[0]) + first_numbers(pair[1])
    producer.result()
    # The zip ends with the first iterator that ends, so the other's last element may be missing.
    assert len(found) >= RECORDS - 2
    assert len(set(found)) == len(found)
    other.close()
