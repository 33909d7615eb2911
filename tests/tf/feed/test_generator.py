"""`generator` and `element_spec`: a user's own `tf.data.Dataset.from_generator` over a ring."""

from __future__ import annotations

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from feeding import (
    address,
    address_in_graph,
    as_asked,
    drain,
    fill,
    first_numbers,
    from_generator,
    produce,
    produce_as_told,
    read_eagerly,
    read_in_graph,
    slot_of,
)

import ringfeed
from ringfeed.tf import TAGS, generator
from support import in_thread, states, take_all, wait_until_waited

pytestmark = pytest.mark.usefixtures("quick_collection")

RECORDS = 300


# ---- Memory and lifetime -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "derive",
    [
        lambda ds: ds,
        lambda ds: ds.prefetch(1),
        lambda ds: ds.take(5),
        lambda ds: ds.repeat(2),
        lambda ds: ds.map(lambda x: x[0:]),
        lambda ds: ds.take(3).concatenate(ds),
        lambda ds: as_asked(ds.enumerate().map(lambda number, x: x)),
    ],
    ids=["as it is", "prefetch", "take", "repeat", "map", "concatenate", "enumerate"],
)
def test_elements_are_the_rings_own_memory(ring, derive):
    elements = iter(derive(from_generator(ring, 2, structure="x", min_rows=2)))
    for start in range(0, 10, 2):  # the last batch passes the ring's end
        fill(ring, [start, start + 1])
        element = next(elements)
        assert slot_of(ring, "x", address(element)) == start % 8
        assert first_numbers(element) == [start, start + 1]
        del element


def test_inside_a_graph_an_element_is_the_rings_own_memory(ring):
    @tf.function
    def addresses(elements):
        found = tf.zeros([0], tf.int64)
        for element in elements:
            found = tf.concat([found, [address_in_graph(element)]], 0)
        return found

    fill(ring, range(8))
    ring.finish()
    found = addresses(from_generator(ring, 2, structure="x").prefetch(1)).numpy()
    assert [slot_of(ring, "x", where) for where in found] == [0, 2, 4, 6]


def test_slots_are_free_when_the_last_tensor_over_them_is_deleted(make_ring):
    ring = make_ring({"x": ((512,), "int64"), "y": ((512,), "int64")})
    fill(ring, range(4))
    elements = iter(as_asked(from_generator(ring, 4)))
    element = next(elements)
    part = element["x"][1:3]  # a view
    del element["x"]
    assert ring.stats()["taken"] == 4
    del element
    assert ring.stats()["taken"] == 4
    del part
    assert states(ring) == {"free": 8}


def test_a_function_keeps_its_ring_but_the_ring_does_not_keep_it(ring):
    """The function must keep a ring to which the program has no other reference; TensorFlow keeps the function."""
    fill(ring, [1])
    elements = from_generator(ringfeed.Ring.attach(ring.name), 2, structure="x")
    gc.collect()
    assert first_numbers(next(iter(elements))) == [1]


# ---- Rings of few batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_in_graph, read_eagerly])
@pytest.mark.parametrize("prefetch", [None, 0, 1, 2, 5, tf.data.AUTOTUNE])
@pytest.mark.parametrize("slots", [2, 4, 9])
def test_a_ring_of_two_batches_feeds_everything_in_order_under_any_prefetch(make_ring, start, slots, prefetch, read):
    ring = make_ring(slots=slots)
    producer = start(produce, ring.name, RECORDS)
    elements = from_generator(ring, slots // 2, structure="x")
    if prefetch is not None:
        elements = as_asked(elements.prefetch(prefetch)) if prefetch else as_asked(elements)
    assert read(elements).numpy().tolist() == list(range(RECORDS))
    producer.result()
    gc.collect()
    assert states(ring) == {"free": slots}


@pytest.mark.parametrize("options", [{"min_rows": 4}, {"drop_remainder": True}], ids=str)
def test_whole_batches_come_through_a_ring_of_two(make_ring, start, options):
    ring = make_ring(slots=8)
    producer = start(produce, ring.name, RECORDS)
    assert read_in_graph(from_generator(ring, 4, structure="x", **options).prefetch(3)).numpy().tolist() == list(
        range(RECORDS)
    )
    producer.result()


@pytest.mark.parametrize(("slots", "batch_size"), [(8, 8), (8, 5), (1, 1), (3, 2)])
def test_a_ring_of_less_than_two_batches_is_refused_at_once(make_ring, slots, batch_size):
    ring = make_ring(slots=slots)
    with pytest.raises(ValueError, match=f"ring '{ring.name}' has .* slot.*two batches .*slots={3 * batch_size}"):
        generator(ring, batch_size)


@pytest.mark.parametrize(("slots", "batch_size"), [(8, 8), (8, 5), (1, 1), (3, 2)])
def test_a_ring_of_one_batch_feeds_copies(make_ring, start, slots, batch_size):
    ring = make_ring(slots=slots)
    producer = start(produce, ring.name, RECORDS)
    kept = list(from_generator(ring, batch_size, structure="x", copy=True))
    assert [number for element in kept for number in first_numbers(element)] == list(range(RECORDS))
    assert states(ring) == {"free": slots}
    producer.result()


# ---- Epochs, several iterators, consumers ------------------------------------------------------------


def test_a_second_epoch_continues_with_the_following_records(ring):
    elements = from_generator(ring, 2, structure="x")
    for start in range(0, 12, 4):
        fill(ring, range(start, start + 4))
        assert [first_numbers(each) for each in as_asked(elements.take(2))] == [
            [start, start + 1],
            [start + 2, start + 3],
        ]
    fill(ring, [12])
    ring.finish()
    assert [first_numbers(element) for element in elements] == [[12]]
    assert list(elements) == []


def test_the_function_can_be_called_again_without_tensorflow(ring):
    function = generator(ring, 2, structure=("x", TAGS))
    fill(ring, range(6))
    first, second = function(), function()
    for number, iteration in zip((0, 2, 4), (first, second, first), strict=True):
        x, tags = next(iteration)
        assert x[:, 0].tolist() == tags.tolist() == [number, number + 1]
        del x
    ring.finish()
    assert list(second) == []


def test_two_iterators_share_the_records(make_ring, start):
    ring = make_ring(slots=8)
    elements = from_generator(ring, 2, structure="x")
    with in_thread(lambda: list(map(first_numbers, drain(elements)))) as one:
        producer = start(produce, ring.name, RECORDS)
        other = [number for element in drain(elements) for number in first_numbers(element)]
    found = [number for element in one.result() for number in element]
    producer.result()
    assert sorted(found + other) == list(range(RECORDS))
    assert found == sorted(found)
    assert other == sorted(other)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(5)
    made = keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(3)])
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_keras_predicts_and_learns_from_it(make_ring, model):
    random = np.random.default_rng(3)
    images, labels = random.random((200, 8, 8), np.float32), random.integers(0, 3, 200)

    def produce_pictures(ring):
        for image, label in zip(images, labels, strict=True):
            ring.put({"image": image, "label": label})
        ring.finish()

    fields = {"image": ((8, 8), "float32"), "label": ((), "int64")}
    ring = make_ring(fields, slots=128)
    with in_thread(produce_pictures, ring):
        outputs = model.predict(from_generator(ring, 32, structure="image"), verbose=0)
    np.testing.assert_allclose(outputs, model.predict(images, verbose=0), rtol=1e-5, atol=1e-6)
    gc.collect()
    assert states(ring) == {"free": 128}
    ring = make_ring(fields, slots=128)
    weights = model.get_weights()
    with in_thread(produce_pictures, ring):
        model.fit(from_generator(ring, 50, structure=("image", "label"), drop_remainder=True), verbose=0)
    learnt = model.get_weights()
    model.set_weights(weights)
    model.fit(images, labels, batch_size=50, shuffle=False, verbose=0)
    for ours, theirs in zip(learnt, model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


# ---- Ends --------------------------------------------------------------------------------------------


def test_errors_are_raised_with_their_text_and_the_next_iteration_continues(ring):
    elements = as_asked(from_generator(ring, 2, structure="x", timeout=0.02))
    iterator = iter(elements)
    for number in range(2):
        with pytest.raises(tf.errors.UnknownError, match=f"RingEmpty: ring '{ring.name}': 0 of 1 records ready"):
            next(iterator)
        fill(ring, [number])
        assert first_numbers(next(iterator)) == [number]
    ring.close()
    with pytest.raises(tf.errors.UnknownError, match=f"RingClosed: ring '{ring.name}' is closed"):
        next(iter(elements))


@pytest.mark.skipif(not hasattr(ringfeed.Ring, "producing"), reason="no Ring.producing")
def test_the_failure_of_a_producer_is_raised_with_its_text(ring):
    with pytest.raises(OSError, match="picture 7"), ring.producing():
        raise OSError("picture 7 is cut short")
    with pytest.raises(tf.errors.UnknownError, match=r"ProducerFailed: .*picture 7 is cut short"):
        next(iter(from_generator(ring, 2)))


@pytest.mark.parametrize(
    "derive",
    [
        lambda ds: ds,
        lambda ds: ds.prefetch(2),
        lambda ds: ds.prefetch(tf.data.AUTOTUNE),
        lambda ds: ds.map(lambda x: x + 0, num_parallel_calls=2),
        lambda ds: ds.repeat().prefetch(1),
        lambda ds: ds.prefetch(2).take(1),
        lambda ds: tf.data.Dataset.zip((ds, ds)).map(lambda x, y: x).prefetch(2),
    ],
    ids=["as it is", "prefetch", "autotuned", "parallel map", "repeat", "take", "zip"],
)
def test_an_iterator_that_is_deleted_half_way_on_an_idle_ring_ends_at_once(ring, derive):
    fill(ring, range(4))
    elements = derive(from_generator(ring, 2, structure="x"))
    iterator = iter(elements)
    assert first_numbers(next(iterator)) == [0, 1]
    del iterator  # if the deletion were not noticed, this would hang until the next record
    assert take_all(ring) in ([], [2, 3])  # the records that were not prefetched
    fill(ring, range(4))
    assert first_numbers(next(iter(elements))) == [0, 1]  # no later record is consumed


def test_keras_ends_after_its_steps_on_an_idle_ring(make_ring, model):
    ring = make_ring({"image": ((8, 8), "float32")}, slots=128)
    fill(ring, range(64))
    assert model.predict(from_generator(ring, 32, structure="image").prefetch(2), steps=2, verbose=0).shape == (64, 3)
    gc.collect()
    assert states(ring) == {"free": 128}


def test_a_loop_in_a_graph_does_not_end_when_another_iterator_is_deleted(ring, start):
    """Python does not know the loop's iterator; another iterator of the dataset is known to Python, and is deleted."""
    producer = start(produce_as_told, ring.name)
    elements = from_generator(ring, 2, structure="x")
    others = [iter(elements)]
    with in_thread(read_in_graph, elements) as reading:
        producer.tell(1)
        assert producer.told() == "put"
        wait_until_waited(ring, "take")
        others.clear()
        for _ in range(3):
            wait_until_waited(ring, "take")
        producer.tell(1)
        assert producer.told() == "put"
        producer.tell(None)
    assert reading.result().numpy().tolist() == [0, 1]
    producer.result()


def test_one_iterator_continues_when_another_is_deleted(ring):
    elements = as_asked(from_generator(ring, 1, structure="x").prefetch(1))
    fill(ring, range(2))
    one = iter(elements)
    assert first_numbers(next(one)) == [0]
    other = iter(elements)
    with in_thread(next, other) as waiting:
        wait_until_waited(ring, "take")
        del one
        wait_until_waited(ring, "take")
        fill(ring, [2, 3])
    rest = [first_numbers(waiting.result())]
    ring.finish()
    rest += [first_numbers(element) for element in other]
    assert rest[-1] == [3]
